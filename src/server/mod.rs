//! From settings to a running server, and back to a clean stop.

pub mod connection;
pub mod limits;
pub mod listener;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use sd_notify::NotifyState;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::accounts::AccountCache;
use crate::audit::AuditQueue;
use crate::auth::attempt_limiter::AttemptLimiter;
use crate::auth::passwords::Passwords;
use crate::config::{Config, OnOff};
use crate::db::pool::Pool;
use crate::db::seed::InitialCredentials;
use crate::db::{self, DatabaseError, seed};
use crate::http::monitoring;
use crate::http::router;
use crate::jobs;
use crate::jobs::stock_vacuum::StockVacuum;
use crate::locks::Locks;
use crate::mail::{MailError, Mailer};
use crate::managed_postgres::installation::ManagedPostgresError;
use crate::managed_postgres::{ManagedPostgres, default_data_dir};
use crate::sales::batcher::SaleBatcher;
use crate::server::limits::LoadLimiter;
use crate::state::AppState;
use crate::telemetry::metrics::Metrics;
#[cfg(feature = "otlp")]
use crate::telemetry::tracer::OtlpTracer;

/// How long the end waits for what has no one waiting for it: queued audit rows, spans, connections to close.
const SHUTDOWN_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the server stopped before its time.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ServerError {
    #[error(transparent)]
    Managed(#[from] ManagedPostgresError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Mail(#[from] MailError),
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    #[cfg(feature = "otlp")]
    #[error("traces can't be sent: {0}")]
    TraceExporter(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("the operating system gives no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Serves until it is told to stop (SIGTERM, SIGINT, SIGHUP), then finishes what it is at, and the database.
pub async fn serve(config: Config, demo: bool) -> Result<(), ServerError> {
    let stop = shutdown_signal()?.inspect(|()| notify_service_manager(&NotifyState::Stopping)).shared();
    let url = config.database_url.reveal();
    if !url.is_empty() {
        return serve_with_database(db::parse_url(url)?, config, demo, stop).await;
    }
    let managed = ManagedPostgres::prepare(&data_dir(&config))?;
    let served = tokio::select! {
        started = managed.start() => match started {
            Ok(()) => tokio::select! {
                served = serve_with_database(managed.connect_options(), config, demo, stop) => served,
                () = managed.restart_on_exit() => Ok(()),
            },
            Err(error) => Err(error.into()),
        },
        () = stop.clone() => Ok(()),
    };
    // However it went, a database of ours doesn't outlive us.
    managed.stop().await;
    served
}

/// Where the local PostgreSQL lives.
pub fn data_dir(config: &Config) -> std::path::PathBuf {
    if config.data_dir.as_os_str().is_empty() { default_data_dir() } else { config.data_dir.clone() }
}

async fn serve_with_database(
    options: sqlx::postgres::PgConnectOptions,
    config: Config,
    demo: bool,
    stop: impl Future<Output = ()> + Clone + Send + 'static,
) -> Result<(), ServerError> {
    let pool = tokio::select! {
        pool = prepare_database(options, &config, demo) => pool?,
        () = stop.clone() => return Ok(()),
    };
    let pool = Pool::from(pool);
    let result = run(pool.clone(), config, stop).await;
    // A database that doesn't answer must not keep us.
    let _ = tokio::time::timeout(SHUTDOWN_FLUSH_TIMEOUT, pool.close()).await;
    result
}

/// A database that is up to date, with somebody in it.
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
    let tell = |first: &InitialCredentials| {
        // The one time that the key is shown; on standard output, where no log is kept.
        writeln!(
            std::io::stdout(),
            "First start. User: {}  API secret key: {}",
            first.username,
            first.secret_key.reveal()
        )
    };
    if !seed::seed_if_empty(&pool, demo, tell).await? && demo {
        tracing::info!("somebody is in the database already: --demo adds nothing to it");
    }
    if !demo && seed::has_demo_key(&pool).await.map_err(DatabaseError::SeedFailed)? {
        tracing::warn!("the API secret key is that of the demo, which everybody knows: set another one");
    }
    Ok(pool)
}

/// The parts that requests share, with what has to run beside them.
pub fn build_app_state(
    config: Config,
    pool: Pool,
) -> Result<(Arc<AppState>, impl Future<Output = ()> + Send), ServerError> {
    let (audit, refusals) = AuditQueue::new();
    let errands = pool.background_pool();
    let directory = AccountCache::new(pool.clone(), errands.clone(), config.cache);
    let turns = Locks::new(config.database_connections);
    let load = LoadLimiter::new(config.max_requests, config.max_body_memory);
    let (passwords, sweeper, mail) = (Passwords::new()?, StockVacuum::default(), Mailer::new(&config)?);
    #[cfg(feature = "otlp")]
    let traces = OtlpTracer::new(config.otlp_endpoint.as_ref())?;
    let guessing = AttemptLimiter::new(config.failed_attempts_max, config.lockout);
    let state = Arc::new(AppState {
        batcher: SaleBatcher::new(pool.clone(), config.sale_concurrency, config.database_acquire_timeout / 20),
        config,
        pool,
        background_pool: errands.clone(),
        accounts: directory,
        passwords,
        audit,
        attempts: guessing,
        locks: turns,
        load,
        mail,
        stock_vacuum: sweeper,
        metrics: Metrics::default(),
        #[cfg(feature = "otlp")]
        tracer: traces,
    });
    Ok((state, AuditQueue::run_writer(errands, refusals)))
}

async fn run(
    pool: Pool,
    config: Config,
    stop: impl Future<Output = ()> + Clone + Send + 'static,
) -> Result<(), ServerError> {
    let listen = config.listen;
    let (state, audit) = build_app_state(config, pool)?;
    let audit = tokio::spawn(audit);
    let listener = TcpListener::bind(listen).await.map_err(|error| ServerError::Listen(listen, error))?;
    let watchers = match state.config.metrics_listen {
        None => None,
        Some(address) => Some(TcpListener::bind(address).await.map_err(|error| ServerError::Listen(address, error))?),
    };
    let beside = tokio::spawn({
        let state = state.clone();
        async move { jobs::run_background_tasks(&state).await }
    });
    tracing::info!("listening on http://{}{}/api/", listener.local_addr()?, state.config.prefix);
    notify_service_manager(&NotifyState::Ready);
    let requests = listener::serve(listener, router::build_service(state.clone()), &state.config, stop.clone());
    match watchers {
        None => requests.await,
        Some(watchers) => {
            tracing::info!("listening on http://{}/metrics", watchers.local_addr()?);
            let watchers = listener::serve(watchers, monitoring::router(state.clone()), &state.config, stop);
            tokio::join!(requests, watchers);
        }
    }
    state.mail.stop(state.config.shutdown_timeout).await;
    #[cfg(feature = "otlp")]
    state.tracer.stop(SHUTDOWN_FLUSH_TIMEOUT).await;
    // Nobody holds a share of the audit after these two; without them the writer ends when all is written.
    drop(state);
    beside.abort();
    let _ = beside.await;
    if tokio::time::timeout(SHUTDOWN_FLUSH_TIMEOUT, audit).await.is_err() {
        tracing::warn!("the database takes too long: audit rows of refusals are lost");
    }
    Ok(())
}

/// Where systemd or the like runs us (`NOTIFY_SOCKET`); else nobody is told.
fn notify_service_manager(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, "the service manager can't be told");
    }
}

/// Until the operator stops the program.
pub fn shutdown_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}
