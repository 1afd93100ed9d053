//! SQL that more than one operation needs.

pub mod tax;
