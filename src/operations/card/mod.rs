//! Operations on calling cards.

pub mod balance;
pub mod by_cli;
pub mod create;
pub mod list;
pub mod pay;
mod selector;
pub mod sell;
pub mod update;
