//! Operations on card groups.

pub mod create;
mod facts;
pub mod get;
pub mod list;
mod rules;
pub mod update;
