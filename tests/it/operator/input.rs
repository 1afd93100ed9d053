//! Input without an end: files that settings name, standard input, replies to `mortise healthcheck`, other programs.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use mortise::input::run_program;

use crate::harness::process::{create_data_dir, serve_command};
use crate::harness::program::Program;
use crate::harness::{FIXTURE_SQL, postgres};

fn assert_refused(output: &Output, code: i32, message: &str) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(message), "{stderr}");
}

#[tokio::test]
async fn endless_file_is_refused() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let data = create_data_dir();
    std::os::unix::fs::symlink("/dev/zero", data.path().join("cards_sold.txt")).unwrap();
    for (setting, path, message) in [
        ("listen_file", "/dev/zero", "/dev/zero"),
        ("database_url_file", "/dev/zero", "/dev/zero"),
        ("mail_ca", "/dev/zero", "mail_ca (/dev/zero)"),
        ("mail_templates", data.path().to_str().unwrap(), "cards_sold.txt"),
    ] {
        let output = Program::command(&database, &[(setting, path)]).await.output().unwrap();
        assert_refused(&output, 2, message);
        assert_refused(&output, 2, "it is larger than 1048576 bytes");
    }
    let output = serve_command(data.path()).args(["--config", "/dev/zero"]).output().unwrap();
    assert_refused(&output, 2, "/dev/zero: it is larger than 1048576 bytes");
}

/// A pipe that no program writes to.
#[test]
fn file_that_never_ends_is_refused() {
    let data = create_data_dir();
    let pipe = data.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let output = serve_command(data.path()).env("DATABASE_URL_FILE", &pipe).output().unwrap();
    assert_refused(&output, 2, "its end did not come within 10 seconds");
}

#[test]
fn endless_standard_input_is_refused() {
    for arguments in [["key", "set", "--user=x", "--json"], ["user", "add", "x", "--type=admin"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_mortise"))
            .args(arguments)
            .env("DATABASE_URL", "postgres://postgres@127.0.0.1:1/none")
            .stdin(File::open("/dev/zero").unwrap())
            .output()
            .unwrap();
        assert_refused(&output, 2, "from standard input: it is larger than 4096 bytes");
    }
}

/// A reply that never ends, and one of which a byte comes each tenth of a second.
#[test]
fn healthcheck_ends_without_the_end_of_the_reply() {
    for (part, pause, message) in [
        (vec![b'x'; 4096], Duration::ZERO, "the reply is not HTTP"),
        (b"H".to_vec(), Duration::from_millis(100), "/readyz: timeout"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            while connection.write_all(&part).is_ok() {
                std::thread::sleep(pause);
            }
        });
        let mut command = Command::new(env!("CARGO_BIN_EXE_mortise"));
        let output = command.args(["healthcheck", "--listen", &address]).current_dir("/").output().unwrap();
        assert_refused(&output, 1, message);
        server.join().unwrap();
    }
}

#[tokio::test]
async fn other_programs_are_bounded() {
    let shell = |script: &str| {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command
    };
    let chatty = shell("head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2; exit 3");
    let output = run_program(chatty, Duration::from_secs(60)).await.unwrap();
    assert_eq!((output.status.code(), output.stdout.len(), output.stderr.len()), (Some(3), 65536, 65536));
    for endless in ["exec sleep 1000", "exec cat /dev/zero"] {
        let error = run_program(shell(endless), Duration::from_secs(1)).await.unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::TimedOut, "no end within 1s"));
    }
}
