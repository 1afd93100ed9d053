//! Maps database errors to [`ApiError`].

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use super::ApiError;

/// SQLSTATE: a number does not fit its type.
const NUMERIC_VALUE_OUT_OF_RANGE: &str = "22003";
/// SQLSTATE: a lock was not available within `lock_timeout`.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Constraint and data errors become `TransactionFailed`; connection failures and other database errors become
/// `Unavailable`. The error message is logged; it names constraints and tables. The detail is not logged, because it
/// may quote a row.
impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            // Caused by the client's input: only the database knows that a sum exceeds the range of its column.
            sqlx::Error::Database(error) if error.code().as_deref() == Some(NUMERIC_VALUE_OUT_OF_RANGE) => {
                tracing::warn!(error = error.message(), "amount out of range");
                Self::TransactionFailed
            }
            sqlx::Error::Database(error) if is_data_error(error.code().as_deref()) => {
                tracing::error!(
                    code = error.code().as_deref(),
                    error = error.message(),
                    "database rejected a statement"
                );
                Self::TransactionFailed
            }
            sqlx::Error::Database(error) => {
                tracing::error!(code = error.code().as_deref(), error = error.message(), "database error");
                Self::Unavailable
            }
            sqlx::Error::PoolTimedOut => {
                tracing::warn!("database acquire timeout");
                Self::Unavailable
            }
            // Configuration: a new connection does not have the session settings (`SessionError`).
            sqlx::Error::Io(_)
            | sqlx::Error::Configuration(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolClosed
            | sqlx::Error::BeginFailed
            | sqlx::Error::WorkerCrashed => {
                tracing::error!(%error, "database unreachable");
                Self::Unavailable
            }
            _ => {
                tracing::error!(%error, "query failed");
                Self::TransactionFailed
            }
        }
    }
}

impl ApiError {
    /// Maps an error of a statement that commits. If the connection breaks, the commit outcome is unknown; after any
    /// other error nothing was changed.
    pub fn from_commit_error(error: sqlx::Error) -> Self {
        let may_have_committed = match &error {
            sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
            // 57P01, 57P02: the backend process was stopped, or another one crashed, perhaps after the commit.
            sqlx::Error::Database(error) => {
                // PANIC: the commit may be in the WAL already, and is then in effect after PostgreSQL's recovery.
                let severity = error.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::severity);
                severity == Some(PgSeverity::Panic) || matches!(error.code().as_deref(), Some("57P01" | "57P02"))
            }
            _ => false,
        };
        // The statement was executed, but its rows cannot be decoded.
        let is_decode_error = matches!(&error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_));
        match Self::from(error) {
            Self::Unavailable if may_have_committed => Self::CommitUnknown,
            _ if is_decode_error => Self::CommitUnknown,
            error => error,
        }
    }
}

/// Returns a mapping for `map_err`: a violated constraint with one of these names becomes the error beside it, so that
/// the database decides between concurrent requests. `otherwise` maps all other errors; it depends on whether the
/// statement commits.
pub fn map_constraint<const N: usize>(
    constraint_errors: [(&'static str, ApiError); N],
    otherwise: fn(sqlx::Error) -> ApiError,
) -> impl FnOnce(sqlx::Error) -> ApiError {
    move |error| {
        let violated = error.as_database_error().and_then(|error| error.constraint());
        let mapped = constraint_errors.into_iter().find(|(name, _)| violated == Some(name)).map(|(_, error)| error);
        mapped.unwrap_or_else(|| otherwise(error))
    }
}

/// Whether the SQLSTATE is in one of these classes: data exception (22), integrity constraint violation (23), WITH
/// CHECK OPTION violation (44), program limit exceeded (54, such as a value that is too large for an index).
fn is_data_error(code: Option<&str>) -> bool {
    code.is_some_and(|code| ["22", "23", "44", "54"].iter().any(|class| code.starts_with(class)))
}

/// Whether a statement failed because it could not get a lock within `lock_timeout`.
pub fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).as_deref() == Some(LOCK_NOT_AVAILABLE)
}
