//! `mortise report`.

use std::collections::BTreeMap;
use std::str::FromStr;

use bigdecimal::BigDecimal;
use serde_json::{Value, json};

use super::{CommandOutput, Files, Operator};

/// Payments of two shops (users 2 and 6) and of a command, in two groups, with refunds, and payments that count as no
/// sale. The ids of the cards: 1 to 3 are in group 6, 7 in group 7, 12 and 13 in the reseller's group 12.
const PAYMENTS: &str = "
    insert into payments (id, kind, paymenttype, date_added, amount, tax, currency, user_id, owner_id, card, caller_id, reverses,
        balance_change, reference) values
        (1, 'sale', 'Card', '2026-10-31 21:30:00', 10.000000000000001, 1.9, 'USD', 1, 0, 1, 2, null, null, 'A1'),
        (2, 'sale', 'Card', '2026-10-31 22:30:00', 10, 1.9, 'USD', 2, 0, 1, 2, null, null, 'A2'),
        (3, 'sale', 'Card', '2026-11-01 12:00:00', 8.403361344537815, 1.596638655462185, 'USD', 3, 0, 1, 6, null, null, 'A3'),
        (4, 'top_up', 'Card', '2026-11-01 13:00:00', 5, 0.75, 'EUR', 7, 0, 1, null, null, 5, null),
        (5, 'refund', 'Card', '2026-11-02 00:00:00', -10, -1.9, 'USD', 2, 0, 1, null, 2, -10, null),
        (6, 'sale', 'Card', '2026-11-02 10:00:00', 4, 1, 'EUR', 12, 3, 1, 3, null, null, 'R1'),
        (7, 'refill', 'card_refill', '2026-11-02 11:00:00', 20, 0, 'EUR', 3, 0, 0, 2, null, 26.878107781212203, null),
        (8, 'transfer', 'card_refill', '2026-11-02 12:00:00', 7.441, 0, 'EUR', 3, 0, 0, 2, null, null, null),
        (9, 'reissue', 'Card', '2026-11-02 12:00:00', 0, 0, 'USD', 6, 0, 1, null, null, -1, null),
        (10, 'write_off', 'Card', '2026-11-02 12:00:00', 0, 0, 'USD', 4, 0, 1, null, null, -1, null),
        (11, null, 'Card', '2026-11-02 12:00:00', 999, 1, 'USD', 4, 0, 1, null, null, null, null),
        (12, 'refill', 'card_refill', '2026-12-03 11:00:00', 1, 0, 'EUR', 3, 0, 0, 2, null, 1.5, null);
    update users set balance = 100 where id = 3;
    select setval('payments_id_seq', 100)";

async fn operator() -> Operator {
    let operator = Operator::new().await;
    operator.server.execute(PAYMENTS).await;
    operator
}

/// The rows of a report as text: the values of these fields, separated by spaces. A missing field is `-`.
fn lines(rows: &Value, fields: &[&str]) -> Vec<String> {
    let cell = |row: &Value, field: &str| match &row[field] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    let line = |row: &Value| fields.iter().map(|field| cell(row, field)).collect::<Vec<_>>().join(" ");
    rows.as_array().unwrap().iter().map(line).collect()
}

const AMOUNTS: [&str; 9] =
    ["currency", "count", "amount", "tax", "refunds", "refunded", "refunded_tax", "net", "net_tax"];

