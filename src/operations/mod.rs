//! The operations of the API, one file or folder each. `http::router` registers the names and aliases
//! of [`OPERATIONS`] as routes.
//!
//! A file contains everything about its operation: the [`Operation`] with names, hash rules and specification, then
//! `handle` and its steps, in this order:
//!
//! 1. Before `handle`, `auth::admission` checks user, API enabled, GET allowed, hash and right, and returns the
//!    `Caller`.
//! 2. If the operation changes data: `Idempotency::new` reads the idempotency key.
//! 3. The parameters are read and validated, in the order of the contract.
//! 4. The database is read, or `Idempotency::change` runs the change in one transaction. With a key that was used
//!    before it returns the stored reply instead.
//! 5. The result is an `XmlReply`, or an `ApiError` from any of these steps.

use crate::http::context::Operation;

pub mod card;
pub mod card_group;
pub mod spec;
pub mod tariff;

/// Returns the operation with the name or alias, and the name as a static string.
pub fn find(name: &str) -> Option<(&'static Operation, &'static str)> {
    OPERATIONS.iter().find_map(|operation| Some((operation, operation.names().find(|alias| *alias == name)?)))
}

/// All operations.
#[rustfmt::skip]
pub const OPERATIONS: &[Operation] = &[
    card::sell::OPERATION,
    card::by_cli::OPERATION,
    card::create::OPERATION,
    card::list::OPERATION,
    card::update::OPERATION,
    card::balance::OPERATION,
    card::pay::OPERATION,
    card_group::create::OPERATION,
    card_group::get::OPERATION,
    card_group::list::OPERATION,
    card_group::update::OPERATION,
    tariff::rate::OPERATION,
    tariff::rates::OPERATION,
    tariff::retail_import::OPERATION,
    tariff::wholesale_update::OPERATION,
];
