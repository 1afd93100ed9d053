//! The data directory of the local PostgreSQL: whose it is, who can reach it, its socket, its secrets.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::managed_postgres::installation::{Account, ManagedError, at, make_directory, write_private};

/// A socket's path has 107 bytes; its own name takes 15.
const LONGEST_SOCKET_DIRECTORY: usize = 90;

/// Takes the data directory for this process. The system lets go of it when the process ends, however it ends.
pub(super) fn lock(data: &Path) -> Result<File, ManagedError> {
    let path = data.join("lock");
    let mut file =
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let pid = fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
            return Err(ManagedError::InUse { data: data.into(), pid });
        }
        Err(TryLockError::Error(source)) => return Err(at(&path)(source)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(at(&path))?;
    Ok(file)
}

/// The account must be able to enter every directory on the way.
pub(super) fn reachable(data: &Path, account: Option<&Account>) -> Result<(), ManagedError> {
    let Some(account) = account else { return Ok(()) };
    for directory in data.ancestors() {
        let metadata = fs::metadata(directory).map_err(at(directory))?;
        let shift = match (metadata.uid() == account.uid(), metadata.gid() == account.gid()) {
            (true, _) => 6,
            (false, true) => 3,
            (false, false) => 0,
        };
        if metadata.mode() >> shift & 1 == 0 {
            return Err(ManagedError::OutOfReach { data: data.into(), account: account.name().to_owned() });
        }
    }
    Ok(())
}

/// A directory that a socket can stand in, which nobody else can have prepared.
pub(super) fn socket_directory(data: &Path, account: Option<&Account>) -> Result<PathBuf, ManagedError> {
    let directory = socket_path(data);
    make_directory(&directory, 0o700, account)?;
    let owner = account.map_or(rustix::process::geteuid().as_raw(), |account| account.uid());
    is_private_to(owner, &directory)?;
    Ok(directory)
}

/// The same directory, for whoever comes beside the PostgreSQL that runs: it is the cluster owner's.
pub(super) fn socket_directory_beside(data: &Path) -> Result<PathBuf, ManagedError> {
    let (directory, cluster) = (socket_path(data), data.join("postgres"));
    is_private_to(fs::metadata(&cluster).map_err(at(&cluster))?.uid(), &directory)?;
    Ok(directory)
}

fn socket_path(data: &Path) -> PathBuf {
    let usual = data.join("run");
    // PostgreSQL takes commas and quotes in it for a list.
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
    let bytes = usual.as_os_str().as_encoded_bytes();
    if bytes.len() <= LONGEST_SOCKET_DIRECTORY && bytes.iter().all(plain) {
        usual
    } else {
        let mark = hex::encode(&Sha256::digest(usual.as_os_str().as_encoded_bytes())[..8]);
        PathBuf::from(format!("/tmp/mortise-{mark}"))
    }
}

fn is_private_to(owner: u32, directory: &Path) -> Result<(), ManagedError> {
    let metadata = fs::symlink_metadata(directory).map_err(at(directory))?;
    if !metadata.is_dir() || metadata.uid() != owner || metadata.permissions().mode() & 0o077 != 0 {
        let words = "it belongs to somebody else: run this as the user who runs the server";
        return Err(at(directory)(io::Error::other(words)));
    }
    Ok(())
}

/// The password that the file holds; a new random one where there is no file yet.
pub(super) fn password(path: &Path) -> Result<String, ManagedError> {
    match fs::read_to_string(path) {
        Ok(password) if !password.trim().is_empty() => Ok(password.trim().to_owned()),
        _ => {
            let password = random_text().map_err(|error| at(path)(io::Error::other(error)))?;
            write_private(path, &password, None)?;
            Ok(password)
        }
    }
}

/// 192 random bits from the operating system, as text.
pub fn random_text() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}
