//! The program as a separate process, on an existing database.

use std::ops::{Deref, DerefMut};
use std::process::{Command, Stdio};

use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::process::{self, ServerProcess};
use crate::harness::{postgres, with_timeout};

pub struct Program(ServerProcess);

impl Program {
    /// Starts the program with these settings.
    pub async fn start_on_database(database: &str, settings: &[(&str, &str)]) -> Self {
        Self::start(Self::command(database, settings).await)
    }

    /// Starts the program with this command, see [`command`](Self::command).
    pub fn start(command: Command) -> Self {
        Self(process::start(command))
    }

    /// Returns the command that starts the program with these settings.
    pub async fn command(database: &str, settings: &[(&str, &str)]) -> Command {
        let socket_dir = postgres::socket_dir().await;
        let url = format!("postgres://postgres@localhost/{database}?host={}", socket_dir.display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_mortise"));
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("DATABASE_URL", url)
            // For the file with the address of the server.
            .env("MORTISE_DATA_DIR", socket_dir.join("data"))
            .envs(settings.iter().map(|(name, value)| (format!("MORTISE_{}", name.to_uppercase()), value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Stops the program with SIGTERM and asserts success; returns its whole standard error.
    pub fn stop(mut self) -> String {
        kill_process(Pid::from_child(&self.0.child), Signal::TERM).unwrap();
        assert!(self.0.child.wait().unwrap().success());
        self.0.full_log()
    }

    /// Sends a POST with a form and passes the reply to `on_chunk`, part by part.
    pub async fn post_streaming(&self, operation: &str, form: String, on_chunk: impl FnMut(&[u8])) {
        let request = axum::http::Request::post(format!("http://{}/api/{operation}", self.address));
        send(request.body(Full::from(form)).unwrap(), on_chunk).await;
    }

    /// Sends a GET and passes the reply to `on_chunk`, part by part.
    pub async fn get_streaming(&self, url: &str, on_chunk: impl FnMut(&[u8])) {
        send(axum::http::Request::get(url).body(Full::default()).unwrap(), on_chunk).await;
    }

    /// Sends a request and passes the reply to `on_chunk`, part by part.
    #[cfg(feature = "otlp")]
    pub async fn send_streaming(
        &self,
        request: axum::http::Request<Full<axum::body::Bytes>>,
        on_chunk: impl FnMut(&[u8]),
    ) {
        send(request, on_chunk).await;
    }

    /// Returns the page `/metrics`. The setting `metrics_listen` must be on.
    pub async fn metrics(&self) -> String {
        let mut page = String::new();
        let url = format!("http://{}/metrics", self.monitoring_address().await);
        self.get_streaming(&url, |bytes| page += str::from_utf8(bytes).unwrap()).await;
        page
    }

    /// Waits for the log message with the address of the metrics listener; returns the address.
    pub async fn monitoring_address(&self) -> String {
        let address = async {
            loop {
                let log = self.startup_output.clone() + &self.log.lock().unwrap();
                if let Some((before, _)) = log.split_once("/metrics") {
                    return before.rsplit("http://").next().unwrap().to_owned();
                }
                tokio::task::yield_now().await;
            }
        };
        with_timeout("the address of the metrics listener", address).await
    }

    /// Peak resident memory, in kB.
    pub fn peak_memory_kb(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

async fn send(request: axum::http::Request<Full<axum::body::Bytes>>, mut on_chunk: impl FnMut(&[u8])) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let mut body = with_timeout("a reply", client.request(request)).await.unwrap().into_body();
    while let Some(frame) = with_timeout("the next part of a reply", body.frame()).await {
        on_chunk(frame.unwrap().data_ref().unwrap());
    }
}

impl Deref for Program {
    type Target = ServerProcess;

    fn deref(&self) -> &ServerProcess {
        &self.0
    }
}

impl DerefMut for Program {
    fn deref_mut(&mut self) -> &mut ServerProcess {
        &mut self.0
    }
}

/// Kills the process: a test needs no graceful shutdown.
impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.child.kill();
        let _ = self.0.child.wait();
    }
}
