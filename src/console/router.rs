//! The router of the console: all routes with their rules, and the layers that every request passes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, DefaultBodyLimit, Query, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{MethodRouter, get};
use axum::{Extension, Router};
use axum_extra::extract::cookie::CookieJar;
use minijinja::context;
use serde::Deserialize;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::csrf::CsrfLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use super::access::Access;
use super::error::{ConsoleError, ErrorText};
use super::session::{self, Session};
use super::{Console, assets, demo, form, pages};
use crate::http::client_addr;

/// Maximum length of a form in bytes. Uploads have limits of their own.
const FORM_BYTES_MAX: usize = 64 * 1024;

/// The page of an admin without a second factor.
const ENROLL_PATH: &str = "/account/second-factor";

const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
     frame-ancestors 'none'; base-uri 'none'",
);
const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");

/// A method of a path, with its rule.
pub struct Route {
    /// The path, with parameters in braces.
    pub path: &'static str,
    /// GET (which includes HEAD) or POST.
    pub method: Method,
    /// Who may request it.
    pub access: Access,
    /// The handler.
    pub handler: MethodRouter<Arc<Console>>,
}

impl Route {
    /// A page.
    pub fn get<H, T>(path: &'static str, access: Access, handler: H) -> Self
    where
        H: axum::handler::Handler<T, Arc<Console>>,
        T: 'static,
    {
        Self { path, method: Method::GET, access, handler: get(handler) }
    }

    /// A form.
    pub fn post<H, T>(path: &'static str, access: Access, handler: H) -> Self
    where
        H: axum::handler::Handler<T, Arc<Console>>,
        T: 'static,
    {
        Self { path, method: Method::POST, access, handler: axum::routing::post(handler) }
    }
}

/// Returns all routes.
pub fn routes() -> Vec<Route> {
    let mut routes = vec![
        Route::get("/", Access::Public, async || Redirect::to("/dashboard")),
        Route::get("/assets/{file}", Access::Public, assets::get_asset),
        Route::get("/demo", Access::Public, demo::get_demo),
        Route::post("/demo", Access::Public, demo::post_demo),
    ];
    routes.extend(pages::routes());
    routes
}

/// Builds the service of the listener `console_listen`.
///
/// # Panics
///
/// Never: `config` has checked `console_url`.
pub fn build_service(console: Arc<Console>) -> Router {
    let mut router = Router::new();
    for Route { path, access, handler, .. } in routes() {
        let admit = middleware::from_fn_with_state((console.clone(), access), admit);
        router = router.route(path, handler.layer(admit));
    }
    let mut csrf = CsrfLayer::new();
    if let Some(url) = console.origin.url() {
        // `config` has checked that it is an origin.
        csrf = csrf.add_trusted_origin(url).unwrap_or_default();
    }
    let header = |name, value| SetResponseHeaderLayer::overriding(name, value);
    router
        .fallback(not_found)
        .layer((DefaultBodyLimit::max(FORM_BYTES_MAX), middleware::from_fn_with_state(console.clone(), identify)))
        .layer(csrf)
        .layer((
            middleware::from_fn_with_state(console.clone(), check_host),
            CatchPanicLayer::new(),
            SetResponseHeaderLayer::if_not_present(CACHE_CONTROL, HeaderValue::from_static("no-store")),
            header(CONTENT_SECURITY_POLICY, POLICY),
            header(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            header(X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
            // "no-referrer" would make browsers send "Origin: null" with forms.
            header(REFERRER_POLICY, HeaderValue::from_static("same-origin")),
            header(PERMISSIONS_POLICY, HeaderValue::from_static("camera=(), geolocation=(), microphone=()")),
        ))
        .with_state(console)
}

/// Refuses a request whose `Host` is not the console's.
async fn check_host(State(console): State<Arc<Console>>, request: Request, next: Next) -> Response {
    if console.origin.allows(request.uri(), request.headers()) {
        return next.run(request).await;
    }
    let text = "This host is not the console's. The setting console_url has its address.\n";
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

/// Finds the client's address, and renders errors as pages.
async fn identify(State(console): State<Arc<Console>>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let peer = peer.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    let client = client_addr::resolve(peer, request.headers(), &console.app.config.trusted_proxies);
    request.extensions_mut().insert(client);
    let response = next.run(request).await;
    render_error(&console, None, response)
}

/// The part of a query string that the redirection after a form adds.
#[derive(Debug, Deserialize)]
struct DoneParameter {
    #[serde(default)]
    done: Option<String>,
}

/// Admits a request to a route: with a session, with the second factor where it is demanded, with one of the roles.
async fn admit(
    State((console, access)): State<(Arc<Console>, Access)>,
    Extension(client): Extension<IpAddr>,
    cookies: CookieJar,
    done: Result<Query<DoneParameter>, axum::extract::rejection::QueryRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    if access == Access::Public {
        return next.run(request).await;
    }
    let mut session = match session::load(&console, &cookies, client).await {
        Ok(Some(session)) => session,
        Ok(None) => return Redirect::to("/login").into_response(),
        Err(error) => return ConsoleError::from(error).into_response(),
    };
    request.uri().path().clone_into(&mut session.path);
    if let Some(once) = done.ok().and_then(|Query(parameter)| parameter.done) {
        session.message = form::load_message(&console, session.account.id, &once).await.unwrap_or_default();
    }
    if session.must_enroll() && !session.path.starts_with(ENROLL_PATH) && session.path != "/logout" {
        return Redirect::to(ENROLL_PATH).into_response();
    }
    if !access.allows(session.account.role) {
        let role = session.account.role.name().replace('_', "-");
        let error = ConsoleError::Forbidden(format!("Accounts with the role {role} may not do this."));
        return render_error(&console, Some(&session), error.into_response());
    }
    request.extensions_mut().insert(session.clone());
    render_error(&console, Some(&session), next.run(request).await)
}

/// Renders the text of an error as a page. Other responses stay as they are.
fn render_error(console: &Console, session: Option<&Session>, mut response: Response) -> Response {
    let Some(ErrorText(message)) = response.extensions_mut().remove::<ErrorText>() else { return response };
    let (status, values) = (response.status(), context! { message => message.as_str() });
    let page = match session {
        Some(session) => console.render(session, "error.html", values),
        None => console.render_public("error.html", values),
    };
    match page {
        Ok(page) => (status, page).into_response(),
        Err(error) => {
            tracing::error!(%error, "the error page cannot be rendered");
            (status, message).into_response()
        }
    }
}

async fn not_found() -> ConsoleError {
    ConsoleError::NotFound("There is no such page.".to_owned())
}
