//! Operations on card groups.

pub mod create;
pub mod get;
mod input;
pub mod list;
mod lookups;
mod parameters;
mod taxes;
pub mod update;
