//! The installed PostgreSQL: its programs, the operating system user that runs it, and the creation of a cluster.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::input;

/// Timeout for a program that prints its version or its directory.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
const INITDB_TIMEOUT: Duration = Duration::from_mins(30);

/// The variables of this process's environment that PostgreSQL's programs get too. All others are removed: libpq's
/// variables (`PG…`), the locale and the time zone would change the cluster, its messages or its log. With
/// `NOTIFY_SOCKET`, PostgreSQL would notify the service manager that it is ready, which would count as the readiness
/// of Mortise.
const INHERITED_VARIABLES: [&str; 2] = ["PATH", "LD_LIBRARY_PATH"];

/// The superuser of the managed cluster.
pub const SUPERUSER: &str = "postgres";

/// The reason for which the managed PostgreSQL cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "described by the error messages")]
pub enum ManagedPostgresError {
    #[error(
        "no PostgreSQL is installed (looked in PATH, pg_config --bindir, /usr/lib/postgresql/*/bin and Homebrew): \
         install it, for example with `apt-get install postgresql`, or set DATABASE_URL to an existing database"
    )]
    NoBinaries,
    #[error(
        "{} was created by PostgreSQL {cluster_version}, and only {installed_version} is installed: \
         install PostgreSQL {cluster_version}",
        cluster.display()
    )]
    VersionMismatch { cluster: PathBuf, cluster_version: String, installed_version: String },
    #[error("another Mortise (process {pid}) runs on {}: stop it, or set another data_dir", data_dir.display())]
    InUse { data_dir: PathBuf, pid: String },
    #[error(
        "PostgreSQL refuses to run as root, and neither the user postgres nor the user nobody exists: \
         create the user postgres, or run Mortise as another user"
    )]
    NoOsUser,
    #[error("the user {os_user} that PostgreSQL runs as cannot access {}: choose another data_dir", data_dir.display())]
    Inaccessible { data_dir: PathBuf, os_user: String },
    #[error("cannot use {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("initdb failed: {0}")]
    Initdb(String),
    #[error("PostgreSQL does not start; the end of {}:\n{log_tail}", log.display())]
    StartFailed { log: PathBuf, log_tail: String },
    #[error("cannot create the role and the database: {0}")]
    SetupFailed(sqlx::Error),
}

/// Returns a function that adds the path to an I/O error.
pub fn io_error_at(path: &Path) -> impl FnOnce(io::Error) -> ManagedPostgresError {
    move |source| ManagedPostgresError::Io { path: path.into(), source }
}

/// An operating system user that PostgreSQL runs as.
#[derive(Debug, Clone)]
pub struct OsUser {
    name: String,
    uid: u32,
    gid: u32,
}

impl OsUser {
    /// Returns the user to run PostgreSQL as if this process runs as root: `postgres` or else `nobody`. Returns `None`
    /// if this process runs as another user, which then runs PostgreSQL too.
    ///
    /// Reads `/etc/passwd` only: systems that have these users have them there.
    pub fn find_unprivileged() -> Result<Option<Self>, ManagedPostgresError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let find = |name: &str| {
            let fields: Vec<&str> =
                users.lines().map(|line| line.split(':').collect()).find(|f: &Vec<_>| f[0] == name)?;
            Some(Self { name: name.into(), uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
        };
        find("postgres").or_else(|| find("nobody")).map(Some).ok_or(ManagedPostgresError::NoOsUser)
    }

    /// Returns the name of the user.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the user id.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Returns the group id.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Makes the user the owner of a file or directory.
    pub fn chown(&self, path: &Path) -> Result<(), ManagedPostgresError> {
        chown(path, Some(self.uid), Some(self.gid)).map_err(io_error_at(path))
    }
}

/// Builds a command that runs as the user, in a directory that the user can enter, with [`INHERITED_VARIABLES`].
pub fn build_command(program: &Path, os_user: Option<&OsUser>) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null()).env_clear().env("LC_ALL", "C");
    command.envs(INHERITED_VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    if let Some(os_user) = os_user {
        command.uid(os_user.uid).gid(os_user.gid);
    }
    // Ctrl-C must not reach PostgreSQL: the server drains its requests first, and then stops PostgreSQL.
    command.process_group(0);
    command
}

/// Returns the program directory of the newest PostgreSQL, or of the version of `cluster` if that exists.
pub async fn find_binaries(cluster: &Path) -> Result<PathBuf, ManagedPostgresError> {
    let mut versions = Vec::new();
    for directory in list_candidate_directories().await {
        if let Some(version) = postgres_version(&directory).await {
            versions.push((version, directory));
        }
    }
    choose_binaries(versions, cluster)
}

