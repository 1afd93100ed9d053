//! `calling_card_update`: changes a card. Parameters that are not sent leave their fields unchanged.
//! Contract: `endpoints/calling_card_update.md`.

use bigdecimal::{BigDecimal, RoundingMode};
use serde::Serialize;
use sqlx::PgConnection;
use sqlx::types::Json;
use tokio::sync::OwnedSemaphorePermit;

use crate::accounts::UserType;
use crate::auth::admission;
use crate::auth::caller::{Caller, RIGHT_EDIT, rights};
use crate::auth::signature::HashRule;
use crate::error::{ApiError, map_constraint};
use crate::http::context::{Access, CallContext, Operation};
use crate::http::params::Params;
use crate::idempotency::Idempotency;
use crate::number;
use crate::operations::spec::{OperationSpec, ParamType, Parameter, ReplyType};
use crate::pin::Pin;
use crate::store;
use crate::store::change_log::{Author, RowChange, What};
use crate::xml::XmlReply;

/// The operation's description and handler.
pub const OPERATION: Operation = Operation {
    name: "calling_card_update",
    aliases: &[],
    hash_rules: &[HashRule::Exactly(&["card_id"])],
    spec: OperationSpec {
        summary: "Changes a card",
        description: "Changes the sent fields of a card. A parameter that is not sent or is blank stays unchanged. \
            After an error nothing is changed.",
        parameters: &[&[
            Parameter::new("card_id", ParamType::Integer, "The id of the card.", "1").required(),
            Parameter::new(
                "number",
                ParamType::Text,
                "The number: digits, as many as the group's numbers have.",
                "1111111000",
            ),
            Parameter::new("name", ParamType::Text, "The name.", "Anna").in_example(),
            Parameter::new("batch_number", ParamType::Text, "The batch.", "2026-11").in_example(),
            Parameter::new("language", ParamType::Text, "The language, up to 10 characters.", "en"),
            Parameter::new("pin", ParamType::Secret, "The PIN, with the length of the group's PINs.", "28402719"),
            Parameter::new("callerid", ParamType::Text, "The caller id; no other card may have it.", "4444"),
            Parameter::new("min_balance", ParamType::Decimal, "The minimum balance, above 0.", "0.5"),
            Parameter::new(
                "daily_charge_paid_till",
                ParamType::UnixTime,
                "The time until which the daily charge is paid.",
                "1767225600",
            ),
            Parameter::new(
                "first_use",
                ParamType::UnixTime,
                "The time of the first use; -1: never used.",
                "1767225600",
            ),
            Parameter::new("distributor", ParamType::Integer, "The user who distributes the card.", "2"),
        ]],
        is_mutation: true,
        reply_type: ReplyType::Xml,
        example_reply: "<page>
  <status>
    <success>Calling Card successfully updated</success>
  </status>
</page>",
    },
    access: Access::CallingCards(RIGHT_EDIT),
    handler: |call, caller| Box::pin(handle(call, caller)),
};

/// The length of MOR's column, in characters.
const LANGUAGE_LEN_MAX: usize = 10;
/// The last second of the year 9999, the last date that MOR supports.
const UNIX_TIME_MAX: i64 = 253_402_300_799;

const NUMBER_TAKEN: ApiError = ApiError::Refused("Number is already taken");
const PIN_TAKEN: ApiError = ApiError::Refused("PIN is already taken");
const CALLERID_TAKEN: ApiError = ApiError::Refused("CallerID must be unique");

async fn handle(call: &CallContext, caller: &Caller) -> Result<XmlReply, ApiError> {
    let idempotency = Idempotency::new(call, caller).await?;
    let updated = idempotency.change(prepare(call), async |connection, (id, callerid, _lock)| {
        if let Some(callerid) = callerid.value() {
            store::caller_id::advisory_lock(connection, callerid).await?;
            store::caller_id::lock_cards(connection, callerid, *id).await?;
        }
        let card = Card::find(connection, call, caller, *id, callerid.value()).await?;
        let input = Input::read(call, caller, &card, callerid)?;
        let change = RowChange::begin(connection, What::Card, *id).await?;
        let author = call.author(caller);
        write(connection, caller, &author, *id, &input).await?;
        Ok(change.record(connection, &author).await?)
    });
    Ok(updated.await?.render(|()| XmlReply::status("success", "Calling Card successfully updated")))
}

