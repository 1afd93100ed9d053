//! Invisible characters in secrets and names: commands refuse them, and `mortise doctor` finds those that SQL wrote.

use serde_json::Value;

use super::Operator;

/// A text, and its first invisible character with the position.
const TEXTS: [(&str, &str); 9] = [
    ("\u{feff}geheim-77", "U+FEFF at position 1"),
    ("geheim-77\u{feff}", "U+FEFF at position 10"),
    ("gehé\u{200b}im-77", "U+200B at position 5"),
    ("geheim\u{a0}77", "U+00A0 at position 7"),
    ("geheim\u{2028}77", "U+2028 at position 7"),
    ("geheim\t77", "U+0009 at position 7"),
    ("geheim\u{ad}77", "U+00AD at position 7"),
    ("geheim\u{3164}77", "U+3164 at position 7"),
    ("geheim-77 ", "U+0020 at position 10"),
];

#[tokio::test]
async fn commands_refuse_invisible_characters() {
    let operator = Operator::new().await;
    let rows = "select name, value from conflines union all select 'user', username from users
        union all select 'group', name from acc_groups union all select 'currency', full_name from currencies order by 1, 2";
    let before = operator.server.rows(rows).await;
    for (text, found) in TEXTS {
        for (arguments, label) in [
            (["key", "set", "--json"].as_slice(), "secret key"),
            (&["user", "add", "new", "--type=user"], "password"),
            (&["user", "set-password", "admin"], "password"),
            (&["setting", "set", "Email_Password"], "Email_Password"),
        ] {
            let output = operator.run_with_input(text, arguments);
            let message = format!(
                "mortise: the {label} has the invisible character {found}: clients could send it incorrectly\n"
            );
            assert_eq!((output.code, output.stderr.as_str()), (2, message.as_str()), "{arguments:?}");
        }
        for arguments in [
            ["user", "add", "--type=user", text].as_slice(),
            &["setting", "set", "Email_from", text],
            &["setting", "set", "--new", text, "1"],
            &["right", "set", text, "callingcard_manage", "edit", "--create=accountant"],
            &["currency", "add", "XYZ", "1.5", "--full-name", text],
            &["cards", "generate", "--group=6", "--quantity=1", "--batch-number", text],
        ] {
            operator.assert_error(arguments, 2, &format!("it has the invisible character {found}"));
        }
    }
    assert_eq!(operator.server.rows(rows).await, before);
}

#[tokio::test]
async fn letters_of_all_languages_are_accepted() {
    let operator = Operator::new().await;
    let key = "Schlüssel ключ 密鑰 כסף e\u{301} 1";
    let output = operator.run_with_input(&format!("{key}\r\n"), &["key", "set"]);
    assert_eq!((output.code, output.stderr.as_str()), (0, ""));
    assert_eq!(operator.run_ok(&["key", "show", "--yes"]), format!("{key}\n"));
    operator.attempt_sale("admin", key).await.assert_page_error(super::ADMITTED);
    let output = operator.run_with_input("надёжный пароль 密碼", &["user", "add", "José Ångström", "--type=user"]);
    assert_eq!((output.code, output.stderr.as_str()), (0, ""));
    operator.run_ok(&["setting", "set", "Email_from", "Kartenverkäufer <shop@example.com>"]);
}

#[tokio::test]
async fn doctor_finds_what_sql_wrote() {
    let operator = Operator::new().await;
    let check = || {
        let output = operator.run(&["doctor", "--json"]);
        let findings: Value = serde_json::from_str(&output.stdout).unwrap();
        let checks = findings["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == "text").unwrap();
        (check["state"].as_str().unwrap().to_owned(), check["message"].as_str().unwrap().to_owned())
    };
    operator.server.execute("update users set username = 'Zoë' where id = 5").await;
    assert_eq!(check(), ("ok".into(), "no invisible character in settings and names".into()));
    operator
        .server
        .execute(
            "update conflines set value = U&'\\FEFFgeheim-77' where name = 'API_Secret_Key' and owner_id = 0;
             insert into conflines (name, value, owner_id) values ('Email_Smtp_Server', U&'mail.test\\00A0', 0);
             update users set username = 'user5 ' where id = 5;
             insert into acc_groups (name, group_type) values (U&'Clerks\\200B', 'accountant')",
        )
        .await;
    let (state, message) = check();
    assert_eq!(state, "warning");
    assert!(!message.contains("geheim"), "{message}");
    for found in [
        "API_Secret_Key of admin has the invisible character U+FEFF at position 1",
        "Email_Smtp_Server of admin has the invisible character U+00A0 at position 10",
        "name of the user 5 has the invisible character U+0020 at position 6",
        " has the invisible character U+200B at position 7",
    ] {
        assert!(message.contains(found), "{message}");
    }
}
