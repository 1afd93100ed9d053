//! Replays requests recorded on a MOR X7 server and compares replies and rows. The cases are JSON lines in the folder
//! that `CONFORMANCE` names, by default `../shared/conformance`; without the folder the test is skipped. Each case
//! starts from the recorded base state.
//!
//! `conformance_known.json` lists the cases that differ on purpose, each with the reason.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::Request;
use bigdecimal::BigDecimal;
use mortise::operations::OPERATIONS;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::task::JoinSet;

use crate::harness::{Reply, Server, postgres, server_on_database};

pub const KNOWN: &str = include_str!("conformance_known.json");
const WORKERS: usize = 4;
/// The tables whose rows are compared.
const COMPARED_TABLES: [&str; 13] = [
    "users",
    "cards",
    "cardgroups",
    "taxes",
    "tariffs",
    "payments",
    "actions",
    "ccorders",
    "cclineitems",
    "vouchers",
    "rates",
    "ratedetails",
    "aratedetails",
];
/// Columns that depend on the clock, and columns that an X7 server sets on a user and Mortise doesn't.
const IGNORED_COLUMNS: [&str; 3] = ["date", "uniquehash", "address_id"];
/// Columns of audit rows of refused hashes: Mortise writes the URL and the parameters in another form, with secrets
/// masked.
const IGNORED_COLUMNS_OF_REFUSALS: [&str; 3] = ["data2", "data3", "data4"];

#[derive(Deserialize)]
pub struct Case {
    pub id: String,
    endpoint: String,
    path: String,
    method: String,
    query: Value,
    form: Value,
    raw_query: Option<String>,
    raw_body: Option<String>,
    #[serde(default)]
    req_headers: HashMap<String, String>,
    #[serde(default)]
    setup_sql: Vec<String>,
    status: u16,
    headers: HashMap<String, String>,
    body: String,
    effects: BTreeMap<String, Vec<Effect>>,
    /// Paths into the case of random values. The next three fields are paths of values that depend on the clock or vary
    /// otherwise.
    #[serde(default)]
    random: Vec<String>,
    #[serde(default)]
    now: Vec<String>,
    #[serde(default)]
    today: Vec<String>,
    #[serde(default)]
    volatile: Vec<String>,
}

#[derive(Deserialize, Clone, PartialEq, Debug)]
pub struct Effect {
    op: String,
    row: Map<String, Value>,
}

#[derive(Deserialize)]
pub struct Table {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Value>>,
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_requests_get_the_recorded_replies() {
    let Some((folder, cases)) = recorded_cases() else { return };
    let state = std::fs::read_to_string(folder.join("base_state.json")).unwrap();
    let base = Arc::new(base_state_sql(&serde_json::from_str(&state).unwrap()).await);
    let known: BTreeMap<String, String> = serde_json::from_str(KNOWN).unwrap();
    let count = cases.len();
    let queue = Arc::new(Mutex::new(cases));
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        workers.spawn(run_cases(queue.clone(), base.clone()));
    }
    let mut failures = Vec::new();
    let mut refused = 0;
    for (id, outcome) in workers.join_all().await.into_iter().flatten() {
        match (outcome, known.contains_key(&id)) {
            (Outcome::SetupRefused, _) => refused += 1,
            (Outcome::Same, false) | (Outcome::Differs(_), true) => {}
            (Outcome::Same, true) => failures.push(format!("{id} matches: remove it from conformance_known.json")),
            (Outcome::Differs(differences), false) => failures.push(format!("{id}: {differences}")),
        }
    }
    println!("{count} recorded cases; the database refused the setup of {refused}");
    failures.sort();
    assert!(failures.is_empty(), "{} of {count} differ:\n{}", failures.len(), failures.join("\n"));
}

