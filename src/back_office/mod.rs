//! The rules of the back office (`back-office.md`): what operators do, one function each, for the commands and the
//! console. Each change is one transaction, with a row of the change log.

pub mod backup;
pub mod ledger;
pub mod mails;
pub mod reports;
pub mod resellers;
pub mod settings;

/// Why a function of the back office fails. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum BackOfficeError {
    /// The named card, user, card group… does not exist.
    #[error("{0}")]
    NotFound(String),
    /// A rule does not allow the change, or the input is invalid.
    #[error("{0}")]
    Refused(String),
    /// The database failed.
    #[error("database error: {0}")]
    Database(#[from] sqlx::Error),
}

impl BackOfficeError {
    /// Creates the error of a change that a rule does not allow.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::Refused(message.into())
    }
}
