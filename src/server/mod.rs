//! The server process: start, run, graceful shutdown.

pub mod connection;
mod console;
pub mod init;
pub mod limits;
pub mod listener;
mod signals;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use secrecy::ExposeSecret;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::signals::shutdown_signal;
use crate::accounts::AccountCache;
use crate::audit::AuditQueue;
use crate::auth::attempt_limiter::AttemptLimiter;
use crate::auth::passwords::Passwords;
use crate::auth::user_lookup::UserLookup;
use crate::config::{Config, OnOff};
use crate::db::health::HealthCheck;
use crate::db::pool::Pool;
use crate::db::seed::InitialCredentials;
use crate::db::{self, DatabaseError, seed};
use crate::http::monitoring;
use crate::http::router;
use crate::jobs;
use crate::jobs::stock_vacuum::StockVacuum;
use crate::locks::Locks;
use crate::mail::{MailError, Mailer};
use crate::managed_postgres::address::PublishedAddress;
use crate::managed_postgres::error::ManagedPostgresError;
use crate::managed_postgres::{ManagedPostgres, STOP_TIMEOUT, default_data_dir};
use crate::sales::batcher::SaleBatcher;
use crate::server::limits::{LoadLimiter, RefusalLog, WaitQueue};
use crate::spool;
use crate::state::AppState;
use crate::telemetry::metrics::Metrics;
#[cfg(feature = "otlp")]
use crate::telemetry::tracer::OtlpTracer;

/// Maximum time that the shutdown waits for each of: queued audit rows, queued spans, the close of the database pool.
const SHUTDOWN_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of connections of the console: a flood there must not use up the open files of the API.
const CONSOLE_CONNECTIONS_MAX: usize = 256;

/// Maximum number of requests that wait for a lock or a list permit of this server, in total and for one client.
const LOCK_WAITING_MAX: usize = 512;
const LOCK_WAITING_PER_CLIENT_MAX: usize = 128;

