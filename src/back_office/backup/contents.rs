//! The contents of a dump: how many rows each table has in the file. Reading them proves that the file can be read to
//! its end.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

use super::programs::{Programs, finish};
use crate::back_office::BackOfficeError;
use crate::db;

/// The table of the applied migrations.
const MIGRATIONS: &str = "_sqlx_migrations";

/// The name of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Table {
    pub schema: String,
    pub name: String,
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.schema, self.name)
    }
}

/// The tables of a dump.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// The number of rows of each table.
    pub tables: BTreeMap<Table, u64>,
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
        let mut table: Option<Table> = None;
        let mut line = Vec::new();
        loop {
            line.clear();
            if script.read_until(b'\n', &mut line).await? == 0 {
                return Ok(());
            }
            match &table {
                None => {
                    table = parse_copy(&line);
                    if let Some(table) = &table {
                        self.tables.entry(table.clone()).or_insert(0);
                    }
                }
                Some(_) if line == b"\\.\n" => table = None,
                Some(table) => {
                    if let Some(count) = self.tables.get_mut(table) {
                        *count += 1;
                    }
                    if table.name == MIGRATIONS {
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

    /// Returns the number of rows of a table of Mortise. 0: the file has no such table.
    pub fn rows_of(&self, name: &str) -> u64 {
        let migrations = self.tables.keys().find(|table| table.name == MIGRATIONS);
        let rows = migrations.and_then(|migrations| {
            self.tables.get(&Table { schema: migrations.schema.clone(), name: name.to_owned() })
        });
        rows.copied().unwrap_or(0)
    }

    /// Returns the first table whose number of rows differs from those of the database, in words.
    pub fn find_difference(&self, rows: &BTreeMap<Table, Option<u64>>) -> Option<String> {
        let in_both = rows.iter().find_map(|(table, count)| {
            let (in_file, count) = (self.tables.get(table).copied().unwrap_or(0), (*count)?);
            (in_file != count).then(|| format!("{table} has {in_file} rows in the file and {count} in the database"))
        });
        in_both.or_else(|| {
            let missing = self.tables.keys().find(|table| !rows.contains_key(table));
            missing.map(|table| format!("{table} is in the file and not in the database"))
        })
    }
}

/// Returns the table of a line `COPY schema.table (columns) FROM stdin;`.
fn parse_copy(line: &[u8]) -> Option<Table> {
    let line = str::from_utf8(line).ok()?;
    let target = line.strip_prefix("COPY ")?.strip_suffix(" FROM stdin;\n")?;
    let (schema, rest) = parse_identifier(target)?;
    let (name, _) = parse_identifier(rest.strip_prefix('.')?)?;
    Some(Table { schema, name })
}

/// Returns the identifier at the start of the text, without quotation marks, and the text after it.
fn parse_identifier(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let (name, rest) = text.split_at(text.find(['.', ' ']).unwrap_or(text.len()));
        return Some((name.to_owned(), rest));
    };
    let mut name = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        // Two quotation marks are one in the name.
        let Some(more) = after.strip_prefix('"') else { return Some((name, after)) };
        name.push('"');
        rest = more;
    }
}

fn parse_first_column(line: &[u8]) -> Option<i64> {
    str::from_utf8(line).ok()?.split('\t').next()?.parse().ok()
}
