//! Every refusal that a client can see: its status, where its words stand in the document, and the words in each dialect.

mod database;

use std::borrow::Cow;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use crate::dialect::Dialect;
use crate::xml::XmlReply;

pub use database::map_constraint;

/// A refusal. Those that every operation shares come first, in the order in which they are looked for. Its name, in the manner of
/// `incorrect_hash`, is what it is counted under.
#[derive(Debug, Clone, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum ApiError {
    /// No operation has this name.
    UnknownOperation,
    /// Neither GET, POST nor HEAD.
    MethodNotAllowed,
    /// The request can't be read; says why.
    BadRequest(&'static str),
    /// The body is over the limit.
    BodyTooLarge,
    /// The body didn't come in time.
    BodyTimeout,
    /// There are as many requests, or bodies, as there may be; nothing was done.
    Overloaded,
    /// The client was wrong too often about the user, and is heard again after so many seconds.
    TooManyAttempts(u32),
    /// The database is away, or no connection was free in time; nothing was done.
    Unavailable,

    /// The database was lost while it committed: the request was carried out wholly or not at all, and nobody can say which.
    CommitUnknown,
    /// The same of a request with an idempotency key: sent again, it gets its answer.
    CommitUnknownRetryable,
    /// A request with the same idempotency key is being carried out.
    RequestInProgress,
    /// The idempotency key came with other parameters before.
    KeyReused,
    /// What was answered to the idempotency key before.
    Replayed(ErrorBody),

    /// No such user, or not that user's password.
    BadLogin,
    /// `Allow_API` is off.
    ApiDisabled,
    /// `Allow_GET_API` is off.
    GetDisabled,
    /// No secret key is set.
    NoSecretKey,
    /// The hash isn't right.
    IncorrectHash,
    /// The user may not use calling cards.
    AccessDenied,
    /// Ten cards are the limit without `CC_Active`.
    LimitedVersion,

    /// No such card group, or not the caller's.
    CardgroupNotFound,
    /// No card to sell.
    FreeCardsNotFound,
    /// The card named is sold.
    CardAlreadySold,
    /// No such active currency.
    CurrencyNotFound,
    /// What the pages have no words for.
    TransactionFailed,

    /// Nobody that operations without strict admission know.
    UserUnknown,
    /// Simple users and partners.
    AccessDeniedInPage,
    /// An accountant or reseller without the right.
    NotAuthorized,
    /// Neither 0 nor 1.
    InvalidCompoundTaxFlag,
    /// Neither 0 nor 1: the switch of the tax with this number.
    InvalidTaxFlag(usize),
    /// A card group must have a name.
    CardGroupNameMissing,
    /// The parameter that these words name isn't in its format.
    IncorrectFormat(&'static str),
    /// The text that these words name is longer than MOR's column.
    TooLong(&'static str),
    /// Not a moment between 1970 and 2100.
    InvalidDateFrom,
    /// Likewise.
    InvalidDateTill,
    /// Valid from later than till.
    DateFromAfterTill,
    /// No tariff was asked for, and there is none that the caller may use.
    NoTariffAvailable,
    /// What these words name isn't there, or isn't the caller's to use.
    NotFound(&'static str),
    /// What an operation refuses in these words, in both dialects.
    Refused(&'static str),
    /// Another card group has the name.
    CardGroupNameTaken,
    /// The PIN length isn't a number.
    PinLengthNotDigits,
    /// The PIN length is 0.
    PinLengthZero,
    /// The PIN length is beyond 30.
    PinLengthOutOfRange,
    /// The number length isn't a number from 1 to 30.
    NumberLengthOutOfRange,

    /// What an operation refuses in these words, without a `<status>` around them.
    RefusedWithoutStatus(&'static str),
    /// A card's number hasn't its group's length.
    NumberLengthMismatch(i32),
    /// Nor has its PIN.
    PinLengthMismatch(i32),
    /// There aren't as many PINs of the group's length.
    PinTooShort,
    /// More than this many new cards in one request.
    TooManyCards(u32),

    /// `card_by_cli_update`'s words for [`Fault::TransactionFailed`].
    CallerIdTransactionFailed,
    /// No caller id.
    CallerIdMissing,
    /// The caller id's device is a provider's.
    CallerIdOnProviderDevice,
    /// The caller id's device is another owner's.
    CallerIdDeviceNotOwned,
    /// The card is another owner's.
    CardNotOwned,
    /// No card has the PIN, or it is the caller's own.
    PinNotFound,
    /// There is nothing to move.
    PinBalanceZero,
    /// The PIN's card is sold.
    PinAlreadySold,
    /// The group named isn't the owner's.
    GroupNotOwned {
        /// The words differ by it.
        card_found: bool,
    },
    /// Nothing has the caller id, and no group was named for a new card.
    NoMatch,
    /// A card that an X7 server can't save, and why.
    InvalidCard(String),

    /// All that is wrong with a tariff.
    TariffNotSaved(Vec<&'static str>),
}

/// A refusal as data: its words, and where they stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    #[serde(rename = "form")]
    layout: ErrorLayout,
    #[serde(rename = "words")]
    messages: Vec<Cow<'static, str>>,
}

fn error_body(form: ErrorLayout, words: impl Into<Cow<'static, str>>) -> ErrorBody {
    ErrorBody { layout: form, messages: vec![words.into()] }
}

/// Where the words stand.
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
    /// `<page><error><message>…`, a message each
    PageMessages,
    /// `<response><error><message>…`, a message each
    ResponseMessages,
}

impl ApiError {
    /// The HTTP status: 200 for whatever an operation itself answers, as MOR's clients expect.
    pub fn status(&self, dialect: Dialect) -> StatusCode {
        match self {
            Self::UnknownOperation if dialect == Dialect::Documented => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooManyAttempts(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable | Self::CommitUnknown | Self::CommitUnknownRetryable => StatusCode::SERVICE_UNAVAILABLE,
            Self::RequestInProgress => StatusCode::CONFLICT,
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::OK,
        }
    }

    /// The whole reply.
    pub fn to_reply(&self, dialect: Dialect) -> XmlReply {
        let ErrorBody { layout: form, messages: words } = self.body(dialect);
        let (root, inner, leaf) = match form {
            ErrorLayout::Status => ("status", None, "error"),
            ErrorLayout::Page => ("page", None, "error"),
            ErrorLayout::PageStatus => ("page", Some("status"), "error"),
            ErrorLayout::PageErrorError => ("page", Some("error"), "error"),
            ErrorLayout::PageStatusStatus => ("page", Some("status"), "status"),
            ErrorLayout::PageMessages => ("page", Some("error"), "message"),
            ErrorLayout::ResponseMessages => ("response", Some("error"), "message"),
        };
        XmlReply::new(root, |root| match inner {
            None => root.texts(leaf, &words),
            Some(inner) => root.element(inner, |inner| inner.texts(leaf, &words)),
        })
    }

    /// What is left of it to be said again; nothing of what the moment brought about, and may not the next time.
    pub fn storable_body(&self, dialect: Dialect) -> Option<ErrorBody> {
        (self.status(dialect) == StatusCode::OK).then(|| self.body(dialect))
    }

    /// Its words alone, for an operator.
    pub fn message(&self, dialect: Dialect) -> String {
        self.body(dialect).messages.join(", ")
    }

    /// Its words, and where they stand. Where the dialects differ, both are here.
    fn body(&self, dialect: Dialect) -> ErrorBody {
        use ErrorLayout::{Page, PageErrorError, PageMessages, PageStatus, PageStatusStatus, ResponseMessages, Status};
        let x7 = dialect == Dialect::X7;
        let (form, words) = match self {
            Self::UnknownOperation => (Status, "There is no such API"),
            Self::MethodNotAllowed => (Status, "Method is not allowed"),
            Self::BadRequest(why) => (Status, *why),
            Self::BodyTooLarge => (Status, "Request is too large"),
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
            Self::KeyReused => (Status, "The idempotency key was sent with other parameters before"),
            Self::Replayed(refusal) => return refusal.clone(),
            Self::BadLogin => (Status, "Bad login"),
            Self::ApiDisabled => (Status, "API Requests are disabled"),
            Self::GetDisabled => (Status, "GET Requests are disabled"),
            Self::NoSecretKey => (Status, "API must have Secret Key"),
            Self::IncorrectHash => (Status, "Incorrect hash"),
            Self::AccessDenied => (Status, "Access Denied"),
            Self::LimitedVersion => (Status, "This is a limited version. You can have only 10 Cards."),
            Self::CardgroupNotFound => (PageStatus, "Cardgroup was not found"),
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
            Self::IncorrectFormat(what) => return error_body(PageStatus, format!("{what} is incorrect format")),
            Self::TooLong(what) => return error_body(PageStatus, format!("{what} is too long")),
            Self::InvalidDateFrom if x7 => (PageStatus, "Date from is incorrect format"),
            Self::InvalidDateFrom => (PageStatus, "Invalid date from"),
            Self::InvalidDateTill if x7 => (PageStatus, "Time till is incorrect format"),
            Self::InvalidDateTill => (PageStatus, "Invalid date till"),
            Self::DateFromAfterTill => (PageStatus, "Date from is greater than date till"),
            Self::NoTariffAvailable if x7 => (PageStatus, "Card Group must have name"),
            Self::NoTariffAvailable => (PageStatus, "Tariff was not found"),
            Self::NotFound(what) => return error_body(PageStatus, format!("{what} was not found")),
            Self::Refused(words) => (PageStatus, *words),
            Self::CardGroupNameTaken => (PageStatus, "Card Group name must be unique"),
            Self::PinLengthNotDigits => (PageStatus, "PIN length must consist only of digits"),
            Self::PinLengthZero => (PageStatus, "PIN length must be greater than 0"),
            Self::PinLengthOutOfRange => (PageStatus, "PIN length can be between 1 and 30"),
            Self::NumberLengthOutOfRange => (PageStatus, "Number length can be between 1 and 30"),
            Self::RefusedWithoutStatus(words) => (Page, *words),
            Self::NumberLengthMismatch(length) => {
                return error_body(PageStatus, format!("Bad number length, should be: {length}"));
            }
            Self::PinLengthMismatch(length) => {
                return error_body(PageStatus, format!("Bad PIN length, should be: {length}"));
            }
            Self::PinTooShort => (PageStatus, "PIN is too short for this interval"),
            Self::TooManyCards(most) => {
                return error_body(PageStatus, format!("At most {most} cards can be created at once"));
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
            Self::InvalidCard(flaw) => return error_body(PageErrorError, flaw.clone()),
            Self::TariffNotSaved(messages) => {
                let form = if x7 { PageMessages } else { ResponseMessages };
                return ErrorBody {
                    layout: form,
                    messages: messages.iter().map(|message| Cow::Borrowed(*message)).collect(),
                };
            }
        };
        error_body(form, words)
    }
}
