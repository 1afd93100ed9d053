//! Idempotency keys. A request with a key is carried out once. If the client sends it again, it gets the reply to the
//! first request.
//!
//! [`Idempotency::change`] carries out the changes of all operations, with or without a key.

use std::sync::Arc;

use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use sqlx::{PgConnection, PgPool};

use crate::auth::caller::Caller;
use crate::error::{ApiError, ErrorBody, is_lock_timeout};
use crate::http::context::CallContext;
use crate::xml::XmlReply;

pub mod key;
mod stored_reply;

use self::key::{IdempotencyKey, check_readable, fingerprint, read_key, read_reference, reference_key};
use self::stored_reply::StoredReply;

/// A request that changes data, with its idempotency key if it has one.
#[derive(Debug)]
pub struct Idempotency<'a> {
    call: &'a CallContext,
    key: Option<Arc<IdempotencyKey>>,
    reference: Option<String>,
}

impl<'a> Idempotency<'a> {
    /// Reads the key, and waits up to `idempotency_wait` for an earlier request with the same key. With the setting
    /// `payment_ref_unique`, the payment reference is the key of a request without one.
    ///
    /// # Errors
    ///
    /// [`ApiError::BadRequest`] for a malformed key or reference, and for an optional parameter that is no text;
    /// [`ApiError::RequestInProgress`] if the earlier request takes longer.
    pub async fn new(call: &'a CallContext, caller: &Caller) -> Result<Self, ApiError> {
        check_readable(&call.operation.spec, &call.params)?;
        let reference = read_reference(&call.operation.spec, &call.params)?;
        let (key, is_reference) = match (read_key(&call.headers, &call.params)?, &reference) {
            (Some(key), _) => (key, false),
            (None, Some(reference)) if call.state.config.payment_ref_unique => (reference_key(reference), true),
            (None, _) => return Ok(Self { call, key: None, reference }),
        };
        let (user_id, operation) = (caller.id(), call.operation.name);
        let lock = call.state.locks.keys.acquire((user_id, operation, key.clone()));
        let lock = call.wait(call.state.config.idempotency_wait, lock).await?;
        let key = IdempotencyKey {
            user_id,
            operation,
            key,
            is_reference,
            fingerprint: fingerprint(&call.params, call.document.as_ref()),
            _lock: lock.ok_or(ApiError::RequestInProgress)?,
        };
        Ok(Self { call, key: Some(Arc::new(key)), reference })
    }

    /// Returns the payment reference, for the payments of the request.
    pub fn reference(&self) -> Option<&str> {
        self.reference.as_deref()
    }

    /// Whether the payment reference is the key. Such a request makes its change in [`change`](Self::change): a
    /// statement that stores the reply itself does not check the reference.
    pub fn is_keyed_by_reference(&self) -> bool {
        self.key.as_ref().is_some_and(|key| key.is_reference)
    }

    /// Returns the key, for a statement that stores the reply itself.
    pub fn key(&self) -> Option<&Arc<IdempotencyKey>> {
        self.key.as_ref()
    }

    /// Whether a reply is stored for the key.
    ///
    /// # Errors
    ///
    /// [`ApiError::KeyReused`] if it belongs to another request.
    pub async fn has_stored_reply(&self) -> Result<bool, ApiError> {
        match &self.key {
            None => Ok(false),
            Some(key) => Ok(self.load_reply::<IgnoredAny>(key).await?.is_some()),
        }
    }