/// Returns the card's id, the sent caller id, and its lock: requests that assign a caller id run one at a time.
async fn prepare(call: &CallContext) -> Result<(i64, CallerId, Option<OwnedSemaphorePermit>), ApiError> {
    let id = call.params.non_blank("card_id").filter(|id| call.dialect().is_valid_id(id));
    let id = id.map(number::parse_integer).ok_or(ApiError::Refused("Wrong Calling Card ID"))?;
    let callerid = CallerId::read(call);
    let lock = match callerid.value() {
        Some(callerid) => Some(call.lock_callerid(callerid).await?),
        None => None,
    };
    Ok((id, callerid, lock))
}

/// The sent caller id. It is read before the other parameters, for the lock, and checked in the contract's order.
enum CallerId {
    Absent,
    TooLong,
    /// As it is stored.
    Valid(String),
}

impl CallerId {
    fn read(call: &CallContext) -> Self {
        let Some(sent) = call.params.non_blank("callerid") else { return Self::Absent };
        call.dialect().fit_to_column(sent, store::caller_id::CALLERID_LEN_MAX).map_or(Self::TooLong, Self::Valid)
    }

    fn value(&self) -> Option<&str> {
        if let Self::Valid(callerid) = self { Some(callerid) } else { None }
    }
}

/// The card to change, and the results of the uniqueness checks. The card's row is locked.
#[derive(Debug)]
struct Card {
    group_owner: Option<i32>,
    number_length: i32,
    pin_length: i32,
    /// Another card has the sent number.
    number_taken: bool,
    /// Another card has the sent PIN.
    pin_taken: bool,
    /// Another card has the sent caller id.
    callerid_taken: bool,
}

impl Card {
    async fn find(
        connection: &mut PgConnection,
        call: &CallContext,
        caller: &Caller,
        id: i64,
        callerid: Option<&str>,
    ) -> Result<Self, ApiError> {
        let card = sqlx::query_as!(
            Card,
            r#"select g.owner_id as group_owner, g.number_length, g.pin_length,
                   is_number_used($2, c.cardgroup_id, c.id) as "number_taken!", is_pin_used($3, c.id) as "pin_taken!",
                   exists (select from cards o where o.callerid <> '' and o.callerid = $4 and o.hidden = 0 and o.id <> c.id)
                       as "callerid_taken!"
               from cards c join cardgroups g on g.id = c.cardgroup_id
               where c.id = $1 and c.retired_at is null and c.quarantined_at is null
               for no key update of c"#,
            id,
            call.params.non_blank("number"),
            trimmed_pin(&call.params),
            callerid
        )
        .fetch_optional(connection)
        .await?;
        let not_found = if call.dialect().reports_missing_card_as_unknown_operation() {
            ApiError::UnknownOperation
        } else {
            ApiError::NotFound("Calling Card")
        };
        let card = card.ok_or(not_found)?;
        let owner = caller.owner_scope();
        if owner.is_none() || owner == card.group_owner { Ok(card) } else { Err(ApiError::NotFound("Calling Card")) }
    }
}

/// The fields to change. `None`: unchanged. `update.sql` reads the serialized fields by name.
#[derive(Debug, Serialize)]
struct Input {
    number: Option<String>,
    name: Option<String>,
    batch_number: Option<String>,
    language: Option<String>,
    pin: Option<Pin>,
    callerid: Option<String>,
    min_balance: Option<BigDecimal>,
    /// Seconds since 1970.
    daily_charge_paid_till: Option<i64>,
    /// Whether the card is marked as unused. `first_use` is `None` then.
    clears_first_use: bool,
    /// Seconds since 1970.
    first_use: Option<i64>,
    /// The user id as sent. The update checks that the user exists.
    distributor: Option<i64>,
}

