//! Errors of the local PostgreSQL.

use std::io;
use std::path::{Path, PathBuf};

/// The reason for which the managed PostgreSQL cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "described by the error messages")]
pub enum ManagedPostgresError {
    #[error(
        "no PostgreSQL is installed (looked in POSTGRES_BIN, or if it is not set in PATH, pg_config --bindir, \
         /usr/lib/postgresql/*/bin and Homebrew): \
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
    #[error(
        "{} belongs to the user {owner}: run Mortise as this user (sudo -u {owner} …), or choose another data_dir",
        data_dir.display()
    )]
    ForeignOwner { data_dir: PathBuf, owner: String },
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
