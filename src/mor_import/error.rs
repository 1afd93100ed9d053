//! The reasons for which an import stops.

use std::path::PathBuf;

use crate::db::DatabaseError;
use crate::mor_import::source::SourceError;

/// The reason for which an import or a comparison stops. Nothing was changed in the tables of Mortise.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "described by the error messages")]
pub enum ImportError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("PostgreSQL: {0}")]
    Target(#[from] sqlx::Error),
    /// The data or the options do not allow the import; the text says what to do.
    #[error("{0}")]
    Refused(String),
    #[error("cannot write {}: {error}", path.display())]
    Report { path: PathBuf, error: std::io::Error },
    #[error("cannot write the backup {}: {error}. Nothing was changed", path.display())]
    Backup { path: PathBuf, error: std::io::Error },
}

impl ImportError {
    /// Makes an error of a text that says what to do.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::Refused(message.into())
    }

    /// Whether a connection was lost. The staged rows are still there, and the next run can use them again.
    pub fn is_interruption(&self) -> bool {
        matches!(self, Self::Source(SourceError::Lost(_)) | Self::Target(sqlx::Error::Io(_) | sqlx::Error::Protocol(_)))
    }
}
