//! The pages, one file each: its routes with their rules first, then its handlers in the order of use.

mod account;
mod login;

use super::router::Route;

/// Returns the routes of all pages.
pub(super) fn routes() -> impl Iterator<Item = Route> {
    [login::routes(), account::routes()].into_iter().flatten()
}