/// The reason for which the server did not start, or stopped early.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "described by the error messages")]
pub enum ServerError {
    #[error(transparent)]
    Managed(#[from] ManagedPostgresError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Mail(#[from] MailError),
    #[error(transparent)]
    Console(#[from] console::ConsoleStartError),
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    #[cfg(feature = "otlp")]
    #[error("cannot create the trace exporter: {0}")]
    TraceExporter(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("cannot write temporary files to {}: {source}. Set temp_dir to another directory", directory.display())]
    TempDir { directory: PathBuf, source: std::io::Error },
    #[error("cannot read random bytes from the operating system: {0}")]
    Random(#[from] getrandom::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Serves until a [`shutdown_signal`], then finishes the requests in flight. Without `database_url` it also starts
/// and stops a local PostgreSQL.
pub async fn serve(config: Config, demo: bool) -> Result<(), ServerError> {
    let stop = cancelled_on_signal()?;
    let url = config.database_url.expose_secret();
    if !url.is_empty() {
        return serve_with_database(db::parse_url(url)?, config, demo, stop).await;
    }
    let managed = ManagedPostgres::prepare(&data_dir(&config)).await?;
    let result = match stop.run_until_cancelled(managed.start()).await {
        Some(Ok(())) => tokio::select! {
            result = serve_with_database(managed.connect_options(), config, demo, stop) => result,
            () = managed.restart_on_exit() => Ok(()),
        },
        Some(Err(error)) => Err(error.into()),
        None => Ok(()),
    };
    // Also after an error: the local PostgreSQL must not outlive the server.
    managed.stop(STOP_TIMEOUT).await;
    result
}

/// Returns a token that is cancelled by a [`shutdown_signal`].
fn cancelled_on_signal() -> std::io::Result<CancellationToken> {
    let (signal, stop) = (shutdown_signal()?, CancellationToken::new());
    let cancelled = stop.clone();
    tokio::spawn(async move {
        signal.await;
        notify_service_manager(NotifyState::Stopping);
        stop.cancel();
    });
    Ok(cancelled)
}

/// Returns the data directory of the local PostgreSQL: the setting `data_dir` or its default.
pub fn data_dir(config: &Config) -> std::path::PathBuf {
    if config.data_dir.as_os_str().is_empty() { default_data_dir() } else { config.data_dir.clone() }
}

/// Returns the directory for temporary files: the setting `temp_dir`, else the data directory of the local PostgreSQL,
/// else the system's.
pub fn temp_dir(config: &Config) -> PathBuf {
    if !config.temp_dir.as_os_str().is_empty() {
        return config.temp_dir.clone();
    }
    let data_dir =
        Some(data_dir(config)).filter(|path| config.database_url.expose_secret().is_empty() && path.is_dir());
    data_dir.unwrap_or_else(std::env::temp_dir)
}

async fn serve_with_database(
    options: sqlx::postgres::PgConnectOptions,
    config: Config,
    demo: bool,
    stop: CancellationToken,
) -> Result<(), ServerError> {
    let Some(start_pool) = stop.run_until_cancelled(prepare_database(options, &config, demo)).await.transpose()? else {
        return Ok(());
    };
    let pool = Pool::from(start_pool.clone());
    start_pool.close().await;
    let result = run(pool.clone(), config, demo, stop).await;
    // Limited: a database that does not answer must not block the shutdown.
    let _ = tokio::time::timeout(SHUTDOWN_FLUSH_TIMEOUT, pool.close()).await;
    result
}

/// Connects to the database, migrates it or checks its schema, and seeds it if it is empty.
async fn prepare_database(
    options: sqlx::postgres::PgConnectOptions,
    config: &Config,
    demo: bool,
) -> Result<PgPool, ServerError> {
    let pool = db::connect(options, config).await?;
    match config.migrate {
        OnOff::On => drop(db::migrate(&pool).await?),
        OnOff::Off => db::require_current_schema(&pool).await?,
    }
    db::require_intact_schema(&pool).await?;
    if !seed::seed_if_empty(&pool, demo, print_credentials).await? && demo {
        tracing::info!("database has users already, --demo adds no data");
    }
    if !demo && seed::has_demo_key(&pool).await.map_err(DatabaseError::SeedFailed)? {
        tracing::warn!("public demo API secret key in use: set another key");
    }
    Ok(pool)
}

/// Prints the credentials of the first start. The key is shown only this once; on standard output, so that no log
/// contains it. The write blocks a thread of its own: standard output can be a pipe that its reader does not read.
async fn print_credentials(InitialCredentials { username, secret_key }: &InitialCredentials) -> std::io::Result<()> {
    let line = format!("First start. User: {username}  API secret key: {}\n", secret_key.expose_secret());
    let write = move || std::io::stdout().write_all(line.as_bytes());
    tokio::task::spawn_blocking(write).await?
}

/// Builds the state that all requests share, and the future that writes its audit queue to the database.
pub fn build_app_state(
    config: Config,
    pool: Pool,
) -> Result<(Arc<AppState>, impl Future<Output = ()> + Send), ServerError> {
    let (audit, audit_rows) = AuditQueue::new();
    let background_pool = pool.background_pool();
    let accounts = AccountCache::new(pool.clone(), config.cache);
    let locks = Locks::new(config.database_connections);
    let imports_max = usize::from(config.import_concurrency.get());
    let load = LoadLimiter::new(config.max_requests, config.max_body_memory, imports_max);
    let temp_dir = temp_dir(&config);
    spool::check_directory(&temp_dir).map_err(|source| ServerError::TempDir { directory: temp_dir.clone(), source })?;
    let (stock_vacuum, mail) = (StockVacuum::default(), Mailer::new(&config)?);
    let max_wait = config.database_acquire_timeout;
    let (passwords, user_lookup) = (Passwords::new(max_wait)?, UserLookup::new(max_wait));
    #[cfg(feature = "otlp")]
    let tracer = OtlpTracer::new(config.otlp_endpoint.as_ref())?;
    let attempts = AttemptLimiter::new(config.failed_attempts_max, config.lockout);
    let state = Arc::new(AppState {
        batcher: SaleBatcher::new(pool.clone(), config.sale_concurrency, config.database_acquire_timeout / 20),
        config,
        temp_dir: temp_dir.into(),
        mail_pool: pool.mail_pool(),
        health: HealthCheck::new(&pool),
        pool,
        background_pool: background_pool.clone(),
        accounts,
        passwords,
        audit,
        attempts,
        user_lookup,
        locks,
        lock_queue: WaitQueue::new("locks", LOCK_WAITING_MAX, LOCK_WAITING_PER_CLIENT_MAX),
        load,
        refusal_log: RefusalLog::default(),
        mail,
        stock_vacuum,
        metrics: Metrics::default(),
        #[cfg(feature = "otlp")]
        tracer,
    });
    Ok((state, AuditQueue::run_writer(background_pool, audit_rows)))
}

async fn run(pool: Pool, config: Config, demo: bool, stop: CancellationToken) -> Result<(), ServerError> {
    let listen = config.listen;
    let (state, audit_writer) = build_app_state(config, pool)?;
    let audit_writer = tokio::spawn(audit_writer);
    let listener = TcpListener::bind(listen).await.map_err(|error| ServerError::Listen(listen, error))?;
    let metrics_listener = match state.config.metrics_listen {
        None => None,
        Some(address) => Some(TcpListener::bind(address).await.map_err(|error| ServerError::Listen(address, error))?),
    };
    let console = console::start(&state, demo).await?;
    let background_tasks = tokio::spawn({
        let state = state.clone();
        async move { jobs::run_background_tasks(&state).await }
    });
    let _published_address = publish_address(&state.config, listener.local_addr()?);
    tracing::info!("listening on http://{}{}/api/", listener.local_addr()?, state.config.prefix);
    if let Some(listener) = &metrics_listener {
        tracing::info!("listening on http://{}/metrics", listener.local_addr()?);
    }
    notify_service_manager(NotifyState::Ready);
    let config = &state.config;
    let connections_max =
        listener::connection_limit(config, if console.is_some() { CONSOLE_CONNECTIONS_MAX } else { 0 });
    let api = router::build_service(state.clone());
    let requests = listener::serve(listener, api, config, connections_max, stop.clone());
    let scrapes = async {
        if let Some(listener) = metrics_listener {
            let router = monitoring::router(state.clone());
            listener::serve(listener, router, config, connections_max, stop.clone()).await;
        }
    };
    let pages = async {
        if let Some((listener, router)) = console {
            let connections_max = connections_max.min(CONSOLE_CONNECTIONS_MAX);
            listener::serve(listener, router, config, connections_max, stop.clone()).await;
        }
    };
    tokio::join!(requests, scrapes, pages);
    state.mail.stop(state.config.shutdown_timeout).await;
    #[cfg(feature = "otlp")]
    state.tracer.stop(SHUTDOWN_FLUSH_TIMEOUT).await;
    // `state` and the background tasks hold the last senders of the audit queue. Without senders the writer ends when
    // the queue is empty.
    drop(state);
    background_tasks.abort();
    let _ = background_tasks.await;
    if tokio::time::timeout(SHUTDOWN_FLUSH_TIMEOUT, audit_writer).await.is_err() {
        tracing::warn!(timeout = ?SHUTDOWN_FLUSH_TIMEOUT, "audit queue not written before shutdown, rows lost");
    }
    Ok(())
}

/// Publishes the address until the result is dropped. Without it, commands use the address in the settings.
fn publish_address(config: &Config, address: SocketAddr) -> Option<PublishedAddress> {
    let url = config.database_url.expose_secret();
    let database = if url.is_empty() { None } else { db::parse_url(url).ok() };
    match PublishedAddress::publish(&data_dir(config), database.as_ref(), address) {
        Ok(published) => Some(published),
        Err(error) if database.is_none() => {
            tracing::warn!(%error, "cannot publish the address of the server");
            None
        }
        // Without a local PostgreSQL, nothing else needs the data directory: often, it cannot be written.
        Err(error) => {
            tracing::debug!(%error, "cannot publish the address of the server");
            None
        }
    }
}

/// Notifies systemd or another service manager; does nothing if `NOTIFY_SOCKET` is not set. Does not wait: the send
/// blocks while the socket's queue is full.
fn notify_service_manager(state: NotifyState<'static>) {
    tokio::task::spawn_blocking(move || {
        if let Err(error) = sd_notify::notify(&[state]) {
            tracing::warn!(%error, "service manager notification failed");
        }
    });
}
