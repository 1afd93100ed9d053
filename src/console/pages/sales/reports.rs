//! `/sales/tax` and `/sales/statement`.

use std::sync::Arc;

use axum::extract::{Query, State};
use minijinja::context;
use serde::{Deserialize, Serialize};

use super::selection::DayFields;
use crate::back_office::reports::period::{Days, Period};
use crate::back_office::reports::statement::{self, Owner};
use crate::back_office::reports::tax;
use crate::console::Console;
use crate::console::error::ConsoleError;
use crate::console::render::{PageResult, to_value};
use crate::console::session::Session;

/// The fields of both pages.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Fields {
    #[serde(flatten)]
    days: DayFields,
    /// For a statement, the id of the reseller or of the admin.
    user: String,
}

impl Fields {
    async fn period(&mut self, console: &Console) -> Result<Period, ConsoleError> {
        self.days.resolve(&mut *console.pool.acquire().await?, Days::ThisMonth).await
    }
}

/// Shows the taxes by rate and currency.
pub(super) async fn show_tax(
    State(console): State<Arc<Console>>,
    session: Session,
    Query(mut fields): Query<Fields>,
) -> PageResult {
    let period = fields.period(&console).await?;
    let (pool, owner, counted) = (console.pool.clone(), session.owner_id(), period.clone());
    let report = console
        .counts
        .taxes
        .get((period.clone(), owner), async move || Ok(tax::report_period(&pool, counted, owner).await?));
    let report = report.await;
    let values = context! {
        fields => to_value(fields),
        period => to_value(period),
        report => report.to_value(),
        is_running => report.is_running(),
    };
    console.render(&session, "sales_tax.html", values)
}

/// Shows the statement of a reseller. A reseller sees the own one only.
pub(super) async fn show_statement(
    State(console): State<Arc<Console>>,
    session: Session,
    Query(mut fields): Query<Fields>,
) -> PageResult {
    let owners = Owner::list(&mut *console.pool.acquire().await?, session.owner_id()).await?;
    let owner = match fields.user.trim() {
        // A reseller has no choice.
        "" => owners.first().filter(|_| session.owner_id().is_some()),
        id => {
            let owner = owners.iter().find(|owner| owner.id().to_string() == id);
            Some(owner.ok_or_else(|| ConsoleError::NotFound("There is no such reseller.".to_owned()))?)
        }
    };
    let period = fields.period(&console).await?;
    let report = match owner.cloned() {
        Some(owner) => {
            let (pool, counted) = (console.pool.clone(), period.clone());
            let report = console.counts.statements.get((period.clone(), owner.id()), async move || {
                Ok(statement::report_period(&pool, owner, counted).await?)
            });
            Some(report.await)
        }
        None => None,
    };
    let choices: Vec<_> = owners.iter().map(|owner| context! { id => owner.id(), name => owner.name() }).collect();
    let values = context! {
        fields => to_value(&fields),
        selected => owner.map(Owner::id),
        owners => choices,
        period => to_value(period),
        report => report.as_ref().map(|report| report.to_value()),
        is_running => report.is_some_and(|report| report.is_running()),
    };
    console.render(&session, "sales_statement.html", values)
}
