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

use crate::accounts::Directory;
use crate::audit::Audit;
use crate::auth::attempt_limiter::Guessing;
use crate::auth::passwords::Passwords;
use crate::config::{Config, Switch};
use crate::db::pool::Pool;
use crate::db::seed::FirstStart;
use crate::db::{self, DatabaseError, seed};
use crate::http::monitoring;
use crate::http::router;
use crate::jobs;
use crate::jobs::stock_vacuum::Sweeper;
use crate::locks::Turns;
use crate::mail::{Mail, MailError};
use crate::managed_postgres::installation::ManagedError;
use crate::managed_postgres::{Managed, usual_data_dir};
use crate::sales::batcher::Together;
use crate::server::limits::Load;
use crate::state::App;
use crate::telemetry::metrics::Figures;
#[cfg(feature = "otlp")]
use crate::telemetry::tracer::Traces;

/// How long the end waits for what has no one waiting for it: queued audit rows, spans, connections to close.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why the server stopped before its time.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ServerError {
    #[error(transparent)]
    Managed(#[from] ManagedError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Mail(#[from] MailError),
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    #[cfg(feature = "otlp")]
    #[error("traces can't be sent: {0}")]
    Traces(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("the operating system gives no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Serves until it is told to stop (SIGTERM, SIGINT, SIGHUP), then finishes what it is at, and the database.
pub async fn serve(config: Config, demo: bool) -> Result<(), ServerError> {
    let stop = told_to_stop()?.inspect(|()| tell_service_manager(&NotifyState::Stopping)).shared();
    let url = config.database_url.reveal();
    if !url.is_empty() {
        return serve_on(db::external(url)?, config, demo, stop).await;
    }
    let managed = Managed::prepare(&data_dir(&config))?;
    let served = tokio::select! {
        started = managed.start() => match started {
            Ok(()) => tokio::select! {
                served = serve_on(managed.options(), config, demo, stop) => served,
                () = managed.keep_alive() => Ok(()),
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
    if config.data_dir.as_os_str().is_empty() { usual_data_dir() } else { config.data_dir.clone() }
}

async fn serve_on(
    options: sqlx::postgres::PgConnectOptions,
    config: Config,
    demo: bool,
    stop: impl Future<Output = ()> + Clone + Send + 'static,
) -> Result<(), ServerError> {
    let pool = tokio::select! {
        pool = ready(options, &config, demo) => pool?,
        () = stop.clone() => return Ok(()),
    };
    let pool = Pool::from(pool);
    let result = run(pool.clone(), config, stop).await;
    // A database that doesn't answer must not keep us.
    let _ = tokio::time::timeout(LAST_WORDS, pool.close()).await;
    result
}

/// A database that is up to date, with somebody in it.
async fn ready(options: sqlx::postgres::PgConnectOptions, config: &Config, demo: bool) -> Result<PgPool, ServerError> {
    let pool = db::connect(options, config).await?;
    match config.migrate {
        Switch::On => drop(db::migrate(&pool).await?),
        Switch::Off => db::demand_current(&pool).await?,
    }
    let tell = |first: &FirstStart| {
        // The one time that the key is shown; on standard output, where no log is kept.
        writeln!(std::io::stdout(), "First start. User: {}  API secret key: {}", first.username, first.key.reveal())
    };
    if !seed::fill_if_empty(&pool, demo, tell).await? && demo {
        tracing::info!("somebody is in the database already: --demo adds nothing to it");
    }
    if !demo && seed::has_public_key(&pool).await.map_err(DatabaseError::FirstStart)? {
        tracing::warn!("the API secret key is that of the demo, which everybody knows: set another one");
    }
    Ok(pool)
}

/// The parts that requests share, with what has to run beside them.
pub fn app(config: Config, pool: Pool) -> Result<(Arc<App>, impl Future<Output = ()> + Send), ServerError> {
    let (audit, refusals) = Audit::new();
    let errands = pool.errands();
    let directory = Directory::new(pool.clone(), errands.clone(), config.cache);
    let turns = Turns::new(config.database_connections);
    let load = Load::new(config.max_requests, config.max_body_memory);
    let (passwords, sweeper, mail) = (Passwords::new()?, Sweeper::default(), Mail::new(&config)?);
    #[cfg(feature = "otlp")]
    let traces = Traces::new(config.otlp_endpoint.as_ref())?;
    let guessing = Guessing::new(config.failed_attempts_max, config.guess_pause);
    let app = Arc::new(App {
        together: Together::new(pool.clone(), config.sale_concurrency, config.database_wait / 20),
        config,
        pool,
        errands: errands.clone(),
        directory,
        passwords,
        audit,
        guessing,
        turns,
        load,
        mail,
        sweeper,
        figures: Figures::default(),
        #[cfg(feature = "otlp")]
        traces,
    });
    Ok((app, Audit::write(errands, refusals)))
}

async fn run(
    pool: Pool,
    config: Config,
    stop: impl Future<Output = ()> + Clone + Send + 'static,
) -> Result<(), ServerError> {
    let listen = config.listen;
    let (app, audit) = app(config, pool)?;
    let audit = tokio::spawn(audit);
    let listener = TcpListener::bind(listen).await.map_err(|error| ServerError::Listen(listen, error))?;
    let watchers = match app.config.metrics_listen {
        None => None,
        Some(address) => Some(TcpListener::bind(address).await.map_err(|error| ServerError::Listen(address, error))?),
    };
    let beside = tokio::spawn({
        let app = app.clone();
        async move { jobs::run_beside(&app).await }
    });
    tracing::info!("listening on http://{}{}/api/", listener.local_addr()?, app.config.prefix);
    tell_service_manager(&NotifyState::Ready);
    let requests = listener::serve(listener, router::front(app.clone()), &app.config, stop.clone());
    match watchers {
        None => requests.await,
        Some(watchers) => {
            tracing::info!("listening on http://{}/metrics", watchers.local_addr()?);
            let watchers = listener::serve(watchers, monitoring::router(app.clone()), &app.config, stop);
            tokio::join!(requests, watchers);
        }
    }
    app.mail.stop(app.config.drain).await;
    #[cfg(feature = "otlp")]
    app.traces.stop(LAST_WORDS).await;
    // Nobody holds a share of the audit after these two; without them the writer ends when all is written.
    drop(app);
    beside.abort();
    let _ = beside.await;
    if tokio::time::timeout(LAST_WORDS, audit).await.is_err() {
        tracing::warn!("the database takes too long: audit rows of refusals are lost");
    }
    Ok(())
}

/// Where systemd or the like runs us (`NOTIFY_SOCKET`); else nobody is told.
fn tell_service_manager(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, "the service manager can't be told");
    }
}

/// Until the operator stops the program.
pub fn told_to_stop() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
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