#[tokio::test]
async fn sales_are_summed_by_group_and_by_shop() {
    let operator = operator().await;
    let november = ["report", "sales", "--month", "2026-11"];
    let report = operator.run_json(&[&november[..], &["--by", "group"]].concat());
    assert_eq!(
        (&report["from"], &report["to"], &report["time_zone"]),
        (&json!("2026-11-01"), &json!("2026-11-30"), &json!("UTC"))
    );
    assert_eq!(
        lines(&report["rows"], &[&["group_id", "group"], &AMOUNTS[..]].concat()),
        [
            "6 ten dollars USD 1 8.403361344537815 1.596638655462185 1 -10.0 -1.9 -1.596638655462185 -0.303361344537815",
            "7 euro group EUR 1 5.0 0.75 0 0.0 0.0 5.0 0.75",
            "12 the reseller's EUR 1 4.0 1.0 0 0.0 0.0 4.0 1.0",
            "- - EUR 1 20.0 0.0 0 0.0 0.0 20.0 0.0",
        ]
    );
    let totals = [
        "EUR 3 29.0 1.75 0 0.0 0.0 29.0 1.75",
        "USD 1 8.403361344537815 1.596638655462185 1 -10.0 -1.9 -1.596638655462185 -0.303361344537815",
    ];
    assert_eq!(lines(&report["totals"], &AMOUNTS), totals);
    // The refund by a command belongs to the shop that sold the card.
    let report = operator.run_json(&[&november[..], &["--by", "user,currency"]].concat());
    assert_eq!(
        lines(&report["rows"], &["user", "currency", "count", "refunds", "net"]),
        [
            "user EUR 1 0 20.0",
            "user USD 0 1 -10.0",
            "reseller EUR 1 0 4.0",
            "accountant USD 1 0 8.403361344537815",
            "- EUR 1 0 5.0"
        ]
    );
    assert_eq!(lines(&report["totals"], &AMOUNTS), totals);
    assert_eq!(
        operator.run_ok(&["report", "sales", "--from", "2026-10-31", "--to", "2026-11-01", "--by", "day"]),
        "2026-10-31 to 2026-11-01 (UTC)\n\
         DAY         CURRENCY  COUNT  AMOUNT              TAX                REFUNDS  REFUNDED  REFUNDED TAX  \
         NET                 NET TAX\n\
         2026-10-31  USD       2      20.000000000000001  3.8                0        0.0       0.0           \
         20.000000000000001  3.8\n\
         2026-11-01  EUR       1      5.0                 0.75               0        0.0       0.0           \
         5.0                 0.75\n\
         2026-11-01  USD       1      8.403361344537815   1.596638655462185  0        0.0       0.0           \
         8.403361344537815   1.596638655462185\n\
         total       EUR       1      5.0                 0.75               0        0.0       0.0           \
         5.0                 0.75\n\
         total       USD       3      28.403361344537816  5.396638655462185  0        0.0       0.0           \
         28.403361344537816  5.396638655462185\n"
    );
    // Without --by: one row for each currency.
    let report = operator.run_json(&november);
    assert_eq!(lines(&report["rows"], &AMOUNTS), totals);
}

#[tokio::test]
async fn days_are_those_of_the_time_zone() {
    let operator = operator().await;
    let by_day = |time_zone: &str, from: &str, to: &str| {
        let report = operator.run_json(&[
            "report",
            "sales",
            "--from",
            from,
            "--to",
            to,
            "--by",
            "day",
            "--time-zone",
            time_zone,
        ]);
        lines(&report["rows"], &["day", "currency", "count", "refunds"])
    };
    assert_eq!(by_day("UTC", "2026-10-31", "2026-10-31"), ["2026-10-31 USD 2 0"]);
    // 22:30 UTC is 00:30 of the next day, 21:30 is 23:30.
    assert_eq!(by_day("europe/vilnius", "2026-10-31", "2026-10-31"), ["2026-10-31 USD 1 0"]);
    assert_eq!(by_day("Europe/Vilnius", "2026-11-01", "2026-11-01"), ["2026-11-01 EUR 1 0", "2026-11-01 USD 2 0"]);
    assert_eq!(by_day("America/New_York", "2026-11-01", "2026-11-01"), ["2026-11-01 EUR 1 0", "2026-11-01 USD 1 1"]);
    // On the day after the change to summer time, a day has 23 hours.
    operator
        .server
        .execute(
            "insert into payments (kind, date_added, amount, currency) values
                ('sale', '2026-03-28 22:00:00', 1, 'A'), ('sale', '2026-03-29 20:59:59.999999', 1, 'A'),
                ('sale', '2026-03-29 21:00:00', 1, 'A')",
        )
        .await;
    assert_eq!(by_day("Europe/Vilnius", "2026-03-29", "2026-03-29"), ["2026-03-29 A 2 0"]);
    // Relative days.
    operator
        .server
        .execute(
            "update payments set date_added = now() at time zone 'utc' where id = 1;
             update payments set date_added = (now() - interval '1 day') at time zone 'utc' where id = 2",
        )
        .await;
    assert_eq!(operator.run_json(&["report", "sales", "--from", "yesterday"])["totals"][0]["count"], 2);
    let yesterday = operator.run_json(&["report", "sales", "--from", "yesterday", "--to", "yesterday"]);
    assert_eq!(yesterday["totals"][0]["amount"], "10.0");
    let this_month = operator.run_json(&["report", "tax"]);
    assert_eq!(
        operator.server.rows("select (now() at time zone 'utc')::date").await,
        [this_month["to"].as_str().unwrap()]
    );
    for (arguments, code, message) in [
        (&["--time-zone", "+02"][..], 1, "\"+02\" is no time zone: use an IANA name such as Europe/Vilnius"),
        (&["--from", "2026-11-31"], 2, "a day is today, yesterday or a date such as 2026-11-30"),
        (
            &["--from", "2026-11-02", "--to", "2026-11-01"],
            1,
            "the first day (2026-11-02) is after the last day (2026-11-01)",
        ),
        (&["--to", "2026-11-01"], 2, "--from"),
        (&["--month", "2026-13"], 2, "a month has the form 2026-11"),
        (&["--month", "2026-11", "--from", "today"], 2, "cannot be used with"),
        (&["--by", "hour"], 2, "invalid value 'hour'"),
    ] {
        operator.assert_error(&[&["report", "sales"], arguments].concat(), code, message);
    }
}

