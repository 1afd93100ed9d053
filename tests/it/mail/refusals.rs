//! Mail servers that refuse, stall, are unreachable, or require TLS and a login; invalid addresses and settings.

use super::{SELL, Shop, sell, settings_sql};
use crate::harness::hash;
use crate::harness::program::Program;
use crate::harness::smtp::{MESSAGE_MARKER, MailServer, ScriptedAction};
use crate::harness::{server_on_database, x7_server};

/// Attempts, and minutes until the next attempt.
const BACKOFF: &str =
    "select attempts, round(extract(epoch from next_attempt_at - now() at time zone 'utc') / 60) from email_outbox";
const STATE: &str =
    "select attempts, claimed_until, sent_at is not null, failed_at is not null, last_error from email_outbox";
const AUDIT: &str = "select user_id, target_type, target_id, data, data2, data3 from actions where action = 'error'";

#[tokio::test]
async fn unreachable_mail_server_is_retried_with_backoff() {
    let mut shop = Shop::open().await;
    shop.mail.shut_down().await;
    assert_eq!(shop.sell_to("b@x.test").await.element_texts("pin").len(), 1);
    for (attempt, minutes) in [(1, 1), (2, 5), (3, 15), (4, 60), (5, 120), (6, 120)] {
        shop.wait_until(&format!("attempts = {attempt} and last_error like 'connecting: %refused%'")).await;
        shop.server.assert_rows(BACKOFF, &[&format!("{attempt}|{minutes}")]).await;
        shop.make_due().await;
    }
    shop.mail.restart().await;
    shop.make_due().await;
    assert_eq!(shop.mail.wait_for_mails(1).await.len(), 1);
    shop.wait_until_done().await;
    shop.server.assert_rows(AUDIT, &[]).await;
}

#[tokio::test]
async fn temporary_refusal_is_retried() {
    for (command, reply, error) in [
        ("", "421 too busy", "connecting: 421 too busy"),
        ("MAIL FROM", "550 not from you", "MAIL FROM: 550 not from you"),
        ("RCPT TO", "450 grey", "RCPT TO: 450 grey"),
        ("RCPT TO", "421 closing", "RCPT TO: 421 closing"),
        ("DATA", "451 later", "DATA: 451 later"),
        (MESSAGE_MARKER, "452 4.3.1 full", "the message: 452 4.3.1 full"),
    ] {
        let shop = Shop::open().await;
        shop.mail.script_action(command, ScriptedAction::Respond(reply));
        assert_eq!(shop.sell_to("b@x.test").await.element_texts("pin").len(), 1);
        shop.wait_until("last_error is not null").await;
        shop.server.assert_rows(STATE, &[&format!("1|∅|false|false|{error}")]).await;
        shop.server.assert_rows(BACKOFF, &["1|1"]).await;
        assert_eq!(shop.mail.received_mails().len(), 0);
        shop.mail.clear_script();
        shop.make_due().await;
        shop.mail.wait_for_mails(1).await;
        shop.wait_until_done().await;
        shop.server.assert_rows(STATE, &["2|∅|true|false|∅"]).await;
    }
}

#[tokio::test]
async fn permanent_refusal_adds_an_audit_row() {
    for (command, reply, error) in [
        ("RCPT TO:<unknown", "550 5.1.1 no such user", "RCPT TO: 550 5.1.1 no such user"),
        (MESSAGE_MARKER, "554 5.7.1 spam", "the message: 554 5.7.1 spam"),
        // A reply that contains a PIN isn't stored.
        (
            MESSAGE_MARKER,
            "554 rejected: 0042",
            "the mail server refused the message; its reply contains a PIN and is not shown",
        ),
    ] {
        let shop = Shop::open().await;
        shop.mail.script_action(command, ScriptedAction::Respond(reply));
        assert_eq!(shop.sell_to("unknown@x.test").await.element_texts("pin"), ["0042"]);
        shop.wait_until_done().await;
        shop.server.assert_rows(STATE, &[&format!("1|∅|false|true|{error}")]).await;
        shop.server.assert_rows(AUDIT, &[&format!("0|unknown@x.test|-1|Cannot send email|{error}|∅")]).await;
        shop.server
            .assert_rows("select email, sold from ccorders, cards where cards.id = 6", &["unknown@x.test|1"])
            .await;
        shop.mail.clear_script();
        shop.mail_to("b@x.test").await;
        // An operator makes the failed mail pending again.
        shop.server.execute("update email_outbox set failed_at = null").await;
        shop.make_due().await;
        shop.mail.wait_for_mails(2).await;
    }
}

