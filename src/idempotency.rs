//! Requests that are safe to send again: with an idempotency key each is carried out once, and whoever sends it again hears what
//! was answered the first time.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use axum::http::HeaderMap;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};

use crate::auth::admission::Caller;
use crate::db::pool::Transaction;
use crate::error::{ApiError, ErrorBody};
use crate::http::context::CallContext;
use crate::http::params::Params;
use crate::locks::KeyLock;
use crate::xml::XmlReply;

/// For clients that can set headers.
const KEY_HEADER: &str = "idempotency-key";
/// For those that can't.
const KEY_PARAM: &str = "request_id";
const KEY_LEN_MAX: usize = 255;
const MALFORMED_KEY: ApiError = ApiError::BadRequest("Idempotency key must be 1 to 255 printable characters");
/// Not part of what is asked for; and no trace of a password is kept.
const UNFINGERPRINTED_PARAMS: [&str; 3] = [KEY_PARAM, "hash", "p"];
/// The SQLSTATE of a lock that was waited for in vain.
const LOCK_NOT_AVAILABLE: &str = "55P03";
const PRIMARY_KEY: &str = "idempotency_keys_pkey";

/// A request to change something, with the key that it came with, if it did.
#[derive(Debug)]
pub struct Idempotency<'a> {
    context: &'a CallContext,
    key: Option<Arc<IdempotencyKey>>,
}

/// A key, and what it was sent with.
#[derive(Debug)]
pub struct IdempotencyKey {
    user_id: i32,
    operation: &'static str,
    /// As the client chose it.
    pub key: String,
    /// SHA-256 of the parameters.
    pub fingerprint: [u8; 32],
    /// Nobody else within this server is at the same key.
    _lock: KeyLock,
}

/// What was answered, as data.
#[derive(Debug, Serialize, Deserialize)]
enum StoredReply<T> {
    Done(T),
    Refused(ErrorBody),
}

impl<'a> Idempotency<'a> {
    /// Reads the key, and waits a moment for an earlier request with the same one.
    ///
    /// # Errors
    ///
    /// A malformed key, and an earlier request that takes longer.
    pub async fn new(call: &'a CallContext, caller: &Caller) -> Result<Self, ApiError> {
        let Some(key) = read_key(&call.headers, &call.params)? else { return Ok(Self { context: call, key: None }) };
        let (user, operation) = (caller.id(), call.operation.name);
        let turn = call.state.locks.lock_key((user, operation, key.clone()));
        let turn = tokio::time::timeout(call.state.config.idempotency_wait, turn).await;
        let key = IdempotencyKey {
            user_id: user,
            operation,
            key,
            fingerprint: fingerprint(&call.params),
            _lock: turn.map_err(|_| ApiError::RequestInProgress)?,
        };
        Ok(Self { context: call, key: Some(Arc::new(key)) })
    }

    /// The key, for a statement that keeps the reply itself.
    pub fn key(&self) -> Option<&Arc<IdempotencyKey>> {
        self.key.as_ref()
    }

    /// Whether there is an answer to the key.
    pub async fn has_stored_reply(&self) -> Result<bool, ApiError> {
        match &self.key {
            None => Ok(false),
            Some(key) => Ok(self.load_reply::<IgnoredAny>(key).await?.is_some()),
        }
    }

    /// What was answered before; else what comes of `work`, which begins with [`Once::begin`] and ends with
    /// [`Change::commit`]. A refusal is kept as well, unless it owes to the moment.
    pub async fn replay_or_run<T: Serialize + DeserializeOwned>(
        &self,
        work: impl Future<Output = Result<T, ApiError>>,
        reply: impl FnOnce(T) -> XmlReply,
    ) -> Result<XmlReply, ApiError> {
        let Some(key) = &self.key else { return work.await.map(reply) };
        let mut kept = self.load_reply(key).await?;
        if kept.is_none() {
            match work.await {
                Ok(done) => return Ok(reply(done)),
                // Another server was at it, and may have done it by now.
                Err(ApiError::RequestInProgress) => kept = self.load_reply(key).await?,
                Err(fault) => match fault.storable_body(self.context.dialect()) {
                    None => return Err(self.with_retry_hint(fault)),
                    // Another server may have carried it out meanwhile, and be what this one stumbled over.
                    Some(refusal) if self.store_error(key, &refusal).await? => return Err(fault),
                    Some(_) => kept = self.load_reply(key).await?,
                },
            }
        }
        match kept.ok_or(ApiError::RequestInProgress)? {
            StoredReply::Done(done) => Ok(reply(done).into_replayed()),
            StoredReply::Refused(refusal) => Err(ApiError::Replayed(refusal)),
        }
    }