/// The rows of any ledger sum to the ledger, to the last digit, whatever they are for.
#[tokio::test]
async fn sums_of_random_ledgers_equal_the_ledger() {
    let operator = Operator::new().await;
    for seed in 0..8 {
        operator.server.execute(&random_payments(seed)).await;
        let zone = ["UTC", "Asia/Kathmandu", "America/St_Johns"][usize::try_from(seed % 3).unwrap()];
        let local = format!(
            "(date_added at time zone 'utc' at time zone '{zone}')::date between '2026-10-20' and '2026-11-05'"
        );
        let ledger = operator
            .server
            .rows(&format!(
                "select currency, count(*) filter (where kind <> 'refund'), count(*) filter (where kind = 'refund'),
                     trim_scale(sum(amount)), trim_scale(sum(tax)) from payments
                 where kind in ('sale', 'top_up', 'refill', 'refund') and {local} group by currency order by currency"
            ))
            .await;
        assert!(ledger.len() > 1, "{ledger:?}");
        let period = ["--from", "2026-10-20", "--to", "2026-11-05", "--time-zone", zone];
        for by in ["currency", "day", "group", "user", "day,group,user,currency"] {
            let report = operator.run_json(&[&["report", "sales", "--by", by], &period[..]].concat());
            for rows in ["rows", "totals"] {
                assert_eq!(
                    sums(&report[rows], &["count", "refunds", "net", "net_tax"]),
                    ledger,
                    "seed {seed}: {rows} by {by}"
                );
            }
            let gross_and_refunds = |row: &Value| {
                let number = |field: &str| BigDecimal::from_str(row[field].as_str().unwrap()).unwrap();
                number("amount") + number("refunded") == number("net")
                    && number("tax") + number("refunded_tax") == number("net_tax")
            };
            assert!(report["rows"].as_array().unwrap().iter().all(gross_and_refunds), "{report}");
        }
        // Reports of taxes leave out payments without amount and tax, so the counts differ.
        let taxes = operator.run_json(&[&["report", "tax"], &period[..]].concat());
        let without_counts = |rows: &[String]| -> Vec<String> {
            rows.iter()
                .map(|row| {
                    row.split('|')
                        .enumerate()
                        .filter(|(index, _)| ![1, 2].contains(index))
                        .map(|(_, cell)| cell)
                        .collect::<Vec<_>>()
                        .join("|")
                })
                .collect()
        };
        assert_eq!(sums(&taxes["rows"], &["amount", "tax"]), without_counts(&ledger), "seed {seed}");
    }
}

/// Sums the fields of the rows by currency, in the format of [`Server::rows`](crate::harness::Server::rows).
fn sums(rows: &Value, fields: &[&str]) -> Vec<String> {
    let mut sums: BTreeMap<&str, Vec<BigDecimal>> = BTreeMap::new();
    for row in rows.as_array().unwrap() {
        let sums =
            sums.entry(row["currency"].as_str().unwrap()).or_insert_with(|| vec![BigDecimal::from(0); fields.len()]);
        for (sum, field) in sums.iter_mut().zip(fields) {
            let text = row[field].as_str().map_or_else(|| row[field].to_string(), str::to_owned);
            *sum += BigDecimal::from_str(&text).unwrap();
        }
    }
    let plain = |sum: &BigDecimal| sum.normalized().to_plain_string();
    sums.into_iter()
        .map(|(currency, sums)| [vec![currency.to_owned()], sums.iter().map(plain).collect()].concat().join("|"))
        .collect()
}

