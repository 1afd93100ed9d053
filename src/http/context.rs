//! [`Operation`], the description of an API operation, and [`CallContext`], one request to it.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::header::HOST;
use axum::http::{HeaderMap, Method, Uri};
use tokio::sync::OwnedSemaphorePermit;

use crate::accounts::Settings;
use crate::auth::attempt_limiter::AttemptKind;
use crate::auth::caller::Caller;
use crate::auth::signature::HashRule;
use crate::dialect::{Dialect, TEXT_LEN_MAX};
use crate::error::ApiError;
use crate::http::document::Document;
use crate::http::params::Params;
use crate::locks::{ListPermit, StreamPermit};
use crate::operations::spec::OperationSpec;
use crate::state::AppState;
use crate::store::change_log::Author;
use crate::xml::XmlReply;

/// An operation of the API.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// The current name.
    pub name: &'static str,
    /// Older names, which remain valid.
    pub aliases: &'static [&'static str],
    /// The parameters that the request hash may cover.
    pub hash_rules: &'static [HashRule],
    /// The description for client developers.
    pub spec: OperationSpec,
    /// Who may use the operation.
    pub access: Access,
    /// Executes the request of an admitted caller and returns the reply. The contract defines the order of the checks.
    pub handler: for<'a> fn(&'a CallContext, &'a Caller) -> HandlerFuture<'a>,
}

impl Operation {
    /// Iterates over the name and the aliases.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(&self.name).chain(self.aliases).copied()
    }
}

/// Who may use an operation, and the error for other users (`http.md`, "Admission"). `auth::admission` applies it.
#[derive(Debug, Clone, Copy)]
pub enum Access {
    /// The operation is "strict": all six steps of the contract, with the errors of the contract.
    Strict,
    /// Users who may use calling cards. An accountant's right `callingcard_manage` must be at least this.
    CallingCards(i16),
    /// The operation has its own rule and errors. It gets `None` for an unknown user or a wrong password.
    Own(fn(&CallContext, Option<Caller>) -> Result<Caller, ApiError>),
}

/// The future of [`Operation::handler`].
pub type HandlerFuture<'a> = Pin<Box<dyn Future<Output = Result<XmlReply, ApiError>> + Send + 'a>>;

/// One request to one operation.
pub struct CallContext {
    /// Shared state: configuration, database pools, caches, limits.
    pub state: Arc<AppState>,
    /// The requested operation.
    pub operation: &'static Operation,
    /// The name in the request's path: the operation's name or one of its aliases.
    pub alias: &'static str,
    /// The parameters from path, query string and body, without the document.
    pub params: Params,
    /// The value of the parameter of the type `ParamType::Document`.
    pub document: Option<Document>,
    /// The settings of owner 0.
    pub system_settings: Arc<Settings>,
    /// GET, POST or HEAD.
    pub method: Method,
    /// The URI as sent.
    pub uri: Uri,
    /// The request headers.
    pub headers: HeaderMap,
    /// The client's address, resolved through trusted proxies.
    pub client: IpAddr,
}

/// Prints only the method, the masked URL and the client: the URI and the headers may contain secrets.
impl std::fmt::Debug for CallContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} from {}", self.method, self.masked_url(), self.client)
    }
}

impl CallContext {
    /// Returns the configured dialect.
    pub fn dialect(&self) -> Dialect {
        self.state.config.dialect
    }

    /// Returns the parameter `u`; empty if it was not sent.
    pub fn username(&self) -> &str {
        self.params.get("u").unwrap_or_default()
    }

    /// The parameter `u`, cut to the length of MOR's column.
    pub fn logged_username(&self) -> String {
        self.username().chars().take(TEXT_LEN_MAX).collect()
    }

    /// Returns the author of the caller's changes, for the change log.
    pub fn author(&self, caller: &Caller) -> Author {
        let request_id = self.headers.get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        Author::User { id: caller.id(), request_id }
    }

    /// Returns whether to log now that the client is refused: once every 10 seconds for each client, user, operation
    /// and reason.
    pub fn should_log_refusal(&self, reason: &'static str) -> bool {
        let subject = (self.client, self.username(), self.operation.name, reason);
        self.state.refusal_log.should_log(subject, Instant::now())
    }

    /// Waits up to `max_wait` for a lock of this server; `None`: timeout. Meanwhile the request does not count as one
    /// of `max_requests`.
    ///
    /// # Errors
    ///
    /// [`ApiError::Overloaded`] if too many requests wait.
    pub async fn wait<T>(&self, max_wait: Duration, lock: impl Future<Output = T>) -> Result<Option<T>, ApiError> {
        self.state.lock_queue.wait(&self.state.load, self.client, max_wait, lock).await
    }

    /// Waits for the caller id's lock, up to `database_acquire_timeout`.
    ///
    /// # Errors
    ///
    /// [`ApiError::Unavailable`] after the timeout, [`ApiError::Overloaded`] if too many requests wait.
    pub async fn lock_callerid(&self, callerid: &str) -> Result<OwnedSemaphorePermit, ApiError> {
        let max_wait = self.state.config.database_acquire_timeout;
        self.wait(max_wait, self.state.locks.callerids.acquire(callerid.to_owned())).await?.ok_or(ApiError::Unavailable)
    }

