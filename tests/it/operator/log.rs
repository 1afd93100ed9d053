//! Keys, passwords, PINs and hashes are nobody's business but the client's and the database's.

use mortise::telemetry::log::panic_message;

use crate::harness::log::LogCapture;
use crate::harness::{FIXTURE_SQL, hash, postgres, server_on_database, server_with_settings};

/// Sold, refused, wrong, paused, broken: whatever is logged on the way, and whatever the refusals leave in the database.
#[tokio::test]
async fn no_secret_is_logged_or_written_down() {
    // Unwatched: the first test of a run makes the tests' own data, whose SQL says their passwords.
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
    // Nothing of it came by mere silence: a sale, a refused hash, a pause.
    assert!(replies.contains("<pin>73310042</pin>") && replies.contains("Too many wrong attempts"), "{replies}");
    let written: Vec<String> = server.rows("select * from actions where action = 'error'").await;
    assert!(
        written.concat().contains("Incorrect hash") && log.count("too many wrong guesses at a password or hash") == 1
    );
    for secret in
        ["k3y-of", "k3y-before", "secret+password", "secret password", "hunter2", "73310042", &right, &wrong, &pin_hash]
    {
        assert!(!log.text().contains(secret), "{secret} is logged:\n{}", log.text());
        assert!(!written.concat().contains(secret), "{secret} is written down: {written:?}");
    }
}

/// A panic's words may quote what was being worked at.
#[test]
fn a_panic_says_only_what_stands_in_the_program() {
    let caught = |panics: fn()| std::panic::catch_unwind(panics).unwrap_err();
    assert_eq!(panic_message(&*caught(|| std::panic::resume_unwind(Box::new("no room")))), "no room");
    let formatted = caught(|| std::panic::resume_unwind(Box::new("no room for 0042".to_owned())));
    assert_eq!(panic_message(&*formatted), "(not shown)");
}

/// The host and the path of a request come into the audit's URL as they are.
#[tokio::test]
async fn an_audit_row_moves_no_terminals_cursor() {
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
