//! Pages of the console on a database with millions of cards and sales, beside sales.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::{MissedTickBehavior, interval};

use crate::BenchSize;
use crate::fixtures::{BenchEnvironment, ServerProcess};
use crate::load::{self, LoadResult, StopCondition};
use crate::measures::{CLIENT_COUNT, sale_request};
use crate::report::{Goal, Measurement, Report};

/// The first of ten groups, with consecutive ids. The last five are the reseller's.
const FIRST_GROUP_ID: u32 = 401;
const RESELLER_ID: u32 = 401;
/// The cards of a batch.
const BATCH_CARDS: u32 = 10_000;
/// The secrets of the two sessions.
const ADMIN_SESSION: &str = "admin";
const RESELLER_SESSION: &str = "reseller";
/// How often each page is requested.
const REQUESTS: usize = 30;
/// The rounds of sales without and beside accounts of the console, and their duration.
const ROUNDS: usize = 20;
const ROUND_DURATION: Duration = Duration::from_secs(3);
/// The time between two pages, of all accounts together: ten accounts that open a page every ten seconds.
const PAGE_INTERVAL: Duration = Duration::from_secs(1);

/// Requests each page beside sales. Then sells without and beside accounts that request a page each
/// second, and then a report.
pub async fn measure(environment: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    eprintln!("creating {} cards for the console", size.console_cards);
    insert_fixtures(environment, size.console_cards / 10).await;
    let server = environment.start_server(&[("console_listen", "127.0.0.1:0")]);
    let pages = find_pages(environment, size.console_cards / 10).await;
    measure_pages(environment, size, &server, &pages, report).await;
    let (reports, daily): (Vec<_>, Vec<_>) = pages.into_iter().partition(|page| page.name.contains("of a year"));
    for (name, pages) in [("console page", daily), ("report of a year", reports)] {
        measure_sales_beside_pages(environment, size, &server, (name, &pages), report).await;
    }
}

/// A page of the console, with the request for it.
struct Page {
    name: &'static str,
    request: Vec<u8>,
    /// The start of the reply.
    expected: &'static str,
}

impl Page {
    fn get(name: &'static str, session: &str, path: &str) -> Self {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nCookie: mortise={session}\r\n\r\n");
        Self { name, request: request.into_bytes(), expected: "HTTP/1.1 200 OK" }
    }

