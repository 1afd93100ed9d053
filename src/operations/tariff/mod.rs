//! Operations on tariffs.

pub mod rate;
pub mod rates;
pub mod retail_import;
pub mod wholesale_update;
