//! The report of taxes: sums by effective rate and currency.

use serde::Serialize;
use sqlx::PgPool;

use super::period::{Days, Period};
use crate::back_office::BackOfficeError;
use crate::money::Money;

/// The report.
#[derive(Debug, Serialize)]
pub struct TaxReport {
    /// The days.
    #[serde(flatten)]
    pub period: Period,
    /// The rows, ordered by currency and rate.
    pub rows: Vec<TaxRow>,
}

/// The payments of one currency with one effective tax rate. A card group with several taxes has one effective rate.
#[derive(Debug, Serialize)]
pub struct TaxRow {
    /// The currency of the amounts.
    pub currency: String,
    /// `round(100 × tax / amount, 4)`. `None`: payments with the amount 0.
    pub rate: Option<Money>,
    /// The number of payments, refunds included.
    pub count: i64,
    /// The sum of the amounts without tax. Refunds are negative.
    pub amount: Money,
    /// The sum of the taxes. Those of refunds are negative.
    pub tax: Money,
}

/// Sums the sales, top-ups and refunds of the days by effective tax rate. Payments without amount and tax, such as
/// those of reissues, are left out.
///
/// `owner`: only the payments for cards and users of this owner. `None`: all.
///
/// # Errors
///
/// As [`Period::resolve`].
pub async fn report(
    pool: &PgPool,
    days: &Days,
    time_zone: &str,
    owner: Option<i32>,
) -> Result<TaxReport, BackOfficeError> {
    let period = Period::resolve(&mut *pool.acquire().await?, days, time_zone).await?;
    Ok(report_period(pool, period, owner).await?)
}

/// As [`report`], for a period.
///
/// # Errors
///
/// Database errors.
pub async fn report_period(pool: &PgPool, period: Period, owner: Option<i32>) -> sqlx::Result<TaxReport> {
    let mut transaction = period.begin(pool).await?;
    let rows = sqlx::query_as!(
        TaxRow,
        r#"select currency as "currency!", rate as "rate: Money", count(*) as "count!", sum(amount) as "amount!: Money", sum(tax) as "tax!: Money"
           from (
               select currency, coalesce(amount, 0) as amount, coalesce(tax, 0) as tax,
                   round(100 * coalesce(tax, 0) / nullif(amount, 0), 4) as rate
               from payments
               where date_added >= $1::text::timestamp and date_added < $2::text::timestamp
                   and kind in ('sale', 'top_up', 'refill', 'refund') and ($3::integer is null or owner_id = $3)
           ) taxed
           where amount <> 0 or tax <> 0
           group by currency, rate order by currency, rate"#,
        period.starts_at,
        period.ends_at,
        owner
    );
    let rows = rows.fetch_all(&mut *transaction).await?;
    Ok(TaxReport { period, rows })
}
