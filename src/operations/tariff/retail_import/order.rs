//! What an import is carried out for.

use std::path::Path;
use std::sync::Arc;

use crate::dialect::Dialect;

/// Who imports, and within which limits.
#[derive(Debug, Clone)]
pub struct Import {
    /// The dialect of the rules and of the reply.
    pub dialect: Dialect,
    /// The API user, for the change log; `None`: a command.
    pub user_id: Option<i32>,
    /// The user of the operating system who runs the command.
    pub operator: Option<String>,
    /// The request's id in the log.
    pub request_id: Option<String>,
    /// The owner of the tariff.
    pub owner_id: i32,
    /// The name of the currency of a new tariff.
    pub currency: Option<String>,
    /// The maximum number of rates.
    pub rates_max: usize,
    /// The directory for temporary files.
    pub temp_dir: Arc<Path>,
}
