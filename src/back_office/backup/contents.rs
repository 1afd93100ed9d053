//! The contents of a dump: how many rows each table has in the file. Reading them proves that the file can be read to
//! its end.

use std::collections::BTreeMap;
use std::fs::File;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

use super::programs::{Programs, finish};
use crate::back_office::BackOfficeError;
use crate::db;

/// The table of the applied migrations.
const MIGRATIONS: &str = "_sqlx_migrations";

/// The tables of a dump.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// The number of rows of each table.
    pub tables: BTreeMap<String, u64>,
    /// The applied migrations.
    pub migrations: Vec<i64>,
}

impl Contents {
    /// Reads the whole file. The memory that this needs does not depend on its size.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::Refused`] if the file is not a dump, or is damaged.
    pub async fn read(programs: &Programs, file: &File) -> Result<Self, BackOfficeError> {
        let mut child = programs.print_data(file)?;
        let mut contents = Self::default();
        let Some(stdout) = child.stdout.take() else {
            return Err(BackOfficeError::refused("pg_restore has no output"));
        };
        let script = BufReader::with_capacity(256 * 1024, stdout);
        let (read, finished) = tokio::join!(contents.read_script(script), finish("pg_restore", child));
        finished.map_err(|error| {
            BackOfficeError::refused(format!("the file is not a complete dump of pg_dump --format=custom: {error}"))
        })?;
        read.map_err(|error| BackOfficeError::refused(format!("cannot read the output of pg_restore: {error}")))?;
        Ok(contents)
    }

    /// Counts the lines of each `COPY` of a script.
    async fn read_script(&mut self, mut script: impl AsyncBufRead + Unpin) -> std::io::Result<()> {
        let mut table: Option<String> = None;
        let mut line = Vec::new();
        loop {
            line.clear();
            if script.read_until(b'\n', &mut line).await? == 0 {
                return Ok(());
            }
            match &table {
                None => {
                    table = parse_copy(&line);
                    if let Some(name) = &table {
                        self.tables.entry(name.clone()).or_insert(0);
                    }
                }
                Some(_) if line == b"\\.\n" => table = None,
                Some(name) => {
                    *self.tables.entry(name.clone()).or_insert(0) += 1;
                    if name == MIGRATIONS {
                        self.migrations.extend(parse_first_column(&line));
                    }
                }
            }
        }
    }

    /// Refuses a dump of another program, or of a newer version.
    pub fn require_known_migrations(&self) -> Result<(), BackOfficeError> {
        if self.migrations.is_empty() {
            return Err(BackOfficeError::refused("the file is not a dump of a database of Mortise"));
        }
        match self.migrations.iter().rfind(|version| !db::is_known_migration(**version)) {
            None => Ok(()),
            Some(unknown) => Err(BackOfficeError::refused(format!(
                "the file is of a newer Mortise (it has migration {unknown}): upgrade this Mortise"
            ))),
        }
    }

    /// Returns the first table whose number of rows differs from those of the database, in words.
    pub fn find_difference(&self, rows: &BTreeMap<String, u64>) -> Option<String> {
        rows.iter().find_map(|(table, count)| {
            let in_file = self.tables.get(table).copied().unwrap_or(0);
            (in_file != *count).then(|| format!("{table} has {in_file} rows in the file and {count}"))
        })
    }
}

/// Returns the table of a line `COPY schema.table (columns) FROM stdin;`, without the schema.
fn parse_copy(line: &[u8]) -> Option<String> {
    let line = str::from_utf8(line).ok()?;
    let target = line.strip_prefix("COPY ")?.strip_suffix(" FROM stdin;\n")?;
    let name = target.split(" (").next()?;
    Some(name.rsplit('.').next()?.trim_matches('"').to_owned())
}

fn parse_first_column(line: &[u8]) -> Option<i64> {
    str::from_utf8(line).ok()?.split('\t').next()?.parse().ok()
}
