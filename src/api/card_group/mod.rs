//! Operations on card groups.

pub mod create;
