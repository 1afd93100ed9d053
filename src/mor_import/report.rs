//! The report of the findings, and the same file with the operator's decisions.

use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use futures_util::TryStreamExt;
use sqlx::PgConnection;

use crate::mor_import::error::ImportError;
use crate::mor_import::target::execute;

/// Lines of a decisions file that are stored at once.
const LINES_STORED: usize = 10_000;

/// The decisions that a rule accepts besides `default` and `undecided`. A used card never comes into stock.
const DECISIONS: [(&str, &[&str]); 7] = [
    ("unsellable", &["reserve", "stock", "keep"]),
    ("distributor", &["reserve", "stock"]),
    ("duplicate_number", &["keep"]),
    ("duplicate_pin", &["keep"]),
    ("number_other_owner", &["keep"]),
    ("bad_currency", &["leave-out"]),
    ("out_of_range", &["leave-out"]),
];
/// The decisions that every finding about a card accepts too.
const CARD_DECISIONS: [&str; 2] = ["quarantine", "leave-out"];

/// The number of findings of a rule in a table.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, sqlx::FromRow)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct RuleCount {
    pub rule: String,
    pub table: String,
    pub findings: i64,
    pub undecided: i64,
    /// The sum of the balances and amounts, in the currency of the rows.
    pub money: String,
}

/// Counts the findings.
pub async fn count(target: &mut PgConnection) -> sqlx::Result<Vec<RuleCount>> {
    sqlx::query_as(
        r#"select rule, "table", count(*) as findings, count(*) filter (where decision = 'undecided') as undecided,
               coalesce(sum(money), 0)::text as money
           from mor_import.findings group by rule, "table" order by rule, "table""#,
    )
    .fetch_all(target)
    .await
}

/// Writes the findings to a file. Rules that only count get one line for a column.
pub async fn write(target: &mut PgConnection, path: &Path) -> Result<(), ImportError> {
    let failed = |error| ImportError::Report { path: path.to_owned(), error };
    let mut file = BufWriter::new(create_private(path).map_err(failed)?);
    file.write_all(
        b"# Findings of mortise import. Edit the last field of a line and pass the file to --decisions.\n\
          # default: as the migration guide says. undecided: the import stops until it is decided.\n\
          # The id * stands for all other findings of a rule.\n\
          # rule\ttable\tid\tvalue\tmoney\tdecision\n",
    )
    .map_err(failed)?;
    let mut rows = sqlx::query_as::<_, (String, String, String, String, String, String)>(
        r#"select rule, "table", id, value, money, decision
           from (
               select rule, "table", 0 as position, '*' as id,
                   format('%s cells of the column %s', count(*), "column") as value, '' as money, 'default' as decision
               from mor_import.findings where is_counted group by rule, "table", "column"
               union all
               select rule, "table", id, id::text, coalesce(value, ''), coalesce(money::text, ''), decision
               from mor_import.findings where not is_counted
           ) line
           order by rule, "table", position, id"#,
    )
    .fetch(target);
    while let Some((rule, table, id, value, money, decision)) = rows.try_next().await? {
        let line = [rule, table, id, escape(&value), money, decision].join("\t");
        writeln!(file, "{line}").map_err(failed)?;
    }
    file.flush().map_err(failed)
}

