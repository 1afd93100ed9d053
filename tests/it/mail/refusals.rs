//! Mail servers that refuse, stall, die, or want TLS and a password; addresses and settings that are wrong.

use super::{SELL, Shop, sell, settings_for};
use crate::harness::hash;
use crate::harness::program::Program;
use crate::harness::smtp::{MESSAGE_MARKER, MailServer, ScriptedAction};
use crate::harness::{server_on_database, x7_server};

/// How many minutes until the next attempt.
const PAUSE: &str =
    "select attempts, round(extract(epoch from next_attempt_at - now() at time zone 'utc') / 60) from email_outbox";
const STATE: &str =
    "select attempts, claimed_until, sent_at is not null, failed_at is not null, last_error from email_outbox";
const AUDIT: &str = "select user_id, target_type, target_id, data, data2, data3 from actions where action = 'error'";

#[tokio::test]
async fn a_dead_mail_server_is_tried_again_with_growing_pauses() {
    let mut shop = Shop::open().await;
    shop.mail.shut_down().await;
    assert_eq!(shop.sell_to("b@x.test").await.element_texts("pin").len(), 1);
    for (attempt, pause) in [(1, 1), (2, 5), (3, 15), (4, 60), (5, 120), (6, 120)] {
        shop.until(&format!("attempts = {attempt} and last_error like 'connecting: %refused%'")).await;
        shop.server.assert_rows(PAUSE, &[&format!("{attempt}|{pause}")]).await;
        shop.hurry().await;
    }
    shop.mail.restart().await;
    shop.hurry().await;
    assert_eq!(shop.mail.wait_for_mails(1).await.len(), 1);
    shop.until_done().await;
    shop.server.assert_rows(AUDIT, &[]).await;
}

#[tokio::test]
async fn what_is_refused_for_now_is_tried_again() {
    for (at, answer, why) in [
        ("", "421 too busy", "connecting: 421 too busy"),
        ("MAIL FROM", "550 not from you", "MAIL FROM: 550 not from you"),
        ("RCPT TO", "450 grey", "RCPT TO: 450 grey"),
        ("RCPT TO", "421 closing", "RCPT TO: 421 closing"),
        ("DATA", "451 later", "DATA: 451 later"),
        (MESSAGE_MARKER, "452 4.3.1 full", "the message: 452 4.3.1 full"),
    ] {
        let shop = Shop::open().await;
        shop.mail.script_action(at, ScriptedAction::Respond(answer));
        assert_eq!(shop.sell_to("b@x.test").await.element_texts("pin").len(), 1);
        shop.until("last_error is not null").await;
        shop.server.assert_rows(STATE, &[&format!("1|∅|false|false|{why}")]).await;
        shop.server.assert_rows(PAUSE, &["1|1"]).await;
        assert_eq!(shop.mail.received_mails().len(), 0);
        shop.mail.clear_script();
        shop.hurry().await;
        shop.mail.wait_for_mails(1).await;
        shop.until_done().await;
        shop.server.assert_rows(STATE, &["2|∅|true|false|∅"]).await;
    }
}

#[tokio::test]
async fn what_is_refused_for_good_is_an_audit_row() {
    for (at, answer, why) in [
        ("RCPT TO:<nobody", "550 5.1.1 no such user", "RCPT TO: 550 5.1.1 no such user"),
        (MESSAGE_MARKER, "554 5.7.1 spam", "the message: 554 5.7.1 spam"),
        // What is refused isn't quoted.
        (MESSAGE_MARKER, "554 it says 0042", "the message was refused, in words that quote it"),
    ] {
        let shop = Shop::open().await;
        shop.mail.script_action(at, ScriptedAction::Respond(answer));
        assert_eq!(shop.sell_to("nobody@x.test").await.element_texts("pin"), ["0042"]);
        shop.until_done().await;
        shop.server.assert_rows(STATE, &[&format!("1|∅|false|true|{why}")]).await;
        shop.server.assert_rows(AUDIT, &[&format!("0|nobody@x.test|-1|Cannot send email|{why}|∅")]).await;
        shop.server
            .assert_rows("select email, sold from ccorders, cards where cards.id = 6", &["nobody@x.test|1"])
            .await;
        shop.mail.clear_script();
        shop.mail_to("b@x.test").await;
        // An operator who knows better.
        shop.server.execute("update email_outbox set failed_at = null").await;
        shop.hurry().await;
        shop.mail.wait_for_mails(2).await;
    }
}