#[tokio::test]
async fn mail_fails_after_mail_hours() {
    for (command, reply) in [("RCPT TO", "450 grey"), ("", "421 too busy")] {
        let shop = Shop::open_with(&[("mail_hours", "3")]).await;
        shop.mail.script_action(command, ScriptedAction::Respond(reply));
        shop.sell_to("b@x.test").await;
        shop.wait_until("last_error is not null").await;
        shop.server.execute("update email_outbox set created_at = created_at - interval '181 minutes'").await;
        shop.make_due().await;
        shop.wait_until_done().await;
        shop.server.assert_rows("select attempts, failed_at is not null from email_outbox", &["2|true"]).await;
        shop.server
            .assert_rows(
                "select target_type, data from actions where action = 'error'",
                &["b@x.test|Cannot send email"],
            )
            .await;
    }
}

#[tokio::test]
async fn invalid_address_fails_immediately_and_keeps_the_sale() {
    let shop = Shop::open().await;
    let too_long = format!("{}@x.test", "x".repeat(300));
    for (address, pin) in [("nonsense", "0042"), ("a@b@", "1001"), (too_long.as_str(), "1002")] {
        assert_eq!(shop.sell_to(address).await.element_texts("pin"), [pin]);
    }
    let stored = &too_long[..255];
    let row = |address| format!("0|{address}|-1|Cannot send email|Invalid email address|∅");
    shop.server.assert_rows(AUDIT, &[&row("nonsense"), &row("a@b@"), &row(stored)]).await;
    assert_eq!(shop.mail.peak_connections(), 0);
}

/// Such a text is an address by its syntax, but no e-mail can be sent to it.
#[tokio::test]
async fn address_without_a_domain_name_fails_immediately() {
    let shop = Shop::open().await;
    for address in ["a@[127.0.0.1]", "a@127.0.0.1", "a@[::1]"] {
        shop.server.execute("delete from actions; delete from payments; update cards set sold = 0, active = 0").await;
        assert_eq!(shop.sell_to(address).await.element_texts("pin"), ["0042"]);
        shop.server.assert_rows(AUDIT, &[&format!("0|{address}|-1|Cannot send email|Invalid email address|∅")]).await;
    }
    assert_eq!(shop.mail.peak_connections(), 0);
}

#[tokio::test]
async fn address_with_an_invisible_character_fails_immediately() {
    let shop = Shop::open().await;
    for address in ["\u{feff}b@x.test", "b\u{200b}@x.test", "b@x\u{ad}.test"] {
        shop.server.execute("delete from actions; delete from payments; update cards set sold = 0, active = 0").await;
        assert_eq!(shop.sell_to(address).await.element_texts("pin"), ["0042"]);
        shop.server.assert_rows(AUDIT, &[&format!("0|{address}|-1|Cannot send email|Invalid email address|∅")]).await;
    }
    assert_eq!(shop.mail.peak_connections(), 0);
}

/// An e-mail that an earlier version wrote into the outbox.
#[tokio::test]
async fn waiting_email_to_an_invalid_address_fails_permanently() {
    let shop = Shop::open().await;
    shop.server
        .execute(
            "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency)
             values (0, 0, 'a@[127.0.0.1]', '1@y', '{6}', '{1}', 'USD')",
        )
        .await;
    shop.wait_until_done().await;
    shop.server.assert_rows(STATE, &["1|∅|false|true|Invalid email address"]).await;
    shop.server.assert_rows(AUDIT, &["0|a@[127.0.0.1]|-1|Cannot send email|Invalid email address|∅"]).await;
}

