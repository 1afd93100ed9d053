//! Operations on card groups.

pub mod create;
pub mod get;
pub mod list;
mod parameters;
mod request;
pub mod update;
