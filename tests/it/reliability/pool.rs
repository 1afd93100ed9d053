//! The connections that requests share.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use mortise::config::Config;
use mortise::db::{self, pool::Pool};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use crate::harness::{postgres, with_timeout};

/// sqlx's pool of two connections, and ours of the same.
async fn pools() -> (PgPool, Pool) {
    let config = Config::load(None, std::iter::empty(), &[]).unwrap();
    let config = Config { database_connections: 2, database_acquire_timeout: Duration::from_secs(60), ..config };
    let pool =
        db::connect(postgres::connect_options(&postgres::create_database("").await).await, &config).await.unwrap();
    (pool.clone(), Pool::from(pool))
}

async fn pid(connection: &mut PgConnection) -> i32 {
    sqlx::query_scalar("select pg_backend_pid()").fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn a_kept_connection_is_the_next_ones() {
    let (_, pool) = pools().await;
    let (mut one, mut other) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    let (first, second) = (pid(&mut one).await, pid(&mut other).await);
    other.release_clean();
    one.release_clean();
    let (mut one, mut other) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    assert_eq!((pid(&mut one).await, pid(&mut other).await), (first, second), "the last that came goes first");
    assert_eq!((pool.size(), pool.idle_count()), (2, 0));
}

/// Neither the kept ones nor those that go through sqlx's pool make more than there may be, or stand in each other's way.
#[tokio::test]
async fn there_are_never_more_than_there_may_be() {
    let (_, pool) = pools().await;
    let asking = (0..200).map(|number| {
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
    for asked in asking.collect::<Vec<_>>() {
        with_timeout("a connection", asked).await.unwrap();
    }
}

/// What lies idle is sqlx's to look after: it goes back, and is as good as any.
#[tokio::test]
async fn one_that_nobody_takes_goes_back_to_sqlx() {
    let (sqlx, pool) = pools().await;
    let mut connection = pool.acquire().await.unwrap();
    let first = pid(&mut connection).await;
    connection.release_clean();
    assert_eq!((sqlx.num_idle(), pool.idle_count()), (0, 1));
    let goes_back = async {
        while sqlx.num_idle() == 0 {
            tokio::task::yield_now().await;
        }
    };
    with_timeout("the connection to go back", goes_back).await;
    assert_eq!(pool.idle_count(), 1);
    assert_eq!(pid(&mut pool.acquire().await.unwrap()).await, first);
}

#[tokio::test]
async fn a_transaction_that_is_dropped_is_rolled_back_before_others_come() {
    let (_, pool) = pools().await;
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("create table left_behind ()").execute(&mut *transaction).await.unwrap();
    drop(transaction);
    let mut both = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    for connection in [&mut both.0, &mut both.1] {
        let found: Option<String> =
            sqlx::query_scalar("select to_regclass('left_behind')::text").fetch_one(&mut **connection).await.unwrap();
        assert_eq!(found, None);
    }
}

/// As when a client goes away at that very moment: what others do afterwards must last.
#[tokio::test]
async fn a_transaction_whose_beginning_is_given_up_is_not_left_open() {
    let (_, pool) = pools().await;
    pool.acquire().await.unwrap().release_clean();
    let mut beginning = Box::pin(pool.begin());
    assert!(poll_once(beginning.as_mut()).await.is_pending());
    drop(beginning);
    let mut both = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    for (number, connection) in both.iter_mut().enumerate() {
        sqlx::raw_sql(AssertSqlSafe(format!("create table made_{number} ()")))
            .execute(&mut **connection)
            .await
            .unwrap();
    }
    for (number, connection) in both.iter_mut().rev().enumerate() {
        let found: Option<String> = sqlx::query_scalar("select to_regclass('made_' || $1)::text")
            .bind(number.to_string())
            .fetch_one(&mut **connection)
            .await
            .unwrap();
        assert!(found.is_some(), "what connection {number} did isn't there for others");
    }
}

async fn poll_once<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

#[tokio::test]
async fn a_closed_pool_gives_nothing_and_leaves_nothing_open() {
    let (sqlx, pool) = pools().await;
    let (late, kept) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    kept.release_clean();
    let closing = tokio::spawn({
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
    late.release_clean();
    with_timeout("the last connection", closing).await.unwrap();
    assert_eq!(sqlx.size(), 0);
}
