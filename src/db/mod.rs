//! The database: connections with the required session settings, the connection pool, and the schema migrations.

use std::str::FromStr;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection, PgPool};

use crate::config::Config;
use crate::db::schema::Severity;
use crate::db::session::SessionError;

pub mod cached;
pub mod health;
pub mod pool;
pub mod schema;
pub mod seed;
pub mod session;

const SERVER_VERSION_MIN: u32 = 150_000;

static MIGRATOR: Migrator = sqlx::migrate!();

/// The reason for which the database cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "described by the error messages")]
pub enum DatabaseError {
    #[error("database_url is invalid: expected postgres://user:password@host/database")]
    InvalidUrl,
    #[error("the environment variable {0} is invalid")]
    InvalidVariable(&'static str),
    #[error("PostgreSQL must be version 15 or newer")]
    ServerTooOld,
    #[error("cannot reach the database: {0}")]
    Unreachable(sqlx::Error),
    #[error(transparent)]
    Session(SessionError),
    #[error("the database was last used by a newer Mortise (it has migration {0}): upgrade this Mortise")]
    SchemaTooNew(i64),
    #[error("schema migration failed: {0}")]
    Migration(MigrateError),
    #[error(
        "the database schema is not up to date ({} missing, from {first} on): run `mortise migrate`",
        describe_count(*count)
    )]
    SchemaOutdated { count: usize, first: i64 },
    #[error("cannot read the list of applied migrations: {0}")]
    MigrationsUnreadable(sqlx::Error),
    #[error("the database schema is damaged ({0}): run `mortise doctor`, which prints how to repair it")]
    SchemaDamaged(String),
    #[error("cannot read the database schema: {0}")]
    SchemaUnreadable(sqlx::Error),
    #[error("cannot create the initial data: {0}")]
    SeedFailed(sqlx::Error),
}

/// Parses the URL of an external database. The error doesn't quote the URL: it contains a password.
///
/// As in libpq, what the URL leaves out comes from libpq's environment variables and password file. An invalid variable
/// is an error: the library would ignore it, and could connect without TLS.
pub fn parse_url(url: &str) -> Result<PgConnectOptions, DatabaseError> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    if variable("PGSSLMODE").is_some_and(|mode| mode.parse::<PgSslMode>().is_err()) {
        return Err(DatabaseError::InvalidVariable("PGSSLMODE"));
    }
    if variable("PGPORT").is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(DatabaseError::InvalidVariable("PGPORT"));
    }
    let has_postgres_scheme = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
    PgConnectOptions::from_str(url).ok().filter(|_| has_postgres_scheme).ok_or(DatabaseError::InvalidUrl)
}

impl DatabaseError {
    /// Maps an error of [`session::connect`].
    fn from_connect_error(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Configuration(error) if error.is::<SessionError>() => match error.downcast() {
                Ok(error) => Self::Session(*error),
                Err(error) => Self::Unreachable(sqlx::Error::Configuration(error)),
            },
            error => Self::Unreachable(error),
        }
    }
}

