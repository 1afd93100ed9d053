//! Sales that wait in the queue and are then made by one statement: each succeeds or fails as if it were made alone.
//! The batcher without the HTTP server is tested in `sale_batcher.rs`.

use std::pin::pin;

use crate::harness::log::LogCapture;
use crate::harness::{Reply, Server, server_with_settings, with_timeout};

/// One sale statement of a caller runs at once, with long timeouts.
const ONE_PERMIT: [(&str, &str); 4] = [
    ("sale_concurrency", "1"),
    ("database_connections", "8"),
    ("database_acquire_timeout_ms", "6000000"),
    ("idempotency_wait_ms", "600000"),
];

/// A server with the settings [`ONE_PERMIT`]. Group 11 has three cards.
pub(super) async fn server_with_one_permit() -> Server {
    let server = server_with_settings(&ONE_PERMIT).await;
    server
        .execute(
            "insert into cards (id, cardgroup_id, number, pin, balance) values
                 (51, 11, '110001', '5001', 2), (52, 11, '110002', '5002', 2), (53, 11, '110003', '5003', 2)",
        )
        .await;
    server
}

async fn buy(server: &Server, group: u32, quantity: u32, extra_params: &str) -> Reply {
    server
        .post_signed(
            "card_from_group_sell",
            &format!("u=admin&id={group}&quantity={quantity}{extra_params}"),
            &format!("{group}{quantity}"),
        )
        .await
}

/// Starts a sale from group 9 that waits for the lock of a voucher, then `others`. When `queued` sales are queued,
/// releases the lock. Returns the reply of the first sale and the output of `others`.
async fn behind_blocked_sale<T>(server: &Server, queued: usize, others: impl Future<Output = T>) -> (Reply, T) {
    let mut transaction = server.pool.begin().await.unwrap();
    sqlx::query("select from vouchers where number = '900001' for update").execute(&mut *transaction).await.unwrap();
    let release = async {
        wait_for_queued(server, queued).await;
        transaction.rollback().await.unwrap();
    };
    let others = async {
        with_timeout("the first sale to wait for the lock", server.wait_for_lock_waiter()).await;
        others.await
    };
    let (first, others, ()) = tokio::join!(buy(server, 9, 1, ""), others, release);
    (first, others)
}

/// Waits until exactly `count` sales are queued.
async fn wait_for_queued(server: &Server, count: usize) {
    let sample = format!("mortise_sales_queued {count}\n");
    with_timeout("queued sales", async { while !server.metrics().await.contains(&sample) {} }).await;
}

/// The sold cards of each transaction.
const CARDS_BY_TRANSACTION: &str =
    "select string_agg(user_id::text, ' ' order by user_id) as cards from payments where kind = 'sale'
    group by date_added order by min(user_id)";

#[tokio::test]
async fn queued_sales_share_one_statement() {
    let server = server_with_one_permit().await;
    let others = async {
        tokio::join!(buy(&server, 11, 2, ""), buy(&server, 6, 1, ""), buy(&server, 11, 1, ""), buy(&server, 7, 1, ""))
    };
    let (first, (two, ten_dollars, third, euro)) = behind_blocked_sale(&server, 4, others).await;
    assert_eq!(first.element_texts("number"), ["900001"]);
    // The order of the sales in the queue is not defined, but each sale gets different cards, in order.
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
    server.assert_rows(CARDS_BY_TRANSACTION, &["6 7 51 52 53", "9"]).await;
    // The rows are those that single sales write.
    const SALE_ROWS: &str = "
        select c.number, p.amount, p.currency, p.tax, p.owner_id, p.caller_id, p.paymenttype, p.completed, p.card, p.description,
            array_to_string(array(
                select concat_ws(' ', a.user_id, a.action, a.target_type, a.data, a.data2, a.data3) from actions a
                where a.target_id = p.id and a.target_type = 'Payment' or a.target_id = c.id and a.target_type = 'Card'
                order by a.action
            ), ', ') as actions
        from payments p join cards c on c.id = p.user_id
        where p.kind = 'sale' and c.sold = 1 and c.active = 1 and c.id <> 9 order by c.id";
    let batched_rows = server.rows(SALE_ROWS).await;
    let unbatched = server_with_one_permit().await;
    for (group, quantity) in [(11, 2), (6, 1), (11, 1), (7, 1)] {
        buy(&unbatched, group, quantity, "").await;
    }
    assert_eq!(batched_rows.len(), 5);
    assert_eq!(batched_rows, unbatched.rows(SALE_ROWS).await);
    server.assert_rows("select * from card_stock_differences", &[]).await;
}

