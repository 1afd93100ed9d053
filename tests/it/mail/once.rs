//! Each e-mail goes out once, however many servers there are, whoever is killed and whatever is sent again.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::Request;
use rustix::process::{Pid, Signal, kill_process};

use super::{SELL, Shop};
use crate::harness::program::Program;
use crate::harness::smtp::{MESSAGE_MARKER, ScriptedAction};
use crate::harness::{hash, server_on_database};

const OFF: [(&str, &str); 1] = [("mail_tls", "off")];
const MANY: usize = 300;

/// A note that an e-mail was sent has to wait for whoever holds the lock.
const SLOW_NOTES: &str = "create function slow_note() returns trigger language plpgsql as $$
    begin perform pg_advisory_xact_lock(42); return new; end $$;
    create trigger slow_note before update on email_outbox for each row when (new.sent_at is not null) execute function slow_note()";
const WAITS: &str = "select pid from pg_stat_activity where wait_event = 'advisory' and datname = current_database()";

impl Shop {
    /// E-mails as if so many sales had been made.
    async fn many(&self) {
        let rows = format!(
            "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency)
             select i % 3, 0, 'b' || i || '@x.test', i || '@y', '{{6}}', '{{1}}', 'USD' from generate_series(1, {MANY}) i"
        );
        self.server.execute(&rows).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_never_send_one_twice() {
    let shop = Shop::open().await;
    let other = server_on_database(&shop.database, &OFF).await;
    let third = Program::start_on_database(&shop.database, &OFF).await;
    shop.many().await;
    // Each sale wakes its own server.
    for (server, group) in [(&shop.server, 6), (&other, 7)] {
        assert_eq!(super::sell(server, group, "s@x.test").await.element_texts("pin").len(), 1);
    }
    let taken = shop.mail.wait_for_mails(MANY + 2).await;
    shop.until_done().await;
    let mut copies = BTreeMap::<_, usize>::new();
    for mail in &taken {
        *copies.entry(mail.header("Message-ID").unwrap()).or_default() += 1;
    }
    assert_eq!((copies.len(), shop.mail.received_mails().len()), (MANY + 2, MANY + 2));
    shop.server
        .assert_rows("select count(*), max(attempts) from email_outbox where sent_at is not null", &["302|1"])
        .await;
    third.stop();
}

#[tokio::test]
async fn a_sale_that_is_asked_for_again_is_not_mailed_again() {
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
        shop.until_done().await;
        shop.server.assert_rows("select count(*) from email_outbox", &["1"]).await;
        assert_eq!(shop.mail.received_mails().len(), 1);
    }
}

/// Killed when the mail server had taken it and the database didn't know: it must go again, and be known for the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_leaves_its_e_mails_to_the_next() {
    let shop = Shop::open_quietly().await;
    shop.server.execute(SLOW_NOTES).await;
    let mut lock = shop.server.pool.acquire().await.unwrap();
    sqlx::raw_sql("select pg_advisory_lock(42)").execute(&mut *lock).await.unwrap();
    let mut first = Program::start_on_database(&shop.database, &OFF).await;
    shop.sell_to("b@x.test").await;
    while shop.server.rows(WAITS).await.is_empty() {
        tokio::task::yield_now().await;
    }
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    // With its connection goes what it was about to say.
    shop.server.rows(&format!("select pg_terminate_backend(pid) from ({WAITS}) waiting")).await;
    shop.server.execute("drop trigger slow_note on email_outbox").await;
    let next = Program::start_on_database(&shop.database, &OFF).await;
    shop.server.assert_rows("select claimed_until > now() at time zone 'utc' from email_outbox", &["true"]).await;
    shop.server.execute("update email_outbox set claimed_until = now() at time zone 'utc'").await;
    let taken = shop.mail.wait_for_mails(2).await;
    assert_eq!(taken[0].header("Message-ID").unwrap(), taken[1].header("Message-ID").unwrap());
    shop.until_done().await;
    shop.server.assert_rows("select attempts, sent_at is not null from email_outbox", &["2|true"]).await;
    next.stop();
}

