//! The session settings that the program relies on. A default of the database, of the role or of `postgresql.conf`
//! must not decide whether a sale succeeds.
//!
//! Every connection sends them in its startup message, which takes precedence over all these defaults. After
//! connecting it reads them back, because a connection pooler can drop them without an error. A connection with
//! another value is not used.
//!
//! Not in the list: `default_transaction_read_only` (an operator sets it to stop all writes, for example while the
//! database is moved; `/readyz` and `mortise doctor` report it) and settings that only a superuser may change.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::{ConnectOptions, Connection, PgConnection, Row};

/// The settings of every session. The values are those of `pg_settings`: times are in milliseconds.
const SETTINGS: [(&str, &str); 31] = [
    // A transaction that has waited for a lock continues with the committed row: a sale takes another card. With a
    // stricter isolation it fails instead.
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    // A reply is sent after the commit is on disk, and on the synchronous standby if there is one.
    ("synchronous_commit", "on"),
    // A row-level security policy must not hide cards: the statement fails.
    ("row_security", "off"),
    // An error ends the statement and not the session.
    ("exit_on_error", "off"),
    // Text in statements, and text that statements print.
    ("client_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    // `vacuum (skip_locked)` would log a warning each time another session is vacuuming the table.
    ("client_min_messages", "error"),
    // Limits. Without them, a statement could wait for a lock for hours. `lock_timeout` is usually
    // `database_acquire_timeout_ms`: a statement waits for a lock as long as a request waits for a connection.
    ("lock_timeout", "5000"),
    ("statement_timeout", "120000"),
    ("idle_in_transaction_session_timeout", "60000"),
    // The pool decides when an idle connection is closed.
    ("idle_session_timeout", "0"),
    // A running query ends soon after its connection is closed.
    ("client_connection_check_interval", "1000"),
    // The speed of the large statements depends on their plans:
    // - Generic plans and no JIT. If each execution is planned, a sale takes three times as long; with JIT, a hundred
    //   times as long.
    // - Index scans in index order only. A plan made while a table was empty or not yet analyzed would otherwise read
    //   and sort a million cards to sell one. A statement that must read a whole table enables the other scans itself.
    // - No copies of an inner side (enable_material). With most of 15,000 cards unsold, a sale compared each stock row
    //   with a copy of all cards.
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_sort", "off"),
    ("enable_indexscan", "on"),
    ("enable_indexonlyscan", "on"),
    ("enable_tidscan", "on"),
    ("enable_nestloop", "on"),
    ("enable_material", "off"),
    ("enable_memoize", "on"),
    ("enable_hashagg", "on"),
    ("enable_incremental_sort", "on"),
];

/// Not sent, because only a superuser may: with `replica`, triggers do not run.
const REPLICATION_ROLE: (&str, &str) = ("session_replication_role", "origin");
/// Not sent either: the encoding of the database. In any other one, texts of clients cannot be stored or compared.
const SERVER_ENCODING: (&str, &str) = ("server_encoding", "UTF8");
/// Sent by connections after the first one: all use the schema that the first one found.
const SEARCH_PATH: &str = "search_path";
/// Exists from PostgreSQL 17 on.
const TRANSACTION_TIMEOUT: (&str, &str) = ("transaction_timeout", "0");
const TRANSACTION_TIMEOUT_SINCE: u32 = 170_000;

/// The name of the session of an import. All other sessions share a lock with which an import excludes them.
pub const IMPORT_NAME: &str = "mortise import";
/// The result of taking the shared lock, as a row beside the settings.
const IMPORT_RUNS: &str = "an import runs";

/// A new session is not as the program needs it.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "described by the error messages")]
pub enum SessionError {
    #[error(
        "the database session does not have the settings that Mortise sent ({0}): a connection pooler or proxy drops \
         startup parameters (PgBouncer: ignore_startup_parameters). Connect to PostgreSQL itself"
    )]
    SettingsDropped(String),
    #[error(
        "session_replication_role is {0}, so triggers do not run: reset it with \
         `alter role … reset session_replication_role`, for the database and in postgresql.conf too"
    )]
    TriggersDisabled(String),
    #[error(
        "the database has the encoding {0}, and Mortise needs UTF8. Create another database with \
         `create database NAME encoding 'UTF8' template template0 locale 'C'`; pg_dump and pg_restore copy the data"
    )]
    WrongEncoding(String),
    #[error("`mortise import` fills this database: wait until it has ended")]
    ImportRuns,
}

impl From<SessionError> for sqlx::Error {
    fn from(error: SessionError) -> Self {
        Self::Configuration(Box::new(error))
    }
}

/// Adds the settings that each connection needs.
pub fn with_settings(options: PgConnectOptions) -> PgConnectOptions {
    options.application_name("mortise").options(SETTINGS).disable_statement_logging()
}

/// Adds the limit for lock waits.
pub fn with_lock_timeout(options: PgConnectOptions, lock_timeout: Duration) -> PgConnectOptions {
    options.options([("lock_timeout", lock_timeout.as_millis())])
}

