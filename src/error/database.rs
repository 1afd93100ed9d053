//! What the database's errors mean to a client.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use super::ApiError;

/// The SQLSTATE of a number that doesn't fit.
const NUMERIC_VALUE_OUT_OF_RANGE: &str = "22003";

/// What the database refuses by its own rules failed as a transaction; anything else means that it can't be reached. The
/// error itself goes to the log; it names rules and tables, and its detail, which may quote a row, stays out.
impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            // Only the database knows when a sum grows too large for its column: that is the client's doing.
            sqlx::Error::Database(refusal) if refusal.code().as_deref() == Some(NUMERIC_VALUE_OUT_OF_RANGE) => {
                tracing::warn!(refusal = refusal.message(), "an amount is too large");
                Self::TransactionFailed
            }
            sqlx::Error::Database(refusal) if is_data_error(refusal.code().as_deref()) => {
                tracing::error!(
                    code = refusal.code().as_deref(),
                    refusal = refusal.message(),
                    "the database refused a change"
                );
                Self::TransactionFailed
            }
            sqlx::Error::Database(trouble) => {
                tracing::error!(
                    code = trouble.code().as_deref(),
                    trouble = trouble.message(),
                    "the database is in trouble"
                );
                Self::Unavailable
            }
            sqlx::Error::PoolTimedOut => {
                tracing::warn!("no database connection was free in time");
                Self::Unavailable
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolClosed
            | sqlx::Error::BeginFailed
            | sqlx::Error::WorkerCrashed => {
                tracing::error!(%error, "the database is away");
                Self::Unavailable
            }
            _ => {
                tracing::error!(%error, "a query failed");
                Self::TransactionFailed
            }
        }
    }
}

impl ApiError {
    /// Of a statement that commits. A connection that breaks then leaves it open what became of the change; whatever else
    /// goes wrong, it wasn't made.
    pub fn from_commit_error(error: sqlx::Error) -> Self {
        let lost = match &error {
            sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
            // The server process was told to stop, or another one crashed: perhaps after it had committed.
            sqlx::Error::Database(error) => {
                // In a panic the commit may be in the log already, and stand when PostgreSQL has recovered.
                let panic = error.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::severity);
                panic == Some(PgSeverity::Panic) || matches!(error.code().as_deref(), Some("57P01" | "57P02"))
            }
            _ => false,
        };
        // The statement was carried out; only its rows can't be read.
        let unread = matches!(&error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_));
        match Self::from(error) {
            Self::Unavailable if lost => Self::CommitUnknown,
            _ if unread => Self::CommitUnknown,
            fault => fault,
        }
    }
}

/// What a broken constraint of one of these names means to the client: the database decides who came first. Any other error
/// goes to `otherwise`, which knows whether the statement commits.
pub fn map_constraint<const N: usize>(
    faults: [(&'static str, ApiError); N],
    otherwise: fn(sqlx::Error) -> ApiError,
) -> impl FnOnce(sqlx::Error) -> ApiError {
    move |error| {
        let broken = error.as_database_error().and_then(|error| error.constraint());
        let fault = faults.into_iter().find(|(name, _)| broken == Some(name)).map(|(_, fault)| fault);
        fault.unwrap_or_else(|| otherwise(error))
    }
}

/// SQLSTATE classes of data exceptions (22), broken constraints (23, 44), and values too large to be kept (54).
fn is_data_error(code: Option<&str>) -> bool {
    code.is_some_and(|code| ["22", "23", "44", "54"].iter().any(|class| code.starts_with(class)))
}