#[tokio::test]
async fn sold_out_group_does_not_affect_its_batch() {
    let server = server_with_one_permit().await;
    let others = async {
        tokio::join!(
            buy(&server, 11, 2, ""),
            buy(&server, 11, 2, ""),
            buy(&server, 7, 1, ""),
            buy(&server, 8, 1, ""),
            buy(&server, 77, 1, "")
        )
    };
    let (_, (one, other, euro, hidden, missing)) = behind_blocked_sale(&server, 5, others).await;
    // The first sale in the queue gets its two cards, the second one the last card.
    let mut counts = [one.element_texts("number").len(), other.element_texts("number").len()];
    counts.sort_unstable();
    assert_eq!(counts, [1, 2]);
    assert_eq!(euro.element_texts("number"), ["700001"]);
    hidden.assert_page_error("Cardgroup was not found");
    missing.assert_page_error("Cardgroup was not found");
}

#[tokio::test]
async fn queued_sale_waits_for_a_locked_card() {
    let server = server_with_one_permit().await;
    let mut card_lock = server.pool.begin().await.unwrap();
    sqlx::query("select from cards where id = 53 for update").execute(&mut *card_lock).await.unwrap();
    let mut voucher_lock = server.pool.begin().await.unwrap();
    sqlx::query("select from vouchers where number = '900001' for update").execute(&mut *voucher_lock).await.unwrap();
    let queued_sale = async {
        with_timeout("the first sale to wait for the voucher", server.wait_for_lock_waiter()).await;
        let mut sale = pin!(buy(&server, 11, 3, ""));
        tokio::select! {
            _ = &mut sale => panic!("the sale did not wait for the first sale"),
            () = wait_for_queued(&server, 1) => voucher_lock.rollback().await.unwrap(),
        }
        let card_wait = async {
            wait_for_queued(&server, 0).await;
            with_timeout("the sale to wait for the card", server.wait_for_lock_waiter()).await;
        };
        tokio::select! {
            reply = &mut sale => panic!("the sale did not wait for the card: {}", reply.body),
            () = card_wait => card_lock.rollback().await.unwrap(),
        }
        sale.await
    };
    let (_, reply) = tokio::join!(buy(&server, 9, 1, ""), queued_sale);
    assert_eq!(reply.element_texts("number"), ["110001", "110002", "110003"]);
}

#[tokio::test]
async fn refused_sale_does_not_fail_its_batch() {
    let server = server_with_one_permit().await;
    server.execute("alter table payments add constraint amount_is_not_two check (amount <> 2)").await;
    let others = async { tokio::join!(buy(&server, 6, 1, ""), buy(&server, 11, 1, ""), buy(&server, 7, 1, "")) };
    let (_, (ten_dollars, refused, euro)) = behind_blocked_sale(&server, 3, others).await;
    assert_eq!((ten_dollars.element_texts("number").len(), euro.element_texts("number").len()), (1, 1));
    refused.assert_page_error("Failed to make transaction");
    server.assert_rows("select id from cards where cardgroup_id = 11 and sold = 1", &[]).await;
    server.assert_rows("select count(*) from payments where kind = 'sale'", &["3"]).await;
    // From then on the sales of that group run alone: the others share a statement.
    server
        .execute(
            "update cards set number = '900009' where id = 9; update cards set number = '900001' where id = 10;
             update vouchers set use_date = null where number = '900001'",
        )
        .await;
    let others = async { tokio::join!(buy(&server, 6, 1, ""), buy(&server, 11, 1, ""), buy(&server, 6, 1, "")) };
    let (_, (_, refused, _)) = behind_blocked_sale(&server, 2, others).await;
    refused.assert_page_error("Failed to make transaction");
    server
        .assert_rows(
            "select count(*) from payments where kind = 'sale' group by date_added order by 1",
            &["1", "1", "1", "1", "2"],
        )
        .await;
    server.assert_rows("select * from card_stock_differences", &[]).await;
}

