//! The connection pool for requests.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use mortise::config::Config;
use mortise::db;
use mortise::db::pool::{Connection, Pool};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection};

use super::contention;
use crate::harness::proxy::FaultProxy;
use crate::harness::{FIXTURE_SQL, postgres, server_with_connect_options, with_timeout};

/// A pool with two connections.
async fn two_connections() -> Pool {
    pool(postgres::connect_options(&postgres::create_database("").await).await, 2).await
}

/// A pool with up to `database_connections` connections.
async fn pool(database: PgConnectOptions, database_connections: u32) -> Pool {
    let config = Config::load(None, std::iter::empty(), &[]).unwrap();
    let config = Config { database_connections, database_acquire_timeout: Duration::from_secs(60), ..config };
    let start_pool = db::connect(database, &config).await.unwrap();
    start_pool.close().await;
    Pool::from(start_pool)
}

/// Creates a database and a role that may have only this many connections to it; returns the options to connect.
async fn limited_role(connections_max: u32) -> PgConnectOptions {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let role = format!("limited_{database}");
    let options = postgres::connect_options(&database).await;
    let mut superuser = options.connect().await.unwrap();
    let create = format!(
        "create role {role} login connection limit {connections_max};
         grant all on all tables in schema public to {role}; grant all on all sequences in schema public to {role}"
    );
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut superuser).await.unwrap();
    options.username(&role)
}

async fn backend_pid(connection: &mut PgConnection) -> i32 {
    sqlx::query_scalar("select pg_backend_pid()").fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn clean_connections_are_reused_last_in_first_out() {
    let pool = two_connections().await;
    let (mut first, mut second) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    let pids = (backend_pid(&mut first).await, backend_pid(&mut second).await);
    second.release_clean();
    first.release_clean();
    let (mut third, mut fourth) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    let reused_pids = (backend_pid(&mut third).await, backend_pid(&mut fourth).await);
    assert_eq!(reused_pids, pids, "the connection that was released last is reused first");
    assert_eq!((pool.size(), pool.idle_count()), (2, 0));
}

/// Each request gets a connection, however the others return theirs.
#[tokio::test]
async fn pool_never_exceeds_its_limit() {
    let pool = two_connections().await;
    let tasks = (0..200).map(|number| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let mut connection = pool.acquire().await.unwrap();
            sqlx::query("select").execute(&mut *connection).await.unwrap();
            match number % 3 {
                0 => drop(connection),
                1 => connection.close_on_drop(),
                _ => connection.release_clean(),
            }
            assert!(pool.size() <= 2);
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        with_timeout("a connection", task).await.unwrap();
    }
}

/// A connection that was cut while it was idle is replaced before a request uses it.
#[tokio::test]
async fn idle_connection_is_checked_before_reuse() {
    let pool = two_connections().await;
    let [mut first, mut second] = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    let pid = backend_pid(&mut first).await;
    sqlx::query("select pg_terminate_backend($1, 60000)").bind(pid).execute(&mut *second).await.unwrap();
    first.release_clean();
    second.close_on_drop();
    drop(second);
    // The first second is not checked: the time between two requests under load.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let mut third = with_timeout("a connection", pool.acquire()).await.unwrap();
    assert_ne!(backend_pid(&mut third).await, pid);
    third.release_clean();
    let mut fourth = pool.acquire().await.unwrap();
    sqlx::query("select").execute(&mut *fourth).await.unwrap();
}

/// A network can lose idle connections without notice, for example when a firewall forgets them. The first request
/// afterwards gets a new connection within the acquire timeout.
#[tokio::test]
async fn idle_connections_that_the_network_lost_are_replaced() {
    let proxy = FaultProxy::new().await;
    let database = proxy.connect_options(&postgres::create_database("").await);
    let config = Config::load(None, std::iter::empty(), &[]).unwrap();
    let config = Config { database_connections: 2, database_acquire_timeout: Duration::from_secs(5), ..config };
    let pool = Pool::from(db::connect(database, &config).await.unwrap());
    let connections = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    connections.into_iter().for_each(Connection::release_clean);
    proxy.freeze_connections();
    // The first second is not checked: the time between two requests under load.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let mut connections = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    for connection in &mut connections {
        sqlx::query("select").execute(&mut **connection).await.unwrap();
    }
}

