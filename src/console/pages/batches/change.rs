//! Blocks a batch, and gives it to a distributor.

use std::sync::Arc;

use axum::extract::State;
use serde::Deserialize;
use sqlx::PgConnection;

use super::batch_path;
use crate::back_office::selection::SelectedCards;
use crate::back_office::withhold::{Assignment, Released, block_cards, release_cards};
use crate::console::Console;
use crate::console::error::ConsoleError;
use crate::console::form::Form;
use crate::console::pages::groups::{NumberFields, OwnGroup};
use crate::console::render::PageResult;
use crate::console::submission::Done;

/// The batch, and which of its cards.
#[derive(Debug, Deserialize)]
pub(super) struct BatchFields {
    group: i32,
    number: String,
    #[serde(flatten)]
    numbers: NumberFields,
}

/// The cards, and who gets them.
#[derive(Debug, Deserialize)]
pub(super) struct AssignFields {
    group: i32,
    number: String,
    #[serde(flatten)]
    numbers: NumberFields,
    distributor: String,
    /// How many cards. Empty: all.
    #[serde(default)]
    count: String,
    /// 1: the API can still sell the cards.
    #[serde(default)]
    keep_in_stock: String,
}

pub(super) async fn block(State(console): State<Arc<Console>>, form: Form<BatchFields>) -> PageResult {
    set_blocked(&console, form, true).await
}

pub(super) async fn unblock(State(console): State<Arc<Console>>, form: Form<BatchFields>) -> PageResult {
    set_blocked(&console, form, false).await
}

async fn set_blocked(console: &Console, form: Form<BatchFields>, block: bool) -> PageResult {
    let group = form.fields.group;
    let changed =
        form.carry_out(console, async |connection, author, session, BatchFields { group, number, numbers }| {
            let group = OwnGroup::find(&mut *connection, session, group).await?;
            let changed = block_cards(connection, &group.select_batch(&number, &numbers)?, block, author).await?;
            let verb = if block { "blocked" } else { "unblocked" };
            Ok(Done::new(batch_path("/batches/batch", &group, &number), describe(verb, &changed, "")))
        });
    forget_counts(console, group, changed.await)
}

/// Makes the next page of a batch of the group count again.
pub(super) fn forget_counts(console: &Console, group: i32, changed: PageResult) -> PageResult {
    console.counts.batches.forget(|(counted, _)| *counted == group);
    changed
}

pub(super) async fn assign(State(console): State<Arc<Console>>, form: Form<AssignFields>) -> PageResult {
    let group = form.fields.group;
    let changed = form.carry_out(&console, async |connection, author, session, fields| {
        let group = OwnGroup::find(&mut *connection, session, fields.group).await?;
        let distributor_id = find_distributor(&mut *connection, &group, &fields.distributor).await?;
        let selection = group.select_batch(&fields.number, &fields.numbers)?;
        let count = match fields.count.trim() {
            "" => None,
            count => Some(read_count(count)?),
        };
        let keep_in_stock = fields.keep_in_stock == "1";
        let changed = Assignment { selection: &selection, distributor_id, keep_in_stock, count };
        let changed = changed.run(connection, author).await?;
        let message = describe(&format!("assigned to {}", fields.distributor.trim()), &changed, "");
        Ok(Done::new(batch_path("/batches/batch", &group, &fields.number), message))
    });
    forget_counts(&console, group, changed.await)
}

pub(super) async fn release(State(console): State<Arc<Console>>, form: Form<BatchFields>) -> PageResult {
    let group = form.fields.group;
    let changed =
        form.carry_out(&console, async |connection, author, session, BatchFields { group, number, numbers }| {
            let group = OwnGroup::find(&mut *connection, session, group).await?;
            let released = release_cards(connection, &group.select_batch(&number, &numbers)?, None, author).await?;
            let Released { changed, used } = released;
            let used = match used {
                0 => String::new(),
                used => format!(" Not released, because they were used: {used}."),
            };
            let message = describe("released into stock", &changed, &used);
            Ok(Done::new(batch_path("/batches/batch", &group, &number), message))
        });
    forget_counts(&console, group, changed.await)
}

/// Finds a user of the group's owner by name. The assignment checks the type.
async fn find_distributor(connection: &mut PgConnection, group: &OwnGroup, name: &str) -> Result<i32, ConsoleError> {
    let id = sqlx::query_scalar!(
        "select id from users
         where fold_case(rtrim(username)) = fold_case(rtrim($1)) and coalesce(owner_id, 0) = $2 and coalesce(hidden, 0) = 0
         order by id limit 1",
        name.trim(),
        group.owner_id()
    );
    let id = id.fetch_optional(connection).await?;
    id.ok_or_else(|| ConsoleError::Refused("The group's owner has no user with this name.".to_owned()))
}

fn read_count(text: &str) -> Result<i64, ConsoleError> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| ConsoleError::Refused("Number of cards: a whole number of at least 1.".to_owned()))
}

/// Says how many cards were changed, what `rest` says, and which numbers they have.
fn describe(verb: &str, changed: &[SelectedCards], rest: &str) -> String {
    let cards: i64 = changed.iter().map(|cards| cards.cards).sum();
    let mut text = format!("Cards {verb}: {cards}.{rest}");
    for SelectedCards { first, last, .. } in changed {
        if let (Some(first), Some(last)) = (first, last) {
            text += &format!(" Numbers: {first} to {last}.");
        }
    }
    text
}
