//! The settings of database sessions: those of the program apply, whatever the database, the role or a pooler sets.

use mortise::db::session;
use sqlx::{AssertSqlSafe, PgConnection};

use super::contention;
use crate::harness::proxy::PoolerProxy;
use crate::harness::{FIXTURE_SQL, postgres, server_on_database, server_with_connect_options, with_timeout};

/// A value of each setting with which the program does not work well.
const BAD_DEFAULTS: [(&str, &str); 29] = [
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("synchronous_commit", "off"),
    ("row_security", "on"),
    ("exit_on_error", "on"),
    ("client_encoding", "LATIN1"),
    ("standard_conforming_strings", "off"),
    ("TimeZone", "Asia/Tokyo"),
    ("DateStyle", "SQL, DMY"),
    ("IntervalStyle", "sql_standard"),
    ("client_min_messages", "debug1"),
    ("lock_timeout", "1"),
    ("statement_timeout", "1"),
    ("idle_in_transaction_session_timeout", "1"),
    ("idle_session_timeout", "1"),
    ("client_connection_check_interval", "0"),
    ("jit", "on"),
    ("plan_cache_mode", "force_custom_plan"),
    ("enable_seqscan", "on"),
    ("enable_bitmapscan", "on"),
    ("enable_hashjoin", "on"),
    ("enable_mergejoin", "on"),
    ("enable_sort", "on"),
    ("enable_indexscan", "off"),
    ("enable_indexonlyscan", "off"),
    ("enable_tidscan", "off"),
    ("enable_nestloop", "off"),
    ("enable_material", "on"),
    ("enable_memoize", "off"),
];

async fn current_values(connection: &mut PgConnection) -> Vec<(String, String)> {
    let names: Vec<String> = session::checked_names().map(str::to_owned).collect();
    sqlx::query_as("select name, setting from pg_settings where name = any ($1) order by name")
        .bind(names)
        .fetch_all(connection)
        .await
        .unwrap()
}

/// Creates a database with bad defaults: half of them of the database, half of the role in this database.
async fn database_with_bad_defaults() -> String {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let other = server_on_database(&postgres::create_database("").await, &[]).await;
    for (index, (name, value)) in BAD_DEFAULTS.iter().enumerate() {
        let target = match index % 2 {
            0 => format!("database {database}"),
            _ => format!("role postgres in database {database}"),
        };
        other.execute(&format!("alter {target} set {name} = '{value}'")).await;
    }
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn defaults_of_database_and_role_do_not_apply() {
    let usual = server_on_database(&postgres::create_database("").await, &contention::SETTINGS).await;
    let server = server_on_database(&database_with_bad_defaults().await, &contention::SETTINGS).await;
    let background = server.app_pool().background_pool();
    for connection in [&mut *server.app_pool().acquire().await.unwrap(), &mut *background.acquire().await.unwrap()] {
        let values = current_values(connection).await;
        assert!(values.len() > BAD_DEFAULTS.len());
        assert_eq!(values, current_values(&mut usual.app_pool().acquire().await.unwrap()).await);
    }
    contention::sell_all_cards(&server, 32, &[1, 2]).await;
}

/// Otherwise two connections could sell from two schemas.
#[tokio::test]
async fn all_connections_use_the_schema_of_the_first_one() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_on_database(&database, &[]).await;
    server.execute("create schema other; create table other.cards ()").await;
    server.execute(&format!("alter database {database} set search_path = other, public")).await;
    let mut connections = server.hold_connections().await;
    for connection in &mut connections {
        let schema: String = sqlx::query_scalar("select current_schema()").fetch_one(&mut **connection).await.unwrap();
        assert_eq!(schema, "public");
    }
}

/// A connection that is opened later must not work without the settings either.
#[tokio::test]
async fn connection_without_the_settings_is_not_used() {
    let proxy = PoolerProxy::new(false).await;
    let database = postgres::create_database(FIXTURE_SQL).await;
    let options = proxy.connect_options(&database);
    let server = server_with_connect_options(options, &[("database_acquire_timeout_ms", "1000")]).await;
    proxy.set_drops_options(true);
    let terminate = "select pg_terminate_backend(pid) from pg_stat_activity
                     where datname = current_database() and pid <> pg_backend_pid()";
    let sell = || server.post_signed("card_from_group_sell", "u=admin&id=6&quantity=1", "61");
    let refused = async {
        loop {
            server.execute(terminate).await;
            let reply = sell().await;
            if reply.status == 503 {
                return reply;
            }
        }
    };
    with_timeout("a refused sale", refused).await.assert_status_error("Service is temporarily unavailable");
    let sold = server.rows("select count(*) from payments").await;
    sell().await.assert_status_error("Service is temporarily unavailable");
    server.assert_rows("select count(*) from payments", &[&sold[0]]).await;

    proxy.set_drops_options(false);
    assert_eq!(sell().await.status, 200);
}

/// Only a superuser may set it, so it can only be refused.
#[tokio::test]
async fn session_without_triggers_is_refused() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let other = server_on_database(&database, &[]).await;
    other.execute(&format!("alter database {database} set session_replication_role = replica")).await;
    let options = session::with_settings(postgres::connect_options(&database).await);
    let error = session::connect(&options).await.unwrap_err().to_string();
    assert!(error.contains("session_replication_role is replica"), "{error}");
    // A session that sets it for itself, as a restore does, is not affected.
    other.execute(&format!("alter database {database} reset session_replication_role")).await;
    let mut connection = session::connect(&options).await.unwrap();
    let statement = "set session_replication_role = replica".to_owned();
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
}
