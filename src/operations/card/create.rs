//! `calling_cards_create`: creates the cards of a range of numbers, each with its own PIN.
//! Contract: `endpoints/calling_cards_create.md`.

use std::time::Duration;

use bigdecimal::{BigDecimal, ToPrimitive};
use serde::Serialize;
use serde_json::json;
use sqlx::{PgConnection, PgExecutor};
use tokio::sync::OwnedMutexGuard;

use crate::auth::caller::{Caller, RIGHT_READ};
use crate::auth::signature::HashRule;
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::http::context::{Access, CallContext, Operation};
use crate::http::params::Params;
use crate::idempotency::Idempotency;
use crate::number;
use crate::operations::spec::{OperationSpec, ParamType, Parameter, ReplyType};
use crate::store::bulk_create::{self, CardRange, Group, NUMBER_LEN_MAX, PIN_LEN_MAX};
use crate::store::change_log::{Change, Target, What};
use crate::xml::XmlReply;

/// The operation's description and handler.
pub const OPERATION: Operation = Operation {
    name: "calling_cards_create",
    aliases: &[],
    hash_rules: &[HashRule::Exactly(&["card_group_id", "cards_from", "cards_till"])],
    spec: OperationSpec {
        summary: "Creates cards",
        description: "Creates the cards whose numbers are from cards_from to cards_till, both included, each with its \
            own PIN. Numbers that are in use are skipped. After an error no card is created.",
        parameters: &[&[
            Parameter::new("card_group_id", ParamType::Integer, "The card group.", "6").required(),
            Parameter::new(
                "cards_from",
                ParamType::Text,
                "The first number, with as many digits as the group's numbers have.",
                "2000000001",
            )
            .required(),
            Parameter::new("cards_till", ParamType::Text, "The last number, with as many digits.", "2000000010")
                .required(),
            Parameter::new("min_balance", ParamType::Decimal, "The minimum balance of the cards; default: 0.", "0"),
            Parameter::new("batch_number", ParamType::Text, "The name of the batch.", "2026-11"),
            Parameter::new(
                "language",
                ParamType::Text,
                "The language of the announcements, up to 10 characters; default: en.",
                "en",
            ),
            Parameter::new("distributor_id", ParamType::Integer, "The user who distributes the cards.", "2"),
        ]],
        is_mutation: true,
        reply_type: ReplyType::Xml,
        example_reply: "<page>
  <status>
    <status>Cards created: 10/10</status>
  </status>
</page>",
    },
    access: Access::CallingCards(RIGHT_READ),
    handler: |call, caller| Box::pin(handle(call, caller)),
};

/// How long a request waits for other requests that create cards in bulk.
const BULK_LOCK_TIMEOUT: Duration = Duration::from_secs(120);
/// The length of MOR's column, in characters.
const LANGUAGE_LEN_MAX: usize = 10;

async fn handle(call: &CallContext, caller: &Caller) -> Result<XmlReply, ApiError> {
    let idempotency = Idempotency::new(call, caller).await?;
    let created = idempotency.change(prepare(call, caller), async |connection, _lock| {
        bulk_create::lock_bulk_create(connection).await?;
        create(connection, call, caller).await
    });
    Ok(created.await?.render(|(created, requested): (u64, u32)| {
        XmlReply::status("status", format!("Cards created: {created}/{requested}"))
    }))
}

/// Refuses invalid requests before they wait for the lock, then waits for it. On each server requests run one at a
/// time, and hold no connection while they wait.
async fn prepare(call: &CallContext, caller: &Caller) -> Result<OwnedMutexGuard<()>, ApiError> {
    let mut connection = call.state.pool.acquire().await?;
    let group = find_group(&mut *connection, call, caller).await?;
    connection.release_clean();
    Input::read(call, &group)?;
    let lock = call.wait(BULK_LOCK_TIMEOUT, call.state.locks.bulk_create.clone().lock_owned()).await?;
    lock.ok_or(ApiError::Unavailable)
}

/// Finds the card group of the new cards. The admin may use the groups of all owners, other callers only those of their
/// owner.
async fn find_group(database: impl PgExecutor<'_>, call: &CallContext, caller: &Caller) -> Result<Group, ApiError> {
    let group = Group::find(database, call.params.integer("card_group_id"), caller.owner_scope());
    group.await?.ok_or(ApiError::NotFound("Card Group"))
}

/// The checked parameters of the request.
#[derive(Debug)]
struct Input {
    /// The first card number. A `BigDecimal`, since it may have more digits than any integer type.
    first_number: BigDecimal,
    /// The number of cards in the range.
    count: u32,
    min_balance: BigDecimal,
    batch_number: String,
    language: String,
    /// The user id as sent, not checked yet: see [`find_distributor_id`].
    distributor: i64,
}

