//! The reasons for which an import stops.

use std::path::PathBuf;

use crate::mor_import::source::SourceError;

/// The reason for which an import or a comparison stops. Nothing was changed in the tables of Mortise.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "described by the error messages")]
pub enum ImportError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("PostgreSQL: {0}")]
    Target(#[from] sqlx::Error),
    /// The data or the options do not allow the import; the text says what to do.
    #[error("{0}")]
    Refused(String),
    #[error("cannot write {}: {error}", path.display())]
    Report { path: PathBuf, error: std::io::Error },
}

impl ImportError {
    /// Makes an error of a text that says what to do.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::Refused(message.into())
    }
}
