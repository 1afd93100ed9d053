//! The pages, one file each: its routes with their rules first, then its handlers in the order of use.

mod account;
mod login;

use super::access::Access;
use super::router::Route;

/// Who may search cards and see them.
pub(super) const SEARCH: Access = Access::ALL;
/// Who may see e-mails.
pub(super) const MAIL: Access = Access::ALL;
/// Who may see the change log.
pub(super) const CHANGES: Access = Access::ALL;

/// Returns the routes of all pages.
pub(super) fn routes() -> impl Iterator<Item = Route> {
    [login::routes(), account::routes()].into_iter().flatten()
}