#[tokio::test]
async fn incomplete_settings_fail_as_in_mor() {
    let (shop, x7) = (Shop::open().await, x7_server().await);
    x7.execute("insert into conflines (name, value) values ('Email_Sending_Enabled', '1')").await;
    assert_eq!(sell(&x7, 6, "b@x.test").await.element_texts("pin").len(), 1);
    let audit = "0|b@x.test|-1|Cannot send email|Invalid Emails configuration|∅";
    x7.assert_rows(AUDIT, &[audit]).await;
    for change in [
        "delete from conflines where name = 'Email_Smtp_Server'",
        "update conflines set value = 'smtp' where name = 'Email_port'",
        "update conflines set value = '' where name = 'Email_from'",
        "update conflines set value = 'a@b, c@d' where name = 'Email_from'",
    ] {
        shop.server.execute("create table saved_conflines as table conflines").await;
        shop.server.execute(change).await;
        assert_eq!(shop.sell_to("b@x.test").await.element_texts("number").len(), 1, "{change}");
        shop.server.assert_rows(AUDIT, &[audit]).await;
        shop.server.execute("delete from actions; delete from email_outbox; insert into cards (cardgroup_id, number, pin, balance) values (6, '2' || (select count(*) from cards), '2' || (select count(*) from cards), 1)").await;
        shop.server
            .execute("delete from conflines; insert into conflines table saved_conflines; drop table saved_conflines")
            .await;
    }
}

#[tokio::test]
async fn mail_waits_while_sending_is_disabled() {
    let shop = Shop::open().await;
    shop.mail.script_action("", ScriptedAction::Respond("421 too busy"));
    shop.sell_to("b@x.test").await;
    shop.wait_until("attempts = 1 and last_error is not null").await;
    shop.mail.clear_script();
    // While sending is disabled the mail isn't attempted, so it can't expire.
    shop.server.execute("update email_outbox set created_at = created_at - interval '1 year'").await;
    shop.server.execute("update conflines set value = '0' where name = 'Email_Sending_Enabled'").await;
    shop.make_due().await;
    shop.wait_until("attempts = 2 and failed_at is null and last_error = 'Email_Sending_Enabled isn''t 1'").await;
    assert_eq!(shop.mail.received_mails().len(), 0);
    shop.server.execute("update conflines set value = '1' where name = 'Email_Sending_Enabled'").await;
    shop.make_due().await;
    shop.mail.wait_for_mails(1).await;
}

#[tokio::test]
async fn mail_about_deleted_cards_fails() {
    let shop = Shop::open().await;
    let row = "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency)
        values (0, 0, 'b@x.test', 'x@y', '{6,999}', '{1,1}', 'USD')";
    shop.server.execute(row).await;
    shop.wait_until_done().await;
    shop.server.assert_rows(STATE, &["1|∅|false|true|some of its cards no longer exist"]).await;
}

/// The admin's mail server stalls during the whole test.
#[tokio::test]
async fn stalled_mail_server_delays_neither_sales_nor_other_owners() {
    let shop = Shop::open().await;
    let own = MailServer::start().await;
    shop.server.execute(&settings_sql(3, own.address.port(), "cards@eller.test")).await;
    shop.mail.script_action("", ScriptedAction::Stall);
    assert_eq!(shop.sell_to("b@x.test").await.element_texts("pin").len(), 1);
    shop.mail.wait_for_connections(1).await;
    assert_eq!(shop.sell_to("c@x.test").await.element_texts("pin").len(), 1);
    let form = format!("u=reseller&id=12&email=b%40x.test&hash={}", hash("b@x.test12", "reskey"));
    assert_eq!(shop.server.post(SELL, &form).await.element_texts("pin").len(), 1);
    own.wait_for_mails(1).await;
    assert_eq!(shop.mail.peak_connections(), 1);
}

#[tokio::test]
async fn stalled_mail_server_times_out() {
    for command in ["", "MAIL FROM", "RCPT TO", MESSAGE_MARKER] {
        let shop = Shop::open_with(&[("mail_wait_ms", "1000")]).await;
        shop.mail.script_action(command, ScriptedAction::Stall);
        shop.sell_to("b@x.test").await;
        shop.wait_until("last_error = 'no answer within 1s'").await;
        shop.server.assert_rows(BACKOFF, &["1|1"]).await;
        shop.mail.clear_script();
        // Another attempt may have timed out meanwhile; its backoff would be longer.
        while shop.mail.received_mails().is_empty() {
            shop.make_due().await;
        }
    }
}

