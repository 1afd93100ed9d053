//! Forms: no other site, no other session and no GET changes anything; each form is carried out once.

use axum::body::Body;
use axum::http::Request;
use mortise::console::access::Role;

use super::routes::{self, Kind};
use super::{ConsoleServer, SECURE_ORIGIN, console, console_with_settings, console_without_jobs, random_id};

const FOREIGN: &str = "The form is not of this session. Go back, load the page again, and repeat the change.";

/// A hash of the rows of all tables, without the times of the last requests.
async fn snapshot(console: &ConsoleServer) -> Vec<String> {
    let tables = "select table_name from information_schema.tables
        where table_schema = 'public' and table_type = 'BASE TABLE' order by 1";
    let mut hashes = Vec::new();
    for table in console.server.rows(tables).await {
        let row = if table == "console_sessions" { "(t.id, t.account_id)::text" } else { "t::text" };
        let hash = format!("select '{table}', md5(string_agg({row}, ' ' order by {row})) from \"{table}\" t");
        hashes.extend(console.server.rows(&hash).await);
    }
    assert!(hashes.len() > 20, "{hashes:?}");
    hashes
}

/// No page changes data, and no form is a page.
#[tokio::test]
async fn a_get_changes_nothing() {
    let console = console_without_jobs().await;
    let admin = console.log_in_with_pins(Role::Admin).await;
    let before = snapshot(&console).await;
    let pages: Vec<_> = routes::TABLE.iter().filter(|route| route.method() == "GET").collect();
    for route in routes::TABLE {
        let path = route.sample_path(Role::Admin);
        let is_page = pages.iter().any(|page| page.path == route.path);
        let separator = if path.contains('?') { '&' } else { '?' };
        let fields = format!("token={}&once={}&reason=x&id=1&confirm=x", admin.token, random_id());
        let query = format!("{path}{separator}{fields}");
        for address in [path, query] {
            let page = admin.get(&address).await;
            assert_eq!(page.status == 405, !is_page, "{address}: {} {}", page.status, page.text());
            assert!(!page.status.is_server_error(), "{address}: {}", page.text());
        }
    }
    assert_eq!(snapshot(&console).await, before);
}

/// Each form needs the token of its own session, and an id.
#[tokio::test]
async fn every_form_needs_the_token_of_its_session() {
    let console = console_without_jobs().await;
    let (admin, other) = (console.log_in_with_pins(Role::Admin).await, console.log_in_with_pins(Role::Admin).await);
    let same_account = console.log_in_as(admin.login()).await;
    let before = snapshot(&console).await;
    let (once, short) = (random_id(), "0".repeat(31));
    for route in routes::TABLE.iter().filter(|route| route.method() == "POST" && route.roles.is_some()) {
        let mut envelopes: Vec<Vec<(&str, &str)>> = vec![
            vec![],
            vec![("once", &once)],
            vec![("token", ""), ("once", &once)],
            vec![("token", &other.token), ("once", &once)],
            vec![("token", &same_account.token), ("once", &once)],
            vec![("token", &admin.token)],
            vec![("token", &admin.token), ("once", "")],
            vec![("token", &admin.token), ("once", &short)],
            vec![("token", &admin.token), ("once", "' or true or ' = '0000000000000000")],
        ];
        for envelope in &mut envelopes {
            envelope.extend(route.fields());
            let page = match route.kind {
                Kind::Upload => admin.post_multipart(&route.sample_path(Role::Admin), envelope, None).await,
                _ => admin.post_plain(&route.sample_path(Role::Admin), envelope).await,
            };
            assert_eq!(page.status, 403, "{} {envelope:?}: {}", route.path, page.text());
            page.assert_contains(FOREIGN);
        }
    }
    assert_eq!(snapshot(&console).await, before);
}

/// A page of another site cannot send forms, also with a token that it got somehow.
#[tokio::test]
async fn a_foreign_origin_is_refused() {
    let secure = console_with_settings(&[("console_url", SECURE_ORIGIN)]).await;
    for console in [console().await, secure] {
        let client = console.log_in(Role::Support).await;
        let send = async |path: &str, headers: &[(&str, &str)]| {
            let body = format!("token={}&once={}&name=a&password=b&key=c", client.token, random_id());
            let mut request = Request::post(path)
                .header("content-type", "application/x-www-form-urlencoded")
                .header("host", client.origin.split_once("://").unwrap().1)
                .header("cookie", client.cookie.as_deref().unwrap());
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            client.send_as_is(request.body(Body::from(body)).unwrap()).await
        };
        let own = client.origin.as_str();
        let foreign: [&[(&str, &str)]; 7] = [
            &[("origin", "https://attacker.example")],
            &[("origin", "null")],
            &[("origin", "https://console.example.com.attacker.example")],
            &[("origin", "http://127.0.0.1:8080")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[("origin", "https://attacker.example"), ("sec-fetch-site", "cross-site")],
        ];
        for path in ["/logout", "/login", "/demo", "/account/password"] {
            for headers in foreign {
                assert_eq!(send(path, headers).await.status, 403, "{path} {headers:?}");
            }
        }
        assert_eq!(client.get("/account").await.status, 200);
        let page = send("/logout", &[("origin", own), ("sec-fetch-site", "same-origin")]).await;
        assert_eq!(page.status, 303, "{}", page.text());
    }
}

/// The second request of a double click gets the page of the first, and does not need another code.
#[tokio::test]
async fn a_form_is_carried_out_once() {
    let console = console().await;
    let admin = console.log_in(Role::Admin).await;
    let (once, confirm) = (random_id(), admin.confirmation().await);
    let fields = [("token", admin.token.as_str()), ("once", &once), ("confirm", &confirm)];
    let send = || admin.post_plain("/account/second-factor/new", &fields);
    let (first, second) = tokio::join!(send(), send());
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (303, 303), "{} {}", first.text(), second.text());
    assert_eq!(first.location, second.location);
    assert_eq!(send().await.location, first.location);
    let changes = "select count(*) from change_log where who like '%admin 0%'";
    console.server.assert_rows(changes, &["1"]).await;
    // The id of another account's form is refused: its message is not shown.
    let other = console.log_in(Role::Support).await;
    let page = other.post_plain("/account/second-factor/new", &[("token", &other.token), ("once", &once)]).await;
    page.assert_contains(FOREIGN);
    let page = other.get(first.location.as_deref().unwrap()).await;
    page.assert_lacks("Scan the code, and enter");
}

