//! The console, over HTTP and in a browser. A test sends requests to the router of the console, and checks the text of
//! the page and the rows in the database.

mod batches;
mod batches_files;
mod browser;
mod card;
mod card_actions;
mod card_limits;
mod changes;
mod dashboard;
mod demo;
mod forms;
mod groups;
mod host;
mod limits;
mod login;
mod mail;
mod page;
mod reconciliation;
mod roles;
mod routes;
mod sales;
mod search;
mod second_factor;
mod sessions;
mod settings;
mod slow_clients;
mod users;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::UNIX_EPOCH;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Request};
use mortise::auth::passwords;
use mortise::console::access::Role;
use mortise::console::accounts::NewAccount;
use mortise::console::{Console, router, totp};
use mortise::store::change_log::Author;
use tower::ServiceExt;

pub use self::page::Page;
use crate::harness::{FIXTURE_SQL, Server, postgres, server_with_settings, server_without_jobs, with_timeout};

/// The origin of the console without `console_url`.
pub const ORIGIN: &str = "http://127.0.0.1:3001";
/// The setting `console_url` of the tests that have one.
pub const SECURE_ORIGIN: &str = "https://console.example.com";
/// The password of all accounts.
pub const PASSWORD: &str = "a password of 30 characters ok";
/// The secret of the second factor of all admins.
pub const TOTP_SECRET: &[u8; totp::SECRET_BYTES] = b"12345678901234567890";

static PASSWORD_HASH: LazyLock<String> = LazyLock::new(|| passwords::hash_argon2(PASSWORD).unwrap());

/// A server with a console.
pub struct ConsoleServer {
    pub server: Server,
    pub console: Arc<Console>,
    router: Router,
    account_count: AtomicU32,
}

/// Starts a server with a console on a new database with `fixtures.sql`.
pub async fn console() -> ConsoleServer {
    console_with_settings(&[]).await
}

/// As [`console`], with these settings.
pub async fn console_with_settings(settings: &[(&str, &str)]) -> ConsoleServer {
    ConsoleServer::new(server_with_settings(settings).await)
}

/// As [`console`], without background tasks: only requests change the database.
pub async fn console_without_jobs() -> ConsoleServer {
    let database = postgres::create_database(FIXTURE_SQL).await;
    ConsoleServer::new(server_without_jobs(&database, &[]).await)
}

/// An account to log in with.
#[derive(Clone)]
pub struct Login {
    pub id: i64,
    pub name: String,
    /// Whether a code of the second factor is demanded.
    pub has_second_factor: bool,
}

impl ConsoleServer {
    /// Adds a console to a server.
    pub fn new(server: Server) -> Self {
        let console = Arc::new(Console::new(server.state.clone()).unwrap());
        let router = router::build_service(console.clone());
        Self { server, console, router, account_count: AtomicU32::new(0) }
    }

    /// Creates an account with a name of its own. An admin has a second factor, a reseller is that of the user.
    pub async fn create_account(&self, role: Role, user_id: Option<i32>, can_reveal_pins: bool) -> Login {
        let second_factor = (role == Role::Admin).then_some(TOTP_SECRET.as_slice());
        self.create_account_with(role, user_id, can_reveal_pins, second_factor).await
    }

    /// As [`create_account`](Self::create_account), with this second factor.
    pub async fn create_account_with(
        &self,
        role: Role,
        user_id: Option<i32>,
        can_reveal_pins: bool,
        totp_secret: Option<&[u8]>,
    ) -> Login {
        let name = format!("{} {}", role.name(), self.account_count.fetch_add(1, Ordering::Relaxed));
        let account = NewAccount {
            name: &name,
            role,
            user_id,
            can_reveal_pins,
            is_demo: false,
            password_argon2: &PASSWORD_HASH,
            totp_secret,
        };
        let mut connection = self.server.pool.acquire().await.unwrap();
        let author = Author::Console { account: "the test".to_owned() };
        let id = account.insert(&mut connection, &author).await.unwrap().unwrap();
        Login { id, name, has_second_factor: totp_secret.is_some() }
    }

    /// Creates an account without the right to reveal PINs, and logs in. For resellers see
    /// [`log_in_reseller`](Self::log_in_reseller).
    pub async fn log_in(&self, role: Role) -> Client {
        self.log_in_as(&self.create_account(role, None, false).await).await
    }

    /// Creates an account with the right to reveal PINs, and logs in.
    pub async fn log_in_with_pins(&self, role: Role) -> Client {
        self.log_in_as(&self.create_account(role, None, true).await).await
    }

    /// Creates a reseller's account for this user, and logs in.
    pub async fn log_in_reseller(&self, user_id: i32) -> Client {
        self.log_in_as(&self.create_account(Role::Reseller, Some(user_id), false).await).await
    }

    /// Logs in with the account's password and second factor.
    pub async fn log_in_as(&self, login: &Login) -> Client {
        let mut client = self.client();
        client.login = Some(login.clone());
        client.forget_last_code().await;
        let code = if login.has_second_factor { current_code() } else { String::new() };
        let fields = [("name", login.name.as_str()), ("password", PASSWORD), ("code", &code)];
        let page = client.post_plain("/login", &fields).await;
        assert_eq!(page.location.as_deref(), Some("/dashboard"), "{}", page.text());
        client.cookie = Some(page.cookie());
        client.token = client.get("/account/second-factor").await.token();
        client
    }

    /// A client without a session.
    pub fn client(&self) -> Client {
        Client {
            server: self.server.clone(),
            router: self.router.clone(),
            cookie: None,
            token: String::new(),
            login: None,
            origin: self.server.config.console_url.as_ref().map_or(ORIGIN, |_| SECURE_ORIGIN).to_owned(),
            address: [192, 0, 2, 7].into(),
        }
    }
}

