//! Bulk creation of cards, one bulk creation at a time, and its coordination with operations that create single cards.

use std::time::Duration;

use bigdecimal::BigDecimal;
use serde::Serialize;
use sqlx::types::Json;
use sqlx::{Connection, PgConnection, PgExecutor};

use crate::error::ApiError;
use crate::store::random;

/// Number of cards that one statement creates: enough to use PostgreSQL efficiently, few enough to hold in memory.
const BATCH_SIZE: usize = 20_000;
/// Maximum number of attempts to draw enough unused PINs for a batch. The first one nearly always succeeds.
const PIN_ATTEMPTS_MAX: usize = 100;
/// Raises the lock timeout and the memory for the hash of the numbers in use within a batch, and enables sequential
/// scans to count PINs.
const TRANSACTION_SETTINGS: &str =
    "set local lock_timeout = '120s'; set local work_mem = '64MB'; set local enable_seqscan = on";
/// The length of MOR's column `cards.number`, in characters.
pub const NUMBER_LEN_MAX: usize = 255;
/// The length of MOR's column `cards.pin`, in characters.
pub const PIN_LEN_MAX: i32 = 255;

/// How long the insert of a single card waits for a number or PIN that a bulk creation may be using.
const LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// The card group that cards are created in.
#[derive(Debug)]
#[expect(missing_docs, reason = "MOR's column names")]
pub struct Group {
    pub id: i32,
    pub owner_id: i32,
    pub number_length: i32,
    pub pin_length: i32,
    /// The value of a card, without tax, in the system's currency.
    pub price: BigDecimal,
}

impl Group {
    /// Returns the group with the id unless it is hidden or, if `owner` is given, belongs to another owner.
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

/// A range of cards to create, each with its own PIN.
#[derive(Debug)]
pub struct CardRange<'a> {
    /// The card group.
    pub group: &'a Group,
    /// The first card number. It may have more digits than any integer type.
    pub first_number: BigDecimal,
    /// The number of cards, including those whose numbers are in use.
    pub count: u32,
    /// The cards' owner.
    pub owner_id: i32,
    /// The distributor's user id; -1: none.
    pub distributor_id: i32,
    /// The value of a card, without tax, in the system's currency.
    pub balance: &'a BigDecimal,
    /// The balance that must remain on a card.
    pub min_balance: BigDecimal,
    /// The name of the batch.
    pub batch_number: &'a str,
    /// The language of the announcements.
    pub language: &'a str,
}

/// Returns how many PINs of a length may be in use: a fifth of all. With more, PINs could be guessed.
pub fn pin_capacity(length: i32) -> BigDecimal {
    BigDecimal::new(2.into(), 1 - i64::from(length.clamp(0, PIN_LEN_MAX)))
}

/// Prepares a transaction for a bulk creation: changes its settings, and waits until no other bulk creation runs on any
/// server.
///
/// Two concurrent bulk creations that drew the same PINs in different orders would deadlock.
pub async fn lock_bulk_create(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::raw_sql(TRANSACTION_SETTINGS).execute(&mut *connection).await?;
    advisory_lock(connection).await
}

/// Whether `count` more PINs of a length may be in use.
///
/// PINs are unique across all groups. There are never more of them than card ids, so they are only counted if the
/// highest card id exceeds the limit.
///
/// # Errors
///
/// Database errors.
pub async fn has_pin_capacity(connection: &mut PgConnection, length: i32, count: u32) -> sqlx::Result<bool> {
    let used_max = pin_capacity(length) - count;
    if length > PIN_LEN_MAX || used_max < 0 {
        return Ok(false);
    }
    sqlx::query_scalar!(
        r#"select coalesce((select max(id) from cards), 0) <= $2::numeric
               or (select count(*) from cards where length(pin) = $1) <= $2::numeric as "enough!""#,
        length,
        used_max
    )
    .fetch_one(connection)
    .await
}

