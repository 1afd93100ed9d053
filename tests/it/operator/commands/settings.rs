//! `mortise setting`.

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
    assert!(!listed.contains("Tax_1") && all.contains("Tax_1"));
    assert_eq!(
        listed,
        "OWNER     NAME            VALUE     VALUE2\n\
         admin     API_Secret_Key  (hidden)\n\
         admin     Allow_API       1\n\
         admin     Allow_GET_API   1\n\
         admin     CC_Active       1\n\
         reseller  API_Secret_Key  (hidden)\n\
         reseller  Allow_API       1\n"
    );
}
