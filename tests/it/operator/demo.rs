//! The world of `serve --demo`: lively, correct, and beside the published examples.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use axum::body::Bytes;
use axum::http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use mortise::db::seed;

use super::commands::{command, run_command, url};
use crate::harness::process::{self, ServerProcess};
use crate::harness::{Server, ledger, postgres, server_on_database, with_timeout};

/// A server with new demo data, and the URL of its database.
async fn demo() -> (Server, String) {
    let database = postgres::create_database("").await;
    let server = server_on_database(&database, &[]).await;
    assert!(seed::seed_if_empty(&server.pool, true, async |_| Ok(())).await.unwrap());
    (server, url(&database).await)
}

fn run_json(url: &str, arguments: &[&str]) -> serde_json::Value {
    let mut command = command(&[arguments, &["--json"]].concat());
    command.env("DATABASE_URL", url);
    let output = run_command(command, "");
    assert_eq!(output.stderr, "", "{arguments:?}");
    serde_json::from_str(&output.stdout).unwrap()
}

/// Statements that find rows which sales, commands and pages would not have written.
const FAULTS: [(&str, &str); 9] = [
    ("a difference between cards and stock", "select * from card_stock_differences"),
    (
        "a payment of a card without exactly one audit row",
        "select p.id from payments p left join actions a on a.action = 'card_payment_created' and a.target_id = p.id
         group by p.id having count(a.id) <> 1 or min(a.date) <> min(p.date_added)",
    ),
    (
        "a sale without exactly one audit row",
        "select p.id from payments p left join actions a on a.action = 'card_sell_over_api' and a.target_id = p.user_id
         where p.kind = 'sale' group by p.id having count(a.id) <> 1",
    ),
    (
        "a sold card without a sale, or a sale of another card",
        "select c.id from cards c left join payments p on p.user_id = c.id and p.kind in ('sale', 'reissue')
         where (c.sold = 1 or c.retired_at is not null) <> (p.id is not null)",
    ),
    (
        "a payment of another owner than its card, or without a card",
        "select p.id from payments p left join cards c on c.id = p.user_id left join cardgroups g on g.id = c.cardgroup_id
         where (p.owner_id = g.owner_id and c.owner_id = g.owner_id) is not true",
    ),
    (
        "an amount that is not the face value and its tax",
        "select p.id from payments p join cards c on c.id = p.user_id join cardgroups g on g.id = c.cardgroup_id
             join taxes t on t.id = g.tax_id
         where p.currency <> g.tell_balance_in_currency or round(p.amount * t.tax1_value / 100, 15) <> p.tax",
    ),
    (
        "a card without a PIN of the group's length, or with another number",
        "select c.id from cards c join cardgroups g on g.id = c.cardgroup_id
         where length(c.pin) is distinct from g.pin_length or length(c.number) <> g.number_length",
    ),
    (
        "a row of the future, or payments and changes that are not in the order of their ids",
        "select id from payments where date_added > now() at time zone 'utc'
         union all select id from actions where date > now() at time zone 'utc'
         union all select id from change_log where at > now() at time zone 'utc'
         union all select id from cards where first_use > now() at time zone 'utc'
         union all select id from (
             select id, date_added < lag(date_added) over (order by id) as is_early from payments
             union all select id, at < lag(at) over (order by id) from change_log) ordered
         where is_early",
    ),
    (
        "an e-mail without its order, or of a card that was not sold",
        "select o.id from email_outbox o left join payments p on p.user_id = o.card_ids[1] and p.kind = 'sale'
             left join cclineitems i on i.card_id = o.card_ids[1] left join ccorders c on c.id = i.ccorder_id
         where (p.date_added = o.created_at and c.email = o.address and p.amount = o.balances[1]) is not true",
    ),
];

#[tokio::test]
async fn its_rows_are_correct() {
    let (server, _) = demo().await;
    for (fault, query) in FAULTS.into_iter().chain(ledger::VIOLATION_QUERIES) {
        let rows = server.rows(query).await;
        assert!(rows.is_empty(), "{fault}: {} rows: {:?}", rows.len(), rows.first());
    }
    // No sequence gives an id that a row has.
    for table in ["users", "tariffs", "lcrs", "taxes", "acc_groups", "cardgroups", "cards", "payments", "actions"] {
        let next = format!("select nextval('{table}_id_seq') > max(id) from {table}");
        assert_eq!(server.rows(&next).await, ["true"], "{table}");
    }
}

