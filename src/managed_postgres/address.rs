//! The address of the running server, in a file in the data directory, for the commands that run beside it. A server
//! whose database is given has such a file too: its name tells the databases apart.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use sqlx::postgres::PgConnectOptions;

use super::files;
use crate::input;

/// In bytes; longer than any address.
const ADDRESS_LEN_MAX: u64 = 100;

/// A published address. It is withdrawn when this is dropped, and does not count any more after a crash: the server
/// holds a lock on the file.
#[derive(Debug)]
pub struct PublishedAddress {
    path: PathBuf,
    file: File,
}

impl PublishedAddress {
    /// Publishes the address of the server on this database; `None`: on the local PostgreSQL. Replaces the address of
    /// another server on the same database. A missing data directory is created.
    ///
    /// # Errors
    ///
    /// Those of the file.
    pub fn publish(data_dir: &Path, database: Option<&PgConnectOptions>, address: SocketAddr) -> io::Result<Self> {
        if !data_dir.exists() {
            DirBuilder::new().recursive(true).mode(0o755).create(data_dir)?;
        }
        let path = path(data_dir, database);
        // It gets its name when it is complete and locked.
        let unnamed = path.with_extension("new");
        let _ = fs::remove_file(&unnamed);
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&unnamed)?;
        writeln!(file, "{address}")?;
        file.try_lock().map_err(|error| match error {
            TryLockError::Error(error) => error,
            TryLockError::WouldBlock => ErrorKind::WouldBlock.into(),
        })?;
        fs::rename(&unnamed, &path)?;
        Ok(Self { path, file })
    }

    /// Returns the address of the server that runs on this database; `None`: no server has published one.
    pub fn find(data_dir: &Path, database: Option<&PgConnectOptions>) -> Option<SocketAddr> {
        let file = files::open(&path(data_dir, database), OpenOptions::new().read(true)).ok()?;
        if !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
            return None;
        }
        input::read_text(file, ADDRESS_LEN_MAX).ok()?.trim().parse().ok()
    }
}

impl Drop for PublishedAddress {
    fn drop(&mut self) {
        let inode = |metadata: io::Result<fs::Metadata>| metadata.map(|metadata| (metadata.dev(), metadata.ino())).ok();
        // Another server may have published its address since.
        let own = inode(self.file.metadata());
        if own.is_some() && own == inode(fs::symlink_metadata(&self.path)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The file. The name of a given database has no part of its password, not even in its digest.
fn path(data_dir: &Path, database: Option<&PgConnectOptions>) -> PathBuf {
    let Some(options) = database else { return data_dir.join("address") };
    let host = options.get_socket().map_or(options.get_host().into(), |socket| socket.to_string_lossy());
    let name = options.get_database().unwrap_or(options.get_username());
    let digest = Sha256::digest(format!("{host}\n{}\n{name}", options.get_port()));
    data_dir.join(format!("address-{}", hex::encode(&digest[..8])))
}
