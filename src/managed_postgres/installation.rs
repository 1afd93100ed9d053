//! The installed PostgreSQL: its programs, and the creation of a cluster.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::error::{ManagedPostgresError, io_error_at};
use super::files;
use super::os_user::OsUser;
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

/// Builds a command that runs as the user, in a directory that the user can enter, with `INHERITED_VARIABLES`.
pub fn build_command(program: &Path, os_user: Option<&OsUser>) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null()).env_clear().env("LC_ALL", "C");
    command.envs(INHERITED_VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    if let Some(os_user) = os_user {
        command.uid(os_user.uid()).gid(os_user.gid());
    }
    // Ctrl-C must not reach PostgreSQL: the server drains its requests first, and then stops PostgreSQL.
    command.process_group(0);
    command
}

/// Returns the program directory of the newest PostgreSQL, or of the version of `cluster` if that exists. If the
/// environment variable `POSTGRES_BIN` is set, only that directory is considered.
pub async fn find_binaries(cluster: &Path) -> Result<PathBuf, ManagedPostgresError> {
    let mut versions = Vec::new();
    for directory in list_candidate_directories("initdb").await {
        if let Some(version) = program_version(&directory.join("postgres")).await {
            versions.push((version, directory));
        }
    }
    choose_binaries(versions, cluster)
}

/// Returns the directory of the version that created `cluster`, or of the newest one if there is no cluster.
pub fn choose_binaries(mut installed: Vec<(u32, PathBuf)>, cluster: &Path) -> Result<PathBuf, ManagedPostgresError> {
    let cluster_version = files::read(&cluster.join("PG_VERSION")).ok().map(|version| version.trim().to_owned());
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

/// Returns the program `name` of a client, such as `pg_dump`, of this major version. The directories are those of
/// [`find_binaries`], and those in `PATH`.
///
/// # Errors
///
/// The installed versions, if this one is not installed.
pub async fn find_client_program(name: &str, wanted: u32) -> Result<PathBuf, BTreeSet<u32>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = list_candidate_directories(name).await.into_iter().chain(std::env::split_paths(&path));
    let mut installed = BTreeSet::new();
    for program in directories.map(|directory| directory.join(name)) {
        match program_version(&program).await {
            Some(version) if version == wanted => return Ok(program),
            version => installed.extend(version),
        }
    }
    Err(installed)
}

/// Returns the directories of installed versions that have the program `name`.
async fn list_candidate_directories(name: &str) -> Vec<PathBuf> {
    if let Some(directory) = std::env::var_os("POSTGRES_BIN").filter(|directory| !directory.is_empty()) {
        return vec![directory.into()];
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path)
        // A program in PATH is often a link into the directory of one of several versions.
        .filter_map(|directory| directory.join(name).canonicalize().ok()?.parent().map(Path::to_path_buf));
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
        .filter(|directory| directory.join(name).exists())
        .collect()
}

/// Returns the major version of a program of PostgreSQL.
async fn program_version(program: &Path) -> Option<u32> {
    let mut command = build_command(program, None);
    command.arg("--version");
    let output = input::run_program(command, QUERY_TIMEOUT).await.ok()?;
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
    files::make_directory(&unfinished, 0o700, os_user).map_err(io_error_at(&unfinished))?;
    let pwfile = cluster.with_extension(format!("pwfile-{process_id}"));
    files::write_private(&pwfile, password, os_user).map_err(io_error_at(&pwfile))?;
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
