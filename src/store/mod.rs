//! SQL that several operations share.

pub mod bulk_create;
pub mod caller_id;
pub mod card;
pub mod card_group;
pub mod card_payment;
pub mod change_log;
pub mod pages;
pub mod random;
pub mod stock;
pub mod tax;