    /// A search that finds one card: the reply leads to its page.
    fn search(name: &'static str, session: &str, text: &str) -> Self {
        let token = hex::encode(Sha256::digest(format!("form {session}")));
        let form = format!("token={token}&once={}&q={text}", "0".repeat(32));
        let request = format!(
            "POST /search HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nCookie: mortise={session}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        );
        Self { name, request: request.into_bytes(), expected: "HTTP/1.1 303 See Other" }
    }

    async fn load(&self, server: &ServerProcess, requests: usize) -> LoadResult {
        let (bytes, until) = (self.request.clone(), StopCondition::Requests(requests));
        load::run(&[server.console_address.unwrap()], 1, until, self.expected, move |_| bytes.clone()).await
    }
}

/// The pages, for groups of this number of cards.
async fn find_pages(environment: &BenchEnvironment, cards: u32) -> Vec<Page> {
    let number = format!("{FIRST_GROUP_ID}{:09}", cards / 2);
    let (card, pin, first_day): (i64, String, String) =
        sqlx::query_as("select id, pin, (now() - interval '1 year')::date::text from cards where number = $1")
            .bind(&number)
            .fetch_one(&environment.pool)
            .await
            .unwrap();
    vec![
        Page::get("dashboard", ADMIN_SESSION, "/dashboard"),
        Page::get("dashboard of a reseller", RESELLER_SESSION, "/dashboard"),
        Page::search("search for a number", ADMIN_SESSION, &number),
        Page::search("search for a PIN", ADMIN_SESSION, &pin),
        Page::search("search for an e-mail address", ADMIN_SESSION, &format!("BUYER{number}%40example.com")),
        Page::search("search for a caller id", ADMIN_SESSION, &format!("37{number}")),
        Page::search("search for a reference", ADMIN_SESSION, &format!("W-{number}")),
        Page::search("search for a serial number", ADMIN_SESSION, &format!("S-{number}")),
        Page::get("card", ADMIN_SESSION, &format!("/cards/{card}")),
        Page::get("card groups", ADMIN_SESSION, "/groups"),
        Page::get("card group", ADMIN_SESSION, &format!("/groups/{FIRST_GROUP_ID}")),
        Page::get("batches", ADMIN_SESSION, "/batches"),
        Page::get("batches of a reseller", RESELLER_SESSION, "/batches"),
        Page::get("batch", ADMIN_SESSION, &format!("/batches/batch?group={FIRST_GROUP_ID}&number=B00000")),
        Page::get("sales", ADMIN_SESSION, "/sales"),
        Page::get(
            "sales of a year of one group",
            ADMIN_SESSION,
            &format!("/sales?group={FIRST_GROUP_ID}&from={first_day}"),
        ),
        Page::get("sales of a year of one user", ADMIN_SESSION, &format!("/sales?user=console+shop&from={first_day}")),
        Page::get("sales of a reseller", RESELLER_SESSION, "/sales"),
        Page::get("taxes of last month", ADMIN_SESSION, "/sales/tax?days=last_month"),
        Page::get("statement of last month", RESELLER_SESSION, "/sales/statement?days=last_month"),
        Page::get("e-mails", ADMIN_SESSION, "/mail"),
        Page::get("API users", ADMIN_SESSION, "/users"),
        Page::get("change log", ADMIN_SESSION, "/changes"),
    ]
}

/// Adds ten groups of cards: nine of ten cards are sold, over two years, every tenth of them with an order. Each sale
/// has its payment and audit row. Adds the two accounts, with a session each.
async fn insert_fixtures(environment: &BenchEnvironment, cards: u32) {
    environment
        .execute(&format!(
            "insert into users (id, username, usertype, tax_id, owner_id)
             values ({RESELLER_ID}, 'console reseller', 'reseller', 1, 0), ({RESELLER_ID} + 1, 'console shop', 'user', 1, 0);
             insert into cardgroups (id, name, price, tax_id, tell_balance_in_currency, number_length, pin_length, owner_id)
             select id, 'console ' || id, 8.4, 1, 'USD', 12, 14,
                 case when id < {FIRST_GROUP_ID} + 5 then 0 else {RESELLER_ID} end
             from generate_series({FIRST_GROUP_ID}, {FIRST_GROUP_ID} + 9) id"
        ))
        .await;
    for group in FIRST_GROUP_ID..FIRST_GROUP_ID + 10 {
        environment
            .execute(&format!(
                "insert into cards (cardgroup_id, number, pin, balance, sold, active, owner_id, batch_number, serial, callerid,
                     first_use, call_count)
                 select g.id, number, lpad((number::numeric * 982451653 % 100000000000000)::text, 14, '0'),
                     8.4, sold, sold, g.owner_id, 'B' || lpad((i / {BATCH_CARDS})::text, 5, '0'), 'S-' || number,
                     case when i % 10 = 0 then '37' || number end,
                     case when sold = 1 then now() - interval '2 years' * (1 - i::double precision / {cards}) end, sold
                 from cardgroups g, generate_series(1, {cards}) i,
                     lateral (
                         select g.id || lpad(i::text, 9, '0') as number, case when i <= {cards} * 0.9 then 1 else 0 end as sold
                     ) card
                 where g.id = {group}"
            ))
            .await;
    }
    environment
        .execute(&format!(
            "insert into payments (paymenttype, kind, amount, currency, tax, user_id, owner_id, card, completed, date_added,
                 shipped_at, description, caller_id, balance_change, reference)
             select 'Card', 'sale', 8.4, 'USD', 1.6, id, owner_id, 1, 1, first_use, first_use, '',
                 case when owner_id = 0 and id % 100 = 0 then {RESELLER_ID} + 1 else owner_id end, 0,
                 case when id % 10 = 0 then 'W-' || number end
             from cards where cardgroup_id between {FIRST_GROUP_ID} and {FIRST_GROUP_ID} + 9 and sold = 1
             order by first_use;
             insert into actions (user_id, date, action, target_type, target_id, data, data2, data3)
             select caller_id, date_added, 'card_payment_created', 'Payment', id, user_id::text, '8.4', 'USD'
             from payments where date_added < now() and balance_change = 0;
             insert into ccorders (id, amount, currency, ordertype, email, date_added, completed)
             select -id, 10, 'USD', 'unspecified', 'buyer' || number || '@example.com', first_use, 1
             from cards where callerid like '37%' and sold = 1;
             insert into cclineitems (cardgroup_id, quantity, ccorder_id, card_id, price)
             select cardgroup_id, 1, -id, id, 8.4 from cards where callerid like '37%' and sold = 1;
             insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, created_at, sent_at)
             select owner_id, 0, 'buyer' || number || '@example.com', id || '@example.com', array[id], array[balance], 'USD',
                 first_use, first_use
             from cards where callerid like '37%' and sold = 1 order by first_use;
             insert into change_log (at, who, operator, what, target_id, target_name, before, after)
             select first_use, 'command', 'ann', 'card', id, number, '{{\"callerid\": null}}',
                 jsonb_build_object('callerid', callerid)
             from cards where callerid like '37%' and sold = 1 order by first_use;
             insert into console_accounts (name, role, user_id, password_argon2, totp_secret)
             values ('{ADMIN_SESSION}', 'admin', null, '', sha256('')), ('{RESELLER_SESSION}', 'reseller', {RESELLER_ID}, '', null);
             insert into console_sessions (secret_sha256, account_id, client, browser)
             select sha256(name::bytea), id, '127.0.0.1', '' from console_accounts"
        ))
        .await;
    environment.execute("vacuum analyze").await;
}

