//! Recorded requests to a MOR X7 server and its replies, one JSON object a line, where the folder with them stands: beside
//! the project, or where `CONFORMANCE` says. Each case begins in the recorded base state.
//!
//! `conformance_known.json` lists the cases that can't match, with the reason for each.

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

const KNOWN: &str = include_str!("conformance_known.json");
const WORKERS: usize = 4;
/// The tables whose rows are compared.
const WATCHED: [&str; 10] =
    ["users", "cards", "cardgroups", "taxes", "tariffs", "payments", "actions", "ccorders", "cclineitems", "vouchers"];
/// What the clock decides, and what an X7 server makes of a user that we leave alone.
const NOT_COMPARED: [&str; 3] = ["date", "uniquehash", "address_id"];
/// Of a refused hash the URL and the parameters are written in another form, with their secrets masked.
const NOT_COMPARED_OF_REFUSALS: [&str; 3] = ["data2", "data3", "data4"];

#[derive(Deserialize)]
struct Case {
    id: String,
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
    /// Values made at random, as paths into the case; so are the next three, which depend on the clock or on chance.
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
struct Effect {
    op: String,
    row: Map<String, Value>,
}

#[derive(Deserialize)]
struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_replies_come_again() {
    let folder = std::env::var_os("CONFORMANCE").map_or("../shared/conformance".into(), PathBuf::from);
    let Ok(files) = std::fs::read_dir(&folder) else {
        println!("skipped: there are no recorded cases in {}", folder.display());
        return;
    };
    let mut cases = Vec::new();
    for file in files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|it| it == "jsonl")) {
        let text = std::fs::read_to_string(file).unwrap();
        cases.extend(text.lines().map(|line| serde_json::from_str::<Case>(line).unwrap()));
    }
    // Operations that don't exist yet are judged when they do.
    let ours =
        |case: &Case| case.endpoint == "nosuch" || OPERATIONS.iter().any(|operation| operation.name == case.endpoint);
    cases.retain(ours);

    let state = std::fs::read_to_string(folder.join("base_state.json")).unwrap();
    let base = Arc::new(base(&serde_json::from_str(&state).unwrap()).await);
    let known: BTreeMap<String, String> = serde_json::from_str(KNOWN).unwrap();
    let count = cases.len();
    let queue = Arc::new(Mutex::new(cases));
    let mut running = JoinSet::new();
    for _ in 0..WORKERS {
        running.spawn(work(queue.clone(), base.clone()));
    }
    let mut failures = Vec::new();
    let mut refused = 0;
    for (id, outcome) in running.join_all().await.into_iter().flatten() {
        match (outcome, known.contains_key(&id)) {
            (Outcome::SetUpRefused, _) => refused += 1,
            (Outcome::Same, false) | (Outcome::Differs(_), true) => {}
            (Outcome::Same, true) => failures.push(format!("{id} matches: take it off conformance_known.json")),
            (Outcome::Differs(how), false) => failures.push(format!("{id}: {how}")),
        }
    }
    println!("{count} recorded cases; the database refused the set-up of {refused}");
    failures.sort();
    assert!(failures.is_empty(), "{} of {count} differ:\n{}", failures.len(), failures.join("\n"));
}

enum Outcome {
    Same,
    Differs(String),
    /// The set-up breaks a rule that our database has and MOR's hasn't.
    SetUpRefused,
}

/// Takes cases until there are none left, in a database of its own that is brought back to the base state for each.
async fn work(queue: Arc<Mutex<Vec<Case>>>, base: Arc<String>) -> Vec<(String, Outcome)> {
    let server =
        server_on_database(&postgres::create_database("").await, &[("dialect", "x7"), ("database_connections", "1")])
            .await;
    let mut outcomes = Vec::new();
    loop {
        let Some(case) = queue.lock().unwrap().pop() else { return outcomes };
        server.execute(&base).await;
        let outcome = outcome(&case, &server).await;
        outcomes.push((case.id, outcome));
    }
}

async fn outcome(case: &Case, server: &Server) -> Outcome {
    for statement in &case.setup_sql {
        let statement = sqlx::AssertSqlSafe(statement.replace('`', "\""));
        if sqlx::raw_sql(statement).execute(&server.pool).await.is_err() {
            return Outcome::SetUpRefused;
        }
    }
    let before = snapshot(server).await;
    let reply = server.send(request(case)).await;
    let after = snapshot(server).await;
    let how = [body(case, &reply), headers(case, &reply), effects(case, &before, &after)];
    let how: Vec<String> = how.into_iter().flatten().collect();
    if how.is_empty() { Outcome::Same } else { Outcome::Differs(how.join("\n    ")) }
}

fn request(case: &Case) -> axum::http::Result<Request<Body>> {
    let query = case.raw_query.clone().unwrap_or_else(|| pairs(&case.query));
    let uri = if query.is_empty() { case.path.clone() } else { format!("{}?{query}", case.path) };
    let mut request = Request::builder().method(case.method.as_str()).uri(uri);
    for (name, value) in &case.req_headers {
        request = request.header(name, value);
    }
    let form = pairs(&case.form);
    match &case.raw_body {
        Some(body) => request.body(body.clone().into()),
        None => request.header("content-type", "application/x-www-form-urlencoded").body(form.into()),
    }
}

/// A JSON object, or list of pairs, as a query string.
fn pairs(value: &Value) -> String {
    let text = |value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let pairs: Vec<String> = match value {
        Value::Object(object) => {
            object.iter().map(|(name, value)| format!("{}={}", text(&name.as_str().into()), text(value))).collect()
        }
        Value::Array(pairs) => pairs.iter().map(|pair| format!("{}={}", text(&pair[0]), text(&pair[1]))).collect(),
        _ => Vec::new(),
    };
    pairs.join("&")
}

