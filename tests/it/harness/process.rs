//! The program as a process of its own.

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

/// The published page's own request.
const PAGE: &str = "u=username&id=6&quantity=2&hash=37086d860581fabc278413cd1a417d5c079f6eba";

/// A data directory that the user whom PostgreSQL runs as can reach.
pub fn create_data_dir() -> tempfile::TempDir {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap()
}

/// A server that listens.
pub struct ServerProcess {
    pub child: Child,
    pub address: SocketAddr,
    pub startup_output: String,
    /// What it said on standard error since.
    pub log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

/// Serves the demo's world on a port of the system's choice.
pub fn serve_command(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mortise"));
    command.args(["serve", "--demo", "--listen", "127.0.0.1:0"]).current_dir("/");
    command.env("MORTISE_DATA_DIR", data).env("MORTISE_LOG_FORMAT", "json").env_remove("DATABASE_URL");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits until the server listens; what it printed until then.
pub fn start(mut command: Command) -> ServerProcess {
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut output = String::new();
    let address = loop {
        let at = output.len();
        assert!(lines.read_line(&mut output).unwrap() > 0, "the server ended: {output}");
        if let Some((_, rest)) = output[at..].split_once("listening on http://") {
            break rest.split('/').next().unwrap().parse().unwrap();
        }
    };
    let log = Arc::new(Mutex::new(String::new()));
    let later = log.clone();
    let reader = std::thread::spawn(move || {
        let mut line = String::new();
        while lines.read_line(&mut line).is_ok_and(|length| length > 0) {
            later.lock().unwrap().push_str(&std::mem::take(&mut line));
        }
    });
    ServerProcess { child, address, startup_output: output, log, reader: Some(reader) }
}

impl ServerProcess {
    /// Two cards, by the published page's own request.
    pub async fn buy_cards(&self) -> String {
        self.post("buy_card_from_callingroup", PAGE).await
    }

    /// A POST with a form.
    pub async fn post(&self, operation: &str, form: &'static str) -> String {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<axum::body::Bytes>>();
        let request = axum::http::Request::post(format!("http://{}/billing/api/{operation}", self.address))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::from(form))
            .unwrap();
        let body = client.request(request).await.unwrap().into_body().collect().await.unwrap();
        String::from_utf8(body.to_bytes().into()).unwrap()
    }

    /// What it printed on standard output, once it has ended as it should. All that it logged has been read then.
    pub fn stop(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let mut printed = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        assert!(self.child.wait().unwrap().success());
        self.reader.take().into_iter().for_each(|reader| reader.join().unwrap());
        printed
    }

    /// What it said from its start to its end, which has come.
    pub fn full_log(&mut self) -> String {
        self.reader.take().unwrap().join().unwrap();
        self.startup_output.clone() + &self.log.lock().unwrap()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A test that failed leaves nothing running.
impl Drop for ServerProcess {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

/// The process of the local PostgreSQL in a data directory.
pub fn postmaster_pid(data: &Path) -> Option<Pid> {
    let note = std::fs::read_to_string(data.join("postgres/postmaster.pid")).ok()?;
    Pid::from_raw(note.lines().next()?.parse().ok()?)
}
