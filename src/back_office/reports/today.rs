//! The sales of today beside those of the same hours a week before.

use std::collections::BTreeMap;

use bigdecimal::BigDecimal;
use serde::Serialize;
use sqlx::PgPool;

use super::filter::PaymentFilter;
use super::period::Period;
use super::sales::{GroupBy, SalesRow, report_period};
use crate::money::Money;

/// Both days, up to the present time of day, in UTC.
#[derive(Debug, Serialize)]
pub struct Today {
    /// For each currency.
    pub totals: Vec<ComparedSales>,
    /// For each card group and currency.
    pub groups: Vec<ComparedSales>,
    /// For each API user (shop) and currency.
    pub shops: Vec<ComparedSales>,
}

/// Sales and top-ups of both days in one currency.
#[derive(Debug, Serialize)]
pub struct ComparedSales {
    /// The id of the group or user. `None`: no group, no user, or the total.
    pub id: Option<i32>,
    /// The name of the group or user.
    pub name: Option<String>,
    /// The currency of the amounts.
    pub currency: String,
    /// The number of sales and top-ups today.
    pub count: i64,
    /// Their amount without tax, less the refunds of the day.
    pub net: Money,
    /// The number a week before.
    pub count_before: i64,
    /// The net amount a week before.
    pub net_before: Money,
}

/// Compares the sales of today with those a week before.
///
/// # Errors
///
/// Database errors.
pub async fn report(pool: &PgPool, filter: &PaymentFilter) -> sqlx::Result<Today> {
    let periods = Period::today_and_week_before(&mut *pool.acquire().await?).await?;
    let mut sums = [Sums::default(), Sums::default(), Sums::default()];
    for (day, period) in periods.into_iter().enumerate() {
        let report = report_period(pool, period, &[GroupBy::Group, GroupBy::User], filter).await?;
        let [totals, groups, shops] = &mut sums;
        for row in report.rows {
            totals.add(day, None, None, &row);
            groups.add(day, row.group_id, row.group.as_deref(), &row);
            shops.add(day, row.user_id, row.user.as_deref(), &row);
        }
    }
    let [totals, groups, shops] = sums.map(Sums::compare);
    Ok(Today { totals, groups, shops })
}

/// The number and the net amount of today, and of the day a week before.
type Days = [(i64, BigDecimal); 2];

/// Sums by id and currency.
#[derive(Default)]
struct Sums(BTreeMap<(Option<i32>, String), (Option<String>, Days)>);

impl Sums {
    fn add(&mut self, day: usize, id: Option<i32>, name: Option<&str>, row: &SalesRow) {
        let (_, days) =
            self.0.entry((id, row.currency.clone())).or_insert_with(|| (name.map(str::to_owned), Days::default()));
        if let Some((count, net)) = days.get_mut(day) {
            *count += row.count;
            *net += BigDecimal::from(row.net.clone());
        }
    }

    /// Returns the sums, those with the most sales of today first.
    fn compare(self) -> Vec<ComparedSales> {
        let mut rows: Vec<ComparedSales> = self
            .0
            .into_iter()
            .map(|((id, currency), (name, [(count, net), (count_before, net_before)]))| ComparedSales {
                id,
                name,
                currency,
                count,
                net: net.into(),
                count_before,
                net_before: net_before.into(),
            })
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse((row.count, row.count_before)));
        rows
    }
}
