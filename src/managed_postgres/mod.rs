//! The managed PostgreSQL, used if no `database_url` is set: its cluster is created, started, adopted after a crash of
//! this program, and stopped.
//!
//! It listens on a Unix socket only. Its files are in the data directory:
//!
//! | name | content |
//! | --- | --- |
//! | `lock` | process id of the running Mortise, which holds a file lock |
//! | `postgres/` | the cluster |
//! | `run/` | the socket; in `/tmp` instead if this path is too long or has special characters |
//! | `postgres.log` | the log of PostgreSQL |
//! | `address` | the address that the running server listens on ([`address`]) |
//! | `superuser_password`, `password` | of the roles `postgres` and `mortise` |

pub mod address;
pub mod data_directory;
pub mod error;
mod files;
pub mod installation;
pub mod os_user;
mod postmaster;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use tokio::signal::unix::{SignalKind, signal};

use crate::db::session;
use crate::input;
use crate::managed_postgres::data_directory::{
    acquire_lock, check_accessible, find_socket_directory, prepare_socket_directory, read_or_create_password,
};
use crate::managed_postgres::error::{ManagedPostgresError, io_error_at};
use crate::managed_postgres::installation::{SUPERUSER, build_command, find_binaries, initdb};
use crate::managed_postgres::os_user::OsUser;

const ROLE: &str = "mortise";
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long the start waits for the exit of processes of a killed PostgreSQL.
const STALE_PROCESS_TIMEOUT: Duration = Duration::from_secs(4);
/// Timeout for the command that prints the hints of a failed start.
const HINT_TIMEOUT: Duration = Duration::from_secs(10);
/// Lines of PostgreSQL's log in the error of a failed start.
const START_ERROR_LINES_MAX: usize = 5;
/// If PostgreSQL takes longer than this to start, a message is logged.
const SLOW_THRESHOLD: Duration = Duration::from_secs(60);
/// If PostgreSQL takes longer than this to stop, it is stopped without a checkpoint. PostgreSQL 15 does not end a stop
/// that begins while it recovers from the crash of one of its processes.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the stop without a checkpoint may take. PostgreSQL kills its processes after 5 s.
const IMMEDIATE_STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Returns the default data directory, for an empty `data_dir`, as documented in `config/mortise.toml`. Without the
/// variable `HOME` it is below the home directory that the operating system knows; with an empty or relative one below
/// `/`, which other users than root cannot write. It is never a temporary directory.
pub fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/var/lib/mortise".into();
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || std::env::home_dir().filter(|home| home.is_absolute()).unwrap_or_else(|| "/".into());
    variable("XDG_DATA_HOME").unwrap_or_else(|| home().join(".local/share")).join("mortise")
}

/// Returns the command line options of the managed PostgreSQL: no network, and no secrets in its log.
pub fn server_arguments(cluster: &Path, socket: &Path) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    let mut arguments =
        vec!["-D".to_owned(), path(cluster), "-k".to_owned(), path(socket), "-p".to_owned(), "5432".to_owned()];
    for setting in [
        "listen_addresses=",
        "unix_socket_permissions=0700",
        // JIT slows down such short statements, and fails in a service that may not map executable memory.
        "jit=off",
        // The DETAIL line of a constraint violation quotes PINs.
        "log_error_verbosity=terse",
        "log_min_error_statement=panic",
        // Sold cards leave dead index entries at the start of the stock: autovacuum must run often.
        "autovacuum_naptime=5s",
    ] {
        arguments.extend(["-c".to_owned(), setting.to_owned()]);
    }
    arguments
}

/// The PostgreSQL server that belongs to this process.
#[derive(Debug)]
pub struct ManagedPostgres {
    data_dir: PathBuf,
    socket_dir: PathBuf,
    bin_dir: PathBuf,
    os_user: Option<OsUser>,
    password: SecretString,
    superuser_password: SecretString,
    /// Holds the file lock on the data directory while it is open.
    _lock: File,
    child: Mutex<Option<std::process::Child>>,
    /// The length of PostgreSQL's log at its last start, in bytes.
    log_offset: AtomicU64,
}

impl ManagedPostgres {
    /// Locks the data directory, and initialises the cluster if it doesn't exist.
    pub async fn prepare(data_dir: &Path) -> Result<Self, ManagedPostgresError> {
        // The exit status of a program is lost if this process was started with SIGCHLD ignored. A handler ends that.
        drop(signal(SignalKind::child()).map_err(io_error_at(data_dir))?);
        let os_user = OsUser::find_unprivileged()?;
        let data_dir = std::path::absolute(data_dir).map_err(io_error_at(data_dir))?;
        files::make_directory(&data_dir, 0o755, None).map_err(io_error_at(&data_dir))?;
        // Before the lock: a lock file created by root would lock out the user that owns the directory.
        files::check_owner(&data_dir, os_user.as_ref())?;
        check_accessible(&data_dir, os_user.as_ref())?;
        let lock = acquire_lock(&data_dir)?;
        let cluster = data_dir.join("postgres");
        let bin_dir = find_binaries(&cluster).await?;
        let superuser_password = read_or_create_password(&data_dir.join("superuser_password"))?;
        if !cluster.join("PG_VERSION").exists() {
            tracing::info!(data_dir = %data_dir.display(), "initialising cluster");
            initdb(&bin_dir, &cluster, os_user.as_ref(), &superuser_password).await?;
        }
        Ok(Self {
            socket_dir: prepare_socket_directory(&data_dir, os_user.as_ref())?,
            password: read_or_create_password(&data_dir.join("password"))?.into(),
            bin_dir,
            os_user,
            _lock: lock,
            superuser_password: superuser_password.into(),
            child: Mutex::new(None),
            log_offset: AtomicU64::default(),
            data_dir,
        })
    }

