//! The data directory of the local PostgreSQL: its lock, its permissions, its socket directory and its passwords.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::{ManagedPostgresError, io_error_at};
use super::files;
use super::os_user::OsUser;

/// Maximum length of the socket directory's path, in bytes. The path of a Unix socket has at most 107 bytes; PostgreSQL
/// appends `/.s.PGSQL.5432` to the directory.
const SOCKET_DIRECTORY_LEN_MAX: usize = 90;

/// Maximum length of a process id, in bytes.
const PID_LEN_MAX: u64 = 20;

/// Locks the data directory for this process. The operating system releases the lock when the process ends, also after
/// a crash.
pub(super) fn acquire_lock(data_dir: &Path) -> Result<File, ManagedPostgresError> {
    let path = data_dir.join("lock");
    let mut options = OpenOptions::new();
    let mut file =
        files::open(&path, options.create(true).truncate(false).read(true).write(true)).map_err(io_error_at(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.take(PID_LEN_MAX).read_to_string(&mut pid);
            return Err(ManagedPostgresError::InUse { data_dir: data_dir.into(), pid: pid.trim().to_owned() });
        }
        Err(TryLockError::Error(source)) => return Err(io_error_at(&path)(source)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io_error_at(&path))?;
    Ok(file)
}

/// Fails unless the user may enter the data directory and all its parent directories.
pub(super) fn check_accessible(data_dir: &Path, os_user: Option<&OsUser>) -> Result<(), ManagedPostgresError> {
    let Some(os_user) = os_user else { return Ok(()) };
    for directory in data_dir.ancestors() {
        let metadata = fs::metadata(directory).map_err(io_error_at(directory))?;
        let shift = match (metadata.uid() == os_user.uid(), metadata.gid() == os_user.gid()) {
            (true, _) => 6,
            (false, true) => 3,
            (false, false) => 0,
        };
        if metadata.mode() >> shift & 1 == 0 {
            return Err(ManagedPostgresError::Inaccessible {
                data_dir: data_dir.into(),
                os_user: os_user.name().to_owned(),
            });
        }
    }
    Ok(())
}

/// Creates the socket directory, or verifies that the existing one is private to the user that PostgreSQL runs as:
/// in `/tmp` another user could have created it.
pub(super) fn prepare_socket_directory(
    data_dir: &Path,
    os_user: Option<&OsUser>,
) -> Result<PathBuf, ManagedPostgresError> {
    let directory = socket_directory_path(data_dir);
    files::make_directory(&directory, 0o700, os_user).map_err(io_error_at(&directory))?;
    let owner = os_user.map_or(rustix::process::geteuid().as_raw(), |os_user| os_user.uid());
    check_private(owner, &directory)?;
    Ok(directory)
}

/// Returns the socket directory of a running PostgreSQL, for a command that runs beside the server. The directory must
/// be private to the owner of the cluster.
pub(super) fn find_socket_directory(data_dir: &Path) -> Result<PathBuf, ManagedPostgresError> {
    let (directory, cluster) = (socket_directory_path(data_dir), data_dir.join("postgres"));
    check_private(fs::metadata(&cluster).map_err(io_error_at(&cluster))?.uid(), &directory)?;
    Ok(directory)
}

fn socket_directory_path(data_dir: &Path) -> PathBuf {
    let default = data_dir.join("run");
    // PostgreSQL parses commas and quotes in the setting as list syntax.
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
    let bytes = default.as_os_str().as_encoded_bytes();
    if bytes.len() <= SOCKET_DIRECTORY_LEN_MAX && bytes.iter().all(is_plain) {
        default
    } else {
        let path_hash = hex::encode(&Sha256::digest(default.as_os_str().as_encoded_bytes())[..8]);
        PathBuf::from(format!("/tmp/mortise-{path_hash}"))
    }
}

fn check_private(owner: u32, directory: &Path) -> Result<(), ManagedPostgresError> {
    let metadata = fs::symlink_metadata(directory).map_err(io_error_at(directory))?;
    if !metadata.is_dir() || metadata.uid() != owner || metadata.permissions().mode() & 0o077 != 0 {
        let message = "it is not private to the user of PostgreSQL: run this as the user that runs the server";
        return Err(io_error_at(directory)(io::Error::other(message)));
    }
    Ok(())
}

/// Returns the password in the file. Creates a missing or empty file with a random password. A crash leaves either no
/// file or a complete one.
pub(super) fn read_or_create_password(path: &Path) -> Result<String, ManagedPostgresError> {
    match files::read(path) {
        Ok(password) if !password.trim().is_empty() => return Ok(password.trim().to_owned()),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(io_error_at(path)(error)),
        _ => {}
    }
    let password = random_hex().map_err(|error| io_error_at(path)(io::Error::other(error)))?;
    let unfinished = path.with_extension("new");
    files::write_private(&unfinished, &password, None).map_err(io_error_at(&unfinished))?;
    fs::rename(&unfinished, path).map_err(io_error_at(path))?;
    Ok(password)
}

/// Returns 192 random bits from the operating system, as hexadecimal text.
pub fn random_hex() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}
