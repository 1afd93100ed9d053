//! Reads the lines of a CSV file.

use std::io::{self, Read};

use csv::{ErrorKind, Position, Reader, StringRecord};

/// The lines after the first one, with their numbers.
pub(super) struct CsvLines<R> {
    csv: Reader<R>,
    record: StringRecord,
}

impl<R: Read> CsvLines<R> {
    /// Reads the first line. Returns its fields without spaces around them; none for a line that is not UTF-8.
    ///
    /// # Errors
    ///
    /// Those of the file.
    pub(super) fn begin(file: R) -> io::Result<(Self, Vec<String>)> {
        let csv = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(file);
        let mut lines = Self { csv, record: StringRecord::new() };
        let headings = match lines.next_line()? {
            Some((_, Ok(record))) => record.iter().map(|field| field.trim().to_owned()).collect(),
            Some((_, Err(_))) | None => Vec::new(),
        };
        Ok((lines, headings))
    }

    /// Reads the next line. Returns its number, and its fields or the reason why it has none.
    ///
    /// # Errors
    ///
    /// Those of the file.
    pub(super) fn next_line(&mut self) -> io::Result<Option<(u64, Result<&StringRecord, &'static str>)>> {
        let line = self.csv.position().line();
        match self.csv.read_record(&mut self.record) {
            Ok(true) => {
                let has_control = self.record.iter().any(|field| field.contains(char::is_control));
                let record = if has_control { Err("a field has a control character") } else { Ok(&self.record) };
                Ok(Some((self.record.position().map_or(line, Position::line), record)))
            }
            Ok(false) => Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::Utf8 { .. }) => {
                Ok(Some((error.position().map_or(line, Position::line), Err("the line is not UTF-8"))))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the number of bytes that were read.
    pub(super) fn byte_position(&self) -> u64 {
        self.csv.position().byte()
    }
}
