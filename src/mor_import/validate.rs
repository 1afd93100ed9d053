//! Finds invalid data in the staged tables, in SQL: the table "Invalid data" of the contract page `import.md`.

use sqlx::{AssertSqlSafe, PgConnection, Row};

use crate::mor_import::error::ImportError;
use crate::mor_import::inspect::{Column, Inspection, Table};
use crate::mor_import::secret;
use crate::mor_import::target::{Kind, execute, literal, quote};

/// A rule about single cells of a column.
struct CellRule {
    rule: &'static str,
    column: String,
    /// Whether the cell violates the rule.
    condition: String,
    /// What is stored instead.
    replacement: String,
    decision: &'static str,
    default_action: &'static str,
}

/// Writes all findings to `mor_import.findings`.
pub async fn find(target: &mut PgConnection, inspection: &Inspection) -> Result<(), ImportError> {
    record_auto_increments(target, inspection).await?;
    for table in &inspection.tables {
        find_cells(target, table).await?;
    }
    execute(target, include_str!("cards.sql")).await?;
    execute(target, include_str!("others.sql")).await?;
    execute(target, "analyze mor_import.findings").await?;
    Ok(())
}

/// The next id of each table, which no row of Mortise takes before.
async fn record_auto_increments(target: &mut PgConnection, inspection: &Inspection) -> Result<(), ImportError> {
    execute(
        target,
        r#"create unlogged table mor_import.auto_increments ("table" text primary key, next_id bigint not null)"#,
    )
    .await?;
    for table in &inspection.tables {
        execute(
            target,
            format!(
                "insert into mor_import.auto_increments
                 select {}, greatest({}, (select max(id) + 1 from mor_import.{}), 1)",
                literal(table.name),
                table.auto_increment,
                table.name
            ),
        )
        .await?;
    }
    Ok(())
}

/// Applies the rules that follow from the types of the columns. The table is read once to see which rules are violated.
async fn find_cells(target: &mut PgConnection, table: &Table) -> Result<(), ImportError> {
    let rules: Vec<CellRule> = table.read_columns().flat_map(|(column, _)| cell_rules(table.name, column)).collect();
    if rules.is_empty() {
        return Ok(());
    }
    let violated: Vec<String> = rules.iter().map(|rule| format!("bool_or({})", rule.condition)).collect();
    let query = format!("select {} from mor_import.{}", violated.join(", "), table.name);
    let row = sqlx::query(AssertSqlSafe(query)).fetch_one(&mut *target).await?;
    for (index, rule) in rules.iter().enumerate() {
        if row.try_get::<Option<bool>, _>(index)?.unwrap_or_default() {
            record_cells(target, table, rule).await?;
        }
    }
    Ok(())
}

async fn record_cells(target: &mut PgConnection, table: &Table, rule: &CellRule) -> Result<(), ImportError> {
    let column = quote(&rule.column);
    let rows = match (table.name, rule.rule) {
        // A missing date of the log is the one of the row before, else of the row after.
        ("actions", "zero_date") => "(
                select id, date, coalesce(max(known) over (partition by before), max(known) over (partition by after))
                    as neighbour
                from (
                    select *, count(known) over (order by id) as before, count(known) over (order by id desc) as after
                    from (
                        select id, date, case when mor_import.is_date(date) then date end as known
                        from mor_import.actions
                    ) action
                ) action
            ) row"
            .to_owned(),
        _ => format!("mor_import.{} row", table.name),
    };
    let value = if secret::is_secret(table.name, &rule.column) {
        format!("mor_import.digest({column}::text)")
    } else {
        column.clone()
    };
    let is_counted = rule.decision == "default";
    // The rules that only count are about rows whose money stays as it is.
    let money = match (table.name, is_counted) {
        (_, true) => "null",
        ("cards" | "users", false) => "balance",
        ("payments" | "ccorders", false) => "amount",
        ("cclineitems", false) => "price",
        ("vouchers", false) => "credit_with_vat",
        (_, false) => "null",
    };
    let insert = format!(
        r#"insert into mor_import.findings
               (rule, "table", id, "column", original, replacement, value, money, decision, default_action, is_counted)
           select {}, {}, id, {}, {column}, {}, {value}, {money}, {}, {}, {is_counted}
           from {rows} where {}"#,
        literal(rule.rule),
        literal(table.name),
        literal(&rule.column),
        rule.replacement,
        literal(rule.decision),
        literal(rule.default_action),
        rule.condition
    );
    execute(target, insert).await?;
    Ok(())
}

