//! The router of the console: all routes with their rules, and the layers that every request passes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY,
    STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Router};
use axum_extra::extract::cookie::CookieJar;
use http_body_util::LengthLimitError;
use minijinja::context;
use serde::Deserialize;
use tokio::time::timeout;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::csrf::CsrfLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use super::access::Access;
use super::error::{ConsoleError, ErrorText};
use super::route::Route;
use super::session::{self, Session};
use super::{Console, assets, demo, pages, submission};
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
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// A year: browsers use TLS for the host of `console_url` from the first visit on.
const TRANSPORT_SECURITY: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Returns all routes.
pub fn routes() -> Vec<Route> {
    let mut routes = vec![
        Route::get("/", Access::ALL, async || Redirect::to("/dashboard")),
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
    for Route { path, access, is_upload, handler, .. } in routes() {
        let handler = match is_upload {
            true => handler,
            false => handler.layer(middleware::from_fn_with_state(console.clone(), receive_form)),
        };
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
        .layer((middleware::from_fn_with_state(console.clone(), identify), csrf))
        // The first one is the outermost: all responses have the headers.
        .layer((
            SetResponseHeaderLayer::if_not_present(CACHE_CONTROL, HeaderValue::from_static("no-store")),
            header(CONTENT_SECURITY_POLICY, POLICY),
            header(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            header(X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
            // "no-referrer" would make browsers send "Origin: null" with forms.
            header(REFERRER_POLICY, HeaderValue::from_static("same-origin")),
            header(PERMISSIONS_POLICY, HeaderValue::from_static("camera=(), geolocation=(), microphone=()")),
            header(OPENER_POLICY, HeaderValue::from_static("same-origin")),
            header(RESOURCE_POLICY, HeaderValue::from_static("same-origin")),
            SetResponseHeaderLayer::overriding(
                STRICT_TRANSPORT_SECURITY,
                console.origin.is_secure().then_some(TRANSPORT_SECURITY),
            ),
            CatchPanicLayer::new(),
            middleware::from_fn_with_state(console.clone(), check_host),
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
    let is_form = request.method() == Method::POST;
    let response = next.run(request).await;
    render_error(&console, None, is_form, response)
}

/// Receives a form, so that a client that sends its body slowly, or never, does not keep the connection.
async fn receive_form(State(console): State<Arc<Console>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let error = match timeout(console.app.config.body_timeout, to_bytes(body, FORM_BYTES_MAX)).await {
        Ok(Ok(bytes)) => return next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Ok(Err(error)) if std::error::Error::source(&error).is_some_and(|source| source.is::<LengthLimitError>()) => {
            ConsoleError::LongForm(FORM_BYTES_MAX >> 10)
        }
        Ok(Err(_)) => ConsoleError::Malformed("it is incomplete".to_owned()),
        Err(_) => ConsoleError::BodyTimeout,
    };
    error.into_response()
}

/// The parameters that all pages have.
#[derive(Debug, Default, Deserialize)]
struct PageParameters {
    /// The id of the form that leads to the page.
    #[serde(default)]
    done: Option<String>,
    /// The script has loaded the page again.
    #[serde(default)]
    auto: Option<String>,
}

/// Admits a request to a route: with a session, with the second factor where it is demanded, with one of the roles.
async fn admit(
    State((console, access)): State<(Arc<Console>, Access)>,
    Extension(client): Extension<IpAddr>,
    cookies: CookieJar,
    mut request: Request,
    next: Next,
) -> Response {
    if access == Access::Public {
        return next.run(request).await;
    }
    let parameters = Query::<PageParameters>::try_from_uri(request.uri()).map(|query| query.0).unwrap_or_default();
    let mut session = match session::load(&console, &cookies, client, parameters.auto.is_none()).await {
        Ok(Some(session)) => session,
        Ok(None) if request.method() == Method::POST => return Redirect::to("/login").into_response(),
        Ok(None) => return Redirect::to(&login_path(request.uri())).into_response(),
        Err(error) => return ConsoleError::from(error).into_response(),
    };
    let is_form = request.method() == Method::POST;
    request.uri().path().clone_into(&mut session.path);
    if let Some(once) = parameters.done {
        session.message = submission::load_message(&console, session.account.id, &once).await.unwrap_or_default();
    }
    if session.must_enroll() && !session.path.starts_with(ENROLL_PATH) && session.path != "/logout" {
        return Redirect::to(ENROLL_PATH).into_response();
    }
    if !access.allows(session.account.role) {
        let role = session.account.role.name().replace('_', "-");
        let error = ConsoleError::Forbidden(format!("Accounts with the role {role} may not do this."));
        return render_error(&console, Some(&session), is_form, error.into_response());
    }
    request.extensions_mut().insert(session.clone());
    render_error(&console, Some(&session), is_form, next.run(request).await)
}

/// Returns the path of the login, which leads to this page.
fn login_path(uri: &Uri) -> String {
    let query: Vec<(String, String)> = serde_urlencoded::from_str(uri.query().unwrap_or_default()).unwrap_or_default();
    let query: Vec<_> = query.into_iter().filter(|(name, _)| !["auto", "done"].contains(&name.as_str())).collect();
    let query = serde_urlencoded::to_string(query).unwrap_or_default();
    let next = if query.is_empty() { uri.path().to_owned() } else { format!("{}?{query}", uri.path()) };
    if ["/", "/dashboard"].contains(&next.as_str()) {
        return "/login".to_owned();
    }
    format!("/login?{}", serde_urlencoded::to_string([("next", next)]).unwrap_or_default())
}

/// Renders an error as a page: that of a handler, or a refusal of axum or of the layers. Other responses stay as they
/// are.
fn render_error(console: &Console, session: Option<&Session>, is_form: bool, mut response: Response) -> Response {
    let error = response.extensions_mut().remove::<ErrorText>().or_else(|| describe_refusal(&response));
    let Some(ErrorText { message, is_outcome_unknown }) = error else { return response };
    let (status, values) = (response.status(), context! { message => message.as_str(), is_form, is_outcome_unknown });
    let page = match session {
        Some(session) => console.render(session, "error.html", values),
        None => console.render_public("error.html", values),
    };
    match page {
        Ok(page) => {
            let (page, body) = page.into_parts();
            response.headers_mut().extend(page.headers);
            response.headers_mut().remove(CONTENT_LENGTH);
            *response.body_mut() = body;
            response
        }
        Err(error) => {
            tracing::error!(%error, "the error page cannot be rendered");
            (status, message).into_response()
        }
    }
}

/// Describes a refusal that is not a page yet: of a path, a query string, a method, or a form of another site.
fn describe_refusal(response: &Response) -> Option<ErrorText> {
    let is_page = response.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/html"));
    let message = match response.status() {
        status if is_page || !status.is_client_error() => return None,
        StatusCode::FORBIDDEN => {
            "The browser says that another site sent this form. Open the console at its own address, and repeat the change."
        }
        StatusCode::NOT_FOUND => "There is no such page.",
        StatusCode::METHOD_NOT_ALLOWED => "This page cannot be opened in this way. Use its link or its form.",
        _ => "The address has a value that cannot be read.",
    };
    Some(ErrorText { message: message.to_owned(), is_outcome_unknown: false })
}

async fn not_found() -> ConsoleError {
    ConsoleError::NotFound("There is no such page.".to_owned())
}
