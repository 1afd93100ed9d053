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
use crate::managed_postgres::data_directory::{lock, password, reachable, socket_directory, socket_directory_beside};
use crate::managed_postgres::installation::{
    Account, ManagedError, SUPERUSER, at, command, find_binaries, initdb, make_directory,
};

const ROLE: &str = "mortise";
const LOOK: Duration = Duration::from_millis(20);
const LINGERING: Duration = Duration::from_secs(4);
/// How long PostgreSQL may take to come up or go down before the operator hears about it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the database lives when nobody says: as `config/mortise.toml` has it.
pub fn usual_data_dir() -> PathBuf {
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
pub struct Managed {
    data: PathBuf,
    socket: PathBuf,
    binaries: PathBuf,
    account: Option<Account>,
    password: Secret,
    superuser_password: Secret,
    /// Ours as long as the file is open.
    _lock: File,
    child: Mutex<Option<std::process::Child>>,
}

impl Managed {
    /// Takes the data directory, and makes the cluster where there is none.
    pub fn prepare(data: &Path) -> Result<Self, ManagedError> {
        let account = Account::find()?;
        let data = std::path::absolute(data).map_err(at(data))?;
        make_directory(&data, 0o755, None)?;
        // First of all: a lock that root made here would keep out the user whose directory it is.
        reachable(&data, account.as_ref())?;
        let lock = lock(&data)?;
        let cluster = data.join("postgres");
        let binaries = find_binaries(&cluster)?;
        let superuser_password = password(&data.join("superuser_password"))?;
        if !cluster.join("PG_VERSION").exists() {
            tracing::info!(data = %data.display(), "making a database");
            initdb(&binaries, &cluster, account.as_ref(), &superuser_password)?;
        }
        Ok(Self {
            socket: socket_directory(&data, account.as_ref())?,
            password: password(&data.join("password"))?.into(),
            binaries,
            account,
            _lock: lock,
            superuser_password: superuser_password.into(),
            child: Mutex::new(None),
            data,
        })
    }

    /// Whether the data directory holds a database.
    pub fn is_made(data: &Path) -> bool {
        data.join("postgres/PG_VERSION").exists()
    }

    /// How to connect beside another Mortise that runs on the data directory.
    pub fn options_beside(data: &Path) -> Result<PgConnectOptions, ManagedError> {
        let data = std::path::absolute(data).map_err(at(data))?;
        let path = data.join("password");
        let password = fs::read_to_string(&path).map_err(at(&path))?;
        Ok(options_of(&socket_directory_beside(&data)?, ROLE, password.trim(), ROLE))
    }

    /// How the server connects: as a role without special powers.
    pub fn options(&self) -> PgConnectOptions {
        options_of(&self.socket, ROLE, self.password.reveal(), ROLE)
    }

    /// Starts PostgreSQL, or takes up the one that a crash of ours left running, and waits until it can be used.
    pub async fn start(&self) -> Result<(), ManagedError> {
        if self.running().is_some() {
            tracing::info!(data = %self.data.display(), "taking up the database that is still running");
        } else {
            self.tear_up_strange_note();
            self.spawn()?;
        }
        let superuser = options_of(&self.socket, SUPERUSER, self.superuser_password.reveal(), SUPERUSER);
        let begun = Instant::now();
        let mut since = begun;
        loop {
            let refused = match self.options().connect().await {
                Ok(connection) => {
                    let _ = connection.close().await;
                    return Ok(());
                }
                // PostgreSQL is up, but doesn't know our role or database: the first start, or one that was cut short.
                Err(sqlx::Error::Database(error))
                    if matches!(error.code().as_deref(), Some("28P01" | "28000" | "3D000")) =>
                {
                    self.set_up(&superuser).await.map_err(ManagedError::SetUp)?;
                    continue;
                }
                Err(error) => error,
            };
            if self.running().is_none() && self.has_ended() {
                // Of one that was killed a process may linger for a moment, and PostgreSQL won't start beside it.
                if begun.elapsed() > LINGERING {
                    return Err(self.does_not_start());
                }
                tokio::time::sleep(LINGERING / 20).await;
                self.spawn()?;
            }
            if since.elapsed() > PATIENCE {
                tracing::warn!(%refused, "still waiting for PostgreSQL, which may be recovering from a crash");
                since = Instant::now();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn spawn(&self) -> Result<(), ManagedError> {
        let path = self.log();
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(at(&path))?;
        let errors = log.try_clone().map_err(at(&path))?;
        let child = command(&self.binaries.join("postgres"), self.account.as_ref())
            .args(server_arguments(&self.data.join("postgres"), &self.socket))
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(at(&self.binaries))?;
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    async fn set_up(&self, superuser: &PgConnectOptions) -> sqlx::Result<()> {
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
    pub async fn keep_alive(&self) {
        loop {
            tokio::time::sleep(Duration::from_millis(250)).await;
            if self.has_ended() && self.running().is_none() {
                tracing::error!(log = %self.log().display(), "PostgreSQL ended by itself: starting it again");
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
        let started = child.filter(|_| !self.has_ended());
        let Some(pid) = started.or_else(|| self.running()) else { return };
        if let Err(error) = kill_process(pid, Signal::INT) {
            tracing::error!(%error, "PostgreSQL can't be stopped");
        }
        let since = Instant::now();
        while !self.has_ended() || self.running().is_some() {
            if since.elapsed() > PATIENCE {
                tracing::error!("PostgreSQL takes long to stop: leaving it to finish by itself");
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
        if self.socket.starts_with("/tmp") {
            let _ = fs::remove_dir(&self.socket);
        }
    }

    /// The process that runs on our cluster, as PostgreSQL itself notes it.
    fn running(&self) -> Option<Pid> {
        self.noted().filter(|pid| self.is_ours(*pid))
    }

    /// The process that `postmaster.pid` names, if it lives.
    fn noted(&self) -> Option<Pid> {
        let note = fs::read_to_string(self.data.join("postgres/postmaster.pid")).ok()?;
        let pid = Pid::from_raw(note.lines().next()?.trim().parse().ok()?)?;
        test_kill_process(pid).is_ok().then_some(pid)
    }

    /// The number may have gone to somebody else since a crash; a postmaster runs in its cluster's directory. Where that can't be seen
    /// (other users' processes, a service that sees none but its own) somebody must listen on our socket.
    fn is_ours(&self, pid: Pid) -> bool {
        match fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero())) {
            Ok(directory) => Some(directory) == self.data.join("postgres").canonicalize().ok(),
            Err(_) => UnixStream::connect(self.socket.join(".s.PGSQL.5432")).is_ok(),
        }
    }

    /// A note that names a stranger would keep PostgreSQL from starting as long as the stranger lives. That none of the old
    /// PostgreSQL's processes still uses the cluster, the new one makes sure of by other means (its shared memory).
    fn tear_up_strange_note(&self) {
        if self.noted().is_some_and(|pid| !self.is_ours(pid)) {
            tracing::warn!("postmaster.pid names a process that isn't PostgreSQL: removing it");
            let _ = fs::remove_file(self.data.join("postgres/postmaster.pid"));
        }
    }

    /// Whether the process that we started has ended, if we started one.
    fn has_ended(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    fn log(&self) -> PathBuf {
        self.data.join("postgres.log")
    }

    fn does_not_start(&self) -> ManagedError {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(5)..].join("\n");
        ManagedError::DoesNotStart { log: self.log(), end }
    }
}

fn options_of(socket: &Path, role: &str, password: &str, database: &str) -> PgConnectOptions {
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
