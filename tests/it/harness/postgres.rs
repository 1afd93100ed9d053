//! One PostgreSQL server for all tests. It is the child of a shell script that stops it and removes its files when the
//! script's standard input closes, that is, when the test process ends for any reason.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mortise::db;
use mortise::managed_postgres::{self, installation, os_user};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::sync::{Mutex, OnceCell};

use crate::harness::watchdog;

pub const SUPERVISOR: &str = r#"
    exec 3<&0
    "$@" </dev/null &
    cat <&3 >/dev/null
    kill -QUIT $!
    wait $!
    rm -rf "$DIRECTORY"
"#;

/// A running PostgreSQL server.
pub struct Postgres {
    socket: PathBuf,
    /// Names of the template databases, by the SQL that fills them.
    templates: Mutex<HashMap<String, String>>,
    /// Keeps the script's standard input open until the test process ends.
    _shell: std::process::Child,
}

static POSTGRES: OnceCell<Postgres> = OnceCell::const_new();
static DATABASE_COUNT: AtomicUsize = AtomicUsize::new(0);

fn next_database_name() -> String {
    format!("test_{}", DATABASE_COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Creates a database with the schema and the data that `sql` inserts; returns its name.
pub async fn create_database(sql: &str) -> String {
    watchdog::watch_test();
    POSTGRES.get_or_init(start).await.create_database(sql).await
}

/// Creates a database with these options of `create database`, without a schema; returns its name.
pub async fn create_empty_database(options: &str) -> String {
    let name = next_database_name();
    POSTGRES.get_or_init(start).await.execute(&format!("create database {name} template template0 {options}")).await;
    name
}

/// Creates a copy of a database to which nothing is connected; returns its name.
pub async fn copy_database(template: &str) -> String {
    let name = next_database_name();
    POSTGRES.get_or_init(start).await.execute(&format!("create database {name} template {template}")).await;
    name
}

/// Drops a database.
pub async fn drop_database(name: &str) {
    POSTGRES.get_or_init(start).await.execute(&format!("drop database {name} with (force)")).await;
}

/// The options for connecting to a database.
pub async fn connect_options(name: &str) -> PgConnectOptions {
    POSTGRES.get_or_init(start).await.options(name)
}

/// The directory of the server's socket.
pub async fn socket_dir() -> PathBuf {
    watchdog::watch_test();
    POSTGRES.get_or_init(start).await.socket.clone()
}

/// PostgreSQL's log so far.
pub async fn log() -> String {
    String::from_utf8_lossy(&std::fs::read(socket_dir().await.join("log")).unwrap()).into_owned()
}

impl Postgres {
    /// Starts a server for one test, whose settings other tests must not have. It stops when the value is dropped.
    pub async fn start(settings: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(1);
        start_in(&format!("-{}", COUNT.fetch_add(1, Ordering::Relaxed)), settings).await
    }

    /// Creates a database with the schema and the data that `sql` inserts; returns its name.
    pub async fn create_database(&self, sql: &str) -> String {
        let template = self.template(sql).await;
        let name = next_database_name();
        self.execute(&format!("create database {name} template {template}")).await;
        name
    }

    /// The options for connecting to a database. The sessions do not wait for a standby; those of a server under test
    /// do.
    pub fn options(&self, database: &str) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass().socket(&self.socket).username("postgres");
        options.database(database).options([("synchronous_commit", "local")])
    }

    /// Executes a statement in the database `postgres`.
    pub async fn execute(&self, statement: &str) {
        let mut connection = self.options("postgres").connect().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Returns the name of the template database for `sql`, which it creates at the first call.
    async fn template(&self, sql: &str) -> String {
        let mut templates = self.templates.lock().await;
        if let Some(name) = templates.get(sql) {
            return name.clone();
        }
        let name = next_database_name();
        self.execute(&format!("create database {name}")).await;
        let pool = sqlx::PgPool::connect_with(self.options(&name)).await.unwrap();
        db::migrate(&pool).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&pool).await.unwrap();
        pool.close().await;
        templates.insert(sql.to_owned(), name.clone());
        name
    }
}

async fn start() -> Postgres {
    start_in("", "").await
}

/// Starts a server in a directory with this suffix and these lines in `postgresql.conf`.
async fn start_in(suffix: &str, settings: &str) -> Postgres {
    let os_user = os_user::OsUser::find_unprivileged().unwrap();
    let directory = std::env::temp_dir().join(format!("mortise-test-{}{suffix}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    if let Some(os_user) = &os_user {
        os_user.chown(&std::fs::File::open(&directory).unwrap()).unwrap();
    }
    let cluster = directory.join("cluster");
    let binaries = installation::find_binaries(&cluster).await.expect("PostgreSQL must be installed");
    installation::initdb(&binaries, &cluster, os_user.as_ref(), "unused").await.unwrap();
    std::fs::write(cluster.join("pg_hba.conf"), "local all all trust\n").unwrap();
    let mut configuration = std::fs::OpenOptions::new().append(true).open(cluster.join("postgresql.conf")).unwrap();
    configuration.write_all(settings.as_bytes()).unwrap();

    let shell = installation::build_command("/bin/sh".as_ref(), os_user.as_ref())
        .args(["-c", SUPERVISOR, "sh"])
        .arg(binaries.join("postgres"))
        .args(managed_postgres::server_arguments(&cluster, &directory))
        // The data is not needed after the tests, so it need not be flushed to disk. A test may start a dozen servers
        // with ten connections each, and as many tests run in parallel as there are processors.
        .args(["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=2000"])
        .env("DIRECTORY", &directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(directory.join("log")).unwrap())
        .spawn()
        .unwrap();

    let postgres = Postgres { socket: directory, templates: Mutex::default(), _shell: shell };
    let started = Instant::now();
    while let Err(error) = postgres.options("postgres").connect().await {
        assert!(started.elapsed() < Duration::from_secs(60), "PostgreSQL does not start: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    postgres
}