    /// Carries out the change of the request once. `prepare` checks the request without a transaction; `execute` makes
    /// the change in a transaction, which is committed together with the reply under the key. What `prepare` returns,
    /// such as a lock, lives until the commit. If the key has a stored reply, it is returned instead. Errors are stored
    /// and replayed too, except transient ones. If the key is the payment reference, only the reply of a change that
    /// has written a payment is stored.
    ///
    /// `prepare` must read what it needs from the account cache: a cache miss in `execute` would take a second
    /// connection, and requests that hold one while they wait for another can block each other.
    ///
    /// # Errors
    ///
    /// Those of `prepare` and `execute`, and those of the key and the commit.
    pub async fn change<Input, Error: Into<ApiError>, Output: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        prepare: impl Future<Output = Result<Input, Error>>,
        execute: impl AsyncFnOnce(&mut PgConnection, &Input) -> Result<Output, ApiError>,
    ) -> Result<ChangeOutcome<Output>, ApiError> {
        let change = async {
            let input = prepare.await.map_err(Into::into)?;
            let mut transaction = self.call.state.pool.begin().await?;
            if let Some(key) = &self.key {
                self.claim(key, &mut transaction).await?;
                self.check_reference_unused(key, &mut transaction).await?;
            }
            let mut output = execute(&mut transaction, &input).await?;
            let mut is_reply_stored = false;
            if let Some(key) = &self.key {
                is_reply_stored = !key.is_reference || self.is_reference_used(key, &mut transaction).await?;
                match is_reply_stored {
                    true => output = store_output(&mut transaction, key, output).await?,
                    false => release_claim(&mut transaction, key).await?,
                }
            }
            let committed = transaction.commit().await.map_err(ApiError::from_commit_error);
            // Without a stored reply, a retry would be another request.
            committed.map_err(|error| if is_reply_stored { self.with_retry_hint(error) } else { error })?;
            Ok(output)
        };
        let Some(key) = &self.key else { return change.await.map(ChangeOutcome::Done) };
        let mut stored_reply = self.load_reply(key).await?;
        if stored_reply.is_none() {
            match change.await {
                Ok(output) => return Ok(ChangeOutcome::Done(output)),
                // Another server had claimed the key, and may have stored a reply by now.
                Err(ApiError::RequestInProgress) => stored_reply = self.load_reply(key).await?,
                Err(error) if key.is_reference => return Err(error),
                Err(error) => match error.storable_body(self.call.dialect()) {
                    None => return Err(error),
                    // If a reply is stored already, another server carried out the request, which may have caused the
                    // error.
                    Some(body) if self.store_error(key, &body).await? => return Err(error),
                    Some(_) => stored_reply = self.load_reply(key).await?,
                },
            }
        }
        match stored_reply.ok_or(ApiError::RequestInProgress)? {
            StoredReply::Done(output) => Ok(ChangeOutcome::Replayed(output)),
            StoredReply::Refused(body) => Err(ApiError::Replayed(body)),
        }
    }

    /// Turns [`ApiError::CommitUnknown`] into [`ApiError::CommitUnknownRetryable`] if the request has a key: the client
    /// learns the outcome when it repeats the request.
    pub fn with_retry_hint(&self, error: ApiError) -> ApiError {
        match (error, &self.key) {
            (ApiError::CommitUnknown, Some(_)) => ApiError::CommitUnknownRetryable,
            (error, _) => error,
        }
    }

    /// Claims the key until the transaction ends. Another server may hold the claim.
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
            Ok(result) if result.rows_affected() == 1 => Ok(()),
            Ok(_) => Err(ApiError::RequestInProgress),
            Err(error) if is_lock_timeout(&error) => Err(ApiError::RequestInProgress),
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses a reference that the user has used. Requests with the same reference run one at a time from here on, on
    /// all servers, also those for different operations.
    async fn check_reference_unused(
        &self,
        key: &IdempotencyKey,
        connection: &mut PgConnection,
    ) -> Result<(), ApiError> {
        if !key.is_reference {
            return Ok(());
        }
        sqlx::query!(
            "select pg_advisory_xact_lock(hashtextextended('payment reference ' || $1::integer || ' ' || $2, 0))",
            key.user_id,
            self.reference
        )
        .fetch_one(&mut *connection)
        .await?;
        if self.is_reference_used(key, connection).await? { Err(ApiError::PaymentReferenceUsed) } else { Ok(()) }
    }

    /// Whether a payment of the user has the reference.
    async fn is_reference_used(&self, key: &IdempotencyKey, connection: &mut PgConnection) -> sqlx::Result<bool> {
        sqlx::query_scalar!(
            r#"select exists (select from payments where reference = $1 and caller_id = $2) as "used!""#,
            self.reference,
            key.user_id
        )
        .fetch_one(connection)
        .await
    }

    /// Returns the stored reply of the key.
    ///
    /// # Errors
    ///
    /// [`ApiError::KeyReused`] if the reply belongs to another request.
    async fn load_reply<T: DeserializeOwned + Send + 'static>(
        &self,
        key: &IdempotencyKey,
    ) -> Result<Option<StoredReply<T>>, ApiError> {
        let mut connection = self.call.state.pool.acquire().await?;
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
        stored_reply::from_text(row.reply).await.map(Some).map_err(|error| {
            tracing::error!(%error, operation = key.operation, "stored idempotent reply is corrupt");
            ApiError::StoredReplyUnreadable
        })
    }

    /// Stores an error as the reply. Returns `false` if a reply is already stored.
    async fn store_error(&self, key: &IdempotencyKey, body: &ErrorBody) -> Result<bool, ApiError> {
        let mut transaction = self.call.state.pool.begin().await?;
        match self.claim(key, &mut transaction).await {
            Err(ApiError::RequestInProgress) => return Ok(false),
            result => result?,
        }
        let (text, _) = stored_reply::to_text(StoredReply::<()>::Refused(body.clone())).await?;
        store_reply(&mut transaction, key, text).await?;
        transaction.commit().await?;
        Ok(true)
    }

    fn retention_hours(&self) -> i32 {
        i32::try_from(self.call.state.config.idempotency_hours.get()).unwrap_or(i32::MAX)
    }
}

