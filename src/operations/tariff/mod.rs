//! Operations on tariffs.

pub mod rate;
pub mod rates;
pub mod wholesale_update;
