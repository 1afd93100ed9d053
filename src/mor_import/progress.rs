//! The progress of an import.

/// An event that an import reports while it runs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "self-explanatory names")]
pub enum Event {
    /// A step begins.
    Step { step: &'static str },
    /// Something that the operator should know; nothing that stops the import.
    Note { text: String },
    /// Rows of a table were staged. `rows_estimated` is what MySQL estimates for the whole table, `seconds_left` the
    /// estimate for all tables.
    Staged { table: &'static str, rows: u64, rows_estimated: u64, rows_per_second: u64, seconds_left: u64 },
}