/// Payments of all kinds at the edges of days, with amounts of up to 15 decimals.
fn random_payments(seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut statements = "truncate payments;".to_owned();
    for id in 1..=300 {
        let kind = *random.choice(&["'sale'", "'top_up'", "'refill'", "'transfer'", "'write_off'", "null"]).unwrap();
        let (digits, decimals) = (random.u32(1..=14), random.u32(0..=15));
        let amount = format!("{}e-{decimals}", random.i64(0..10_i64.pow(digits)));
        let tax = format!("{}e-15", random.i64(0..10_i64.pow(digits)));
        let (minutes, seconds) = (random.i32(0..30_000), random.i32(0..60));
        let date = format!("timestamp '2026-10-18' + interval '{minutes} minutes {seconds} seconds'");
        let currency = *random.choice(&["USD", "EUR", "JPY"]).unwrap();
        let (card, user_id) = if kind == "'refill'" { (0, 2) } else { (1, random.i64(1..20)) };
        let caller = *random.choice(&["null", "0", "2", "3", "77"]).unwrap();
        let is_refund = id > 1 && random.u32(0..4) == 0;
        let reverses = if is_refund { random.i32(1..id).to_string() } else { "null".to_owned() };
        let (kind, sign) = if is_refund { ("'refund'", "-") } else { (kind, "") };
        // A card is sold once.
        let user_id = if kind == "'sale'" { 1000 + i64::from(id) } else { user_id };
        statements += &format!(
            "insert into payments (id, kind, date_added, amount, tax, currency, user_id, card, caller_id, reverses)
             values ({id}, {kind}, {date}, {sign}{amount}, {sign}{tax}, '{currency}', {user_id}, {card}, {caller}, {reverses});"
        );
    }
    statements
}

#[tokio::test]
async fn taxes_are_summed_by_effective_rate() {
    let operator = operator().await;
    assert_eq!(
        operator.run_ok(&["report", "tax", "--month", "2026-11"]),
        "2026-11-01 to 2026-11-30 (UTC)\n\
         CURRENCY  RATE    PAYMENTS  AMOUNT              TAX\n\
         EUR       0.0 %   1         20.0                0.0\n\
         EUR       15.0 %  1         5.0                 0.75\n\
         EUR       25.0 %  1         4.0                 1.0\n\
         USD       19.0 %  2         -1.596638655462185  -0.303361344537815\n"
    );
    operator.server.execute("insert into payments (kind, date_added, amount, tax) values ('sale', '2025-01-01', 0, 1), ('sale', '2025-01-01', 3, 1)").await;
    let report = operator.run_json(&["report", "tax", "--month", "2025-01"]);
    assert_eq!(
        lines(&report["rows"], &["currency", "rate", "amount", "tax"]),
        ["USD 33.3333 3.0 1.0", "USD - 0.0 1.0"]
    );
}

#[tokio::test]
async fn statement_has_payments_and_balances_at_both_ends() {
    let operator = operator().await;
    assert_eq!(
        operator.run_ok(&["report", "statement", "Reseller", "--month", "2026-11"]),
        "reseller, 2026-11-01 to 2026-11-30 (UTC)\n\
         PAYMENTS  CURRENCY  COUNT  AMOUNT  TAX\n\
         sales     EUR       1      4.0     1.0\n\
         \n\
         Own balance (USD): 61.621892218787797 at the start, 36.878107781212203 added by payments, 98.5 at the end\n"
    );
    let report = operator.run_json(&["report", "statement", "reseller", "--month", "2026-12"]);
    assert_eq!(report["balance"], json!({ "currency": "USD", "opening": "98.5", "added": "1.5", "closing": "100.0" }));
    let admin = operator.run_json(&["report", "statement", "admin", "--from", "2026-10-01", "--to", "2026-11-30"]);
    assert_eq!(
        lines(&admin["payments"], &["kind", "currency", "count", "amount", "tax"]),
        [
            "sale USD 3 28.403361344537816 5.396638655462185",
            "top_up EUR 1 5.0 0.75",
            "refill EUR 1 20.0 0.0",
            "refund USD 1 -10.0 -1.9"
        ]
    );
    operator.assert_error(&["report", "statement", "accountant"], 1, "has the type accountant and owns no card groups");
    operator.assert_error(&["report", "statement", "unknown"], 3, "there is no user \"unknown\"");
}

