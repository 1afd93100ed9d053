//! The operations, one file each. `routes` lists them.

pub mod card;
pub mod card_group;
pub mod tariff;
