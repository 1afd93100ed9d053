//! `mortise setting`.

use mortise::accounts::Setting;
use serde_json::{Value, json};

use super::{ADMITTED, Operator};

#[tokio::test]
async fn setting_takes_effect_at_once() {
    let operator = Operator::new().await;
    operator.attempt_sale("admin", "secret").await.assert_page_error(ADMITTED);
    let output = operator.run_ok(&["setting", "set", "Allow_API", "off"]);
    assert_eq!(output, "Allow_API of owner 0 is \"0\" now (it was \"1\").\n");
    operator.attempt_sale("admin", "secret").await.assert_status_error("API Requests are disabled");
    assert_eq!(operator.run_ok(&["setting", "get", "Allow_API"]), "0\n");
    operator.run_ok(&["setting", "set", "Allow_API", "yes"]);
    operator.attempt_sale("admin", "secret").await.assert_page_error(ADMITTED);
    // The reseller has no row for this setting yet.
    operator.assert_error(
        &["setting", "get", "CC_Active", "--user", "reseller"],
        3,
        "CC_Active is not set for owner 3",
    );
    operator.run_ok(&["setting", "set", "CC_Active", "on", "--user", "reseller"]);
    operator.server.assert_rows("select value from conflines where name = 'CC_Active' and owner_id = 3", &["1"]).await;
    operator
        .assert_changes(&[
            "setting 0 Allow_API {\"value\": \"1\"} -> {\"value\": \"0\"}",
            "setting 0 Allow_API {\"value\": \"0\"} -> {\"value\": \"1\"}",
            "setting 3 CC_Active -> {\"value\": \"1\"}",
        ])
        .await;
    assert_eq!(operator.run_json(&["setting", "get", "CC_Active", "--user", "reseller"])["value"], "1");
}

#[tokio::test]
async fn settings_without_effect_are_refused() {
    let operator = Operator::new().await;
    operator.assert_error(&["setting", "set", "Allow_API", "2"], 2, "Allow_API is a switch: its value is on or off");
    operator.assert_error(
        &["setting", "set", "allow_api", "1"],
        3,
        "there is no setting allow_api: did you mean Allow_API?",
    );
    operator.assert_error(&["setting", "set", "Colour", "blue"], 3, "--new adds it anyway");
    operator.run_ok(&["setting", "set", "Colour", "blue", "--new"]);
    operator.run_ok(&["setting", "set", "Colour", "red"]);
    assert_eq!(operator.run_ok(&["setting", "get", "Colour"]), "red\n");
    // Mortise reads this setting, although it has no row yet.
    operator.run_ok(&["setting", "set", "Nice_Number_Digits", "3"]);
}

#[tokio::test]
async fn keys_and_passwords_are_hidden() {
    let operator = Operator::new().await;
    operator
        .server
        .execute("insert into conflines (name, value, owner_id) values ('Email_Smtp_Password', 'hunter2', 0)")
        .await;
    for name in ["API_Secret_Key", "API_Secret_Key_Previous", "Email_Smtp_Password"] {
        operator.assert_error(&["setting", "get", name], 2, "is a secret");
        operator.assert_error(&["setting", "set", name, "x"], 2, "is a secret");
    }
    let output = operator.run_with_input("hunter3\n", &["setting", "set", "Email_Smtp_Password"]);
    let message = "Email_Smtp_Password of owner 0 is \"(hidden)\" now (it was \"(hidden)\").\n";
    assert_eq!((output.code, output.stdout.as_str()), (0, message), "{output:?}");
    operator.server.assert_rows("select value from conflines where name = 'Email_Smtp_Password'", &["hunter3"]).await;
    operator.assert_changes(&["setting 0 Email_Smtp_Password -> {\"value\": \"(hidden)\"}"]).await;
    let key = operator.run_with_input("x", &["setting", "set", "API_Secret_Key"]);
    assert!(key.code == 2 && key.stderr.contains("for API keys, use `mortise key`"), "{key:?}");
    operator.assert_error(&["setting", "set", "Allow_API"], 2, "Allow_API needs a value");
    let (listed, all) =
        (operator.run_ok(&["setting", "list"]), operator.run_ok(&["setting", "list", "--all", "--json"]));
    for secret in ["hunter3", "reskey", "\"secret\""] {
        assert!(!listed.contains(secret) && !all.contains(secret), "{listed}{all}");
    }
    assert!(!listed.contains("Email_Smtp_Password") && all.contains("Email_Smtp_Password"));
}