/// The rates of today do not change what a transfer added.
#[tokio::test]
async fn statement_counts_what_a_transfer_added() {
    let operator = operator().await;
    operator
        .server
        .execute("update payments set transferred = 12 where id = 8; update currencies set exchange_rate = 3 where name = 'EUR'")
        .await;
    let report = operator.run_json(&["report", "statement", "reseller", "--month", "2026-11"]);
    assert_eq!(
        report["balance"],
        json!({ "currency": "USD", "opening": "59.621892218787797", "added": "38.878107781212203", "closing": "98.5" })
    );
}

#[tokio::test]
async fn stock_lasts_as_long_as_at_the_last_pace() {
    let operator = Operator::new().await;
    operator
        .server
        .execute(
            "insert into payments (kind, date_added, user_id, card) values
                 ('sale', now() at time zone 'utc' - interval '27 days', 4, 1), ('sale', now() at time zone 'utc' - interval '29 days', 5, 1),
                 ('reissue', now() at time zone 'utc', 8, 1);
             insert into cards (cardgroup_id, number) select 12, (200000 + i)::text from generate_series(1, 30) i;
             insert into cards (id, cardgroup_id, number, sold) values (501, 12, '300001', 1), (502, 12, '300002', 1), (503, 12, '300003', 1);
             insert into payments (kind, date_added, user_id, card) select 'sale', now() at time zone 'utc', id, 1 from cards where id > 500 and sold = 1;
             update cardgroups set valid_till = '2021-05-01' where id in (7, 11);
             update cardgroups set valid_till = now() at time zone 'utc' + interval '9 days 1 hour' where id = 9;
             update cardgroups set valid_till = now() at time zone 'utc' + interval '100 days' where id = 6",
        )
        .await;
    let report = |arguments: &[&str]| {
        lines(
            &operator.run_json(&[&["report", "stock"], arguments].concat()),
            &["id", "free", "sold", "days_left", "validity"],
        )
    };
    assert_eq!(
        report(&[]),
        // 4 free cards and 1 sold in 28 days; 32 and 3. Group 8 is hidden. Group 11 has expired, but has no cards.
        [
            "6 4 1 112 expires_before_sold_out",
            "12 32 3 298 ok",
            "7 1 0 - expired",
            "9 2 0 - expires",
            "10 1 0 - ok",
            "11 0 0 - ok"
        ]
    );
    assert_eq!(report(&["--within", "7"]), ["7 1 0 - expired"]);
    assert_eq!(
        report(&["--within", "112"]),
        ["6 4 1 112 expires_before_sold_out", "7 1 0 - expired", "9 2 0 - expires"]
    );
    let text = operator.run_ok(&["report", "stock", "--within", "7"]);
    assert_eq!(
        text,
        "ID  GROUP       OWNER  FREE  SOLD IN 28 DAYS  DAYS LEFT  VALID TILL  NOTE\n\
         7   euro group  admin  1     0                           2021-05-01  expired, and still sells\n"
    );
}

fn reconcile(files: &Files, list: impl AsRef<[u8]>, options: &[&str]) -> CommandOutput {
    let path = files.write("list.csv", list);
    files.operator.run(&[&["report", "reconcile", &path], options].concat())
}