/// Requests each page beside sales. The time is that of the whole reply.
async fn measure_pages(
    environment: &BenchEnvironment,
    size: BenchSize,
    server: &ServerProcess,
    pages: &[Page],
    report: &mut Report,
) {
    for page in pages {
        environment.restock(size).await;
        let sales = load::spawn_until_aborted(&[server.address], CLIENT_COUNT, "<pin>", sale_request);
        let load = page.load(server, REQUESTS).await;
        drop(sales);
        let slowest = load.latencies.last().copied().unwrap_or_default().as_secs_f64() * 1000.0;
        report.add(
            Measurement::new(format!("page beside sales: {}, slowest", page.name), slowest, "ms")
                .with_latency(load.percentile(0.5), load.percentile(0.99))
                .with_goal(Goal::AtMost(200.0)),
        );
    }
}

async fn measure_sales_beside_pages(
    environment: &BenchEnvironment,
    size: BenchSize,
    server: &ServerProcess,
    (name, pages): (&str, &[Page]),
    report: &mut Report,
) {
    let sell = async || {
        environment.restock(size).await;
        let end = StopCondition::Time(ROUND_DURATION);
        load::run(&[server.address], CLIENT_COUNT, end, "<pin>", sale_request).await
    };
    let mut loads: [LoadResult; 2] = Default::default();
    for round in 0..ROUNDS {
        // The order alternates, so that a drift of the machine affects both equally.
        for has_pages in [round % 2 == 0, round % 2 != 0] {
            let accounts = async || {
                let mut ticks = interval(PAGE_INTERVAL);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                for page in pages.iter().cycle().skip(round * 3) {
                    ticks.tick().await;
                    page.load(server, 1).await;
                }
            };
            let load = if has_pages {
                tokio::select! {
                    load = sell() => load,
                    () = accounts() => continue,
                }
            } else {
                sell().await
            };
            loads[usize::from(has_pages)].add(load);
        }
    }
    let [alone, beside] = loads;
    report.add(
        Measurement::new(format!("sales beside a {name} each second"), beside.requests_per_second(), "sales/s")
            .with_latency(beside.percentile(0.5), beside.percentile(0.99))
            .with_baseline("sales without them", alone.requests_per_second())
            .with_goal(Goal::RatioAtLeast(0.97)),
    );
}
