//! SQL that more than one operation needs.

pub mod bulk_create;
pub mod caller_id;
pub mod card;
pub mod random;
pub mod tax;
