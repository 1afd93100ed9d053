//! Sessions: their cookie, and when they end.

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use mortise::console::access::Role;
use mortise::console::{accounts, session};
use mortise::store::change_log::Author;
use sha2::{Digest, Sha256};

use super::{Client, ConsoleServer, ORIGIN, PASSWORD, SECURE_ORIGIN, console, console_with_settings, current_code};
use crate::harness::with_timeout;

/// Whether the client's session is open.
async fn is_open(client: &Client) -> bool {
    let page = client.get("/account").await;
    assert!(page.status == 200 || page.location.as_deref() == Some("/login?next=%2Faccount"), "{}", page.text());
    page.status == 200
}

async fn move_back(console: &ConsoleServer, column: &str, minutes: u32) {
    let update = format!("update console_sessions set {column} = {column} - interval '{minutes} minutes'");
    console.server.execute(&update).await;
}

/// The cookie of an attacker is never taken over: a login creates a new secret.
#[tokio::test]
async fn a_given_cookie_is_not_taken_over() {
    let console = console().await;
    let attacker = console.log_in(Role::Support).await;
    let login = console.create_account(Role::Support, None, false).await;
    let planted = [format!("mortise={}", "0".repeat(64)), attacker.cookie.clone().unwrap()];
    for cookie in planted {
        let victim = Client { cookie: Some(cookie.clone()), ..console.client() };
        // A browser that has the attacker's session logs in nevertheless.
        let page = victim.post_plain("/login", &[("name", &login.name), ("password", PASSWORD)]).await;
        assert_eq!(page.status, 303);
        assert_ne!(page.cookie(), cookie);
        let page = Client { cookie: Some(cookie), ..console.client() }.get("/account").await;
        page.assert_lacks(&login.name);
    }
    // The session of the cookie that the browser had has ended.
    let accounts = "select count(distinct secret_sha256) from console_sessions";
    console.server.assert_rows(accounts, &["2"]).await;
    assert!(!is_open(&attacker).await);
}

/// The database has only the hash of the secret, and the secret only 256 random bits.
#[tokio::test]
async fn the_database_has_a_hash_of_the_secret() {
    let console = console().await;
    let client = console.log_in(Role::ReadOnly).await;
    let secret = client.cookie.as_deref().unwrap().strip_prefix("mortise=").unwrap();
    assert_eq!((secret.len(), hex::decode(secret).unwrap().len()), (64, 32));
    let stored = hex::encode(Sha256::digest(secret));
    console.server.assert_rows("select encode(secret_sha256, 'hex') from console_sessions", &[&stored]).await;
    // What the database has does not open the session.
    let thief = Client { cookie: Some(format!("mortise={stored}")), ..console.client() };
    assert!(!is_open(&thief).await);
}

#[tokio::test]
async fn the_cookie_is_for_the_console_only() {
    let console = console().await;
    let login = console.create_account(Role::Support, None, false).await;
    let fields = [("name", login.name.as_str()), ("password", PASSWORD)];
    let page = console.client().post_plain("/login", &fields).await;
    let (pair, attributes) = page.header("set-cookie").unwrap().split_once("; ").unwrap();
    assert!(pair.starts_with("mortise="), "{pair}");
    assert_eq!(sorted(attributes), ["HttpOnly", "Path=/", "SameSite=Strict"]);

    let console = console_with_settings(&[("console_url", SECURE_ORIGIN)]).await;
    let login = console.create_account(Role::Support, None, false).await;
    let page = console.client().post_plain("/login", &[("name", &login.name), ("password", PASSWORD)]).await;
    let (pair, attributes) = page.header("set-cookie").unwrap().split_once("; ").unwrap();
    let secret = pair.strip_prefix("__Host-mortise=").unwrap();
    assert_eq!(sorted(attributes), ["HttpOnly", "Path=/", "SameSite=Strict", "Secure"]);
    // A cookie of the other name, which a page of another subdomain could set, is ignored.
    let client = Client { cookie: Some(format!("mortise={secret}")), ..console.client() };
    assert!(!is_open(&client).await);
    let client = Client { cookie: Some(pair.to_owned()), ..console.client() };
    assert!(is_open(&client).await);
}

