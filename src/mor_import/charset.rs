//! `--charset-repair TABLE`: texts whose UTF-8 bytes MOR has stored in a latin1 table.

use sqlx::PgConnection;

use crate::mor_import::error::ImportError;
use crate::mor_import::inspect::{Inspection, Table};
use crate::mor_import::target::{Kind, execute, literal, quote};

/// Checks the names of the tables.
///
/// # Errors
///
/// If a table is not imported.
pub fn check(inspection: &Inspection, tables: &[String]) -> Result<(), ImportError> {
    match tables.iter().find(|name| !inspection.tables.iter().any(|table| table.name == **name)) {
        None => Ok(()),
        Some(name) => Err(ImportError::refused(format!(
            "--charset-repair {name}: there is no such table in both MOR and Mortise"
        ))),
    }
}

/// Repairs the staged texts of the table. Every altered cell has a finding with its original. A text that is not UTF-8
/// stays as it is.
pub async fn repair(target: &mut PgConnection, table: &Table) -> Result<(), ImportError> {
    for (column, _) in table.read_columns().filter(|(column, _)| column.target.kind == Kind::Text) {
        let (name, table) = (quote(&column.target.name), table.name);
        let condition = format!("octet_length({name}) > length({name}) and mor_import.repaired({name}) <> {name}");
        let insert = format!(
            r#"insert into mor_import.findings
                   (rule, "table", id, "column", original, value, default_action, is_applied, is_counted)
               select 'charset_repaired', {}, id, {}, {name}, {}, 'replaced', true, true
               from mor_import.{table} where {condition};
               update mor_import.{table} set {name} = mor_import.repaired({name}) where {condition}"#,
            literal(table),
            literal(&column.target.name),
            literal("UTF-8 in a latin1 table"),
        );
        execute(target, insert).await?;
    }
    Ok(())
}