/// A key that another server uses makes one batch fail. From then on sales with this key run alone: the others share a
/// statement.
#[tokio::test]
async fn key_in_use_elsewhere_fails_one_batch() {
    const CLAIM_WAITERS: &str = "select pid from pg_stat_activity where wait_event_type = 'Lock'
        and datname = current_database() and query like '%on conflict (user_id, operation, key)%'";
    let server = server_with_one_permit().await;
    for _ in 0..2 {
        let mut other_server = server.pool.begin().await.unwrap();
        sqlx::query(
            "insert into idempotency_keys (user_id, operation, key, fingerprint)
             values (0, 'card_from_group_sell', 'busy', '')",
        )
        .execute(&mut *other_server)
        .await
        .unwrap();
        let is_isolated = !server.rows("select from payments").await.is_empty();
        let others = async {
            let plain_sales = async {
                let replies = tokio::join!(buy(&server, 11, 1, ""), buy(&server, 6, 1, ""));
                // The other server ends its transaction after the sale has failed on the fast path.
                server.wait_for_rows(CLAIM_WAITERS, |waiters| !waiters.is_empty()).await;
                other_server.rollback().await.unwrap();
                replies
            };
            tokio::join!(buy(&server, 6, 1, "&request_id=busy"), plain_sales)
        };
        let queued = if is_isolated { 2 } else { 3 };
        let (_, (busy, (one, other))) = behind_blocked_sale(&server, queued, others).await;
        for reply in [busy, one, other] {
            assert_eq!(reply.element_texts("pin").len(), 1, "{}", reply.body);
        }
        server
            .execute(
                "delete from idempotency_keys where key = 'busy';
                 update cards set number = '900009' where id = 9; update cards set number = '900001' where id = 10;
                 update vouchers set use_date = null where number = '900001'",
            )
            .await;
    }
    server
        .assert_rows(
            "select count(*) from payments where kind = 'sale' group by date_added order by 1",
            &["1", "1", "1", "1", "1", "1", "2"],
        )
        .await;
}

/// Sales whose batch failed run alone, as many at once as other sales that are not batched.
#[tokio::test]
async fn sales_of_a_failed_batch_wait_for_a_permit() {
    const CANCEL: &str = "select pg_cancel_backend(pid) from pg_stat_activity
        where wait_event_type = 'Lock' and datname = current_database()";
    let server = server_with_one_permit().await;
    let mut transaction = server.pool.begin().await.unwrap();
    sqlx::query("lock table payments in access exclusive mode").execute(&mut *transaction).await.unwrap();
    let waiting = "mortise_requests_waiting{queue=\"locks\"} 2\n";
    let fail_batch = async {
        with_timeout("the first sale to wait for the lock", server.wait_for_lock_waiter()).await;
        wait_for_queued(&server, 3).await;
        server.execute(CANCEL).await;
        wait_for_queued(&server, 0).await;
        with_timeout("the batch to wait for the lock", server.wait_for_lock_waiter()).await;
        server.execute(CANCEL).await;
        with_timeout("two sales to wait", async { while !server.metrics().await.contains(waiting) {} }).await;
        transaction.rollback().await.unwrap();
    };
    let batch = async {
        with_timeout("the first sale to wait for the lock", server.wait_for_lock_waiter()).await;
        tokio::join!(buy(&server, 11, 1, ""), buy(&server, 6, 1, ""), buy(&server, 11, 1, ""))
    };
    let (_, (one, two, three), ()) = tokio::join!(buy(&server, 7, 1, ""), batch, fail_batch);
    for reply in [one, two, three] {
        assert_eq!(reply.element_texts("pin").len(), 1, "{}", reply.body);
    }
}