fn sorted(attributes: &str) -> Vec<&str> {
    let mut attributes: Vec<_> = attributes.split("; ").collect();
    attributes.sort_unstable();
    attributes
}

/// A stolen cookie is worth nothing after the logout, and the reply deletes the cookie in the browser.
#[tokio::test]
async fn a_logout_ends_the_session() {
    let console = console().await;
    let client = console.log_in(Role::Support).await;
    let other = console.log_in_as(client.login()).await;
    let thief = client.clone();
    let page = client.post("/logout", &[]).await;
    assert_eq!((page.status.as_u16(), page.location.as_deref()), (303, Some("/login")));
    let cookie = page.header("set-cookie").unwrap();
    assert!(cookie.starts_with("mortise=; ") && cookie.contains("Max-Age=0"), "{cookie}");
    assert!(!is_open(&thief).await);
    assert_eq!(thief.post("/account/password", &[]).await.location.as_deref(), Some("/login"));
    assert!(is_open(&other).await);
}

#[tokio::test]
async fn sessions_are_listed_and_ended() {
    let console = console().await;
    let client = console.log_in(Role::Support).await;
    let phone = console.log_in_as(client.login()).await;
    let stranger = console.log_in(Role::Support).await;
    let id = async |client: &Client| {
        let page = client.get("/account").await;
        page.assert_contains("A browser of the test this session");
        let name = &client.login().name;
        let ids = format!(
            "select s.id from console_sessions s join console_accounts a on a.id = account_id where name = '{name}'
             order by s.id"
        );
        console.server.rows(&ids).await
    };
    let (own, foreign) = (id(&client).await, id(&stranger).await);
    let page = client.post(&format!("/account/sessions/{}/end", foreign[0]), &[]).await;
    assert_eq!(page.status, 404);
    page.assert_contains("There is no such session of yours.");
    assert!(is_open(&stranger).await);
    client.submit(&format!("/account/sessions/{}/end", own[1]), &[]).await.assert_contains("The session has ended.");
    assert!(!is_open(&phone).await && is_open(&client).await);
    let change = "select who, before, after from change_log where what = 'console_account' order by id desc limit 1";
    let row = "support 0|{\"session_from\": \"192.0.2.7\"}|{\"session_from\": null}";
    console.server.assert_rows(change, &[row]).await;
}

#[tokio::test]
async fn a_new_password_ends_the_other_sessions() {
    let console = console().await;
    let client = console.log_in(Role::Admin).await;
    let thief = console.log_in_as(client.login()).await;
    let stranger = console.log_in(Role::Support).await;
    let new = "a new password, longer";
    let change = async |old: &str, password: &str, repeated: &str| {
        let fields = [("old_password", old), ("password", password), ("repeated", repeated)];
        client.post("/account/password", &fields).await
    };
    change("wrong", new, new).await.assert_contains("The password is wrong.");
    // A code of the second factor is not the password.
    change(&current_code(), new, new).await.assert_contains("The password is wrong.");
    change(PASSWORD, new, "another").await.assert_contains("The two new passwords differ.");
    change(PASSWORD, "elevenchars", "elevenchars").await.assert_contains("fewer than 12 characters");
    assert!(is_open(&thief).await);
    assert_eq!(change(PASSWORD, new, new).await.status, 303);
    assert!(!is_open(&thief).await && is_open(&client).await && is_open(&stranger).await);
    let log = "select before, after from change_log order by id desc limit 1";
    let rows = console.server.rows(log).await;
    assert!(!rows[0].contains("argon2id"), "{rows:?}");
    let login = [("name", client.login().name.as_str()), ("password", PASSWORD), ("code", &current_code())];
    assert_eq!(console.client().post_plain("/login", &login).await.status, 401);
}

