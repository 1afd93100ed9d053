//! Operations on tariffs.

pub mod wholesale_update;
