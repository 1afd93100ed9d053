//! `/dashboard`: what an operator looks at every day.

use std::sync::Arc;

use axum::extract::State;
use minijinja::{Value, context};

use super::sales::{Selection, count_days};
use crate::back_office::doctor::{self, Check, CheckState, Scope};
use crate::back_office::overview::{self, COUNTED_MAX};
use crate::back_office::reports::filter::PaymentFilter;
use crate::back_office::reports::period::{Days, Period, TIME_ZONE_DEFAULT};
use crate::back_office::reports::stock::{self, StockRow};
use crate::back_office::reports::today;
use crate::console::Console;
use crate::console::access::{Access, Role};
use crate::console::chart::draw_days;
use crate::console::counted::Count;
use crate::console::render::{PageResult, to_value};
use crate::console::route::Route;
use crate::console::session::Session;

/// The days of the chart.
const CHART_DAYS: Days = Days::Last(14);
/// The groups of the stock that are listed, those that run out first.
const GROUPS_MAX: usize = 20;
/// Seconds after which the page is loaded again, and if something is being counted.
const REFRESH_S: u32 = 60;
const REFRESH_SOON_S: u32 = 3;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/dashboard", Access::ALL, show)]
}

async fn show(State(console): State<Arc<Console>>, session: Session) -> PageResult {
    let role = session.account.role;
    let owner = session.owner_id();
    let period = Period::resolve(&mut *console.pool.acquire().await?, &CHART_DAYS, TIME_ZONE_DEFAULT).await?;
    let filter = PaymentFilter::of_owner(owner);
    let counts = &console.counts;
    let pool = || console.pool.clone();
    let (today_filter, today_pool, stock_pool, mail_pool) = (filter.clone(), pool(), pool(), pool());
    let (today, days, stock, mails, refusals, checks) = tokio::join!(
        counts.today.get(owner, async move || Ok(today::report(&today_pool, &today_filter).await?)),
        count_days(&console, Selection { period, filter }),
        counts.stock.get((), async move || Ok(stock::report(&stock_pool, None).await?)),
        counts.mails.get(owner, async move || Ok(overview::count_mails(&mail_pool, owner).await?)),
        async {
            let (pool, is_shown) = (pool(), owner.is_none());
            let query = async move || Ok(overview::find_refusals(&pool).await?);
            if is_shown { Some(counts.refusals.get((), query).await) } else { None }
        },
        async { if role == Role::Admin { Some(count_checks(&console).await) } else { None } },
    );
    let is_running = today.is_running()
        || days.is_running()
        || stock.is_running()
        || mails.is_running()
        || refusals.as_ref().is_some_and(Count::is_running)
        || checks.as_ref().is_some_and(Count::is_running);
    let values = context! {
        refresh_s => if is_running { REFRESH_SOON_S } else { REFRESH_S },
        today => today.to_value(),
        days => days.to_value(),
        chart => match &days { Count::Done(report, _) => to_value(draw_days(report)), _ => to_value(()) },
        stock => stock.to_value_with(|rows| select_stock(rows, owner)),
        mails => mails.to_value(),
        counted_max => COUNTED_MAX,
        refusals => refusals.map(|refusals| refusals.to_value()),
        checks => checks.map(|checks| checks.to_value_with(|checks| summarize_checks(checks))),
        has_group_pages => Access::GROUPS.allows(role),
        has_mail_page => Access::MAIL.allows(role),
    };
    console.render(&session, "dashboard.html", values)
}

/// Runs the checks of `mortise doctor` that need only the settings and the database, without those that read all cards
/// or payments.
async fn count_checks(console: &Console) -> Count<Vec<Check>> {
    let (app, pool) = (console.app.clone(), console.pool.clone());
    let query = async move || {
        let mut checks = vec![doctor::check_passwords(&app.config), doctor::check_clock(&pool).await];
        checks.extend(doctor::check_database(&app.config, &pool, Scope::Quick).await?);
        Ok(checks)
    };
    console.counts.checks.get((), query).await
}

/// The findings, and the number of checks without one.
fn summarize_checks(checks: &[Check]) -> Value {
    let findings: Vec<&Check> = checks.iter().filter(|check| check.state != CheckState::Ok).collect();
    context! { ok => checks.len() - findings.len(), findings => to_value(findings) }
}

/// The stock of the groups that the session may see: those that run out first.
fn select_stock(rows: &[StockRow], owner: Option<i32>) -> Value {
    let own: Vec<_> = rows.iter().filter(|row| owner.is_none_or(|owner| row.owner_id == owner)).collect();
    let more = own.len().saturating_sub(GROUPS_MAX);
    let shown: Vec<_> = own.into_iter().take(GROUPS_MAX).collect();
    context! { groups => to_value(shown), more }
}
