//! Clients that send slowly or never, and replies whose outcome is unknown.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use futures_util::{StreamExt, stream};
use mortise::console::access::Role;

use super::{ConsoleServer, PASSWORD, Page, console, console_with_settings};
use crate::harness::program::Program;
use crate::harness::{FIXTURE_SQL, postgres};

/// The beginning of a form with a file, and then a byte at a time, for ever.
fn trickle(beginning: String) -> Body {
    let pause = Duration::from_millis(150);
    let bytes = stream::unfold((), move |()| async move {
        tokio::time::sleep(pause).await;
        Some(("x".to_owned(), ()))
    });
    Body::from_stream(stream::iter([beginning]).chain(bytes).map(Ok::<_, std::io::Error>))
}

/// A body that does not arrive within `body_timeout_ms` ends the request, with a session or without.
#[tokio::test]
async fn a_body_that_does_not_arrive_ends_the_request() {
    let console = console_with_settings(&[("body_timeout_ms", "600")]).await;
    let support = console.log_in(Role::Support).await;
    let form = "application/x-www-form-urlencoded";
    let file = format!(
        "--b\r\ncontent-disposition: form-data; name=\"token\"\r\n\r\n{}\r\n--b\r\n\
         content-disposition: form-data; name=\"file\"; filename=\"a.csv\"\r\n\r\nreference",
        support.token
    );
    for (path, content_type, beginning) in [
        ("/login", form, "name=a".to_owned()),
        ("/demo", form, "key=a".to_owned()),
        ("/account/password", form, format!("token={}&a=", support.token)),
        ("/sales/reconciliation", "multipart/form-data; boundary=b", file),
    ] {
        for body in [
            trickle(beginning.clone()),
            Body::from_stream(stream::iter([Ok::<_, std::io::Error>(beginning)]).chain(stream::pending())),
        ] {
            let request = Request::post(path).header("content-type", content_type).body(body).unwrap();
            let page = support.send(request).await;
            assert_eq!(page.status, 408, "{path}: {}", page.text());
            page.assert_contains("The form did not arrive completely. Check your connection, and send it again.");
        }
    }
}

/// A flood of connections to the console leaves the API its own.
#[tokio::test]
async fn the_console_has_a_limit_of_connections() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let program = Program::start_on_database(&database, &[("console_listen", "127.0.0.1:0")]).await;
    let address = program.startup_output.split("console at http://").nth(1).unwrap().split('/').next().unwrap();
    let connections: Vec<TcpStream> = (0..256).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut refused = TcpStream::connect(address).unwrap();
    refused.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut reply = String::new();
    refused.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
    let mut api = TcpStream::connect(program.address.to_string()).unwrap();
    api.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    api.write_all(b"GET /api/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    api.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 ") && !reply.starts_with("HTTP/1.1 503 "), "{reply}");
    drop(connections);
    program.stop();
}

/// Changes the password while `lock` is held, and loses the connection that waits for it.
async fn change_password_and_lose(console: &ConsoleServer, lock: &'static str) -> Page {
    let support = console.log_in(Role::Support).await;
    let mut transaction = console.server.pool.begin().await.unwrap();
    sqlx::query(lock).execute(&mut *transaction).await.unwrap();
    let new = "another password, quite long";
    let fields = [("old_password", PASSWORD), ("password", new), ("repeated", new)];
    let lose = async {
        console.server.wait_for_lock_waiter().await;
        console.server.terminate_lock_waiters().await;
    };
    let (page, ()) = tokio::join!(support.post("/account/password", &fields), lose);
    assert_eq!(page.status, 503);
    transaction.rollback().await.unwrap();
    page
}

/// The connection to the database was lost during the commit: the page does not say that nothing was changed.
#[tokio::test]
async fn an_unknown_outcome_is_named() {
    let console = console().await;
    // The commit waits for a lock.
    let hold = "create function hold() returns trigger language plpgsql as 'begin perform pg_advisory_xact_lock(7); return null; end';
        create constraint trigger hold after update on console_submissions deferrable initially deferred
            for each row execute function hold()";
    console.server.execute(hold).await;
    let page = change_password_and_lose(&console, "select pg_advisory_xact_lock(7)").await;
    page.assert_contains("It is not known whether the change was made. Look before you repeat it");
    page.assert_lacks("Nothing was changed");
}

/// The connection was lost before the commit.
#[tokio::test]
async fn an_interrupted_change_is_not_made() {
    let console = console().await;
    let page = change_password_and_lose(&console, "select id from console_accounts for update").await;
    page.assert_contains("Nothing was changed");
    page.assert_lacks("It is not known");
}

/// The change was made, but a template of the operator cannot show the page that follows.
#[tokio::test]
async fn a_page_that_cannot_be_shown_does_not_deny_the_change() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("codes.html"), "{{ codes.missing.value }}").unwrap();
    let console = console_with_settings(&[("console_templates", directory.path().to_str().unwrap())]).await;
    let admin = console.log_in(Role::Admin).await;
    let page = admin.post_confirmed("/account/recovery-codes", &[]).await;
    assert_eq!(page.status, 500, "{}", page.text());
    page.assert_contains("It is not known whether the change was made.");
    console.server.assert_rows("select count(*) from console_recovery_codes", &["10"]).await;
}