impl Input {
    fn read(call: &CallContext, group: &Group) -> Result<Self, ApiError> {
        let (params, dialect) = (&call.params, call.dialect());
        let from = params.non_blank("cards_from").ok_or(ApiError::NotFound("Cards from"))?;
        let till = params.non_blank("cards_till").ok_or(ApiError::NotFound("Cards till"))?;
        let length = usize::try_from(group.number_length).unwrap_or(0).min(NUMBER_LEN_MAX);
        let parse_number = |text: &str, error| {
            let is_valid = text.len() == length && number::is_digits(text);
            Some(text).filter(|_| is_valid).and_then(|text| text.parse::<BigDecimal>().ok()).ok_or(error)
        };
        let from = parse_number(from, ApiError::Refused("Cards from is in incorrect format"))?;
        let till = parse_number(till, ApiError::Refused("Cards till is in incorrect format"))?;
        if from > till {
            return Err(ApiError::Refused("Cards from must not be greater than Cards till"));
        }
        let count: BigDecimal = till - &from + 1;
        if count > bulk_create::pin_capacity(group.pin_length) {
            return Err(ApiError::PinTooShort);
        }
        if group.pin_length > PIN_LEN_MAX {
            return Err(ApiError::TransactionFailed);
        }
        let limit = call.state.config.max_new_cards.get();
        if count > limit {
            return Err(ApiError::TooManyCards(limit));
        }
        Ok(Self {
            first_number: from,
            count: count.to_u32().unwrap_or(limit),
            batch_number: call.fit_text(params.get("batch_number").unwrap_or_default(), "Batch number")?,
            min_balance: read_min_balance(params, dialect)?,
            language: params.get("language").unwrap_or("en").chars().take(LANGUAGE_LEN_MAX).collect(),
            distributor: params.integer("distributor_id"),
        })
    }

    fn range<'a>(&'a self, group: &'a Group, owner: i32, distributor: i32) -> CardRange<'a> {
        CardRange {
            group,
            first_number: self.first_number.clone(),
            count: self.count,
            owner_id: owner,
            distributor_id: distributor,
            balance: &group.price,
            min_balance: self.min_balance.clone(),
            batch_number: &self.batch_number,
            language: &self.language,
        }
    }
}

/// Blank: 0. An X7 server also reads a text that is no number as 0.
fn read_min_balance(params: &Params, dialect: Dialect) -> Result<BigDecimal, ApiError> {
    let Some(text) = params.non_blank("min_balance") else { return Ok(BigDecimal::from(0)) };
    match dialect.parse_number(text) {
        Some(amount) => Ok(amount),
        None if dialect.accepts_any_amount() => Ok(BigDecimal::from(0)),
        None => Err(ApiError::Refused("Balance is not a numerical value")),
    }
}

/// Creates the cards of the range whose numbers are not in use. Returns how many were created and how many were
/// requested.
async fn create(connection: &mut PgConnection, call: &CallContext, caller: &Caller) -> Result<(u64, u32), ApiError> {
    // The group may have changed while this request waited.
    let group = &find_group(&mut *connection, call, caller).await?;
    let input = Input::read(call, group)?;
    if !bulk_create::has_pin_capacity(connection, group.pin_length, input.count).await? {
        return Err(ApiError::PinTooShort);
    }
    let owner = if call.dialect().assigns_new_cards_to_caller() { caller.owner_id() } else { group.owner_id };
    let distributor = find_distributor_id(connection, group, &input).await?;
    let created = input.range(group, owner, distributor).create(connection, |_| {}).await?;
    if created == 0 {
        return Err(ApiError::Refused("Cards already exist"));
    }
    let after = CreatedCards { cards_created: created, batch_number: &input.batch_number, distributor };
    let change = Change {
        what: What::Card,
        target: Target::Cards {
            group: group.id,
            first: call.params.non_blank("cards_from").unwrap_or_default(),
            last: call.params.non_blank("cards_till").unwrap_or_default(),
        },
        before: None,
        after: Some(json!(after).to_string()),
    };
    change.record(connection, &call.author(caller)).await?;
    Ok((created, input.count))
}

/// What the change log says about new cards.
#[derive(Debug, Serialize)]
struct CreatedCards<'a> {
    cards_created: u64,
    batch_number: &'a str,
    /// The distributor's id; -1: none.
    distributor: i32,
}

/// Returns the distributor if it is a simple user of the group's owner, else -1 (no distributor).
async fn find_distributor_id(connection: &mut PgConnection, group: &Group, input: &Input) -> sqlx::Result<i32> {
    let user = sqlx::query_scalar!(
        "select id from users where id = $1::bigint and usertype = 'user' and owner_id = $2",
        input.distributor,
        group.owner_id
    )
    .fetch_optional(connection)
    .await?;
    Ok(user.unwrap_or(-1))
}
