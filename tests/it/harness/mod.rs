//! What tests need: a database each, a server on it, requests as a client writes them, replies as a client reads them.

pub mod log;
pub mod postgres;
pub mod process;
pub mod program;
pub mod proxy;
pub mod secrets;
pub mod smtp;
pub mod xml;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
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
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

/// The world that most tests live in.
pub const FIXTURE_SQL: &str = include_str!("world.sql");

/// A server on a database of its own.
#[derive(Clone)]
pub struct Server {
    /// The test's own connections to the database.
    pub pool: PgPool,
    app_pool: Pool,
    pub router: BoxCloneSyncService<Request<Body>, Response, Infallible>,
    /// What those get who watch.
    pub monitoring: Router,
    pub config: Config,
}

/// What a loop waits for comes, or the test ends: it asks for something that may never be.
pub async fn with_timeout<T>(waited_for: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(300), work).await.unwrap_or_else(|_| panic!("in vain: {waited_for}"))
}

/// A server in the world of `world.sql`, with every setting at its default but the cache.
pub async fn server() -> Server {
    server_with_settings(&[]).await
}

/// The same in the dialect of the servers in the field.
pub async fn x7_server() -> Server {
    server_with_settings(&[("dialect", "x7")]).await
}

/// The same with other settings. A busy machine gets time for the database, unless they say how much.
pub async fn server_with_settings(settings: &[(&str, &str)]) -> Server {
    let database = postgres::create_database(FIXTURE_SQL).await;
    server_on_database(&database, settings).await
}

/// A server on a database that exists.
pub async fn server_on_database(database: &str, settings: &[(&str, &str)]) -> Server {
    server_with_connect_options(postgres::connect_options(database).await, settings).await
}

/// A server that reaches its database by these options.
pub async fn server_with_connect_options(database: PgConnectOptions, settings: &[(&str, &str)]) -> Server {
    let (server, app) = parts(database, settings).await;
    tokio::spawn(async move { jobs::run_background_tasks(&app).await });
    server
}

/// A server on a database that exists, without what else runs beside it: it sends no e-mails.
pub async fn server_without_jobs(database: &str, settings: &[(&str, &str)]) -> Server {
    parts(postgres::connect_options(database).await, settings).await.0
}

async fn parts(database: PgConnectOptions, settings: &[(&str, &str)]) -> (Server, Arc<AppState>) {
    let usual = [("cache", "off"), ("database_connections", "4"), ("database_acquire_timeout_ms", "60000")];
    let settings = [&usual, settings].concat();
    let options: Vec<_> = settings.iter().map(|(name, value)| Override::new(name, value, "the test")).collect();
    let config = Config::load(None, std::iter::empty(), &options).unwrap();
    let requests = mortise::db::connect(database, &config).await.unwrap();
    let pool =
        PgPoolOptions::new().connect_lazy_with(requests.connect_options().as_ref().clone().application_name("a test"));
    let requests = Pool::from(requests);
    let (app, audit) = server::build_app_state(config.clone(), requests.clone()).unwrap();
    tokio::spawn(audit);
    let (watch, router) =
        (monitoring::router(app.clone()), BoxCloneSyncService::new(api_router::build_service(app.clone())));
    let server = Server { pool, app_pool: requests, router, monitoring: watch, config };
    (server, app)
}

/// A reply, as a client gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Reply {
    /// The reply's document must be this one. Indentation and the declaration are added here, so that tests stay readable:
    /// the exact bytes are compared.
    #[track_caller]
    pub fn assert_body(&self, body: &str) {
        let expected = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}\n", unindented(body));
        assert_eq!(self.body, expected, "status {}", self.status);
    }

    /// The reply must be a refusal that is the whole document.
    #[track_caller]
    pub fn assert_status_error(&self, words: &str) {
        self.assert_body(&format!("<status>\n  <error>{words}</error>\n</status>"));
    }

    /// The reply must be a refusal of the operation's own.
    #[track_caller]
    pub fn assert_page_error(&self, words: &str) {
        self.assert_body(&format!("<page>\n  <status>\n    <error>{words}</error>\n  </status>\n</page>"));
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The texts of all elements of that name.
    pub fn element_texts(&self, element: &str) -> Vec<&str> {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        self.body.split(open.as_str()).skip(1).map(|rest| rest.split(close.as_str()).next().unwrap()).collect()
    }
}

/// Takes off the indentation that a raw string has in a test.
fn unindented(text: &str) -> String {
    let lines: Vec<&str> = text.trim_matches('\n').lines().filter(|line| !line.trim().is_empty()).collect();
    let margin = lines.iter().map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
    lines.iter().map(|line| &line[margin..]).collect::<Vec<_>>().join("\n")
}

