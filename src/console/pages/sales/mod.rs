//! `/sales`: payments with their totals, and the reports that belong to them.

mod export;
mod reconciliation;
mod reports;
mod selection;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use minijinja::context;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

pub(super) use self::selection::Selection;
use self::selection::{Choices, Fields};
use crate::back_office::reports::payments::{PaymentList, Position};
use crate::back_office::reports::sales::{GroupBy, SalesReport, report_period};
use crate::console::Console;
use crate::console::access::Access;
use crate::console::chart::draw_days;
use crate::console::counted::Count;
use crate::console::error::ConsoleError;
use crate::console::render::{PageResult, to_value};
use crate::console::route::Route;
use crate::console::session::Session;

/// The payments of a page.
const ROWS_MAX: usize = 50;
/// How long a page searches for payments that the filter selects.
const SEARCH_TIME_MAX: Duration = Duration::from_millis(50);

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/sales", Access::ALL, show),
        Route::post("/sales/export", Access::WRITERS, export::export),
        Route::get("/sales/tax", Access::ALL, reports::show_tax),
        Route::get("/sales/statement", Access::ALL, reports::show_statement),
        Route::get("/sales/reconciliation", Access::ALL, reconciliation::show),
        Route::upload("/sales/reconciliation", Access::WRITERS, reconciliation::compare),
    ]
}

/// Where the page of the list starts: behind this payment.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Start {
    before: String,
    before_id: Option<i64>,
}

impl Start {
    fn position(self) -> Result<Option<Position>, ConsoleError> {
        let Some(id) = self.before_id else { return Ok(None) };
        let position = Position::new(self.before, id);
        position.map(Some).ok_or_else(|| ConsoleError::Malformed("the parameter before is not a time".to_owned()))
    }
}

/// Shows totals, chart and list of the payments that the fields select.
async fn show(
    State(console): State<Arc<Console>>,
    session: Session,
    Query(mut fields): Query<Fields>,
    Query(start): Query<Start>,
) -> PageResult {
    let start = start.position()?;
    let is_first_page = start.is_none();
    let Selection { period, filter } = Selection::find(&console, &session, &mut fields).await?;
    let list = PaymentList { period: period.clone(), filter: filter.clone() };
    let selection = Selection { period: period.clone(), filter };
    let (totals, parts, page, choices) = tokio::join!(
        count_days(&console, selection.clone()),
        count_groups_and_shops(&console, selection.clone()),
        list.read_page(&console.pool, start, ROWS_MAX, SEARCH_TIME_MAX),
        Choices::load(&console.pool, &session),
    );
    let page = page?;
    // A page that is not full and has a next one: the search for payments took too long.
    let searched_to = page.next.as_ref().filter(|_| page.rows.len() < ROWS_MAX).map(Position::date);
    let next = page.next.as_ref().map(|next| fields.query_with(next));
    let values = context! {
        fields => to_value(&fields),
        query => fields.query(),
        filters => fields.query_without_days(),
        choices => to_value(choices?),
        period => to_value(&period),
        totals => totals.to_value(),
        parts => parts.to_value_with(|(groups, shops)| {
            context! { groups => to_value(&groups.rows), shops => to_value(&shops.rows) }
        }),
        is_running => totals.is_running() || parts.is_running(),
        chart => match &totals { Count::Done(report, _) => to_value(draw_days(report)), _ => to_value(()) },
        payments => to_value(&page.rows),
        is_first_page,
        searched_to,
        next,
    };
    console.render(&session, "sales.html", values)
}

/// Counts the sales of each day, for the page and for the dashboard.
pub(super) async fn count_days(console: &Console, selection: Selection) -> Count<SalesReport> {
    let pool: PgPool = console.pool.clone();
    let Selection { period, filter } = selection;
    let key = (period.clone(), filter.clone());
    console.counts.sales.get(key, async move || Ok(report_period(&pool, period, &[GroupBy::Day], &filter).await?)).await
}

/// Counts the sales of each card group, and those of each API user (shop).
async fn count_groups_and_shops(console: &Console, selection: Selection) -> Count<(SalesReport, SalesReport)> {
    let pool: PgPool = console.pool.clone();
    let Selection { period, filter } = selection;
    let key = (period.clone(), filter.clone());
    let count = async move || {
        let groups = report_period(&pool, period.clone(), &[GroupBy::Group], &filter).await?;
        let shops = report_period(&pool, period, &[GroupBy::User], &filter).await?;
        Ok((groups, shops))
    };
    console.counts.sales_parts.get(key, count).await
}
