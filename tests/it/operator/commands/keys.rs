//! `mortise key`.

use std::process::Stdio;

use super::{ADMITTED, Operator, command};

const SOLD_OUT: &str = "Cardgroup was not found";

#[tokio::test]
async fn rotation_keeps_the_previous_key_valid() {
    let operator = Operator::new().await;
    let output = operator.run_ok(&["key", "rotate"]);
    let mut lines = output.lines();
    let key = lines.next().unwrap().strip_prefix("New API secret key: ").unwrap();
    assert!(key.len() == 48 && key.bytes().all(|byte| byte.is_ascii_hexdigit()), "{key}");
    assert!(lines.next().unwrap().starts_with("The previous key is valid until "));
    for key in [key, "secret"] {
        operator.attempt_sale("admin", key).await.assert_page_error(ADMITTED);
    }
    // Another rotation would end the key that the clients still use.
    operator.assert_error(&["key", "rotate"], 1, "end it with `mortise key end`; after a leak use --keep 0s");
    let in_a_week =
        "select value2::timestamp - (now() at time zone 'utc') between '6 days 23:59' and '7 days' as in_a_week
                     from conflines where name = 'API_Secret_Key_Previous'";
    operator.server.assert_rows(in_a_week, &["true"]).await;
    assert_eq!(operator.run_ok(&["key", "end"]), "No previous key is valid.\n");
    operator.attempt_sale("admin", "secret").await.assert_status_error("Incorrect hash");
    operator.attempt_sale("admin", key).await.assert_page_error(ADMITTED);
    // `--keep 0s` keeps no previous key, for leaked keys. A second rotation also ends the key before the first one.
    let second = operator.run_json(&["key", "rotate", "--keep", "2h"])["key"].as_str().unwrap().to_owned();
    let third = operator.run_json(&["key", "rotate", "--keep", "0s"]);
    assert!(third["previous_until"].is_null());
    for key in [key, &second] {
        operator.attempt_sale("admin", key).await.assert_status_error("Incorrect hash");
    }
    operator.attempt_sale("admin", third["key"].as_str().unwrap()).await.assert_page_error(ADMITTED);
    operator
        .server
        .execute(
            "update change_log set after = jsonb_set(after, '{previous_key_valid_until}', 'true')
             where after ->> 'previous_key_valid_until' > '2020'",
        )
        .await;
    operator
        .assert_changes(&[
            "key 0 admin -> {\"key\": \"replaced\", \"previous_key_valid_until\": true}",
            "key 0 admin -> {\"previous_key\": \"ended\"}",
            "key 0 admin -> {\"key\": \"replaced\", \"previous_key_valid_until\": true}",
            "key 0 admin -> {\"key\": \"replaced\"}",
        ])
        .await;
    let log = operator.server.rows("select change_log::text from change_log").await.concat();
    assert!(![key, &second, "secret"].iter().any(|key| log.contains(key)), "{log}");
    operator.assert_error(&["key", "rotate", "--keep", "soon"], 2, "invalid value 'soon'");
    operator.assert_error(&["key", "rotate", "--keep", "300000y"], 2, "--keep is too long");
}

#[tokio::test]
async fn key_is_set_from_standard_input() {
    let operator = Operator::new().await;
    let output = operator.run_with_input("mine\n", &["key", "set"]);
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (0, "The secret key was set.\n", ""));
    operator.attempt_sale("admin", "mine").await.assert_page_error(ADMITTED);
    operator.attempt_sale("admin", "secret").await.assert_status_error("Incorrect hash");
    operator.assert_error(&["key", "set"], 2, "the secret key is empty");
    operator.assert_error(&["key", "show"], 2, "--yes");
    assert_eq!(operator.run_ok(&["key", "show", "--yes"]), "mine\n");
    operator.assert_changes(&["key 0 admin -> {\"key\": \"shown\"}"]).await;
    operator.server.execute("delete from conflines where name = 'API_Secret_Key' and owner_id = 0").await;
    operator.assert_error(&["key", "show", "--yes"], 3, "no secret key is set");
    // The first key has no previous key.
    assert!(operator.run_json(&["key", "rotate"])["previous_until"].is_null());
    operator
        .server
        .assert_rows("select count(*) from conflines where name like 'API_Secret_Key%' and owner_id = 0", &["1"])
        .await;
}

#[tokio::test]
async fn reseller_has_its_own_key() {
    let operator = Operator::new().await;
    let key = operator.run_json(&["key", "rotate", "--user", "Reseller"])["key"].as_str().unwrap().to_owned();
    for key in [&key, "reskey", "secret"] {
        operator.attempt_sale("reseller", key).await.assert_page_error(SOLD_OUT);
    }
    operator.attempt_sale("admin", &key).await.assert_status_error("Incorrect hash");
    let rotate = ["key", "rotate", "--user", "reseller"];
    operator.assert_error(&rotate, 1, "end it with `mortise key end --user \"reseller\"`");
    operator.run_ok(&["key", "end", "--user", "reseller"]);
    // A previous key of an earlier time, also in another form of a time, does not prevent a rotation.
    for until in ["2020-01-01T00:00:00Z", "never"] {
        let sql = format!(
            "insert into conflines (owner_id, name, value, value2) values (3, 'API_Secret_Key_Previous', 'x', '{until}')"
        );
        operator.server.execute(&sql).await;
        operator.run_ok(&[&rotate[..], &["--keep", "1h"]].concat());
        operator.run_ok(&["key", "end", "--user", "reseller"]);
    }
    operator.attempt_sale("reseller", "reskey").await.assert_status_error("Incorrect hash");
    operator.assert_error(
        &["key", "rotate", "--user", "customer"],
        1,
        "the user customer has no settings: the settings of the owner (user id 3) apply",
    );
    operator.assert_error(&["key", "rotate", "--user", "unknown"], 3, "there is no user \"unknown\"");
    // The admin's key signs the requests of many users.
    for command in [&["key", "rotate"][..], &["key", "end"], &["key", "set"]] {
        let output = operator.run_with_input("other\n", &[command, &["--user", "accountant"]].concat());
        assert_eq!(output.code, 1, "{output:?}");
        assert!(
            output.stderr.contains("accountant has no key of its own: the key of the user with the id 0"),
            "{output:?}"
        );
    }
    operator.attempt_sale("admin", "secret").await.assert_page_error(ADMITTED);
    assert_eq!(operator.run_ok(&["key", "show", "--yes", "--user", "accountant"]), "secret\n");
}

/// The message says that the change was made.
#[tokio::test]
async fn output_that_cannot_be_written_is_reported() {
    let operator = Operator::new().await;
    let mut rotate = command(&["key", "rotate"]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = rotate.env("DATABASE_URL", &operator.url).stdout(full).stderr(Stdio::piped()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("the command was carried out, but its output is lost: No space left"), "{stderr}");
    assert_ne!(operator.run_ok(&["key", "show", "--yes"]), "secret\n");
}
