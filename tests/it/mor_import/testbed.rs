//! A whole small database of MOR, from the recorded cases: `testbed.sql`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::Import;

/// A column of MOR, as `testbed_columns.json` describes it.
#[derive(Deserialize, Clone)]
pub struct Column {
    pub name: String,
    r#type: String,
    nullable: bool,
    default: Option<String>,
    key: String,
    extra: String,
}

impl Column {
    /// A column without a default.
    pub fn nullable(name: &str, r#type: &str) -> Self {
        let (name, r#type) = (name.to_owned(), r#type.to_owned());
        Self { name, r#type, nullable: true, default: None, key: String::new(), extra: String::new() }
    }
}

#[tokio::test]
async fn the_testbed_imports_without_a_question() {
    let folder = std::env::var_os("CONFORMANCE").map_or("../shared/conformance".into(), PathBuf::from);
    let (Ok(columns), Ok(rows)) = (
        std::fs::read_to_string(folder.join("testbed_columns.json")),
        std::fs::read_to_string(folder.join("testbed.sql")),
    ) else {
        println!("skipped: no testbed in {}", folder.display());
        return;
    };
    let tables: BTreeMap<String, Vec<Column>> = serde_json::from_str(&columns).unwrap();
    let schema: String = tables.iter().map(|(name, columns)| create_table(name, columns)).collect();
    // The only column of the file with a name that MySQL reserves and the file does not quote.
    let rows = rows.replace(" cut, add, minlen", " cut, `add`, minlen");
    let import = Import::with(&format!("{schema}{rows}")).await;
    let output = import.import_ok(&["--json"]);
    let result = Import::result(&output);
    assert_eq!(result["verification"]["differences"], serde_json::json!([]));
    let tables = result["verification"]["tables"].as_array().unwrap();
    let imported: i64 = tables.iter().map(|table| table["imported"].as_i64().unwrap()).sum();
    let in_mor: i64 = tables.iter().map(|table| table["rows_in_mor"].as_i64().unwrap()).sum();
    assert!(in_mor > 10_000 && imported == in_mor, "{imported} of {in_mor}");
    let server = import.server().await;
    server.assert_rows("select count(*) from card_stock", &["21"]).await;
}

/// Returns the statement that creates a table.
pub fn create_table(name: &str, columns: &[Column]) -> String {
    let mut parts: Vec<String> = columns
        .iter()
        .map(|column| {
            let null = if column.nullable { "null" } else { "not null" };
            let default = match &column.default {
                Some(function) if function.starts_with("current_timestamp") => format!("default {function}"),
                Some(value) => format!("default '{value}'"),
                None => String::new(),
            };
            let extra = if column.extra.contains("auto_increment") { "auto_increment" } else { "" };
            format!("`{}` {} {null} {default} {extra}", column.name, column.r#type)
        })
        .collect();
    let keys: Vec<String> =
        columns.iter().filter(|column| column.key == "PRI").map(|column| format!("`{}`", column.name)).collect();
    if !keys.is_empty() {
        parts.push(format!("primary key ({})", keys.join(", ")));
    }
    format!("create table `{name}` ({}) engine = InnoDB default charset = utf8mb3;\n", parts.join(", "))
}
