//! The PostgreSQL that is installed on this machine, who may run it, and a cluster made with it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The superuser of a cluster of ours.
pub const SUPERUSER: &str = "postgres";

/// Why PostgreSQL isn't there.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ManagedPostgresError {
    #[error(
        "no PostgreSQL is installed (looked in PATH, pg_config --bindir, /usr/lib/postgresql/*/bin and Homebrew): \
         install it, for example with `apt-get install postgresql`, or set DATABASE_URL to a database of yours"
    )]
    NoBinaries,
    #[error("{} was made by PostgreSQL {cluster_version}, and only {installed_version} is installed: install PostgreSQL {cluster_version}", cluster.display())]
    VersionMismatch { cluster: PathBuf, cluster_version: String, installed_version: String },
    #[error("another Mortise (process {pid}) runs on {}: stop it, or give this one a data_dir of its own", data.display())]
    InUse { data: PathBuf, pid: String },
    #[error("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as")]
    NoOsUser,
    #[error("the user {os_user} that PostgreSQL runs as can't reach {}: choose another data_dir", data.display())]
    Inaccessible { data: PathBuf, os_user: String },
    #[error("cannot use {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("initdb failed: {0}")]
    Initdb(String),
    #[error("PostgreSQL doesn't come up; the end of {}:\n{log_tail}", log.display())]
    StartFailed { log: PathBuf, log_tail: String },
    #[error("the database can't be set up: {0}")]
    SetupFailed(sqlx::Error),
}

/// Puts the path to what went wrong with it.
pub fn io_error_at(path: &Path) -> impl FnOnce(io::Error) -> ManagedPostgresError {
    move |source| ManagedPostgresError::Io { path: path.into(), source }
}

/// The user that PostgreSQL runs as: ourselves (`None`), or somebody unprivileged when we are root.
#[derive(Debug, Clone)]
pub struct OsUser {
    name: String,
    uid: u32,
    gid: u32,
}

impl OsUser {
    /// Looks in `/etc/passwd`, where both names stand on every system that has them.
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

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number in the system.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Its group's.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Makes a file or directory the account's.
    pub fn chown(&self, path: &Path) -> Result<(), ManagedPostgresError> {
        chown(path, Some(self.uid), Some(self.gid)).map_err(io_error_at(path))
    }
}

/// A command run as the account, from a directory that it can enter, without our environment's ideas of PostgreSQL.
pub fn build_command(program: &Path, account: Option<&OsUser>) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
        command.env_remove(name);
    }
    // It would say there that it is ready, and the service manager would take that for our word.
    command.env_remove("NOTIFY_SOCKET");
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid).env("HOME", "/").env("USER", &account.name);
    }
    // Ctrl-C is for us: we stop serving first, and PostgreSQL then.
    command.process_group(0);
    command
}

/// The newest PostgreSQL installed; where `cluster` exists already, one of its version.
pub fn find_binaries(cluster: &Path) -> Result<PathBuf, ManagedPostgresError> {
    let versions = list_candidate_directories()
        .into_iter()
        .filter_map(|directory| Some((postgres_version(&directory)?, directory)));
    choose_binaries(versions.collect(), cluster)
}

/// Of the versions installed, the one for `cluster`.
pub fn choose_binaries(mut installed: Vec<(u32, PathBuf)>, cluster: &Path) -> Result<PathBuf, ManagedPostgresError> {
    let made = fs::read_to_string(cluster.join("PG_VERSION")).ok().map(|version| version.trim().to_owned());
    installed.sort();
    let Some((newest, _)) = installed.last() else { return Err(ManagedPostgresError::NoBinaries) };
    let newest = newest.to_string();
    let wanted = made.as_ref().unwrap_or(&newest).clone();
    match installed.into_iter().rev().find(|(version, _)| version.to_string() == wanted) {
        Some((_, directory)) => Ok(directory),
        None => Err(ManagedPostgresError::VersionMismatch {
            cluster: cluster.into(),
            cluster_version: wanted,
            installed_version: newest,
        }),
    }
}

fn list_candidate_directories() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path)
        // What stands in PATH is often a link to one of several versions.
        .filter_map(|directory| directory.join("initdb").canonicalize().ok()?.parent().map(Path::to_path_buf));
    let told = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output().ok();
    let told = told.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let below = |parent: &str, start: &str, rest: &str| {
        let (start, rest) = (start.to_owned(), rest.to_owned());
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        entries
            .filter(move |entry| entry.file_name().to_string_lossy().starts_with(&start))
            .map(move |entry| entry.path().join(&rest))
    };
    in_path
        .chain(told)
        .chain(below("/usr/lib/postgresql", "", "bin"))
        .chain(below("/opt/homebrew/opt", "postgresql", "bin"))
        .chain(below("/usr/local/opt", "postgresql", "bin"))
        .filter(|directory| directory.join("initdb").exists() && directory.join("postgres").exists())
        .collect()
}

fn postgres_version(directory: &Path) -> Option<u32> {
    let output = Command::new(directory.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok())
}

/// Makes a cluster in `cluster`, whose parent directory must exist: all of it or nothing, so that a crash half way leaves
/// nothing that looks like one.
pub fn initdb(
    binaries: &Path,
    cluster: &Path,
    account: Option<&OsUser>,
    password: &str,
) -> Result<(), ManagedPostgresError> {
    // An initdb whose Mortise was killed may still be writing to its own: leave room for both, and sweep up what is left.
    let own = std::process::id();
    let unfinished = cluster.with_extension(format!("new-{own}"));
    let leftovers = cluster.parent().and_then(|parent| fs::read_dir(parent).ok()).into_iter().flatten().flatten();
    for leftover in leftovers.filter(|entry| entry.file_name().to_string_lossy().starts_with("postgres.new-")) {
        let _ = fs::remove_dir_all(leftover.path());
    }
    make_directory(&unfinished, 0o700, account)?;
    let pwfile = cluster.with_extension(format!("pwfile-{own}"));
    write_private(&pwfile, password, account)?;
    let output = build_command(&binaries.join("initdb"), account)
        .arg("--pgdata")
        .arg(&unfinished)
        .arg("--pwfile")
        .arg(&pwfile)
        .args(["--username", SUPERUSER, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"])
        .output();
    fs::remove_file(&pwfile).map_err(io_error_at(&pwfile))?;
    let output = output.map_err(io_error_at(binaries))?;
    if !output.status.success() {
        return Err(ManagedPostgresError::Initdb(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    fs::rename(&unfinished, cluster).map_err(io_error_at(cluster))
}

/// Makes a directory, and those above it, unless it is there; it belongs to the account.
pub fn make_directory(path: &Path, mode: u32, account: Option<&OsUser>) -> Result<(), ManagedPostgresError> {
    if path.exists() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(io_error_at(parent))?;
    }
    DirBuilder::new().mode(mode).create(path).map_err(io_error_at(path))?;
    // Whatever the umask says.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io_error_at(path))?;
    account.map_or(Ok(()), |account| account.chown(path))
}

/// A file that its owner alone can read.
pub fn write_private(path: &Path, text: &str, account: Option<&OsUser>) -> Result<(), ManagedPostgresError> {
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).map_err(io_error_at(path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io_error_at(path))?;
    account.map_or(Ok(()), |account| account.chown(path))
}
