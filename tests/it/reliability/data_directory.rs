//! The data directory of the local PostgreSQL: damaged files, files of other users, and symbolic links.

use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use mortise::managed_postgres::ManagedPostgres;
use mortise::managed_postgres::error::ManagedPostgresError;
use mortise::managed_postgres::installation;
use mortise::managed_postgres::os_user::OsUser;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::process::{create_data_dir, serve_command, start};

/// Runs a server that must not start; returns its standard error.
fn start_error(data: &Path) -> String {
    let mut child = serve_command(data).spawn().unwrap();
    let mut stderr = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.contains("listening on") {
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        }
        stderr += &(line + "\n");
    }
    assert_eq!(child.wait().unwrap().code(), Some(4), "{stderr}");
    stderr
}

/// PostgreSQL refuses each of these, because another PostgreSQL could just be starting.
#[tokio::test]
async fn pid_file_without_a_process_id_is_removed() {
    let data = create_data_dir();
    let pid_file = data.path().join("postgres/postmaster.pid");
    start(serve_command(data.path())).stop();
    for garbage in [b"".as_slice(), b"garbage\n", b"0\n", b"99999999999\n", b"\xff\xfe\0", &[b'\0'; 8192]] {
        std::fs::write(&pid_file, garbage).unwrap();
        let server = start(serve_command(data.path()));
        let log = &server.startup_output;
        assert!(log.contains("removing stale postmaster.pid") && log.contains("it contains no process id"), "{log}");
        server.stop();
    }
}

/// A process in the cluster's directory may be a PostgreSQL that is starting. The error has PostgreSQL's own message
/// and its hint.
#[tokio::test]
async fn pid_file_beside_a_process_in_the_cluster_is_kept() {
    let data = create_data_dir();
    let cluster = data.path().join("postgres");
    start(serve_command(data.path())).stop();
    std::fs::write(cluster.join("postmaster.pid"), "").unwrap();
    let mut other = Command::new("sleep").arg("1000").current_dir(&cluster).spawn().unwrap();
    let error = start_error(data.path());
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(error.contains("PostgreSQL does not start"), "{error}");
    assert!(error.contains("FATAL:  lock file \"postmaster.pid\" is empty"), "{error}");
    assert!(error.contains("HINT:  Either another server is starting, or the lock file is the remnant"), "{error}");
    assert!(cluster.join("postmaster.pid").exists());
}

#[tokio::test]
async fn start_error_has_only_messages_of_the_last_start() {
    let data = create_data_dir();
    start(serve_command(data.path())).stop();
    let conf = data.path().join("postgres/postgresql.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, text.clone() + "\nshared_buffers = 'many'\n").unwrap();
    let error = start_error(data.path());
    // PostgreSQL was started several times.
    assert_eq!(error.matches("\"shared_buffers\": \"many\"").count(), 1, "{error}");
    assert!(!error.contains("database system is shut down"), "{error}");
    std::fs::write(&conf, text).unwrap();
    start(serve_command(data.path())).stop();
}

/// A crash between the creation and the writing of a file.
#[tokio::test]
async fn empty_password_file_is_replaced_and_an_unreadable_one_is_not() {
    let data = create_data_dir();
    start(serve_command(data.path())).stop();
    let path = data.path().join("password");
    for text in ["", "\n"] {
        std::fs::write(&path, text).unwrap();
        let server = start(serve_command(data.path()));
        assert!(server.buy_cards().await.contains("<number>"));
        server.stop();
        assert_eq!(std::fs::read_to_string(&path).unwrap().len(), 48);
    }
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!data.path().join("password.new").exists());
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(start_error(data.path()).contains("/password: it is not a regular file"));
    assert!(path.is_dir());
}

/// The owner of the data directory replaces one of its files by a link to a file of another user.
#[test]
fn symbolic_links_are_not_followed() {
    let outside = create_data_dir();
    let victim = outside.path().join("victim");
    for name in ["lock", "superuser_password", "password", "postgres.log"] {
        let data = create_data_dir();
        std::fs::write(&victim, "content").unwrap();
        symlink(&victim, data.path().join(name)).unwrap();
        let error = start_error(data.path());
        assert!(error.contains(&format!("/{name}: it is a symbolic link: remove it")), "{error}");
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "content", "{name}");
    }
    // Links to a file that does not exist, and to a directory whose permissions would be changed.
    let data = create_data_dir();
    symlink(outside.path().join("new"), data.path().join("lock")).unwrap();
    assert!(start_error(data.path()).contains("it is a symbolic link"));
    assert!(!outside.path().join("new").exists());
    let data = create_data_dir();
    std::fs::set_permissions(outside.path(), Permissions::from_mode(0o755)).unwrap();
    symlink(outside.path(), data.path().join("run")).unwrap();
    assert!(start_error(data.path()).contains("it is not private to the user of PostgreSQL"));
    assert_eq!(std::fs::metadata(outside.path()).unwrap().permissions().mode() & 0o777, 0o755);
    // A pipe would block the start.
    let data = create_data_dir();
    assert!(Command::new("mkfifo").arg(data.path().join("password")).status().unwrap().success());
    assert!(start_error(data.path()).contains("/password: it is not a regular file"));
}