/// A double click changes the password once: the second request does not need the old password.
#[tokio::test]
async fn a_double_click_changes_the_password_once() {
    let console = console().await;
    let client = console.log_in(Role::Support).await;
    let (new, once) = ("a new password, longer", super::random_id());
    let fields =
        [("old_password", PASSWORD), ("password", new), ("repeated", new), ("token", &client.token), ("once", &once)];
    let send = || client.post_plain("/account/password", &fields);
    let (first, second) = tokio::join!(send(), send());
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (303, 303), "{} {}", first.text(), second.text());
    assert_eq!(first.location, second.location);
    let changes = "select count(*) from change_log where who like '%support%'";
    console.server.assert_rows(changes, &["1"]).await;
}

/// A password that is replaced while its login is checked opens no session: the change would not end it.
#[tokio::test]
async fn a_login_with_a_replaced_secret_opens_no_session() {
    let console = console().await;
    let changes = [
        "update console_accounts set password_argon2 = 'another' where id = $1",
        "update console_accounts set totp_secret = 'another' where id = $1",
        "update console_accounts set blocked_at = now() where id = $1",
    ];
    for change in changes {
        let login = console.create_account(Role::Admin, None, false).await;
        let mut connection = console.server.pool.acquire().await.unwrap();
        let account = accounts::load(&mut connection, login.id).await.unwrap().unwrap();
        let client = [192, 0, 2, 7].into();
        let headers = HeaderMap::new();
        // The change is not committed yet: the login waits for its end.
        let mut transaction = console.server.pool.begin().await.unwrap();
        sqlx::query(change).bind(login.id).execute(&mut *transaction).await.unwrap();
        let start = session::start(&console.console, &mut connection, &account, client, &headers);
        let commit = async {
            console.server.wait_for_lock_waiter().await;
            transaction.commit().await.unwrap();
        };
        let (started, ()) = tokio::join!(with_timeout("the login", start), commit);
        assert!(started.unwrap().is_none(), "{change}");
    }
    console.server.assert_rows("select id from console_sessions", &[]).await;
}

#[tokio::test]
async fn blocking_an_account_ends_its_sessions() {
    let console = console().await;
    let client = console.log_in(Role::Support).await;
    let other = console.log_in(Role::Support).await;
    let mut connection = console.server.pool.acquire().await.unwrap();
    let account = accounts::load(&mut connection, client.login().id).await.unwrap().unwrap();
    let author = Author::Command { operator: "root".to_owned() };
    account.set_blocked(&mut connection, true, &author).await.unwrap();
    assert!(!is_open(&client).await && is_open(&other).await);
    // Unblocked, it needs a new login.
    account.set_blocked(&mut connection, false, &author).await.unwrap();
    assert!(!is_open(&client).await);
    // A block that was written with SQL counts at once.
    console.server.execute("update console_accounts set blocked_at = now()").await;
    assert!(!is_open(&other).await);
}

#[tokio::test]
async fn a_session_ends_after_30_idle_minutes() {
    let console = console().await;
    let client = console.log_in(Role::Support).await;
    move_back(&console, "last_seen_at", 29).await;
    assert!(is_open(&client).await);
    // The request counts: the next 30 minutes have begun.
    move_back(&console, "last_seen_at", 29).await;
    assert!(is_open(&client).await);
    move_back(&console, "last_seen_at", 31).await;
    assert!(!is_open(&client).await && !is_open(&client).await);
    assert_eq!(client.post("/logout", &[]).await.location.as_deref(), Some("/login"));
}

