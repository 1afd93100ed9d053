//! The report of the stock: free cards, and how long they last.

use serde::Serialize;
use sqlx::PgPool;

/// The days whose sales predict the next ones: four weeks, with each day of the week four times.
pub const PACE_DAYS: i32 = 28;

/// The payments of the last weeks are found by the index of their dates, also if the statistics are missing or old.
const BEGIN: &str = "begin read only; set local plan_cache_mode = force_custom_plan; set local enable_bitmapscan = on;
    set local enable_hashjoin = on; set local enable_sort = on; set local work_mem = '64MB'; set local statement_timeout = '1h'";

/// The stock of a card group.
#[derive(Debug, Serialize)]
pub struct StockRow {
    /// The card group's id.
    pub id: i32,
    /// The card group's name.
    pub name: String,
    /// The owner's id.
    #[serde(skip)]
    pub owner_id: i32,
    /// The owner's name. `None`: the owner does not exist.
    pub owner: Option<String>,
    /// The cards that can be sold.
    pub free: i64,
    /// The cards that were sold or issued in exchange in the last [`PACE_DAYS`] days.
    pub sold: i64,
    /// The whole days that the free cards last at this pace. `None`: none was sold in these days.
    pub days_left: Option<i64>,
    /// The last day on which the cards are valid, `YYYY-MM-DD` in UTC. `None`: no end.
    pub valid_till: Option<String>,
    /// `ok`; `expired`: the group's time is over, and its cards are still sold; `expires`: it ends within
    /// [`PACE_DAYS`] days; `expires_before_sold_out`: it ends before the free cards are sold at this pace.
    pub validity: String,
}

/// Returns the stock of each card group that is not hidden, ordered by the days left.
///
/// `within_days`: only the groups that are sold out, or end, within this number of days.
///
/// # Errors
///
/// Database errors.
pub async fn report(pool: &PgPool, within_days: Option<i32>) -> sqlx::Result<Vec<StockRow>> {
    let mut transaction = pool.begin_with(BEGIN).await?;
    sqlx::query_file_as!(StockRow, "src/back_office/reports/stock.sql", PACE_DAYS, within_days)
        .fetch_all(&mut *transaction)
        .await
}
