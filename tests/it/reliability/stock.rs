//! The table `card_stock`, which triggers on `cards` maintain, and the constraints of the schema.

use futures_util::future::join_all;

use crate::harness::log::LogCapture;
use crate::harness::{FIXTURE_SQL, Server, postgres, server, server_on_database, server_with_settings, with_timeout};

#[tokio::test]
async fn every_write_to_cards_updates_card_stock() {
    let server = server().await;
    for change in [
        "insert into cards (cardgroup_id, number, pin, sold, hidden)
         values (6, '1', '1', 0, 0), (6, '2', '2', 1, 0), (6, '3', '3', 0, 1), (6, null, '4', 0, 0)",
        "update cards set sold = 1 where number in ('1', '2')",
        "update cards set sold = 0 where number in ('1', '2')",
        "update cards set hidden = 1 - hidden",
        "update cards set hidden = 1 - hidden",
        "update cards set retired_at = now() where id % 2 = 0",
        "update cards set retired_at = null",
        "update cards set withheld = case id % 4 when 0 then 'blocked' when 1 then 'assigned' when 2 then 'reserved' end",
        "insert into cards (cardgroup_id, number, pin, withheld, quarantined_at)
         values (6, '11', '11', 'reserved', null), (6, '12', '12', null, now())",
        "update cards set quarantined_at = now() where id % 3 = 0",
        "update cards set withheld = null where id % 2 = 0",
        "update cards set withheld = null, quarantined_at = null",
        "update cards set number = 'x' || number where hidden = 0",
        "update cards set cardgroup_id = 7 where cardgroup_id = 6",
        "update cards set id = id + 1000, sold = 0 where number is not null",
        "update cards set balance = 1",
        "delete from cards where id % 3 = 0",
        "set session_replication_role = replica;
         update cards set sold = 1 where id % 5 = 0; delete from cards where id % 7 = 0;
         insert into cards (cardgroup_id, number, pin) values (6, '8', '8'); set session_replication_role = origin",
        "truncate cards cascade",
    ] {
        server.execute(change).await;
        assert!(server.rows("select * from card_stock_differences").await.is_empty(), "after {change}");
    }
    server.assert_rows("select count(*) from card_stock", &["0"]).await;
}

const FREE: &str = "update cards set sold = 0 where id = 6";
const DELETE_PAYMENT: &str = "delete from payments where kind = 'sale' and user_id = 6";
const IS_IN_STOCK: &str = "select exists (select from card_stock where card_id = 6)";

/// Buys cards of group 6; returns their numbers.
async fn buy(server: &Server, quantity: u32, extra_params: &str) -> Vec<String> {
    let form = format!("u=admin&id=6&quantity={quantity}{extra_params}");
    let reply = server.post_signed("card_from_group_sell", &form, &format!("6{quantity}")).await;
    assert!(!reply.body.contains("<error>"), "{reply:?}");
    reply.element_texts("number").into_iter().map(str::to_owned).collect()
}

async fn assert_no_differences(server: &Server) {
    server.assert_rows("select * from card_stock_differences", &[]).await;
}

#[tokio::test]
async fn refund_by_hand_puts_the_card_back_into_stock_in_any_order() {
    for steps in [[FREE, DELETE_PAYMENT], [DELETE_PAYMENT, FREE]] {
        let server = server().await;
        assert_eq!(buy(&server, 1, "").await, ["0000000042"]);
        server.execute(steps[0]).await;
        // The card is paid or sold: it does not come into stock.
        server.assert_rows(IS_IN_STOCK, &["false"]).await;
        assert_no_differences(&server).await;
        server.execute(steps[1]).await;
        server.assert_rows(IS_IN_STOCK, &["true"]).await;
        assert_no_differences(&server).await;
        assert_eq!(buy(&server, 1, "").await, ["0000000042"]);
        server.assert_rows("select count(*) from payments where kind = 'sale' and user_id = 6", &["1"]).await;
    }
}

/// The triggers of both changes run at the end of the statement, in the order in which it made the changes.
#[tokio::test]
async fn refund_in_one_statement_puts_the_card_back_into_stock() {
    for [first_step, second_step] in [[FREE, DELETE_PAYMENT], [DELETE_PAYMENT, FREE]] {
        let server = server().await;
        buy(&server, 1, "").await;
        // The second step needs the result of the first one, so that the order is certain.
        let refund =
            format!("with first as ({first_step} returning 1) {second_step} and (select count(*) from first) = 1");
        server.execute(&refund).await;
        server.assert_rows(IS_IN_STOCK, &["true"]).await;
        assert_no_differences(&server).await;
    }
}