/// Returns the folder of the recorded cases, and the cases of operations that Mortise has.
pub fn recorded_cases() -> Option<(PathBuf, Vec<Case>)> {
    let folder = std::env::var_os("CONFORMANCE").map_or("../shared/conformance".into(), PathBuf::from);
    let Ok(files) = std::fs::read_dir(&folder) else {
        println!("skipped: no recorded cases in {}", folder.display());
        return None;
    };
    let mut cases = Vec::new();
    for file in files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
    {
        let text = std::fs::read_to_string(file).unwrap();
        cases.extend(text.lines().map(|line| serde_json::from_str::<Case>(line).unwrap()));
    }
    // Cases of operations that Mortise doesn't have are skipped. `nosuch` is the recorded name of an unknown operation.
    let has_operation =
        |case: &Case| case.endpoint == "nosuch" || OPERATIONS.iter().any(|operation| operation.name == case.endpoint);
    cases.retain(has_operation);
    Some((folder, cases))
}

pub enum Outcome {
    Same,
    Differs(String),
    /// The setup violates a constraint that MOR's database doesn't have.
    SetupRefused,
}

/// Runs cases from the queue until it is empty. Uses its own database, which is reset to the base state for each case.
async fn run_cases(queue: Arc<Mutex<Vec<Case>>>, base: Arc<String>) -> Vec<(String, Outcome)> {
    let server =
        server_on_database(&postgres::create_database("").await, &[("dialect", "x7"), ("database_connections", "1")])
            .await;
    let mut outcomes = Vec::new();
    loop {
        let Some(case) = queue.lock().unwrap().pop() else { return outcomes };
        server.execute(&base).await;
        let outcome = run_case(&case, &server).await;
        outcomes.push((case.id, outcome));
    }
}

pub async fn run_case(case: &Case, server: &Server) -> Outcome {
    for statement in &case.setup_sql {
        let statement = sqlx::AssertSqlSafe(statement.replace('`', "\""));
        if sqlx::raw_sql(statement).execute(&server.pool).await.is_err() {
            return Outcome::SetupRefused;
        }
    }
    let before = snapshot(server).await;
    let reply = server.send(request(case)).await;
    let after = snapshot(server).await;
    let differences =
        [compare_body(case, &reply), compare_headers(case, &reply), compare_effects(case, &before, &after)];
    let differences: Vec<String> = differences.into_iter().flatten().collect();
    if differences.is_empty() { Outcome::Same } else { Outcome::Differs(differences.join("\n    ")) }
}

fn request(case: &Case) -> axum::http::Result<Request<Body>> {
    let query = case.raw_query.clone().unwrap_or_else(|| query_string(&case.query));
    let uri = if query.is_empty() { case.path.clone() } else { format!("{}?{query}", case.path) };
    let mut request = Request::builder().method(case.method.as_str()).uri(uri);
    for (name, value) in &case.req_headers {
        request = request.header(name, value);
    }
    let form = query_string(&case.form);
    match &case.raw_body {
        Some(body) => request.body(body.clone().into()),
        None => request.header("content-type", "application/x-www-form-urlencoded").body(form.into()),
    }
}

/// Returns a JSON object, or a list of pairs, as a query string.
fn query_string(value: &Value) -> String {
    let encoded = |value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let pairs: Vec<String> = match value {
        Value::Object(object) => object
            .iter()
            .map(|(name, value)| format!("{}={}", encoded(&name.as_str().into()), encoded(value)))
            .collect(),
        Value::Array(pairs) => {
            pairs.iter().map(|pair| format!("{}={}", encoded(&pair[0]), encoded(&pair[1]))).collect()
        }
        _ => Vec::new(),
    };
    pairs.join("&")
}