/// A form that was refused can be sent again.
#[tokio::test]
async fn a_refused_form_is_not_spent() {
    let console = console().await;
    let client = console.log_in(Role::Support).await;
    let once = random_id();
    let send = async |confirm: &str| {
        let fields = [("token", client.token.as_str()), ("once", &once), ("confirm", confirm)];
        client.post_plain("/account/second-factor/new", &fields).await
    };
    send("wrong").await.assert_contains("The password is wrong.");
    console.server.assert_rows("select id from console_submissions", &[]).await;
    assert_eq!(send(super::PASSWORD).await.status, 303);
}

/// A null character, which PostgreSQL refuses, is a fault of the request.
#[tokio::test]
async fn a_null_character_is_malformed() {
    let console = console().await;
    let client = console.log_in(Role::Support).await;
    assert_eq!(client.post("/account/second-factor", &[("code", "a\0b")]).await.status, 400);
    for path in ["/account?done=%00", "/account?done=a&done=b", "/account/sessions/x/end"] {
        assert!(!client.get(path).await.status.is_server_error(), "{path}");
    }
}

/// More double clicks than the console has connections do not stop it.
#[tokio::test]
async fn many_confirmed_forms_at_a_time() {
    let console = console().await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(console.log_in(Role::Admin).await);
    }
    let forms = clients.iter().map(|client| client.post_confirmed("/account/second-factor/new", &[]));
    for page in futures_util::future::join_all(forms).await {
        assert_eq!(page.status, 303, "{}", page.text());
    }
}

/// Void, reissue, PINs, keys and exports ask again: a code of the second factor where there is one, else the password.
#[tokio::test]
async fn dangerous_forms_ask_again() {
    let console = console_without_jobs().await;
    let words = ["void", "reissue", "pin", "key", "export"];
    for route in routes::TABLE.iter().filter(|route| route.method() == "POST" && route.roles.is_some()) {
        let is_dangerous = route.path.split(['/', '-']).any(|word| words.contains(&word.trim_end_matches('s')));
        let is_confirmed = matches!(route.kind, Kind::Confirmed(_));
        assert!(is_confirmed || !is_dangerous, "{} does not ask again", route.path);
        if !is_confirmed {
            continue;
        }
        let (admin, admin_without) = (
            console.log_in_with_pins(Role::Admin).await,
            // The account of the demo has no second factor.
            console.log_in_as(&console.create_account_with(Role::Support, None, true, None).await).await,
        );
        let spent = admin.confirmation().await;
        let before = snapshot(&console).await;
        for confirm in ["", "wrong", super::PASSWORD] {
            let fields = [&[("confirm", confirm)], route.fields().as_slice()].concat();
            let page = admin.post(&route.sample_path(Role::Admin), &fields).await;
            assert_eq!(page.status, 422, "{}: {}", route.path, page.text());
            page.assert_contains("The code is wrong, or it was used already.");
        }
        if route.allows(Role::Support) {
            let fields = [&[("confirm", spent.as_str())], route.fields().as_slice()].concat();
            let page = admin_without.post(&route.sample_path(Role::Admin), &fields).await;
            assert_eq!(page.status, 422, "{}: {}", route.path, page.text());
            page.assert_contains("The password is wrong.");
        }
        assert_eq!(snapshot(&console).await, before, "{}", route.path);
    }
}

/// What the framework refuses is a page too: no text for developers.
#[tokio::test]
async fn malformed_requests_are_answered_with_a_page() {
    let console = console().await;
    let admin = console.log_in(Role::Admin).await;
    for path in ["/batches/batch", "/groups/x", "/users/x", "/changes?before=x"] {
        let page = admin.get(path).await;
        assert!(page.status.is_client_error(), "{path}: {}", page.status);
        assert!(page.body.contains("<h1>"), "{path}: {}", page.body);
        page.assert_lacks("deserialize");
    }
    let page = console.client().post_plain("/login", &[("name", "a")]).await;
    page.assert_contains("The request cannot be read");
}
