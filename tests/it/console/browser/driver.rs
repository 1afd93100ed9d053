//! One chromedriver for all tests, and one browser at a time. The driver is the child of a shell script, which ends it
//! and its browsers when the test process ends.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use url::{ParseError, Url};

use crate::harness::{watchdog, with_timeout};

/// Waits until standard input ends, then ends the driver and the browsers that it has started: its process group.
const SUPERVISOR: &str = r#"
    exec 3<&0
    setsid "$@" </dev/null &
    cat <&3 >/dev/null
    kill -s KILL -- "-$!"
    wait
    rm -rf "$DIRECTORY"
"#;

static DRIVER: OnceCell<Driver> = OnceCell::const_new();
/// Whose turn it is: a browser takes some hundred MB.
static TURN: Mutex<()> = Mutex::const_new(());

struct Driver {
    port: u16,
    directory: std::path::PathBuf,
    /// Keeps the script's standard input open until the test process ends.
    _shell: Child,
}

impl Driver {
    async fn start() -> Self {
        let directory = std::env::temp_dir().join(format!("mortise-chromium-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let shell = Command::new("/bin/sh")
            .args(["-c", SUPERVISOR, "sh", "chromedriver", "--log-level=WARNING"])
            .arg(format!("--port={port}"))
            .env("DIRECTORY", &directory)
            // A signal to the group of the tests, such as Ctrl-C, must not end the script before the driver.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.join("log")).unwrap())
            .spawn()
            .unwrap();
        let driver = Self { port, directory, _shell: shell };
        let started = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let is_late = started.elapsed() > Duration::from_secs(60);
            assert!(!is_late, "chromedriver does not start. It must be installed: scripts/chromium.sh");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        driver
    }
}

/// A running browser. No other test has one until it is dropped.
pub struct Session {
    pub client: Client,
    _turn: MutexGuard<'static, ()>,
}

/// Starts a browser with a profile of its own.
pub async fn start_browser() -> Session {
    watchdog::watch_test();
    let turn = TURN.lock().await;
    let driver = DRIVER.get_or_init(Driver::start).await;
    let profile = tempfile::tempdir_in(&driver.directory).unwrap().keep();
    let connect = async {
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities(&profile)).connect(&format!("http://127.0.0.1:{}", driver.port)).await
    };
    let client = with_timeout("a browser", connect).await.unwrap();
    Session { client, _turn: turn }
}

fn capabilities(profile: &Path) -> Capabilities {
    let arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--force-color-profile=srgb",
        &format!("--user-data-dir={}", profile.display()),
    ];
    let capabilities = json!({
        "browserName": "chrome",
        "goog:chromeOptions": { "args": arguments },
        "goog:loggingPrefs": { "browser": "ALL" },
        "timeouts": { "pageLoad": 60_000, "script": 60_000 },
    });
    let Value::Object(capabilities) = capabilities else { unreachable!() };
    capabilities
}

impl Session {
    /// Sends a command of the browser's developer tools.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.issue("goog/cdp/execute", body).await
    }

    /// Returns what the browser has logged since the last call.
    pub async fn take_log(&self) -> Vec<LogEntry> {
        serde_json::from_value(self.issue("se/log", json!({ "type": "browser" })).await).unwrap()
    }

    async fn issue(&self, path: &'static str, body: Value) -> Value {
        let command = VendorCommand { path, body: body.to_string() };
        with_timeout(path, self.client.issue_cmd(command)).await.unwrap()
    }

    /// Ends the browser.
    pub async fn close(self) {
        with_timeout("the end of a browser", self.client.close()).await.unwrap();
    }
}

/// A message of the browser.
#[derive(Debug, serde::Deserialize)]
pub struct LogEntry {
    pub message: String,
    pub source: String,
}

/// A command that the standard does not have.
#[derive(Debug)]
struct VendorCommand {
    path: &'static str,
    body: String,
}

impl WebDriverCompatibleCommand for VendorCommand {
    fn endpoint(&self, base_url: &Url, session_id: Option<&str>) -> Result<Url, ParseError> {
        base_url.join(&format!("session/{}/{}", session_id.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (axum::http::Method, Option<String>) {
        (axum::http::Method::POST, Some(self.body.clone()))
    }
}
