//! What a command says when it is done: a text for people, JSON for scripts.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Value, json};

/// What came of a command.
#[derive(Debug)]
pub struct Report {
    text: String,
    json: Value,
    is_success: bool,
}

impl Report {
    /// It was done; `text` says what.
    pub fn done(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { json: json!({ "done": text }), text, is_success: true }
    }

    /// The same in two forms.
    pub fn new(text: impl Into<String>, json: impl Serialize) -> Self {
        Self { text: text.into(), json: serde_json::to_value(json).unwrap_or_default(), is_success: true }
    }

    /// Nothing to be said.
    pub fn empty() -> Self {
        Self { text: String::new(), json: Value::Null, is_success: true }
    }

    /// Rows under headings; JSON has them whole.
    pub fn table<Row: Serialize, const N: usize>(
        headings: [&str; N],
        rows: &[Row],
        cells: impl Fn(&Row) -> [String; N],
    ) -> Self {
        Self::new(format_table(headings, rows.iter().map(cells)), rows)
    }

    /// The answer is no, or something is wrong: the program ends with 1.
    pub fn fail_unless(self, is_good: bool) -> Self {
        Self { is_success: is_good, ..self }
    }

    /// Prints it. A reader who has seen enough and left is no mistake.
    pub fn print(&self, as_json: bool) -> io::Result<ExitCode> {
        let text = match (as_json, &self.json) {
            (true, Value::Null) => String::new(),
            (true, json) => format!("{json:#}"),
            (false, _) => self.text.trim_end().to_owned(),
        };
        if !text.is_empty() {
            let mut out = io::stdout().lock();
            match writeln!(out, "{text}").and_then(|()| out.flush()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        Ok(if self.is_success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Columns as wide as they must be. What a terminal would take for a command is shown as U+FFFD.
fn format_table<const N: usize>(headings: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let plain = |cell: String| cell.replace(char::is_control, "\u{fffd}");
    let rows: Vec<[String; N]> =
        std::iter::once(headings.map(str::to_owned)).chain(rows.map(|row| row.map(plain))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
