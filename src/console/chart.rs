//! Charts as SVG, with attributes and classes only: the policy forbids styles. Each chart has its numbers in a table
//! too.

use std::time::Duration;

use bigdecimal::{BigDecimal, ToPrimitive};
use serde::Serialize;

use crate::back_office::reports::sales::SalesReport;

/// The size in units of the drawing, which is stretched to the width of the page.
const WIDTH: u32 = 720;
const HEIGHT: u32 = 150;
/// With more bars, each would be narrower than a unit.
const BARS_MAX: usize = 366;
const DAY: Duration = Duration::from_hours(24);

/// A chart with a bar for each day.
#[derive(Debug, Serialize)]
pub struct Chart {
    width: u32,
    height: u32,
    /// What the bars show.
    label: String,
    first: String,
    last: String,
    /// The highest bar in words.
    highest: String,
    bars: Vec<Bar>,
}

#[derive(Debug, Serialize)]
struct Bar {
    x: u32,
    y: u32,
    width: u32,
    height: u32,
    title: String,
}

/// Draws the sales of each day of a report by day: the net amount if all are in one currency, else the number of sales
/// and top-ups. `None`: the report has no sales, or too many days.
pub fn draw_days(report: &SalesReport) -> Option<Chart> {
    let (label, unit) = match report.totals.as_slice() {
        [total] => (format!("Net amount by day, in {}", total.currency), total.currency.as_str()),
        _ => ("Number of sales and top-ups by day".to_owned(), "sales"),
    };
    let is_amount = report.totals.len() == 1;
    let days = days(&report.period.from, &report.period.to)?;
    let mut values: Vec<(String, BigDecimal)> = days.map(|day| (day, BigDecimal::from(0))).collect();
    for row in &report.rows {
        let value = values.iter_mut().find(|(day, _)| row.day.as_ref() == Some(day));
        if let Some((_, value)) = value {
            *value += if is_amount { BigDecimal::from(row.net.clone()) } else { BigDecimal::from(row.count) };
        }
    }
    let zero = BigDecimal::from(0);
    let (highest_day, highest) =
        values.iter().max_by(|(_, one), (_, other)| one.cmp(other)).filter(|(_, value)| *value > zero)?;
    let count = u32::try_from(values.len()).ok()?;
    let format = |day: &str, value: &BigDecimal| format!("{day}: {} {unit}", value.normalized().to_plain_string());
    let bars = (0..).zip(&values).map(|(index, (day, value))| {
        let (start, end) = (index * WIDTH / count, (index + 1) * WIDTH / count);
        let gap = if end - start > 4 { 2 } else { 0 };
        let share = (value * BigDecimal::from(HEIGHT) / highest).to_u32().unwrap_or(0);
        // The bar of a small number is visible too.
        let height = share.max(u32::from(*value > zero));
        let (x, width, y) = (start, (end - start).saturating_sub(gap).max(1), HEIGHT - height);
        Bar { x, y, width, height, title: format(day, value) }
    });
    Some(Chart {
        width: WIDTH,
        height: HEIGHT,
        label,
        first: report.period.from.clone(),
        last: report.period.to.clone(),
        highest: format(highest_day, highest),
        bars: bars.collect(),
    })
}

/// Returns all days from the first to the last one, as `YYYY-MM-DD`.
fn days(first: &str, last: &str) -> Option<impl Iterator<Item = String>> {
    let parse = |day: &str| humantime::parse_rfc3339(&format!("{day}T00:00:00Z")).ok();
    let (first, last) = (parse(first)?, parse(last)?);
    let count = usize::try_from(last.duration_since(first).ok()?.as_secs() / DAY.as_secs()).ok()? + 1;
    let format = |day| humantime::format_rfc3339_seconds(day).to_string().chars().take(10).collect();
    (count <= BARS_MAX).then(|| std::iter::successors(Some(first), |day| Some(*day + DAY)).take(count).map(format))
}
