//! A request to an operation: what an operation is, and what it is given.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use axum::http::header::HOST;
use axum::http::{HeaderMap, Method, Uri};

use crate::accounts::Settings;
use crate::auth::attempt_limiter::AttemptKind;
use crate::auth::signature::HashRule;
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::http::params::Params;
use crate::operations::spec::OperationSpec;
use crate::state::AppState;
use crate::xml::XmlReply;

/// MOR's columns for names and the like.
const TEXT_LEN_MAX: usize = 255;

/// An operation of the API: what it is called, what its hash covers, what it does.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// The current name.
    pub name: &'static str,
    /// Names of earlier days, which go on working.
    pub aliases: &'static [&'static str],
    /// What the hash may cover.
    pub hash_rules: &'static [HashRule],
    /// What those who write clients read of it.
    pub spec: OperationSpec,
    /// Admits, does and answers, in the order in which the contract checks things.
    pub handler: fn(&CallContext) -> HandlerFuture<'_>,
}

impl Operation {
    /// The name as it stands here, if the operation goes by it.
    pub fn find_name(&self, name: &str) -> Option<&'static str> {
        std::iter::once(&self.name).chain(self.aliases).copied().find(|known| *known == name)
    }
}

/// What comes of a call.
pub type HandlerFuture<'a> = Pin<Box<dyn Future<Output = Result<XmlReply, ApiError>> + Send + 'a>>;

/// One request to one operation.
pub struct CallContext {
    /// Database, settings and what is remembered.
    pub state: Arc<AppState>,
    /// Which operation.
    pub operation: &'static Operation,
    /// The name by which the client called it.
    pub alias: &'static str,
    /// Its parameters.
    pub params: Params,
    /// Owner 0's settings.
    pub system_settings: Arc<Settings>,
    /// GET, POST or HEAD.
    pub method: Method,
    /// As sent.
    pub uri: Uri,
    /// The request's headers.
    pub headers: HeaderMap,
    /// Where the request came from.
    pub client: IpAddr,
}

/// The URI has secrets in it, and so may headers.
impl std::fmt::Debug for CallContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} from {}", self.method, self.masked_url(), self.client)
    }
}

impl CallContext {
    /// Whose manners the server has.
    pub fn dialect(&self) -> Dialect {
        self.state.config.dialect
    }

    /// The user named by `u`; empty where nobody is.
    pub fn username(&self) -> &str {
        self.params.get("u").unwrap_or_default()
    }

    /// Refuses a client that was wrong too often about this user. Ask right before something is compared: many requests may have
    /// waited together for the database.
    pub fn check_attempt_limit(&self, guess: AttemptKind) -> Result<(), ApiError> {
        self.state.attempts.check(guess, self.client, self.username(), Instant::now)
    }

    /// Takes down that the client was wrong.
    pub fn record_failed_attempt(&self, guess: AttemptKind) {
        if self.state.attempts.record_failure(guess, self.client, self.username(), Instant::now) {
            tracing::warn!(
                client = %self.client,
                user = ?self.username().chars().take(TEXT_LEN_MAX).collect::<String>(),
                guesses = self.state.config.failed_attempts_max,
                "too many wrong guesses at a {}: the client hears 429 about this user for {} s",
                guess.label(),
                self.state.config.lockout
            );
        }
    }

    /// A text as MOR's columns of 255 characters keep it; what it is called, where it is too long.
    pub fn fit_text(&self, sent: &str, what: &'static str) -> Result<String, ApiError> {
        self.dialect().fit_to_column(sent, TEXT_LEN_MAX).ok_or(ApiError::TooLong(what))
    }

    /// The URL, up to 256 characters, without the hash, passwords and PINs.
    pub fn masked_url(&self) -> String {
        let query = self.uri.query().unwrap_or_default();
        let masked: Vec<String> = query.split_inclusive(['&', ';']).map(mask_pair).collect();
        let question = if query.is_empty() { "" } else { "?" };
        let host = self.headers.get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes())).unwrap_or_default();
        let url = format!("http://{host}{}{question}{}", self.uri.path(), masked.concat());
        // The host and the path come as they are, unescaped letters and all.
        crate::http::params::sanitized(&url).unwrap_or(url).chars().take(256).collect()
    }
}

/// A `name=value` pair, its value hidden where it is a secret. Names may be escaped, so they are read as parameters are; in
/// capitals they are none, but a client that errs in that way sends the same secrets.
fn mask_pair(pair: &str) -> String {
    const SECRETS: [&str; 3] = ["hash", "p", "pswd"];
    let Some((name, value)) = pair.split_once('=') else { return pair.to_owned() };
    let read = crate::http::params::percent_decoded(name.as_bytes()).unwrap_or_default().to_ascii_lowercase();
    let plain = read.split('[').next().unwrap_or_default();
    if SECRETS.contains(&plain) || ["pin", "pass", "secret", "key"].iter().any(|part| plain.contains(part)) {
        let separator = value.chars().last().filter(|last| matches!(last, '&' | ';'));
        format!("{name}=***{}", separator.map(String::from).unwrap_or_default())
    } else {
        pair.to_owned()
    }
}
