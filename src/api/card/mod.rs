//! Operations on calling cards.

pub mod by_cli;
pub mod sell;