/// What a newcomer finds, within six weeks until now.
#[tokio::test]
async fn it_shows_what_mortise_does() {
    let (server, url) = demo().await;
    for (query, expected) in [
        ("select count(*) from (select date_added::date from payments where kind = 'sale' group by 1) days", 42..=43),
        ("select count(*) from payments where kind = 'sale' and caller_id = 5", 1200..=1800),
        ("select count(*) from payments where kind = 'sale' and caller_id = 6", 800..=1300),
        ("select count(*) from payments where kind = 'sale' and owner_id = 7", 500..=700),
        ("select count(*) from payments where date_added > now() at time zone 'utc' - interval '1 hour'", 1..=9),
        ("select count(*) from payments where kind = 'refund'", 10..=25),
        ("select count(*) from payments where kind = 'top_up'", 30..=60),
        ("select count(*) from payments where kind = 'reissue'", 1..=1),
        ("select count(*) from cards where first_use is not null", 1500..=2500),
        ("select count(*) from cards where withheld = 'blocked' and batch_number = 'B-stolen'", 120..=120),
        ("select count(*) from cards where withheld = 'assigned' and user_id = 8", 100..=100),
        ("select count(*) from email_outbox where sent_at is null and last_error like 'RCPT TO: 450 %'", 1..=1),
        ("select count(*) from email_outbox where failed_at is not null and last_error like '% 550 %'", 1..=1),
        ("select count(*) from change_log where before ? 'price' and what = 'card_group'", 2..=2),
        ("select count(*) from actions where data = 'API : Incorrect hash'", 24..=24),
        ("select count(*) from cardgroups where hidden = 1", 1..=1),
    ] {
        let count: i64 = server.rows(query).await[0].parse().unwrap();
        assert!(expected.contains(&count), "{query}: {count}, expected {expected:?}");
    }
    let stock = run_json(&url, &["report", "stock", "--within", "7"]);
    assert!(
        stock.to_string().contains("Five dollar cards") && stock.to_string().contains(r#""days_left":2"#),
        "{stock}"
    );
    // The tests' PostgreSQL runs without fsync; other tests use it, and the disk of this machine.
    let others = ["durability", "snapshots", "idle", "disk"];
    let doctor = run_json(&url, &["doctor"]);
    let findings: Vec<&str> = doctor["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["state"] != "ok")
        .map(|check| check["name"].as_str().unwrap())
        .filter(|name| !others.contains(name))
        .collect();
    assert_eq!(findings, ["passwords", "backup", "mail", "demo key", "key length"], "{doctor}");
    let audit = run_json(&url, &["audit", "--action", "price"]).to_string();
    assert!(audit.contains("Europe cards") && audit.contains("Nordic travel"), "{audit}");
}

/// The published examples sell from group 6 and create the tariff 9 and the cards from 2000000001 on.
#[tokio::test]
async fn it_leaves_the_published_examples_alone() {
    let (server, _) = demo().await;
    for (query, expected) in [
        ("select count(*) from card_stock where cardgroup_id = 6", "10000"),
        ("select min(number) from card_stock where cardgroup_id = 6", "1111111000"),
        ("select count(*) from payments p join cards c on c.id = p.user_id where c.cardgroup_id < 7", "0"),
        ("select count(*) from cards where number between '1111121000' and '2999999999'", "0"),
        ("select count(*) from cards where callerid = '123'", "0"),
        ("select nextval('tariffs_id_seq')", "9"),
    ] {
        server.assert_rows(query, &[expected]).await;
    }
}

/// Starts the program on the database, with a console; returns its address too.
fn start_with_console(url: &str, arguments: &[&str]) -> (ServerProcess, String) {
    let mut serve = command(&[&["serve", "--listen", "127.0.0.1:0"], arguments].concat());
    serve.env("DATABASE_URL", url).env("MORTISE_CONSOLE_LISTEN", "127.0.0.1:0");
    serve.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let program = process::start(serve);
    let address = program.startup_output.split("console at http://").nth(1).unwrap().split('/').next().unwrap();
    let origin = format!("http://{address}");
    (program, origin)
}

/// Sends a request of a browser; returns status, `Set-Cookie` and text.
async fn request(origin: &str, path: &str, cookie: &str, form: Option<&str>) -> (u16, String, String) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let method = if form.is_some() { Method::POST } else { Method::GET };
    let request = Request::builder()
        .method(method)
        .uri(format!("{origin}{path}"))
        .header("origin", origin)
        .header("cookie", cookie)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::from(form.unwrap_or_default().to_owned()));
    let response = with_timeout("a page", client.request(request.unwrap())).await.unwrap();
    let cookie = response.headers().get("set-cookie").map(|cookie| cookie.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    let text = with_timeout("the text", response.into_body().collect()).await.unwrap().to_bytes();
    (status, cookie.unwrap_or_default(), String::from_utf8(text.into()).unwrap())
}

/// The printed link opens the console once. Another server refuses the account of the demo: its password is public.
#[tokio::test]
async fn its_account_opens_the_console_of_the_demo_only() {
    let url = url(&postgres::create_database("").await).await;
    let (mut program, origin) = start_with_console(&url, &["--demo"]);
    let mut lines = BufReader::new(program.child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with("First start. User: username"));
    let line = lines.next().unwrap();
    let prefix = format!("The console of the demo (the link is valid for 10 minutes and one login): {origin}");
    let path = line.strip_prefix(&prefix).unwrap_or_else(|| panic!("{line}"));
    let form = path.strip_prefix("/demo?").unwrap();
    // A program that follows links does not spend it.
    for _ in 0..2 {
        let (status, cookie, text) = request(&origin, path, "", None).await;
        assert!(status == 200 && cookie.is_empty() && text.contains("Open the console"), "{text}");
    }
    let (status, cookie, _) = request(&origin, "/demo", "", Some(form)).await;
    assert_eq!(status, 303);
    let cookie = cookie.split(';').next().unwrap().to_owned();
    assert_eq!(request(&origin, "/account", &cookie, None).await.0, 200);
    let (_, again, text) = request(&origin, "/demo", "", Some(form)).await;
    assert!(again.is_empty() && text.contains("This link was used already"), "{text}");
    let login = "name=demo&password=mortise-demo&code=";
    assert_eq!(request(&origin, "/login", "", Some(login)).await.0, 303);
    program.kill();

    let (program, origin) = start_with_console(&url, &[]);
    let (status, _, text) = request(&origin, "/login", "", Some(login)).await;
    assert!(status == 401 && text.contains("Name, password or code is wrong"), "{text}");
    assert_eq!(request(&origin, "/account", &cookie, None).await.0, 303);
    program.kill();
}