/// Returns the directory of the version that created `cluster`, or of the newest one if there is no cluster.
pub fn choose_binaries(mut installed: Vec<(u32, PathBuf)>, cluster: &Path) -> Result<PathBuf, ManagedPostgresError> {
    let cluster_version = fs::read_to_string(cluster.join("PG_VERSION")).ok().map(|version| version.trim().to_owned());
    installed.sort();
    let Some((newest, _)) = installed.last() else { return Err(ManagedPostgresError::NoBinaries) };
    let newest = newest.to_string();
    let wanted = cluster_version.as_ref().unwrap_or(&newest).clone();
    match installed.into_iter().rev().find(|(version, _)| version.to_string() == wanted) {
        Some((_, directory)) => Ok(directory),
        None => Err(ManagedPostgresError::VersionMismatch {
            cluster: cluster.into(),
            cluster_version: wanted,
            installed_version: newest,
        }),
    }
}

async fn list_candidate_directories() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path)
        // `initdb` in PATH is often a link into the directory of one of several versions.
        .filter_map(|directory| directory.join("initdb").canonicalize().ok()?.parent().map(Path::to_path_buf));
    let mut pg_config = build_command("pg_config".as_ref(), None);
    pg_config.arg("--bindir");
    let pg_config = input::run_program(pg_config, QUERY_TIMEOUT).await.ok();
    let pg_config = pg_config.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let subdirectories = |parent: &str, prefix: &str, suffix: &str| {
        let (prefix, suffix) = (prefix.to_owned(), suffix.to_owned());
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        entries
            .filter(move |entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .map(move |entry| entry.path().join(&suffix))
    };
    in_path
        .chain(pg_config)
        .chain(subdirectories("/usr/lib/postgresql", "", "bin"))
        .chain(subdirectories("/opt/homebrew/opt", "postgresql", "bin"))
        .chain(subdirectories("/usr/local/opt", "postgresql", "bin"))
        .filter(|directory| directory.join("initdb").exists() && directory.join("postgres").exists())
        .collect()
}

async fn postgres_version(directory: &Path) -> Option<u32> {
    let mut postgres = build_command(&directory.join("postgres"), None);
    postgres.arg("--version");
    let output = input::run_program(postgres, QUERY_TIMEOUT).await.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok())
}

/// Creates a cluster in the directory `cluster`, whose parent directory must exist. initdb writes into another
/// directory that is renamed at the end, so that a crash never leaves an incomplete cluster in `cluster`.
pub async fn initdb(
    binaries: &Path,
    cluster: &Path,
    os_user: Option<&OsUser>,
    password: &str,
) -> Result<(), ManagedPostgresError> {
    // The initdb of a Mortise that was killed may still be writing: each process has its own directory, and removes
    // those that are left over.
    let process_id = std::process::id();
    let unfinished = cluster.with_extension(format!("new-{process_id}"));
    let leftovers = cluster.parent().and_then(|parent| fs::read_dir(parent).ok()).into_iter().flatten().flatten();
    for leftover in leftovers.filter(|entry| entry.file_name().to_string_lossy().starts_with("postgres.new-")) {
        let _ = fs::remove_dir_all(leftover.path());
    }
    make_directory(&unfinished, 0o700, os_user)?;
    let pwfile = cluster.with_extension(format!("pwfile-{process_id}"));
    write_private(&pwfile, password, os_user)?;
    let mut command = build_command(&binaries.join("initdb"), os_user);
    command.arg("--pgdata").arg(&unfinished).arg("--pwfile").arg(&pwfile).args([
        "--username",
        SUPERUSER,
        "--auth",
        "scram-sha-256",
        "--encoding",
        "UTF8",
        "--locale",
        "C.UTF-8",
    ]);
    let output = input::run_program(command, INITDB_TIMEOUT).await;
    fs::remove_file(&pwfile).map_err(io_error_at(&pwfile))?;
    let output = output.map_err(io_error_at(binaries))?;
    if !output.status.success() {
        return Err(ManagedPostgresError::Initdb(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    fs::rename(&unfinished, cluster).map_err(io_error_at(cluster))
}

/// Creates a directory, and its parents, unless it exists. The user, if given, becomes the owner of a new directory.
pub fn make_directory(path: &Path, mode: u32, os_user: Option<&OsUser>) -> Result<(), ManagedPostgresError> {
    if path.exists() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(io_error_at(parent))?;
    }
    DirBuilder::new().mode(mode).create(path).map_err(io_error_at(path))?;
    // The umask may have removed bits of the mode.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io_error_at(path))?;
    os_user.map_or(Ok(()), |os_user| os_user.chown(path))
}

/// Writes a file that only its owner can read. Replaces an existing file.
pub fn write_private(path: &Path, text: &str, os_user: Option<&OsUser>) -> Result<(), ManagedPostgresError> {
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).map_err(io_error_at(path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io_error_at(path))?;
    os_user.map_or(Ok(()), |os_user| os_user.chown(path))
}