#[tokio::test]
async fn list_of_a_payment_provider_is_compared() {
    let lists = Files::new(PAYMENTS).await;
    // The payments with tax. A1 has 11.900000000000001: amounts are compared with the decimals of the list.
    let complete = "\u{feff}Reference,Date,Amount,Currency\r\nA1,x,11.90,USD\r\nA3,x,10,usd\r\nA2,x,11.9,USD\r\nA2,x,-11.90,USD\r\nR1,x,5.0,EUR\r\n";
    let equal = reconcile(&lists, complete, &[]);
    assert_eq!(
        (equal.code, equal.stdout.as_str()),
        (
            0,
            "2026-10-31 21:30:00 to 2026-11-02 10:00:00 (UTC), from the first to the last payment that the list names\n\
             matched: 4, missing here: 0, missing in the list: 0, different amounts: 0\n"
        ),
        "{equal:?}"
    );
    // A2 was refunded here, but not by the provider. A3 lies between A1 and R1, and is missing.
    let output = lists.path("differences.csv");
    let different = reconcile(
        &lists,
        "reference;amount;currency\nA1;11.90;USD\nA2;11.90;USD\n=X;3;EUR\nR1;5;USD\n",
        &["--output", output.to_str().unwrap()],
    );
    assert_eq!(
        (different.code, different.stdout.as_str()),
        (
            1,
            format!(
                "2026-10-31 21:30:00 to 2026-11-02 10:00:00 (UTC), from the first to the last payment that the list names\n\
                 RESULT               REFERENCE  CURRENCY  LISTED  PAID  LINE\n\
                 missing here         =X         EUR       3.0     -     4\n\
                 different amounts    A2         USD       11.9    0.0   3\n\
                 missing in the list  A3         USD       -       10.0\n\
                 missing in the list  R1         EUR       -       5.0\n\
                 missing here         R1         USD       5.0     -     5\n\
                 All differences were written to {}.\n\
                 matched: 1, missing here: 2, missing in the list: 2, different amounts: 1\n",
                output.display()
            )
            .as_str()
        ),
        "{different:?}"
    );
    assert_eq!(
        std::fs::read_to_string(output).unwrap(),
        "result,reference,currency,listed,paid,line\nmissing_here,'=X,EUR,3.0,,4\ndifferent,A2,USD,11.9,0.0,3\n\
         missing_in_list,A3,USD,,10.0,\nmissing_in_list,R1,EUR,,5.0,\nmissing_here,R1,USD,5.0,,5\n"
    );
    // The days limit what must be in the list, not what may be in it.
    let json = reconcile(&lists, "reference,amount,currency\nA1,11.90,USD\n", &["--from", "2026-11-02", "--json"]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    let today = lists.operator.server.rows("select (now() at time zone 'utc')::date").await;
    assert_eq!(
        (&json["from"], &json["to"], &json["time_zone"]),
        (&json!("2026-11-02"), &json!(today[0]), &json!("UTC"))
    );
    assert_eq!(json["summary"], json!({ "matched": 1, "missing_here": 0, "missing_in_list": 1, "different": 0 }));
    assert_eq!(json["differences"][0]["reference"], "R1");
    assert_eq!(reconcile(&lists, "reference,amount,currency\nA1,11.91,USD\n", &[]).code, 1);
}

/// The times are those of the payments that the list names, in the named time zone.
#[tokio::test]
async fn days_that_were_compared_are_printed() {
    let lists = Files::new(PAYMENTS).await;
    let list = "reference,amount,currency\nA3,10,USD\nR1,5,EUR\n";
    let first_line = |output: &CommandOutput| output.stdout.lines().next().unwrap_or_default().to_owned();
    let output = reconcile(&lists, list, &["--time-zone", "europe/vilnius"]);
    assert_eq!(
        first_line(&output),
        "2026-11-01 14:00:00 to 2026-11-02 12:00:00 (Europe/Vilnius), from the first to the last payment that the list names"
    );
    let output = reconcile(&lists, list, &["--month", "2026-11"]);
    assert_eq!(first_line(&output), "2026-11-01 to 2026-11-30 (UTC)");
    let json = reconcile(&lists, list, &["--json"]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&json["from"], &json["to"]), (&json!("2026-11-01 12:00:00"), &json!("2026-11-02 10:00:00")));
    let output = reconcile(&lists, "reference,amount,currency\nunknown,1,USD\n", &[]);
    assert_eq!((output.code, first_line(&output).as_str()), (1, "The list names no payment."));
    // Of an empty list nothing was compared; with days, it can be right.
    let output = reconcile(&lists, "reference,amount,currency\n", &[]);
    assert_eq!((output.code, first_line(&output).as_str()), (1, "The list names no payment."));
    assert_eq!(reconcile(&lists, "reference,amount,currency\n", &["--month", "2020-01"]).code, 0);
    let output = reconcile(&lists, list, &["--time-zone", "+02"]);
    assert!(output.code == 1 && output.stderr.contains("\"+02\" is no time zone"), "{output:?}");
}

