//! The connection pool for requests.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use mortise::config::Config;
use mortise::db::{self, pool::Pool};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use crate::harness::{postgres, with_timeout};

/// sqlx's pool with two connections, and the [`Pool`] on top of it.
async fn pools() -> (PgPool, Pool) {
    let config = Config::load(None, std::iter::empty(), &[]).unwrap();
    let config = Config { database_connections: 2, database_acquire_timeout: Duration::from_secs(60), ..config };
    let pool =
        db::connect(postgres::connect_options(&postgres::create_database("").await).await, &config).await.unwrap();
    (pool.clone(), Pool::from(pool))
}

async fn backend_pid(connection: &mut PgConnection) -> i32 {
    sqlx::query_scalar("select pg_backend_pid()").fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn clean_connections_are_reused_last_in_first_out() {
    let (_, pool) = pools().await;
    let (mut first, mut second) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    let pids = (backend_pid(&mut first).await, backend_pid(&mut second).await);
    second.release_clean();
    first.release_clean();
    let (mut third, mut fourth) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    let reused_pids = (backend_pid(&mut third).await, backend_pid(&mut fourth).await);
    assert_eq!(reused_pids, pids, "the connection that was released last is reused first");
    assert_eq!((pool.size(), pool.idle_count()), (2, 0));
}

/// The limit covers the connections in the idle list and those in sqlx's pool together. Neither kind blocks requests:
/// each request gets a connection, however the others return theirs.
#[tokio::test]
async fn pool_never_exceeds_its_limit() {
    let (_, pool) = pools().await;
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

/// sqlx's pool checks idle connections, so a connection that stays idle returns to it. It can still be acquired.
#[tokio::test]
async fn idle_connection_returns_to_sqlx_pool() {
    let (sqlx_pool, pool) = pools().await;
    let mut connection = pool.acquire().await.unwrap();
    let pid = backend_pid(&mut connection).await;
    connection.release_clean();
    assert_eq!((sqlx_pool.num_idle(), pool.idle_count()), (0, 1));
    let wait_for_return = async {
        while sqlx_pool.num_idle() == 0 {
            tokio::task::yield_now().await;
        }
    };
    with_timeout("the return of the connection", wait_for_return).await;
    assert_eq!(pool.idle_count(), 1);
    assert_eq!(backend_pid(&mut pool.acquire().await.unwrap()).await, pid);
}

#[tokio::test]
async fn dropped_transaction_is_rolled_back_before_reuse() {
    let (_, pool) = pools().await;
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
    let (_, pool) = pools().await;
    pool.acquire().await.unwrap().release_clean();
    let mut begin = Box::pin(pool.begin());
    assert!(poll_once(begin.as_mut()).await.is_pending());
    drop(begin);
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
    let (sqlx_pool, pool) = pools().await;
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
    assert_eq!(sqlx_pool.size(), 0);
}
