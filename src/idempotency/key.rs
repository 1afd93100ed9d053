//! Idempotency keys as clients send them.

use axum::http::HeaderMap;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use crate::error::ApiError;
use crate::http::document::Document;
use crate::http::params::Params;
use crate::operations::spec::{OperationSpec, PAYMENT_REFERENCE_PARAMETER, Presence};

/// The header with the key.
const KEY_HEADER: &str = "idempotency-key";
/// The parameter with the key, for clients that cannot set headers.
const KEY_PARAM: &str = "request_id";
const KEY_LEN_MAX: usize = 255;
const NO_TEXT: ApiError = ApiError::BadRequest("A parameter is an array, an object or a file instead of a text");
const MALFORMED_KEY: ApiError = ApiError::BadRequest("Idempotency key must be 1 to 255 printable characters");
/// Parameters that are not part of the fingerprint. Nothing derived from a password is stored.
const UNFINGERPRINTED_PARAMS: [&str; 3] = [KEY_PARAM, "hash", "p"];
const PRIMARY_KEY: &str = "idempotency_keys_pkey";

/// Precedes a payment reference that is the idempotency key. No client can send a key with a tab.
const REFERENCE_PREFIX: &str = "payment_ref\t";
const MALFORMED_REFERENCE: ApiError = ApiError::BadRequest("payment_ref must be 1 to 255 printable characters");

/// An idempotency key, and the request that it was sent with.
#[derive(Debug)]
pub struct IdempotencyKey {
    pub(super) user_id: i32,
    pub(super) operation: &'static str,
    /// The key as the client sent it; a payment reference has a prefix.
    pub key: String,
    /// Whether the key is the payment reference.
    pub(super) is_reference: bool,
    /// SHA-256 of the parameters.
    pub fingerprint: [u8; 32],
    /// Excludes other requests in this server with the same key.
    pub(super) _lock: OwnedSemaphorePermit,
}

/// Whether a statement failed because its idempotency key exists already.
pub fn is_duplicate_key(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.constraint()) == Some(PRIMARY_KEY)
}

/// Reads the key of a request. The header takes precedence over the parameter.
pub(super) fn read_key(headers: &HeaderMap, params: &Params) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all(KEY_HEADER).iter();
    let key = match (values.next(), values.next()) {
        (None, _) => params.raw(KEY_PARAM),
        (Some(key), None) => Some(str::from_utf8(key.as_bytes()).map_err(|_| MALFORMED_KEY)?),
        (Some(_), Some(_)) => return Err(MALFORMED_KEY),
    };
    key.map(|key| if is_valid(key) { Ok(key.to_owned()) } else { Err(MALFORMED_KEY) }).transpose()
}

/// Refuses an optional parameter that is an array, an object or a file. Taken as not sent, it would change something
/// else than the client wants: without `number` another card is sold, without a key a retry sells twice.
pub(super) fn check_readable(spec: &OperationSpec, params: &Params) -> Result<(), ApiError> {
    let unreadable = params.names().filter_map(|name| name.split_once('[')).any(|(name, _)| {
        let mut parameters = spec.all_parameters().filter(|parameter| parameter.presence != Presence::Required);
        parameters.any(|parameter| parameter.name == name)
    });
    if unreadable { Err(NO_TEXT) } else { Ok(()) }
}

/// Reads the payment reference of a request for an operation that has this parameter.
pub(super) fn read_reference(spec: &OperationSpec, params: &Params) -> Result<Option<String>, ApiError> {
    let name = PAYMENT_REFERENCE_PARAMETER.name;
    if !spec.parameters().any(|parameter| parameter.name == name) {
        return Ok(None);
    }
    // Without the spaces around it: a list of payments to compare with has none.
    let reference = params.raw(name).map(str::trim);
    reference.map(|text| if is_valid(text) { Ok(text.to_owned()) } else { Err(MALFORMED_REFERENCE) }).transpose()
}

/// Returns the idempotency key that a payment reference is.
pub(super) fn reference_key(reference: &str) -> String {
    format!("{REFERENCE_PREFIX}{reference}")
}

fn is_valid(key: &str) -> bool {
    (1..=KEY_LEN_MAX).contains(&key.chars().count()) && !key.chars().any(char::is_control)
}

/// Hashes the parameters, sorted: the order in which they are sent does not matter. A document counts by its own hash.
pub(super) fn fingerprint(params: &Params, document: Option<&Document>) -> [u8; 32] {
    let mut pairs: Vec<_> = params.pairs().filter(|(name, _)| !UNFINGERPRINTED_PARAMS.contains(name)).collect();
    pairs.sort_unstable();
    let mut sha256 = Sha256::new();
    for (name, value) in pairs {
        // NUL separates the texts: no parameter contains one.
        for text in [name, value] {
            sha256.update(text);
            sha256.update([0]);
        }
    }
    if let Some(document) = document {
        sha256.update(document.sha256);
    }
    sha256.finalize().into()
}
