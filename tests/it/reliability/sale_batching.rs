//! Sales that wait for another and are then made by one statement: each succeeds or fails as if it were alone.

use std::pin::pin;
use std::time::Duration;

use mortise::sales::batcher::{BatchKey, BatchOutcome, Dispatch, SaleBatcher, SaleOrder};

use crate::harness::log::LogCapture;
use crate::harness::{Reply, Server, server_with_settings, with_timeout};

/// A server on which sales wait for a single one, and with patience.
async fn one_at_once() -> Server {
    let server = server_with_settings(&[
        ("sale_concurrency", "1"),
        ("database_connections", "8"),
        ("database_acquire_timeout_ms", "6000000"),
        ("idempotency_wait_ms", "600000"),
    ])
    .await;
    server
        .execute(
            "insert into cards (id, cardgroup_id, number, pin, balance) values
                 (51, 11, '110001', '5001', 2), (52, 11, '110002', '5002', 2), (53, 11, '110003', '5003', 2)",
        )
        .await;
    server
}

async fn buy(server: &Server, group: u32, quantity: u32, more: &str) -> Reply {
    server
        .post_signed(
            "card_from_group_sell",
            &format!("u=admin&id={group}&quantity={quantity}{more}"),
            &format!("{group}{quantity}"),
        )
        .await
}

/// While one sale is held up by its voucher, so many others begin to wait; then it goes on.
async fn held_up<T>(server: &Server, waiting: usize, others: impl Future<Output = T>) -> (Reply, T) {
    let mut lock = server.pool.begin().await.unwrap();
    sqlx::query("select from vouchers where number = '900001' for update").execute(&mut *lock).await.unwrap();
    let release = async {
        until_waiting(server, waiting).await;
        lock.rollback().await.unwrap();
    };
    let others = async {
        with_timeout("the first sale's wait", server.wait_for_lock_waiter()).await;
        others.await
    };
    let (first, others, ()) = tokio::join!(buy(server, 9, 1, ""), others, release);
    (first, others)
}

async fn until_waiting(server: &Server, sales: usize) {
    let waiting = format!("mortise_sales_queued {sales}\n");
    with_timeout("sales that wait", async { while !server.metrics().await.contains(&waiting) {} }).await;
}

/// The cards that were sold in one transaction, for each.
const TOGETHER: &str =
    "select string_agg(user_id::text, ' ' order by user_id) as cards from payments where kind = 'sale'
    group by date_added order by min(user_id)";

#[tokio::test]
async fn those_who_wait_are_served_by_one_statement() {
    let server = one_at_once().await;
    let others = async {
        tokio::join!(buy(&server, 11, 2, ""), buy(&server, 6, 1, ""), buy(&server, 11, 1, ""), buy(&server, 7, 1, ""))
    };
    let (first, (two, ten_dollars, third, euro)) = held_up(&server, 4, others).await;
    assert_eq!(first.element_texts("number"), ["900001"]);
    // Who came first isn't said: what is, is that each has cards of his own, in order.
    let mut numbers = [two.element_texts("number"), third.element_texts("number")].concat();
    assert!(numbers[0] < numbers[1]);
    numbers.sort_unstable();
    assert_eq!(numbers, ["110001", "110002", "110003"]);
    assert_eq!((two.element_texts("pin").len(), two.element_texts("balance_without_vat")), (2, vec!["2.0", "2.0"]));
    ten_dollars.assert_body(
        "<page>
  <cards>
    <card>
      <pin>0042</pin>
      <number>0000000042</number>
      <balance_without_vat>10.0840336134454</balance_without_vat>
      <currency>USD</currency>
    </card>
  </cards>
</page>",
    );
    assert_eq!(euro.element_texts("number"), ["700001"]);
    server.assert_rows(TOGETHER, &["6 7 51 52 53", "9"]).await;
    // To the letter what single sales write.
    const WRITTEN: &str = "select c.number, p.amount, p.currency, p.tax, p.owner_id, p.paymenttype, p.completed, p.card, p.description,
            array_to_string(array(select concat_ws(' ', a.user_id, a.action, a.target_type, a.data, a.data2, a.data3) from actions a
                where a.target_id = p.id and a.target_type = 'Payment' or a.target_id = c.id and a.target_type = 'Card' order by a.action), ', ') as actions
        from payments p join cards c on c.id = p.user_id where p.kind = 'sale' and c.sold = 1 and c.active = 1 and c.id <> 9 order by c.id";
    let together = server.rows(WRITTEN).await;
    let alone = one_at_once().await;
    for (group, quantity) in [(11, 2), (6, 1), (11, 1), (7, 1)] {
        buy(&alone, group, quantity, "").await;
    }
    assert_eq!(together.len(), 5);
    assert_eq!(together, alone.rows(WRITTEN).await);
    server.assert_rows("select * from card_stock_differences", &[]).await;
}