impl Input {
    /// Checks the parameters in the order of the published page, and returns the first error.
    fn read(call: &CallContext, caller: &Caller, card: &Card, callerid: &CallerId) -> Result<Self, ApiError> {
        let params = &call.params;
        let number = params.non_blank("number");
        if let Some(number) = number {
            if !number::is_digits(number) {
                return Err(ApiError::Refused("Calling Card number must be numerical"));
            }
            if card.number_taken {
                return Err(NUMBER_TAKEN);
            }
            check_length(number, card.number_length).map_err(ApiError::NumberLengthMismatch)?;
        }
        let text = |name, label| params.non_blank(name).map(|text| call.fit_text(text, label)).transpose();
        let name = text("name", "Name")?;
        let batch_number = text("batch_number", "Batch number")?;
        // For a caller who may not change PINs the parameter is ignored, without an error: an error would reveal PINs
        // in use.
        let may_change_pin =
            caller.usertype() != UserType::Accountant || caller.right(rights::CALLINGCARD_PIN) == RIGHT_EDIT;
        if params.get("pin").is_some() && !may_change_pin {
            admission::log_missing_right(call, caller, rights::CALLINGCARD_PIN);
        }
        let pin = trimmed_pin(params).filter(|_| may_change_pin);
        if let Some(pin) = pin {
            if pin.trim().is_empty() {
                return Err(ApiError::Refused("Card PIN is blank"));
            }
            check_length(pin, card.pin_length).map_err(ApiError::PinLengthMismatch)?;
            if card.pin_taken {
                return Err(PIN_TAKEN);
            }
        }
        let callerid = match callerid {
            CallerId::Absent => None,
            CallerId::TooLong => return Err(ApiError::TooLong("CallerID")),
            CallerId::Valid(_) if card.callerid_taken => return Err(CALLERID_TAKEN),
            CallerId::Valid(callerid) => Some(callerid.clone()),
        };
        let clears_first_use = params.non_blank("first_use") == Some("-1");
        Ok(Self {
            number: number.map(str::to_owned),
            name,
            batch_number,
            language: params.non_blank("language").map(|language| language.chars().take(LANGUAGE_LEN_MAX).collect()),
            pin: pin.map(Pin::from),
            callerid,
            min_balance: read_min_balance(call)?,
            daily_charge_paid_till: read_unix_time(call, "daily_charge_paid_till")?,
            clears_first_use,
            first_use: if clears_first_use { None } else { read_unix_time(call, "first_use")? },
            distributor: read_distributor(params)?,
        })
    }
}

/// Returns the sent PIN without trailing spaces.
fn trimmed_pin(params: &Params) -> Option<&str> {
    params.get("pin").map(|pin| pin.trim_end_matches(' '))
}

/// Checks that the text has the length that its group requires.
///
/// # Errors
///
/// The required length, for the error text.
fn check_length(text: &str, length: i32) -> Result<(), i32> {
    if i32::try_from(text.chars().count()) == Ok(length) { Ok(()) } else { Err(length) }
}

fn read_min_balance(call: &CallContext) -> Result<Option<BigDecimal>, ApiError> {
    let dialect = call.dialect();
    let Some(text) = call.params.non_blank("min_balance") else { return Ok(None) };
    let amount = dialect.parse_number(text).ok_or(ApiError::Refused("Balance is not a numerical value"))?;
    let rounded = amount.with_scale_round(dialect.min_balance_scale(), RoundingMode::HalfUp);
    if rounded > 0 { Ok(Some(rounded)) } else { Err(ApiError::Refused("Bad minimal balance")) }
}

/// Reads a time in seconds since 1970. An X7 server also accepts negative values.
fn read_unix_time(call: &CallContext, name: &str) -> Result<Option<i64>, ApiError> {
    let dialect = call.dialect();
    let Some(text) = call.params.non_blank(name) else { return Ok(None) };
    let digits = if dialect.accepts_negative_dates() { text.strip_prefix('-').unwrap_or(text) } else { text };
    let seconds = Some(number::parse_integer(text)).filter(|_| number::is_digits(digits));
    seconds.filter(|seconds| seconds.abs() <= UNIX_TIME_MAX).map(Some).ok_or(ApiError::Refused("Wrong date entered"))
}

fn read_distributor(params: &Params) -> Result<Option<i64>, ApiError> {
    match params.non_blank("distributor") {
        Some(id) if !number::is_digits(id) => Err(ApiError::Refused("Wrong distributor")),
        id => Ok(id.map(number::parse_integer)),
    }
}

/// Writes the changes. Unique indexes detect a number, PIN or caller id that a concurrent request has taken since the
/// check.
async fn write(
    connection: &mut PgConnection,
    caller: &Caller,
    author: &Author,
    id: i64,
    input: &Input,
) -> Result<(), ApiError> {
    if let Some(callerid) = &input.callerid {
        store::caller_id::clear_deleted(connection, callerid, author).await?;
    }
    sqlx::query_file!("src/operations/card/update.sql", Json(input) as _, id, caller.owner_id())
        .execute(connection)
        .await
        .map_err(map_constraint(
            [
                ("cards_number", NUMBER_TAKEN),
                ("cards_group_number", NUMBER_TAKEN),
                ("cards_pin", PIN_TAKEN),
                ("cards_callerid", CALLERID_TAKEN),
            ],
            ApiError::from,
        ))?;
    Ok(())
}
