//! Why the console does not answer with the page. `router::admit` renders the error as a page.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::back_office::BackOfficeError;

/// The reason for which the console refuses a request. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The page, or what it shows, does not exist or belongs to another owner.
    #[error("{0}")]
    NotFound(String),
    /// The account may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// A rule does not allow the change, or a field is invalid.
    #[error("{0}")]
    Refused(String),
    /// The form was sent from another site, or from a page of another session.
    #[error("The form is not of this session. Go back, load the page again, and repeat the change.")]
    ForeignForm,
    /// Too many wrong passwords or codes, with the remaining seconds of the lockout.
    #[error("Too many wrong passwords or codes. Try again in {0} seconds.")]
    TooManyAttempts(u32),
    /// The request is malformed.
    #[error("The request cannot be read: {0}")]
    Malformed(String),
    /// The database failed, or the outcome of a change is unknown. The log has the error.
    #[error("The database does not answer. Nothing is lost: load the page again.")]
    Database(#[from] sqlx::Error),
    /// A template is wrong. The log has the error.
    #[error("The page cannot be shown. The log of the server has the reason.")]
    Template(#[from] minijinja::Error),
    /// Any other failure. The log has the error.
    #[error("The server cannot answer. The log of the server has the reason.")]
    Failed(String),
}

/// The text of an error, for the page that shows it.
#[derive(Debug, Clone)]
pub struct ErrorText(pub String);

impl ConsoleError {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Forbidden(_) | Self::ForeignForm => StatusCode::FORBIDDEN,
            Self::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooManyAttempts(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Database(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Template(_) | Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<BackOfficeError> for ConsoleError {
    fn from(error: BackOfficeError) -> Self {
        match error {
            BackOfficeError::NotFound(message) => Self::NotFound(message),
            BackOfficeError::Refused(message) => Self::Refused(message),
            BackOfficeError::Database(error) => Self::Database(error),
        }
    }
}

impl IntoResponse for ConsoleError {
    fn into_response(self) -> Response {
        match &self {
            Self::Database(error) => tracing::error!(%error, "database error in the console"),
            Self::Template(error) => tracing::error!(error = format!("{error:#}"), "template error in the console"),
            Self::Failed(error) => tracing::error!(%error, "failure in the console"),
            _ => {}
        }
        let mut response = self.status().into_response();
        response.extensions_mut().insert(ErrorText(self.to_string()));
        response
    }
}
