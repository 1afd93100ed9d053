//! The way to the database for a command: yours, or the local one: beside the server that runs it, else started for the
//! time of the command.

use std::path::Path;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgPool, Postgres, Transaction};

use super::Failure;
use crate::config::Config;
use crate::db::{self, DatabaseError};
use crate::managed_postgres::Managed;
use crate::managed_postgres::installation::ManagedError;
use crate::server;

/// How long the database of a server that is just starting or stopping is waited for, in steps.
const STEPS: u32 = 50;
const STEP: Duration = Duration::from_millis(100);

/// What reads all of a table may; everything else goes by indexes here too.
const READ: &str = "begin read only; set local plan_cache_mode = force_custom_plan; set local enable_seqscan = on;
    set local enable_bitmapscan = on; set local enable_hashjoin = on; set local enable_mergejoin = on;
    set local enable_sort = on; set local work_mem = '64MB'; set local statement_timeout = '1h'";

/// Does `work` on a database whose schema is up to date.
pub async fn on_database<T>(
    config: &Config,
    work: impl AsyncFnOnce(&PgPool) -> Result<T, Failure>,
) -> Result<T, Failure> {
    on_any_schema(config, async |pool| {
        db::demand_current(pool).await?;
        work(pool).await
    })
    .await
}

/// The same, whatever the schema.
pub async fn on_any_schema<T>(
    config: &Config,
    work: impl AsyncFnOnce(&PgPool) -> Result<T, Failure>,
) -> Result<T, Failure> {
    if config.database_url.reveal().is_empty() && !Managed::is_made(&server::data_dir(config)) {
        return Err(Failure::NoDatabase(server::data_dir(config)));
    }
    on_new_or_old(config, work).await
}

/// The same; where there is no local database yet, one is made.
pub async fn on_new_or_old<T>(
    config: &Config,
    work: impl AsyncFnOnce(&PgPool) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let url = config.database_url.reveal();
    if !url.is_empty() {
        return until_stopped(on(db::external(url)?, config, work)).await;
    }
    match reach(&server::data_dir(config)).await? {
        Reached::Beside(options) => until_stopped(on(options, config, work)).await,
        Reached::Ours(managed) => {
            let worked = until_stopped(async {
                managed.start().await?;
                on(managed.options(), config, work).await
            })
            .await;
            until_alone(&managed).await;
            managed.stop().await;
            worked
        }
    }
}

/// The local PostgreSQL.
enum Reached {
    /// A server runs it.
    Beside(PgConnectOptions),
    /// Nobody else does.
    Ours(Managed),
}

/// A server holds the data directory before its database can be reached, and after: then the next look may find it free.
async fn reach(data: &Path) -> Result<Reached, Failure> {
    let mut left = STEPS;
    loop {
        match Managed::prepare(data) {
            Ok(managed) => return Ok(Reached::Ours(managed)),
            Err(ManagedError::InUse { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let refused = match Managed::options_beside(data) {
            Ok(options) => match options.connect().await {
                Ok(connection) => {
                    connection.close().await?;
                    return Ok(Reached::Beside(options));
                }
                Err(error) => DatabaseError::Unreachable(error).into(),
            },
            Err(error) => Failure::from(error),
        };
        left -= 1;
        if left == 0 {
            return Err(refused);
        }
        tokio::time::sleep(STEP).await;
    }
}

async fn on<T>(
    options: PgConnectOptions,
    config: &Config,
    work: impl AsyncFnOnce(&PgPool) -> Result<T, Failure>,
) -> Result<T, Failure> {
    // Some commands look at one thing while they hold another.
    let config = Config { database_connections: config.database_connections.max(2), ..config.clone() };
    let pool = db::connect(options, &config).await?;
    let worked = work(&pool).await;
    pool.close().await;
    worked
}

/// Another command may have come meanwhile, and be at work on the database that this one started. Ctrl-C goes before it.
async fn until_alone(managed: &Managed) {
    let Ok(stop) = server::told_to_stop() else { return };
    let alone = async {
        let mut connection = managed.options().connect().await?;
        while sqlx::query_scalar!(
            r#"select exists (select from pg_stat_activity
                              where application_name = 'mortise' and datname = current_database()) as "others!""#
        )
        .fetch_one(&mut connection)
        .await?
        {
            tokio::time::sleep(STEP).await;
        }
        connection.close().await
    };
    tokio::select! {
        _ = alone => {}
        () = stop => {}
    }
}

/// Ctrl-C must not leave the local database running.
async fn until_stopped<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let stop = server::told_to_stop()?;
    tokio::select! {
        worked = work => worked,
        () = stop => Err(Failure::Stopped),
    }
}

/// A transaction that changes nothing and may read all of a table.
pub async fn reading(pool: &PgPool) -> sqlx::Result<Transaction<'static, Postgres>> {
    pool.begin_with(READ).await
}
