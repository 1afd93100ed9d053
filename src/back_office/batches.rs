//! Lists the batches of cards that were generated or imported together.

use serde::Serialize;
use sqlx::{PgExecutor, PgPool};

use crate::store::pages::BEGIN_READ_BY_INDEX;

/// Cards of a batch that the list counts. A page counts all its batches within a fraction of a second.
pub const COUNTED_CARDS_MAX: i64 = 5_000;

/// Which batches to list.
#[derive(Debug, Default)]
pub struct BatchFilter {
    /// Only those of groups of this owner.
    pub owner: Option<i32>,
    /// Only those of this group.
    pub group: Option<i32>,
    /// Those that follow this one: group and batch number.
    pub after: Option<(i32, String)>,
}

/// A batch: the cards of a group with one batch number.
#[derive(Debug, Serialize)]
pub struct BatchRow {
    /// The id of the card group.
    pub group: i32,
    /// The name of the card group.
    pub group_name: String,
    /// The name of its owner. `None`: the owner does not exist.
    pub owner: Option<String>,
    /// The batch number.
    pub batch_number: String,
    /// How many cards; [`COUNTED_CARDS_MAX`] stands for as many or more, and the other numbers are of as many cards.
    pub cards: i64,
    /// How many of them are sold.
    pub sold: i64,
    /// How many of them are blocked.
    pub blocked: i64,
    /// How many of them a distributor has.
    pub assigned: i64,
}

impl BatchFilter {
    /// Reads a page of batches: the newest groups first, and in each the batch numbers in descending order.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn list(&self, pool: &PgPool, rows_max: i64) -> sqlx::Result<Vec<BatchRow>> {
        let (after_group, after_batch) = self.after.clone().unzip();
        let mut transaction = pool.begin_with(BEGIN_READ_BY_INDEX).await?;
        sqlx::query_file_as!(
            BatchRow,
            "src/back_office/batches.sql",
            self.owner,
            self.group,
            after_group,
            after_batch,
            rows_max,
            COUNTED_CARDS_MAX
        )
        .fetch_all(&mut *transaction)
        .await
    }
}

/// Whether a card group has a batch with this number.
///
/// # Errors
///
/// Database errors.
pub async fn exists(executor: impl PgExecutor<'_>, group: i32, batch_number: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (
               select from cards
               where cardgroup_id = $1 and batch_number = $2 and batch_number <> '' and hidden = 0 and quarantined_at is null
           ) as "exists!""#,
        group,
        batch_number
    )
    .fetch_one(executor)
    .await
}
