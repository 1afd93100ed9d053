//! Test harness: a database per test, a server on it, requests as a client writes them, replies as a client reads them.

pub mod ledger;
pub mod log;
pub mod mariadb;
pub mod postgres;
pub mod process;
pub mod program;
pub mod proxy;
pub mod secrets;
pub mod smtp;
pub mod watchdog;
pub mod xml;

use std::convert::Infallible;
use std::io::{Cursor, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use axum::response::Response;
use mortise::config::{Config, Override};
use mortise::db::pool::{Connection, Pool};
use mortise::http::{monitoring, router as api_router};
use mortise::jobs;
use mortise::server::{self, listener};
use mortise::state::AppState;
use sha1::{Digest, Sha1};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Row};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

/// The data that most tests start with.
pub const FIXTURE_SQL: &str = include_str!("fixtures.sql");

/// A server, and the database that it uses.
#[derive(Clone)]
pub struct Server {
    /// The test's own connection pool.
    pub pool: PgPool,
    /// The connection pool that the server's requests share.
    app_pool: Pool,
    pub router: BoxCloneSyncService<Request<Body>, Response, Infallible>,
    /// Serves `/livez`, `/readyz` and `/metrics`.
    pub monitoring: Router,
    /// What the server's routers share.
    pub state: Arc<AppState>,
    pub config: Config,
}

/// Fails the test if `work`, which waits for `event`, takes longer than 300 s.
pub async fn with_timeout<T>(event: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(300), work)
        .await
        .unwrap_or_else(|_| panic!("timed out waiting for {event}"))
}

/// Starts a server on a new database with `fixtures.sql`. The cache is off.
pub async fn server() -> Server {
    server_with_settings(&[]).await
}

/// Starts a server on a new database with `fixtures.sql`, with the dialect `x7`.
pub async fn x7_server() -> Server {
    server_with_settings(&[("dialect", "x7")]).await
}

/// Starts a server on a new database with `fixtures.sql` and these settings; [`build`] has the defaults.
pub async fn server_with_settings(settings: &[(&str, &str)]) -> Server {
    let database = postgres::create_database(FIXTURE_SQL).await;
    server_on_database(&database, settings).await
}

/// Starts a server on an existing database.
pub async fn server_on_database(database: &str, settings: &[(&str, &str)]) -> Server {
    server_with_connect_options(postgres::connect_options(database).await, settings).await
}

/// Starts a server that connects to its database with these options.
pub async fn server_with_connect_options(database: PgConnectOptions, settings: &[(&str, &str)]) -> Server {
    let (server, state) = build(database, settings, Pool::from).await;
    tokio::spawn(async move { jobs::run_background_tasks(&state).await });
    server
}

/// Starts a server without the background tasks, for which a statement that commits may take only this long.
pub async fn server_with_commit_timeout(
    database: PgConnectOptions,
    settings: &[(&str, &str)],
    commit_timeout: Duration,
) -> Server {
    build(database, settings, |pool| Pool::with_commit_timeout(&pool, commit_timeout)).await.0
}

/// Starts a server on an existing database without the background tasks: it sends no e-mails.
pub async fn server_without_jobs(database: &str, settings: &[(&str, &str)]) -> Server {
    build(postgres::connect_options(database).await, settings, Pool::from).await.0
}

/// The acquire timeout is 60 s by default, so that tests also pass on a busy machine.
async fn build(
    database: PgConnectOptions,
    settings: &[(&str, &str)],
    create_pool: impl FnOnce(PgPool) -> Pool,
) -> (Server, Arc<AppState>) {
    let defaults = [("cache", "off"), ("database_connections", "4"), ("database_acquire_timeout_ms", "60000")];
    let settings = [&defaults, settings].concat();
    let options: Vec<_> = settings.iter().map(|(name, value)| Override::new(name, value, "the test")).collect();
    let config = Config::load(None, std::iter::empty(), &options).unwrap();
    let app_pool = mortise::db::connect(database, &config).await.unwrap();
    let pool =
        PgPoolOptions::new().connect_lazy_with(app_pool.connect_options().as_ref().clone().application_name("a test"));
    let app_pool = create_pool(app_pool);
    let (state, audit_writer) = server::build_app_state(config.clone(), app_pool.clone()).unwrap();
    tokio::spawn(audit_writer);
    let monitoring = monitoring::router(state.clone());
    let router = BoxCloneSyncService::new(api_router::build_service(state.clone()));
    (Server { pool, app_pool, router, monitoring, state: state.clone(), config }, state)
}

