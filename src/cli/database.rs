//! The way to the database for a command: yours, or the local one: beside the server that runs it, else started for the
//! time of the command.

use std::path::Path;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgPool, Postgres, Transaction};

use super::CommandError;
use crate::config::Config;
use crate::db::{self, DatabaseError};
use crate::managed_postgres::ManagedPostgres;
use crate::managed_postgres::installation::ManagedPostgresError;
use crate::server;

/// How long the database of a server that is just starting or stopping is waited for, in steps.
const POLLS_MAX: u32 = 50;
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What reads all of a table may; everything else goes by indexes here too.
const BEGIN_READ_ONLY: &str =
    "begin read only; set local plan_cache_mode = force_custom_plan; set local enable_seqscan = on;
    set local enable_bitmapscan = on; set local enable_hashjoin = on; set local enable_mergejoin = on;
    set local enable_sort = on; set local work_mem = '64MB'; set local statement_timeout = '1h'";

/// Does `work` on a database whose schema is up to date.
pub async fn with_database<T>(
    config: &Config,
    work: impl AsyncFnOnce(&PgPool) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    with_any_schema(config, async |pool| {
        db::require_current_schema(pool).await?;
        work(pool).await
    })
    .await
}

/// The same, whatever the schema.
pub async fn with_any_schema<T>(
    config: &Config,
    work: impl AsyncFnOnce(&PgPool) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    if config.database_url.reveal().is_empty() && !ManagedPostgres::is_initialized(&server::data_dir(config)) {
        return Err(CommandError::NoDatabase(server::data_dir(config)));
    }
    with_new_or_existing(config, work).await
}

/// The same; where there is no local database yet, one is made.
pub async fn with_new_or_existing<T>(
    config: &Config,
    work: impl AsyncFnOnce(&PgPool) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let url = config.database_url.reveal();
    if !url.is_empty() {
        return cancel_on_signal(with_pool(db::parse_url(url)?, config, work)).await;
    }
    match acquire_local_postgres(&server::data_dir(config)).await? {
        LocalPostgres::Running(options) => cancel_on_signal(with_pool(options, config, work)).await,
        LocalPostgres::Owned(managed) => {
            let worked = cancel_on_signal(async {
                managed.start().await?;
                with_pool(managed.connect_options(), config, work).await
            })
            .await;
            wait_for_other_clients(&managed).await;
            managed.stop().await;
            worked
        }
    }
}

/// The local PostgreSQL.
enum LocalPostgres {
    /// A server runs it.
    Running(PgConnectOptions),
    /// Nobody else does.
    Owned(ManagedPostgres),
}

/// A server holds the data directory before its database can be reached, and after: then the next look may find it free.
async fn acquire_local_postgres(data: &Path) -> Result<LocalPostgres, CommandError> {
    let mut left = POLLS_MAX;
    loop {
        match ManagedPostgres::prepare(data) {
            Ok(managed) => return Ok(LocalPostgres::Owned(managed)),
            Err(ManagedPostgresError::InUse { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let refused = match ManagedPostgres::running_connect_options(data) {
            Ok(options) => match options.connect().await {
                Ok(connection) => {
                    connection.close().await?;
                    return Ok(LocalPostgres::Running(options));
                }
                Err(error) => DatabaseError::Unreachable(error).into(),
            },
            Err(error) => CommandError::from(error),
        };
        left -= 1;
        if left == 0 {
            return Err(refused);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn with_pool<T>(
    options: PgConnectOptions,
    config: &Config,
    work: impl AsyncFnOnce(&PgPool) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    // Some commands look at one thing while they hold another.
    let config = Config { database_connections: config.database_connections.max(2), ..config.clone() };
    let pool = db::connect(options, &config).await?;
    let worked = work(&pool).await;
    pool.close().await;
    worked
}

/// Another command may have come meanwhile, and be at work on the database that this one started. Ctrl-C goes before it.
async fn wait_for_other_clients(managed: &ManagedPostgres) {
    let Ok(stop) = server::shutdown_signal() else { return };
    let alone = async {
        let mut connection = managed.connect_options().connect().await?;
        while sqlx::query_scalar!(
            r#"select exists (select from pg_stat_activity
                              where application_name = 'mortise' and datname = current_database()) as "others!""#
        )
        .fetch_one(&mut connection)
        .await?
        {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        connection.close().await
    };
    tokio::select! {
        _ = alone => {}
        () = stop => {}
    }
}

/// Ctrl-C must not leave the local database running.
async fn cancel_on_signal<T>(work: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    let stop = server::shutdown_signal()?;
    tokio::select! {
        worked = work => worked,
        () = stop => Err(CommandError::Interrupted),
    }
}

/// A transaction that changes nothing and may read all of a table.
pub async fn begin_read_only(pool: &PgPool) -> sqlx::Result<Transaction<'static, Postgres>> {
    pool.begin_with(BEGIN_READ_ONLY).await
}