fn body(case: &Case, reply: &Reply) -> Option<String> {
    let mask = |body: &str| {
        let leaves = case.random.iter().filter_map(|path| path.rsplit('/').next()?.split('[').next());
        leaves.fold(body.to_owned(), |body, leaf| {
            let (open, close) = (format!("<{leaf}>"), format!("</{leaf}>"));
            let mut parts = body.split(open.as_str());
            let first = parts.next().unwrap_or_default().to_owned();
            parts.fold(first, |masked, part| {
                format!("{masked}{open}*{close}{}", part.split_once(close.as_str()).unwrap_or((part, "")).1)
            })
        })
    };
    let (expected, got) = (mask(&case.body), mask(&reply.body));
    let same_status = case.status == reply.status.as_u16();
    (!same_status || !same_text(&expected, &got))
        .then(|| format!("body\n      want {expected:?}\n      got  {} {got:?}", reply.status))
}

/// The same text; decimals may differ by what MOR's short division loses.
fn same_text(one: &str, other: &str) -> bool {
    let words = |text: &str| -> Vec<String> { text.split_inclusive(['<', '>']).map(str::to_owned).collect() };
    let (one, other) = (words(one), words(other));
    let is_decimal = |word: &str| word.contains('.');
    one.len() == other.len()
        && one.iter().zip(&other).all(|(one, other)| {
            one == other || is_decimal(one) && are_close(one.trim_end_matches('<'), other.trim_end_matches('<'))
        })
}

fn headers(case: &Case, reply: &Reply) -> Option<String> {
    let wrong: Vec<String> = case
        .headers
        .iter()
        // Ours says no-store, since replies carry PINs.
        .filter(|(name, value)| *name != "cache-control" && reply.header(name) != Some(value))
        .map(|(name, value)| format!("header {name}: want {value:?}, got {:?}", reply.header(name)))
        .collect();
    (!wrong.is_empty()).then(|| wrong.join("\n    "))
}

type Rows = BTreeMap<&'static str, BTreeMap<i64, Map<String, Value>>>;

async fn snapshot(server: &Server) -> Rows {
    let mut tables = Rows::new();
    for table in WATCHED {
        let sql = format!("select row_to_json(row)::text from {table} row");
        let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&server.pool).await.unwrap();
        let rows = rows.iter().map(|row| serde_json::from_str::<Map<String, Value>>(row).unwrap());
        tables.insert(table, rows.map(|row| (row["id"].as_i64().unwrap(), row)).collect());
    }
    tables
}

fn effects(case: &Case, before: &Rows, after: &Rows) -> Option<String> {
    let mut wrong = Vec::new();
    for table in WATCHED {
        let got = changes(&before[table], &after[table]);
        let want = case.effects.get(table).cloned().unwrap_or_default();
        if got.len() != want.len() {
            wrong.push(format!("{table}: {} rows changed, want {}", got.len(), want.len()));
            continue;
        }
        let by_chance = [&case.random, &case.now, &case.today, &case.volatile];
        for (at, (want, got)) in want.iter().zip(&got).enumerate() {
            let is_refusal = want.row.get("action").is_some_and(|action| action == "error");
            for (column, value) in &want.row {
                let Some(new) = got.row.get(column) else { continue };
                let path = format!("/effects/{table}/{at}/row/{column}");
                let skipped = NOT_COMPARED.contains(&column.as_str())
                    || is_refusal && NOT_COMPARED_OF_REFUSALS.contains(&column.as_str())
                    || by_chance.iter().any(|paths| paths.contains(&path));
                if !skipped && !same_value(value, new) {
                    wrong.push(format!("{table}.{column}: want {value}, got {new}"));
                }
            }
            if want.op != got.op {
                wrong.push(format!("{table}: {}, want {}", got.op, want.op));
            }
        }
    }
    (!wrong.is_empty()).then(|| wrong.join("\n    "))
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

/// The same text, number but for what MOR's short division loses, time whenever, or nothing.
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

/// The recorded state as SQL for the columns that we have. Old data breaks foreign keys, so they are off while it is loaded.
async fn base(state: &BTreeMap<String, Table>) -> String {
    let empty = server_on_database(&postgres::create_database("").await, &[("database_connections", "1")]).await;
    let ours = empty
        .rows("select table_name, column_name from information_schema.columns where table_schema = 'public' and is_generated = 'NEVER'")
        .await;
    empty.close().await;
    let has = |table: &str, column: &str| ours.contains(&format!("{table}|{column}"));
    let tables: Vec<&str> = ours.iter().filter_map(|column| column.strip_suffix("|id")).collect();
    let mut sql =
        format!("set session_replication_role = replica;\ntruncate {} restart identity;\n", tables.join(", "));
    for (table, Table { columns, rows }) in state.iter().filter(|(table, _)| has(table, "id")) {
        let kept: Vec<usize> = (0..columns.len()).filter(|at| has(table, &columns[*at])).collect();
        let names: Vec<String> = kept.iter().map(|at| format!("\"{}\"", columns[*at])).collect();
        for row in rows {
            let values: Vec<String> = kept.iter().map(|at| literal(&row[*at])).collect();
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

fn literal(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(text) if text.starts_with("0000-00-00") => "null".to_owned(),
        Value::String(text) => format!("'{}'", text.replace('\'', "''")),
        other => format!("'{other}'"),
    }
}
