//! Keys, passwords, PINs and hashes do not appear in the log or in audit rows.

use mortise::telemetry::log::panic_message;

use crate::harness::log::LogCapture;
use crate::harness::{FIXTURE_SQL, hash, postgres, server_on_database, server_with_settings};

/// Covers a sale, wrong hashes, keys and passwords, a lockout and a malformed request.
#[tokio::test]
async fn log_and_audit_rows_have_no_secrets() {
    // Before the capture: the first test of a run executes the SQL of the fixtures, which contains passwords.
    let database = postgres::create_database(FIXTURE_SQL).await;
    let log = LogCapture::start();
    let server = server_on_database(&database, &[("failed_attempts_max", "2"), ("cache", "off")]).await;
    server
        .execute(
            "update conflines set value = 'k3y-of-the-shop' where name = 'API_Secret_Key';
             insert into conflines (name, value, value2) values ('API_Secret_Key_Previous', 'k3y-before-it', 'soon');
             update cards set pin = '73310042' where id = 6; update cardgroups set pin_length = 8 where id = 6",
        )
        .await;
    let sign = |values: &str| hash(values, "k3y-of-the-shop");
    let (right, pin_hash) = (sign("6"), sign("73310042555"));
    let wrong = hash("6", "k3y-before-it");
    let requests = [
        format!("card_from_group_sell?u=admin&p=secret+password&id=6&number=0000000042&hash={right}"),
        format!("card_from_group_sell?u=accountant&p=secret+password&id=6&pin=73310042&pswd=hunter2&hash={wrong}"),
        format!("card_from_group_sell?u=user&p=hunter2&id=6&hash={right}"),
        format!("card_from_group_sell?u=user&p=hunter2&id=6&hash={right}"),
        format!("card_from_group_sell?u=user&p=hunter2&id=6&hash={right}"),
        format!("card_by_cli_update?u=accountant_read&pin=73310042&callerid=555&hash={pin_hash}"),
        format!("cc_by_cli?u=admin&pin=73310042&callerid=555&amount=1&hash={pin_hash}"),
        format!("card_by_cli_update?u=accountant_none&pin=73310042&callerid=555&p=hunter2&hash=%{wrong}"),
    ];
    let mut replies = String::new();
    for request in requests {
        replies += &server.get(&format!("/billing/api/{request}")).await.body;
    }
    // The requests had the intended results: a sale, a refused hash, a lockout.
    assert!(replies.contains("<pin>73310042</pin>") && replies.contains("Too many wrong attempts"), "{replies}");
    let audit_rows: Vec<String> = server.rows("select * from actions where action = 'error'").await;
    assert!(audit_rows.concat().contains("Incorrect hash") && log.count("too many failed attempts") == 1);
    let lockout = log.text().lines().find(|line| line.contains("too many failed attempts")).unwrap().to_owned();
    assert!(lockout.contains("password or hash"), "{lockout}");
    for secret in
        ["k3y-of", "k3y-before", "secret+password", "secret password", "hunter2", "73310042", &right, &wrong, &pin_hash]
    {
        assert!(!log.text().contains(secret), "{secret} is logged:\n{}", log.text());
        assert!(!audit_rows.concat().contains(secret), "{secret} is in an audit row: {audit_rows:?}");
    }
}

/// A formatted panic message is not logged, because it may contain data.
#[test]
fn only_literal_panic_messages_are_logged() {
    let payload_of = |function: fn()| std::panic::catch_unwind(function).unwrap_err();
    assert_eq!(panic_message(&*payload_of(|| std::panic::resume_unwind(Box::new("out of range")))), "out of range");
    let formatted = payload_of(|| std::panic::resume_unwind(Box::new("out of range: 0042".to_owned())));
    assert_eq!(panic_message(&*formatted), "(not shown)");
}

/// The URL in an audit row contains the host and the path as sent, except for control characters.
#[tokio::test]
async fn audit_url_has_no_control_characters() {
    let server = server_with_settings(&[("cache", "off")]).await;
    let request = axum::http::Request::post("/api/card_from_group_sell?u=admin&id=6&x=\u{9b}2J")
        .header("host", "shop\u{9b}31m.test".as_bytes())
        .body(axum::body::Body::empty());
    server.send(request).await.assert_status_error("Incorrect hash");
    server
        .assert_rows(
            "select data2 from actions",
            &["http://shop\u{fffd}31m.test/api/card_from_group_sell?u=admin&id=6&x=\u{fffd}2J"],
        )
        .await;
}