#[tokio::test]
async fn connections_to_one_mail_server_are_limited() {
    let shop = Shop::open().await;
    shop.mail.script_action("MAIL FROM", ScriptedAction::Stall);
    // Ten resellers without an own mail server.
    shop.server
        .execute(
            "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency)
             select 100 + i % 10, 0, 'b@x.test', i || '@y', '{6}', '{1}', 'USD' from generate_series(1, 40) i",
        )
        .await;
    shop.mail.wait_for_connections(4).await;
    shop.wait_until("claimed_until is not null").await;
    shop.mail.clear_script();
    shop.mail.wait_for_mails(40).await;
    shop.wait_until_done().await;
    assert_eq!(shop.mail.peak_connections(), 4);
}

#[tokio::test]
async fn connection_limit_of_the_mail_server_opens_a_new_connection() {
    let shop = Shop::open().await;
    shop.sell_to("b@x.test").await;
    shop.wait_until_done().await;
    // The mail server ends each connection after one mail.
    shop.mail.limit_mails_per_connection(1);
    shop.server
        .execute(
            "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency)
             select 0, 0, 'b@x.test', i || '@y', '{6}', '{1}', 'USD' from generate_series(1, 3) i",
        )
        .await;
    shop.mail.wait_for_mails(4).await;
    shop.wait_until_done().await;
    shop.server.assert_rows("select last_error from email_outbox where last_error is not null", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn password_is_sent_over_tls_only() {
    let shop = Shop::open_without_jobs().await;
    let program = async |settings: &[(&str, &str)]| {
        Program::start_on_database(&shop.database, &[&[("log", "trace"), ("cache", "off")], settings].concat()).await
    };
    shop.server
        .execute(
            "update cards set pin = '91370042' where id = 6;
             insert into conflines (name, value) values ('Email_Login', 'shop'), ('Email_Password', 'geheim-77')",
        )
        .await;
    shop.mail.require_login("shop", "geheim-77");
    let first = program(&[("mail_tls", "required")]).await;
    assert_eq!(shop.sell_to("b@x.test").await.element_texts("pin"), ["91370042"]);
    shop.wait_until("last_error = 'the mail server does not offer STARTTLS, which mail_tls requires'").await;
    let certificate = shop.mail.enable_tls(false);
    shop.make_due().await;
    shop.wait_until("last_error like 'STARTTLS: %invalid peer certificate%'").await;
    let mut log = first.stop();

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), certificate).unwrap();
    let second = program(&[("mail_tls", "wanted"), ("mail_ca", file.path().to_str().unwrap())]).await;
    shop.server.execute("update conflines set value = 'wrong' where name = 'Email_Password'").await;
    shop.make_due().await;
    shop.wait_until("last_error = 'AUTH: 535'").await;
    shop.server.execute("update conflines set value = 'geheim-77' where name = 'Email_Password'").await;
    shop.make_due().await;
    let mail = shop.mail.wait_for_mails(1).await.remove(0);
    assert!(mail.encrypted && mail.authenticated);
    shop.wait_until_done().await;
    log += &second.stop();
    assert!(log.matches("e-mail delivery unavailable").count() >= 3, "{log}");
    // The last secret is the AUTH PLAIN form of login and password.
    for secret in ["geheim-77", "91370042", "AHNob3AAZ2VoZWltLTc3"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[tokio::test]
async fn port_465_starts_with_tls() {
    let mut shop = Shop::open().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), shop.mail.enable_tls(true)).unwrap();
    if let Err(error) = shop.mail.move_to_port(465).await {
        println!("skipped: port 465 can't be opened: {error}");
        return;
    }
    let server = server_on_database(
        &crate::harness::postgres::create_database(crate::harness::FIXTURE_SQL).await,
        &[("mail_ca", file.path().to_str().unwrap())],
    )
    .await;
    server.execute(&settings_sql(0, 465, "shop@example.com")).await;
    shop.mail.script_action("", ScriptedAction::Flood);
    assert_eq!(sell(&server, 6, "b@x.test").await.element_texts("pin").len(), 1);
    let error = "select last_error from email_outbox where last_error is not null";
    while server.rows(error).await.is_empty() {
        tokio::task::yield_now().await;
    }
    let reason = "connecting: network error: the mail server's reply is longer than 65536 bytes";
    server.assert_rows(error, &[reason]).await;
    shop.mail.clear_script();
    server.execute("update email_outbox set next_attempt_at = now() at time zone 'utc'").await;
    assert!(shop.mail.wait_for_mails(1).await[0].encrypted);
}
