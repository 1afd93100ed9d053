//! Operations on card groups.

pub mod create;
mod facts;
pub mod get;
pub mod list;
mod parameters;
mod rules;
pub mod update;