#[tokio::test]
async fn a_note_is_made_as_soon_as_the_database_takes_it() {
    let shop = Shop::open().await;
    shop.server
        .execute(
            "create sequence refused;
             create function no_note() returns trigger language plpgsql as $$
             begin perform nextval('refused'); raise 'not now'; end $$;
             create trigger no_note before update on email_outbox for each row when (new.sent_at is not null) execute function no_note()",
        )
        .await;
    shop.sell_to("b@x.test").await;
    shop.mail.wait_for_mails(1).await;
    while shop.server.rows("select from refused where is_called").await.is_empty() {
        tokio::task::yield_now().await;
    }
    // The claim is over, and still nobody sends it again.
    shop.server.execute("update email_outbox set claimed_until = now() at time zone 'utc'").await;
    shop.server.execute("drop trigger no_note on email_outbox").await;
    shop.until_done().await;
    assert_eq!(shop.mail.received_mails().len(), 1);
    shop.server.assert_rows("select attempts from email_outbox", &["1"]).await;
}

#[tokio::test]
async fn a_mail_server_that_dies_before_it_answers_gets_the_same_again() {
    let shop = Shop::open().await;
    shop.mail.script_action(MESSAGE_MARKER, ScriptedAction::AcceptAndDisconnect);
    shop.sell_to("b@x.test").await;
    shop.until("attempts = 1 and last_error like 'the message: %'").await;
    shop.mail.clear_script();
    shop.mail.script_action("DATA", ScriptedAction::Disconnect);
    shop.hurry().await;
    shop.until("attempts = 2 and last_error like 'DATA: %'").await;
    shop.mail.clear_script();
    shop.hurry().await;
    let taken = shop.mail.wait_for_mails(2).await;
    for header in ["Message-ID", "Date", "Subject", "To"] {
        assert_eq!(taken[0].header(header).unwrap(), taken[1].header(header).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_what_is_being_accepted() {
    let shop = Shop::open_quietly().await;
    let program = Program::start_on_database(&shop.database, &OFF).await;
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
async fn a_stop_gives_back_what_is_not() {
    let shop = Shop::open_quietly().await;
    let program = Program::start_on_database(&shop.database, &OFF).await;
    shop.mail.script_action("RCPT TO", ScriptedAction::Stall);
    assert_eq!(shop.sell_to("b@x.test").await.element_texts("pin").len(), 1);
    shop.mail.wait_for_lines("RCPT TO", 1).await;
    let log = program.stop();
    assert!(!log.contains("aren't waited for"), "{log}");
    let due = "select claimed_until, next_attempt_at <= now() at time zone 'utc', sent_at, failed_at, last_error from email_outbox";
    shop.server.assert_rows(due, &["∅|true|∅|∅|∅"]).await;
    shop.mail.clear_script();
    let next = Program::start_on_database(&shop.database, &OFF).await;
    shop.mail.wait_for_mails(1).await;
    shop.until_done().await;
    next.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_has_an_end() {
    let shop = Shop::open_quietly().await;
    let settings = [("mail_tls", "off"), ("shutdown_timeout_ms", "100")];
    let program = Program::start_on_database(&shop.database, &settings).await;
    shop.mail.script_action(MESSAGE_MARKER, ScriptedAction::Stall);
    assert_eq!(shop.sell_to("b@x.test").await.element_texts("pin").len(), 1);
    shop.mail.wait_for_lines(MESSAGE_MARKER, 1).await;
    let log = program.stop();
    assert!(log.contains("aren't waited for"), "{log}");
}

#[tokio::test]
async fn what_was_sent_long_ago_is_forgotten() {
    let shop = Shop::open().await;
    shop.server
        .execute(
            "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, sent_at, failed_at)
             select 0, 0, 'b@x.test', 'x@y', '{6}', '{1}', 'USD', case when i < 3 then at end, case when i > 2 then at end
             from generate_series(1, 4) i, lateral (select now() at time zone 'utc' - make_interval(days => 29 + i % 2 * 2) as at) age",
        )
        .await;
    let _looks_at_its_start = server_on_database(&shop.database, &OFF).await;
    while shop.server.rows("select id from email_outbox").await.len() > 2 {
        tokio::task::yield_now().await;
    }
    shop.server.assert_rows("select id from email_outbox order by id", &["2", "4"]).await;
}
