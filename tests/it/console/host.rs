//! What every reply of the console has, and which hosts it answers.

use axum::body::Body;
use axum::http::Request;
use mortise::console::access::Role;

use super::{Page, SECURE_ORIGIN, console, console_with_settings};

const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

#[track_caller]
fn assert_headers(page: &Page, event: &str) {
    assert_eq!(page.header("content-security-policy"), Some(POLICY), "{event}");
    assert_eq!(page.headers.get_all("content-security-policy").iter().count(), 1, "{event}");
    assert_eq!(page.header("x-frame-options"), Some("DENY"), "{event}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"), "{event}");
    assert_eq!(page.header("referrer-policy"), Some("same-origin"), "{event}");
    assert!(page.header("permissions-policy").is_some(), "{event}");
    assert_eq!(page.header("cross-origin-opener-policy"), Some("same-origin"), "{event}");
    assert_eq!(page.header("cross-origin-resource-policy"), Some("same-origin"), "{event}");
    assert_eq!(page.header("access-control-allow-origin"), None, "{event}");
}

/// Pages, refusals and redirections: no other site may frame them, no cache may keep them, no foreign code runs.
#[tokio::test]
async fn every_reply_has_the_headers() {
    let console = console().await;
    let (client, admin) = (console.client(), console.log_in(Role::Admin).await);
    let (support, read_only) = (console.log_in(Role::Support).await, console.log_in(Role::ReadOnly).await);
    let foreign_host = Request::get("/login").header("host", "attacker.example").body(Body::empty()).unwrap();
    let foreign_origin =
        Request::post("/logout").header("origin", "https://attacker.example").body(Body::empty()).unwrap();
    let options = Request::options("/login").body(Body::empty()).unwrap();
    let too_long = [("name", "x".repeat(100_000))].map(|(name, value)| (name, value));
    let too_long = [(too_long[0].0, too_long[0].1.as_str())];
    let replies = [
        ("a page", client.get("/login").await, 200),
        ("a page of a session", admin.get("/account").await, 200),
        ("no session", client.get("/account").await, 303),
        ("no page", admin.get("/no-such-page").await, 404),
        ("no page for a client", client.get("/no-such-page").await, 404),
        ("a wrong method", admin.get("/logout").await, 405),
        ("another wrong method", client.send(options).await, 405),
        ("a wrong password", client.post_plain("/login", &[("name", "a"), ("password", "b")]).await, 401),
        ("a malformed form", client.post_plain("/login", &[]).await, 400),
        ("a wrong path", admin.get("/groups/x").await, 400),
        ("a wrong query", admin.get("/mail?after=x").await, 400),
        ("no file", client.get("/assets/x").await, 404),
        ("a long form", client.post_plain("/login", &too_long).await, 413),
        ("a foreign form", support.post_plain("/logout", &[]).await, 403),
        ("a refused form", support.post("/account/second-factor", &[("code", "1")]).await, 422),
        ("a foreign origin", admin.send(foreign_origin).await, 403),
        ("a foreign host", client.send(foreign_host).await, 421),
        ("a form", read_only.post("/logout", &[]).await, 303),
    ];
    for (event, page, status) in &replies {
        assert_eq!(page.status, *status, "{event}: {}", page.text());
        assert_headers(page, event);
        assert_eq!(page.header("cache-control"), Some("no-store"), "{event}");
        assert_eq!(page.header("strict-transport-security"), None, "{event}");
        // Refusals are pages too; another host gets no page of this one.
        let is_page = page.header("content-type") == Some("text/html; charset=utf-8") && page.body.contains("<h1>");
        assert_eq!(is_page, ![303, 421].contains(status), "{event}: {}", page.body);
    }
    // A page that only shows data does not speak of changes.
    for (event, page, status) in replies.iter().filter(|(.., status)| [400, 404, 422].contains(status)) {
        let is_form = [400, 422].contains(status) && event.contains("form");
        assert_eq!(page.text().contains("Nothing was changed."), is_form, "{event}: {}", page.text());
    }
}

