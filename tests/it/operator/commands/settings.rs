//! `mortise setting`.

use super::{ADMITTED, Operator};

#[tokio::test]
async fn a_setting_counts_at_once() {
    let operator = Operator::new().await;
    operator.ask("admin", "secret").await.assert_page_error(ADMITTED);
    let said = operator.says(&["setting", "set", "Allow_API", "off"]);
    assert_eq!(said, "Allow_API of owner 0 is \"0\" now (it was \"1\").\n");
    operator.ask("admin", "secret").await.assert_status_error("API Requests are disabled");
    assert_eq!(operator.says(&["setting", "get", "Allow_API"]), "0\n");
    operator.says(&["setting", "set", "Allow_API", "yes"]);
    operator.ask("admin", "secret").await.assert_page_error(ADMITTED);
    // A reseller's own, which there is none of yet.
    operator.refuses(&["setting", "get", "CC_Active", "--user", "reseller"], 3, "CC_Active isn't set for owner 3");
    operator.says(&["setting", "set", "CC_Active", "on", "--user", "reseller"]);
    operator.server.assert_rows("select value from conflines where name = 'CC_Active' and owner_id = 3", &["1"]).await;
    operator.noted(&["0|setting_changed|User|3|CC_Active|1"]).await;
    assert_eq!(operator.json(&["setting", "get", "CC_Active", "--user", "reseller"])["value"], "1");
}

#[tokio::test]
async fn what_would_do_nothing_is_refused() {
    let operator = Operator::new().await;
    operator.refuses(&["setting", "set", "Allow_API", "2"], 2, "Allow_API is a switch: on or off");
    operator.refuses(
        &["setting", "set", "allow_api", "1"],
        3,
        "there is no setting allow_api: did you mean Allow_API?",
    );
    operator.refuses(&["setting", "set", "Colour", "blue"], 3, "--new adds it all the same");
    operator.says(&["setting", "set", "Colour", "blue", "--new"]);
    operator.says(&["setting", "set", "Colour", "red"]);
    assert_eq!(operator.says(&["setting", "get", "Colour"]), "red\n");
    // Mortise reads it, though nobody has set it yet.
    operator.says(&["setting", "set", "Nice_Number_Digits", "3"]);
}

#[tokio::test]
async fn keys_and_passwords_are_neither_shown_nor_set_here() {
    let operator = Operator::new().await;
    operator
        .server
        .execute("insert into conflines (name, value, owner_id) values ('Email_Smtp_Password', 'hunter2', 0)")
        .await;
    for name in ["API_Secret_Key", "API_Secret_Key_Previous", "Email_Smtp_Password"] {
        operator.refuses(&["setting", "get", name], 2, "is a secret");
        operator.refuses(&["setting", "set", name, "x"], 2, "is a secret");
    }
    let said = operator.send("hunter3\n", &["setting", "set", "Email_Smtp_Password"]);
    let words = "Email_Smtp_Password of owner 0 is \"(hidden)\" now (it was \"(hidden)\").\n";
    assert_eq!((said.code, said.out.as_str()), (0, words), "{said:?}");
    operator.server.assert_rows("select value from conflines where name = 'Email_Smtp_Password'", &["hunter3"]).await;
    operator.noted(&["0|setting_changed|User|0|Email_Smtp_Password|(hidden)"]).await;
    operator.server.assert_rows("select data3 from actions", &["(hidden)"]).await;
    let key = operator.send("x", &["setting", "set", "API_Secret_Key"]);
    assert!(key.code == 2 && key.err.contains("`mortise key` is for API keys"), "{key:?}");
    operator.refuses(&["setting", "set", "Allow_API"], 2, "say a value for Allow_API");
    let (listed, all) = (operator.says(&["setting", "list"]), operator.says(&["setting", "list", "--all", "--json"]));
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
