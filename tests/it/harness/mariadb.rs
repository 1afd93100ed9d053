//! One MariaDB server for all tests that import MOR's data, on a private port with its files in a temporary directory;
//! another one that offers TLS. Each is the child of a shell script, like [`postgres`](crate::harness::postgres).

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Decode, MySql, MySqlConnection, Row, ValueRef};
use tokio::sync::OnceCell;

use crate::harness::postgres::SUPERVISOR;
use crate::harness::watchdog;

/// The account that reads MOR's database, and its password.
pub const USER: &str = "importer";
pub const PASSWORD: &str = "it's \\a% password";

/// A running MariaDB server.
pub struct MariaDb {
    directory: PathBuf,
    port: u16,
    /// Keeps the script's standard input open until the test process ends.
    _shell: std::process::Child,
}

static MARIADB: OnceCell<MariaDb> = OnceCell::const_new();
static MARIADB_WITH_TLS: OnceCell<MariaDb> = OnceCell::const_new();
static DATABASE_COUNT: AtomicUsize = AtomicUsize::new(0);

/// A database of MOR.
pub struct Mor {
    pub database: String,
    pub port: u16,
    directory: PathBuf,
}

impl Mor {
    /// Creates a database and executes these statements in it.
    pub async fn new(sql: &str) -> Self {
        watchdog::watch_test();
        Self::on(MARIADB.get_or_init(|| MariaDb::start(false)).await, sql).await
    }

    /// The same on a server that offers TLS, with a [certificate](Self::certificate) for 127.0.0.1.
    pub async fn with_tls(sql: &str) -> Self {
        watchdog::watch_test();
        Self::on(MARIADB_WITH_TLS.get_or_init(|| MariaDb::start(true)).await, sql).await
    }

    async fn on(server: &MariaDb, sql: &str) -> Self {
        let database = format!("mor_{}", DATABASE_COUNT.fetch_add(1, Ordering::Relaxed));
        let mor = Self { database, port: server.port, directory: server.directory.clone() };
        let create = format!(
            "create database {0} default charset utf8mb3; grant select on {0}.* to {USER}@localhost",
            mor.database
        );
        execute(&mut mor.connect("mysql").await, &create).await;
        if !sql.is_empty() {
            mor.execute(sql).await;
        }
        mor
    }

    /// Executes statements as the administrator. Ids of 0 are stored as they are, and so are invalid dates.
    pub async fn execute(&self, sql: &str) {
        let mut connection = self.connect(&self.database).await;
        let modes = "set sql_mode = 'ANSI_QUOTES,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES'";
        execute(&mut connection, modes).await;
        execute(&mut connection, sql).await;
        connection.close().await.unwrap();
    }

    /// Returns the rows of a query as texts, with times in UTC.
    pub async fn texts(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let mut connection = self.connect(&self.database).await;
        execute(&mut connection, "set sql_mode = 'ANSI_QUOTES', time_zone = '+00:00'").await;
        let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        rows.iter()
            .map(|row| {
                let text = |index| {
                    let value = row.try_get_raw(index).unwrap();
                    (!value.is_null()).then(|| {
                        let bytes = <&[u8] as Decode<MySql>>::decode(value).unwrap();
                        String::from_utf8(bytes.to_vec()).unwrap()
                    })
                };
                (0..row.len()).map(text).collect()
            })
            .collect()
    }

    /// Cuts the connections of the account that imports from this database.
    pub async fn cut_connections(&self) {
        let mut connection = self.connect("mysql").await;
        let kills = "select id from information_schema.processlist where user = ? and db = ?";
        let ids: Vec<i64> =
            sqlx::query_scalar(kills).bind(USER).bind(&self.database).fetch_all(&mut connection).await.unwrap();
        for id in ids {
            // It may have ended since.
            let kill = AssertSqlSafe(format!("kill connection {id}"));
            let _ = sqlx::raw_sql(kill).execute(&mut connection).await;
        }
        connection.close().await.unwrap();
    }

