//! The table `card_stock`, which triggers on `cards` maintain, and the constraints of the schema.

use crate::harness::{FIXTURE_SQL, postgres, server, server_on_database};

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
        ("update cards set callerid = '3701111' where id = 1", "cards_callerid"),
        ("update cards set cardgroup_id = 999 where id = 1", "cards_cardgroup_id_fkey"),
        ("insert into tariffs (name, owner_id) values ('a', 1), ('a', 1)", "tariffs_owner_name"),
        ("insert into cardgroups (name) values ('hidden')", "cardgroups_name"),
        ("insert into currencies (id, name) values (90, 'EUR')", "currencies_name_key"),
        ("insert into currencies (id, name) values (90, 'TOOLONG')", "currencies_name_check"),
        ("insert into payments (kind) values ('gift')", "payments_kind_check"),
        ("insert into payments (kind, user_id) values ('sale', 1), ('sale', 1)", "payments_sale_card_unique"),
        ("insert into acc_rights (id, name) values (90, 'CALLING_CARDS')", "acc_rights_name"),
        ("insert into cclineitems (card_id) values (999)", "cclineitems_card_id_fkey"),
    ] {
        let error = sqlx::raw_sql(statement).execute(&server.pool).await.unwrap_err();
        assert_eq!(error.as_database_error().and_then(|error| error.constraint()), Some(constraint), "{statement}");
    }
    // Several cards may have an empty PIN or caller id, and a hidden card may have the number of another group's card.
    server
        .execute(
            "update cards set pin = '', callerid = '' where id in (1, 2);
             update cards set pin = null, callerid = null where id in (1, 2)",
        )
        .await;
    server.execute("update cards set number = '700001' where id = 5").await;
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
