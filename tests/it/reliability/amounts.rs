//! Amounts that are not numbers: the database refuses them, and a row that has one stops nothing else.

use futures_util::future::join_all;

use crate::harness::{server, server_with_settings};

/// A row for each table with amounts that has none in the fixture.
const ROWS: &str = "
    insert into payments (amount) values (1);
    insert into ccorders (id, amount) values (1, 1);
    insert into cclineitems (ccorder_id, price) values (1, 1);
    insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency)
        values (0, 0, 'a@b.test', 'm', '{1}', '{1}', 'USD');
    insert into console_accounts (name, role, password_argon2) values ('ann', 'support', '');
    insert into console_submissions (id, account_id, card_id, amount) select 'a', id, 1, 1 from console_accounts;
    insert into rates default values;
    insert into ratedetails default values;
    insert into aratedetails default values;
    insert into acustratedetails default values;
    insert into import_runs (id, started_at, source, server_version, time_zone, snapshot_position, tables)
        values (1, now(), 'mor@mor.test/mor', '5.5', 'UTC', '', '[]');
    insert into import_findings (run_id, rule, \"table\", id, decision) values (1, 'rule', 'cards', 1, 'keep')";

#[tokio::test]
async fn no_column_accepts_nan_or_infinity() {
    let server = server().await;
    server.execute(ROWS).await;
    let columns = server
        .rows(
            "select table_name, column_name, data_type = 'ARRAY' as is_array
             from information_schema.columns join information_schema.tables using (table_schema, table_name)
             where table_schema = 'public' and table_type = 'BASE TABLE' and (udt_name in ('numeric', '_numeric')
                 or udt_name like '%float%' or data_type in ('real', 'double precision'))
                 and table_name <> '_sqlx_migrations'
             order by 1, 2",
        )
        .await;
    assert!(columns.len() >= 30, "{columns:?}");
    for column in columns {
        let [table, column, is_array] = column.split('|').collect::<Vec<_>>().try_into().unwrap();
        for value in ["NaN", "Infinity", "-Infinity"] {
            let value = if is_array == "true" { format!("{{{value}}}") } else { value.to_owned() };
            let update = format!("update {table} set {column} = '{value}'");
            let error = sqlx::raw_sql(sqlx::AssertSqlSafe(update.clone())).execute(&server.pool).await.unwrap_err();
            let code = error.as_database_error().and_then(|error| error.code()).unwrap().into_owned();
            // A check, or a column that has no infinite values.
            assert!(code == "23514" || code == "22003" && value != "NaN", "{update}: {error}");
        }
        let insert = format!("insert into {table} ({column}) select {column} from {table} limit 0");
        server.execute(&insert).await;
    }
    for insert in ["insert into payments (amount) values ('NaN')", "insert into taxes (tax3_value) values ('NaN')"] {
        let error = sqlx::raw_sql(insert).execute(&server.pool).await.unwrap_err();
        assert_eq!(error.as_database_error().and_then(|error| error.code()).as_deref(), Some("23514"), "{insert}");
    }
}

/// Rows that are older than the checks: the next card of group 6, the rate of the inactive currency JPY, the price of
/// group 11, the tax of group 10.
const NAN_ROWS: &str = "
    alter table cards drop constraint cards_amounts_finite;
    alter table currencies drop constraint currencies_rate_finite;
    alter table cardgroups drop constraint cardgroups_amounts_finite;
    alter table taxes drop constraint taxes_values_finite;
    update cards set balance = 'NaN' where id = 6;
    update currencies set exchange_rate = 'NaN' where name = 'JPY';
    update cardgroups set price = 'NaN' where id = 11;
    insert into taxes (id, tax1_enabled, tax1_value) values (50, 1, 'NaN');
    update cardgroups set tax_id = 50 where id = 10;
    insert into cards (cardgroup_id, number, pin, balance)
        select 7, (710000 + i)::text, (71000 + i)::text, 1 from generate_series(1, 10) i";

#[tokio::test]
async fn a_nan_stops_neither_other_groups_nor_lists() {
    // Sales of all groups are queued together, and share statements.
    let server = server_with_settings(&[("cache", "on"), ("sale_concurrency", "1")]).await;
    server.execute(NAN_ROWS).await;
    let sales = join_all((0..10).flat_map(|_| [("6", "61"), ("7", "71"), ("10", "101")]).map(|(group, hashed)| {
        let server = &server;
        async move {
            let form = format!("u=admin&id={group}&quantity=1");
            (group, server.post_signed("card_from_group_sell", &form, hashed).await)
        }
    }));
    for (group, reply) in sales.await {
        match group {
            "7" => assert_eq!(reply.element_texts("pin").len(), 1, "{reply:?}"),
            _ => assert!(reply.body.contains("Failed to make transaction"), "group {group}: {reply:?}"),
        }
    }
    server.assert_rows("select count(*) from payments where kind = 'sale'", &["10"]).await;
    server.assert_rows("select count(*) from payments where 'NaN' in (amount, tax)", &["0"]).await;
    server.assert_rows("select sold from cards where id in (6, 11) order by id", &["0", "0"]).await;

    let cards = server.post_signed("calling_cards_get", "u=admin", "").await;
    let ids = cards.element_texts("card_id");
    assert!(ids.contains(&"6") && ids.contains(&"11") && ids.contains(&"7"), "{cards:?}");
    let groups = server.post_signed("cc_groups_get", "u=admin", "").await;
    for name in ["ten dollars", "euro group", "no taxes", "empty"] {
        assert!(groups.body.contains(name), "{name}: {groups:?}");
    }
    // An amount that is not a number is shown as 0.
    let group = server.post_signed("card_group_get", "u=admin&id=11", "11").await;
    assert_eq!(group.element_texts("price"), ["0.00"], "{group:?}");
}
