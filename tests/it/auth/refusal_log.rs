//! The log lines about refused logins and missing rights.

use std::time::{Duration, Instant};

use mortise::server::limits::RefusalLog;

use crate::harness::log::LogCapture;
use crate::harness::{Server, hash, server, server_with_settings};

/// Sends a request with the hash of the values `hashed` and the key of the admin.
async fn post(server: &Server, operation: &str, form: &str, hashed: &str) {
    server.post_signed(operation, form, hashed).await;
}

#[tokio::test]
async fn refused_login_is_logged_with_its_reason() {
    let server = server_with_settings(&[("require_password", "true")]).await;
    server.execute("update users set blocked = 1 where username = 'accountant'").await;
    let log = LogCapture::start();
    for (form, user, reason) in [
        ("id=11", "", "no user sent"),
        ("u=unknown&p=hunter2&id=11", "unknown", "unknown user"),
        ("u=accountant&p=hunter2&id=11", "accountant", "blocked user"),
        ("u=admin&id=11", "admin", "no password sent"),
        ("u=admin&p=hunter2&id=11", "admin", "wrong password"),
    ] {
        post(&server, "buy_card_from_callingroup", form, "11").await;
        let line = log.text().lines().rfind(|line| line.contains("login refused")).unwrap_or_default().to_owned();
        for part in [
            &format!("user=\"{user}\""),
            "client=192.0.2.7",
            "operation=\"card_from_group_sell\"",
            &format!("reason=\"{reason}\""),
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    assert_eq!(log.count("login refused"), 5, "{}", log.text());
    assert!(!log.text().contains("hunter2") && !log.text().contains(&hash("11", "secret")), "{}", log.text());
}

#[tokio::test]
async fn requests_while_the_api_or_get_is_off_are_logged() {
    let server = server().await;
    server.execute("update conflines set value = '0' where name = 'Allow_GET_API'").await;
    let log = LogCapture::start();
    server.get("/api/card_balance_get?u=admin&number=1").await;
    assert_eq!(log.count("reason=\"Allow_GET_API is off\""), 1, "{}", log.text());
    server.execute("update conflines set value = '0' where name = 'Allow_API' and owner_id = 0").await;
    server.get("/api/card_balance_get?u=admin&number=1").await;
    assert_eq!(log.count("reason=\"Allow_API is off\""), 1, "{}", log.text());
}

#[tokio::test]
async fn missing_right_is_logged() {
    let server = server().await;
    server
        .execute("insert into conflines (name, value, owner_id) values ('API_Allow_payments_ower_API', '1', 0)")
        .await;
    let log = LogCapture::start();
    for (operation, user, form, hashed, right) in [
        ("card_from_group_sell", "accountant_zero", "id=11", "11", "callingcard_manage"),
        ("card_by_cli_update", "reseller_read", "callerid=1", "1", "calling_cards"),
        ("card_group_get", "user", "id=11", "11", "user type"),
        ("cc_groups_get", "accountant_none", "", "", "callingcard_manage"),
        ("calling_cards_get", "accountant_read", "pin=0042", "", "callingcard_pin"),
        ("calling_card_update", "accountant_read", "card_id=6", "6", "callingcard_manage"),
        ("calling_card_update", "accountant", "card_id=6&pin=7310", "6", "callingcard_pin"),
        ("cc_group_create", "accountant_none", "name=new", "new", "callingcard_manage"),
        ("cc_group_update", "accountant", "cc_group_id=6", "6", "see_financial_data"),
        ("tariff_wholesale_update", "accountant", "name=new", "new", "tariff_manage"),
        ("card_balance_get", "accountant", "number=1", "1", "user type"),
        ("card_payment_add", "reseller_none", "number=1", "1", "calling_cards"),
    ] {
        post(&server, operation, &format!("u={user}&{form}"), hashed).await;
        let line = log.text().lines().rfind(|line| line.contains("missing right")).unwrap_or_default().to_owned();
        for part in [
            &format!("user=\"{user}\""),
            "client=192.0.2.7",
            &format!("operation=\"{operation}\""),
            &format!("right=\"{right}\""),
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    for line in log.text().lines().filter(|line| line.contains("missing right")) {
        // The digits of the time can be those of a PIN.
        let (_time, text) = line.split_once(' ').unwrap();
        for secret in ["0042", "7310", &hash("11", "secret")] {
            assert!(!text.contains(secret), "{secret}: {line}");
        }
    }
}

#[tokio::test]
async fn repeated_refusal_is_logged_once() {
    let server = server().await;
    let log = LogCapture::start();
    for _ in 0..3 {
        post(&server, "card_from_group_sell", "u=unknown&id=11", "11").await;
        post(&server, "card_from_group_sell", "u=accountant_none&id=11", "11").await;
    }
    assert_eq!((log.count("login refused"), log.count("missing right")), (1, 1), "{}", log.text());
}

/// Neither a client that repeats its request nor a flood of invented names can fill the log.
#[test]
fn refusal_lines_are_throttled() {
    let (log, start) = (RefusalLog::default(), Instant::now());
    assert!(log.should_log("name", start) && !log.should_log("name", start + Duration::from_secs(10)));
    assert!(log.should_log("name", start + Duration::from_secs(11)));
    let logged = (0..1000).filter(|name| log.should_log(name, start + Duration::from_secs(12))).count();
    assert_eq!(logged, RefusalLog::SUBJECTS_MAX - 1);
    assert!(log.should_log("another", start + Duration::from_secs(23)));
}