    /// Where nobody knows what became of a change, a client that sent a key can find out.
    pub fn with_retry_hint(&self, fault: ApiError) -> ApiError {
        match (fault, &self.key) {
            (ApiError::CommitUnknown, Some(_)) => ApiError::CommitUnknownRetryable,
            (fault, _) => fault,
        }
    }

    /// Begins the transaction of the change. What memory may have to ask the database for is asked for before: a request that
    /// holds a connection and waits for another may wait for others that do the same.
    pub async fn begin(&self) -> Result<IdempotentTx<'_>, ApiError> {
        let mut transaction = self.context.state.pool.begin().await?;
        if let Some(key) = &self.key {
            self.claim(key, &mut transaction).await?;
        }
        Ok(IdempotentTx { transaction, key: self.key.as_deref() })
    }

    /// The key is ours until the transaction ends. Another server may be at it as well.
    async fn claim(&self, key: &IdempotencyKey, connection: &mut PgConnection) -> Result<(), ApiError> {
        let claimed = sqlx::query!(
            "insert into idempotency_keys as known (user_id, operation, key, fingerprint) values ($1, $2, $3, $4)
             on conflict (user_id, operation, key) do update
                 set fingerprint = excluded.fingerprint, reply = null, created_at = excluded.created_at
                 where known.created_at < (now() at time zone 'utc') - make_interval(hours => $5)",
            key.user_id,
            key.operation,
            key.key,
            &key.fingerprint,
            self.retention_hours()
        )
        .execute(connection)
        .await;
        match claimed {
            Ok(done) if done.rows_affected() == 1 => Ok(()),
            Ok(_) => Err(ApiError::RequestInProgress),
            Err(error) if is_lock_timeout(&error) => Err(ApiError::RequestInProgress),
            Err(error) => Err(error.into()),
        }
    }

    /// What was answered to the key, if it was for the same request.
    async fn load_reply<T: DeserializeOwned>(&self, key: &IdempotencyKey) -> Result<Option<StoredReply<T>>, ApiError> {
        let mut connection = self.context.state.pool.acquire().await?;
        let row = sqlx::query!(
            r#"select fingerprint, reply::text as "reply!" from idempotency_keys
               where user_id = $1 and operation = $2 and key = $3 and reply is not null
                   and created_at >= (now() at time zone 'utc') - make_interval(hours => $4)"#,
            key.user_id,
            key.operation,
            key.key,
            self.retention_hours()
        )
        .fetch_optional(&mut *connection)
        .await?;
        connection.release_clean();
        let Some(row) = row else { return Ok(None) };
        if row.fingerprint != key.fingerprint {
            return Err(ApiError::KeyReused);
        }
        serde_json::from_str(&row.reply).map(Some).map_err(|error| {
            tracing::error!(%error, operation = key.operation, "a kept reply can't be read");
            ApiError::TransactionFailed
        })
    }

    /// Keeps a refusal; `false` where something is kept already.
    async fn store_error(&self, key: &IdempotencyKey, refusal: &ErrorBody) -> Result<bool, ApiError> {
        let mut change = match self.begin().await {
            Err(ApiError::RequestInProgress) => return Ok(false),
            change => change?,
        };
        change.store_reply(key, &StoredReply::<()>::Refused(refusal.clone())).await?;
        change.transaction.commit().await?;
        Ok(true)
    }

    fn retention_hours(&self) -> i32 {
        i32::try_from(self.context.state.config.idempotency_hours.get()).unwrap_or(i32::MAX)
    }
}

