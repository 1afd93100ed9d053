//! The report of sales, top-ups and refunds.

use clap::ValueEnum;
use serde::Serialize;
use sqlx::PgPool;
use sqlx::types::Json;

use super::filter::PaymentFilter;
use super::period::{Days, Period};
use crate::back_office::BackOfficeError;
use crate::money::Money;

/// What the rows of the report are for, besides the currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GroupBy {
    /// Each day in the time zone.
    Day,
    /// Each card group.
    Group,
    /// Each API user (shop) that sold. A refund belongs to the user that sold.
    User,
    /// Each currency. The rows are always of one currency: this adds nothing.
    Currency,
}

impl GroupBy {
    fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Group => "group",
            Self::User => "user",
            Self::Currency => "currency",
        }
    }
}

/// The report.
#[derive(Debug, Serialize)]
pub struct SalesReport {
    /// The days.
    #[serde(flatten)]
    pub period: Period,
    /// The rows, ordered by day, group, user and currency.
    pub rows: Vec<SalesRow>,
    /// The sums of all rows, one for each currency.
    pub totals: Vec<SalesRow>,
}

/// Sums of payments in one currency. Amounts are without tax.
#[derive(Debug, Serialize)]
pub struct SalesRow {
    #[serde(skip)]
    is_total: bool,
    /// `YYYY-MM-DD`. `None`: not grouped by day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// The card group's id. `None`: not grouped by group, or refills of users' balances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_id: Option<i32>,
    /// The card group's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The API user's id. `None`: not grouped by user, or the payment of a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<i32>,
    /// The API user's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The currency of the amounts.
    pub currency: String,
    /// The number of sales and top-ups.
    pub count: i64,
    /// The amount of the sales and top-ups.
    pub amount: Money,
    /// The tax of the sales and top-ups.
    pub tax: Money,
    /// The number of refunds.
    pub refunds: i64,
    /// The amount of the refunds: negative or 0.
    pub refunded: Money,
    /// The tax of the refunds: negative or 0.
    pub refunded_tax: Money,
    /// `amount` + `refunded`.
    pub net: Money,
    /// `tax` + `refunded_tax`.
    pub net_tax: Money,
}

/// Sums the sales, top-ups and refunds of the days.
///
/// # Errors
///
/// As [`Period::resolve`].
pub async fn report(
    pool: &PgPool,
    days: &Days,
    time_zone: &str,
    by: &[GroupBy],
    filter: &PaymentFilter,
) -> Result<SalesReport, BackOfficeError> {
    let period = Period::resolve(&mut *pool.acquire().await?, days, time_zone).await?;
    Ok(report_period(pool, period, by, filter).await?)
}

/// Sums the sales, top-ups and refunds of the period.
///
/// # Errors
///
/// Database errors.
pub async fn report_period(
    pool: &PgPool,
    period: Period,
    by: &[GroupBy],
    filter: &PaymentFilter,
) -> sqlx::Result<SalesReport> {
    let mut transaction = period.begin(pool).await?;
    let by: Vec<String> = by.iter().map(|by| by.name().to_owned()).collect();
    let rows = sqlx::query_file_as!(
        SalesRow,
        "src/back_office/reports/sales.sql",
        period.starts_at,
        period.ends_at,
        period.time_zone,
        &by,
        Json(filter) as _
    );
    let rows = rows.fetch_all(&mut *transaction).await?;
    let (totals, rows) = rows.into_iter().partition(|row| row.is_total);
    Ok(SalesReport { period, rows, totals })
}