impl Server {
    /// Holds all connections that requests may have.
    pub async fn hold_connections(&self) -> Vec<Connection> {
        let mut held = Vec::new();
        for _ in 0..self.config.database_connections {
            held.push(self.app_pool.acquire().await.unwrap());
        }
        held
    }

    /// The connections that requests share.
    pub fn requests(&self) -> Pool {
        self.app_pool.clone()
    }

    /// Takes its database away, the test's own connections too.
    pub async fn close(&self) {
        self.app_pool.close().await;
        self.pool.close().await;
    }

    /// Serves on a port of the system's choice, for as long as the runtime lives.
    pub async fn listen(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = self.clone();
        tokio::spawn(async move { server.serve(listener, std::future::pending()).await });
        address
    }

    /// Serves until it is told to stop.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        listener::serve(listener, self.router, &self.config, stop).await;
    }

    /// POST with a form.
    pub async fn post(&self, operation: &str, form: &str) -> Reply {
        self.send(
            Request::post(format!("/billing/api/{operation}"))
                .header("content-type", "application/x-www-form-urlencoded")
                .body(Body::from(form.to_owned())),
        )
        .await
    }

    /// GET with a query string.
    pub async fn get(&self, path_and_query: &str) -> Reply {
        self.send(Request::get(path_and_query).body(Body::empty())).await
    }

    /// POST with a form, and the hash of what is given as hashed, with the admin's key.
    pub async fn post_signed(&self, operation: &str, form: &str, hashed: &str) -> Reply {
        self.post(operation, &format!("{form}&hash={}", hash(hashed, "secret"))).await
    }

    /// Any request.
    pub async fn send(&self, request: axum::http::Result<Request<Body>>) -> Reply {
        let mut request = request.unwrap();
        request.headers_mut().entry("host").or_insert("shop.test".parse().unwrap());
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 7], 4711))));
        let method = request.method().clone();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (mut parts, body) = response.into_parts();
        if let Some(length) = body.size_hint().exact() {
            // As hyper writes it, which isn't between us here.
            parts.headers.entry("content-length").or_insert(length.into());
        }
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        assert!(method != Method::HEAD || body.is_empty());
        Reply { status: parts.status, headers: parts.headers, body: String::from_utf8(body.into()).unwrap() }
    }

    /// The page that Prometheus reads.
    pub async fn metrics(&self) -> String {
        let request = Request::get("/metrics").body(Body::empty()).unwrap();
        let body = self.monitoring.clone().oneshot(request).await.unwrap().into_body();
        String::from_utf8(axum::body::to_bytes(body, usize::MAX).await.unwrap().into()).unwrap()
    }

    /// Runs statements.
    pub async fn execute(&self, statements: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned())).execute(&self.pool).await.unwrap();
    }

    /// The rows of a query, as `psql -At` would print them.
    pub async fn rows(&self, query: &str) -> Vec<String> {
        let query = format!(
            "select array_to_string(array(select coalesce(value, '∅') from json_each_text(row_to_json(row)) with ordinality
            as field (name, value, place) order by place), '|') from ({query}) row");
        sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_all(&self.pool).await.unwrap()
    }

    /// How the database would carry out the shortest statement of the program that contains `parts`.
    pub async fn query_plan(&self, parts: &[&str], plan_cache_mode: &str, values: &[&str]) -> String {
        let statements = Path::new(env!("CARGO_MANIFEST_DIR")).join(".sqlx");
        let queries = std::fs::read_dir(statements).unwrap().filter_map(|file| {
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

    /// Until a request waits for a lock in the database.
    pub async fn wait_for_lock_waiter(&self) {
        let waiting =
            "select pid from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
        while self.rows(waiting).await.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    /// Takes away the database connections of requests that wait for a lock.
    pub async fn terminate_lock_waiters(&self) {
        self.execute("select pg_terminate_backend(pid) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()")
            .await;
    }

    /// What the rows of a query must be.
    #[track_caller]
    pub fn assert_rows<'a>(&'a self, query: &'a str, expected: &'a [&'a str]) -> impl Future<Output = ()> + 'a {
        let at = std::panic::Location::caller();
        async move { assert_eq!(self.rows(query).await, expected, "{query}\nat {at}") }
    }
}

/// The request hash, as a client's script makes it.
pub fn hash(values: &str, key: &str) -> String {
    hex::encode(Sha1::digest(format!("{values}{key}")))
}
