//! The database: connections as the statements need them, the schema, and a PostgreSQL of our own where none is given.

use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgPool};

use crate::config::Config;

pub mod pool;
pub mod seed;

const SERVER_VERSION_MIN: u32 = 150_000;

static MIGRATOR: Migrator = sqlx::migrate!();

/// Why there is no database to work on.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum DatabaseError {
    #[error("database_url can't be read as postgres://user:password@host/database")]
    InvalidUrl,
    #[error("PostgreSQL must be version 15 or newer")]
    ServerTooOld,
    #[error("cannot reach the database: {0}")]
    Unreachable(sqlx::Error),
    #[error("the database was last used by a newer Mortise (it has migration {0}): update this one")]
    SchemaTooNew(i64),
    #[error("the database can't be brought up to date: {0}")]
    Migration(MigrateError),
    #[error("the database's schema isn't up to date ({} missing, from {first} on): run `mortise migrate`", describe_count(*count))]
    SchemaOutdated { count: usize, first: i64 },
    #[error("it can't be seen which migrations the database has: {0}")]
    MigrationsUnreadable(sqlx::Error),
    #[error("the first start failed: {0}")]
    SeedFailed(sqlx::Error),
}

/// Where an external database is. The error doesn't quote the URL: a password is in it.
pub fn parse_url(url: &str) -> Result<PgConnectOptions, DatabaseError> {
    let ours = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
    PgConnectOptions::from_str(url).ok().filter(|_| ours).ok_or(DatabaseError::InvalidUrl)
}

/// The pool that requests are served from.
///
/// The plans of the large statements are what their speed rests on. Planned anew each time the sale runs at a third of
/// its speed, and with JIT at a hundredth, so every connection fixes both. And every one goes by indexes, in their order: a plan
/// that was made while a table was empty, or before anybody looked at it, would gather and sort a million cards to sell
/// one. What has to read all of a table says so.
pub async fn connect(options: PgConnectOptions, config: &Config) -> Result<PgPool, DatabaseError> {
    let options = with_session_settings(options, config.database_acquire_timeout);
    // A pool only says that it waited in vain; a connection of our own says why.
    let connection = options.connect().await.map_err(DatabaseError::Unreachable)?;
    if connection.server_version_num().is_none_or(|version| version < SERVER_VERSION_MIN) {
        return Err(DatabaseError::ServerTooOld);
    }
    connection.close().await.map_err(DatabaseError::Unreachable)?;
    PgPoolOptions::new()
        .max_connections(config.database_connections)
        .acquire_timeout(config.database_acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(|connection, state| {
            // A connection that has lain idle may have been cut meanwhile; one in use tells us by itself.
            Box::pin(async move { Ok(state.idle_for < pool::PING_AFTER_IDLE || connection.ping().await.is_ok()) })
        })
        .connect_with(options)
        .await
        .map_err(DatabaseError::Unreachable)
}

/// The settings that every connection must have. A lock that somebody holds is waited for as long as a connection is.
fn with_session_settings(options: PgConnectOptions, wait: Duration) -> PgConnectOptions {
    options
        .application_name("mortise")
        .options([
            ("jit", "off"),
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("enable_bitmapscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
            ("enable_sort", "off"),
            ("TimeZone", "UTC"),
            // A sweep that finds somebody else sweeping would leave a warning in our log each time.
            ("client_min_messages", "error"),
            ("idle_in_transaction_session_timeout", "60s"),
            // A search whose client has gone ends soon.
            ("client_connection_check_interval", "1s"),
            ("lock_timeout", &format!("{}ms", wait.as_millis())),
            ("statement_timeout", "120s"),
        ])
        .disable_statement_logging()
}

/// Brings the schema up to date, one server after the other where several start at once; the migrations that it carried out.
pub async fn migrate(pool: &PgPool) -> Result<Vec<i64>, DatabaseError> {
    // A step may take as long as a large table takes; but a lock on that table is waited for no longer than usual, because
    // whoever sells cards meanwhile waits behind us. If we go with our machine, others don't have to wait for us for hours.
    let patient = pool.connect_options().as_ref().clone().options([
        ("statement_timeout", "0"),
        ("tcp_keepalives_idle", "30"),
        ("tcp_keepalives_interval", "10"),
        ("tcp_keepalives_count", "3"),
    ]);
    // One connection, however long it takes: the lock is the connection's.
    let alone = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
    let own = alone.connect_lazy_with(patient);
    let migrated = run_migrations(&own).await;
    own.close().await;
    migrated
}

async fn run_migrations(own: &PgPool) -> Result<Vec<i64>, DatabaseError> {
    const TRY_LOCK: &str = "select pg_try_advisory_lock(hashtextextended('migrate', 0))";
    // (The migrator's own lock would be given up after `lock_timeout`.)
    const WAIT_FOR_LOCK: &str =
        "set lock_timeout = 0; select pg_advisory_lock(hashtextextended('migrate', 0)); reset lock_timeout";
    let failed = |error: sqlx::Error| DatabaseError::Migration(error.into());
    if !sqlx::query_scalar::<_, bool>(TRY_LOCK).fetch_one(own).await.map_err(failed)? {
        tracing::warn!("the database is being upgraded by another Mortise: this one waits until that is done");
        sqlx::raw_sql(WAIT_FOR_LOCK).execute(own).await.map_err(failed)?;
    }
    let missing = missing_migrations(own).await?;
    MIGRATOR.run(own).await.map_err(DatabaseError::Migration)?;
    Ok(missing)
}

/// The migrations that the database lacks.
///
/// # Errors
///
/// One that a newer program brought is refused.
pub async fn missing_migrations(pool: &PgPool) -> Result<Vec<i64>, DatabaseError> {
    // The table is the migrator's own, and there is none before the first run.
    let table = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null").fetch_one(pool);
    let applied: Vec<i64> = match table.await.map_err(DatabaseError::MigrationsUnreadable)? {
        true => sqlx::query_scalar("select version from _sqlx_migrations where success order by version")
            .fetch_all(pool)
            .await
            .map_err(DatabaseError::MigrationsUnreadable)?,
        false => Vec::new(),
    };
    match applied.iter().rfind(|version| !MIGRATOR.version_exists(**version)) {
        Some(newer) => Err(DatabaseError::SchemaTooNew(*newer)),
        None => Ok(MIGRATOR.iter().map(|known| known.version).filter(|version| !applied.contains(version)).collect()),
    }
}

/// Refuses a schema that isn't up to date.
pub async fn require_current_schema(pool: &PgPool) -> Result<(), DatabaseError> {
    let missing = missing_migrations(pool).await?;
    missing.first().map_or(Ok(()), |first| Err(DatabaseError::SchemaOutdated { count: missing.len(), first: *first }))
}

fn describe_count(count: usize) -> String {
    if count == 1 { "1 migration is".to_owned() } else { format!("{count} migrations are") }
}

/// The SQL of all migrations, in their order.
pub fn migration_sql() -> impl Iterator<Item = &'static str> {
    MIGRATOR.iter().map(|migration| migration.sql.as_str())
}