impl CardRange<'_> {
    /// Creates the cards whose numbers are not in use, and returns how many it created. Calls `progress` after each
    /// batch with the count of numbers that are finished. Call [`lock_bulk_create`] and [`has_pin_capacity`] before.
    pub async fn create(&self, connection: &mut PgConnection, mut progress: impl FnMut(u32)) -> Result<u64, ApiError> {
        // Each PIN is looked up by its index from here on.
        sqlx::query!("select set_config('enable_seqscan', 'off', true)").fetch_one(&mut *connection).await?;
        let mut created = 0;
        for first in (0..self.count).step_by(BATCH_SIZE) {
            let count = (self.count - first).min(u32::try_from(BATCH_SIZE).unwrap_or(u32::MAX));
            created += self.create_batch(connection, first, count).await?;
            progress(first + count);
        }
        Ok(created)
    }

    /// Creates the cards of one batch. Skips numbers that are in use. Tries again for cards that got no PIN, and if a
    /// concurrent request took one of the numbers or PINs.
    async fn create_batch(&self, connection: &mut PgConnection, first: u32, count: u32) -> Result<u64, ApiError> {
        let mut created = 0;
        for _ in 0..PIN_ATTEMPTS_MAX {
            // A third more than needed: up to a fifth of all PINs may be in use.
            let pins = random::distinct_pins(count + count / 3 + 1, self.group.pin_length)?;
            let mut savepoint = connection.begin().await?;
            match self.insert_batch(&mut savepoint, first, count, &pins).await {
                Ok(result) => {
                    savepoint.commit().await?;
                    created += result.created;
                    if result.created == result.free_numbers {
                        return Ok(u64::try_from(created).unwrap_or(0));
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
        let first_number = &self.first_number + first;
        let last_number = &first_number + (count - 1);
        let card = CardValues {
            cardgroup_id: self.group.id,
            balance: self.balance,
            owner_id: self.owner_id,
            min_balance: &self.min_balance,
            batch_number: self.batch_number,
            language: self.language,
            distributor_id: self.distributor_id,
        };
        sqlx::query_file_as!(
            BatchResult,
            "src/store/bulk_create.sql",
            first_number,
            last_number,
            self.group.number_length,
            pins,
            Json(card) as _
        )
        .fetch_one(connection)
        .await
    }
}

/// The values that all cards of a batch have. `bulk_create.sql` reads the serialized fields by name.
#[derive(Serialize)]
struct CardValues<'a> {
    cardgroup_id: i32,
    balance: &'a BigDecimal,
    owner_id: i32,
    min_balance: &'a BigDecimal,
    batch_number: &'a str,
    language: &'a str,
    distributor_id: i32,
}

/// The result of a batch.
struct BatchResult {
    /// Numbers that were not in use.
    free_numbers: i64,
    created: i64,
}

/// Takes the lock of bulk creations until the transaction ends. It is shared by all servers.
async fn advisory_lock(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('calling_cards_create', 0))")
        .fetch_one(connection)
        .await?;
    Ok(())
}

/// Blocks bulk creations until the transaction ends. `false`: a bulk creation runs. Its uncommitted numbers and PINs
/// are not visible, so the transaction's `lock_timeout` is then lowered to `LOCK_TIMEOUT` for conflicts with them.
pub async fn try_block_bulk(connection: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select case when pg_try_advisory_xact_lock_shared(hashtextextended('calling_cards_create', 0)) then true
               else set_config('lock_timeout', $1, true) is null end as "blocked!""#,
        format!("{}ms", LOCK_TIMEOUT.as_millis())
    )
    .fetch_one(connection)
    .await
}

/// Sets the transaction's `lock_timeout` back to the given value.
pub async fn reset_lock_timeout(connection: &mut PgConnection, timeout: Duration) -> sqlx::Result<()> {
    sqlx::query!("select set_config('lock_timeout', $1, true)", format!("{}ms", timeout.as_millis()))
        .fetch_one(connection)
        .await?;
    Ok(())
}