/// Sales of more than eight cards, with an e-mail, of a card number, and all sales in the dialect x7 are not batched.
#[tokio::test]
async fn unbatched_sales_of_a_caller_wait_for_a_permit() {
    let email = "&email=a%40b.c";
    for (dialect, quantity, params) in [
        ("documented", 9, ["", "", ""]),
        ("documented", 1, [email, email, "&number=110139"]),
        ("documented", 1, ["&number=110139", "&number=110140", email]),
        ("x7", 1, ["", "", ""]),
    ] {
        let server = server_with_settings(&[&ONE_PERMIT[..], &[("dialect", dialect)]].concat()).await;
        server
            .execute(
                "insert into cards (id, cardgroup_id, number, pin, balance)
                 select 100 + i, 11, (110100 + i)::text, (6000 + i)::text, 2 from generate_series(1, 40) i",
            )
            .await;
        let mut transaction = server.pool.begin().await.unwrap();
        sqlx::query("lock table payments in access exclusive mode").execute(&mut *transaction).await.unwrap();
        let waiting = "mortise_requests_waiting{queue=\"locks\"} 2\n";
        let release = async {
            with_timeout("two sales to wait", async { while !server.metrics().await.contains(waiting) {} }).await;
            transaction.rollback().await.unwrap();
        };
        let sell = |position: usize| {
            let email = if params[position] == email { "a@b.c" } else { "" };
            let form = format!("u=admin&id=11&quantity={quantity}{}", params[position]);
            let server = &server;
            async move { server.post_signed("card_from_group_sell", &form, &format!("{email}11{quantity}")).await }
        };
        let (first, second, third, ()) = tokio::join!(sell(0), sell(1), sell(2), release);
        for reply in [first, second, third] {
            assert_eq!(reply.element_texts("number").len(), quantity, "{dialect} {params:?}: {}", reply.body);
        }
    }
}

/// Sales that wait for locked cards occupy only the connections of their caller's permits. The caller's other sales do
/// not wait for them.
#[tokio::test]
async fn sales_of_locked_cards_wait_for_a_permit() {
    let server = server_with_one_permit().await;
    let mut transaction = server.pool.begin().await.unwrap();
    sqlx::query("select from cards where cardgroup_id = 11 for update").execute(&mut *transaction).await.unwrap();
    let waiting = "mortise_requests_waiting{queue=\"locks\"} 2\n";
    let release = async {
        with_timeout("two sales to wait", async { while !server.metrics().await.contains(waiting) {} }).await;
        let by_number = with_timeout("a sale by number", buy(&server, 6, 1, "&number=42")).await;
        assert_eq!(by_number.element_texts("number"), ["0000000042"], "{}", by_number.body);
        let sold = with_timeout("a sale", buy(&server, 6, 1, "")).await;
        assert_eq!(sold.element_texts("number"), ["1111111001"], "{}", sold.body);
        with_timeout("a refusal", buy(&server, 99, 1, "")).await.assert_page_error("Cardgroup was not found");
        transaction.rollback().await.unwrap();
    };
    let sales = async { tokio::join!(buy(&server, 11, 1, ""), buy(&server, 11, 1, ""), buy(&server, 11, 1, "")) };
    let ((first, second, third), ()) = tokio::join!(sales, release);
    for reply in [first, second, third] {
        assert_eq!(reply.element_texts("number").len(), 1, "{}", reply.body);
    }
}

#[tokio::test]
async fn sales_in_different_currencies_are_not_batched() {
    let server = server_with_one_permit().await;
    let others =
        async { tokio::join!(buy(&server, 6, 1, ""), buy(&server, 7, 1, "&curr=EUR"), buy(&server, 11, 1, "")) };
    let (_, (_, euro, _)) = behind_blocked_sale(&server, 3, others).await;
    assert_eq!(euro.element_texts("currency"), ["EUR"]);
    server.assert_rows(CARDS_BY_TRANSACTION, &["6 51", "7", "9"]).await;
}

const STORED_REPLIES: &str =
    "select key, user_id, operation, length(fingerprint), reply from idempotency_keys order by key";

#[tokio::test]
async fn batched_sales_with_keys_are_replayed() {
    let server = server_with_one_permit().await;
    let sales: [(u32, u32, &str); 4] =
        [(11, 2, "&request_id=a"), (6, 1, "&request_id=b"), (11, 1, ""), (7, 1, "&request_id=c")];
    // Queued one after the other, so that it is known which sale gets which cards.
    let [two, ten_dollars, third, euro] = std::array::from_fn(|position| {
        let (group, quantity, key) = sales[position];
        let server = &server;
        async move {
            wait_for_queued(server, position).await;
            buy(server, group, quantity, key).await
        }
    });
    let others = async { tokio::join!(two, ten_dollars, third, euro) };
    let (first, replies) = behind_blocked_sale(&server, 4, others).await;
    let replies = <[Reply; 4]>::from(replies);
    assert_eq!(first.element_texts("number"), ["900001"]);
    assert_eq!(
        replies.each_ref().map(|reply| reply.element_texts("number").join(" ")),
        ["110001 110002", "0000000042", "110003", "700001"]
    );
    server.assert_rows(CARDS_BY_TRANSACTION, &["6 7 51 52 53", "9"]).await;
    for ((group, quantity, key), reply) in sales.into_iter().zip(&replies).filter(|((.., key), _)| !key.is_empty()) {
        let replay = buy(&server, group, quantity, key).await;
        assert_eq!((&replay.body, replay.header("idempotency-replayed")), (&reply.body, Some("true")));
    }
    server.assert_rows("select count(*) from payments where kind = 'sale'", &["6"]).await;
    let unbatched = server_with_one_permit().await;
    for (group, quantity, key) in sales {
        buy(&unbatched, group, quantity, key).await;
    }
    assert_eq!(server.rows(STORED_REPLIES).await, unbatched.rows(STORED_REPLIES).await);
}

