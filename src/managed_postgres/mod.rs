//! A local PostgreSQL of our own, for those who give us none: made, started, taken up again after a crash, stopped.
//!
//! It listens on a Unix socket only. What belongs to it stands in the data directory:
//!
//! | name | what |
//! | --- | --- |
//! | `lock` | held by the Mortise that runs; its process id |
//! | `postgres/` | the cluster |
//! | `run/` | the socket (in `/tmp` where this path would be too long or too strange for one) |
//! | `postgres.log` | what PostgreSQL has to say |
//! | `superuser_password`, `password` | of the roles `postgres` and `mortise` |

pub mod data_directory;
pub mod installation;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection};

use crate::config::Secret;
use crate::managed_postgres::data_directory::{
    acquire_lock, check_accessible, find_socket_directory, prepare_socket_directory, read_or_create_password,
};
use crate::managed_postgres::installation::{
    ManagedPostgresError, OsUser, SUPERUSER, build_command, find_binaries, initdb, io_error_at, make_directory,
};

const ROLE: &str = "mortise";
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const STALE_PROCESS_TIMEOUT: Duration = Duration::from_secs(4);
/// How long PostgreSQL may take to come up or go down before the operator hears about it.
const SLOW_THRESHOLD: Duration = Duration::from_secs(60);

/// Where the database lives when nobody says: as `config/mortise.toml` has it.
pub fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/var/lib/mortise".into();
    }
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").unwrap_or_else(std::env::temp_dir).join(".local/share");
    set("XDG_DATA_HOME").unwrap_or_else(home).join("mortise")
}

/// The options that any PostgreSQL of ours runs with: no network, and no secrets in its log.
pub fn server_arguments(cluster: &Path, socket: &Path) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    let mut arguments =
        vec!["-D".to_owned(), path(cluster), "-k".to_owned(), path(socket), "-p".to_owned(), "5432".to_owned()];
    for setting in [
        "listen_addresses=",
        "unix_socket_permissions=0700",
        // Sold card by card it only costs; and a service that may not write code can't have it.
        "jit=off",
        // A refused row's detail quotes PINs.
        "log_error_verbosity=terse",
        "log_min_error_statement=panic",
        // Sold cards leave dead entries at the head of the stock: sweep often.
        "autovacuum_naptime=5s",
    ] {
        arguments.extend(["-c".to_owned(), setting.to_owned()]);
    }
    arguments
}

/// The PostgreSQL that runs for this process.
#[derive(Debug)]
pub struct ManagedPostgres {
    data_dir: PathBuf,
    socket_dir: PathBuf,
    bin_dir: PathBuf,
    os_user: Option<OsUser>,
    password: Secret,
    superuser_password: Secret,
    /// Ours as long as the file is open.
    _lock: File,
    child: Mutex<Option<std::process::Child>>,
}

impl ManagedPostgres {
    /// Takes the data directory, and makes the cluster where there is none.
    pub fn prepare(data: &Path) -> Result<Self, ManagedPostgresError> {
        let account = OsUser::find_unprivileged()?;
        let data = std::path::absolute(data).map_err(io_error_at(data))?;
        make_directory(&data, 0o755, None)?;
        // First of all: a lock that root made here would keep out the user whose directory it is.
        check_accessible(&data, account.as_ref())?;
        let lock = acquire_lock(&data)?;
        let cluster = data.join("postgres");
        let binaries = find_binaries(&cluster)?;
        let superuser_password = read_or_create_password(&data.join("superuser_password"))?;
        if !cluster.join("PG_VERSION").exists() {
            tracing::info!(data = %data.display(), "making a database");
            initdb(&binaries, &cluster, account.as_ref(), &superuser_password)?;
        }
        Ok(Self {
            socket_dir: prepare_socket_directory(&data, account.as_ref())?,
            password: read_or_create_password(&data.join("password"))?.into(),
            bin_dir: binaries,
            os_user: account,
            _lock: lock,
            superuser_password: superuser_password.into(),
            child: Mutex::new(None),
            data_dir: data,
        })
    }