/// A line without an end is not read into the memory.
#[tokio::test]
async fn line_that_is_too_long_is_refused() {
    let lists = Files::new(PAYMENTS).await;
    let refused = |list: String, line: u64| {
        let output = reconcile(&lists, list, &[]);
        let message = format!("line {line} of the list is longer than 64 KiB: is a quotation mark missing?");
        assert!(output.code == 1 && output.stderr.contains(&message), "{output:?}");
    };
    refused("x".repeat(70_000), 1);
    refused(format!("reference,amount,currency\nA1,11.90,USD\n{}", "x,".repeat(40_000)), 3);
    refused(format!("reference,amount,currency\nA1,11.90,USD\n\"A2,1,USD\n{}", "A3,10,USD\n".repeat(10_000)), 3);
    // Each line has the same limit.
    let long = format!("reference,amount,currency,note\nA1,11.90,USD,{0}\nA2,1,USD,{0}\n", "x".repeat(50_000));
    assert!(reconcile(&lists, long, &[]).stdout.contains("matched: 1"));
}

/// The endless file of the operating system: the command ends all the same, in little memory.
#[tokio::test]
async fn endless_list_is_refused() {
    Files::new(PAYMENTS).await.operator.assert_error(
        &["report", "reconcile", "/dev/zero"],
        1,
        "line 1 of the list is longer than 64 KiB",
    );
}

/// The list is sent to the database in parts.
#[tokio::test]
async fn each_line_of_a_long_list_is_compared() {
    let lists = Files::new(PAYMENTS).await;
    lists
        .operator
        .server
        .execute(
            "truncate payments;
             insert into payments (kind, date_added, amount, tax, currency, reference)
             select 'sale', '2026-11-05', i, 0, 'USD', 'reference of the payment ' || i from generate_series(1, 20000) i",
        )
        .await;
    let lines: String = (1..=20_000).map(|i| format!("reference of the payment {i},{i}.00,USD\n")).collect();
    let output = reconcile(&lists, format!("reference,amount,currency\n{lines}"), &[]);
    let matched = "2026-11-05 00:00:00 to 2026-11-05 00:00:00 (UTC), from the first to the last payment that the list names\n\
        matched: 20000, missing here: 0, missing in the list: 0, different amounts: 0\n";
    assert_eq!((output.code, output.stdout.as_str()), (0, matched), "{output:?}");
    let output = reconcile(&lists, format!("reference,amount,currency\n{lines}").replace(",USD", ",EUR"), &[]);
    assert!(output.stdout.contains("\nand 39900 more: --output FILE writes all of them\n"), "{}", output.stdout);
}

/// A2 was sold on October 31 and refunded on November 2.
#[tokio::test]
async fn refund_outside_the_days_of_the_list_agrees() {
    let lists = Files::new(PAYMENTS).await;
    let october = "reference,amount,currency\nA1,11.90,USD\nA2,11.90,USD\n";
    let matched = "\nmatched: 2, missing here: 0, missing in the list: 0, different amounts: 0\n";
    for days in [&["--from", "2026-10-31", "--to", "2026-10-31"][..], &[]] {
        let output = reconcile(&lists, october, days);
        assert!(output.code == 0 && output.stdout.ends_with(matched), "{output:?}");
    }
    let november = reconcile(
        &lists,
        "reference,amount,currency\nA2,-11.90,USD\nR1,5,EUR\n",
        &["--from", "2026-11-02", "--to", "2026-11-02"],
    );
    assert!(november.code == 0 && november.stdout.ends_with(matched), "{november:?}");
}

#[tokio::test]
async fn list_of_one_shop_is_compared_with_its_payments() {
    let lists = Files::new(PAYMENTS).await;
    let list = "reference,amount,currency\nA3,10,USD\n";
    let month = ["--from", "2026-10-01", "--to", "2026-11-30"];
    assert_eq!(reconcile(&lists, list, &month).code, 1);
    let output = reconcile(&lists, list, &[&month[..], &["--user", "accountant"]].concat());
    let matched = "\nmatched: 1, missing here: 0, missing in the list: 0, different amounts: 0\n";
    assert!(output.code == 0 && output.stdout.ends_with(matched), "{output:?}");
    assert_eq!(reconcile(&lists, list, &["--user", "unknown"]).code, 3);
    let help = lists.operator.run_ok(&["report", "reconcile", "--help"]);
    assert!(help.contains("that of the first payment that the list names") && !help.contains("this month"), "{help}");
}