/// The stored replies of one group's sales are cut out of the group's cards: each has the cards of its own sale. The
/// keys are not in the order of the queue.
#[tokio::test]
async fn batched_sales_of_one_group_are_replayed_under_their_own_keys() {
    let server = server_with_one_permit().await;
    let sales: [(u32, u32, &str); 4] =
        [(11, 1, "&request_id=z"), (6, 1, "&request_id=m"), (11, 2, "&request_id=a"), (6, 2, "&request_id=b")];
    let queued: [_; 4] = std::array::from_fn(|position| {
        let (group, quantity, key) = sales[position];
        let server = &server;
        async move {
            wait_for_queued(server, position).await;
            buy(server, group, quantity, key).await
        }
    });
    let [one, first, two, last] = queued;
    let others = async { tokio::join!(one, first, two, last) };
    let (_, replies) = behind_blocked_sale(&server, 4, others).await;
    let replies = <[Reply; 4]>::from(replies);
    assert_eq!(
        replies.each_ref().map(|reply| reply.element_texts("number").join(" ")),
        ["110001", "0000000042", "110002 110003", "1111111001 1111111002"]
    );
    server.assert_rows(CARDS_BY_TRANSACTION, &["2 3 6 51 52 53", "9"]).await;
    for ((group, quantity, key), reply) in sales.into_iter().zip(&replies) {
        let replay = buy(&server, group, quantity, key).await;
        assert_eq!((&replay.body, replay.header("idempotency-replayed")), (&reply.body, Some("true")), "{key}");
    }
    server.assert_rows("select count(*) from payments where kind = 'sale'", &["7"]).await;
}

#[tokio::test]
async fn replayed_key_does_not_affect_other_sales() {
    let server = server_with_one_permit().await;
    let first = buy(&server, 6, 1, "&request_id=known").await;
    let others = async {
        tokio::join!(
            buy(&server, 6, 1, "&request_id=known"),
            buy(&server, 7, 1, "&request_id=known"),
            buy(&server, 11, 1, "&request_id=new"),
            buy(&server, 11, 1, "")
        )
    };
    // Only three are queued: of the two with the same key, the second waits until the first is answered.
    let log = LogCapture::start();
    let (_, (replay, reused, new, plain)) = behind_blocked_sale(&server, 3, others).await;
    assert_eq!((&replay.body, replay.header("idempotency-replayed")), (&first.body, Some("true")));
    reused.assert_status_error("The idempotency key was sent with other parameters before");
    assert_eq!(log.count("ERROR"), 0, "{}", log.text());
    // The statement leaves the known key out, and makes the other two sales.
    let mut numbers = [new.element_texts("number"), plain.element_texts("number")].concat();
    numbers.sort_unstable();
    assert_eq!(numbers, ["110001", "110002"]);
    server.assert_rows(CARDS_BY_TRANSACTION, &["6", "9", "51 52"]).await;
    const GROUPS_OF_SOLD_CARDS: &str =
        "select c.cardgroup_id from payments p join cards c on c.id = p.user_id where kind = 'sale' order by c.id";
    server.assert_rows(GROUPS_OF_SOLD_CARDS, &["6", "9", "11", "11"]).await;
    server.assert_rows("select * from card_stock_differences", &[]).await;
}

