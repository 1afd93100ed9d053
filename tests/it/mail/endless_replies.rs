//! Mail servers that send a line without an end: the server's memory stays small, and the e-mail is sent later.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::Shop;
use crate::harness::program::Program;
use crate::harness::smtp::{MESSAGE_MARKER, ScriptedAction};

const TIMEOUT: Duration = Duration::from_secs(240);
/// How much the peak memory may exceed that of the process after its first e-mail, in kB.
const GROWTH_MAX_KB: usize = 16 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_line_needs_little_memory() {
    let steps = [("", "connecting"), ("EHLO", "connecting"), ("DATA", "DATA"), (MESSAGE_MARKER, "the message")];
    timeout(TIMEOUT, assert_bounded(&[("mail_tls", "off")], None, &steps)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_line_inside_tls_needs_little_memory() {
    let certificate = tempfile::NamedTempFile::new().unwrap();
    let path = certificate.path().to_str().unwrap();
    let steps = [("STARTTLS", "STARTTLS"), ("MAIL FROM", "MAIL FROM"), ("RCPT TO", "RCPT TO"), ("DATA", "DATA")];
    let settings = [("mail_tls", "required"), ("mail_ca", path)];
    timeout(TIMEOUT, assert_bounded(&settings, Some(certificate.path()), &steps)).await.unwrap();
}

/// Sends an e-mail for each step: a mail server that sends an endless line in this step, then one that works.
/// `certificate`: the mail server offers STARTTLS and writes its certificate into this file.
async fn assert_bounded(settings: &[(&str, &str)], certificate: Option<&Path>, steps: &[(&str, &str)]) {
    let shop = Shop::open_without_jobs().await;
    if let Some(path) = certificate {
        std::fs::write(path, shop.mail.enable_tls(false)).unwrap();
    }
    let program = Program::start_on_database(&shop.database, &[settings, &[("mail_wait_ms", "5000")]].concat()).await;
    insert_mail(&shop, "first").await;
    shop.mail.wait_for_mails(1).await;
    shop.wait_until_done().await;
    let normal_kb = program.peak_memory_kb();
    for (number, (line, step)) in steps.iter().enumerate() {
        // Otherwise the next e-mail could use the open connection, without a greeting.
        shop.mail.wait_for_connections(0).await;
        shop.mail.script_action(line, ScriptedAction::Flood);
        insert_mail(&shop, step).await;
        shop.wait_until("last_error is not null").await;
        let reason = format!("{step}: network error: the mail server's reply is longer than 65536 bytes");
        shop.server
            .assert_rows(
                "select attempts, sent_at, failed_at, last_error from email_outbox where last_error is not null",
                &[&format!("1|∅|∅|{reason}")],
            )
            .await;
        shop.mail.clear_script();
        shop.make_due().await;
        shop.mail.wait_for_mails(number + 2).await;
        shop.wait_until_done().await;
        let growth_kb = program.peak_memory_kb().saturating_sub(normal_kb);
        assert!(growth_kb < GROWTH_MAX_KB, "{step}: {growth_kb} kB");
    }
    let log = program.stop();
    let reason = "the mail server's reply is longer than 65536 bytes";
    assert!(log.lines().filter(|line| line.contains(reason)).count() >= steps.len(), "{log}");
}

async fn insert_mail(shop: &Shop, id: &str) {
    let row = format!(
        "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency)
         values (0, 0, 'b@x.test', md5('{id}') || '@y', '{{6}}', '{{1}}', 'USD')"
    );
    shop.server.execute(&row).await;
}
