//! The program as a separate process, with demo data and a local PostgreSQL.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{watchdog, with_timeout};

/// The example request of MOR's published documentation.
const EXAMPLE_REQUEST: &str = "u=username&id=6&quantity=2&hash=37086d860581fabc278413cd1a417d5c079f6eba";

/// Creates a data directory that is accessible to the OS user of PostgreSQL.
pub fn create_data_dir() -> tempfile::TempDir {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap()
}

/// A running server.
pub struct ServerProcess {
    pub child: Child,
    pub address: SocketAddr,
    /// Standard error up to the message that the server listens.
    pub startup_output: String,
    /// Standard error after that message.
    pub log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

/// The variables by which a program finds PostgreSQL, for a command without the others.
pub fn installation_env() -> impl Iterator<Item = (String, String)> {
    std::env::vars().filter(|(name, _)| name == "PATH" || name == "POSTGRES_BIN")
}

/// Returns a command that serves the demo data on a free port.
pub fn serve_command(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mortise"));
    command.args(["serve", "--demo", "--listen", "127.0.0.1:0"]).current_dir("/");
    command.env("MORTISE_DATA_DIR", data).env("MORTISE_LOG_FORMAT", "json").env_remove("DATABASE_URL");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Asserts that the program does not start with this collector; returns its error output.
pub fn start_error(collector: &str) -> String {
    let data = create_data_dir();
    let mut command = serve_command(data.path());
    let output = command.args(["--config", "/dev/null"]).env("MORTISE_OTLP_ENDPOINT", collector).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Starts a server and waits until it listens.
pub fn start(mut command: Command) -> ServerProcess {
    watchdog::watch_test();
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut output = String::new();
    let address = loop {
        let line_start = output.len();
        assert!(lines.read_line(&mut output).unwrap() > 0, "the server exited: {output}");
        // Only the line of the API has this path.
        if let Some((_, rest)) = output[line_start..].split_once("listening on http://")
            && rest.contains("/api/")
        {
            break rest.split('/').next().unwrap().parse().unwrap();
        }
    };
    let log = Arc::new(Mutex::new(String::new()));
    let shared_log = log.clone();
    let reader = std::thread::spawn(move || {
        let mut line = String::new();
        while lines.read_line(&mut line).is_ok_and(|length| length > 0) {
            shared_log.lock().unwrap().push_str(&std::mem::take(&mut line));
        }
    });
    ServerProcess { child, address, startup_output: output, log, reader: Some(reader) }
}

impl ServerProcess {
    /// Buys two cards with the example request of MOR's documentation.
    pub async fn buy_cards(&self) -> String {
        self.post("buy_card_from_callingroup", EXAMPLE_REQUEST).await
    }

    /// Sends a POST with a form; returns the body of the reply.
    pub async fn post(&self, operation: &str, form: &'static str) -> String {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<axum::body::Bytes>>();
        let request = axum::http::Request::post(format!("http://{}/billing/api/{operation}", self.address))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::from(form))
            .unwrap();
        let body = async { client.request(request).await.unwrap().into_body().collect().await.unwrap() };
        let body = with_timeout("a reply", body).await;
        String::from_utf8(body.to_bytes().into()).unwrap()
    }

    /// Stops the server with SIGTERM and asserts success; returns its standard output. [`log`](Self::log) is complete
    /// then.
    pub fn stop(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let mut output = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        assert!(self.child.wait().unwrap().success());
        self.reader.take().into_iter().for_each(|reader| reader.join().unwrap());
        output
    }

    /// Returns the whole standard error of a server that has exited.
    pub fn full_log(&mut self) -> String {
        self.reader.take().unwrap().join().unwrap();
        self.startup_output.clone() + &self.log.lock().unwrap()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Stops the server when a test fails.
impl Drop for ServerProcess {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

/// The process id of the local PostgreSQL in a data directory.
pub fn postmaster_pid(data: &Path) -> Option<Pid> {
    let pid_file = std::fs::read_to_string(data.join("postgres/postmaster.pid")).ok()?;
    Pid::from_raw(pid_file.lines().next()?.parse().ok()?)
}
