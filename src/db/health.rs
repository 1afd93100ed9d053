//! The readiness of the database, on a connection that nothing else uses: work that waits for a lock, or that uses all
//! connections, must not make `/readyz` fail.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::db::cached::Cached;
use crate::db::pool::Pool;
use crate::db::session;

const APPLICATION_NAME: &str = "mortise health";
/// How long a result is reused: limits the queries, however often `/readyz` is requested.
const TTL: Duration = Duration::from_secs(1);
/// Maximum time of a check, less than a request waits for it. Then the connection counts as dead and is replaced.
const CHECK_TIMEOUT: Duration = Duration::from_millis(1500);

/// Whether the database accepts writes, or the reason why not.
pub type Readiness = Result<(), &'static str>;

/// Checks the database, at most once a second.
#[derive(Debug)]
pub struct HealthCheck {
    cached: Cached<Readiness>,
    /// Only the check that runs locks it.
    connector: Arc<Mutex<Connector>>,
}

impl HealthCheck {
    /// Creates the check for the database of `pool`. It connects when it is first used.
    pub fn new(pool: &Pool) -> Self {
        let options = pool.connect_options(APPLICATION_NAME);
        let connector = Connector { options, connection: None, backend_pid: None };
        Self { cached: Cached::default(), connector: Arc::new(Mutex::new(connector)) }
    }

    /// Returns whether the database accepts a write and flushes it to disk.
    pub async fn readiness(&self) -> Readiness {
        let connector = self.connector.clone();
        let check = async move { (connector.lock().await.check().await, Instant::now() + TTL) };
        self.cached.get_or_refresh(check).await.unwrap_or(Err("the database does not answer"))
    }
}

/// The connection of the check, which is opened when it is needed.
#[derive(Debug)]
struct Connector {
    options: PgConnectOptions,
    /// `None`: not connected yet, or the last check failed.
    connection: Option<PgConnection>,
    /// The PostgreSQL process of the last connection.
    backend_pid: Option<i32>,
}

impl Connector {
    async fn check(&mut self) -> Readiness {
        match timeout(CHECK_TIMEOUT, self.is_read_only()).await {
            Ok(Ok(false)) => Ok(()),
            Ok(Ok(true)) => Err("the database is read-only"),
            Ok(Err(error)) => {
                tracing::warn!(%error, "readiness check failed");
                Err("the database is unreachable or cannot write")
            }
            Err(_) => {
                tracing::warn!(timeout = ?CHECK_TIMEOUT, "readiness check timeout, replacing its connection");
                Err("the database does not answer")
            }
        }
    }

    /// Writes a message and returns whether the database refuses writes. Keeps the connection only after a success:
    /// after an error or a timeout its state is unknown.
    async fn is_read_only(&mut self) -> sqlx::Result<bool> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let is_read_only = query_read_only(&mut connection).await?;
        self.connection = Some(connection);
        Ok(is_read_only)
    }

    /// Opens a connection, and ends the process of the previous one: a process that still waits to write, for example
    /// for a synchronous standby, does not notice that its client is gone. Otherwise each check would leave one more.
    async fn connect(&mut self) -> sqlx::Result<PgConnection> {
        let mut connection = session::connect(&self.options).await?;
        let processes = sqlx::query!(
            r#"select pg_backend_pid() as "own!", count(pg_terminate_backend(pid)) as "ended!" from pg_stat_activity
               where pid = $1 and application_name = $2 and usename = current_user"#,
            self.backend_pid,
            APPLICATION_NAME
        );
        self.backend_pid = Some(processes.fetch_one(&mut connection).await?.own);
        Ok(connection)
    }
}

/// Writes a transactional WAL message, which changes no table. Returns `true` if the database refuses writes.
async fn query_read_only(connection: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select case when pg_is_in_recovery() or current_setting('transaction_read_only')::boolean then true
               else pg_logical_emit_message(true, 'mortise', '') is null end as "is_read_only!""#
    )
    .fetch_one(connection)
    .await
}
