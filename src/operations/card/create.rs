//! `calling_cards_create`: makes the cards of a range of numbers, each with a PIN of its own.
//! The spec's page: `endpoints/calling_cards_create.md`.

use std::time::Duration;

use bigdecimal::{BigDecimal, ToPrimitive};
use sqlx::{PgConnection, PgExecutor};

use crate::auth::admission::{self, Caller, RIGHT_READ};
use crate::auth::signature::HashRule;
use crate::error::ApiError;
use crate::http::context::{CallContext, Operation};
use crate::idempotency::Idempotency;
use crate::number;
use crate::operations::spec::{OperationSpec, ParamType, Parameter};
use crate::store::bulk_create::{self, CardRange, Group, NUMBER_LEN_MAX, PIN_LEN_MAX};
use crate::xml::XmlReply;

/// The operation.
pub const OPERATION: Operation = Operation {
    name: "calling_cards_create",
    aliases: &[],
    hash_rules: &[HashRule::Exactly(&["card_group_id", "cards_from", "cards_till"])],
    spec: OperationSpec {
        summary: "Makes cards",
        description: "Makes the cards whose numbers run from the first to the last, each with a PIN of its own; all of them or none. \
            Numbers that are in use are passed over.",
        parameters: &[&[
            Parameter::new("card_group_id", ParamType::Integer, "The card group.", "6").required(),
            Parameter::new(
                "cards_from",
                ParamType::Text,
                "The first number, in as many digits as the group's numbers have.",
                "2000000001",
            )
            .required(),
            Parameter::new("cards_till", ParamType::Text, "The last number, likewise.", "2000000010").required(),
            Parameter::new("min_balance", ParamType::Decimal, "The least balance of the cards; else 0.", "0"),
            Parameter::new("batch_number", ParamType::Text, "What the batch is called.", "2026-11"),
            Parameter::new(
                "language",
                ParamType::Text,
                "The language that callers hear, up to 10 characters; else en.",
                "en",
            ),
            Parameter::new("distributor_id", ParamType::Integer, "A user who distributes them.", "2"),
        ]],
        is_mutation: true,
        example_reply: "<page>
  <status>
    <status>Cards created: 10/10</status>
  </status>
</page>",
    },
    handler: |call| Box::pin(handle(call)),
};

/// How long a call waits for those that make cards at the same time.
const BULK_LOCK_TIMEOUT: Duration = Duration::from_secs(120);
/// MOR's column.
const LANGUAGE_LEN_MAX: usize = 10;

async fn handle(call: &CallContext) -> Result<XmlReply, ApiError> {
    let caller = admission::require_calling_cards(call, RIGHT_READ).await?;
    let once = Idempotency::new(call, &caller).await?;
    let reply = |(made, wanted): (u64, u32)| XmlReply::status("status", format!("Cards created: {made}/{wanted}"));
    once.replay_or_run(create(call, &caller, &once), reply).await
}

/// The card group that the cards are for: the admin's may be anybody's, others' are their owner's.
async fn find_group(database: impl PgExecutor<'_>, call: &CallContext, caller: &Caller) -> Result<Group, ApiError> {
    let group = Group::find(database, call.params.integer("card_group_id"), caller.owner_scope());
    group.await?.ok_or(ApiError::NotFound("Card Group"))
}

/// Which cards, and what they are like.
#[derive(Debug)]
struct Input {
    /// The first number, as a number: it may have more digits than any integer type.
    first_number: BigDecimal,
    /// How many.
    count: u32,
    min_balance: BigDecimal,
    batch_number: String,
    language: String,
    /// By whatever number was read. Whether there is such a distributor is looked up when the cards are made.
    distributor: i64,
}

impl Input {
    fn read(call: &CallContext, group: &Group) -> Result<Self, ApiError> {
        let (params, dialect) = (&call.params, call.dialect());
        let from = params.non_blank("cards_from").ok_or(ApiError::NotFound("Cards from"))?;
        let till = params.non_blank("cards_till").ok_or(ApiError::NotFound("Cards till"))?;
        let length = usize::try_from(group.number_length).unwrap_or(0).min(NUMBER_LEN_MAX);
        let number = |text: &str, fault| {
            let digits = text.len() == length && number::is_digits(text);
            Some(text).filter(|_| digits).and_then(|text| text.parse::<BigDecimal>().ok()).ok_or(fault)
        };
        let from = number(from, ApiError::Refused("Cards from is in incorrect format"))?;
        let till = number(till, ApiError::Refused("Cards till is in incorrect format"))?;
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
        let most = call.state.config.max_new_cards.get();
        if count > most {
            return Err(ApiError::TooManyCards(most));
        }
        Ok(Self {
            first_number: from,
            count: count.to_u32().unwrap_or(most),
            min_balance: params.get("min_balance").and_then(|text| dialect.parse_number(text)).unwrap_or_default(),
            batch_number: call.fit_text(params.get("batch_number").unwrap_or_default(), "Batch number")?,
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

/// Makes the cards whose numbers aren't in use, all of them or none; how many, and how many were asked for.
///
/// One call at a time; those that wait here hold no connection.
async fn create(call: &CallContext, caller: &Caller, once: &Idempotency<'_>) -> Result<(u64, u32), ApiError> {
    // What is wrong already needn't wait for its turn.
    let mut connection = call.state.pool.acquire().await?;
    let group = find_group(&mut *connection, call, caller).await?;
    connection.release_clean();
    Input::read(call, &group)?;
    let turn = tokio::time::timeout(BULK_LOCK_TIMEOUT, call.state.locks.lock_bulk_create());
    let _turn = turn.await.map_err(|_| ApiError::Unavailable)?;
    let mut change = once.begin().await?;
    let connection = &mut *change;
    bulk_create::lock_bulk_create(connection).await?;
    // The group may have been changed meanwhile.
    let group = &find_group(&mut *connection, call, caller).await?;
    let wish = Input::read(call, group)?;
    bulk_create::check_pin_capacity(connection, group.pin_length, wish.count).await?;
    let owner = if call.dialect().assigns_new_cards_to_caller() { caller.owner_id() } else { group.owner_id };
    let distributor = find_distributor_id(connection, group, &wish).await?;
    let made = wish.range(group, owner, distributor).create(connection, |_| {}).await?;
    if made == 0 {
        return Err(ApiError::Refused("Cards already exist"));
    }
    let count = wish.count;
    change.commit((made, count)).await
}

/// A simple user of the group's owner; -1: nobody.
async fn find_distributor_id(connection: &mut PgConnection, group: &Group, wish: &Input) -> sqlx::Result<i32> {
    let user = sqlx::query_scalar!(
        "select id from users where id = $1::bigint and usertype = 'user' and owner_id = $2",
        wish.distributor,
        group.owner_id
    )
    .fetch_optional(connection)
    .await?;
    Ok(user.unwrap_or(-1))
}