fn compare_body(case: &Case, reply: &Reply) -> Option<String> {
    let mask = |body: &str| {
        let elements = case.random.iter().filter_map(|path| path.rsplit('/').next()?.split('[').next());
        elements.fold(body.to_owned(), |body, element| {
            let (open, close) = (format!("<{element}>"), format!("</{element}>"));
            let mut parts = body.split(open.as_str());
            let first = parts.next().unwrap_or_default().to_owned();
            parts.fold(first, |masked, part| {
                format!("{masked}{open}*{close}{}", part.split_once(close.as_str()).unwrap_or((part, "")).1)
            })
        })
    };
    let (expected, actual) = (mask(&case.body), mask(&reply.body));
    let same_status = case.status == reply.status.as_u16();
    // MOR lists rates of equal rank in an order that changes from call to call.
    let lists_rates = ["rate_get", "tariff_rates_get"].contains(&case.endpoint.as_str());
    let same_body = same_text(&expected, &actual) || lists_rates && sorted_rates(&expected) == sorted_rates(&actual);
    (!same_status || !same_body)
        .then(|| format!("body\n      want {expected:?}\n      got  {} {actual:?}", reply.status))
}

/// The text between the elements `rate`, and these elements in sorted order.
fn sorted_rates(body: &str) -> (String, Vec<&str>) {
    let mut parts = body.split("<rate>");
    let mut between = parts.next().unwrap_or_default().to_owned();
    let mut rates = Vec::new();
    for part in parts {
        let (rate, rest) = part.split_once("</rate>").unwrap_or((part, ""));
        rates.push(rate);
        between += rest;
    }
    rates.sort_unstable();
    (between, rates)
}

/// Whether two bodies are equal, except for rounding of decimals: MOR divides with fewer digits.
fn same_text(one: &str, other: &str) -> bool {
    let tokens = |text: &str| -> Vec<String> { text.split_inclusive(['<', '>']).map(str::to_owned).collect() };
    let (one, other) = (tokens(one), tokens(other));
    let is_decimal = |token: &str| token.contains('.');
    one.len() == other.len()
        && one.iter().zip(&other).all(|(one, other)| {
            one == other || is_decimal(one) && are_close(one.trim_end_matches('<'), other.trim_end_matches('<'))
        })
}

fn compare_headers(case: &Case, reply: &Reply) -> Option<String> {
    let differences: Vec<String> = case
        .headers
        .iter()
        // Mortise sends `no-store`, because replies contain PINs.
        .filter(|(name, value)| *name != "cache-control" && reply.header(name) != Some(value))
        .filter(|(name, _)| !case.volatile.contains(&format!("/headers/{name}")))
        .map(|(name, value)| format!("header {name}: want {value:?}, got {:?}", reply.header(name)))
        .collect();
    (!differences.is_empty()).then(|| differences.join("\n    "))
}

type Rows = BTreeMap<&'static str, BTreeMap<i64, Map<String, Value>>>;

async fn snapshot(server: &Server) -> Rows {
    let mut tables = Rows::new();
    for table in COMPARED_TABLES {
        let sql = format!("select row_to_json(row)::text from {table} row");
        let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&server.pool).await.unwrap();
        let rows = rows.iter().map(|row| serde_json::from_str::<Map<String, Value>>(row).unwrap());
        tables.insert(table, rows.map(|row| (row["id"].as_i64().unwrap(), row)).collect());
    }
    tables
}

fn compare_effects(case: &Case, before: &Rows, after: &Rows) -> Option<String> {
    let mut differences = Vec::new();
    for table in COMPARED_TABLES {
        let actual = changes(&before[table], &after[table]);
        let expected = case.effects.get(table).cloned().unwrap_or_default();
        if actual.len() != expected.len() {
            differences.push(format!("{table}: {} rows changed, want {}", actual.len(), expected.len()));
            continue;
        }
        let nondeterministic = [&case.random, &case.now, &case.today, &case.volatile];
        for (index, (expected, actual)) in expected.iter().zip(&actual).enumerate() {
            let is_refusal = expected.row.get("action").is_some_and(|action| action == "error");
            for (column, value) in &expected.row {
                let Some(new) = actual.row.get(column) else { continue };
                let path = format!("/effects/{table}/{index}/row/{column}");
                let skipped = IGNORED_COLUMNS.contains(&column.as_str())
                    || is_refusal && IGNORED_COLUMNS_OF_REFUSALS.contains(&column.as_str())
                    || nondeterministic.iter().any(|paths| paths.contains(&path));
                if !skipped && !same_value(value, new) {
                    differences.push(format!("{table}.{column}: want {value}, got {new}"));
                }
            }
            if expected.op != actual.op {
                differences.push(format!("{table}: {}, want {}", actual.op, expected.op));
            }
        }
    }
    (!differences.is_empty()).then(|| differences.join("\n    "))
}