/// The list names each setting that the program reads, set or not.
#[tokio::test]
async fn every_setting_is_listed_with_type_default_and_description() {
    let operator = Operator::new().await;
    let listed = operator.run_json(&["setting", "list"]);
    let listed = listed.as_array().unwrap();
    let find = |owner: &str, name: &str| {
        listed.iter().find(|setting| setting["owner"] == owner && setting["name"] == name).cloned()
    };
    for name in Setting::NAMES {
        let setting = find("admin", name).unwrap_or_else(|| panic!("{name} is not listed"));
        assert!(setting["type"].is_string() && setting["default"].is_string(), "{setting}");
        assert!(!setting["description"].as_str().unwrap().is_empty(), "{setting}");
    }
    assert_eq!(
        find("admin", "Allow_API").unwrap(),
        json!({ "owner_id": 0, "owner": "admin", "name": "Allow_API", "value": "1", "value2": null, "type": "switch",
                "default": "off", "description": "The API accepts requests; for a reseller: with its own key" })
    );
    assert_eq!(find("admin", "Email_port").unwrap()["value"], Value::Null);
    assert_eq!(find("reseller", "API_Secret_Key").unwrap()["value"], "(hidden)");
    assert!(find("reseller", "Email_port").is_none());
    let text = operator.run_ok(&["setting", "list"]);
    assert!(text.starts_with("OWNER     NAME                                  VALUE     VALUE2  TYPE"), "{text}");
    assert!(text.lines().count() == listed.len() + 1);
}

#[tokio::test]
async fn values_of_another_type_are_refused() {
    let operator = Operator::new().await;
    for (name, value, message) in [
        ("Tax_1", "20", "Tax_1 is a name, not a number: the rate of this tax is Tax_1_Value"),
        ("Tax_1_Value", "VAT", "Tax_1_Value is a percentage: its value is a number such as 19 or 7.5"),
        ("Tax_3_Value", "19,5", "is a percentage"),
        ("Tax_1_Value", "1000", "is a percentage: its value is a number such as 19 or 7.5, less than 1000"),
        ("Tax_1", "19 %", "Tax_1 is a name, not a number"),
        ("Tax_2", "7,5%", "Tax_2 is a name, not a number"),
        ("Total_tax_name", "19.0", "Total_tax_name is a name, not a number"),
        ("Tax_compound", "maybe", "Tax_compound is a switch: its value is on or off"),
        ("Nice_Number_Digits", "two", "Nice_Number_Digits is an integer: its value is 0 to 15"),
        ("Nice_Number_Digits", "16", "its value is 0 to 15"),
        ("Email_port", "smtp", "Email_port is a port: its value is 1 to 65535"),
        ("Email_port", "0", "is a port"),
        ("Email_from", "shop", "Email_from is an e-mail address, such as shop@example.com"),
        ("Email_Smtp_Server", "mail server", "Email_Smtp_Server is a host"),
    ] {
        operator.assert_error(&["setting", "set", name, value], 2, message);
    }
    operator.server.assert_rows("select count(*) from change_log", &["0"]).await;
    for (name, value, stored) in [
        ("Tax_1", "VAT", "VAT"),
        ("Tax_1_Value", "19.5", "19.5"),
        ("Tax_1_Value", ".5", "0.5"),
        ("Tax_1_Value", "1e1", "10"),
        ("Tax_1_Value", "1_9", "19"),
        ("Tax_1_Value", "", ""),
        ("Tax_compound", "on", "1"),
        ("Email_from", "Card Shop <shop@example.com>", "Card Shop <shop@example.com>"),
        ("Email_from", "", ""),
    ] {
        operator.run_ok(&["setting", "set", name, value]);
        assert_eq!(operator.run_ok(&["setting", "get", name]).trim_end(), stored);
    }
}
