//! The list of payments, the newest first, in pages.

use std::time::{Duration, Instant};

use serde::Serialize;
use sqlx::PgPool;
use sqlx::types::Json;

use super::filter::PaymentFilter;
use super::period::Period;
use crate::money::Money;

/// The plan is for the values of the filter, and takes the order of the index of dates: the planner may sort only the
/// payments of the same time.
const BEGIN: &str = "begin isolation level repeatable read read only; set local plan_cache_mode = force_custom_plan";
/// Payments that one statement reads. If the filter selects few of them, the next statement continues behind them.
const PAYMENTS_READ: i64 = 10_000;

/// A payment in the list.
#[derive(Debug, Serialize)]
pub struct PaymentRow {
    /// The payment's id.
    pub id: i64,
    /// `YYYY-MM-DD HH:MM:SS` in UTC.
    pub date: String,
    #[serde(skip)]
    exact_date: String,
    /// `sale`, `top_up`, `refill` or `refund`.
    pub kind: String,
    /// The card's id. `None`: the payment is for the balance of a user.
    pub card_id: Option<i64>,
    /// The card's number.
    pub number: Option<String>,
    /// The name or the id of the user whose balance is refilled.
    pub refilled_user: Option<String>,
    /// The id of the card's group.
    pub group_id: Option<i32>,
    /// The name of the card's group.
    pub group: Option<String>,
    /// The name or the id of the API user (shop) that sold. `None`: a command or the console.
    pub user: Option<String>,
    /// The currency of the amounts.
    pub currency: String,
    /// The amount without tax; with it if `tax_included`. That of a refund is negative.
    pub amount: Money,
    /// The tax.
    pub tax: Money,
    /// Whether the amount includes the tax.
    pub tax_included: bool,
    /// The client's reference.
    pub reference: Option<String>,
    /// The client's description.
    pub description: Option<String>,
}

/// A payment behind which a page starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    date: String,
    id: i64,
}

impl Position {
    /// The position behind a payment. `None`: the text is no time such as `2026-11-30 10:00:00.123456`.
    pub fn new(date: String, id: i64) -> Option<Self> {
        humantime::parse_rfc3339_weak(&date).is_ok().then_some(Self { date, id })
    }

    /// The time of the payment, in UTC.
    pub fn date(&self) -> &str {
        &self.date
    }

    /// The payment's id.
    pub fn id(&self) -> i64 {
        self.id
    }
}

/// A page of the list.
#[derive(Debug)]
pub struct Page {
    /// The payments, the newest first.
    pub rows: Vec<PaymentRow>,
    /// Where the next page starts. `None`: there is none.
    pub next: Option<Position>,
}

/// The list of the payments of a period.
#[derive(Debug)]
pub struct PaymentList {
    /// The period.
    pub period: Period,
    /// Which of its payments.
    pub filter: PaymentFilter,
}

impl PaymentList {
    /// Reads a page of up to `rows_max` payments. If the filter selects few of many payments, and `duration_max` is
    /// over, the page ends where the search has come to.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn read_page(
        &self,
        pool: &PgPool,
        mut start: Option<Position>,
        rows_max: usize,
        duration_max: Duration,
    ) -> sqlx::Result<Page> {
        let started_at = Instant::now();
        let mut rows = Vec::new();
        loop {
            let mut transaction = pool.begin_with(BEGIN).await?;
            let (date, id) = start.as_ref().map(|start| (start.date.as_str(), start.id)).unzip();
            // One row more: it shows whether there is a next page.
            let missing = i64::try_from(rows_max + 1 - rows.len()).unwrap_or(i64::MAX);
            let found = sqlx::query_file_as!(
                PaymentRow,
                "src/back_office/reports/payments.sql",
                self.period.starts_at,
                self.period.ends_at,
                date,
                id,
                PAYMENTS_READ,
                missing,
                Json(&self.filter) as _
            );
            rows.extend(found.fetch_all(&mut *transaction).await?);
            if rows.len() > rows_max {
                rows.truncate(rows_max);
                let next = rows.last().map(|row| Position { date: row.exact_date.clone(), id: row.id });
                return Ok(Page { rows, next });
            }
            // Where the statement ended, in the same snapshot.
            let end = sqlx::query!(
                r#"select count(*) as "count!", to_char(min(date_added), 'YYYY-MM-DD HH24:MI:SS.US') as date,
                       (array_agg(id order by date_added, id))[1] as id
                   from (
                       select id, date_added from payments
                       where date_added >= $1::text::timestamp and date_added < $2::text::timestamp
                           and ($3::text is null
                               or date_added <= $3::text::timestamp and (date_added < $3::text::timestamp or id < $4::bigint))
                       order by date_added desc, id desc limit $5
                   ) read"#,
                self.period.starts_at,
                self.period.ends_at,
                date,
                id,
                PAYMENTS_READ
            );
            let end = end.fetch_one(&mut *transaction).await?;
            transaction.commit().await?;
            start = end.date.zip(end.id).map(|(date, id)| Position { date, id }).filter(|_| end.count == PAYMENTS_READ);
            if start.is_none() || started_at.elapsed() >= duration_max {
                return Ok(Page { rows, next: start });
            }
        }
    }
}
