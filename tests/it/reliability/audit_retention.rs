//! The setting `audit_retention_days`: audit rows of refused requests are deleted, all others stay.

use mortise::audit::purge_refusals;

use crate::harness::{FIXTURE_SQL, Server, postgres, server_on_database, with_timeout};

/// 5,000 old refusals (several batches), one that is not old enough, and old rows of other kinds.
const ACTIONS: &str = "
    insert into actions (user_id, date, action, data)
        select -1, now() at time zone 'utc' - interval '31 days', 'error',
            case i % 2 when 0 then 'API : Incorrect hash' else 'API : API must have Secret key' end
        from generate_series(1, 5000) i;
    insert into actions (user_id, date, action, data)
        select user_id, now() at time zone 'utc' - age, action, data
        from (values
            (-1, interval '29 days', 'error', 'API : Incorrect hash'),
            (6, interval '99 days', 'error', 'Cannot send email'),
            (6, interval '99 days', 'error', 'API : Incorrect hash'),
            (-1, interval '99 days', 'error', 'an error that MOR wrote'),
            (0, interval '99 days', 'card_payment_created', '4'),
            (0, interval '99 days', 'card_sell_over_api', '')
        ) kept (user_id, age, action, data)";

const KEPT: &str = "select user_id || ' ' || action || ' ' || data from actions order by id";
const KEPT_ROWS: [&str; 6] = [
    "-1 error API : Incorrect hash",
    "6 error Cannot send email",
    "6 error API : Incorrect hash",
    "-1 error an error that MOR wrote",
    "0 card_payment_created 4",
    "0 card_sell_over_api ",
];

async fn wait_until_purged(server: &Server) {
    let purged = async {
        while server.rows("select count(*) <= 6 from actions").await != ["true"] {
            tokio::task::yield_now().await;
        }
    };
    with_timeout("the deletion of old refusals", purged).await;
}

#[tokio::test]
async fn only_old_refusals_are_deleted() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let days = [("audit_retention_days", "30")];
    let writer = server_on_database(&database, &[]).await;
    writer.execute(ACTIONS).await;
    // Two servers, whose first purge runs at the start.
    let (first, _second) = tokio::join!(server_on_database(&database, &days), server_on_database(&database, &days));
    wait_until_purged(&first).await;
    first.assert_rows(KEPT, &KEPT_ROWS).await;
}

#[tokio::test]
async fn all_rows_are_kept_by_default() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_on_database(&database, &[]).await;
    server.execute(ACTIONS).await;
    assert_eq!(server.config.audit_retention_days, 0);
    // The rows stay although a server with the default setting starts.
    let server = server_on_database(&database, &[]).await;
    let reply = server.post_signed("card_from_group_sell", "u=admin&id=6", "wrong").await;
    reply.assert_status_error("Incorrect hash");
    server.assert_rows("select count(*) from actions", &["5007"]).await;
}

#[tokio::test]
async fn one_server_at_a_time_deletes_and_nothing_waits_for_it() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_on_database(&database, &[]).await;
    server.execute(ACTIONS).await;
    // Another server deletes a batch.
    let mut other = server.pool.begin().await.unwrap();
    sqlx::raw_sql("select pg_advisory_xact_lock(hashtextextended('mortise audit purge', 0))")
        .execute(&mut *other)
        .await
        .unwrap();
    let deleted = with_timeout("the purge that gets no lock", purge_refusals(&server.pool, 30)).await.unwrap();
    assert_eq!(deleted, 0);
    other.rollback().await.unwrap();
    // A row that another transaction has locked is left for the next time.
    let mut reader = server.pool.begin().await.unwrap();
    sqlx::raw_sql("select from actions order by id limit 1 for update").execute(&mut *reader).await.unwrap();
    let deleted = with_timeout("the purge beside a lock", purge_refusals(&server.pool, 30)).await.unwrap();
    assert_eq!(deleted, 4999);
    reader.rollback().await.unwrap();
    assert_eq!(purge_refusals(&server.pool, 30).await.unwrap(), 1);
    server.assert_rows(KEPT, &KEPT_ROWS).await;
    // The rows are found by their index, without reading the table.
    let plan = server.query_plan(&["mortise audit purge"], "force_generic_plan", &["30", "10"]).await;
    assert!(plan.contains("using actions_refusals on actions") && !plan.contains("Seq Scan on actions"), "{plan}");
}

#[tokio::test]
async fn written_refusals_are_in_the_index() {
    let server = server_on_database(&postgres::create_database(FIXTURE_SQL).await, &[("cache", "off")]).await;
    server.post_signed("card_from_group_sell", "u=admin&id=6", "wrong").await.assert_status_error("Incorrect hash");
    server.execute("update conflines set value = '' where name = 'API_Secret_Key' and owner_id = 0").await;
    let reply = server.post_signed("card_from_group_sell", "u=admin&id=6", "6").await;
    reply.assert_status_error("API must have Secret Key");
    server.execute("update actions set date = date - interval '31 days'").await;
    assert_eq!(purge_refusals(&server.pool, 30).await.unwrap(), 2);
}
