//! Backups with PostgreSQL's own programs, and their checks: a backup is complete if its file has each row that the
//! database had; a restored database is complete if it has each row of the file.

mod check;
mod contents;
mod programs;

use std::fs::File;
use std::io::Seek;
use std::path::Path;

use serde::Serialize;
use sqlx::{PgConnection, PgPool};

use self::check::{Findings, check_database, count_rows};
use self::contents::Contents;
pub use self::programs::ClientEnvironment;
use self::programs::Programs;
use crate::back_office::BackOfficeError;
use crate::db;

/// A snapshot that stays open for as long as the backup needs.
const BEGIN_SNAPSHOT: &str = "begin isolation level repeatable read read only;
    set local idle_in_transaction_session_timeout = 0; set local statement_timeout = 0;
    set local plan_cache_mode = force_custom_plan; set local enable_seqscan = on; set local enable_bitmapscan = on;
    set local enable_hashjoin = on; set local enable_mergejoin = on; set local enable_sort = on; set local work_mem = '64MB'";

/// The result of a backup or of a restore.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The number of tables.
    pub tables: usize,
    /// The number of rows of all tables.
    pub rows: u64,
    /// The number of rows of `cards`.
    pub cards: u64,
    /// The number of rows of `payments`.
    pub payments: u64,
    /// The number of rows of `users`.
    pub users: u64,
    /// The e-mails that wait: a server sends them as soon as it starts.
    pub waiting_mails: i64,
    /// The number of migrations that the database lacks. The next start of the server applies them.
    pub missing_migrations: usize,
    /// What is wrong with the data. Empty: everything was checked and is correct.
    pub problems: Vec<String>,
}

impl Outcome {
    fn new(contents: &Contents, findings: Findings) -> Self {
        Self {
            tables: contents.tables.len(),
            rows: contents.tables.values().sum(),
            cards: contents.rows_of("cards"),
            payments: contents.rows_of("payments"),
            users: contents.rows_of("users"),
            waiting_mails: findings.waiting_mails,
            missing_migrations: findings.missing_migrations,
            problems: findings.problems,
        }
    }
}

