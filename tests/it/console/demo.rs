//! The link of `serve --demo`, and the addresses on which the console may listen.

use std::process::{Command, Stdio};
use std::time::Duration;

use mortise::console::access::Role;
use mortise::db::seed;

use super::{Client, ConsoleServer, Page, SECURE_ORIGIN, console, console_with_settings};
use crate::harness::program::Program;
use crate::harness::{FIXTURE_SQL, postgres};

const SPENT: &str = "This link was used already, or it is older than ten minutes.";

/// Makes the database the demo's: it has the demo's key.
async fn add_demo_key(console: &ConsoleServer) {
    let insert = "insert into conflines (name, value, owner_id) values ('API_Secret_Key_Previous', $1, 0)";
    sqlx::query(insert).bind(seed::DEMO_KEY).execute(&console.server.pool).await.unwrap();
}

async fn demo_console() -> (ConsoleServer, String) {
    let console = console().await;
    add_demo_key(&console).await;
    let link = console.console.create_demo_link().await.unwrap().unwrap();
    (console, link)
}

async fn open(client: &Client, link: &str) -> Page {
    client.post_plain("/demo", &[("key", link.strip_prefix("/demo?key=").unwrap())]).await
}

/// Only the clock of the test's runtime.
async fn advance_clock(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

/// A program that fetches links in advance does not spend it; the button does, once.
#[tokio::test]
async fn the_link_opens_the_console_once() {
    let (console, link) = demo_console().await;
    let client = console.client();
    for _ in 0..2 {
        client.get(&link).await.assert_contains("Open the console");
    }
    client.get("/demo?key=wrong").await.assert_contains(SPENT);
    client.get("/demo").await.assert_contains(SPENT);
    open(&client, "/demo?key=wrong").await.assert_contains(SPENT);
    open(&client, "/demo?key=").await.assert_contains(SPENT);
    let page = open(&client, &link).await;
    assert_eq!((page.status.as_u16(), page.location.as_deref()), (303, Some("/dashboard")));
    let visitor = Client { cookie: Some(page.cookie()), ..console.client() };
    visitor.get("/account").await.assert_contains("You are demo, with the role admin.");
    client.get(&link).await.assert_contains(SPENT);
    open(&client, &link).await.assert_contains(SPENT);
    console.server.assert_rows("select count(*) from console_sessions", &["1"]).await;
}

#[tokio::test]
async fn the_link_is_valid_for_ten_minutes() {
    let (console, link) = demo_console().await;
    let client = console.client();
    advance_clock(595).await;
    client.get(&link).await.assert_contains("Open the console");
    advance_clock(6).await;
    client.get(&link).await.assert_contains(SPENT);
    open(&client, &link).await.assert_contains(SPENT);
}

/// The account of the demo has a public password: it opens nothing unless the server runs the demo.
#[tokio::test]
async fn the_account_of_the_demo_needs_the_demo() {
    let (console, link) = demo_console().await;
    let page = open(&console.client(), &link).await;
    let login = [("name", "demo"), ("password", mortise::console::demo::PASSWORD)];
    assert_eq!(console.client().post_plain("/login", &login).await.status, 303);
    // The same database, without the demo.
    let published = ConsoleServer::new(console.server.clone());
    assert_eq!(published.client().post_plain("/login", &login).await.status, 401);
    let visitor = Client { cookie: Some(page.cookie()), ..published.client() };
    assert_eq!(visitor.get("/account").await.location.as_deref(), Some("/login?next=%2Faccount"));
    // The page that names the password exists in the demo only.
    for page in [open(&published.client(), &link).await, published.client().get(&link).await] {
        assert_eq!(page.status, 404);
        page.assert_secret(mortise::console::demo::PASSWORD);
    }
}

/// Behind a proxy other machines reach the console, although it listens on loopback.
#[tokio::test]
async fn a_published_console_has_no_link() {
    let console = console_with_settings(&[("console_url", SECURE_ORIGIN)]).await;
    add_demo_key(&console).await;
    assert_eq!(console.console.create_demo_link().await.unwrap(), None);
    console.server.assert_rows("select name from console_accounts", &[]).await;
    assert_eq!(console.client().get("/demo").await.status, 404);
}

/// In a database with other data there is no link, and no account with a public password.
#[tokio::test]
async fn other_data_have_no_link() {
    let console = console().await;
    assert_eq!(console.console.create_demo_link().await.unwrap(), None);
    console.server.assert_rows("select name from console_accounts", &[]).await;
    // An account with the name that is an operator's own.
    add_demo_key(&console).await;
    console.create_account(Role::Support, None, false).await;
    console.server.execute("update console_accounts set name = 'Demo'").await;
    assert_eq!(console.console.create_demo_link().await.unwrap(), None);
}

/// Runs a server that must not start; returns its messages.
async fn refused_start(arguments: &[&str], settings: &[(&str, &str)]) -> String {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let mut command: Command = Program::command(&database, settings).await;
    command.args(arguments).stdout(Stdio::piped());
    let output = command.output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

/// Without `console_url` there is no TLS, so the console is on loopback only.
#[tokio::test]
async fn the_start_is_refused_without_console_url() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:3001"] {
        let messages = refused_start(&[], &[("console_listen", address)]).await;
        assert!(messages.contains("can be reached from other machines: set console_url"), "{messages}");
    }
    for url in ["http://console.example.com", "https://console.example.com/path", "console.example.com", "https://a@b"]
    {
        let messages = refused_start(&[], &[("console_listen", "127.0.0.1:0"), ("console_url", url)]).await;
        assert!(messages.contains("it must look like https://console.example.com"), "{url}: {messages}");
    }
}

/// A template of the operator that cannot be read stops the start, which names it.
#[tokio::test]
async fn the_start_is_refused_with_an_invalid_template() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("login.html"), "{% if %}").unwrap();
    let templates = directory.path().to_str().unwrap();
    let settings = [("console_listen", "127.0.0.1:0"), ("console_templates", templates)];
    let messages = refused_start(&[], &settings).await;
    assert!(messages.contains("console_templates: the template login.html is invalid"), "{messages}");
}