#[tokio::test]
async fn too_few_cards_are_shared_as_they_come_and_touch_nobody_else() {
    let server = one_at_once().await;
    let others = async {
        tokio::join!(
            buy(&server, 11, 2, ""),
            buy(&server, 11, 2, ""),
            buy(&server, 7, 1, ""),
            buy(&server, 8, 1, ""),
            buy(&server, 77, 1, "")
        )
    };
    let (_, (one, other, euro, hidden, none)) = held_up(&server, 5, others).await;
    let mut counts = [one.element_texts("number").len(), other.element_texts("number").len()];
    counts.sort_unstable();
    assert_eq!(counts, [1, 2]);
    assert_eq!(euro.element_texts("number"), ["700001"]);
    hidden.assert_page_error("Cardgroup was not found");
    none.assert_page_error("Cardgroup was not found");
}

#[tokio::test]
async fn a_card_that_may_come_free_again_is_waited_for() {
    let server = one_at_once().await;
    let mut card = server.pool.begin().await.unwrap();
    sqlx::query("select from cards where id = 53 for update").execute(&mut *card).await.unwrap();
    let mut voucher = server.pool.begin().await.unwrap();
    sqlx::query("select from vouchers where number = '900001' for update").execute(&mut *voucher).await.unwrap();
    let all = async {
        with_timeout("the first sale's wait", server.wait_for_lock_waiter()).await;
        let mut all = pin!(buy(&server, 11, 3, ""));
        tokio::select! {
            _ = &mut all => panic!("it didn't wait for the first sale"),
            () = until_waiting(&server, 1) => voucher.rollback().await.unwrap(),
        }
        let waits_again = async {
            until_waiting(&server, 0).await;
            with_timeout("the wait for the card", server.wait_for_lock_waiter()).await;
        };
        tokio::select! {
            reply = &mut all => panic!("it didn't wait for the card: {}", reply.body),
            () = waits_again => card.rollback().await.unwrap(),
        }
        all.await
    };
    let (_, all) = tokio::join!(buy(&server, 9, 1, ""), all);
    assert_eq!(all.element_texts("number"), ["110001", "110002", "110003"]);
}

#[tokio::test]
async fn one_that_the_database_refuses_doesnt_take_the_others_along() {
    let server = one_at_once().await;
    server.execute("alter table payments add constraint not_for_two check (amount <> 2)").await;
    let others = async { tokio::join!(buy(&server, 6, 1, ""), buy(&server, 11, 1, ""), buy(&server, 7, 1, "")) };
    let (_, (ten_dollars, refused, euro)) = held_up(&server, 3, others).await;
    assert_eq!((ten_dollars.element_texts("number").len(), euro.element_texts("number").len()), (1, 1));
    refused.assert_page_error("Failed to make transaction");
    server.assert_rows("select id from cards where cardgroup_id = 11 and sold = 1", &[]).await;
    server.assert_rows("select count(*) from payments where kind = 'sale'", &["3"]).await;
    server.assert_rows("select * from card_stock_differences", &[]).await;
}

#[tokio::test]
async fn what_differs_goes_apart() {
    let server = one_at_once().await;
    let others =
        async { tokio::join!(buy(&server, 6, 1, ""), buy(&server, 7, 1, "&curr=EUR"), buy(&server, 11, 1, "")) };
    let (_, (_, euro, _)) = held_up(&server, 3, others).await;
    assert_eq!(euro.element_texts("currency"), ["EUR"]);
    server.assert_rows(TOGETHER, &["6 51", "7", "9"]).await;
}

