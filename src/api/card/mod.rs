//! Operations on calling cards.

pub mod by_cli;
pub mod create;
pub mod list;
pub mod sell;
