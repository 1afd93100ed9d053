//! SQL that more than one operation needs.

pub mod sale;
pub mod tax;