/// Runs only as root, which can create a directory of another user.
#[tokio::test]
async fn data_directory_of_another_user_is_refused() {
    let Some(os_user) = OsUser::find_unprivileged().unwrap() else { return };
    let data = create_data_dir();
    std::os::unix::fs::chown(data.path(), Some(1), Some(1)).unwrap();
    let error = ManagedPostgres::prepare(data.path()).await.unwrap_err();
    assert!(matches!(error, ManagedPostgresError::ForeignOwner { .. }), "{error}");
    assert!(error.to_string().contains("belongs to the user daemon: run Mortise as this user (sudo -u daemon"));
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0);
    // A directory of root, for another user.
    std::os::unix::fs::chown(data.path(), Some(0), Some(0)).unwrap();
    let programs = create_data_dir();
    let program = programs.path().join("mortise");
    std::fs::copy(env!("CARGO_BIN_EXE_mortise"), &program).unwrap();
    let mut command = Command::new(program);
    command.arg("serve").arg("--data-dir").arg(data.path()).current_dir("/").env_remove("DATABASE_URL");
    let output = command.uid(os_user.uid()).gid(os_user.gid()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("belongs to the user root: run Mortise as this user"), "{stderr}");
}

/// As process 1 of a container, the server waits for the processes of a killed PostgreSQL. Runs only where a process
/// may create a PID namespace.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn process_1_leaves_no_zombies() {
    use std::time::{Duration, Instant};

    /// Ends the namespace when the test fails: `unshare` ignores SIGTERM.
    struct KillOnDrop(Pid);

    impl Drop for KillOnDrop {
        fn drop(&mut self) {
            let _ = kill_process(self.0, Signal::KILL);
        }
    }

    const UNSHARE: [&str; 4] = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    if !Command::new("unshare").args(UNSHARE).arg("true").status().is_ok_and(|status| status.success()) {
        println!("skipped: no PID namespace can be created");
        return;
    }
    let data = create_data_dir();
    let direct = serve_command(data.path());
    let mut command = Command::new("unshare");
    command.args(UNSHARE).arg(direct.get_program()).args(direct.get_args()).current_dir("/").env_remove("DATABASE_URL");
    command.envs(direct.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = start(command);
    let children = |pid: u32| -> Vec<u32> {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().map(|child| child.parse().unwrap()).collect()
    };
    let is = |pid: u32, line: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains(line))
    };
    let [init] = children(server.child.id())[..] else { panic!("unshare has no child process") };
    let init_pid = Pid::from_raw(init.cast_signed()).unwrap();
    let guard = KillOnDrop(init_pid);
    let postmaster = |parent: u32| children(parent).into_iter().find(|child| is(*child, "Name:\tpostgres"));
    let postmaster = children(init).into_iter().chain([init]).find_map(postmaster).unwrap();
    let processes = children(postmaster).len();
    assert!(processes > 3, "{processes}");
    kill_process(Pid::from_raw(postmaster.cast_signed()).unwrap(), Signal::KILL).unwrap();
    let started = Instant::now();
    while !server.buy_cards().await.contains("<number>") {
        assert!(started.elapsed() < Duration::from_secs(60), "PostgreSQL is not restarted");
    }
    let started = Instant::now();
    while children(init).into_iter().any(|child| is(child, "State:\tZ")) {
        assert!(started.elapsed() < Duration::from_secs(20), "process 1 leaves zombies");
        tokio::task::yield_now().await;
    }
    kill_process(init_pid, Signal::TERM).unwrap();
    std::mem::forget(guard);
    assert!(server.child.wait().unwrap().success());
    assert!(!data.path().join("postgres/postmaster.pid").exists());
}

/// initdb writes its cluster beside the final one, and gets its password by a file that no other user can read.
#[tokio::test]
async fn failed_initdb_shows_its_message() {
    let data = create_data_dir();
    let os_user = OsUser::find_unprivileged().unwrap();
    if let Some(os_user) = &os_user {
        os_user.chown(&File::open(data.path()).unwrap()).unwrap();
    }
    let cluster = data.path().join("postgres");
    let binaries = installation::find_binaries(&cluster).await.unwrap();
    let error = installation::initdb(&binaries, &cluster, os_user.as_ref(), "").await.unwrap_err();
    assert!(error.to_string().starts_with("initdb failed: initdb: error: password file"), "{error}");
    assert!(!cluster.exists());
}