/// The replies that are kept, by their keys.
const KEPT: &str = "select key, user_id, operation, length(fingerprint), reply from idempotency_keys order by key";

#[tokio::test]
async fn keys_go_together_and_each_is_answered_again_as_before() {
    let server = one_at_once().await;
    let sales: [(u32, u32, &str); 4] =
        [(11, 2, "&request_id=a"), (6, 1, "&request_id=b"), (11, 1, ""), (7, 1, "&request_id=c")];
    // One after the other, so that it is known who gets which cards.
    let [two, ten_dollars, third, euro] = std::array::from_fn(|place| {
        let (group, quantity, key) = sales[place];
        let server = &server;
        async move {
            until_waiting(server, place).await;
            buy(server, group, quantity, key).await
        }
    });
    let others = async { tokio::join!(two, ten_dollars, third, euro) };
    let (first, firsts) = held_up(&server, 4, others).await;
    let firsts = <[Reply; 4]>::from(firsts);
    assert_eq!(first.element_texts("number"), ["900001"]);
    assert_eq!(
        firsts.each_ref().map(|reply| reply.element_texts("number").join(" ")),
        ["110001 110002", "0000000042", "110003", "700001"]
    );
    server.assert_rows(TOGETHER, &["6 7 51 52 53", "9"]).await;
    for ((group, quantity, key), first) in sales.into_iter().zip(&firsts).filter(|((.., key), _)| !key.is_empty()) {
        let again = buy(&server, group, quantity, key).await;
        assert_eq!((&again.body, again.header("idempotency-replayed")), (&first.body, Some("true")));
    }
    server.assert_rows("select count(*) from payments where kind = 'sale'", &["6"]).await;
    let alone = one_at_once().await;
    for (group, quantity, key) in sales {
        buy(&alone, group, quantity, key).await;
    }
    assert_eq!(server.rows(KEPT).await, alone.rows(KEPT).await);
}

#[tokio::test]
async fn a_key_that_is_known_doesnt_take_the_others_along() {
    let server = one_at_once().await;
    let before = buy(&server, 6, 1, "&request_id=known").await;
    let others = async {
        tokio::join!(
            buy(&server, 6, 1, "&request_id=known"),
            buy(&server, 7, 1, "&request_id=known"),
            buy(&server, 11, 1, "&request_id=new"),
            buy(&server, 11, 1, "")
        )
    };
    // Of those with the same key the second isn't begun before the first is answered.
    let log = LogCapture::start();
    let (_, (known, other, new, plain)) = held_up(&server, 3, others).await;
    assert_eq!((&known.body, known.header("idempotency-replayed")), (&before.body, Some("true")));
    other.assert_status_error("The idempotency key was sent with other parameters before");
    assert_eq!(log.count("ERROR"), 0, "{}", log.text());
    let mut numbers = [new.element_texts("number"), plain.element_texts("number")].concat();
    numbers.sort_unstable();
    assert_eq!(numbers, ["110001", "110002"]);
    const SOLD: &str =
        "select c.cardgroup_id from payments p join cards c on c.id = p.user_id where kind = 'sale' order by c.id";
    server.assert_rows(SOLD, &["6", "9", "11", "11"]).await;
    server.assert_rows("select * from card_stock_differences", &[]).await;
}

#[tokio::test]
async fn a_key_whose_group_is_short_is_kept_as_it_is_answered() {
    let server = one_at_once().await;
    let others = async {
        tokio::join!(
            buy(&server, 11, 4, "&request_id=a"),
            buy(&server, 6, 1, "&request_id=b"),
            buy(&server, 77, 1, "&request_id=c")
        )
    };
    let (_, (three, one, none)) = held_up(&server, 3, others).await;
    assert_eq!((three.element_texts("number").len(), one.element_texts("number").len()), (3, 1));
    none.assert_page_error("Cardgroup was not found");
    for (group, quantity, key, first) in [(11, 4, "a", three), (6, 1, "b", one), (77, 1, "c", none)] {
        let again = buy(&server, group, quantity, &format!("&request_id={key}")).await;
        assert_eq!((again.body, again.status), (first.body, first.status));
    }
    server.assert_rows("select count(*) from payments where kind = 'sale'", &["5"]).await;
}

