//! What an import wrote and refused.

use std::io;

use serde::{Deserialize, Serialize};

use crate::operations::tariff::retail_import::document::Destination;
use crate::operations::tariff::retail_import::rules::Decision;

/// What an import wrote and refused.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct Counts {
    pub destinations: usize,
    pub rates: usize,
    pub rates_written: usize,
    pub unknown_destinations: usize,
    pub day_type_collisions: usize,
    pub bad_rates: usize,
    pub collisions_in_document: usize,
    pub collisions_with_rows: usize,
}

impl Counts {
    /// Adds what was decided about a destination.
    pub fn add(&mut self, decision: &Decision) {
        self.rates_written += decision.new_rows.len();
        self.day_type_collisions += decision.day_type_collisions;
        self.bad_rates += decision.bad_rates.len();
        self.collisions_in_document += decision.document_collisions.len();
        self.collisions_with_rows += decision.row_collisions.len();
    }
}

/// Collects what an import refuses. It is called on a thread that may wait for the disk.
pub trait Refusals: Send + 'static {
    /// Adds a destination whose group does not exist.
    ///
    /// # Errors
    ///
    /// Those of a temporary file.
    fn add_unknown(&mut self, destination: &Destination) -> io::Result<()>;

    /// Adds what was decided about a destination.
    ///
    /// # Errors
    ///
    /// Those of a temporary file.
    fn add(&mut self, destination: &Destination, decision: &Decision) -> io::Result<()>;
}

/// A finished import.
#[derive(Debug)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct Imported<R> {
    pub tariff_id: i64,
    pub tariff_name: String,
    pub counts: Counts,
    pub refusals: R,
}