/// The transaction of a change.
#[derive(Debug)]
pub struct IdempotentTx<'a> {
    transaction: Transaction,
    key: Option<&'a IdempotencyKey>,
}

impl IdempotentTx<'_> {
    /// Makes the change last, and the reply with it.
    pub async fn commit<T: Serialize>(mut self, reply: T) -> Result<T, ApiError> {
        if let Some(key) = self.key {
            self.store_reply(key, &StoredReply::Done(&reply)).await?;
        }
        self.transaction.commit().await.map_err(ApiError::from_commit_error)?;
        Ok(reply)
    }

    async fn store_reply<T: Serialize>(&mut self, key: &IdempotencyKey, kept: &StoredReply<T>) -> Result<(), ApiError> {
        let reply = serde_json::to_string(kept).map_err(|error| {
            tracing::error!(%error, "a reply can't be kept");
            ApiError::TransactionFailed
        })?;
        sqlx::query!(
            "update idempotency_keys set reply = $4::text::json where user_id = $1 and operation = $2 and key = $3",
            key.user_id,
            key.operation,
            key.key,
            reply
        )
        .execute(&mut *self.transaction)
        .await?;
        Ok(())
    }
}

impl Deref for IdempotentTx<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.transaction
    }
}

impl DerefMut for IdempotentTx<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }
}

/// Whether a statement failed because its key is known already.
pub fn is_duplicate_key(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.constraint()) == Some(PRIMARY_KEY)
}

/// Whether a statement failed because somebody else held what it needed for too long.
pub fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).as_deref() == Some(LOCK_NOT_AVAILABLE)
}

/// The key that a request came with; the header goes before the parameter.
fn read_key(headers: &HeaderMap, params: &Params) -> Result<Option<String>, ApiError> {
    let mut sent = headers.get_all(KEY_HEADER).iter();
    let key = match (sent.next(), sent.next()) {
        (None, _) => params.raw(KEY_PARAM),
        (Some(key), None) => Some(str::from_utf8(key.as_bytes()).map_err(|_| MALFORMED_KEY)?),
        (Some(_), Some(_)) => return Err(MALFORMED_KEY),
    };
    let proper = |key: &str| (1..=KEY_LEN_MAX).contains(&key.chars().count()) && !key.chars().any(char::is_control);
    key.map(|key| if proper(key) { Ok(key.to_owned()) } else { Err(MALFORMED_KEY) }).transpose()
}

/// The parameters in an order of their own: a client that sends them in another one asks for the same.
fn fingerprint(params: &Params) -> [u8; 32] {
    let mut pairs: Vec<_> = params.pairs().filter(|(name, _)| !UNFINGERPRINTED_PARAMS.contains(name)).collect();
    pairs.sort_unstable();
    let mut sha256 = Sha256::new();
    for (name, value) in pairs {
        // No parameter contains a NUL.
        for text in [name, value] {
            sha256.update(text);
            sha256.update([0]);
        }
    }
    sha256.finalize().into()
}

/// Forgets the keys that are older than so many hours, a few at a time so that nobody waits for it.
pub async fn purge_expired(pool: &PgPool, hours: u32) {
    const BATCH_SIZE: u64 = 5_000;
    let hours = i32::try_from(hours).unwrap_or(i32::MAX);
    loop {
        let forgotten = sqlx::query!(
            "delete from idempotency_keys where ctid = any (array(
                 select ctid from idempotency_keys
                 where created_at < (now() at time zone 'utc') - make_interval(hours => $1)
                 order by created_at limit $2 for update skip locked))",
            hours,
            i64::try_from(BATCH_SIZE).unwrap_or(i64::MAX)
        )
        .execute(pool)
        .await;
        match forgotten {
            Ok(done) if done.rows_affected() == BATCH_SIZE => {}
            Ok(_) => return,
            Err(error) => return tracing::debug!(%error, "old idempotency keys were not forgotten"),
        }
    }
}