/// Other sessions use the connections that the role may have: the pool works with those that it gets, and a request
/// whose connection cannot be opened gets the next one that is released.
#[tokio::test]
async fn requests_share_fewer_connections_than_the_pool_may_open() {
    let pool = pool(limited_role(2).await, 8).await;
    let tasks = (0..200).map(|number| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let mut connection = pool.acquire().await.unwrap();
            sqlx::query("select").execute(&mut *connection).await.unwrap();
            match number % 5 {
                0 => drop(connection),
                1 => connection.close_on_drop(),
                2 => {
                    drop(connection);
                    pool.begin().await.unwrap().commit().await.unwrap();
                }
                _ => connection.release_clean(),
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        with_timeout("a connection", task).await.unwrap();
    }
}

#[tokio::test]
async fn waiting_requests_are_served_first_in_first_out() {
    let pool = pool(limited_role(1).await, 4).await;
    let held = pool.acquire().await.unwrap();
    let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
    let mut waiting: Vec<_> = (0..20).map(|_| Box::pin(pool.acquire())).collect();
    for acquire in &mut waiting {
        assert!(poll_once(acquire.as_mut()).await.is_pending());
    }
    // A request that ends while it waits does not keep the others from a connection.
    drop(waiting.remove(7));
    held.release_clean();
    let tasks = waiting.into_iter().enumerate().map(async |(number, acquire)| {
        let connection = acquire.await.unwrap();
        sender.send(number).unwrap();
        // In turns: the first request, the second one, … each in another way.
        match number % 2 {
            0 => connection.release_clean(),
            _ => drop(connection),
        }
    });
    with_timeout("all connections", futures_util::future::join_all(tasks)).await;
    let mut served = Vec::new();
    while let Ok(number) = order.try_recv() {
        served.push(number);
    }
    assert_eq!(served, (0..19).collect::<Vec<_>>());
}

/// Sales of a server whose role may have fewer connections than `database_connections`.
#[tokio::test(flavor = "multi_thread")]
async fn sales_succeed_while_the_role_has_no_more_connections() {
    let limited_role = limited_role(6).await;
    let mut server = server_with_connect_options(limited_role.clone(), &contention::SETTINGS).await;
    // The test's own connections do not count: a superuser has no limit.
    server.pool = PgPoolOptions::new().connect_lazy_with(limited_role.username("postgres"));
    contention::sell_all_cards(&server, 32, &[1, 2]).await;
}

#[tokio::test]
async fn dropped_transaction_is_rolled_back_before_reuse() {
    let pool = two_connections().await;
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("create table uncommitted ()").execute(&mut *transaction).await.unwrap();
    drop(transaction);
    let mut connections = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    for connection in &mut connections {
        let table: Option<String> =
            sqlx::query_scalar("select to_regclass('uncommitted')::text").fetch_one(&mut **connection).await.unwrap();
        assert_eq!(table, None);
    }
}

/// A client may disconnect during BEGIN. Later statements on that connection must be committed all the same.
#[tokio::test]
async fn cancelled_begin_leaves_no_open_transaction() {
    let pool = two_connections().await;
    pool.acquire().await.unwrap().release_clean();
    // PostgreSQL can answer before the poll ends: then nothing was cancelled, and the next BEGIN is.
    loop {
        let mut begin = Box::pin(pool.begin());
        if poll_once(begin.as_mut()).await.is_pending() {
            break;
        }
    }
    let mut connections = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    for (number, connection) in connections.iter_mut().enumerate() {
        sqlx::raw_sql(AssertSqlSafe(format!("create table created_{number} ()")))
            .execute(&mut **connection)
            .await
            .unwrap();
    }
    // Each connection looks for the table of the other one.
    for (number, connection) in connections.iter_mut().rev().enumerate() {
        let table: Option<String> = sqlx::query_scalar("select to_regclass('created_' || $1)::text")
            .bind(number.to_string())
            .fetch_one(&mut **connection)
            .await
            .unwrap();
        assert!(table.is_some(), "the table of connection {number} was not committed");
    }
}

async fn poll_once<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

#[tokio::test]
async fn closed_pool_closes_all_connections() {
    let pool = two_connections().await;
    let (in_use, idle) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    idle.release_clean();
    let close_task = tokio::spawn({
        let pool = pool.clone();
        async move { pool.close().await }
    });
    with_timeout("the pool to close", async {
        while !pool.is_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(matches!(pool.acquire().await, Err(sqlx::Error::PoolClosed)));
    in_use.release_clean();
    with_timeout("the last connection to close", close_task).await.unwrap();
    assert_eq!(pool.size(), 0);
}
