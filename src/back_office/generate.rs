//! Creates cards in bulk, with consecutive numbers and random PINs: all of them or none.

use bigdecimal::{BigDecimal, ToPrimitive};
use serde_json::json;
use sqlx::PgConnection;

use super::selection::group_not_found;
use super::{BackOfficeError, pin_capacity};
use crate::error::ApiError;
use crate::money::AMOUNT_MAX_EXCLUSIVE;
use crate::number;
use crate::store::bulk_create::{self, CardRange, Group, NUMBER_LEN_MAX};
use crate::store::change_log::{Author, Change, Target, What};

/// Cards to create.
#[derive(Debug)]
pub struct CardGeneration {
    /// The id of the card group.
    pub group: i32,
    /// How many, at least 1.
    pub quantity: u32,
    /// The first number; numbers in use are skipped. `None`: the number after the group's highest.
    pub from: Option<String>,
    /// The balance of a card, without tax, in the system's currency. `None`: the group's price.
    pub balance: Option<BigDecimal>,
    /// The batch number of the cards.
    pub batch_number: String,
    /// The language of the cards' announcements.
    pub language: String,
}

/// The cards that were created.
#[derive(Debug)]
pub struct GeneratedCards {
    /// The lowest number.
    pub first: String,
    /// The highest number.
    pub last: String,
}

/// Why cards are not created.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// The first number does not have the length of the group's numbers, which is this.
    #[error("the numbers of this group have {0} digits")]
    FirstNumber(i32),
    /// The numbers of the group's length, which is this, are used up.
    #[error("no more numbers of {0} digits: start lower with --from")]
    NumbersUsedUp(i32),
    /// The group does not exist, or its PINs are too short; the database failed.
    #[error(transparent)]
    BackOffice(#[from] BackOfficeError),
    /// The statement that creates the cards failed.
    #[error("the cards cannot be created: {0:?}")]
    Api(ApiError),
}

impl From<ApiError> for GenerationError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<sqlx::Error> for GenerationError {
    fn from(error: sqlx::Error) -> Self {
        BackOfficeError::from(error).into()
    }
}

/// Reads the balance of new cards.
///
/// # Errors
///
/// If it is no amount of at least 0.
pub fn parse_amount(text: &str) -> Result<BigDecimal, String> {
    let amount = number::parse_decimal(text);
    let fits = number::is_decimal(text) && amount >= 0 && amount < AMOUNT_MAX_EXCLUSIVE;
    if fits { Ok(amount) } else { Err("expected an amount of at least 0, such as 8.40".to_owned()) }
}

impl CardGeneration {
    /// Creates exactly the quantity of cards, in the caller's transaction. Numbers in use are skipped: further ranges
    /// follow until the quantity is reached. Calls `progress` with the number of cards that are finished.
    ///
    /// # Errors
    ///
    /// See [`GenerationError`].
    pub async fn run(
        &self,
        connection: &mut PgConnection,
        author: &Author,
        mut progress: impl FnMut(u64),
    ) -> Result<GeneratedCards, GenerationError> {
        // A million cards take longer than the timeout for requests.
        sqlx::query!("select set_config('statement_timeout', '1h', true)").fetch_one(&mut *connection).await?;
        bulk_create::lock_bulk_create(&mut *connection).await?;
        let group = Group::find(&mut *connection, self.group.into(), None).await?;
        let group = group.ok_or_else(|| group_not_found(self.group))?;
        if let Some(message) = pin_capacity::refusal(&mut *connection, group.pin_length, self.quantity).await? {
            return Err(BackOfficeError::Refused(message).into());
        }
        let end = BigDecimal::new(1.into(), -i64::from(group.number_length));
        let mut from = self.find_first_number(&mut *connection, &group).await?;
        let last_id = max_card_id(&mut *connection).await?;
        let mut left = self.quantity;
        while left > 0 {
            let available = (&end - &from).to_u32().unwrap_or(u32::MAX);
            let range = self.range(&group, from.clone(), left.min(available));
            if range.count == 0 {
                return Err(GenerationError::NumbersUsedUp(group.number_length));
            }
            let done = u64::from(self.quantity - left);
            let created = range.create(&mut *connection, |count| progress(done + u64::from(count))).await?;
            left = left.saturating_sub(u32::try_from(created).unwrap_or(left));
            from += range.count;
        }
        let created = sqlx::query_as!(
            GeneratedCards,
            r#"select coalesce(min(number collate "C"), '') as "first!", coalesce(max(number collate "C"), '') as "last!"
               from cards where id > $1 and cardgroup_id = $2"#,
            last_id,
            group.id
        );
        let created = created.fetch_one(&mut *connection).await?;
        self.record(connection, &created, author).await?;
        Ok(created)
    }

    /// Returns the given first number, else the one after the group's highest. The first number of a group has no
    /// leading zero.
    async fn find_first_number(
        &self,
        connection: &mut PgConnection,
        group: &Group,
    ) -> Result<BigDecimal, GenerationError> {
        let length = usize::try_from(group.number_length).unwrap_or(0);
        if let Some(from) = &self.from {
            let fits = from.len() == length && length <= NUMBER_LEN_MAX && number::is_digits(from);
            let number = Some(from).filter(|_| fits).and_then(|from| from.parse().ok());
            return number.ok_or(GenerationError::FirstNumber(group.number_length));
        }
        let highest = sqlx::query_scalar!(
            r#"select max(number collate "C") from cards
               where cardgroup_id = $1 and hidden = 0 and quarantined_at is null and length(number) = $2 and number ~ '^[0-9]+$'"#,
            group.id,
            group.number_length
        );
        let highest: Option<BigDecimal> = highest.fetch_one(connection).await?.and_then(|number| number.parse().ok());
        let lowest = BigDecimal::new(1.into(), 1 - i64::from(group.number_length));
        Ok(highest.map_or(lowest, |highest| highest + 1))
    }

    fn range<'a>(&'a self, group: &'a Group, from: BigDecimal, count: u32) -> CardRange<'a> {
        CardRange {
            group,
            first_number: from,
            count,
            owner_id: group.owner_id,
            distributor_id: -1,
            balance: self.balance.as_ref().unwrap_or(&group.price),
            min_balance: BigDecimal::from(0),
            batch_number: &self.batch_number,
            language: &self.language,
        }
    }

    async fn record(
        &self,
        connection: &mut PgConnection,
        created: &GeneratedCards,
        author: &Author,
    ) -> sqlx::Result<()> {
        let after = json!({ "cards_created": self.quantity, "batch_number": self.batch_number });
        let target = Target::Cards { group: self.group, first: &created.first, last: &created.last };
        Change { what: What::Card, target, before: None, after: Some(after.to_string()) }
            .record(connection, author)
            .await
    }
}

async fn max_card_id(connection: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"select coalesce(max(id), 0) as "id!" from cards"#).fetch_one(connection).await
}
