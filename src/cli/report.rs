//! The output of a command: text for operators, JSON for scripts.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Value, json};

/// The result of a command.
#[derive(Debug)]
pub struct Report {
    text: String,
    json: Value,
    is_success: bool,
    /// What the JSON, which is a list, cannot say.
    note: Option<String>,
}

impl Report {
    /// Creates the report of a success that `text` describes.
    pub fn done(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { json: json!({ "done": text }), text, is_success: true, note: None }
    }

    /// Creates the report of a success, with a text and a JSON value of the same content.
    pub fn new(text: impl Into<String>, json: impl Serialize) -> Self {
        Self { text: text.into(), json: serde_json::to_value(json).unwrap_or_default(), is_success: true, note: None }
    }

    /// Creates the report of a success without output.
    pub fn empty() -> Self {
        Self { text: String::new(), json: Value::Null, is_success: true, note: None }
    }

    /// Creates the report of a success with a table as text; the JSON is an array of complete rows.
    pub fn table<Row: Serialize, const N: usize>(
        headings: [&str; N],
        rows: &[Row],
        cells: impl Fn(&Row) -> [String; N],
    ) -> Self {
        Self::new(format_table(&headings, rows.iter().map(|row| cells(row).into())), rows)
    }

    /// Adds a line: after the text on standard output, or on standard error beside the JSON.
    pub fn with_note(self, note: String) -> Self {
        Self { note: Some(note), ..self }
    }

    /// Whether the exit code is 0.
    pub fn is_success(&self) -> bool {
        self.is_success
    }

    /// Makes the exit code 1 unless `is_success`: the result is negative, or a problem was found.
    pub fn fail_unless(self, is_success: bool) -> Self {
        Self { is_success, ..self }
    }

    /// Prints the report and returns the exit code. A closed pipe (`| head`) is not an error.
    pub fn print(&self, as_json: bool) -> io::Result<ExitCode> {
        let text = match (as_json, &self.json, &self.note) {
            (true, Value::Null, _) => String::new(),
            (true, json, _) => format!("{json:#}"),
            (false, _, None) => self.text.trim_end().to_owned(),
            (false, _, Some(note)) => format!("{}\n{note}", self.text.trim_end()),
        };
        if let (true, Some(note)) = (as_json, &self.note) {
            // A closed standard error is not an error.
            let _ = writeln!(io::stderr(), "note: {note}");
        }
        if !text.is_empty() {
            let mut stdout = io::stdout().lock();
            match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        Ok(if self.is_success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// A longer text does not widen its column, so that one row does not fill the screen with spaces.
const COLUMN_WIDTH_MAX: usize = 100;

/// Formats rows in aligned columns. Control characters become U+FFFD: a terminal could execute them.
pub fn format_table(headings: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let sanitize = |cell: String| cell.replace(char::is_control, "\u{fffd}");
    let headings = headings.iter().map(|heading| (*heading).to_owned()).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> =
        std::iter::once(headings).chain(rows.map(|row| row.into_iter().map(sanitize).collect())).collect();
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).min(COLUMN_WIDTH_MAX);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let format_row = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(format_row).collect::<Vec<_>>().join("\n")
}