/// Creates a file that only the operator can read, or replaces its content: it names cards and their balances.
fn create_private(path: &Path) -> std::io::Result<File> {
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // Of a file that existed. A pipe or a terminal keeps its permissions.
    if file.metadata()?.is_file() {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Reads the operator's decisions and stores them with the findings. Returns the number of lines without a finding.
///
/// # Errors
///
/// If a line is malformed, its rule does not accept the decision, or the amount of the finding has changed.
pub async fn apply_decisions(target: &mut PgConnection, path: &Path) -> Result<u64, ImportError> {
    execute(
        target,
        "drop table if exists mor_import.decisions;
         create unlogged table mor_import.decisions (
             line integer, rule text, \"table\" text, id text, money text, decision text)",
    )
    .await?;
    let failed = |error: std::io::Error| ImportError::refused(format!("cannot read {}: {error}", path.display()));
    let file = BufReader::new(File::open(path).map_err(failed)?);
    let mut lines = Vec::new();
    for (index, line) in file.lines().enumerate() {
        let line = line.map_err(failed)?;
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        lines.push(parse_line(&line, index + 1, path)?);
        if lines.len() == LINES_STORED {
            store(target, &lines).await?;
            lines.clear();
        }
    }
    store(target, &lines).await?;
    check(target, path).await?;
    execute(
        target,
        // A rule that only counts has a line for each column: one that was edited counts.
        r#"update mor_import.findings finding set decision = line.decision
           from (
               select distinct on (rule, "table") * from mor_import.decisions where id = '*'
               order by rule, "table", decision = 'default', line desc
           ) line
           where line.rule = finding.rule and line."table" = finding."table" and line.decision <> finding.decision;
           update mor_import.findings finding set decision = line.decision
           from (select distinct on (rule, "table", id) * from mor_import.decisions order by rule, "table", id, line desc) line
           where line.id = finding.id::text and line.rule = finding.rule and line."table" = finding."table""#,
    )
    .await?;
    let unused: i64 = sqlx::query_scalar(
        r#"select count(*) from mor_import.decisions line
           where id <> '*' and not exists (select from mor_import.findings finding
               where line.id = finding.id::text and line.rule = finding.rule and line."table" = finding."table")"#,
    )
    .fetch_one(target)
    .await?;
    Ok(unused.unsigned_abs())
}

/// A line of the decisions file.
struct Line {
    number: i32,
    rule: String,
    table: String,
    id: String,
    money: String,
    decision: String,
}

fn parse_line(line: &str, number: usize, path: &Path) -> Result<Line, ImportError> {
    let refused = |reason: &str| ImportError::refused(format!("{}, line {number}: {reason}", path.display()));
    let fields: Vec<&str> = line.trim_end_matches('\r').split('\t').collect();
    let [rule, table, id, _value, money, decision] = fields.as_slice() else {
        return Err(refused("expected six fields, separated by tabs: rule, table, id, value, money, decision"));
    };
    if *id != "*" && id.parse::<i64>().is_err() {
        return Err(refused("the third field is neither an id nor *"));
    }
    let of_rule = DECISIONS.iter().find(|(name, _)| name == rule).map_or(&[] as &[&str], |(_, accepted)| *accepted);
    let of_card: &[&str] = if *table == "cards" { &CARD_DECISIONS } else { &[] };
    let accepted: Vec<&str> = ["default", "undecided"].iter().chain(of_rule).chain(of_card).copied().collect();
    if !accepted.contains(decision) {
        return Err(refused(&format!(
            "the rule {rule} does not accept the decision {decision:?}; it accepts {}",
            accepted.join(", ")
        )));
    }
    Ok(Line {
        number: i32::try_from(number).unwrap_or(i32::MAX),
        rule: (*rule).to_owned(),
        table: (*table).to_owned(),
        id: (*id).to_owned(),
        money: (*money).to_owned(),
        decision: (*decision).to_owned(),
    })
}

async fn store(target: &mut PgConnection, lines: &[Line]) -> Result<(), ImportError> {
    fn texts(lines: &[Line], field: impl Fn(&Line) -> &str) -> Vec<&str> {
        lines.iter().map(field).collect()
    }
    sqlx::query(
        "insert into mor_import.decisions
         select * from unnest($1::integer[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])",
    )
    .bind(lines.iter().map(|line| line.number).collect::<Vec<_>>())
    .bind(texts(lines, |line| &line.rule))
    .bind(texts(lines, |line| &line.table))
    .bind(texts(lines, |line| &line.id))
    .bind(texts(lines, |line| &line.money))
    .bind(texts(lines, |line| &line.decision))
    .execute(target)
    .await?;
    Ok(())
}

/// A decision about money holds only for the amount that the operator saw.
async fn check(target: &mut PgConnection, path: &Path) -> Result<(), ImportError> {
    let changed: Option<(i32, String)> = sqlx::query_as(
        r#"select line, finding.money::text from mor_import.decisions line
           join mor_import.findings finding
               on line.id = finding.id::text and line.rule = finding.rule and line."table" = finding."table"
           where line.money <> coalesce(finding.money::text, '') order by line limit 1"#,
    )
    .fetch_optional(target)
    .await?;
    match changed {
        None => Ok(()),
        Some((line, money)) => Err(ImportError::refused(format!(
            "{}, line {line}: the amount is {money} now. Make a new report with --dry-run",
            path.display()
        ))),
    }
}

/// Escapes the characters that separate fields and lines.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}
