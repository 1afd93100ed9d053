//! The pages, one file each: its routes with their rules first, then its handlers in the order of use.

mod account;
mod batches;
mod card;
mod changes;
mod dashboard;
mod groups;
mod login;
mod mail;
mod sales;
mod search;
mod settings;
mod users;

use super::route::Route;

/// Returns the routes of all pages.
pub(super) fn routes() -> impl Iterator<Item = Route> {
    [
        login::routes(),
        account::routes(),
        batches::routes(),
        card::routes(),
        changes::routes(),
        dashboard::routes(),
        groups::routes(),
        mail::routes(),
        sales::routes(),
        search::routes(),
        settings::routes(),
        users::routes(),
    ]
    .into_iter()
    .flatten()
}

/// The number of rows to read for a page: one more, which says that there are further ones.
fn rows_to_read(rows_max: usize) -> i64 {
    i64::try_from(rows_max + 1).unwrap_or(i64::MAX)
}

/// Removes the row that is too many for the page. Returns the last row of the page if there are further ones.
fn next_of<Row>(rows: &mut Vec<Row>, rows_max: usize) -> Option<&Row> {
    let has_more = rows.len() > rows_max;
    rows.truncate(rows_max);
    rows.last().filter(|_| has_more)
}
