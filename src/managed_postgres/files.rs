//! Files and directories in the data directory. If Mortise runs as root, the directory may belong to PostgreSQL's user,
//! who could replace any of them by a symbolic link or a pipe: no link is followed, and nothing is done by path to a
//! file that is open.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Access, OFlags};
use rustix::io::Errno;

use super::error::{ManagedPostgresError, io_error_at};
use super::os_user::{OsUser, find_user_name};
use crate::input;

/// In bytes; longer than any file that Mortise reads whole.
const FILE_LEN_MAX: u64 = 4096;

/// Opens a file with these options, unless it is a symbolic link or not a regular file.
pub(super) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path).map_err(|error| {
        let is_link = error.raw_os_error() == Some(Errno::LOOP.raw_os_error());
        if is_link { io::Error::other("it is a symbolic link: remove it") } else { error }
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Reads a short text file.
pub(super) fn read(path: &Path) -> io::Result<String> {
    input::read_text(open(path, OpenOptions::new().read(true))?, FILE_LEN_MAX)
}

/// Reads a file from `offset` on, but at most its last [`FILE_LEN_MAX`] bytes.
pub(super) fn read_end(path: &Path, offset: u64) -> io::Result<String> {
    let mut file = open(path, OpenOptions::new().read(true))?;
    let start = offset.max(file.metadata()?.len().saturating_sub(FILE_LEN_MAX));
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.take(FILE_LEN_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes a file that only its owner can read. Replaces an existing file.
pub(super) fn write_private(path: &Path, text: &str, os_user: Option<&OsUser>) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    os_user.map_or(Ok(()), |os_user| os_user.chown(&file))
}

/// Creates a directory, and its parents, unless it exists. The user, if given, becomes the owner of a new directory.
pub(super) fn make_directory(path: &Path, mode: u32, os_user: Option<&OsUser>) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    DirBuilder::new().mode(mode).create(path)?;
    let flags = OFlags::NOFOLLOW | OFlags::DIRECTORY;
    let directory = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    // The umask may have removed bits of the mode.
    directory.set_permissions(fs::Permissions::from_mode(mode))?;
    os_user.map_or(Ok(()), |os_user| os_user.chown(&directory))
}

/// Fails unless the data directory is writable and belongs to root, to the user that runs Mortise, or to the one that
/// PostgreSQL runs as. Another owner could replace its files while Mortise uses them.
pub(super) fn check_owner(data_dir: &Path, os_user: Option<&OsUser>) -> Result<(), ManagedPostgresError> {
    let owner = fs::metadata(data_dir).map_err(io_error_at(data_dir))?.uid();
    let trusted = [Some(0), Some(rustix::process::geteuid().as_raw()), os_user.map(OsUser::uid)];
    let is_own = owner == rustix::process::geteuid().as_raw();
    match rustix::fs::access(data_dir, Access::WRITE_OK) {
        Ok(()) if trusted.contains(&Some(owner)) => Ok(()),
        // A read-only file system, or the permissions of the user's own directory.
        Err(error) if is_own || error != Errno::ACCESS => Err(io_error_at(data_dir)(error.into())),
        _ => Err(ManagedPostgresError::ForeignOwner { data_dir: data_dir.into(), owner: find_user_name(owner) }),
    }
}