/// The script loads the dashboard again each minute, also at an unattended computer.
#[tokio::test]
async fn a_page_that_loads_itself_again_is_no_use() {
    let console = console().await;
    let client = console.log_in(Role::Support).await;
    move_back(&console, "last_seen_at", 29).await;
    assert_eq!(client.get("/dashboard?auto=1").await.status, 200);
    move_back(&console, "last_seen_at", 2).await;
    // The next login does not lead to the request of the script.
    assert_eq!(client.get("/dashboard?auto=1").await.location.as_deref(), Some("/login"));
    let page = client.get("/login").await;
    let page = page.body.replace("&#x2f;", "/");
    let script = client.get(page.split('"').find(|text| text.ends_with(".js")).unwrap()).await.body;
    assert!(script.contains(r#"searchParams.set("auto", "1")"#) && !script.contains("location.reload"), "{script}");
}

/// The login leads to the page that was asked for, on this server only.
#[tokio::test]
async fn a_login_leads_to_the_page() {
    let console = console().await;
    let client = console.log_in(Role::Support).await;
    console.client().get("/login").await.assert_lacks("Your session has ended.");
    move_back(&console, "last_seen_at", 31).await;
    let page = client.get("/sales?from=2026-01-01&user=a%26b&done=x").await;
    let location = page.location.unwrap();
    assert_eq!(location, "/login?next=%2Fsales%3Ffrom%3D2026-01-01%26user%3Da%2526b");
    let page = client.get(&location).await;
    page.assert_contains("Your session has ended. Log in again.");
    let next = page.field_value("next");
    let log_in = async |password: &str, next: &str| {
        let fields = [("name", client.login().name.as_str()), ("password", password), ("next", next)];
        console.client().post_plain("/login", &fields).await
    };
    assert_eq!(log_in("wrong", &next).await.field_value("next"), next);
    assert_eq!(log_in(PASSWORD, &next).await.location.unwrap(), "/sales?from=2026-01-01&user=a%26b");
    // A form has no page to return to.
    assert_eq!(client.post("/cards/1/block", &[]).await.location.unwrap(), "/login");
    let foreign = [
        "//attacker.example",
        "https://attacker.example/",
        "/\\attacker.example",
        "/\t/attacker.example",
        "sales",
        "\\",
    ];
    for next in foreign {
        assert_eq!(log_in(PASSWORD, next).await.location.unwrap(), "/dashboard", "{next}");
    }
    let opened = console.log_in(Role::Support).await;
    assert_eq!(opened.get("/login?next=//attacker.example").await.location.unwrap(), "/dashboard");
}

#[tokio::test]
async fn a_session_ends_after_12_hours() {
    let console = console().await;
    let client = console.log_in(Role::Support).await;
    move_back(&console, "created_at", 12 * 60 - 1).await;
    assert!(is_open(&client).await);
    move_back(&console, "created_at", 1).await;
    assert!(!is_open(&client).await);
    console.server.assert_rows("select count(*) from console_sessions", &["1"]).await;
    session::delete_ended(&mut console.server.pool.acquire().await.unwrap()).await.unwrap();
    console.server.assert_rows("select count(*) from console_sessions", &["0"]).await;
}

/// Neither in the path nor in the query of a request: it has a cookie, and the replies name no secret.
#[tokio::test]
async fn addresses_have_no_secret() {
    let console = console().await;
    let client = console.log_in(Role::Admin).await;
    let secret = client.cookie.clone().unwrap().split_once('=').unwrap().1.to_owned();
    let page = client.get("/account").await;
    let source = page.source();
    let addresses: Vec<&str> = source.split(['"', ' ']).filter(|text| text.starts_with('/')).collect();
    assert!(addresses.len() > 5, "{addresses:?}");
    for address in addresses {
        assert!(!address.contains(&secret) && !address.contains(&client.token), "{address}");
    }
    page.assert_secret(&secret);
    // The secret as a parameter does not open a page.
    for query in [format!("mortise={secret}"), format!("token={}", client.token)] {
        assert!(console.client().get(&format!("/account?{query}")).await.location.is_some());
    }
    let request =
        Request::get("/account").header("host", &ORIGIN[7..]).header("authorization", format!("Bearer {secret}"));
    let page = console.client().send_as_is(request.body(Body::empty()).unwrap()).await;
    assert_eq!(page.location.as_deref(), Some("/login?next=%2Faccount"));
}