fn changes(before: &BTreeMap<i64, Map<String, Value>>, after: &BTreeMap<i64, Map<String, Value>>) -> Vec<Effect> {
    let effect = |op: &str, row: &Map<String, Value>| Effect { op: op.to_owned(), row: row.clone() };
    let mut changes: Vec<Effect> = after
        .iter()
        .filter(|(id, row)| before.get(id) != Some(row))
        .map(|(id, row)| effect(if before.contains_key(id) { "update" } else { "insert" }, row))
        .collect();
    changes.extend(before.iter().filter(|(id, _)| !after.contains_key(id)).map(|(_, row)| effect("delete", row)));
    changes
}

/// Whether two values are equal, except for rounding of numbers. All times are equal, and null equals an empty text.
fn same_value(one: &Value, other: &Value) -> bool {
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let (one, other) = (text(one), text(other));
    let is_time = |text: &str| text.len() >= 19 && text.as_bytes()[4] == b'-' && text.as_bytes()[13] == b':';
    one == other || is_time(&one) && is_time(&other) || are_close(&one, &other)
}

fn are_close(one: &str, other: &str) -> bool {
    match (one.parse::<BigDecimal>(), other.parse::<BigDecimal>()) {
        (Ok(one), Ok(other)) => (&one - &other).abs() <= one.abs().max(1.into()) * BigDecimal::new(1.into(), 9),
        _ => false,
    }
}

/// Returns the recorded state as SQL for the columns that Mortise has. The data violates foreign keys, so the
/// statements disable them while they load it.
async fn base_state_sql(state: &BTreeMap<String, Table>) -> String {
    let empty = server_on_database(&postgres::create_database("").await, &[("database_connections", "1")]).await;
    let known_columns = empty
        .rows("select table_name, column_name from information_schema.columns where table_schema = 'public' and is_generated = 'NEVER'")
        .await;
    empty.close().await;
    let has = |table: &str, column: &str| known_columns.contains(&format!("{table}|{column}"));
    let tables: Vec<&str> = known_columns.iter().filter_map(|column| column.strip_suffix("|id")).collect();
    let mut sql =
        format!("set session_replication_role = replica;\ntruncate {} restart identity;\n", tables.join(", "));
    for (table, Table { columns, rows }) in state.iter().filter(|(table, _)| has(table, "id")) {
        let indexes: Vec<usize> = (0..columns.len()).filter(|index| has(table, &columns[*index])).collect();
        let names: Vec<String> = indexes.iter().map(|index| format!("\"{}\"", columns[*index])).collect();
        for row in rows {
            let values: Vec<String> = indexes.iter().map(|index| sql_literal(&row[*index])).collect();
            sql += &format!(
                "insert into {table} ({}) overriding system value values ({});\n",
                names.join(", "),
                values.join(", ")
            );
        }
        sql += &format!(
            "select setval(pg_get_serial_sequence('{table}', 'id'), (select coalesce(max(id), 0) + 1 from {table}), false);\n"
        );
    }
    sql + "set session_replication_role = origin;\n"
}

fn sql_literal(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(text) if text.starts_with("0000-00-00") => "null".to_owned(),
        Value::String(text) => format!("'{}'", text.replace('\'', "''")),
        other => format!("'{other}'"),
    }
}