    /// Creates an account with the same password that must use TLS; returns its name.
    pub async fn create_tls_account(&self) -> String {
        let user = format!("tls_{}", self.database);
        let create = format!(
            "create user {user}@localhost identified by '{}' require ssl; grant select on {}.* to {user}@localhost",
            quoted_password(),
            self.database
        );
        execute(&mut self.connect("mysql").await, &create).await;
        user
    }

    /// The file with the certificate of a server that offers TLS.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("certificate.pem")
    }

    /// The URL for `mortise import`.
    pub fn url(&self) -> String {
        self.url_of(USER)
    }

    /// The URL for another account.
    pub fn url_of(&self, user: &str) -> String {
        format!("mysql://{user}@127.0.0.1:{}/{}", self.port, self.database)
    }

    async fn connect(&self, database: &str) -> MySqlConnection {
        root_options(&self.directory).database(database).disable_statement_logging().connect().await.unwrap()
    }
}

async fn execute(connection: &mut MySqlConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap();
}

/// The options for connecting as the administrator.
fn root_options(directory: &Path) -> MySqlConnectOptions {
    let options = MySqlConnectOptions::new().socket(directory.join("socket")).username("root");
    options.ssl_mode(MySqlSslMode::Disabled)
}

/// The password as it is within quotes.
fn quoted_password() -> String {
    PASSWORD.replace('\\', "\\\\").replace('\'', "''")
}

/// Returns the options with which the server offers TLS, or does not. Writes the certificate and its key.
fn tls_arguments(directory: &Path, has_tls: bool) -> Vec<String> {
    if !has_tls {
        // Newer versions make a certificate of their own.
        return vec!["--skip-ssl".to_owned()];
    }
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let files =
        [("cert", "certificate.pem", certified.cert.pem()), ("key", "key.pem", certified.signing_key.serialize_pem())];
    let arguments = files.into_iter().map(|(option, name, text)| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        format!("--ssl-{option}={}", path.display())
    });
    arguments.collect()
}

impl MariaDb {
    async fn start(has_tls: bool) -> Self {
        let suffix = if has_tls { "-tls" } else { "" };
        let directory = std::env::temp_dir().join(format!("mortise-mariadb-{}{suffix}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        let data = format!("--datadir={}", directory.join("data").display());
        let user = is_root.then_some("--user=mysql");
        let installed = Command::new("mariadb-install-db")
            .args(["--no-defaults", &data, "--auth-root-authentication-method=normal", "--skip-test-db"])
            .args(user)
            .output()
            .expect("MariaDB must be installed: scripts/mariadb.sh");
        assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stdout));
        if is_root {
            let owner = Command::new("chown").arg("mysql").arg(&directory).status().unwrap();
            assert!(owner.success());
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        let shell = Command::new("/bin/sh")
            .args(["-c", SUPERVISOR, "sh", "mariadbd", "--no-defaults", &data, "--bind-address=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--socket={}", directory.join("socket").display()))
            .arg(format!("--pid-file={}", directory.join("pid").display()))
            // A server that starts deletes the temporary tables of all servers with the same directory.
            .arg(format!("--tmpdir={}", directory.display()))
            .args(tls_arguments(&directory, has_tls))
            // The data is not needed after the tests.
            .args(["--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-buffer-pool-size=64M"])
            .args(user)
            .env("PATH", path)
            .env("DIRECTORY", &directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.join("log")).unwrap())
            .spawn()
            .unwrap();
        let server = Self { directory, port, _shell: shell };
        let started = Instant::now();
        let options = root_options(&server.directory);
        let mut connection = loop {
            match options.connect().await {
                Ok(connection) => break connection,
                Err(error) => {
                    assert!(started.elapsed() < Duration::from_secs(60), "MariaDB does not start: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        let create = format!("create user {USER}@localhost identified by '{}'", quoted_password());
        execute(&mut connection, &create).await;
        connection.close().await.unwrap();
        server
    }
}
