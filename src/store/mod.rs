//! SQL that more than one operation needs.

pub mod callerid;
pub mod card;
pub mod draw;
pub mod maker;
pub mod sale;
pub mod tax;
pub mod together;