/// A reply as a client receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The text; of a zip file, that of its one entry.
    pub body: String,
    /// The body as it was sent.
    pub bytes: Bytes,
}

impl Reply {
    /// The error is a body that is not UTF-8, or a zip file that is not complete.
    pub fn new(status: StatusCode, headers: HeaderMap, bytes: Bytes) -> Result<Self, String> {
        let is_zip = headers.get("content-type").is_some_and(|content_type| content_type == "application/zip");
        let body = if is_zip && !bytes.is_empty() {
            let mut archive = zip::ZipArchive::new(Cursor::new(&bytes)).map_err(|error| error.to_string())?;
            let mut text = String::new();
            let mut entry = archive.by_index(0).map_err(|error| error.to_string())?;
            entry.read_to_string(&mut text).map_err(|error| error.to_string())?;
            text
        } else {
            String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())?
        };
        Ok(Self { status, headers, body, bytes })
    }

    /// Asserts that the body is exactly this XML. To keep tests readable, the margin of a raw string is removed and the
    /// XML declaration is added; the result is compared byte by byte.
    #[track_caller]
    pub fn assert_body(&self, body: &str) {
        let expected = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}\n", unindented(body));
        assert_eq!(self.body, expected, "status {}", self.status);
    }

    /// Asserts that the body is an error with the root element `status`.
    #[track_caller]
    pub fn assert_status_error(&self, message: &str) {
        self.assert_body(&format!("<status>\n  <error>{message}</error>\n</status>"));
    }

    /// Asserts that the body is an error of the operation, with the root element `page`.
    #[track_caller]
    pub fn assert_page_error(&self, message: &str) {
        self.assert_body(&format!("<page>\n  <status>\n    <error>{message}</error>\n  </status>\n</page>"));
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The texts of all elements with this name.
    pub fn element_texts(&self, element: &str) -> Vec<&str> {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        self.body.split(open.as_str()).skip(1).map(|rest| rest.split(close.as_str()).next().unwrap()).collect()
    }
}

/// Removes blank lines and the margin that all lines share.
fn unindented(text: &str) -> String {
    let lines: Vec<&str> = text.trim_matches('\n').lines().filter(|line| !line.trim().is_empty()).collect();
    let margin = lines.iter().map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
    lines.iter().map(|line| &line[margin..]).collect::<Vec<_>>().join("\n")
}

impl Server {
    /// Checks out all connections of the server's pool.
    pub async fn hold_connections(&self) -> Vec<Connection> {
        let mut held = Vec::new();
        for _ in 0..self.config.database_connections {
            held.push(self.app_pool.acquire().await.unwrap());
        }
        held
    }

    /// The server's connection pool.
    pub fn app_pool(&self) -> Pool {
        self.app_pool.clone()
    }

    /// Closes the server's pool and the test's own pool.
    pub async fn close(&self) {
        self.app_pool.close().await;
        self.pool.close().await;
    }

    /// Serves on a free port until the runtime ends; returns the address.
    pub async fn listen(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = self.clone();
        tokio::spawn(async move { server.serve(listener, CancellationToken::new()).await });
        address
    }

