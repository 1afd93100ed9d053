//! Operations on calling cards.

pub mod sell;
