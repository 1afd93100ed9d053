//! Every refusal that a client can see: its status, where its words stand in the document, and the words in each dialect.

mod database;

use std::borrow::Cow;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use crate::dialect::Dialect;
use crate::xml::Document;

pub use database::on_constraints;

/// A refusal. Those that every operation shares come first, in the order in which they are looked for. Its name, in the manner of
/// `incorrect_hash`, is what it is counted under.
#[derive(Debug, Clone, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Fault {
    /// No operation has this name.
    UnknownOperation,
    /// Neither GET, POST nor HEAD.
    MethodNotAllowed,
    /// The request can't be read; says why.
    BadRequest(&'static str),
    /// The body is over the limit.
    BodyTooLarge,
    /// The body didn't come in time.
    BodyTooSlow,
    /// There are as many requests, or bodies, as there may be; nothing was done.
    Busy,
    /// The client was wrong too often about the user, and is heard again after so many seconds.
    TooManyGuesses(u32),
    /// The database is away, or no connection was free in time; nothing was done.
    Unavailable,

    /// The database was lost while it committed: the request was carried out wholly or not at all, and nobody can say which.
    OutcomeUnknown,
    /// The same of a request with an idempotency key: sent again, it gets its answer.
    OutcomeToAskFor,
    /// A request with the same idempotency key is being carried out.
    StillRunning,
    /// The idempotency key came with other parameters before.
    KeyOfAnotherRequest,
    /// What was answered to the idempotency key before.
    Repeated(Refusal),

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
    AccessDeniedOnPage,
    /// An accountant or reseller without the right.
    NotAuthorized,
    /// Neither 0 nor 1.
    CompoundTaxFormat,
    /// Neither 0 nor 1: the switch of the tax with this number.
    TaxSwitchFormat(usize),
    /// A card group must have a name.
    CardGroupWithoutName,
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
    NoTariffAtAll,
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
    RefusedOnPage(&'static str),
    /// A card's number hasn't its group's length.
    NumberLength(i32),
    /// Nor has its PIN.
    PinLength(i32),
    /// There aren't as many PINs of the group's length.
    PinTooShort,
    /// More than this many new cards in one request.
    TooManyCards(u32),

    /// `card_by_cli_update`'s words for [`Fault::TransactionFailed`].
    CallerIdFailed,
    /// No caller id.
    CallerIdMissing,
    /// The caller id's device is a provider's.
    CallerIdOfProvider,
    /// The caller id's device is another owner's.
    CallerIdOfOthersDevice,
    /// The card is another owner's.
    CardOfAnotherOwner,
    /// No card has the PIN, or it is the caller's own.
    PinNotFound,
    /// There is nothing to move.
    PinBalanceZero,
    /// The PIN's card is sold.
    PinAlreadySold,
    /// The group named isn't the owner's.
    GroupNotTheOwners {
        /// The words differ by it.
        card_found: bool,
    },
    /// Nothing has the caller id, and no group was named for a new card.
    NothingFound,
    /// A card that an X7 server can't save, and why.
    CardUnsound(String),

    /// All that is wrong with a tariff.
    TariffNotSaved(Vec<&'static str>),
}

/// A refusal as data: its words, and where they stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    form: Form,
    words: Vec<Cow<'static, str>>,
}

fn one(form: Form, words: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal { form, words: vec![words.into()] }
}

/// Where the words stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Form {
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

impl Fault {
    /// The HTTP status: 200 for whatever an operation itself answers, as MOR's clients expect.
    pub fn status(&self, dialect: Dialect) -> StatusCode {
        match self {
            Self::UnknownOperation if dialect == Dialect::Documented => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooManyGuesses(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable | Self::OutcomeUnknown | Self::OutcomeToAskFor => StatusCode::SERVICE_UNAVAILABLE,
            Self::StillRunning => StatusCode::CONFLICT,
            Self::KeyOfAnotherRequest => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::OK,
        }
    }

    /// The whole reply.
    pub fn document(&self, dialect: Dialect) -> Document {
        let Refusal { form, words } = self.words(dialect);
        let (root, inner, leaf) = match form {
            Form::Status => ("status", None, "error"),
            Form::Page => ("page", None, "error"),
            Form::PageStatus => ("page", Some("status"), "error"),
            Form::PageErrorError => ("page", Some("error"), "error"),
            Form::PageStatusStatus => ("page", Some("status"), "status"),
            Form::PageMessages => ("page", Some("error"), "message"),
            Form::ResponseMessages => ("response", Some("error"), "message"),
        };
        Document::new(root, |root| match inner {
            None => root.texts(leaf, &words),
            Some(inner) => root.element(inner, |inner| inner.texts(leaf, &words)),
        })
    }

    /// What is left of it to be said again; nothing of what the moment brought about, and may not the next time.
    pub fn refusal(&self, dialect: Dialect) -> Option<Refusal> {
        (self.status(dialect) == StatusCode::OK).then(|| self.words(dialect))
    }

    /// Its words alone, for an operator.
    pub fn message(&self, dialect: Dialect) -> String {
        self.words(dialect).words.join(", ")
    }

    /// Its words, and where they stand. Where the dialects differ, both are here.
    fn words(&self, dialect: Dialect) -> Refusal {
        use Form::{Page, PageErrorError, PageMessages, PageStatus, PageStatusStatus, ResponseMessages, Status};
        let x7 = dialect == Dialect::X7;
        let (form, words) = match self {
            Self::UnknownOperation => (Status, "There is no such API"),
            Self::MethodNotAllowed => (Status, "Method is not allowed"),
            Self::BadRequest(why) => (Status, *why),
            Self::BodyTooLarge => (Status, "Request is too large"),
            Self::BodyTooSlow => (Status, "Request body did not come in time"),
            Self::Busy => (Status, "Too many requests at once"),
            Self::TooManyGuesses(_) => (Status, "Too many wrong attempts"),
            Self::Unavailable => (Status, "Service is temporarily unavailable"),
            Self::OutcomeUnknown => {
                (Status, "The database was lost during the request, which may have been carried out")
            }
            Self::OutcomeToAskFor => {
                (Status, "The database was lost during the request: send it again with the same idempotency key")
            }
            Self::StillRunning => (Status, "A request with this idempotency key is being carried out"),
            Self::KeyOfAnotherRequest => (Status, "The idempotency key was sent with other parameters before"),
            Self::Repeated(refusal) => return refusal.clone(),
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
            Self::AccessDeniedOnPage => (PageStatus, "Access Denied"),
            Self::NotAuthorized => (PageStatus, "You are not authorized to use this functionality"),
            Self::CompoundTaxFormat => (PageStatus, "Compound TAX enabling value is incorrect format"),
            Self::TaxSwitchFormat(number) => {
                return one(PageStatus, format!("TAX {number} enabling value is incorrect format"));
            }
            Self::CardGroupWithoutName if x7 => (PageStatusStatus, "Card Group must have name"),
            Self::CardGroupWithoutName => (PageStatus, "Card Group must have name"),
            Self::IncorrectFormat(what) => return one(PageStatus, format!("{what} is incorrect format")),
            Self::TooLong(what) => return one(PageStatus, format!("{what} is too long")),
            Self::InvalidDateFrom if x7 => (PageStatus, "Date from is incorrect format"),
            Self::InvalidDateFrom => (PageStatus, "Invalid date from"),
            Self::InvalidDateTill if x7 => (PageStatus, "Time till is incorrect format"),
            Self::InvalidDateTill => (PageStatus, "Invalid date till"),
            Self::DateFromAfterTill => (PageStatus, "Date from is greater than date till"),
            Self::NoTariffAtAll if x7 => (PageStatus, "Card Group must have name"),
            Self::NoTariffAtAll => (PageStatus, "Tariff was not found"),
            Self::NotFound(what) => return one(PageStatus, format!("{what} was not found")),
            Self::Refused(words) => (PageStatus, *words),
            Self::CardGroupNameTaken => (PageStatus, "Card Group name must be unique"),
            Self::PinLengthNotDigits => (PageStatus, "PIN length must consist only of digits"),
            Self::PinLengthZero => (PageStatus, "PIN length must be greater than 0"),
            Self::PinLengthOutOfRange => (PageStatus, "PIN length can be between 1 and 30"),
            Self::NumberLengthOutOfRange => (PageStatus, "Number length can be between 1 and 30"),
            Self::RefusedOnPage(words) => (Page, *words),
            Self::NumberLength(length) => {
                return one(PageStatus, format!("Bad number length, should be: {length}"));
            }
            Self::PinLength(length) => {
                return one(PageStatus, format!("Bad PIN length, should be: {length}"));
            }
            Self::PinTooShort => (PageStatus, "PIN is too short for this interval"),
            Self::TooManyCards(most) => {
                return one(PageStatus, format!("At most {most} cards can be created at once"));
            }
            Self::CallerIdFailed => (Page, "Failed to make transaction"),
            Self::CallerIdMissing => (Page, "Callerid must be specified"),
            Self::CallerIdOfProvider | Self::CallerIdOfOthersDevice if x7 => {
                (Page, "You do not have permission to add to user's balance")
            }
            Self::CallerIdOfProvider => (Page, "Callerid belongs to provider"),
            Self::CallerIdOfOthersDevice => {
                (Page, "Device allready have such callerid, but you do not have permission to change user's balance")
            }
            Self::CardOfAnotherOwner => (Page, "You do not have permission to access card"),
            Self::PinNotFound if x7 => (Page, "PIN number not found"),
            Self::PinNotFound => (Page, "Card was not found"),
            Self::PinBalanceZero => (Page, "PIN number balance is zero"),
            Self::PinAlreadySold if x7 => (PageErrorError, "Cannot sell already sold card"),
            Self::PinAlreadySold => (Page, "PIN number already sold"),
            Self::GroupNotTheOwners { card_found: true } if x7 => {
                (Page, "You do not have permission to access cardgroup")
            }
            Self::GroupNotTheOwners { .. } => (Page, "Supplied Cardgroup_id is invalid"),
            Self::NothingFound if x7 => (Page, "Supplied Cardgroup_id is invalid"),
            Self::NothingFound => (Page, "Card was not found"),
            Self::CardUnsound(flaw) => return one(PageErrorError, flaw.clone()),
            Self::TariffNotSaved(messages) => {
                let form = if x7 { PageMessages } else { ResponseMessages };
                return Refusal { form, words: messages.iter().map(|message| Cow::Borrowed(*message)).collect() };
            }
        };
        one(form, words)
    }
}