/// Writes a dump of the database to the empty file, and checks the database and the file. The server may run meanwhile:
/// the dump is of one moment.
///
/// # Errors
///
/// [`BackOfficeError::Refused`] if the database is not one of Mortise, if PostgreSQL's programs are missing, of
/// another version, or fail, or if the file is incomplete.
pub async fn back_up(pool: &PgPool, environment: &ClientEnvironment, file: &File) -> Result<Outcome, BackOfficeError> {
    let missing_migrations = count_missing_migrations(pool).await?.ok_or_else(|| {
        BackOfficeError::refused("this is not a database of Mortise: the session sees no rows of _sqlx_migrations")
    })?;
    let programs = Programs::find(server_version(pool).await?).await?;
    let mut transaction = pool.begin_with(BEGIN_SNAPSHOT).await?;
    let snapshot = sqlx::query_scalar!(r#"select pg_export_snapshot() as "snapshot!""#);
    let snapshot = snapshot.fetch_one(&mut *transaction).await?;
    let check = async {
        let rows = count_rows(&mut transaction).await?;
        Ok::<_, BackOfficeError>((rows, check_database(missing_migrations, &mut transaction).await))
    };
    let ((), (rows, findings)) = tokio::try_join!(programs.dump(environment, &snapshot, file), check)?;
    transaction.rollback().await?;
    let contents = read_contents(&programs, file).await?;
    contents.require_known_migrations()?;
    if let Some(difference) = contents.find_difference(&rows) {
        return Err(BackOfficeError::refused(format!("the file is incomplete: {difference}")));
    }
    Ok(Outcome::new(&contents, findings))
}

/// Records a finished backup, for the check of its age.
///
/// # Errors
///
/// Database errors, for example on a standby, which cannot be written to.
pub async fn record(pool: &PgPool, path: &Path, bytes: u64) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into backups (file, bytes) values ($1, $2)",
        path.display().to_string(),
        i64::try_from(bytes).unwrap_or(i64::MAX)
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Restores a dump into an empty database, in one transaction, and checks the result. A server that starts meanwhile
/// waits for the end.
///
/// # Errors
///
/// [`BackOfficeError::Refused`] if the database is not empty, if the file is not a dump of Mortise, is damaged or of a
/// newer version, or if PostgreSQL's programs are missing, of another version, or fail: nothing is restored then. Also
/// if the result differs from the file, or if the session does not see its tables.
pub async fn restore(pool: &PgPool, environment: &ClientEnvironment, file: &File) -> Result<Outcome, BackOfficeError> {
    let programs = Programs::find(server_version(pool).await?).await?;
    let mut connection = pool.acquire().await?;
    require_empty(&mut connection).await?;
    let contents = read_contents(&programs, file).await?;
    contents.require_known_migrations()?;
    // Held until the end of the session.
    let lock = sqlx::query_scalar!(r#"select pg_try_advisory_lock(hashtextextended('migrate', 0)) as "locked!""#);
    if !lock.fetch_one(&mut *connection).await? {
        return Err(BackOfficeError::refused("a server is starting on this database: stop it first"));
    }
    require_empty(&mut connection).await?;
    rewind(file)?;
    programs.restore(environment, file).await?;
    sqlx::raw_sql("set statement_timeout = 0; analyze").execute(&mut *connection).await?;
    let missing_migrations = count_missing_migrations(pool).await?.ok_or_else(|| {
        BackOfficeError::refused(
            "the file was restored, but its tables are in a schema that is not in the search_path of the role: set it \
             with `alter role … set search_path`, or drop the schema",
        )
    })?;
    let mut transaction = pool.begin_with(BEGIN_SNAPSHOT).await?;
    let rows = count_rows(&mut transaction).await?;
    // Frees the lock: a server that waits starts now, and its changes are not in the snapshot.
    connection.close().await?;
    if let Some(difference) = contents.find_difference(&rows) {
        return Err(BackOfficeError::refused(format!("the restore is incomplete: {difference}")));
    }
    let findings = check_database(missing_migrations, &mut transaction).await;
    Ok(Outcome::new(&contents, findings))
}

/// Returns the major version of the server.
async fn server_version(pool: &PgPool) -> Result<u32, BackOfficeError> {
    let version = pool.acquire().await?.server_version_num().unwrap_or(0);
    Ok(version / 10_000)
}

async fn read_contents(programs: &Programs, file: &File) -> Result<Contents, BackOfficeError> {
    rewind(file)?;
    Contents::read(programs, file).await
}

fn rewind(mut file: &File) -> Result<(), BackOfficeError> {
    file.rewind().map_err(|error| BackOfficeError::refused(format!("cannot read the file from its start: {error}")))
}

/// Refuses a database that has any table, view or sequence, except those of extensions.
async fn require_empty(connection: &mut PgConnection) -> Result<(), BackOfficeError> {
    let objects = sqlx::query_scalar!(
        r#"select count(*) as "count!" from pg_class c join pg_namespace n on n.oid = c.relnamespace
           where n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)'
               and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
               and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')"#
    );
    match objects.fetch_one(connection).await? {
        0 => Ok(()),
        count => Err(BackOfficeError::refused(format!(
            "the database is not empty (it has {count} tables, views and sequences), and a restore replaces nothing: \
             name an empty one with --database-url, or a new directory with --data-dir"
        ))),
    }
}

/// Returns the number of migrations that the database lacks. `None`: it lacks all of them.
async fn count_missing_migrations(pool: &PgPool) -> Result<Option<usize>, BackOfficeError> {
    let missing = db::missing_migrations(pool).await.map_err(|error| BackOfficeError::Refused(error.to_string()))?;
    Ok(Some(missing.len()).filter(|count| *count < db::migration_count()))
}