#[tokio::test]
async fn incomplete_sales_with_keys_are_replayed() {
    let server = server_with_one_permit().await;
    let others = async {
        tokio::join!(
            buy(&server, 11, 4, "&request_id=a"),
            buy(&server, 6, 1, "&request_id=b"),
            buy(&server, 77, 1, "&request_id=c")
        )
    };
    let (_, (three, one, none)) = behind_blocked_sale(&server, 3, others).await;
    assert_eq!((three.element_texts("number").len(), one.element_texts("number").len()), (3, 1));
    none.assert_page_error("Cardgroup was not found");
    for (group, quantity, key, reply) in [(11, 4, "a", three), (6, 1, "b", one), (77, 1, "c", none)] {
        let replay = buy(&server, group, quantity, &format!("&request_id={key}")).await;
        assert_eq!((replay.body, replay.status), (reply.body, reply.status));
    }
    server.assert_rows("select count(*) from payments where kind = 'sale'", &["5"]).await;
}

#[tokio::test]
async fn batched_sale_of_disconnected_client_is_replayed() {
    let server = server_with_one_permit().await;
    let mut transaction = server.pool.begin().await.unwrap();
    sqlx::query("lock table payments in access exclusive mode").execute(&mut *transaction).await.unwrap();
    let disconnect = async {
        with_timeout("the first sale to wait for the lock", server.wait_for_lock_waiter()).await;
        let mut sale = pin!(buy(&server, 6, 1, "&request_id=a"));
        let batch_started = async {
            wait_for_queued(&server, 1).await;
            // The first sale fails, and the batch with the second one starts.
            server.terminate_lock_waiters().await;
            wait_for_queued(&server, 0).await;
            with_timeout("the batch to wait for the lock", server.wait_for_lock_waiter()).await;
        };
        tokio::select! {
            _ = &mut sale => panic!("the sale did not wait"),
            () = batch_started => {}
        }
    };
    let ((), _) = tokio::join!(disconnect, buy(&server, 7, 1, ""));
    // The retry waits for the running batch.
    let release = async { transaction.rollback().await.unwrap() };
    let (retry, ()) = tokio::join!(buy(&server, 6, 1, "&request_id=a"), release);
    assert_eq!((retry.element_texts("number").len(), retry.header("idempotency-replayed")), (1, Some("true")));
    server.assert_rows("select user_id from payments where kind = 'sale'", &["6"]).await;
}

#[tokio::test]
async fn queued_sale_of_disconnected_client_is_not_made() {
    let server = server_with_one_permit().await;
    let disconnect = async {
        let mut sale = pin!(buy(&server, 6, 1, "&request_id=a"));
        tokio::select! {
            _ = &mut sale => panic!("the sale did not wait"),
            () = wait_for_queued(&server, 1) => {}
        }
    };
    let others = async {
        disconnect.await;
        wait_for_queued(&server, 0).await;
        // The key is unlocked: otherwise the second sale would wait for the key and would not be queued.
        tokio::join!(buy(&server, 7, 1, ""), buy(&server, 11, 1, "&request_id=a"))
    };
    let (_, (euro, retry)) = behind_blocked_sale(&server, 2, others).await;
    assert_eq!((euro.element_texts("number"), retry.element_texts("number")), (vec!["700001"], vec!["110001"]));
    server.assert_rows(CARDS_BY_TRANSACTION, &["7 51", "9"]).await;
}

#[tokio::test]
async fn lost_connection_makes_all_batched_outcomes_unknown() {
    let server = server_with_one_permit().await;
    let mut transaction = server.pool.begin().await.unwrap();
    sqlx::query("lock table payments in access exclusive mode").execute(&mut *transaction).await.unwrap();
    let terminate_sessions = async {
        with_timeout("the first sale to wait for the lock", server.wait_for_lock_waiter()).await;
        wait_for_queued(&server, 2).await;
        // First the connection of the first sale, then that of the batch.
        server.terminate_lock_waiters().await;
        wait_for_queued(&server, 0).await;
        with_timeout("the batch to wait for the lock", server.wait_for_lock_waiter()).await;
        server.terminate_lock_waiters().await;
        transaction.rollback().await.unwrap();
    };
    let batch = async {
        with_timeout("the first sale to wait for the lock", server.wait_for_lock_waiter()).await;
        tokio::join!(buy(&server, 6, 1, ""), buy(&server, 11, 1, "&request_id=a"))
    };
    let (first, (without_key, with_key), ()) = tokio::join!(buy(&server, 7, 1, ""), batch, terminate_sessions);
    for reply in [first, without_key] {
        reply.assert_status_error("The database was lost during the request, which may have been carried out");
    }
    with_key
        .assert_status_error("The database was lost during the request: send it again with the same idempotency key");
    server.assert_rows("select count(*) from payments", &["0"]).await;
}