/// Each transaction sees only the other's committed changes: the second one waits for the lock of the card.
#[tokio::test]
async fn refund_by_two_transactions_puts_the_card_back_into_stock() {
    for [first_step, second_step] in [[FREE, DELETE_PAYMENT], [DELETE_PAYMENT, FREE]] {
        let server = server().await;
        buy(&server, 1, "").await;
        let mut first = server.pool.begin().await.unwrap();
        sqlx::raw_sql(first_step).execute(&mut *first).await.unwrap();
        let second = server.execute(second_step);
        let commit_first = async {
            with_timeout("the second transaction to wait", server.wait_for_lock_waiter()).await;
            first.commit().await.unwrap();
        };
        with_timeout("both transactions", async { tokio::join!(second, commit_first) }).await;
        server.assert_rows(IS_IN_STOCK, &["true"]).await;
        assert_no_differences(&server).await;
    }
}

/// A card that was issued in exchange for another one is never sold, whatever its row says.
#[tokio::test]
async fn reissue_keeps_the_card_out_of_stock() {
    let server = server().await;
    server.execute("insert into payments (kind, user_id, replaces_card) values ('reissue', 6, 4)").await;
    server.execute("update cards set sold = 1 where id = 6; update cards set sold = 0 where id = 6").await;
    server.assert_rows(IS_IN_STOCK, &["false"]).await;
    assert_no_differences(&server).await;
    assert_eq!(buy(&server, 1, "").await, ["1111111001"]);
    server.execute("delete from payments where kind = 'reissue'").await;
    server.assert_rows(IS_IN_STOCK, &["true"]).await;
    assert_no_differences(&server).await;
}

#[tokio::test]
async fn changed_sale_payments_move_cards_into_and_out_of_stock() {
    let server = server().await;
    buy(&server, 1, "").await;
    server.execute(FREE).await;
    for (change, in_stock) in [
        ("update payments set user_id = 3 where user_id = 6", ["1", "2", "6"].as_slice()),
        ("update payments set user_id = 6 where user_id = 3", &["1", "2", "3"]),
        ("update payments set kind = null where user_id = 6", &["1", "2", "3", "6"]),
        ("update payments set kind = 'sale' where user_id = 6", &["1", "2", "3"]),
        (
            "set session_replication_role = replica; delete from payments; set session_replication_role = origin",
            &["1", "2", "3", "6"],
        ),
    ] {
        server.execute(change).await;
        server.assert_rows("select card_id from card_stock where cardgroup_id = 6 order by 1", in_stock).await;
        assert_no_differences(&server).await;
    }
}

/// A program that bypassed the triggers can leave stock rows with another number than the card's.
#[tokio::test]
async fn outdated_stock_row_of_a_paid_card_does_not_block_its_group() {
    let server = server().await;
    server.execute("insert into card_stock select cardgroup_id, '0', id from cards where number = '0000000042'").await;
    insert_payments(&server, "'0000000042'").await;
    let numbers = with_timeout("a sale past the outdated row", buy(&server, 1, "")).await;
    assert_eq!(numbers, ["1111111001"]);
}

/// Inserts sale payments for cards that are not sold.
async fn insert_payments(server: &Server, numbers: &str) {
    let cards = format!("from cards where number in ({numbers})");
    server.execute(&format!("insert into payments (kind, user_id, amount) select 'sale', id, 1 {cards}")).await;
}

#[tokio::test]
async fn inserted_sale_payment_does_not_block_its_group() {
    let log = LogCapture::start();
    let server = server_with_settings(&[("sale_concurrency", "1")]).await;
    server
        .execute(
            "insert into cards (cardgroup_id, number, pin)
             select 6, 2000000000 + i, 20000 + i from generate_series(1, 20) i",
        )
        .await;
    insert_payments(&server, "'0000000042', '1111111002'").await;
    assert_eq!(buy(&server, 1, "").await, ["1111111001"]);
    assert_eq!(buy(&server, 1, "&request_id=key").await, ["1111111003"]);
    assert_eq!(buy(&server, 1, "&request_id=key").await, ["1111111003"], "the stored reply");
    assert!(log.text().contains("paid cards removed from the stock"), "{}", log.text());
    // Some of these sales share a statement.
    insert_payments(&server, "'2000000001', '2000000004'").await;
    let mut numbers: Vec<String> = join_all((0..8).map(|_| buy(&server, 1, ""))).await.concat();
    numbers.sort();
    let expected: Vec<String> = [2, 3, 5, 6, 7, 8, 9, 10].iter().map(|last| format!("20000000{last:02}")).collect();
    assert_eq!(numbers, expected);
    // With fewer cards in stock than requested.
    insert_payments(&server, "'2000000015'").await;
    assert_eq!(buy(&server, 12, "").await.len(), 9);
    assert_no_differences(&server).await;
    // No paid card was sold: 19 sales, 5 payments by hand.
    server.assert_rows("select count(*) from payments where kind = 'sale'", &["24"]).await;
    server.assert_rows("select count(*) from cards where sold = 1 and cardgroup_id = 6", &["20"]).await;
}