    /// Serves until `stop` is cancelled.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let connections_max = listener::connection_limit(&self.config, 0);
        listener::serve(listener, self.router, &self.config, connections_max, stop).await;
    }

    /// Sends a POST with a form.
    pub async fn post(&self, operation: &str, form: &str) -> Reply {
        self.send(
            Request::post(format!("/billing/api/{operation}"))
                .header("content-type", "application/x-www-form-urlencoded")
                .body(Body::from(form.to_owned())),
        )
        .await
    }

    /// Sends a GET.
    pub async fn get(&self, path_and_query: &str) -> Reply {
        self.send(Request::get(path_and_query).body(Body::empty())).await
    }

    /// Sends a POST with a form and the hash of the values `hashed` with the admin's key.
    pub async fn post_signed(&self, operation: &str, form: &str, hashed: &str) -> Reply {
        self.post(operation, &format!("{form}&hash={}", hash(hashed, "secret"))).await
    }

    /// Sends a request to the router.
    pub async fn send(&self, request: axum::http::Result<Request<Body>>) -> Reply {
        let mut request = request.unwrap();
        request.headers_mut().entry("host").or_insert("shop.test".parse().unwrap());
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 7], 4711))));
        let method = request.method().clone();
        let response = with_timeout("a reply", self.router.clone().oneshot(request)).await.unwrap();
        let (mut parts, body) = response.into_parts();
        if let Some(length) = body.size_hint().exact() {
            // hyper would add this header, but the request does not pass through it.
            parts.headers.entry("content-length").or_insert(length.into());
        }
        let body = with_timeout("the end of a reply", axum::body::to_bytes(body, usize::MAX)).await.unwrap();
        assert!(method != Method::HEAD || body.is_empty());
        Reply::new(parts.status, parts.headers, body).unwrap()
    }

    /// Returns the page `/metrics`.
    pub async fn metrics(&self) -> String {
        let request = Request::get("/metrics").body(Body::empty()).unwrap();
        let body = self.monitoring.clone().oneshot(request).await.unwrap().into_body();
        String::from_utf8(axum::body::to_bytes(body, usize::MAX).await.unwrap().into()).unwrap()
    }

    /// Executes SQL statements.
    pub async fn execute(&self, statements: &str) {
        let statements = sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned()));
        with_timeout("the statements of the test", statements.execute(&self.pool)).await.unwrap();
    }

    /// Returns the rows of a query as `psql -At` prints them, with `∅` for null.
    pub async fn rows(&self, query: &str) -> Vec<String> {
        let query = format!(
            "select array_to_string(array(
                 select coalesce(value, '∅') from json_each_text(row_to_json(row)) with ordinality
                 as field (name, value, ordinal) order by ordinal
             ), '|') from ({query}) row"
        );
        with_timeout("rows", sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_all(&self.pool)).await.unwrap()
    }

    /// Repeats a query until `condition` holds for its rows.
    pub async fn wait_for_rows(&self, query: &str, condition: impl Fn(&[String]) -> bool) {
        let repeat = async {
            while !condition(&self.rows(query).await) {
                tokio::task::yield_now().await;
            }
        };
        with_timeout(query, repeat).await;
    }

    /// Returns the plan of the program's shortest statement that contains all `parts`, executed with `values`.
    pub async fn query_plan(&self, parts: &[&str], plan_cache_mode: &str, values: &[&str]) -> String {
        let query_files = Path::new(env!("CARGO_MANIFEST_DIR")).join(".sqlx");
        let queries = std::fs::read_dir(query_files).unwrap().filter_map(|file| {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let query = serde_json::from_str::<serde_json::Value>(&text).unwrap()["query"].as_str().unwrap().to_owned();
            parts.iter().all(|part| query.contains(part)).then_some(query)
        });
        let query = queries.min_by_key(String::len).unwrap();
        let mut connection = self.pool.acquire().await.unwrap();
        let prepare = format!("set plan_cache_mode = {plan_cache_mode}; prepare statement as {query}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(prepare)).execute(&mut *connection).await.unwrap();
        let explain = format!("explain (costs off) execute statement ({})", values.join(", "));
        let lines = sqlx::raw_sql(sqlx::AssertSqlSafe(explain)).fetch_all(&mut *connection).await.unwrap();
        connection.close_on_drop();
        lines.iter().map(|line| line.get::<String, _>(0)).collect::<Vec<_>>().join("\n")
    }

    /// Waits until a session waits for a lock in the database.
    pub async fn wait_for_lock_waiter(&self) {
        let lock_waiters =
            "select pid from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
        self.wait_for_rows(lock_waiters, |waiters| !waiters.is_empty()).await;
    }

    /// Terminates the sessions that wait for a lock in the database.
    pub async fn terminate_lock_waiters(&self) {
        self.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where wait_event_type = 'Lock' and datname = current_database()",
        )
        .await;
    }

    /// Asserts the rows of a query, in the format of [`rows`](Self::rows).
    #[track_caller]
    pub fn assert_rows<'a>(&'a self, query: &'a str, expected: &'a [&'a str]) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move { assert_eq!(self.rows(query).await, expected, "{query}\nat {caller}") }
    }
}

/// The request hash: SHA-1 of the values, followed by the key, in hexadecimal.
pub fn hash(values: &str, key: &str) -> String {
    hex::encode(Sha1::digest(format!("{values}{key}")))
}