/// Opens the connection pool for requests, whose sessions have the [settings](session) that the program relies on.
pub async fn connect(options: PgConnectOptions, config: &Config) -> Result<PgPool, DatabaseError> {
    let options = session::with_lock_timeout(session::with_settings(options), config.database_acquire_timeout);
    // When a pool can't connect, it reports only a timeout; a direct connection reports the reason.
    let mut connection = session::connect(&options).await.map_err(DatabaseError::from_connect_error)?;
    if connection.server_version_num().is_none_or(|version| version < SERVER_VERSION_MIN) {
        return Err(DatabaseError::ServerTooOld);
    }
    let options =
        session::with_settings_of(&mut connection, options).await.map_err(DatabaseError::from_connect_error)?;
    connection.close().await.map_err(DatabaseError::Unreachable)?;
    session::pool_options(&options)
        .max_connections(config.database_connections)
        .acquire_timeout(config.database_acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(|connection, state| {
            // An idle connection may have been cut without notice.
            Box::pin(async move { Ok(state.idle_for < pool::PING_AFTER_IDLE || connection.ping().await.is_ok()) })
        })
        .connect_with(options)
        .await
        .map_err(DatabaseError::Unreachable)
}

/// Applies the missing migrations and returns their versions. If several servers start at once, one of them migrates
/// and the others wait.
pub async fn migrate(pool: &PgPool) -> Result<Vec<i64>, DatabaseError> {
    // A migration has no time limit, because the tables may be large. But it waits for a table lock no longer than
    // other statements do (`lock_timeout`), because sales queue behind its lock request. If this machine fails, the
    // keepalives end the session soon: otherwise other servers could wait for the migration lock for hours.
    let options = pool.connect_options().as_ref().clone().options([
        ("statement_timeout", "0"),
        ("tcp_keepalives_idle", "30"),
        ("tcp_keepalives_interval", "10"),
        ("tcp_keepalives_count", "3"),
    ]);
    // A single connection that is never replaced, because the session holds the advisory lock.
    let single_connection = session::pool_options(&options).max_connections(1).max_lifetime(None).idle_timeout(None);
    let pool = single_connection.connect_lazy_with(options);
    let applied = run_migrations(&pool).await;
    pool.close().await;
    applied
}

async fn run_migrations(pool: &PgPool) -> Result<Vec<i64>, DatabaseError> {
    const TRY_LOCK: &str = "select pg_try_advisory_lock(hashtextextended('migrate', 0))";
    // The migrator takes a lock too, but would fail to get it after `lock_timeout`.
    const WAIT_FOR_LOCK: &str =
        "set lock_timeout = 0; select pg_advisory_lock(hashtextextended('migrate', 0)); reset lock_timeout";
    let migration_error = |error: sqlx::Error| DatabaseError::Migration(error.into());
    if !sqlx::query_scalar::<_, bool>(TRY_LOCK).fetch_one(pool).await.map_err(migration_error)? {
        tracing::warn!("migration lock held by another Mortise, waiting");
        sqlx::raw_sql(WAIT_FOR_LOCK).execute(pool).await.map_err(migration_error)?;
    }
    let missing = missing_migrations(pool).await?;
    MIGRATOR.run(pool).await.map_err(DatabaseError::Migration)?;
    Ok(missing)
}

/// Returns the versions of the migrations that the database lacks.
///
/// # Errors
///
/// [`DatabaseError::SchemaTooNew`] if the database has a migration that this program doesn't know.
pub async fn missing_migrations(pool: &PgPool) -> Result<Vec<i64>, DatabaseError> {
    // The migrator creates this table in its first run.
    let has_table = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null").fetch_one(pool);
    let applied: Vec<i64> = match has_table.await.map_err(DatabaseError::MigrationsUnreadable)? {
        true => sqlx::query_scalar("select version from _sqlx_migrations where success order by version")
            .fetch_all(pool)
            .await
            .map_err(DatabaseError::MigrationsUnreadable)?,
        false => Vec::new(),
    };
    match applied.iter().rfind(|version| !MIGRATOR.version_exists(**version)) {
        Some(unknown) => Err(DatabaseError::SchemaTooNew(*unknown)),
        None => Ok(MIGRATOR
            .iter()
            .map(|migration| migration.version)
            .filter(|version| !applied.contains(version))
            .collect()),
    }
}

/// Whether this program has the migration.
pub fn is_known_migration(version: i64) -> bool {
    MIGRATOR.version_exists(version)
}

/// Fails if the schema lacks migrations.
pub async fn require_current_schema(pool: &PgPool) -> Result<(), DatabaseError> {
    let missing = missing_migrations(pool).await?;
    missing.first().map_or(Ok(()), |first| Err(DatabaseError::SchemaOutdated { count: missing.len(), first: *first }))
}

/// Compares the schema, whose migrations are all applied, with the migrations. Logs a warning for differences that do
/// not endanger money.
///
/// # Errors
///
/// [`DatabaseError::SchemaDamaged`] if an object is missing or not in force without which a card can be sold twice.
pub async fn require_intact_schema(pool: &PgPool) -> Result<(), DatabaseError> {
    let differences = schema::find_differences(pool).await.map_err(DatabaseError::SchemaUnreadable)?;
    let messages = |is_critical: bool| -> Vec<&str> {
        let has_severity = |found: Severity| (found == Severity::Critical) == is_critical;
        let matching = differences.iter().filter(|difference| has_severity(difference.severity));
        matching.map(|difference| difference.message.as_str()).collect()
    };
    let critical = messages(true);
    if !critical.is_empty() {
        return Err(DatabaseError::SchemaDamaged(critical.join("; ")));
    }
    let others = messages(false);
    if !others.is_empty() {
        tracing::warn!(differences = others.join("; "), "schema differs from the migrations");
    }
    Ok(())
}

fn describe_count(count: usize) -> String {
    if count == 1 { "1 migration is".to_owned() } else { format!("{count} migrations are") }
}

/// Returns the number of migrations.
pub fn migration_count() -> usize {
    MIGRATOR.iter().count()
}