/// Behind TLS, browsers never ask the host without TLS again.
#[tokio::test]
async fn a_published_console_is_used_with_tls_only() {
    let console = console_with_settings(&[("console_url", SECURE_ORIGIN)]).await;
    let (client, support) = (console.client(), console.log_in(Role::Support).await);
    for page in [client.get("/login").await, client.get("/account").await, support.get("/no-such-page").await] {
        assert_eq!(page.header("strict-transport-security"), Some("max-age=31536000"), "{}", page.status);
    }
}

/// The style sheet and the script have a hash of their content in their names: browsers keep them.
#[tokio::test]
async fn files_may_be_kept() {
    let console = console().await;
    let client = console.client();
    let source = client.get("/login").await.source();
    let files: Vec<&str> = source.split('"').filter(|text| text.starts_with("/assets/")).collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        let reply = client.get(file).await;
        assert_eq!((reply.status.as_u16(), reply.body.is_empty()), (200, false), "{file}");
        assert_headers(&reply, file);
        assert_eq!(reply.header("cache-control"), Some("public, max-age=31536000, immutable"), "{file}");
    }
    for path in ["/assets/style.css", "/assets/..%2f..%2fCargo.toml", "/assets/%2e%2e/style.css"] {
        let reply = client.get(path).await;
        assert_eq!(reply.status, 404, "{path}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
}

/// Pages have no inline code and no inline style: the policy would stop them.
#[tokio::test]
async fn pages_have_no_inline_code() {
    let console = console().await;
    let admin = console.log_in(Role::Admin).await;
    for path in ["/account", "/account/second-factor"] {
        let body = admin.get(path).await.body.to_lowercase();
        for code in
            [" style=", "<style", "<script>", "javascript:", " onclick", " onload", " onerror", "http://", "//cdn"]
        {
            let body = body.replace("http://www.w3.org/2000/svg", "");
            assert!(!body.contains(code), "{code} in {path}: {body}");
        }
    }
}

/// A browser sends another name if an attacker's name points to the address of the console (DNS rebinding).
#[tokio::test]
async fn other_hosts_are_refused() {
    let console = console().await;
    let client = console.client();
    let send = async |hosts: &[&str], uri: &str| {
        let mut request = Request::get(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        client.send_as_is(request.body(Body::empty()).unwrap()).await
    };
    for host in ["127.0.0.1", "127.0.0.1:3001", "localhost:3001", "localhost", "[::1]:3001"] {
        assert_eq!(send(&[host], "/login").await.status, 200, "{host}");
    }
    let wrong: [&[&str]; 11] = [
        &[],
        &[""],
        &["attacker.example"],
        &["attacker.example:3001"],
        &["localhost.attacker.example"],
        &["127.0.0.1.attacker.example"],
        &["user@localhost"],
        &["local host"],
        &["192.0.2.1:3001"],
        &["localhost", "attacker.example"],
        &["localhost", "localhost"],
    ];
    for hosts in wrong {
        let page = send(hosts, "/login").await;
        assert_eq!(page.status, 421, "{hosts:?}");
        page.assert_contains("This host is not the console's.");
    }
    // An absolute request target must name the same host.
    assert_eq!(send(&["localhost"], "http://localhost/login").await.status, 200);
    assert_eq!(send(&["localhost"], "http://attacker.example/login").await.status, 421);
    assert_eq!(send(&["attacker.example"], "http://localhost/login").await.status, 421);
}

/// With `console_url`, its host is the only one: also the address of the listener is refused.
#[tokio::test]
async fn console_url_has_the_only_host() {
    for url in [SECURE_ORIGIN, "https://Console.Example.com:443"] {
        let console = console_with_settings(&[("console_url", url)]).await;
        let client = console.client();
        for (host, status) in [
            ("console.example.com", 200),
            ("CONSOLE.example.com", 200),
            ("localhost", 421),
            ("127.0.0.1:3001", 421),
            ("console.example.com:8443", 421),
            ("console.example.com.attacker.example", 421),
            ("example.com", 421),
        ] {
            let request = Request::get("/login").header("host", host).body(Body::empty()).unwrap();
            assert_eq!(client.send_as_is(request).await.status, status, "{url} {host}");
        }
        console.log_in(Role::Support).await;
    }
}
