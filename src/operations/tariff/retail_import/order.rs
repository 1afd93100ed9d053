//! What an import is carried out for.

use crate::dialect::Dialect;
use crate::store::change_log::Author;

/// Who imports, and within which limits.
#[derive(Debug, Clone)]
pub struct Import {
    /// The dialect of the rules.
    pub dialect: Dialect,
    /// Who imports, for the change log.
    pub author: Author,
    /// The owner of the tariff.
    pub owner_id: i32,
    /// The name of the currency of a new tariff.
    pub currency: Option<String>,
    /// The maximum number of rates, and of destinations.
    pub rates_max: usize,
    /// How long the import waits for another one into the same tariff, or of the same name, as PostgreSQL's
    /// `lock_timeout`.
    pub lock_timeout: &'static str,
}
