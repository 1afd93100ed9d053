//! Why the console does not answer with the page. `router::admit` renders the error as a page.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::back_office::BackOfficeError;

/// The reason for which the console refuses a request. Nothing was changed then, except with
/// [`OutcomeUnknown`](Self::OutcomeUnknown).
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
    /// The body did not arrive within `body_timeout_ms`.
    #[error("The form did not arrive completely. Check your connection, and send it again.")]
    BodyTimeout,
    /// A form without a file is too long, with the limit in KiB.
    #[error("The form is longer than {0} KiB.")]
    LongForm(usize),
    /// Too many searches and files that could guess PINs, with the remaining seconds.
    #[error("Too many searches without a result, or files with used numbers or PINs. Try again in {0} seconds.")]
    TooManyGuesses(u32),
    /// The console does too much of the same at once.
    #[error("{0}")]
    Busy(String),
    /// The request is malformed.
    #[error("The request cannot be read: {0}")]
    Malformed(String),
    /// A file is too large, with the limit in MiB.
    #[error(
        "The file is larger than {0} MiB. Split it, or use a command on the machine of the server: docs/commands.md."
    )]
    TooLarge(usize),
    /// The change may have been made: the commit has failed, or the page that follows it cannot be shown.
    #[error("{0}")]
    OutcomeUnknown(Box<Self>),
    /// The database failed. The log has the error.
    #[error("The database does not answer. Try again in a minute.")]
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
pub struct ErrorText {
    /// What the page says.
    pub message: String,
    /// Whether a change may have been made.
    pub is_outcome_unknown: bool,
}

impl ConsoleError {
    /// The database has ended the change, because others hold a lock for too long.
    pub(super) fn database_busy() -> Self {
        Self::Busy("The database is busy. Try again in a minute.".to_owned())
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Forbidden(_) | Self::ForeignForm => StatusCode::FORBIDDEN,
            Self::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooManyAttempts(_) | Self::TooManyGuesses(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge(_) | Self::LongForm(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Database(error) if is_bad_value(error) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Database(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Template(_) | Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::OutcomeUnknown(error) => error.status(),
        }
    }
}

impl From<BackOfficeError> for ConsoleError {
    fn from(error: BackOfficeError) -> Self {
        match error {
            BackOfficeError::NotFound(message) => Self::NotFound(sentence(&message)),
            BackOfficeError::Refused(message) => Self::Refused(sentence(&message)),
            BackOfficeError::Database(error) => Self::Database(error),
        }
    }
}

/// Makes a sentence of a reason: with a capital letter and a full stop.
pub(super) fn sentence(reason: &str) -> String {
    let mut chars = reason.chars();
    let first = chars.next().map(char::to_uppercase).into_iter().flatten();
    let mut text: String = first.chain(chars).collect();
    if !text.ends_with(['.', '?', '!', ':']) {
        text.push('.');
    }
    text
}

/// Whether the database refuses a value, such as a NUL character (errors of the class 22).
fn is_bad_value(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code.starts_with("22"))
}

impl IntoResponse for ConsoleError {
    fn into_response(self) -> Response {
        let (error, is_outcome_unknown) = match self {
            Self::OutcomeUnknown(error) => (*error, true),
            error => (error, false),
        };
        let mut message = error.to_string();
        match &error {
            Self::Database(error) if is_bad_value(error) => {
                message = "A value has a character or a size that the database does not accept.".to_owned();
            }
            Self::Database(error) => tracing::error!(%error, "database error in the console"),
            Self::Template(error) => tracing::error!(error = format!("{error:#}"), "template error in the console"),
            Self::Failed(error) => tracing::error!(%error, "failure in the console"),
            _ => {}
        }
        let mut response = error.status().into_response();
        response.extensions_mut().insert(ErrorText { message, is_outcome_unknown });
        response
    }
}