fn cell_rules(table: &str, column: &Column) -> Vec<CellRule> {
    let name = quote(&column.target.name);
    let rule = |rule, condition: String, replacement: String, default_action| CellRule {
        rule,
        column: column.target.name.clone(),
        condition,
        replacement,
        decision: "default",
        default_action,
    };
    let mut rules = Vec::new();
    match column.target.kind {
        Kind::Timestamp => {
            const NOW: &str = "to_char(now() at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS')";
            let replacement = match (table, column.target.name.as_str()) {
                ("actions", "date") => format!("coalesce(neighbour, {NOW})"),
                _ if column.target.is_nullable => "null".to_owned(),
                _ => NOW.to_owned(),
            };
            rules.push(rule("zero_date", format!("not mor_import.is_date({name})"), replacement, "cleared"));
            if column.is_local_time {
                let valid = |condition: &str| format!("case when mor_import.is_date({name}) then {condition} end");
                let moved = format!("mor_import.to_local(mor_import.to_utc({name}::timestamp))");
                rules.push(rule(
                    "skipped_hour",
                    valid(&format!("{moved} <> {name}::timestamp")),
                    format!("to_char({moved}, 'YYYY-MM-DD HH24:MI:SS')"),
                    "moved",
                ));
                rules.push(rule(
                    "ambiguous_hour",
                    valid(&format!(
                        "mor_import.to_utc({name}::timestamp) <> mor_import.later_reading({name}::timestamp)"
                    )),
                    name.clone(),
                    "earlier",
                ));
            }
        }
        Kind::Time => rules.push(rule(
            "long_time",
            format!("{name} ~ '^-' or length({name}) > 8 or {name} > '24:00:00'"),
            "'24:00:00'".to_owned(),
            "replaced",
        )),
        Kind::Integer => {
            let (min, max) = match column.target.type_name.as_str() {
                "smallint" => (i64::from(i16::MIN), i64::from(i16::MAX)),
                "integer" => (i64::from(i32::MIN), i64::from(i32::MAX)),
                _ => (i64::MIN, i64::MAX),
            };
            if (table, column.target.name.as_str()) != ("cards", "sold") && min != i64::MIN {
                let condition = format!("{name} not between {min} and {max}");
                let out_of_range = rule("out_of_range", condition, "null".to_owned(), "leave-out");
                rules.push(CellRule { decision: "undecided", ..out_of_range });
            }
        }
        Kind::Text => {
            // MySQL stores a value that an enumeration does not have as an empty text.
            let values = match column.target.name.as_str() {
                "artype" => Some(("null", "'event', 'minute'")),
                "daytype" => Some(("''", "'', 'FD', 'WD'")),
                _ => None,
            };
            if let Some((replacement, known)) = values {
                let condition = format!("{name} not in ({known})");
                rules.push(rule("unknown_value", condition, replacement.to_owned(), "replaced"));
            }
        }
        Kind::Numeric => {}
    }
    let is_required =
        !column.target.is_nullable && !matches!((table, column.target.name.as_str()), ("cards", "cardgroup_id"));
    if is_required {
        let default = match (&column.target.default, column.target.kind) {
            (Some(default), Kind::Timestamp) => format!("to_char({default}, 'YYYY-MM-DD HH24:MI:SS')"),
            (Some(default), _) => format!("({default})::text"),
            (None, Kind::Integer | Kind::Numeric) => "'0'".to_owned(),
            (None, Kind::Text) => "''".to_owned(),
            (None, Kind::Timestamp) => "to_char(now() at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS')".to_owned(),
            (None, Kind::Time) => "'00:00:00'".to_owned(),
        };
        rules.push(rule("null_value", format!("{name} is null"), default, "replaced"));
    }
    rules
}
