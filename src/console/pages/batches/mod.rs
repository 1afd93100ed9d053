//! `/batches`: the cards of a group that have one batch number.

mod change;
mod create;
mod export;
mod import;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use minijinja::{Value, context};
use serde::{Deserialize, Serialize};

use super::groups::{NumberFields, OwnGroup};
use super::{next_of, rows_to_read};
use crate::back_office::BackOfficeError;
use crate::back_office::batches::{self, BatchFilter, BatchRow, COUNTED_CARDS_MAX};
use crate::console::Console;
use crate::console::access::Access;
use crate::console::counted::Count;
use crate::console::error::ConsoleError;
use crate::console::render::{PageResult, to_value};
use crate::console::route::Route;
use crate::console::session::Session;

/// Batches on a page.
const BATCHES_MAX: usize = 20;
/// How long the cards of a batch are counted, in the background.
const COUNT_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/batches", Access::GROUPS, list),
        Route::get("/batches/batch", Access::GROUPS, show),
        Route::get("/batches/generate", Access::GROUPS, create::show),
        Route::post("/batches/generate", Access::ADMIN_RESELLER, create::generate),
        Route::get("/batches/import", Access::GROUPS, import::show),
        Route::upload("/batches/import", Access::ADMIN_RESELLER, import::import),
        Route::post("/batches/block", Access::ADMIN_RESELLER, change::block),
        Route::post("/batches/unblock", Access::ADMIN_RESELLER, change::unblock),
        Route::post("/batches/assign", Access::ADMIN_RESELLER, change::assign),
        Route::post("/batches/release", Access::ADMIN_RESELLER, change::release),
        Route::get("/batches/export", Access::GROUPS, export::show),
        Route::post("/batches/export", Access::ADMIN_RESELLER, export::export),
    ]
}

/// What to list.
#[derive(Debug, Deserialize)]
struct ListQuery {
    /// Only the batches of this group.
    group: Option<i32>,
    /// The group of the last batch of the previous page.
    after_group: Option<i32>,
    /// The number of that batch.
    #[serde(default)]
    after: String,
}

/// A batch in the list.
#[derive(Debug, Serialize)]
struct BatchView {
    #[serde(flatten)]
    batch: BatchRow,
    /// More cards than the list counts.
    is_large: bool,
    sold_percent: i64,
}

/// Lists the batches: the newest groups first, and in each the batch numbers in descending order.
async fn list(State(console): State<Arc<Console>>, session: Session, Query(query): Query<ListQuery>) -> PageResult {
    let group = match query.group {
        Some(id) => Some(OwnGroup::find(&console.pool, &session, id).await?),
        None => None,
    };
    let after = query.after_group.map(|group| (group, query.after.clone()));
    let filter = BatchFilter { owner: session.owner_id(), group: group.as_ref().map(OwnGroup::id), after };
    let mut batches = filter.list(&console.pool, rows_to_read(BATCHES_MAX)).await?;
    let next = next_of(&mut batches, BATCHES_MAX).map(|batch| (batch.group, batch.batch_number.clone()));
    let (next_group, next_batch) = next.unzip();
    let view = |batch: BatchRow| BatchView {
        is_large: batch.cards >= COUNTED_CARDS_MAX,
        sold_percent: percent(batch.sold, batch.cards),
        batch,
    };
    let batches = to_value(batches.into_iter().map(view).collect::<Vec<_>>());
    let values = context! {
        batches, next_group, next_batch,
        counted_max => COUNTED_CARDS_MAX,
        group => group.as_ref().map(OwnGroup::id),
        group_name => group.as_ref().map(OwnGroup::name),
    };
    console.render(&session, "batches.html", values)
}

fn percent(part: i64, whole: i64) -> i64 {
    if whole == 0 { 0 } else { part * 100 / whole }
}

/// Which batch to show.
#[derive(Debug, Deserialize)]
struct BatchQuery {
    group: i32,
    number: String,
}

async fn show(State(console): State<Arc<Console>>, session: Session, Query(query): Query<BatchQuery>) -> PageResult {
    let group = OwnGroup::find(&console.pool, &session, query.group).await?;
    let selection = group.select_batch(&query.number, &NumberFields::default())?;
    if !batches::exists(&console.pool, group.id(), &query.number).await? {
        return Err(ConsoleError::NotFound(format!("The group has no batch {}.", query.number)));
    }
    let pool = console.pool.clone();
    let count = console.counts.batches.get((group.id(), query.number.clone()), async move || {
        let mut transaction = pool.begin().await?;
        match selection.count_within(&mut transaction, COUNT_TIMEOUT).await {
            // The last card was moved meanwhile.
            Err(BackOfficeError::NotFound(_)) => Ok(Some(Vec::new())),
            counts => counts,
        }
    });
    let count = count.await;
    let counts = match &count {
        Count::Done(counts, _) => counts.as_deref(),
        Count::Running | Count::Failed => None,
    };
    let is_counted = counts.is_some();
    let counts = counts.unwrap_or_default();
    let count_of = |state: &str| counts.iter().find(|count| count.state == state).map_or(0, |count| count.cards);
    let cards = counts.iter().map(|count| count.cards).sum();
    let first = counts.iter().filter_map(|count| count.first.as_deref()).min();
    let last = counts.iter().filter_map(|count| count.last.as_deref()).max();
    let values = context! {
        number => query.number.as_str(),
        group => group.id(),
        group_name => group.name(),
        is_hidden => group.is_hidden(),
        is_counted, cards, first, last,
        count => count.to_value_with(|counts| Value::from(counts.is_some())),
        is_running => count.is_running(),
        free => count_of("free"),
        blocked => count_of("blocked"),
        assigned => count_of("assigned"),
        sold_percent => percent(count_of("sold"), cards),
        counts => to_value(counts),
    };
    console.render(&session, "batch.html", values)
}

/// Returns the path of a page about a batch.
fn batch_path(page: &str, group: &OwnGroup, number: &str) -> String {
    let query = serde_urlencoded::to_string([("group", group.id().to_string().as_str()), ("number", number)]);
    format!("{page}?{}", query.unwrap_or_default())
}

/// Refuses a hidden group, which gets no cards.
fn refuse_hidden(group: &OwnGroup) -> Result<(), ConsoleError> {
    match group.is_hidden() {
        true => Err(ConsoleError::Refused("The group is hidden. Restore it first.".to_owned())),
        false => Ok(()),
    }
}

/// The group that a form proposes.
#[derive(Debug, Deserialize)]
struct GroupQuery {
    group: Option<i32>,
}