    /// Whether the data directory contains a cluster.
    pub fn is_initialized(data_dir: &Path) -> bool {
        data_dir.join("postgres/PG_VERSION").exists()
    }

    /// Returns the options to connect to the PostgreSQL of another Mortise that runs on the data directory.
    pub fn running_connect_options(data_dir: &Path) -> Result<PgConnectOptions, ManagedPostgresError> {
        let data_dir = std::path::absolute(data_dir).map_err(io_error_at(data_dir))?;
        let password = Self::role_password(&data_dir)?;
        Ok(build_connect_options(&find_socket_directory(&data_dir)?, ROLE, password.expose_secret(), ROLE))
    }

    /// Returns the password of the role that the server connects with.
    pub fn role_password(data_dir: &Path) -> Result<SecretString, ManagedPostgresError> {
        let path = data_dir.join("password");
        let password = files::read(&path).map_err(io_error_at(&path))?;
        Ok(password.trim().to_owned().into())
    }

    /// Returns the options that the server connects with, as a role without superuser rights.
    pub fn connect_options(&self) -> PgConnectOptions {
        build_connect_options(&self.socket_dir, ROLE, self.password.expose_secret(), ROLE)
    }

    /// Starts PostgreSQL, or adopts the one that a crash of this program left running, and waits until it accepts
    /// connections.
    pub async fn start(&self) -> Result<(), ManagedPostgresError> {
        if self.running_pid().is_some() {
            tracing::info!(data_dir = %self.data_dir.display(), "adopting running PostgreSQL");
        } else {
            self.spawn()?;
        }
        let superuser =
            build_connect_options(&self.socket_dir, SUPERUSER, self.superuser_password.expose_secret(), SUPERUSER);
        let started_at = Instant::now();
        let mut last_warning_at = started_at;
        loop {
            let error = match self.connect_options().connect().await {
                Ok(connection) => {
                    let _ = connection.close().await;
                    return Ok(());
                }
                // PostgreSQL accepts connections, but the role or the database is missing: this is the first start, or
                // the first start was interrupted.
                Err(sqlx::Error::Database(error))
                    if matches!(error.code().as_deref(), Some("28P01" | "28000" | "3D000")) =>
                {
                    self.create_role_and_database(&superuser).await.map_err(ManagedPostgresError::SetupFailed)?;
                    continue;
                }
                Err(error) => error,
            };
            if self.running_pid().is_none() && self.child_has_exited() {
                // PostgreSQL doesn't start while processes of a killed one are still exiting.
                if started_at.elapsed() > STALE_PROCESS_TIMEOUT {
                    return Err(self.start_error().await);
                }
                tokio::time::sleep(STALE_PROCESS_TIMEOUT / 20).await;
                self.spawn()?;
            }
            if last_warning_at.elapsed() > SLOW_THRESHOLD {
                tracing::warn!(%error, "PostgreSQL not ready, waiting: it may be recovering from a crash");
                last_warning_at = Instant::now();
                // A Mortise that was killed meanwhile has begun the stop.
                if let Some(pid) = self.running_pid().filter(|_| is_shutting_down(&error)) {
                    send_signal(pid, Signal::QUIT);
                }
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn spawn(&self) -> Result<(), ManagedPostgresError> {
        let path = self.log_path();
        postmaster::remove_stale_pid_file(&self.cluster(), &self.socket_dir);
        let mut options = OpenOptions::new();
        let log = files::open(&path, options.create(true).append(true).mode(0o600)).map_err(io_error_at(&path))?;
        self.log_offset.store(log.metadata().map_err(io_error_at(&path))?.len(), Ordering::Relaxed);
        let stderr = log.try_clone().map_err(io_error_at(&path))?;
        let child = build_command(&self.bin_dir.join("postgres"), self.os_user.as_ref())
            .args(server_arguments(&self.cluster(), &self.socket_dir))
            .stdout(log)
            .stderr(stderr)
            .spawn()
            .map_err(io_error_at(&self.bin_dir))?;
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    async fn create_role_and_database(&self, superuser: &PgConnectOptions) -> sqlx::Result<()> {
        let mut connection = session::connect(&session::with_settings(superuser.clone())).await?;
        // `create role` takes no parameters. The password is generated by this program: letters and digits only.
        let role =
            sqlx::query("select 1 from pg_roles where rolname = $1").bind(ROLE).fetch_optional(&mut connection).await?;
        let verb = if role.is_none() { "create" } else { "alter" };
        let statement = format!("{verb} role {ROLE} login nosuperuser password '{}'", self.password.expose_secret());
        // For `mortise doctor`, which reports the sessions that block others.
        let statement = format!("{statement}; grant pg_read_all_stats to {ROLE}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await?;
        let database = sqlx::query("select 1 from pg_database where datname = $1")
            .bind(ROLE)
            .fetch_optional(&mut connection)
            .await?;
        if database.is_none() {
            sqlx::raw_sql("create database mortise owner mortise").execute(&mut connection).await?;
        }
        connection.close().await
    }

    /// Restarts PostgreSQL each time it exits unexpectedly. Never returns.
    pub async fn restart_on_exit(&self) {
        loop {
            tokio::time::sleep(Duration::from_millis(250)).await;
            if self.child_has_exited() && self.running_pid().is_none() {
                tracing::error!(log = %self.log_path().display(), "PostgreSQL exited unexpectedly, restarting");
                if let Err(error) = self.spawn() {
                    tracing::error!(%error, "PostgreSQL start failed");
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// Stops PostgreSQL, started or adopted. Open transactions are rolled back; committed data is on disk. After
    /// `timeout`, it is stopped without a checkpoint: its next start recovers.
    pub async fn stop(self, timeout: Duration) {
        // A PostgreSQL that was just started may not have written postmaster.pid yet.
        let child_pid = self.child.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Pid::from_child);
        let running_child_pid = child_pid.filter(|_| !self.child_has_exited());
        let Some(pid) = running_child_pid.or_else(|| self.running_pid()) else { return };
        send_signal(pid, Signal::INT);
        if !self.exits_within(timeout).await {
            tracing::error!("PostgreSQL stop timeout, stopping it without a checkpoint: its next start recovers");
            send_signal(pid, Signal::QUIT);
            if !self.exits_within(IMMEDIATE_STOP_TIMEOUT).await {
                tracing::error!("PostgreSQL stop timeout, no longer waiting");
                return;
            }
        }
        if self.socket_dir.starts_with("/tmp") {
            let _ = fs::remove_dir(&self.socket_dir);
        }
    }

    /// Whether PostgreSQL exits within this time.
    async fn exits_within(&self, limit: Duration) -> bool {
        let exit = async {
            while !self.child_has_exited() || self.running_pid().is_some() {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        tokio::time::timeout(limit, exit).await.is_ok()
    }

    fn running_pid(&self) -> Option<Pid> {
        postmaster::running_pid(&self.cluster(), &self.socket_dir)
    }

    fn cluster(&self) -> PathBuf {
        self.data_dir.join("postgres")
    }

    /// Whether the child process has exited. True if PostgreSQL was adopted: there is no child process then.
    fn child_has_exited(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    fn log_path(&self) -> PathBuf {
        self.data_dir.join("postgres.log")
    }

    /// Returns an error with PostgreSQL's messages since its last start.
    async fn start_error(&self) -> ManagedPostgresError {
        let log = files::read_end(&self.log_path(), self.log_offset.load(Ordering::Relaxed)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let mut log_tail = lines[lines.len().saturating_sub(START_ERROR_LINES_MAX)..].join("\n");
        // The log has no hints, because of `log_error_verbosity`. This command fails for the same reason in most cases.
        let mut command = build_command(&self.bin_dir.join("postgres"), self.os_user.as_ref());
        command.arg("-D").arg(self.cluster()).args(["-c", "log_error_verbosity=default", "-C", "shared_memory_size"]);
        let output = input::run_program(command, HINT_TIMEOUT).await;
        let messages = output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default();
        for hint in messages.lines().filter(|line| line.contains("DETAIL:  ") || line.contains("HINT:  ")) {
            log_tail.push('\n');
            log_tail.push_str(hint);
        }
        ManagedPostgresError::StartFailed { log: self.log_path(), log_tail }
    }
}

fn send_signal(pid: Pid, signal: Signal) {
    if let Err(error) = kill_process(pid, signal) {
        tracing::error!(%error, "PostgreSQL stop failed");
    }
}

/// Whether PostgreSQL refuses connections because it stops.
fn is_shutting_down(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.message().contains("shutting down"))
}

fn build_connect_options(socket: &Path, role: &str, password: &str, database: &str) -> PgConnectOptions {
    // All options are set, so that no `PG…` environment variable supplies one. `main` has removed PGOPTIONS.
    PgConnectOptions::new_without_pgpass()
        .socket(socket)
        .port(5432)
        .ssl_mode(PgSslMode::Disable)
        .username(role)
        .password(password)
        .database(database)
        .application_name("mortise setup")
        .disable_statement_logging()
}