    /// Whether the data directory holds a database.
    pub fn is_initialized(data: &Path) -> bool {
        data.join("postgres/PG_VERSION").exists()
    }

    /// How to connect beside another Mortise that runs on the data directory.
    pub fn running_connect_options(data: &Path) -> Result<PgConnectOptions, ManagedPostgresError> {
        let data = std::path::absolute(data).map_err(io_error_at(data))?;
        let path = data.join("password");
        let password = fs::read_to_string(&path).map_err(io_error_at(&path))?;
        Ok(build_connect_options(&find_socket_directory(&data)?, ROLE, password.trim(), ROLE))
    }

    /// How the server connects: as a role without special powers.
    pub fn connect_options(&self) -> PgConnectOptions {
        build_connect_options(&self.socket_dir, ROLE, self.password.reveal(), ROLE)
    }

    /// Starts PostgreSQL, or takes up the one that a crash of ours left running, and waits until it can be used.
    pub async fn start(&self) -> Result<(), ManagedPostgresError> {
        if self.running_pid().is_some() {
            tracing::info!(data = %self.data_dir.display(), "taking up the database that is still running");
        } else {
            self.remove_stale_pid_file();
            self.spawn()?;
        }
        let superuser = build_connect_options(&self.socket_dir, SUPERUSER, self.superuser_password.reveal(), SUPERUSER);
        let begun = Instant::now();
        let mut since = begun;
        loop {
            let refused = match self.connect_options().connect().await {
                Ok(connection) => {
                    let _ = connection.close().await;
                    return Ok(());
                }
                // PostgreSQL is up, but doesn't know our role or database: the first start, or one that was cut short.
                Err(sqlx::Error::Database(error))
                    if matches!(error.code().as_deref(), Some("28P01" | "28000" | "3D000")) =>
                {
                    self.create_role_and_database(&superuser).await.map_err(ManagedPostgresError::SetupFailed)?;
                    continue;
                }
                Err(error) => error,
            };
            if self.running_pid().is_none() && self.child_has_exited() {
                // Of one that was killed a process may linger for a moment, and PostgreSQL won't start beside it.
                if begun.elapsed() > STALE_PROCESS_TIMEOUT {
                    return Err(self.start_error());
                }
                tokio::time::sleep(STALE_PROCESS_TIMEOUT / 20).await;
                self.spawn()?;
            }
            if since.elapsed() > SLOW_THRESHOLD {
                tracing::warn!(%refused, "still waiting for PostgreSQL, which may be recovering from a crash");
                since = Instant::now();
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn spawn(&self) -> Result<(), ManagedPostgresError> {
        let path = self.log_path();
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(io_error_at(&path))?;
        let errors = log.try_clone().map_err(io_error_at(&path))?;
        let child = build_command(&self.bin_dir.join("postgres"), self.os_user.as_ref())
            .args(server_arguments(&self.data_dir.join("postgres"), &self.socket_dir))
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(io_error_at(&self.bin_dir))?;
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    async fn create_role_and_database(&self, superuser: &PgConnectOptions) -> sqlx::Result<()> {
        let mut connection = superuser.connect().await?;
        // The password is ours, letters and digits; a role's can't be a parameter.
        let role =
            sqlx::query("select 1 from pg_roles where rolname = $1").bind(ROLE).fetch_optional(&mut connection).await?;
        let verb = if role.is_none() { "create" } else { "alter" };
        let statement = format!("{verb} role {ROLE} login nosuperuser password '{}'", self.password.reveal());
        // To see who holds what up, which `mortise doctor` is asked for.
        let statement = format!("{statement}; grant pg_read_all_stats to {ROLE}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await?;
        let made = sqlx::query("select 1 from pg_database where datname = $1")
            .bind(ROLE)
            .fetch_optional(&mut connection)
            .await?;
        if made.is_none() {
            sqlx::raw_sql("create database mortise owner mortise").execute(&mut connection).await?;
        }
        connection.close().await
    }

    /// Starts PostgreSQL again whenever it ends without being told to. Run it beside the server.
    pub async fn restart_on_exit(&self) {
        loop {
            tokio::time::sleep(Duration::from_millis(250)).await;
            if self.child_has_exited() && self.running_pid().is_none() {
                tracing::error!(log = %self.log_path().display(), "PostgreSQL ended by itself: starting it again");
                if let Err(error) = self.spawn() {
                    tracing::error!(%error, "PostgreSQL can't be started");
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// Stops PostgreSQL, whoever started it: open transactions are rolled back, everything committed is on disk.
    pub async fn stop(self) {
        // One that we have just started hasn't noted itself yet.
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Pid::from_child);
        let started = child.filter(|_| !self.child_has_exited());
        let Some(pid) = started.or_else(|| self.running_pid()) else { return };
        if let Err(error) = kill_process(pid, Signal::INT) {
            tracing::error!(%error, "PostgreSQL can't be stopped");
        }
        let since = Instant::now();
        while !self.child_has_exited() || self.running_pid().is_some() {
            if since.elapsed() > SLOW_THRESHOLD {
                tracing::error!("PostgreSQL takes long to stop: leaving it to finish by itself");
                return;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        if self.socket_dir.starts_with("/tmp") {
            let _ = fs::remove_dir(&self.socket_dir);
        }
    }

    /// The process that runs on our cluster, as PostgreSQL itself notes it.
    fn running_pid(&self) -> Option<Pid> {
        self.pid_file_pid().filter(|pid| self.is_own_postmaster(*pid))
    }

    /// The process that `postmaster.pid` names, if it lives.
    fn pid_file_pid(&self) -> Option<Pid> {
        let note = fs::read_to_string(self.data_dir.join("postgres/postmaster.pid")).ok()?;
        let pid = Pid::from_raw(note.lines().next()?.trim().parse().ok()?)?;
        test_kill_process(pid).is_ok().then_some(pid)
    }

    /// The number may have gone to somebody else since a crash; a postmaster runs in its cluster's directory. Where that can't be seen
    /// (other users' processes, a service that sees none but its own) somebody must listen on our socket.
    fn is_own_postmaster(&self, pid: Pid) -> bool {
        match fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero())) {
            Ok(directory) => Some(directory) == self.data_dir.join("postgres").canonicalize().ok(),
            Err(_) => UnixStream::connect(self.socket_dir.join(".s.PGSQL.5432")).is_ok(),
        }
    }

    /// A note that names a stranger would keep PostgreSQL from starting as long as the stranger lives. That none of the old
    /// PostgreSQL's processes still uses the cluster, the new one makes sure of by other means (its shared memory).
    fn remove_stale_pid_file(&self) {
        if self.pid_file_pid().is_some_and(|pid| !self.is_own_postmaster(pid)) {
            tracing::warn!("postmaster.pid names a process that isn't PostgreSQL: removing it");
            let _ = fs::remove_file(self.data_dir.join("postgres/postmaster.pid"));
        }
    }

    /// Whether the process that we started has ended, if we started one.
    fn child_has_exited(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    fn log_path(&self) -> PathBuf {
        self.data_dir.join("postgres.log")
    }

    fn start_error(&self) -> ManagedPostgresError {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(5)..].join("\n");
        ManagedPostgresError::StartFailed { log: self.log_path(), log_tail: end }
    }
}

fn build_connect_options(socket: &Path, role: &str, password: &str, database: &str) -> PgConnectOptions {
    // Said in full, or PG… variables in the environment would have a say.
    PgConnectOptions::new_without_pgpass()
        .socket(socket)
        .port(5432)
        .ssl_mode(PgSslMode::Disable)
        .username(role)
        .password(password)
        .database(database)
        .disable_statement_logging()
}
