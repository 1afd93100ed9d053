//! Each mail is sent once: with several servers, replayed sales and a shutdown. After a crash or a lost reply of the
//! mail server the same mail, with the same Message-ID, is sent again.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::Request;
use rustix::process::{Pid, Signal, kill_process};

use super::{SELL, Shop};
use crate::harness::program::Program;
use crate::harness::smtp::{MESSAGE_MARKER, ScriptedAction};
use crate::harness::{hash, server_on_database};

const TLS_OFF: [(&str, &str); 1] = [("mail_tls", "off")];
const MAIL_COUNT: usize = 300;

/// A trigger that blocks recording a mail as sent while another session holds advisory lock 42.
const BLOCK_RECORDING: &str = "create function block_recording() returns trigger language plpgsql as $$
    begin perform pg_advisory_xact_lock(42); return new; end $$;
    create trigger block_recording before update on email_outbox for each row when (new.sent_at is not null) execute function block_recording()";
/// Sessions that wait for an advisory lock.
const BLOCKED: &str = "select pid from pg_stat_activity where wait_event = 'advisory' and datname = current_database()";

impl Shop {
    /// Adds `MAIL_COUNT` mails to the outbox.
    async fn insert_mails(&self) {
        let rows = format!(
            "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency)
             select i % 3, 0, 'b' || i || '@x.test', i || '@y', '{{6}}', '{{1}}', 'USD' from generate_series(1, {MAIL_COUNT}) i"
        );
        self.server.execute(&rows).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_servers_send_each_mail_once() {
    let shop = Shop::open().await;
    let other = server_on_database(&shop.database, &TLS_OFF).await;
    let third = Program::start_on_database(&shop.database, &TLS_OFF).await;
    shop.insert_mails().await;
    // A sale wakes the mailer of its own server.
    for (server, group) in [(&shop.server, 6), (&other, 7)] {
        assert_eq!(super::sell(server, group, "s@x.test").await.element_texts("pin").len(), 1);
    }
    let received = shop.mail.wait_for_mails(MAIL_COUNT + 2).await;
    shop.wait_until_done().await;
    let mut copies = BTreeMap::<_, usize>::new();
    for mail in &received {
        *copies.entry(mail.header("Message-ID").unwrap()).or_default() += 1;
    }
    assert_eq!((copies.len(), shop.mail.received_mails().len()), (MAIL_COUNT + 2, MAIL_COUNT + 2));
    shop.server
        .assert_rows("select count(*), max(attempts) from email_outbox where sent_at is not null", &["302|1"])
        .await;
    third.stop();
}

#[tokio::test]
async fn replayed_sale_is_mailed_once() {
    for form in ["u=admin&id=6&email=b@x.test", "u=admin&id=6&number=42&email=b@x.test"] {
        let shop = Shop::open().await;
        let form = format!("{form}&hash={}", hash("b@x.test6", "secret"));
        for _ in 0..3 {
            let request = Request::post(format!("/api/{SELL}"))
                .header("content-type", "application/x-www-form-urlencoded")
                .header("idempotency-key", "one");
            let reply = shop.server.send(request.body(Body::from(form.clone()))).await;
            assert_eq!(reply.element_texts("pin"), ["0042"]);
        }
        shop.mail.wait_for_mails(1).await;
        shop.wait_until_done().await;
        shop.server.assert_rows("select count(*) from email_outbox", &["1"]).await;
        assert_eq!(shop.mail.received_mails().len(), 1);
    }
}

/// The server is killed after the mail server accepted the mail and before the outbox records it. The next server sends
/// it again with the same Message-ID.
#[tokio::test(flavor = "multi_thread")]
async fn mail_of_a_killed_server_is_sent_by_the_next() {
    let shop = Shop::open_without_jobs().await;
    shop.server.execute(BLOCK_RECORDING).await;
    let mut lock = shop.server.pool.acquire().await.unwrap();
    sqlx::raw_sql("select pg_advisory_lock(42)").execute(&mut *lock).await.unwrap();
    let mut first = Program::start_on_database(&shop.database, &TLS_OFF).await;
    shop.sell_to("b@x.test").await;
    shop.server.wait_for_rows(BLOCKED, |rows| !rows.is_empty()).await;
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    // Ends the killed server's database session, which would record the mail as sent.
    shop.server.rows(&format!("select pg_terminate_backend(pid) from ({BLOCKED}) waiting")).await;
    shop.server.execute("drop trigger block_recording on email_outbox").await;
    let next = Program::start_on_database(&shop.database, &TLS_OFF).await;
    shop.server.assert_rows("select claimed_until > now() at time zone 'utc' from email_outbox", &["true"]).await;
    shop.server.execute("update email_outbox set claimed_until = now() at time zone 'utc'").await;
    let received = shop.mail.wait_for_mails(2).await;
    assert_eq!(received[0].header("Message-ID").unwrap(), received[1].header("Message-ID").unwrap());
    shop.wait_until_done().await;
    shop.server.assert_rows("select attempts, sent_at is not null from email_outbox", &["2|true"]).await;
    next.stop();
}

#[tokio::test]
async fn recording_a_sent_mail_is_retried() {
    let shop = Shop::open().await;
    shop.server
        .execute(
            "create sequence recording_attempts;
             create function refuse_recording() returns trigger language plpgsql as $$
             begin perform nextval('recording_attempts'); raise 'not now'; end $$;
             create trigger refuse_recording before update on email_outbox for each row when (new.sent_at is not null) execute function refuse_recording()",
        )
        .await;
    shop.sell_to("b@x.test").await;
    shop.mail.wait_for_mails(1).await;
    shop.server.wait_for_rows("select from recording_attempts where is_called", |rows| !rows.is_empty()).await;
    // The claim has expired, and the mail isn't sent again.
    shop.server.execute("update email_outbox set claimed_until = now() at time zone 'utc'").await;
    shop.server.execute("drop trigger refuse_recording on email_outbox").await;
    shop.wait_until_done().await;
    assert_eq!(shop.mail.received_mails().len(), 1);
    shop.server.assert_rows("select attempts from email_outbox", &["1"]).await;
}

#[tokio::test]
async fn lost_reply_of_the_mail_server_resends_the_same_mail() {
    let shop = Shop::open().await;
    shop.mail.script_action(MESSAGE_MARKER, ScriptedAction::AcceptAndDisconnect);
    shop.sell_to("b@x.test").await;
    shop.wait_until("attempts = 1 and last_error like 'the message: %'").await;
    shop.mail.clear_script();
    shop.mail.script_action("DATA", ScriptedAction::Disconnect);
    shop.make_due().await;
    shop.wait_until("attempts = 2 and last_error like 'DATA: %'").await;
    shop.mail.clear_script();
    shop.make_due().await;
    let received = shop.mail.wait_for_mails(2).await;
    for header in ["Message-ID", "Date", "Subject", "To"] {
        assert_eq!(received[0].header(header).unwrap(), received[1].header(header).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_waits_for_a_mail_in_transmission() {
    let shop = Shop::open_without_jobs().await;
    let program = Program::start_on_database(&shop.database, &TLS_OFF).await;
    shop.mail.script_action(MESSAGE_MARKER, ScriptedAction::Stall);
    assert_eq!(shop.sell_to("b@x.test").await.element_texts("pin").len(), 1);
    shop.mail.wait_for_lines(MESSAGE_MARKER, 1).await;
    kill_process(Pid::from_child(&program.child), Signal::TERM).unwrap();
    while tokio::net::TcpStream::connect(program.address).await.is_ok() {}
    shop.mail.clear_script();
    program.stop();
    shop.server.assert_rows("select attempts, sent_at is not null from email_outbox", &["1|true"]).await;
    assert_eq!(shop.mail.received_mails().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_releases_claims_of_unsent_mails() {
    let shop = Shop::open_without_jobs().await;
    let program = Program::start_on_database(&shop.database, &TLS_OFF).await;
    shop.mail.script_action("RCPT TO", ScriptedAction::Stall);
    assert_eq!(shop.sell_to("b@x.test").await.element_texts("pin").len(), 1);
    shop.mail.wait_for_lines("RCPT TO", 1).await;
    let log = program.stop();
    assert!(!log.contains("aborting e-mail delivery"), "{log}");
    let due = "select claimed_until, next_attempt_at <= now() at time zone 'utc', sent_at, failed_at, last_error from email_outbox";
    shop.server.assert_rows(due, &["∅|true|∅|∅|∅"]).await;
    shop.mail.clear_script();
    let next = Program::start_on_database(&shop.database, &TLS_OFF).await;
    shop.mail.wait_for_mails(1).await;
    shop.wait_until_done().await;
    next.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_timeout_limits_the_wait_for_mails() {
    let shop = Shop::open_without_jobs().await;
    let settings = [("mail_tls", "off"), ("shutdown_timeout_ms", "100")];
    let program = Program::start_on_database(&shop.database, &settings).await;
    shop.mail.script_action(MESSAGE_MARKER, ScriptedAction::Stall);
    assert_eq!(shop.sell_to("b@x.test").await.element_texts("pin").len(), 1);
    shop.mail.wait_for_lines(MESSAGE_MARKER, 1).await;
    let log = program.stop();
    assert!(log.contains("aborting e-mail delivery"), "{log}");
}

#[tokio::test]
async fn old_outbox_rows_are_deleted() {
    let shop = Shop::open().await;
    shop.server
        .execute(
            "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, sent_at, failed_at)
             select 0, 0, 'b@x.test', 'x@y', '{6}', '{1}', 'USD', case when i < 3 then at end, case when i > 2 then at end
             from generate_series(1, 4) i, lateral (select now() at time zone 'utc' - make_interval(days => 29 + i % 2 * 2) as at) age",
        )
        .await;
    let _purging_server = server_on_database(&shop.database, &TLS_OFF).await;
    shop.server.wait_for_rows("select id from email_outbox", |rows| rows.len() <= 2).await;
    shop.server.assert_rows("select id from email_outbox order by id", &["2", "4"]).await;
}