/// Two shops use the same reference.
#[tokio::test]
async fn payments_of_another_shop_are_not_compared() {
    let lists = Files::new(PAYMENTS).await;
    lists
        .operator
        .server
        .execute(
            "insert into payments (id, kind, date_added, amount, tax, currency, reference, caller_id) values
                 (801, 'sale', '2026-11-05', 10, 0, 'USD', '1001', 2),
                 (802, 'sale', '2026-11-05', 10, 0, 'USD', '1001', 4),
                 (803, 'sale', '2026-10-01', 10, 0, 'USD', '1002', 4)",
        )
        .await;
    let user = lists.operator.server.rows("select username from users where id = 2").await;
    let compare = |list: &str| {
        let output = reconcile(&lists, list, &["--user", &user[0], "--json"]);
        (output.code, serde_json::from_str::<Value>(&output.stdout).unwrap())
    };
    let (code, json) = compare("reference,amount,currency\n1001,10,USD\n");
    assert_eq!((code, &json["summary"]["matched"]), (0, &1.into()), "{json}");
    let (code, json) = compare("reference,amount,currency\n1001,10,USD\n1002,10,USD\n");
    assert_eq!(code, 1);
    assert_eq!(lines(&json["differences"], &["result", "reference"]), ["missing_here 1002"]);
}

#[tokio::test]
async fn what_the_buyer_paid_is_compared_wherever_the_tax_is() {
    let lists = Files::new(PAYMENTS).await;
    lists
        .operator
        .server
        .execute(
            "insert into payments (id, kind, date_added, amount, tax, tax_included, currency, reference, reverses) values
                 (801, 'top_up', '2026-11-05', 11.9, 2.261, true, 'USD', 'T1', null),
                 (802, 'top_up', '2026-11-05', 10, 1.9, null, 'USD', 'T2', null),
                 (803, 'top_up', '2026-11-05', 10, 1.9, null, 'USD', 'T3', null),
                 (804, 'top_up', '2026-11-05', 11.9, 2.261, true, 'USD', 'T4', null),
                 (805, 'refund', '2026-11-06', -2.38, -0.4522, true, 'USD', null, 804)",
        )
        .await;
    let list = "reference,amount,currency\nT1,11.90,USD\nT2,11.90,USD\nT3,10,USD\nT4,9.52,USD\n";
    let output = reconcile(&lists, list, &["--json"]);
    let json: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(lines(&json["differences"], &["result", "reference", "paid"]), ["different T3 11.9"]);
}

#[tokio::test]
async fn bad_lists_are_refused_with_every_line() {
    let lists = Files::new(PAYMENTS).await;
    let long = "x".repeat(256);
    let list = [
        b"reference,amount,currency\nA1,11.90,USD\n,1,USD\nA2,1.5x,USD\nA3,1,\nA4,NaN,USD\nA5,1e-16,USD\n\"A\n6\",1\n\xff,1,USD\n".as_slice(),
        format!("{long},1,USD\nA1\n").as_bytes(),
    ]
    .concat();
    let refused = reconcile(&lists, list, &[]);
    assert_eq!(
        (refused.code, refused.stderr.as_str()),
        (
            1,
            "mortise: the list has bad lines:\n\
             line 3: it has no reference\n\
             line 4: the amount is not a decimal number such as 10.50\n\
             line 5: the currency is missing or has more than 5 letters\n\
             line 6: the amount is not a decimal number such as 10.50\n\
             line 7: the amount is not a decimal number such as 10.50\n\
             line 8: the currency is missing or has more than 5 letters\n\
             line 10: it is not UTF-8\n\
             line 11: the reference has more than 255 characters\n\
             line 12: the currency is missing or has more than 5 letters\n"
        ),
        "{refused:?}"
    );
    let refused = reconcile(&lists, "reference,sum\nA1,1\n", &[]);
    assert!(refused.code == 1 && refused.stderr.contains("must name the column amount"), "{refused:?}");
    assert!(reconcile(&lists, "", &[]).stderr.contains("must name the column reference"));
    lists.operator.assert_error(&["report", "reconcile", "/nowhere.csv"], 1, "cannot open /nowhere.csv");
}
