//! Those who make cards: by the thousand, one after the other, and one by one, beside them.

use std::time::Duration;

use bigdecimal::BigDecimal;
use sqlx::{Connection, PgConnection, PgExecutor};

use crate::error::ApiError;
use crate::store::random;

/// Cards that one statement makes: enough to keep PostgreSQL busy, few enough to sit in memory.
const BATCH_SIZE: usize = 20_000;
/// How often PINs are drawn until every card has one. Once is nearly always enough.
const PIN_ATTEMPTS_MAX: usize = 100;
/// Patience with the database too, and room for the numbers of a batch that are in use.
const TRANSACTION_SETTINGS: &str =
    "set local lock_timeout = '120s'; set local work_mem = '64MB'; set local enable_seqscan = on";
/// MOR's columns.
pub const NUMBER_LEN_MAX: usize = 255;
/// Likewise.
pub const PIN_LEN_MAX: i32 = 255;

/// How long a number or PIN is waited for that somebody makes by the thousand may be using.
const LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// The card group that cards are made for.
#[derive(Debug)]
#[expect(missing_docs, reason = "MOR's own column names")]
pub struct Group {
    pub id: i32,
    pub owner_id: i32,
    pub number_length: i32,
    pub pin_length: i32,
    /// Without tax, in the system's currency: what a card is worth.
    pub price: BigDecimal,
}

impl Group {
    /// By its id, unless it is hidden; only that owner's, or anybody's.
    pub async fn find(database: impl PgExecutor<'_>, id: i64, owner: Option<i32>) -> sqlx::Result<Option<Self>> {
        sqlx::query_as!(
            Group,
            r#"select id, coalesce(owner_id, 0) as "owner_id!", number_length, pin_length, coalesce(price, 0) as "price!"
               from cardgroups where id = $1::bigint and hidden = 0 and ($2::integer is null or owner_id = $2)"#,
            id,
            owner
        )
        .fetch_optional(database)
        .await
    }
}

/// A range of cards to be made, each with a PIN of its own.
#[derive(Debug)]
pub struct CardRange<'a> {
    /// The card group.
    pub group: &'a Group,
    /// The first number, as a number: it may have more digits than any integer type.
    pub first_number: BigDecimal,
    /// How many.
    pub count: u32,
    /// Whose cards.
    pub owner_id: i32,
    /// -1: nobody.
    pub distributor_id: i32,
    /// Without tax, in the system's currency: what a card is worth.
    pub balance: &'a BigDecimal,
    /// What has to stay on it.
    pub min_balance: BigDecimal,
    /// By which a delivery is known.
    pub batch_number: &'a str,
    /// In which it speaks.
    pub language: &'a str,
}

/// A fifth of all PINs of a length: were more in use, they could be guessed.
pub fn pin_capacity(length: i32) -> BigDecimal {
    BigDecimal::new(2.into(), 1 - i64::from(length.clamp(0, PIN_LEN_MAX)))
}

/// Waits, within a transaction, until cards may be made by the thousand.
///
/// One at a time: two that drew the same PINs in another order would wait for each other for ever.
pub async fn lock_bulk_create(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::raw_sql(TRANSACTION_SETTINGS).execute(&mut *connection).await?;
    advisory_lock(connection).await
}

/// No PIN is in use twice, whatever the group. There are never more in use than there are card ids, so they are only
/// counted where that leaves a doubt.
pub async fn check_pin_capacity(connection: &mut PgConnection, length: i32, count: u32) -> Result<(), ApiError> {
    let spare = pin_capacity(length) - count;
    let enough = sqlx::query_scalar!(
        r#"select coalesce((select max(id) from cards), 0) <= $2::numeric
               or (select count(*) from cards where length(pin) = $1) <= $2::numeric as "enough!""#,
        length,
        spare
    )
    .fetch_one(connection)
    .await?;
    if enough { Ok(()) } else { Err(ApiError::PinTooShort) }
}

