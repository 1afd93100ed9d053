//! `calling_cards_create`: makes the cards of a range of numbers, each with a PIN of its own.
//! The spec's page: `endpoints/calling_cards_create.md`.

use std::time::Duration;

use bigdecimal::{BigDecimal, ToPrimitive};
use sqlx::{Connection, PgConnection, PgExecutor};

use crate::call::{Call, Operation};
use crate::caller::{self, Caller, READ};
use crate::document::Document;
use crate::fault::Fault;
use crate::idempotency::Once;
use crate::number;
use crate::page::{Kind, Page, Parameter};
use crate::signature::Rule;
use crate::store;

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

/// Cards that one statement makes: enough to keep PostgreSQL busy, few enough to sit in memory.
const BATCH: usize = 20_000;
/// How often PINs are drawn until every card has one. Once is nearly always enough.
const DRAWS: usize = 100;
/// How long a call waits for those that make cards at the same time.
const PATIENCE: Duration = Duration::from_secs(120);
/// Patience with the database too, and room for the numbers of a batch that are in use.
const PATIENTLY: &str = "set local lock_timeout = '120s'; set local work_mem = '64MB'; set local enable_seqscan = on";
/// MOR's columns.
const LONGEST_NUMBER: usize = 255;
const LONGEST_PIN: i32 = 255;
const LONGEST_LANGUAGE: usize = 10;

async fn answer(call: Call) -> Result<Document, Fault> {
    let caller = caller::admit_to_calling_cards(&call, READ).await?;
    let once = Once::new(&call, &caller).await?;
    let reply = |(made, wanted): (u64, u32)| Document::status("status", format!("Cards created: {made}/{wanted}"));
    once.answer(create(&call, &caller, &once), reply).await
}

/// The card group that the cards are for.
#[derive(Debug)]
struct Group {
    id: i32,
    owner_id: i32,
    number_length: i32,
    pin_length: i32,
    /// Without tax, in the system's currency: what a card is worth.
    price: BigDecimal,
}