/// A browser with a session, or without one.
#[derive(Clone)]
pub struct Client {
    server: Server,
    router: Router,
    /// The header `Cookie`.
    pub cookie: Option<String>,
    /// The token of the session's forms.
    pub token: String,
    login: Option<Login>,
    /// What the address bar of the browser shows.
    pub origin: String,
    pub address: std::net::IpAddr,
}

impl Client {
    /// The account that has logged in.
    pub fn login(&self) -> &Login {
        self.login.as_ref().unwrap()
    }

    /// Sends a GET.
    pub async fn get(&self, path_and_query: &str) -> Page {
        self.send(Request::get(path_and_query).body(Body::empty()).unwrap()).await
    }

    /// Sends a form with the token of the session and a new id. The reply is not followed.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        let once = random_id();
        let envelope = [("token", self.token.as_str()), ("once", &once)];
        self.post_plain(path, &[&envelope, fields].concat()).await
    }

    /// As [`post`](Self::post), with a code of the second factor, or the password of an account without one.
    pub async fn post_confirmed(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        let confirm = self.confirmation().await;
        self.post(path, &[&[("confirm", confirm.as_str())], fields].concat()).await
    }

    /// As [`post_confirmed`](Self::post_confirmed); returns the page that the reply redirects to, if it does.
    pub async fn submit(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        let page = self.post_confirmed(path, fields).await;
        match &page.location {
            Some(location) => self.get(location).await,
            None => page,
        }
    }

    /// Sends a form with a file, as `multipart/form-data`, with what [`post_confirmed`](Self::post_confirmed) adds.
    pub async fn upload(
        &self,
        path: &str,
        fields: &[(&str, &str)],
        file_field: &str,
        file_name: &str,
        content: impl AsRef<[u8]>,
    ) -> Page {
        let (once, confirm) = (random_id(), self.confirmation().await);
        let envelope = [("token", self.token.as_str()), ("once", &once), ("confirm", &confirm)];
        self.post_multipart(path, &[&envelope, fields].concat(), Some((file_field, file_name, content.as_ref()))).await
    }

    /// Sends these fields only, and a file: its field, its name and its content.
    pub async fn post_multipart(&self, path: &str, fields: &[(&str, &str)], file: Option<(&str, &str, &[u8])>) -> Page {
        const BOUNDARY: &str = "----the-boundary-of-the-test";
        let mut body = Vec::new();
        for (name, value) in fields {
            let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
            body.extend([head.as_bytes(), value.as_bytes(), b"\r\n"].concat());
        }
        if let Some((field, name, content)) = file {
            let head = format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"{name}\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\n"
            );
            body.extend([head.as_bytes(), content, b"\r\n"].concat());
        }
        body.extend(format!("--{BOUNDARY}--\r\n").as_bytes());
        let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
        self.send(Request::post(path).header("content-type", content_type).body(Body::from(body)).unwrap()).await
    }

    /// Sends a form with these fields only.
    pub async fn post_plain(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        let body = serde_urlencoded::to_string(fields).unwrap();
        let request = Request::post(path).header("content-type", "application/x-www-form-urlencoded");
        self.send(request.body(Body::from(body)).unwrap()).await
    }

    /// Sends a request, with the headers that a browser adds and the request does not have.
    pub async fn send(&self, mut request: Request<Body>) -> Page {
        let is_form = request.method() == "POST";
        let headers = request.headers_mut();
        add_header(headers, "host", self.origin.split_once("://").unwrap().1);
        add_header(headers, "user-agent", "A browser of the test");
        if is_form {
            add_header(headers, "origin", &self.origin);
        }
        if let Some(cookie) = &self.cookie {
            add_header(headers, "cookie", cookie);
        }
        self.send_as_is(request).await
    }

    /// Sends a request with its own headers only.
    pub async fn send_as_is(&self, mut request: Request<Body>) -> Page {
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((self.address, 4711))));
        let event = format!("the reply to {} {}", request.method(), request.uri());
        let response = with_timeout(&event, self.router.clone().oneshot(request)).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = with_timeout("the end of a page", axum::body::to_bytes(body, usize::MAX)).await.unwrap();
        Page::new(parts.status, parts.headers, &body)
    }

    /// What a confirmed form asks for: a code that was not used yet, or the password.
    pub async fn confirmation(&self) -> String {
        if !self.login.as_ref().is_some_and(|login| login.has_second_factor) {
            return PASSWORD.to_owned();
        }
        self.forget_last_code().await;
        current_code()
    }

    /// Makes the server accept the current code again.
    async fn forget_last_code(&self) {
        let update = sqlx::query("update console_accounts set totp_last_step = null where id = $1");
        let update = update.bind(self.login().id).execute(&self.server.pool);
        with_timeout("the update of an account", update).await.unwrap();
    }
}

fn add_header(headers: &mut HeaderMap, name: &'static str, value: &str) {
    headers.entry(name).or_insert(value.parse().unwrap());
}

/// An id of a form.
pub fn random_id() -> String {
    hex::encode(std::array::from_fn::<u8, 16, _>(|_| fastrand::u8(..)))
}

/// The current step of the second factor.
pub fn current_step() -> u64 {
    totp::step_at(UNIX_EPOCH.elapsed().unwrap().as_secs())
}

/// The code of a step, relative to the current one.
pub fn code_of_step(offset: i64) -> String {
    totp::code_at(TOTP_SECRET, current_step().checked_add_signed(offset).unwrap()).unwrap()
}

/// The current code of the second factor.
pub fn current_code() -> String {
    code_of_step(0)
}
