//! `calling_cards_create`: makes the cards of a range of numbers, each with a PIN of its own.
//! The spec's page: `endpoints/calling_cards_create.md`.

use std::time::Duration;

use bigdecimal::{BigDecimal, ToPrimitive};
use sqlx::{PgConnection, PgExecutor};

use crate::auth::admission::{self, Caller, READ};
use crate::auth::signature::Rule;
use crate::error::Fault;
use crate::http::context::{Call, Operation};
use crate::idempotency::Once;
use crate::number;
use crate::operations::spec::{Kind, Page, Parameter};
use crate::store::bulk_create::{self, Group, LONGEST_NUMBER, LONGEST_PIN, Range};
use crate::xml::Document;

/// The operation.
pub const OPERATION: Operation = Operation {
    name: "calling_cards_create",
    aliases: &[],
    hashed: &[Rule::Exactly(&["card_group_id", "cards_from", "cards_till"])],
    page: Page {
        summary: "Makes cards",
        description: "Makes the cards whose numbers run from the first to the last, each with a PIN of its own; all of them or none. \
            Numbers that are in use are passed over.",
        parameters: &[&[
            Parameter::new("card_group_id", Kind::Integer, "The card group.", "6").required(),
            Parameter::new(
                "cards_from",
                Kind::Text,
                "The first number, in as many digits as the group's numbers have.",
                "2000000001",
            )
            .required(),
            Parameter::new("cards_till", Kind::Text, "The last number, likewise.", "2000000010").required(),
            Parameter::new("min_balance", Kind::Decimal, "The least balance of the cards; else 0.", "0"),
            Parameter::new("batch_number", Kind::Text, "What the batch is called.", "2026-11"),
            Parameter::new(
                "language",
                Kind::Text,
                "The language that callers hear, up to 10 characters; else en.",
                "en",
            ),
            Parameter::new("distributor_id", Kind::Integer, "A user who distributes them.", "2"),
        ]],
        changes: true,
        reply: "<page>
  <status>
    <status>Cards created: 10/10</status>
  </status>
</page>",
    },
    handler: |call| Box::pin(answer(call)),
};

/// How long a call waits for those that make cards at the same time.
const PATIENCE: Duration = Duration::from_secs(120);
/// MOR's column.
const LONGEST_LANGUAGE: usize = 10;

async fn answer(call: &Call) -> Result<Document, Fault> {
    let caller = admission::admit_to_calling_cards(call, READ).await?;
    let once = Once::new(call, &caller).await?;
    let reply = |(made, wanted): (u64, u32)| Document::status("status", format!("Cards created: {made}/{wanted}"));
    once.answer(create(call, &caller, &once), reply).await
}

/// The card group that the cards are for: the admin's may be anybody's, others' are their owner's.
async fn find_group(database: impl PgExecutor<'_>, call: &Call, caller: &Caller) -> Result<Group, Fault> {
    let group = Group::find(database, call.params.integer("card_group_id"), caller.confined_to());
    group.await?.ok_or(Fault::NotFound("Card Group"))
}

/// Which cards, and what they are like.
#[derive(Debug)]
struct Wish {
    /// The first number, as a number: it may have more digits than any integer type.
    from: BigDecimal,
    /// How many.
    count: u32,
    min_balance: BigDecimal,
    batch_number: String,
    language: String,
    /// By whatever number was read. Whether there is such a distributor is looked up when the cards are made.
    distributor: i64,
}

impl Wish {
    fn read(call: &Call, group: &Group) -> Result<Self, Fault> {
        let (params, dialect) = (&call.params, call.dialect());
        let from = params.filled("cards_from").ok_or(Fault::NotFound("Cards from"))?;
        let till = params.filled("cards_till").ok_or(Fault::NotFound("Cards till"))?;
        let length = usize::try_from(group.number_length).unwrap_or(0).min(LONGEST_NUMBER);
        let number = |text: &str, fault| {
            let digits = text.len() == length && number::is_digits(text);
            Some(text).filter(|_| digits).and_then(|text| text.parse::<BigDecimal>().ok()).ok_or(fault)
        };
        let from = number(from, Fault::Refused("Cards from is in incorrect format"))?;
        let till = number(till, Fault::Refused("Cards till is in incorrect format"))?;
        if from > till {
            return Err(Fault::Refused("Cards from must not be greater than Cards till"));
        }
        let count: BigDecimal = till - &from + 1;
        if count > bulk_create::pins_to_give(group.pin_length) {
            return Err(Fault::PinTooShort);
        }
        if group.pin_length > LONGEST_PIN {
            return Err(Fault::TransactionFailed);
        }
        let most = call.app.config.max_new_cards.get();
        if count > most {
            return Err(Fault::TooManyCards(most));
        }
        Ok(Self {
            from,
            count: count.to_u32().unwrap_or(most),
            min_balance: params.get("min_balance").and_then(|text| dialect.number(text)).unwrap_or_default(),
            batch_number: call.text(params.get("batch_number").unwrap_or_default(), "Batch number")?,
            language: params.get("language").unwrap_or("en").chars().take(LONGEST_LANGUAGE).collect(),
            distributor: params.integer("distributor_id"),
        })
    }

    fn range<'a>(&'a self, group: &'a Group, owner: i32, distributor: i32) -> Range<'a> {
        Range {
            group,
            from: self.from.clone(),
            count: self.count,
            owner,
            distributor,
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
async fn create(call: &Call, caller: &Caller, once: &Once<'_>) -> Result<(u64, u32), Fault> {
    // What is wrong already needn't wait for its turn.
    let mut connection = call.app.pool.acquire().await?;
    let group = find_group(&mut *connection, call, caller).await?;
    connection.keep();
    Wish::read(call, &group)?;
    let turn = tokio::time::timeout(PATIENCE, call.app.turns.of_card_makers());
    let _turn = turn.await.map_err(|_| Fault::Unavailable)?;
    let mut change = once.begin().await?;
    let connection = &mut *change;
    bulk_create::begin(connection).await?;
    // The group may have been changed meanwhile.
    let group = &find_group(&mut *connection, call, caller).await?;
    let wish = Wish::read(call, group)?;
    bulk_create::has_enough_pins(connection, group.pin_length, wish.count).await?;
    let owner = if call.dialect().gives_cards_to_callers() { caller.owner() } else { group.owner_id };
    let distributor = distributor(connection, group, &wish).await?;
    let made = wish.range(group, owner, distributor).make(connection, |_| {}).await?;
    if made == 0 {
        return Err(Fault::Refused("Cards already exist"));
    }
    let count = wish.count;
    change.commit((made, count)).await
}

/// A simple user of the group's owner; -1: nobody.
async fn distributor(connection: &mut PgConnection, group: &Group, wish: &Wish) -> sqlx::Result<i32> {
    let user = sqlx::query_scalar!(
        "select id from users where id = $1::bigint and usertype = 'user' and owner_id = $2",
        wish.distributor,
        group.owner_id
    )
    .fetch_optional(connection)
    .await?;
    Ok(user.unwrap_or(-1))
}