/// Adds the settings that depend on the server and on the operator's choice: those of `connection`.
///
/// A later change of `search_path` must not make some connections use another schema than the others.
pub async fn with_settings_of(
    connection: &mut PgConnection,
    options: PgConnectOptions,
) -> sqlx::Result<PgConnectOptions> {
    let search_path = read_settings(connection).await?.remove(SEARCH_PATH).unwrap_or_default();
    let options = options.options([(SEARCH_PATH, search_path)]);
    Ok(match connection.server_version_num() {
        Some(TRANSACTION_TIMEOUT_SINCE..) => options.options([TRANSACTION_TIMEOUT]),
        _ => options,
    })
}

/// Opens a connection and checks its settings.
pub async fn connect(options: &PgConnectOptions) -> sqlx::Result<PgConnection> {
    let mut connection = options.connect().await?;
    match check(&mut connection, options).await {
        Ok(()) => Ok(connection),
        Err(error) => {
            let _ = connection.close().await;
            Err(error)
        }
    }
}

/// Returns the options of a pool that connects with `options` and checks the settings of each connection.
pub fn pool_options(options: &PgConnectOptions) -> PgPoolOptions {
    let options = options.clone();
    PgPoolOptions::new().after_connect(move |connection, _| {
        let options = options.clone();
        Box::pin(async move { check(connection, &options).await })
    })
}

/// Takes the lock against imports, which the session keeps as long as it lives: no session changes data while an import
/// replaces it. Returns `false` if another session shares the lock.
///
/// # Errors
///
/// Database errors.
pub async fn try_exclude_others(import: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar("select pg_try_advisory_lock(hashtextextended('mortise session', 0))").fetch_one(import).await
}

/// Compares the settings of a new session with those that were sent. One round trip, unless an import has just ended.
async fn check(connection: &mut PgConnection, options: &PgConnectOptions) -> sqlx::Result<()> {
    /// PostgreSQL ends the session of a killed import within a second. A new session waits 5 seconds for it.
    const POLLS_MAX: u32 = 50;
    const POLL_INTERVAL: Duration = Duration::from_millis(100);
    let mut actual = read_settings(connection).await?;
    for _ in 0..POLLS_MAX {
        if actual.get(IMPORT_RUNS).is_none_or(|runs| runs != "true") {
            break;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        actual = read_settings(connection).await?;
    }
    let actual = |name: &str| actual.get(name).map_or("unknown", String::as_str);
    if actual(IMPORT_RUNS) == "true" {
        return Err(SessionError::ImportRuns.into());
    }
    let sent = sent_settings(options.get_options().unwrap_or_default());
    match actual(SERVER_ENCODING.0) {
        encoding if encoding == SERVER_ENCODING.1 => {}
        encoding => return Err(SessionError::WrongEncoding(encoding.to_owned()).into()),
    }
    let differing: Vec<String> = checked_names()
        .filter_map(|name| {
            let (value, expected) = (actual(name), sent.get(name)?);
            (value != expected).then(|| format!("{name} is {value:?} instead of {expected:?}"))
        })
        .collect();
    if !differing.is_empty() {
        return Err(SessionError::SettingsDropped(differing.join(", ")).into());
    }
    match actual(REPLICATION_ROLE.0) {
        role if role == REPLICATION_ROLE.1 => Ok(()),
        role => Err(SessionError::TriggersDisabled(role.to_owned()).into()),
    }
}

/// Returns the names of the settings that are sent and read back.
pub fn checked_names() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|(name, _)| *name).chain([SEARCH_PATH, TRANSACTION_TIMEOUT.0])
}

async fn read_settings(connection: &mut PgConnection) -> sqlx::Result<BTreeMap<String, String>> {
    // The simple protocol needs one round trip, a prepared statement two.
    static QUERY: LazyLock<String> = LazyLock::new(|| {
        let names: Vec<&str> = checked_names().chain([REPLICATION_ROLE.0, SERVER_ENCODING.0]).collect();
        format!(
            "select name, setting from pg_settings where name in ('{}')
             union all
             select '{IMPORT_RUNS}', case when current_setting('application_name') = '{IMPORT_NAME}' then 'false'
                 else (not pg_try_advisory_lock_shared(hashtextextended('mortise session', 0)))::text end",
            names.join("', '")
        )
    });
    let rows = sqlx::raw_sql(QUERY.as_str()).fetch_all(connection).await?;
    rows.iter().map(|row: &PgRow| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Parses the `options` of a startup message: `-c name=value -c …` with escaped spaces. Of two values the last counts.
fn sent_settings(options: &str) -> BTreeMap<&str, String> {
    let settings = options.trim_start_matches("-c ").split(" -c ").filter_map(|setting| setting.split_once('='));
    settings.map(|(name, value)| (name, value.replace("\\ ", " ").replace("\\\\", "\\"))).collect()
}