#[tokio::test]
async fn a_buyer_who_goes_once_it_is_begun_can_ask_again() {
    let server = one_at_once().await;
    let mut lock = server.pool.begin().await.unwrap();
    sqlx::query("lock table payments in access exclusive mode").execute(&mut *lock).await.unwrap();
    let others = async {
        with_timeout("the first sale's wait", server.wait_for_lock_waiter()).await;
        let mut leaving = pin!(buy(&server, 6, 1, "&request_id=a"));
        let begun = async {
            until_waiting(&server, 1).await;
            // The first sale is given up, and the other begins.
            server.terminate_lock_waiters().await;
            until_waiting(&server, 0).await;
            with_timeout("the other's wait", server.wait_for_lock_waiter()).await;
        };
        tokio::select! {
            _ = &mut leaving => panic!("it didn't wait"),
            () = begun => {}
        }
    };
    let ((), _) = tokio::join!(others, buy(&server, 7, 1, ""));
    // Who asks again waits for what is under way.
    let release = async { lock.rollback().await.unwrap() };
    let (again, ()) = tokio::join!(buy(&server, 6, 1, "&request_id=a"), release);
    assert_eq!((again.element_texts("number").len(), again.header("idempotency-replayed")), (1, Some("true")));
    server.assert_rows("select user_id from payments where kind = 'sale'", &["6"]).await;
}

#[tokio::test]
async fn a_buyer_who_goes_while_waiting_buys_nothing_and_may_ask_again_at_once() {
    let server = one_at_once().await;
    let others = async {
        let mut leaving = pin!(buy(&server, 6, 1, "&request_id=a"));
        tokio::select! {
            _ = &mut leaving => panic!("it didn't wait"),
            () = until_waiting(&server, 1) => {}
        }
    };
    let left = async {
        others.await;
        until_waiting(&server, 0).await;
        // Nobody is at the key any more, or this would wait for it rather than for the first sale.
        tokio::join!(buy(&server, 7, 1, ""), buy(&server, 11, 1, "&request_id=a"))
    };
    let (_, (euro, other)) = held_up(&server, 2, left).await;
    assert_eq!((euro.element_texts("number"), other.element_texts("number")), (vec!["700001"], vec!["110001"]));
    server.assert_rows(TOGETHER, &["7 51", "9"]).await;
}

/// Sales that wait have little patience here.
fn without_patience(server: &Server) -> SaleBatcher {
    SaleBatcher::new(server.requests(), 1, Duration::ZERO)
}

#[tokio::test]
async fn while_a_statement_sells_for_several_half_as_many_run() {
    let server = one_at_once().await;
    let together = SaleBatcher::new(server.requests(), 2, Duration::from_secs(300));
    let alone = || match together.submit(0, order) {
        Dispatch::Immediate(place) => place,
        Dispatch::Queued(_) => panic!("there was room"),
    };
    let waits = |group_id| match together.submit(0, || SaleOrder { group_id, ..order() }) {
        Dispatch::Immediate(_) => panic!("there was no room"),
        Dispatch::Queued(others) => others,
    };
    let (one, other) = (alone(), alone());
    let (second, third) = (waits(6), waits(7));
    // Beside a single sale they are made, once there are tasks again.
    drop(one);
    assert_eq!(together.queued_sales(), 0);
    let last = waits(11);
    // Beside theirs none is.
    drop(other);
    assert_eq!(together.queued_sales(), 1);
    for others in [second, third, last] {
        let BatchOutcome::Sold(cards) = with_timeout("the sale", others.wait_for_outcome()).await else {
            panic!("it wasn't made")
        };
        assert_eq!(cards.len(), 1);
    }
    assert_eq!(together.queued_sales(), 0);
    let _both = (alone(), alone());
}

fn order() -> SaleOrder {
    let alike = BatchKey { user_id: 0, owner_id: 0, currency: "USD".to_owned(), rate: 1.into() };
    SaleOrder { group_id: 6, quantity: 1, key: None, batch_key: alike }
}

