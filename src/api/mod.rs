//! The operations, one file each. `routes` lists them.

pub mod card;
pub mod tariff;