#[tokio::test]
async fn after_some_hours_it_has_failed_for_good() {
    for (at, answer) in [("RCPT TO", "450 grey"), ("", "421 too busy")] {
        let shop = Shop::open_with(&[("mail_hours", "3")]).await;
        shop.mail.script_action(at, ScriptedAction::Respond(answer));
        shop.sell_to("b@x.test").await;
        shop.until("last_error is not null").await;
        shop.server.execute("update email_outbox set created_at = created_at - interval '181 minutes'").await;
        shop.hurry().await;
        shop.until_done().await;
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
async fn a_bad_address_fails_at_once_and_the_sale_stands() {
    let shop = Shop::open().await;
    let long = format!("{}@x.test", "x".repeat(300));
    for (address, pin) in [("nonsense", "0042"), ("a@b@", "1001"), (long.as_str(), "1002")] {
        assert_eq!(shop.sell_to(address).await.element_texts("pin"), [pin]);
    }
    let cut = &long[..255];
    let row = |address| format!("0|{address}|-1|Cannot send email|Invalid email address|∅");
    shop.server.assert_rows(AUDIT, &[&row("nonsense"), &row("a@b@"), &row(cut)]).await;
    assert_eq!(shop.mail.peak_connections(), 0);
}

#[tokio::test]
async fn settings_that_say_not_enough_fail_as_they_do_in_mor() {
    let (shop, x7) = (Shop::open().await, x7_server().await);
    x7.execute("insert into conflines (name, value) values ('Email_Sending_Enabled', '1')").await;
    assert_eq!(sell(&x7, 6, "b@x.test").await.element_texts("pin").len(), 1);
    let audit = "0|b@x.test|-1|Cannot send email|Invalid Emails configuration|∅";
    x7.assert_rows(AUDIT, &[audit]).await;
    for wrong in [
        "delete from conflines where name = 'Email_Smtp_Server'",
        "update conflines set value = 'smtp' where name = 'Email_port'",
        "update conflines set value = '' where name = 'Email_from'",
        "update conflines set value = 'a@b, c@d' where name = 'Email_from'",
    ] {
        shop.server.execute("create table kept as table conflines").await;
        shop.server.execute(wrong).await;
        assert_eq!(shop.sell_to("b@x.test").await.element_texts("number").len(), 1, "{wrong}");
        shop.server.assert_rows(AUDIT, &[audit]).await;
        shop.server.execute("delete from actions; delete from email_outbox; insert into cards (cardgroup_id, number, pin, balance) values (6, '2' || (select count(*) from cards), '2' || (select count(*) from cards), 1)").await;
        shop.server.execute("delete from conflines; insert into conflines table kept; drop table kept").await;
    }
}

#[tokio::test]
async fn what_is_switched_off_waits() {
    let shop = Shop::open().await;
    shop.mail.script_action("", ScriptedAction::Respond("421 too busy"));
    shop.sell_to("b@x.test").await;
    shop.until("attempts = 1 and last_error is not null").await;
    shop.mail.clear_script();
    // However long it takes: it isn't tried, so it can't fail.
    shop.server.execute("update email_outbox set created_at = created_at - interval '1 year'").await;
    shop.server.execute("update conflines set value = '0' where name = 'Email_Sending_Enabled'").await;
    shop.hurry().await;
    shop.until("attempts = 2 and failed_at is null and last_error = 'Email_Sending_Enabled isn''t 1'").await;
    assert_eq!(shop.mail.received_mails().len(), 0);
    shop.server.execute("update conflines set value = '1' where name = 'Email_Sending_Enabled'").await;
    shop.hurry().await;
    shop.mail.wait_for_mails(1).await;
}

#[tokio::test]
async fn cards_that_are_gone_are_not_mailed() {
    let shop = Shop::open().await;
    let row = "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency)
        values (0, 0, 'b@x.test', 'x@y', '{6,999}', '{1,1}', 'USD')";
    shop.server.execute(row).await;
    shop.until_done().await;
    shop.server.assert_rows(STATE, &["1|∅|false|true|not all of its cards are there any more"]).await;
}

/// The first says nothing for as long as the test lasts.
#[tokio::test]
async fn a_stalled_mail_server_holds_up_neither_sales_nor_other_owners() {
    let shop = Shop::open().await;
    let own = MailServer::start().await;
    shop.server.execute(&settings_for(3, own.address.port(), "cards@eller.test")).await;
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
async fn a_stalled_mail_server_is_left_after_a_while() {
    for at in ["", "MAIL FROM", "RCPT TO", MESSAGE_MARKER] {
        let shop = Shop::open_with(&[("mail_wait_ms", "1000")]).await;
        shop.mail.script_action(at, ScriptedAction::Stall);
        shop.sell_to("b@x.test").await;
        shop.until("last_error = 'no answer within 1s'").await;
        shop.server.assert_rows(PAUSE, &["1|1"]).await;
        shop.mail.clear_script();
        // Should it stall by itself once more, the next pause would be long.
        while shop.mail.received_mails().is_empty() {
            shop.hurry().await;
        }
    }
}

#[tokio::test]
async fn few_connections_go_to_one_mail_server() {
    let shop = Shop::open().await;
    shop.mail.script_action("MAIL FROM", ScriptedAction::Stall);
    // Resellers without one of their own.
    shop.server
        .execute(
            "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency)
             select 100 + i % 10, 0, 'b@x.test', i || '@y', '{6}', '{1}', 'USD' from generate_series(1, 40) i",
        )
        .await;
    shop.mail.wait_for_connections(4).await;
    shop.until("claimed_until is not null").await;
    shop.mail.clear_script();
    shop.mail.wait_for_mails(40).await;
    shop.until_done().await;
    assert_eq!(shop.mail.peak_connections(), 4);
}

#[tokio::test]
async fn a_mail_server_that_takes_few_at_a_time_gets_a_new_connection() {
    let shop = Shop::open().await;
    shop.sell_to("b@x.test").await;
    shop.until_done().await;
    // Each connection is told after its first e-mail that this was enough.
    shop.mail.limit_mails_per_connection(1);
    shop.server
        .execute(
            "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency)
             select 0, 0, 'b@x.test', i || '@y', '{6}', '{1}', 'USD' from generate_series(1, 3) i",
        )
        .await;
    shop.mail.wait_for_mails(4).await;
    shop.until_done().await;
    shop.server.assert_rows("select last_error from email_outbox where last_error is not null", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_goes_over_tls_and_nowhere_else() {
    let shop = Shop::open_quietly().await;
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
    shop.until("last_error = 'the mail server offers no STARTTLS, which mail_tls demands'").await;
    let certificate = shop.mail.enable_tls(false);
    shop.hurry().await;
    shop.until("last_error like 'STARTTLS: %invalid peer certificate%'").await;
    let mut log = first.stop();

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), certificate).unwrap();
    let second = program(&[("mail_tls", "wanted"), ("mail_ca", file.path().to_str().unwrap())]).await;
    shop.server.execute("update conflines set value = 'wrong' where name = 'Email_Password'").await;
    shop.hurry().await;
    shop.until("last_error = 'AUTH: 535'").await;
    shop.server.execute("update conflines set value = 'geheim-77' where name = 'Email_Password'").await;
    shop.hurry().await;
    let mail = shop.mail.wait_for_mails(1).await.remove(0);
    assert!(mail.encrypted && mail.authenticated);
    shop.until_done().await;
    log += &second.stop();
    assert!(log.matches("no e-mails are sent for the moment").count() >= 3, "{log}");
    // The last is how they go to the mail server.
    for secret in ["geheim-77", "91370042", "AHNob3AAZ2VoZWltLTc3"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[tokio::test]
async fn on_port_465_tls_comes_first() {
    let mut shop = Shop::open().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), shop.mail.enable_tls(true)).unwrap();
    if let Err(error) = shop.mail.move_to_port(465).await {
        println!("skipped: nobody may listen there: {error}");
        return;
    }
    let server = server_on_database(
        &crate::harness::postgres::create_database(crate::harness::FIXTURE_SQL).await,
        &[("mail_ca", file.path().to_str().unwrap())],
    )
    .await;
    server.execute(&settings_for(0, 465, "shop@example.com")).await;
    assert_eq!(sell(&server, 6, "b@x.test").await.element_texts("pin").len(), 1);
    assert!(shop.mail.wait_for_mails(1).await[0].encrypted);
}
