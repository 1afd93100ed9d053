//! E-mails that wait for a lock on the outbox delay nothing else.

use axum::http::StatusCode;

use super::{SELL, Shop, settings_sql};
use crate::harness::smtp::{MESSAGE_MARKER, ScriptedAction};
use crate::harness::{hash, with_timeout};

/// More e-mails than connections of any pool wait for the lock, each of another owner.
#[tokio::test]
async fn locked_outbox_delays_neither_readiness_nor_sales_nor_changes() {
    const OWNERS: i32 = 6;
    // With this timeout the statements wait for the lock longer than the test runs.
    let settings = [("cache", "on"), ("failed_attempts_max", "0"), ("database_acquire_timeout_ms", "600000")];
    let shop = Shop::open_with(&settings).await;
    let server = &shop.server;
    shop.mail.script_action(MESSAGE_MARKER, ScriptedAction::Stall);
    for owner in 101..=100 + OWNERS {
        server.execute(&settings_sql(owner, shop.mail.address.port(), "shop@example.com")).await;
    }
    server
        .execute(&format!(
            "insert into email_outbox (owner_id, user_id, address, message_id, currency, card_ids, balances)
             select owner, 0, 'buyer@example.com', owner || '@test', 'USD',
                 array(select min(id) from cards where cardgroup_id = 6), '{{1}}'
             from generate_series(101, 100 + {OWNERS}) owner"
        ))
        .await;
    // Four, because the server opens at most four connections to one mail server.
    with_timeout("e-mails", shop.mail.wait_for_lines(MESSAGE_MARKER, 4)).await;
    let mut lock = server.pool.begin().await.unwrap();
    let lock_outbox = "set local idle_in_transaction_session_timeout = 0;
                       lock table email_outbox in access exclusive mode";
    sqlx::raw_sql(lock_outbox).execute(&mut *lock).await.unwrap();
    shop.mail.clear_script();
    let waiting = "select 1 where (select count(*) from pg_stat_activity
                   where wait_event_type = 'Lock' and datname = current_database()) >= 2";
    with_timeout("waiting e-mails", async { while server.rows(waiting).await.is_empty() {} }).await;

    with_timeout("/readyz", async { while server.get("/readyz").await.status != StatusCode::OK {} }).await;
    let sale = with_timeout("a sale", server.post_signed(SELL, "u=admin&id=6", "6")).await;
    assert_eq!(sale.element_texts("pin").len(), 1, "{}", sale.body);
    server.execute("update conflines set value = 'new' where name = 'API_Secret_Key' and owner_id = 0").await;
    let form = format!("u=admin&id=11&hash={}", hash("11", "new"));
    let change_is_heard = async {
        loop {
            let reply = server.post(SELL, &form).await;
            let page = server.metrics().await;
            // The cache is valid again, and has the user of this sale.
            let is_cached = page.contains("mortise_cache_valid 1\n") && page.contains("mortise_cache_users 1\n");
            if is_cached && reply.body.contains("Free cards was not found") {
                break;
            }
        }
    };
    with_timeout("the changed key", change_is_heard).await;
    lock.rollback().await.unwrap();
    with_timeout("the e-mails", shop.wait_until_done()).await;
    assert_eq!(shop.mail.received_mails().len(), usize::try_from(OWNERS).unwrap());
}
