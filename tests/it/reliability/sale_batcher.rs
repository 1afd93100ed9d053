//! The sale batcher without the HTTP server: which sales run at once, and which are queued and batched.

use std::sync::Arc;
use std::time::Duration;

use mortise::sales::batcher::{BatchOutcome, Dispatch, QueuedSale, SaleBatcher, StatementPermit};
use mortise::sales::order::{SaleOrder, SaleTerms};

use super::sale_batching::server_with_one_permit;
use crate::harness::{server_with_settings, with_timeout};

/// An order of the admin for one card of group 6.
fn order() -> SaleOrder {
    SaleOrder { group_id: 6, quantity: 1, key: None, reference: None, terms: terms(0, "USD") }
}

fn terms(user_id: i32, currency: &str) -> Arc<SaleTerms> {
    Arc::new(SaleTerms {
        user_id,
        owner_id: 0,
        currency: currency.to_owned(),
        rate: 1.into(),
        pays_in_group_currency: false,
        only_sellable: false,
    })
}

#[track_caller]
fn expect_immediate(dispatch: Dispatch) -> StatementPermit {
    match dispatch {
        Dispatch::Immediate(permit) => permit,
        Dispatch::Queued(_) => panic!("the sale was queued"),
    }
}

#[track_caller]
fn expect_queued(dispatch: Dispatch) -> QueuedSale {
    match dispatch {
        Dispatch::Immediate(_) => panic!("the sale was not queued"),
        Dispatch::Queued(sale) => sale,
    }
}

#[tokio::test]
async fn batch_of_several_sales_halves_the_concurrency() {
    let server = server_with_one_permit().await;
    let batcher = SaleBatcher::new(server.app_pool(), 2, Duration::from_secs(300));
    let submit_immediate = || expect_immediate(batcher.submit(&order()));
    let submit_queued = |group_id| expect_queued(batcher.submit(&SaleOrder { group_id, ..order() }));
    let (first_permit, second_permit) = (submit_immediate(), submit_immediate());
    let (first_queued, second_queued) = (submit_queued(6), submit_queued(7));
    // The batch of two sales may run at the same time as a single sale. Its task starts when this one yields.
    drop(first_permit);
    assert_eq!(batcher.queued_sales(), 0);
    let last_queued = submit_queued(11);
    // No further statement may run at the same time as the batch of two.
    drop(second_permit);
    assert_eq!(batcher.queued_sales(), 1);
    for sale in [first_queued, second_queued, last_queued] {
        let BatchOutcome::Sold(cards) = with_timeout("the sale", sale.wait_for_outcome()).await else {
            panic!("the sale was not made")
        };
        assert_eq!(cards.len(), 1);
    }
    assert_eq!(batcher.queued_sales(), 0);
    let _permits = (submit_immediate(), submit_immediate());
}

#[tokio::test]
async fn sales_with_different_terms_run_in_parallel() {
    let server = server_with_one_permit().await;
    let batcher = SaleBatcher::new(server.app_pool(), 2, Duration::from_secs(300));
    let submit =
        |group_id, currency: &str| batcher.submit(&SaleOrder { group_id, terms: terms(0, currency), ..order() });
    let submit_queued = |group_id, currency| expect_queued(submit(group_id, currency));
    let mut payments_lock = server.pool.begin().await.unwrap();
    sqlx::query("lock table payments in access exclusive mode").execute(&mut *payments_lock).await.unwrap();
    let mut voucher_lock = server.pool.begin().await.unwrap();
    sqlx::query("select from vouchers where number = '900001' for update").execute(&mut *voucher_lock).await.unwrap();
    let permits = (submit(6, "USD"), submit(6, "USD"));
    let batch = (submit_queued(6, "USD"), submit_queued(7, "USD"));
    drop(permits);
    let (blocked, last) = (submit_queued(9, "USD"), submit_queued(11, "EUR"));
    with_timeout("the batch to wait for the lock", server.wait_for_lock_waiter()).await;
    payments_lock.rollback().await.unwrap();
    for sale in [batch.0, batch.1, last] {
        assert!(matches!(with_timeout("the sale", sale.wait_for_outcome()).await, BatchOutcome::Sold(_)));
    }
    voucher_lock.rollback().await.unwrap();
    assert!(matches!(with_timeout("the blocked sale", blocked.wait_for_outcome()).await, BatchOutcome::Sold(_)));
}

#[tokio::test]
async fn queued_sale_leaves_the_queue_after_max_wait() {
    let server = server_with_settings(&[]).await;
    let batcher = SaleBatcher::new(server.app_pool(), 1, Duration::ZERO);
    let _permit = expect_immediate(batcher.submit(&order()));
    let sale = expect_queued(batcher.submit(&order()));
    assert!(matches!(sale.wait_for_outcome().await, BatchOutcome::RetryAlone));
    assert_eq!(batcher.queued_sales(), 0);
    server.assert_rows("select count(*) from payments", &["0"]).await;
    // Sales of another caller do not wait for this caller's sales.
    expect_immediate(batcher.submit(&SaleOrder { terms: terms(3, "USD"), ..order() }));
}

#[tokio::test]
async fn started_sale_is_awaited_after_max_wait() {
    let server = server_with_settings(&[]).await;
    let batcher = SaleBatcher::new(server.app_pool(), 1, Duration::ZERO);
    let permit = expect_immediate(batcher.submit(&order()));
    let sale = expect_queued(batcher.submit(&order()));
    // The task of the batch cannot start before this task waits.
    drop(permit);
    let BatchOutcome::Sold(cards) = sale.wait_for_outcome().await else { panic!("the sale was not awaited") };
    assert_eq!(cards.len(), 1);
    server.assert_rows("select count(*) from payments", &["1"]).await;
    expect_immediate(batcher.submit(&order()));
}
