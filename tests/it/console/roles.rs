//! Each role against each route: what is not allowed is refused before the handler runs.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Method, Request};
use mortise::console::access::Role;
use mortise::console::router;

use super::routes::{Entry, Kind, ROLES, TABLE};
use super::{Client, ConsoleServer, Page, console, console_without_jobs};

const ENROLL: &str = "/account/second-factor";

/// Requests a route. A form without an id is refused by the handler, so it changes nothing.
async fn request(client: &Client, role: Role, route: &Entry) -> Page {
    let path = route.sample_path(role);
    let fields = [vec![("token", client.token.as_str())], route.fields()].concat();
    match route.kind {
        Kind::Page => client.get(&path).await,
        Kind::Form | Kind::Confirmed(_) => client.post_plain(&path, &fields).await,
        Kind::Upload => client.post_multipart(&path, &fields, None).await,
    }
}

async fn log_in_each(console: &ConsoleServer) -> Vec<(Role, Client)> {
    console.server.execute("update cards set owner_id = 3 where cardgroup_id = 12").await;
    let mut clients = Vec::new();
    for (_, role) in ROLES {
        let client = match role {
            Role::Reseller => console.log_in_reseller(3).await,
            role => console.log_in_with_pins(role).await,
        };
        clients.push((role, client));
    }
    clients
}

/// The table has every route, and every route of it exists.
#[test]
fn the_table_has_every_route() {
    let routes: Vec<(String, &str)> =
        router::routes().iter().map(|route| (route.method.to_string(), route.path)).collect();
    let table: BTreeSet<_> = TABLE.iter().map(|entry| (entry.method().to_owned(), entry.path)).collect();
    let set: BTreeSet<_> = routes.iter().cloned().collect();
    assert_eq!((routes.len(), TABLE.len()), (set.len(), table.len()), "a route is there twice");
    let missing: Vec<_> = set.difference(&table).collect();
    assert!(missing.is_empty(), "routes without a line in tests/it/console/routes.rs: {missing:?}");
    let gone: Vec<_> = table.difference(&set).collect();
    assert!(gone.is_empty(), "lines without a route: {gone:?}");
    assert!(TABLE.is_sorted_by_key(|entry| entry.path), "the table is not in the order of the paths");
}

/// A form that changes data is never for accounts that only read, except those of their own account.
#[test]
fn accounts_that_only_read_change_nothing() {
    for entry in TABLE.iter().filter(|entry| entry.method() == "POST" && entry.roles.is_some()) {
        // A search is a form so that no address has a PIN.
        let is_harmless = entry.path.starts_with("/account/") || ["/logout", "/search"].contains(&entry.path);
        assert!(is_harmless || !entry.allows(Role::ReadOnly), "{}", entry.path);
    }
    for route in router::routes() {
        assert!([Method::GET, Method::POST].contains(&route.method), "{}", route.path);
    }
}

/// Without a session every page but the login answers 303 to `/login`; the forms too.
#[tokio::test]
async fn without_a_session_there_is_only_the_login() {
    let console = console().await;
    let client = console.client();
    for route in TABLE {
        let page = request(&client, Role::Admin, route).await;
        let leads_to_login = page.status == 303 && page.location.as_deref().is_some_and(|to| to.starts_with("/login"));
        assert_eq!(leads_to_login, route.roles.is_some(), "{} {}: {}", route.method(), route.path, page.status);
        assert_eq!(page.header("set-cookie"), None, "{}", route.path);
    }
    let page = client.get("/").await;
    assert_eq!(page.location.as_deref(), Some("/login"));
}

#[tokio::test]
async fn each_role_requests_each_route() {
    let console = console_without_jobs().await;
    for (role, client) in log_in_each(&console).await {
        for route in TABLE.iter().filter(|route| route.roles.is_some()) {
            let page = request(&client, role, route).await;
            let (name, text) = (format!("{} {} as {}", route.method(), route.path, role.name()), page.text());
            let is_refused = page.status == 403 && text.contains("Accounts with the role");
            assert_eq!(is_refused, !route.allows(role), "{name}: {} {text}", page.status);
            if is_refused {
                continue;
            }
            match route.method() {
                // The handler has checked the form: the id is missing.
                "POST" => assert!(text.contains("The form is not of this session."), "{name}: {text}"),
                _ => assert!(![401, 403, 405].contains(&page.status.as_u16()), "{name}: {text}"),
            }
            assert!(!page.status.is_server_error(), "{name}: {text}");
            let away = page.location.as_deref().is_some_and(|to| to.starts_with("/login") || to.starts_with(ENROLL));
            assert!(!away, "{name}: {:?}", page.location);
        }
        assert_eq!(client.get("/account").await.status, 200);
    }
}

/// HEAD is GET without a body; it opens nothing more.
#[tokio::test]
async fn head_has_the_rule_of_get() {
    let console = console_without_jobs().await;
    let clients = log_in_each(&console).await;
    for route in TABLE.iter().filter(|route| route.kind == Kind::Page) {
        for (role, client) in &clients {
            let path = route.sample_path(*role);
            let head = Request::head(&path).body(Body::empty()).unwrap();
            let (head, get) = (client.send(head).await, client.get(&path).await);
            assert_eq!((head.status, head.body.as_str()), (get.status, ""), "{} as {}", route.path, role.name());
        }
    }
}

/// An admin who has not set up the second factor sees only the page for it.
#[tokio::test]
async fn an_admin_without_a_second_factor_only_sets_it_up() {
    let console = console_without_jobs().await;
    let login = console.create_account_with(Role::Admin, None, true, None).await;
    let admin = console.log_in_as(&login).await;
    for route in TABLE.iter().filter(|route| route.roles.is_some()) {
        let page = request(&admin, Role::Admin, route).await;
        let is_open = route.path.starts_with(ENROLL) || route.path == "/logout";
        let leads_to_it = page.status == 303 && page.location.as_deref() == Some(ENROLL);
        assert_eq!(leads_to_it, !is_open, "{} {}: {}", route.method(), route.path, page.text());
    }
    // The page has no navigation to the others.
    let page = admin.get(ENROLL).await;
    assert!(!page.body.contains("href=\"/sales\"") && !page.body.contains("href=\"/users\""), "{}", page.body);
    // A secret without its first code does not count.
    assert_eq!(admin.submit("/account/second-factor/new", &[]).await.status, 200);
    assert_eq!(admin.get("/account").await.location.as_deref(), Some(ENROLL));
}

/// The navigation names the pages that the role may see.
#[tokio::test]
async fn the_navigation_has_the_pages_of_the_role() {
    let console = console_without_jobs().await;
    for (role, client) in log_in_each(&console).await {
        let page = client.get("/account").await;
        let navigation = page.body.split_once("<nav").unwrap().1.split_once("</nav>").unwrap().0;
        for link in navigation.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            if let Some(route) = TABLE.iter().find(|route| route.path == link && route.kind == Kind::Page) {
                assert!(route.allows(role), "{link} for {}", role.name());
            }
        }
    }
}
