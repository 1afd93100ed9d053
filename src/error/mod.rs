//! Every refusal that a client can receive: its HTTP status, its XML layout, and its message in each dialect.

mod database;

use std::borrow::Cow;

use axum::http::StatusCode;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use crate::dialect::Dialect;
use crate::xml::{FileReply, XmlReply};

pub use database::{is_lock_timeout, map_constraint};

/// A refusal. The variants that all operations share come first, in the order of the checks. The variant's name in
/// snake case, such as `incorrect_hash`, is the value of the metric label `outcome`.
#[derive(Debug, Clone, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum ApiError {
    /// No operation has this name.
    UnknownOperation,
    /// Neither GET, POST nor HEAD.
    MethodNotAllowed,
    /// The request cannot be parsed; the reason is the message.
    BadRequest(&'static str),
    /// The body exceeds `max_body`.
    BodyTooLarge,
    /// The body has a `Content-Encoding`.
    UnsupportedEncoding,
    /// The body did not arrive within `body_timeout_ms`.
    BodyTimeout,
    /// `max_requests` or `max_body_memory` is reached; nothing was changed.
    Overloaded,
    /// Too many failed attempts of this client for this user; the lockout ends after this many seconds.
    TooManyAttempts(u32),
    /// The database is unreachable, or no connection was free in time; nothing was changed.
    Unavailable,

    /// The connection to the database broke during the commit: the change was made completely or not at all, and the
    /// server does not know which.
    CommitUnknown,
    /// Like `CommitUnknown`, for a request with an idempotency key: a retry with the same key gets the reply.
    CommitUnknownRetryable,
    /// A request with the same idempotency key is in progress.
    RequestInProgress,
    /// The reply that is stored for the idempotency key cannot be read: the request was carried out or refused before.
    StoredReplyUnreadable,
    /// The idempotency key was used before with other parameters.
    KeyReused,
    /// The payment reference was used before: `payment_ref_unique` allows it once.
    PaymentReferenceUsed,
    /// The stored refusal of an earlier request with the same idempotency key.
    Replayed(ErrorBody),

    /// The user does not exist, or the password is wrong.
    BadLogin,
    /// `Allow_API` is off.
    ApiDisabled,
    /// `Allow_GET_API` is off.
    GetDisabled,
    /// No secret key is set.
    NoSecretKey,
    /// The hash is wrong.
    IncorrectHash,
    /// The user may not use calling cards.
    AccessDenied,
    /// The limit of ten cards without `CC_Active`.
    LimitedVersion,

    /// The card group does not exist, or belongs to another owner.
    CardGroupNotFound,
    /// No card is free.
    FreeCardsNotFound,
    /// The requested card is sold.
    CardAlreadySold,
    /// No active currency has this name.
    CurrencyNotFound,
    /// Any other failure of a change; the contract has no message of its own for it.
    TransactionFailed,

    /// The user does not exist, in operations without strict admission.
    UserUnknown,
    /// The user does not exist, or the user type may not use the operation: simple users and partners.
    AccessDeniedInPage,
    /// An accountant or reseller without the right.
    NotAuthorized,
    /// The flag is neither 0 nor 1.
    InvalidCompoundTaxFlag,
    /// The flag that enables the tax with this number is neither 0 nor 1.
    InvalidTaxFlag(usize),
    /// A card group must have a name.
    CardGroupNameMissing,
    /// The parameter with this display name is malformed.
    IncorrectFormat(&'static str),
    /// The text with this display name is longer than MOR's column.
    TooLong(&'static str),
    /// Not a time between 1970 and 2100.
    InvalidDateFrom,
    /// Not a time between 1970 and 2100.
    InvalidDateTill,
    /// The start of the validity is after its end.
    DateFromAfterTill,
    /// No tariff was requested, and the caller may use none.
    NoTariffAvailable,
    /// The object with this display name does not exist, or the caller may not use it.
    NotFound(&'static str),
    /// A refusal of one operation, with this message in both dialects.
    Refused(&'static str),
    /// Another card group has the name.
    CardGroupNameTaken,
    /// The PIN length is not a number.
    PinLengthNotDigits,
    /// The PIN length is 0.
    PinLengthZero,
    /// The PIN length is greater than 30.
    PinLengthOutOfRange,
    /// The number length is not a number from 1 to 30.
    NumberLengthOutOfRange,

    /// Like `Refused`, without the element `<status>`.
    RefusedWithoutStatus(&'static str),
    /// The card number does not have the group's length, which is this.
    NumberLengthMismatch(i32),
    /// The PIN does not have the group's length, which is this.
    PinLengthMismatch(i32),
    /// The group's PIN length does not allow enough different PINs.
    PinTooShort,
    /// More new cards in one request than this limit.
    TooManyCards(u32),

    /// [`ApiError::TransactionFailed`] in the layout of `card_by_cli_update`.
    CallerIdTransactionFailed,
    /// No caller id was sent.
    CallerIdMissing,
    /// The caller id belongs to a device of a provider.
    CallerIdOnProviderDevice,
    /// The caller id belongs to a device of another owner.
    CallerIdDeviceNotOwned,
    /// The card belongs to another owner.
    CardNotOwned,
    /// The caller's owner has no card with the PIN, or that card has the caller id already.
    PinNotFound,
    /// The card with the PIN has no balance to move.
    PinBalanceZero,
    /// The card with the PIN is sold.
    PinAlreadySold,
    /// The requested group belongs to another owner.
    GroupNotOwned {
        /// Whether the caller id has a card: the X7 message depends on it.
        card_found: bool,
    },
    /// Nothing has the caller id, and no group for a new card was sent.
    NoMatch,
    /// An X7 server cannot save the card; the reason is the message.
    InvalidCard(String),

    /// The validation errors of a tariff.
    TariffNotSaved(Vec<&'static str>),
    /// A refusal of `tariff_rates_get`, which is sent like its lists: as a zip file unless `test=1`.
    TariffRatesRefused(&'static str),
    /// A refusal of an import, with this message in both dialects.
    ImportRefused(Cow<'static, str>),
    /// An import without a document.
    ImportDocumentMissing,
}

/// A refusal as data: its messages and their layout. Stored replies contain it as JSON, with the keys `form` and
/// `words`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    #[serde(rename = "form")]
    layout: ErrorLayout,
    #[serde(rename = "words")]
    messages: Vec<Cow<'static, str>>,
}

fn error_body(layout: ErrorLayout, message: impl Into<Cow<'static, str>>) -> ErrorBody {
    ErrorBody { layout, messages: vec![message.into()] }
}

/// The elements around the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum ErrorLayout {
    /// `<status><error>…`
    Status,
    /// `<page><error>…`
    Page,
    /// `<page><status><error>…`
    PageStatus,
    /// `<page><error><error>…`
    PageErrorError,
    /// `<page><status><status>…`
    PageStatusStatus,
    /// `<page><error><message>…`, one `<message>` for each
    PageMessages,
    /// `<response><error><message>…`, one `<message>` for each
    ResponseMessages,
    /// The text of `tariff_rates_get`, with spaces of its own
    TariffRates,
    /// `<response><error>…`
    Response,
}

impl ApiError {
    /// Returns the HTTP status. Refusals by an operation have 200, as MOR's clients expect.
    pub fn status(&self, dialect: Dialect) -> StatusCode {
        match self {
            Self::UnknownOperation if dialect == Dialect::Documented => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooManyAttempts(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable | Self::CommitUnknown | Self::CommitUnknownRetryable | Self::StoredReplyUnreadable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::RequestInProgress | Self::PaymentReferenceUsed => StatusCode::CONFLICT,
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::OK,
        }
    }

    /// Returns the reply to the client.
    pub fn to_reply(&self, dialect: Dialect) -> XmlReply {
        let ErrorBody { layout, messages } = self.body(dialect);
        let (root, inner, leaf) = match layout {
            ErrorLayout::TariffRates => return tariff_rates_error(&messages.concat()),
            ErrorLayout::Status => ("status", None, "error"),
            ErrorLayout::Page => ("page", None, "error"),
            ErrorLayout::PageStatus => ("page", Some("status"), "error"),
            ErrorLayout::PageErrorError => ("page", Some("error"), "error"),
            ErrorLayout::PageStatusStatus => ("page", Some("status"), "status"),
            ErrorLayout::PageMessages => ("page", Some("error"), "message"),
            ErrorLayout::ResponseMessages => ("response", Some("error"), "message"),
            ErrorLayout::Response => ("response", None, "error"),
        };
        XmlReply::new(root, |root| match inner {
            None => root.texts(leaf, &messages),
            Some(inner) => root.element(inner, |inner| inner.texts(leaf, &messages)),
        })
    }

    /// Maps an error of a temporary file, such as a full disk.
    pub fn from_file_error(error: std::io::Error) -> Self {
        tracing::error!(%error, "temporary file failed");
        Self::Unavailable
    }

    /// Returns the error body to store for replay; `None` for transient errors.
    pub fn storable_body(&self, dialect: Dialect) -> Option<ErrorBody> {
        (self.status(dialect) == StatusCode::OK).then(|| self.body(dialect))
    }

    /// Returns the message as plain text, for operators.
    pub fn message(&self, dialect: Dialect) -> String {
        self.body(dialect).messages.join(", ")
    }

    /// Returns the messages and their layout in a dialect.
    fn body(&self, dialect: Dialect) -> ErrorBody {
        use ErrorLayout::{Page, PageErrorError, PageMessages, PageStatus, PageStatusStatus};
        use ErrorLayout::{Response, ResponseMessages, Status, TariffRates};
        let x7 = dialect == Dialect::X7;
        let (layout, message) = match self {
            Self::UnknownOperation => (Status, "There is no such API"),
            Self::MethodNotAllowed => (Status, "Method is not allowed"),
            Self::BadRequest(reason) => (Status, *reason),
            Self::BodyTooLarge => (Status, "Request is too large"),
            Self::UnsupportedEncoding => (Status, "Request body must have no Content-Encoding"),
            Self::BodyTimeout => (Status, "Request body did not come in time"),
            Self::Overloaded => (Status, "Too many requests at once"),
            Self::TooManyAttempts(_) => (Status, "Too many wrong attempts"),
            Self::Unavailable => (Status, "Service is temporarily unavailable"),
            Self::CommitUnknown => {
                (Status, "The database was lost during the request, which may have been carried out")
            }
            Self::CommitUnknownRetryable => {
                (Status, "The database was lost during the request: send it again with the same idempotency key")
            }
            Self::RequestInProgress => (Status, "A request with this idempotency key is being carried out"),
            Self::StoredReplyUnreadable => {
                (Status, "The stored reply cannot be read: the request was carried out or refused before")
            }
            Self::KeyReused => (Status, "The idempotency key was sent with other parameters before"),
            Self::PaymentReferenceUsed => (Status, "Payment reference already used"),
            Self::Replayed(body) => return body.clone(),
            Self::BadLogin => (Status, "Bad login"),
            Self::ApiDisabled => (Status, "API Requests are disabled"),
            Self::GetDisabled => (Status, "GET Requests are disabled"),
            Self::NoSecretKey => (Status, "API must have Secret Key"),
            Self::IncorrectHash => (Status, "Incorrect hash"),
            Self::AccessDenied => (Status, "Access Denied"),
            Self::LimitedVersion => (Status, "This is a limited version. You can have only 10 Cards."),
            Self::CardGroupNotFound => (PageStatus, "Cardgroup was not found"),
            Self::FreeCardsNotFound => (PageStatus, "Free cards was not found"),
            Self::CardAlreadySold => (PageStatus, "Card is already sold"),
            Self::CurrencyNotFound => (PageStatus, "Currency was not found"),
            Self::TransactionFailed => (PageStatus, "Failed to make transaction"),
            Self::UserUnknown => (if x7 { Page } else { PageStatus }, "Access Denied"),
            Self::AccessDeniedInPage => (PageStatus, "Access Denied"),
            Self::NotAuthorized => (PageStatus, "You are not authorized to use this functionality"),
            Self::InvalidCompoundTaxFlag => (PageStatus, "Compound TAX enabling value is incorrect format"),
            Self::InvalidTaxFlag(number) => {
                return error_body(PageStatus, format!("TAX {number} enabling value is incorrect format"));
            }
            Self::CardGroupNameMissing if x7 => (PageStatusStatus, "Card Group must have name"),
            Self::CardGroupNameMissing => (PageStatus, "Card Group must have name"),
            Self::IncorrectFormat(name) => return error_body(PageStatus, format!("{name} is incorrect format")),
            Self::TooLong(name) => return error_body(PageStatus, format!("{name} is too long")),
            Self::InvalidDateFrom if x7 => (PageStatus, "Date from is incorrect format"),
            Self::InvalidDateFrom => (PageStatus, "Invalid date from"),
            Self::InvalidDateTill if x7 => (PageStatus, "Time till is incorrect format"),
            Self::InvalidDateTill => (PageStatus, "Invalid date till"),
            Self::DateFromAfterTill => (PageStatus, "Date from is greater than date till"),
            Self::NoTariffAvailable if x7 => (PageStatus, "Card Group must have name"),
            Self::NoTariffAvailable => (PageStatus, "Tariff was not found"),
            Self::NotFound(name) => return error_body(PageStatus, format!("{name} was not found")),
            Self::Refused(message) => (PageStatus, *message),
            Self::CardGroupNameTaken => (PageStatus, "Card Group name must be unique"),
            Self::PinLengthNotDigits => (PageStatus, "PIN length must consist only of digits"),
            Self::PinLengthZero => (PageStatus, "PIN length must be greater than 0"),
            Self::PinLengthOutOfRange => (PageStatus, "PIN length can be between 1 and 30"),
            Self::NumberLengthOutOfRange => (PageStatus, "Number length can be between 1 and 30"),
            Self::RefusedWithoutStatus(message) => (Page, *message),
            Self::NumberLengthMismatch(length) => {
                return error_body(PageStatus, format!("Bad number length, should be: {length}"));
            }
            Self::PinLengthMismatch(length) => {
                return error_body(PageStatus, format!("Bad PIN length, should be: {length}"));
            }
            Self::PinTooShort => (PageStatus, "PIN is too short for this interval"),
            Self::TooManyCards(limit) => {
                return error_body(PageStatus, format!("At most {limit} cards can be created at once"));
            }
            Self::CallerIdTransactionFailed => (Page, "Failed to make transaction"),
            Self::CallerIdMissing => (Page, "Callerid must be specified"),
            Self::CallerIdOnProviderDevice | Self::CallerIdDeviceNotOwned if x7 => {
                (Page, "You do not have permission to add to user's balance")
            }
            Self::CallerIdOnProviderDevice => (Page, "Callerid belongs to provider"),
            Self::CallerIdDeviceNotOwned => {
                (Page, "Device allready have such callerid, but you do not have permission to change user's balance")
            }
            Self::CardNotOwned => (Page, "You do not have permission to access card"),
            Self::PinNotFound if x7 => (Page, "PIN number not found"),
            Self::PinNotFound => (Page, "Card was not found"),
            Self::PinBalanceZero => (Page, "PIN number balance is zero"),
            Self::PinAlreadySold if x7 => (PageErrorError, "Cannot sell already sold card"),
            Self::PinAlreadySold => (Page, "PIN number already sold"),
            Self::GroupNotOwned { card_found: true } if x7 => (Page, "You do not have permission to access cardgroup"),
            Self::GroupNotOwned { .. } => (Page, "Supplied Cardgroup_id is invalid"),
            Self::NoMatch if x7 => (Page, "Supplied Cardgroup_id is invalid"),
            Self::NoMatch => (Page, "Card was not found"),
            Self::TariffRatesRefused(message) => (TariffRates, *message),
            Self::InvalidCard(reason) => return error_body(PageErrorError, reason.clone()),
            Self::ImportDocumentMissing => (Response, if x7 { "No XML" } else { "File does not exist" }),
            Self::ImportRefused(message) => return error_body(Response, message.clone()),
            Self::TariffNotSaved(messages) => {
                let layout = if x7 { PageMessages } else { ResponseMessages };
                let messages = messages.iter().map(|message| Cow::Borrowed(*message)).collect();
                return ErrorBody { layout, messages };
            }
        };
        error_body(layout, message)
    }
}

fn tariff_rates_error(message: &str) -> XmlReply {
    let indent = " ".repeat(17);
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{indent}<page><status><error>{message}</error></status></page>"
    );
    XmlReply::File(FileReply::of_tariff(stream::iter([Ok(text.into_bytes())])))
}