/// The outcome of a change.
#[derive(Debug)]
pub enum ChangeOutcome<T> {
    /// The change was made.
    Done(T),
    /// The change was made for an earlier request with the same key.
    Replayed(T),
}

impl<T> ChangeOutcome<T> {
    /// Renders the reply.
    pub fn render(self, render: impl FnOnce(T) -> XmlReply) -> XmlReply {
        match self {
            Self::Done(output) => render(output),
            Self::Replayed(output) => render(output).into_replayed(),
        }
    }
}

/// Deletes a claimed key without a reply.
async fn release_claim(connection: &mut PgConnection, key: &IdempotencyKey) -> Result<(), ApiError> {
    sqlx::query!(
        "delete from idempotency_keys where user_id = $1 and operation = $2 and key = $3",
        key.user_id,
        key.operation,
        key.key
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Stores the output of a change as the reply of a claimed key. Returns the output.
async fn store_output<T: Serialize + Send + 'static>(
    connection: &mut PgConnection,
    key: &IdempotencyKey,
    output: T,
) -> Result<T, ApiError> {
    let (text, StoredReply::Done(output)) = stored_reply::to_text(StoredReply::Done(output)).await? else {
        return Err(ApiError::TransactionFailed);
    };
    store_reply(connection, key, text).await?;
    Ok(output)
}

/// Stores the text of a reply with its claimed key.
async fn store_reply(connection: &mut PgConnection, key: &IdempotencyKey, text: String) -> Result<(), ApiError> {
    sqlx::query!(
        "update idempotency_keys set reply = $4::text::json where user_id = $1 and operation = $2 and key = $3",
        key.user_id,
        key.operation,
        key.key,
        text
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes keys that are older than `hours`, in small batches so that no request waits long for their locks.
pub async fn purge_expired(pool: &PgPool, hours: u32) {
    const BATCH_SIZE: u64 = 5_000;
    let hours = i32::try_from(hours).unwrap_or(i32::MAX);
    loop {
        let deleted = sqlx::query!(
            "delete from idempotency_keys where ctid = any (array(
                 select ctid from idempotency_keys
                 where created_at < (now() at time zone 'utc') - make_interval(hours => $1)
                 order by created_at limit $2 for update skip locked))",
            hours,
            i64::try_from(BATCH_SIZE).unwrap_or(i64::MAX)
        )
        .execute(pool)
        .await;
        match deleted {
            Ok(result) if result.rows_affected() == BATCH_SIZE => {}
            Ok(_) => return,
            Err(error) => return tracing::debug!(%error, "idempotency key purge failed"),
        }
    }
}