    /// Waits for a permit to read a list, up to `database_acquire_timeout`. Errors as for
    /// [`lock_callerid`](Self::lock_callerid).
    pub async fn acquire_list_permit(&self, user_id: i32) -> Result<ListPermit, ApiError> {
        let max_wait = self.state.config.database_acquire_timeout;
        let permit = self.wait(max_wait, self.state.locks.acquire_list_permit(user_id)).await?;
        permit.flatten().ok_or(ApiError::Unavailable)
    }

    /// Waits for a permit to stream a list by one statement, up to `database_acquire_timeout`. Errors as for
    /// [`lock_callerid`](Self::lock_callerid).
    pub async fn acquire_stream_permit(&self, user_id: i32) -> Result<StreamPermit, ApiError> {
        let max_wait = self.state.config.database_acquire_timeout;
        let permit = self.wait(max_wait, self.state.locks.acquire_stream_permit(user_id)).await?;
        permit.flatten().ok_or(ApiError::Unavailable)
    }

    /// Waits for a permit to sell this many cards outside batches, up to `database_acquire_timeout`. Errors as for
    /// [`lock_callerid`](Self::lock_callerid).
    pub async fn acquire_unbatched_sale(&self, user_id: i32, quantity: u32) -> Result<OwnedSemaphorePermit, ApiError> {
        let max_wait = self.state.config.database_acquire_timeout;
        let permit = self.wait(max_wait, self.state.batcher.acquire_unbatched(user_id, quantity)).await?;
        permit.ok_or(ApiError::Unavailable)
    }

    /// Waits for a permit to wait for the locked cards of a group, up to `database_acquire_timeout`. Errors as for
    /// [`lock_callerid`](Self::lock_callerid).
    pub async fn acquire_wait_for_cards(&self, user_id: i32, group: i32) -> Result<OwnedSemaphorePermit, ApiError> {
        let max_wait = self.state.config.database_acquire_timeout;
        let permit = self.wait(max_wait, self.state.batcher.acquire_wait_for_cards(user_id, group)).await?;
        permit.ok_or(ApiError::Unavailable)
    }

    /// Refuses a client with too many failed attempts for this user. Call it directly before each comparison: many
    /// requests may have passed an earlier check and then waited for the database.
    pub fn check_attempt_limit(&self, kind: AttemptKind) -> Result<(), ApiError> {
        Ok(self.state.attempts.check(kind, self.client, self.username(), Instant::now())?)
    }

    /// Records a failed attempt of the client for this user. Logs the one that reaches the limit.
    pub fn record_failed_attempt(&self, kind: AttemptKind) {
        if self.state.attempts.record_failure(kind, self.client, self.username(), Instant::now()) {
            tracing::warn!(
                client = %self.client,
                user = ?self.logged_username(),
                kind = kind.label(),
                failed_attempts_max = self.state.config.failed_attempts_max,
                lockout_s = self.state.config.lockout.get(),
                "too many failed attempts: the client gets 429 for this user"
            );
        }
    }

    /// Fits a text into a MOR column of 255 characters, or returns [`ApiError::TooLong`] with the field's name.
    pub fn fit_text(&self, text: &str, field: &'static str) -> Result<String, ApiError> {
        self.dialect().fit_to_column(text, TEXT_LEN_MAX).ok_or(ApiError::TooLong(field))
    }

    /// Returns the URL for logs and audit rows: secrets masked, control characters replaced, cut to 256 characters.
    pub fn masked_url(&self) -> String {
        let query = self.uri.query().unwrap_or_default();
        let masked: Vec<String> = query.split_inclusive(['&', ';']).map(mask_pair).collect();
        let separator = if query.is_empty() { "" } else { "?" };
        let host = self.headers.get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes())).unwrap_or_default();
        let url = format!("http://{host}{}{separator}{}", self.uri.path(), masked.concat());
        // Host and path are the bytes that the client sent: they may contain control characters.
        crate::http::params::sanitized(&url).unwrap_or(url).chars().take(256).collect()
    }
}

/// Returns a `name=value` pair with the value masked if it is a secret. The name is percent-decoded first, like a
/// parameter's name, and compared without regard to case: `PIN` is no parameter, but its value is as secret as that of
/// `pin`.
fn mask_pair(pair: &str) -> String {
    const SECRETS: [&str; 3] = ["hash", "p", "pswd"];
    let Some((name, value)) = pair.split_once('=') else { return pair.to_owned() };
    let decoded = crate::http::params::percent_decoded(name.as_bytes()).unwrap_or_default().to_ascii_lowercase();
    let base_name = decoded.split('[').next().unwrap_or_default();
    if SECRETS.contains(&base_name) || ["pin", "pass", "secret", "key"].iter().any(|part| base_name.contains(part)) {
        let separator = value.chars().last().filter(|last| matches!(last, '&' | ';'));
        format!("{name}=***{}", separator.map(String::from).unwrap_or_default())
    } else {
        pair.to_owned()
    }
}
