//! `/sales/reconciliation`: compares a payment provider's list with the payments.

use std::sync::Arc;

use axum::extract::State;
use minijinja::context;
use serde::{Deserialize, Serialize};

use super::selection::{DayFields, find_user, load_user_names};
use crate::back_office::BackOfficeError;
use crate::back_office::reports::reconciliation::{Difference, Reconciliation, Summary};
use crate::console::Console;
use crate::console::error::ConsoleError;
use crate::console::render::{PageResult, to_value};
use crate::console::session::Session;
use crate::console::upload::{UPLOAD_BYTES_MAX, Upload};

/// The differences that the page shows.
const DIFFERENCES_MAX: usize = 500;

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Fields {
    #[serde(flatten)]
    days: DayFields,
    /// The name of the API user (shop) whose payments the list has.
    user: String,
}

/// The result of a comparison.
#[derive(Serialize)]
struct Compared {
    summary: Summary,
    is_equal: bool,
    /// Without days and without a payment in the list, nothing was compared.
    is_empty: bool,
    differences: Vec<Difference>,
    /// The number of differences that are not shown.
    more: i64,
}

pub(super) async fn show(State(console): State<Arc<Console>>, session: Session) -> PageResult {
    render(&console, &session, &Fields::default(), None, None).await
}

/// Compares the uploaded list, and shows the differences. Nothing is stored.
pub(super) async fn compare(State(console): State<Arc<Console>>, upload: Upload<Fields>) -> PageResult {
    let Upload { form, file, .. } = upload;
    let (session, fields) = (&form.session, &form.fields);
    let owner = session.owner_id();
    let days = fields.days.parse()?;
    let time_zone = fields.days.time_zone()?;
    let user = match fields.user.trim() {
        "" => None,
        name => Some(find_user(&mut *console.pool.acquire().await?, name, owner).await?),
    };
    let _permit = console
        .comparisons
        .try_acquire()
        .map_err(|_| ConsoleError::Busy("Another list is being compared. Try again when it is done.".to_owned()))?;
    match Reconciliation::run(&console.pool, file.reader(), days.as_ref(), time_zone, user, owner).await {
        Ok(reconciliation) => {
            let compared = collect(reconciliation).await?;
            render(&console, session, fields, Some(&compared), None).await
        }
        // The lines of the list that cannot be read.
        Err(BackOfficeError::Refused(message)) => render(&console, session, fields, None, Some(&message)).await,
        Err(error) => Err(error.into()),
    }
}

async fn collect(mut reconciliation: Reconciliation) -> Result<Compared, ConsoleError> {
    let summary = reconciliation.summarize().await?;
    let is_equal = summary.is_equal(&reconciliation.span);
    let mut differences = Vec::new();
    let keep = |difference| {
        if differences.len() < DIFFERENCES_MAX {
            differences.push(difference);
        }
        Ok::<_, ConsoleError>(())
    };
    reconciliation.for_each_difference(keep).await?;
    let count = summary.missing_here + summary.missing_in_list + summary.different;
    let more = count - i64::try_from(differences.len()).unwrap_or(count);
    let is_empty = count == 0 && reconciliation.span.is_empty();
    Ok(Compared { is_equal, is_empty, summary, differences, more })
}

async fn render(
    console: &Console,
    session: &Session,
    fields: &Fields,
    compared: Option<&Compared>,
    problem: Option<&str>,
) -> PageResult {
    let users = load_user_names(&mut *console.pool.acquire().await?, session.owner_id()).await?;
    let values = context! {
        fields => to_value(fields),
        users,
        compared => to_value(compared),
        problem_lines => problem.map(|problem| problem.lines().map(str::to_owned).collect::<Vec<_>>()),
        size_max_mib => UPLOAD_BYTES_MAX >> 20,
    };
    console.render_form(session, "sales_reconciliation.html", values, problem.is_some())
}
