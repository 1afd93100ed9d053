//! Operations on tariffs.

pub mod rate;
pub mod wholesale_update;
