//! The process of the local PostgreSQL, and the file `postmaster.pid` in its cluster.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::process::{Pid, test_kill_process};

use super::files;

/// The content of `postmaster.pid`.
enum PidFile {
    /// The process id of an existing process.
    Process(Pid),
    /// No process id: a crash of the machine interrupted its writing, or another program changed it.
    Garbage,
    /// There is no file, or no process with its id.
    NoProcess,
}

/// Returns the process id of the postmaster that runs on the cluster, if any.
pub(super) fn running_pid(cluster: &Path, socket_dir: &Path) -> Option<Pid> {
    match read_pid_file(cluster) {
        PidFile::Process(pid) if is_own_postmaster(pid, cluster, socket_dir) => Some(pid),
        _ => None,
    }
}

fn read_pid_file(cluster: &Path) -> PidFile {
    let text = match files::read(&cluster.join("postmaster.pid")) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::FileTooLarge) => {
            return PidFile::Garbage;
        }
        Err(_) => return PidFile::NoProcess,
    };
    // A PostgreSQL for a single user writes its process id with a minus sign.
    let pid = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok()?.checked_abs());
    match pid.and_then(Pid::from_raw) {
        None => PidFile::Garbage,
        Some(pid) if test_kill_process(pid).is_ok() => PidFile::Process(pid),
        Some(_) => PidFile::NoProcess,
    }
}

/// Whether the process is the postmaster of this cluster. After a crash, another process may have got its id.
///
/// The working directory of a postmaster is its cluster directory. If the working directory can't be read (processes of
/// other users, or a service that sees only its own processes), the test is whether the socket accepts connections.
fn is_own_postmaster(pid: Pid, cluster: &Path, socket_dir: &Path) -> bool {
    match fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero())) {
        Ok(directory) => Some(directory) == cluster.canonicalize().ok(),
        Err(_) => UnixStream::connect(socket_dir.join(".s.PGSQL.5432")).is_ok(),
    }
}

/// Removes a `postmaster.pid` with which PostgreSQL would not start although no PostgreSQL runs on the cluster: it
/// names another program's process, or no process.
///
/// This is safe: PostgreSQL also checks by its shared memory that no old process of it uses the cluster. A PostgreSQL
/// that is starting has an empty file for a moment, and has no shared memory yet. But its working directory is the
/// cluster.
pub(super) fn remove_stale_pid_file(cluster: &Path, socket_dir: &Path) {
    let reason = match read_pid_file(cluster) {
        PidFile::Process(pid) if !is_own_postmaster(pid, cluster, socket_dir) => "its process is not PostgreSQL",
        PidFile::Garbage if has_no_processes(cluster) => "it contains no process id",
        _ => return,
    };
    tracing::warn!(reason, "removing stale postmaster.pid");
    let _ = fs::remove_file(cluster.join("postmaster.pid"));
}

/// Whether the working directory of no process is the cluster. `false` on systems without `/proc`.
fn has_no_processes(cluster: &Path) -> bool {
    let (Ok(cluster), Ok(processes)) = (cluster.canonicalize(), fs::read_dir("/proc")) else { return false };
    let mut directories = processes.flatten().filter_map(|process| fs::read_link(process.path().join("cwd")).ok());
    !directories.any(|directory| directory == cluster)
}