#[tokio::test]
async fn what_differs_goes_beside_each_other_where_there_is_room() {
    let server = one_at_once().await;
    let together = SaleBatcher::new(server.requests(), 2, Duration::from_secs(300));
    let begin = |group_id, currency: &str| {
        together.submit(0, || SaleOrder {
            group_id,
            batch_key: BatchKey { currency: currency.to_owned(), ..order().batch_key },
            ..order()
        })
    };
    let waits = |group, currency| match begin(group, currency) {
        Dispatch::Immediate(_) => panic!("there was room"),
        Dispatch::Queued(others) => others,
    };
    let mut payments = server.pool.begin().await.unwrap();
    sqlx::query("lock table payments in access exclusive mode").execute(&mut *payments).await.unwrap();
    let mut voucher = server.pool.begin().await.unwrap();
    sqlx::query("select from vouchers where number = '900001' for update").execute(&mut *voucher).await.unwrap();
    let places = (begin(6, "USD"), begin(6, "USD"));
    let both = (waits(6, "USD"), waits(7, "USD"));
    drop(places);
    let (held_up, last) = (waits(9, "USD"), waits(11, "EUR"));
    with_timeout("the first wait", server.wait_for_lock_waiter()).await;
    payments.rollback().await.unwrap();
    for others in [both.0, both.1, last] {
        assert!(matches!(with_timeout("the sale", others.wait_for_outcome()).await, BatchOutcome::Sold(_)));
    }
    voucher.rollback().await.unwrap();
    assert!(matches!(with_timeout("the sale", held_up.wait_for_outcome()).await, BatchOutcome::Sold(_)));
}

#[tokio::test]
async fn a_sale_that_isnt_begun_soon_is_left_alone() {
    let server = server_with_settings(&[]).await;
    let together = without_patience(&server);
    let Dispatch::Immediate(_place) = together.submit(0, order) else { panic!("nobody sells") };
    let Dispatch::Queued(others) = together.submit(0, order) else { panic!("one sells already") };
    assert!(matches!(others.wait_for_outcome().await, BatchOutcome::RetryAlone));
    assert_eq!(together.queued_sales(), 0);
    server.assert_rows("select count(*) from payments", &["0"]).await;
    // Another caller's sales wait for nobody.
    assert!(matches!(together.submit(3, order), Dispatch::Immediate(_)));
}

#[tokio::test]
async fn a_sale_that_is_begun_is_waited_for() {
    let server = server_with_settings(&[]).await;
    let together = without_patience(&server);
    let Dispatch::Immediate(place) = together.submit(0, order) else { panic!("nobody sells") };
    let Dispatch::Queued(others) = together.submit(0, order) else { panic!("one sells already") };
    // The statement can't begin before this task waits.
    drop(place);
    let BatchOutcome::Sold(cards) = others.wait_for_outcome().await else { panic!("it was left") };
    assert_eq!(cards.len(), 1);
    server.assert_rows("select count(*) from payments", &["1"]).await;
    assert!(matches!(together.submit(0, order), Dispatch::Immediate(_)));
}

#[tokio::test]
async fn all_are_in_doubt_when_the_connection_is_lost() {
    let server = one_at_once().await;
    let others = async { tokio::join!(buy(&server, 6, 1, ""), buy(&server, 11, 1, "&request_id=a")) };
    let held = async {
        let mut lock = server.pool.begin().await.unwrap();
        sqlx::query("lock table payments in access exclusive mode").execute(&mut *lock).await.unwrap();
        let cut = async {
            with_timeout("the first sale's wait", server.wait_for_lock_waiter()).await;
            until_waiting(&server, 2).await;
            // The first sale's connection is lost, and then that of those who waited for it.
            server.terminate_lock_waiters().await;
            until_waiting(&server, 0).await;
            with_timeout("the others' wait", server.wait_for_lock_waiter()).await;
            server.terminate_lock_waiters().await;
            lock.rollback().await.unwrap();
        };
        let others = async {
            with_timeout("the first sale's wait", server.wait_for_lock_waiter()).await;
            others.await
        };
        tokio::join!(buy(&server, 7, 1, ""), others, cut)
    };
    let (first, (one, other), ()) = held.await;
    for reply in [first, one] {
        reply.assert_status_error("The database was lost during the request, which may have been carried out");
    }
    other.assert_status_error("The database was lost during the request: send it again with the same idempotency key");
    server.assert_rows("select count(*) from payments", &["0"]).await;
}