#[tokio::test]
async fn card_stock_differences_lists_missing_and_extra_cards() {
    let server = server().await;
    server
        .execute("delete from card_stock where card_id = 1; insert into card_stock values (6, '1111111000', 4)")
        .await;
    server.assert_rows("select * from card_stock_differences order by 1", &["1|true", "4|false"]).await;
}

/// MOR's schema does not enforce these rules.
#[tokio::test]
async fn constraints_reject_invalid_rows() {
    let server = server_on_database(&postgres::create_database(FIXTURE_SQL).await, &[]).await;
    for (statement, constraint) in [
        ("update cards set sold = 2 where id = 1", "cards_sold"),
        ("update cards set hidden = -1 where id = 1", "cards_hidden"),
        ("update cards set pin = '1001' where id = 1", "cards_pin"),
        ("update cards set number = '1111111001' where id = 1", "cards_group_number"),
        ("update cards set number = '700001' where id = 1", "cards_number"),
        // The number of another owner's card, and of two cards of one owner that share their numbers with others.
        ("update cards set number = '700001', owner_id = 3 where id = 1", "cards_number"),
        ("update cards set number = '700001', owner_id = 3, shares_number = true where id in (1, 8)", "cards_number"),
        ("update cards set withheld = 'lost' where id = 1", "cards_withheld"),
        ("update cards set callerid = '3701111' where id = 1", "cards_callerid"),
        ("update cards set cardgroup_id = 999 where id = 1", "cards_cardgroup_id_fkey"),
        ("insert into tariffs (name, owner_id) values ('a', 1), ('a', 1)", "tariffs_owner_name"),
        ("insert into cardgroups (name) values ('hidden')", "cardgroups_name"),
        ("insert into currencies (id, name) values (90, 'EUR')", "currencies_name_key"),
        ("insert into currencies (id, name) values (90, 'TOOLONG')", "currencies_name_check"),
        ("insert into payments (kind) values ('gift')", "payments_kind_check"),
        ("insert into payments (kind, user_id) values ('sale', 1), ('sale', 1)", "payments_sale_card_unique"),
        ("insert into payments (kind, user_id) values ('sale', 1), ('reissue', 1)", "payments_sale_card_unique"),
        ("insert into payments (replaces_card) values (1), (1)", "payments_replaces_card_unique"),
        ("insert into payments (balance_change) values ('NaN')", "payments_amounts_finite"),
        ("insert into change_log (who, what) values ('command', 'weather')", "change_log_what"),
        ("insert into change_log (who, what, cardgroup_id) values ('command', 'card', 6)", "change_log_numbers"),
        ("insert into acc_rights (id, name) values (90, 'CALLING_CARDS')", "acc_rights_name"),
        ("insert into cclineitems (card_id) values (999)", "cclineitems_card_id_fkey"),
    ] {
        let error = sqlx::raw_sql(statement).execute(&server.pool).await.unwrap_err();
        assert_eq!(error.as_database_error().and_then(|error| error.constraint()), Some(constraint), "{statement}");
    }
    // Several cards may have an empty PIN or caller id. A hidden card may have the number of another group's card.
    // Quarantined cards may have any number and PIN, and cards of other owners that share their number any number.
    server
        .execute(
            "update cards set pin = '', callerid = '' where id in (1, 2);
             update cards set pin = null, callerid = null where id in (1, 2)",
        )
        .await;
    for statement in [
        "update cards set number = '700001' where id = 5",
        "update cards set number = '1111111001', pin = '1001', quarantined_at = now() where id = 1",
        "update cards set cardgroup_id = 6, number = '1111111003', pin = '1003', hidden = 1 where id = 5",
        "update cards set number = '700001', owner_id = 123, shares_number = true where id = 3",
        "update cards set number = '700001', owner_id = 124, shares_number = true where id = 8",
    ] {
        server.execute(statement).await;
    }
}

#[tokio::test]
async fn card_stock_is_vacuumed_after_1000_sales() {
    let server = server().await;
    // The server skips a vacuum while autovacuum has the table locked.
    server.execute("alter table card_stock set (autovacuum_enabled = off)").await;
    server
        .execute(
            "insert into cards (cardgroup_id, number, pin)
             select 6, (2000000 + i)::text, (6000000 + i)::text from generate_series(1, 1000) i",
        )
        .await;
    let is_vacuumed = "select vacuum_count > 0 from pg_stat_user_tables where relname = 'card_stock'";
    server.assert_rows(is_vacuumed, &["false"]).await;
    let reply = server.post_signed("card_from_group_sell", "u=admin&id=6&quantity=1000", "61000").await;
    assert!(reply.body.contains("<pin>"), "{reply:?}");
    let wait_for_vacuum = async {
        while server.rows(is_vacuumed).await != ["true"] {
            tokio::task::yield_now().await;
        }
    };
    // Long enough for a slow machine; without a limit a failing test would not end.
    tokio::time::timeout(std::time::Duration::from_secs(60), wait_for_vacuum).await.expect("no vacuum within 60 s");
}