impl CardRange<'_> {
    /// Makes the cards whose numbers aren't in use, and says after each batch how many numbers of the range are done with; how
    /// many cards it made. Call [`begin`] and [`has_enough_pins`] before.
    pub async fn create(&self, connection: &mut PgConnection, mut done: impl FnMut(u32)) -> Result<u64, ApiError> {
        // From here on each PIN is looked up by its index.
        sqlx::query!("select set_config('enable_seqscan', 'off', true)").fetch_one(&mut *connection).await?;
        let mut made = 0;
        for first in (0..self.count).step_by(BATCH_SIZE) {
            let count = (self.count - first).min(u32::try_from(BATCH_SIZE).unwrap_or(u32::MAX));
            made += self.create_batch(connection, first, count).await?;
            done(first + count);
        }
        Ok(made)
    }

    /// Numbers in use are passed over. For cards that find no PIN, or whose number or PIN a request that runs beside was given
    /// meanwhile, it is tried again.
    async fn create_batch(&self, connection: &mut PgConnection, first: u32, count: u32) -> Result<u64, ApiError> {
        let mut made = 0;
        for _ in 0..PIN_ATTEMPTS_MAX {
            // A third more than are needed, since up to a fifth may be in use.
            let pins = random::distinct_pins(count + count / 3 + 1, self.group.pin_length)?;
            let mut savepoint = connection.begin().await?;
            match self.insert_batch(&mut savepoint, first, count, &pins).await {
                Ok(tried) => {
                    savepoint.commit().await?;
                    made += tried.created;
                    if tried.created == tried.free_numbers {
                        return Ok(u64::try_from(made).unwrap_or(0));
                    }
                }
                Err(sqlx::Error::Database(error)) if error.is_unique_violation() => savepoint.rollback().await?,
                Err(error) => return Err(error.into()),
            }
        }
        tracing::warn!(group = self.group.id, "no free PINs: the group's PIN length is too short");
        Err(ApiError::TransactionFailed)
    }

    async fn insert_batch(
        &self,
        connection: &mut PgConnection,
        first: u32,
        count: u32,
        pins: &[String],
    ) -> sqlx::Result<BatchResult> {
        let from = &self.first_number + first;
        let till = &from + (count - 1);
        sqlx::query_as!(
            BatchResult,
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
               select (select count(*) from free) as "free_numbers!", (select count(*) from made) as "created!""#,
            from,
            till,
            pins,
            self.group.number_length,
            self.group.id,
            self.balance,
            self.owner_id,
            self.min_balance,
            self.batch_number,
            self.language,
            self.distributor_id
        )
        .fetch_one(connection)
        .await
    }
}

/// What came of a batch.
struct BatchResult {
    /// Numbers that weren't in use.
    free_numbers: i64,
    created: i64,
}

/// Waits until nobody else makes cards by the thousand, on any server.
async fn advisory_lock(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('calling_cards_create', 0))")
        .fetch_one(connection)
        .await?;
    Ok(())
}

/// Holds off those who make cards by the thousand until the transaction ends. `false`: somebody is at it. What they have made so
/// far can't be seen, and is only waited for until a moment has passed.
pub async fn try_block_bulk(connection: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select case when pg_try_advisory_xact_lock_shared(hashtextextended('calling_cards_create', 0)) then true
               else set_config('lock_timeout', $1, true) is null end as "held_off!""#,
        format!("{}ms", LOCK_TIMEOUT.as_millis())
    )
    .fetch_one(connection)
    .await
}

/// Waits for locks as patiently as before.
pub async fn reset_lock_timeout(connection: &mut PgConnection, wait: Duration) -> sqlx::Result<()> {
    sqlx::query!("select set_config('lock_timeout', $1, true)", format!("{}ms", wait.as_millis()))
        .fetch_one(connection)
        .await?;
    Ok(())
}
