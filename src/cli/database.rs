//! Database access for commands: the database in `database_url`, or the local PostgreSQL. If no server runs the local
//! PostgreSQL, the command starts it and stops it at the end.

use std::path::Path;
use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool, Postgres, Transaction};

use super::CommandError;
use crate::back_office::backup::ClientEnvironment;
use crate::config::Config;
use crate::db::{self, DatabaseError, session};
use crate::managed_postgres::error::ManagedPostgresError;
use crate::managed_postgres::{ManagedPostgres, STOP_TIMEOUT};
use crate::server;
use crate::store::pages::BEGIN_READ_ONLY;

/// Maximum number of attempts to get the local PostgreSQL of a server that is starting or stopping: 5 seconds in total.
const POLLS_MAX: u32 = 50;
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Runs `work` on the database, whose schema must be up to date.
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

/// Runs `work` in one transaction on the database, whose schema must be up to date. An error rolls it back.
pub async fn with_transaction<T>(
    config: &Config,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        let result = work(&mut transaction).await?;
        transaction.commit().await?;
        Ok(result)
    })
    .await
}

/// Runs `work` on the database, with any version of the schema.
pub async fn with_any_schema<T>(
    config: &Config,
    work: impl AsyncFnOnce(&PgPool) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    if config.database_url.expose_secret().is_empty() && !ManagedPostgres::is_initialized(&server::data_dir(config)) {
        return Err(CommandError::NoDatabase(server::data_dir(config)));
    }
    with_new_or_existing(config, work).await
}

/// Runs `work` on the database, with any version of the schema. A missing local database is created.
pub async fn with_new_or_existing<T>(
    config: &Config,
    work: impl AsyncFnOnce(&PgPool) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let url = config.database_url.expose_secret();
    if !url.is_empty() {
        return cancel_on_signal(with_pool(db::parse_url(url)?, config, work)).await;
    }
    match acquire_local_postgres(&server::data_dir(config)).await? {
        LocalPostgres::Running(options) => cancel_on_signal(with_pool(options, config, work)).await,
        LocalPostgres::Owned(managed) => {
            let result = cancel_on_signal(async {
                managed.start().await?;
                with_pool(managed.connect_options(), config, work).await
            })
            .await;
            wait_for_other_clients(&managed).await;
            managed.stop(STOP_TIMEOUT).await;
            result
        }
    }
}

/// Returns the variables with which PostgreSQL's own programs connect to the database. A local PostgreSQL must run.
pub fn client_environment(config: &Config) -> Result<ClientEnvironment, CommandError> {
    let url = config.database_url.expose_secret();
    if !url.is_empty() {
        return Ok(ClientEnvironment::from_url(url, &db::parse_url(url)?)?);
    }
    let data = server::data_dir(config);
    let options = ManagedPostgres::running_connect_options(&data)?;
    Ok(ClientEnvironment::new(&options, Some(ManagedPostgres::role_password(&data)?)))
}

/// The local PostgreSQL.
enum LocalPostgres {
    /// Another process runs it: a server or a command.
    Running(PgConnectOptions),
    /// This command starts and stops it.
    Owned(ManagedPostgres),
}

/// Locks the data directory, or connects to the PostgreSQL that runs on it. A starting or stopping server holds the
/// lock while its PostgreSQL is unreachable: both are tried again until one succeeds.
async fn acquire_local_postgres(data: &Path) -> Result<LocalPostgres, CommandError> {
    let mut attempts_left = POLLS_MAX;
    loop {
        match ManagedPostgres::prepare(data).await {
            Ok(managed) => return Ok(LocalPostgres::Owned(managed)),
            Err(ManagedPostgresError::InUse { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let error = match ManagedPostgres::running_connect_options(data) {
            Ok(options) => match options.connect().await {
                Ok(connection) => {
                    connection.close().await?;
                    return Ok(LocalPostgres::Running(options));
                }
                Err(error) => DatabaseError::Unreachable(error).into(),
            },
            Err(error) => CommandError::from(error),
        };
        attempts_left -= 1;
        if attempts_left == 0 {
            return Err(error);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn with_pool<T>(
    options: PgConnectOptions,
    config: &Config,
    work: impl AsyncFnOnce(&PgPool) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    // Some commands need a second connection while they hold one.
    let config = Config { database_connections: config.database_connections.max(2), ..config.clone() };
    let pool = db::connect(options, &config).await?;
    let result = work(&pool).await;
    pool.close().await;
    result
}

/// Waits until no other command uses the PostgreSQL that this command started. Ctrl-C ends the wait.
async fn wait_for_other_clients(managed: &ManagedPostgres) {
    let Ok(stop) = server::shutdown_signal() else { return };
    let no_other_clients = async {
        // With a name of its own: it does not count as another client.
        let options = session::with_settings(managed.connect_options()).application_name("mortise monitor");
        let mut connection = session::connect(&options).await?;
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
        _ = no_other_clients => {}
        () = stop => {}
    }
}

/// Cancels `work` on Ctrl-C or SIGTERM. The caller then stops the local PostgreSQL.
async fn cancel_on_signal<T>(work: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    let stop = server::shutdown_signal()?;
    tokio::select! {
        result = work => result,
        () = stop => Err(CommandError::Interrupted),
    }
}

/// Begins a read-only transaction that may read whole tables.
pub async fn begin_read_only(pool: &PgPool) -> sqlx::Result<Transaction<'static, Postgres>> {
    pool.begin_with(BEGIN_READ_ONLY).await
}
