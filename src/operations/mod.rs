//! The whole API on one page: its operations, one file each.

use crate::http::context::Operation;

pub mod card;
pub mod card_group;
pub mod spec;
pub mod tariff;

/// Every operation; its file says the rest.
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
    tariff::wholesale_update::OPERATION,
];