impl Group {
    /// The admin's may be anybody's, others' are their owner's; none is hidden.
    async fn find(database: impl PgExecutor<'_>, call: &Call, caller: &Caller) -> Result<Self, Fault> {
        sqlx::query_as!(
            Group,
            r#"select id, coalesce(owner_id, 0) as "owner_id!", number_length, pin_length, coalesce(price, 0) as "price!"
               from cardgroups where id = $1::bigint and hidden = 0 and ($2::integer is null or owner_id = $2)"#,
            call.params.integer("card_group_id"),
            caller.confined_to()
        )
        .fetch_optional(database)
        .await?
        .ok_or(Fault::NotFound("Card Group"))
    }
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
        if count > pins_to_give(group.pin_length) {
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
}

/// A fifth of all PINs of a length: were more in use, they could be guessed.
fn pins_to_give(length: i32) -> BigDecimal {
    BigDecimal::new(2.into(), 1 - i64::from(length.clamp(0, LONGEST_PIN)))
}

/// Makes the cards whose numbers aren't in use, all of them or none; how many, and how many were asked for.
///
/// One call at a time: two that drew the same PINs in another order would wait for each other for ever. Those that wait here
/// hold no connection.
async fn create(call: &Call, caller: &Caller, once: &Once<'_>) -> Result<(u64, u32), Fault> {
    // What is wrong already needn't wait for its turn.
    let group = Group::find(&call.app.pool, call, caller).await?;
    Wish::read(call, &group)?;
    let turn = tokio::time::timeout(PATIENCE, call.app.turns.of_card_makers());
    let _turn = turn.await.map_err(|_| Fault::Unavailable)?;
    let mut change = once.begin().await?;
    let connection = &mut *change;
    sqlx::raw_sql(PATIENTLY).execute(&mut *connection).await?;
    store::maker::take_turn(connection).await?;
    // The group may have been changed meanwhile.
    let group = &Group::find(&mut *connection, call, caller).await?;
    let wish = &Wish::read(call, group)?;
    has_enough_pins(connection, group, wish).await?;
    // From here on each PIN is looked up by its index again.
    sqlx::query!("select set_config('enable_seqscan', 'off', true)").fetch_one(&mut *connection).await?;
    let owner = if call.dialect().gives_cards_to_callers() { caller.owner() } else { group.owner_id };
    let distributor = distributor(connection, group, wish).await?;
    let mut made = 0;
    for first in (0..wish.count).step_by(BATCH) {
        let count = (wish.count - first).min(u32::try_from(BATCH).unwrap_or(u32::MAX));
        let batch = Batch { first, count, owner, distributor };
        made += batch.create(connection, group, wish).await?;
    }
    if made == 0 {
        return Err(Fault::Refused("Cards already exist"));
    }
    let count = wish.count;
    change.commit((made, count)).await
}

/// No PIN is in use twice, whatever the group. There are never more in use than there are card ids, so they are only
/// counted where that leaves a doubt.
async fn has_enough_pins(connection: &mut PgConnection, group: &Group, wish: &Wish) -> Result<(), Fault> {
    let spare = pins_to_give(group.pin_length) - wish.count;
    let enough = sqlx::query_scalar!(
        r#"select coalesce((select max(id) from cards), 0) <= $2::numeric
               or (select count(*) from cards where length(pin) = $1) <= $2::numeric as "enough!""#,
        group.pin_length,
        spare
    )
    .fetch_one(connection)
    .await?;
    if enough { Ok(()) } else { Err(Fault::PinTooShort) }
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

/// Some of the cards, made by one statement.
struct Batch {
    /// Its first card, counted from the first of all.
    first: u32,
    count: u32,
    owner: i32,
    distributor: i32,
}

impl Batch {
    /// Numbers in use are passed over. For cards that find no PIN, or whose number or PIN a request that runs beside was given
    /// meanwhile, it is tried again.
    async fn create(&self, connection: &mut PgConnection, group: &Group, wish: &Wish) -> Result<u64, Fault> {
        let mut made = 0;
        for _ in 0..DRAWS {
            // A third more than are needed, since up to a fifth may be in use.
            let pins = store::draw::pins(self.count + self.count / 3 + 1, group.pin_length)?;
            let mut savepoint = connection.begin().await?;
            match self.insert(&mut savepoint, group, wish, &pins).await {
                Ok(tried) => {
                    savepoint.commit().await?;
                    made += tried.made;
                    if tried.made == tried.free {
                        return Ok(u64::try_from(made).unwrap_or(0));
                    }
                }
                Err(sqlx::Error::Database(error)) if error.is_unique_violation() => savepoint.rollback().await?,
                Err(error) => return Err(error.into()),
            }
        }
        tracing::warn!(group = group.id, "no free PINs: the group's PIN length is too short");
        Err(Fault::TransactionFailed)
    }

    async fn insert(
        &self,
        connection: &mut PgConnection,
        group: &Group,
        wish: &Wish,
        pins: &[String],
    ) -> sqlx::Result<Tried> {
        let from = &wish.from + self.first;
        let till = &from + (self.count - 1);
        sqlx::query_as!(
            Tried,
            r#"with free as materialized (
                   select number from generate_series($1::numeric, $2::numeric) n, lateral (select lpad(n::text, $4, '0') as number) card
                   where number not in (
                       select c.number from cards c
                       where c.hidden = 0 and c.number between lpad($1::text, $4, '0') and lpad($2::text, $4, '0')
                       union all
                       select c.number from cards c
                       where c.cardgroup_id = $5 and c.number between lpad($1::text, $4, '0') and lpad($2::text, $4, '0'))
               ), made as (
                   insert into cards (number, pin, cardgroup_id, balance, owner_id, min_balance, batch_number, language, user_id)
                   select number, pin, $5, $6, $7, $8, $9, $10, $11
                   from rows from (
                       unnest((select array_agg(number order by number) from free)),
                       unnest(array(select pin from unnest($3::text[]) drawn (pin)
                           where (select c.id from cards c where c.pin <> '' and c.pin = drawn.pin) is null))
                   ) card (number, pin)
                   where number is not null and pin is not null
                   returning id
               )
               select (select count(*) from free) as "free!", (select count(*) from made) as "made!""#,
            from,
            till,
            pins,
            group.number_length,
            group.id,
            group.price,
            self.owner,
            wish.min_balance,
            wish.batch_number,
            wish.language,
            self.distributor
        )
        .fetch_one(connection)
        .await
    }
}

/// What came of a batch.
struct Tried {
    /// Numbers that weren't in use.
    free: i64,
    made: i64,
}
