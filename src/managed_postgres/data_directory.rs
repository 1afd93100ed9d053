//! The data directory of the local PostgreSQL: whose it is, who can reach it, its socket, its secrets.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::managed_postgres::installation::{ManagedPostgresError, OsUser, io_error_at, make_directory, write_private};

/// A socket's path has 107 bytes; its own name takes 15.
const SOCKET_DIRECTORY_LEN_MAX: usize = 90;

/// Takes the data directory for this process. The system lets go of it when the process ends, however it ends.
pub(super) fn acquire_lock(data: &Path) -> Result<File, ManagedPostgresError> {
    let path = data.join("lock");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(io_error_at(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let pid = fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
            return Err(ManagedPostgresError::InUse { data: data.into(), pid });
        }
        Err(TryLockError::Error(source)) => return Err(io_error_at(&path)(source)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io_error_at(&path))?;
    Ok(file)
}

/// The account must be able to enter every directory on the way.
pub(super) fn check_accessible(data: &Path, account: Option<&OsUser>) -> Result<(), ManagedPostgresError> {
    let Some(account) = account else { return Ok(()) };
    for directory in data.ancestors() {
        let metadata = fs::metadata(directory).map_err(io_error_at(directory))?;
        let shift = match (metadata.uid() == account.uid(), metadata.gid() == account.gid()) {
            (true, _) => 6,
            (false, true) => 3,
            (false, false) => 0,
        };
        if metadata.mode() >> shift & 1 == 0 {
            return Err(ManagedPostgresError::Inaccessible { data: data.into(), os_user: account.name().to_owned() });
        }
    }
    Ok(())
}

/// A directory that a socket can stand in, which nobody else can have prepared.
pub(super) fn prepare_socket_directory(data: &Path, account: Option<&OsUser>) -> Result<PathBuf, ManagedPostgresError> {
    let directory = socket_directory_path(data);
    make_directory(&directory, 0o700, account)?;
    let owner = account.map_or(rustix::process::geteuid().as_raw(), |account| account.uid());
    check_private(owner, &directory)?;
    Ok(directory)
}

/// The same directory, for whoever comes beside the PostgreSQL that runs: it is the cluster owner's.
pub(super) fn find_socket_directory(data: &Path) -> Result<PathBuf, ManagedPostgresError> {
    let (directory, cluster) = (socket_directory_path(data), data.join("postgres"));
    check_private(fs::metadata(&cluster).map_err(io_error_at(&cluster))?.uid(), &directory)?;
    Ok(directory)
}

fn socket_directory_path(data: &Path) -> PathBuf {
    let usual = data.join("run");
    // PostgreSQL takes commas and quotes in it for a list.
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
    let bytes = usual.as_os_str().as_encoded_bytes();
    if bytes.len() <= SOCKET_DIRECTORY_LEN_MAX && bytes.iter().all(plain) {
        usual
    } else {
        let mark = hex::encode(&Sha256::digest(usual.as_os_str().as_encoded_bytes())[..8]);
        PathBuf::from(format!("/tmp/mortise-{mark}"))
    }
}

fn check_private(owner: u32, directory: &Path) -> Result<(), ManagedPostgresError> {
    let metadata = fs::symlink_metadata(directory).map_err(io_error_at(directory))?;
    if !metadata.is_dir() || metadata.uid() != owner || metadata.permissions().mode() & 0o077 != 0 {
        let words = "it belongs to somebody else: run this as the user who runs the server";
        return Err(io_error_at(directory)(io::Error::other(words)));
    }
    Ok(())
}

/// The password that the file holds; a new random one where there is no file yet.
pub(super) fn read_or_create_password(path: &Path) -> Result<String, ManagedPostgresError> {
    match fs::read_to_string(path) {
        Ok(password) if !password.trim().is_empty() => Ok(password.trim().to_owned()),
        _ => {
            let password = random_hex().map_err(|error| io_error_at(path)(io::Error::other(error)))?;
            write_private(path, &password, None)?;
            Ok(password)
        }
    }
}

/// 192 random bits from the operating system, as text.
pub fn random_hex() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}
