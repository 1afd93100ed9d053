//! How much of the same the console does at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::StatusCode;
use mortise::console::access::Role;
use mortise::store::bulk_create::lock_bulk_create;

use super::console_with_settings;
use crate::harness::with_timeout;

const CARDS: &str = "number,pin,balance\n0000000007,0007,1\n0000000008,0008,1\n";

#[tokio::test]
async fn few_files_are_received_at_once() {
    let console = console_with_settings(&[]).await;
    let admin = console.log_in(Role::Admin).await;
    let permits = console.console.uploads.clone().acquire_many_owned(2).await.unwrap();
    let fields = [("group", "6"), ("mode", "check")];
    for path in ["/batches/import", "/sales/reconciliation"] {
        let page = admin.upload(path, &fields, "file", "cards.csv", CARDS).await;
        assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        page.assert_contains("Other files are being sent. Try again in a minute.");
    }
    drop(permits);
    let page = admin.upload("/batches/import", &fields, "file", "cards.csv", CARDS).await;
    page.assert_contains("Every line is correct.");
    assert_eq!(console.console.uploads.available_permits(), 2);
}

#[tokio::test]
async fn cards_are_created_or_imported_by_one_form_at_once() {
    let console = console_with_settings(&[("max_new_cards", "2")]).await;
    let admin = console.log_in(Role::Admin).await;
    let upload = async |content: &str| {
        admin.upload("/batches/import", &[("group", "6"), ("mode", "check")], "file", "cards.csv", content).await
    };
    let generate =
        [("group", "6"), ("quantity", "2"), ("batch_number", "B1"), ("language", "en"), ("from", ""), ("balance", "")];
    let permit = console.console.bulk_creates.acquire().await.unwrap();
    for page in [upload(CARDS).await, admin.post("/batches/generate", &generate).await] {
        assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE, "{}", page.text());
        page.assert_contains("Other cards are being created or imported. Try again when that is done.");
    }
    drop(permit);
    admin.submit("/batches/generate", &generate).await.assert_contains("2 cards were created");
    // A check does not wait for cards that are being created, and does not delay them.
    let mut creation = console.server.pool.begin().await.unwrap();
    lock_bulk_create(&mut creation).await.unwrap();
    with_timeout("the check", upload(CARDS)).await.assert_contains("Every line is correct.");
    creation.rollback().await.unwrap();
    let page = upload(&format!("{CARDS}0000000009,0009,1\n")).await;
    assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
    page.assert_contains("The file has more than 2 cards. Split it, or use mortise cards import on the server.");
}

/// Different reports do not fill a queue, in which those of others would wait.
#[tokio::test]
async fn few_reports_of_a_kind_wait() {
    let console = console_with_settings(&[]).await;
    let mails = &console.console.counts.mails;
    let started = Arc::new(AtomicUsize::new(0));
    for owner in 0..100 {
        let started = started.clone();
        let count = mails.get(Some(owner), || {
            started.fetch_add(1, Ordering::Relaxed);
            std::future::pending()
        });
        assert!(count.await.is_running());
    }
    assert_eq!(started.load(Ordering::Relaxed), 4);
}
