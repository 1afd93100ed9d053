//! `/sales`: filters, totals, list, CSV and reports. The reconciliation is in `reconciliation.rs`.

use mortise::console::access::Role;

use super::{Client, ConsoleServer, Page, console};
use crate::harness::server;

/// Payments of a shop of the admin (user 2), of the reseller (3) and of a command. The last two count as no sale.
const PAYMENTS: &str = "
    insert into payments (id, kind, paymenttype, date_added, amount, tax, currency, user_id, owner_id, card, caller_id, reverses,
        reference, description) values
        (1, 'sale', 'Card', '2026-11-01 10:00:00', 10.000000000000001, 1.9, 'USD', 1, 0, 1, 2, null, 'A1', ''),
        (2, 'sale', 'Card', '2026-11-01 23:30:00', 5.5, 0, 'USD', 2, 0, 1, 2, null, '=1+1', '<script>alert(1)</script>, \"quoted\"'),
        (3, 'refund', 'Card', '2026-11-02 09:00:00', -5.5, 0, 'USD', 2, 0, 1, null, 2, null, ''),
        (4, 'sale', 'Card', '2026-11-02 10:00:00', 4, 1, 'EUR', 12, 3, 1, 3, null, 'R1', ''),
        (5, 'top_up', 'Card', '2026-11-02 11:00:00', 5, 0.75, 'EUR', 7, 0, 1, null, null, 'A5', '@sum'),
        (6, 'refill', 'card_refill', '2026-11-03 11:00:00', 20, 0, 'EUR', 11, 3, 0, 3, null, 'R2', null),
        (7, 'transfer', 'card_refill', '2026-11-03 12:00:00', 7, 0, 'EUR', 3, 0, 0, 2, null, null, null),
        (8, null, 'Card', '2026-11-03 12:00:00', 999, 1, 'USD', 4, 0, 1, null, null, null, null);
    select setval('payments_id_seq', 100)";
const NOVEMBER: &str = "from=2026-11-01&to=2026-11-30";

pub(super) async fn console_with_payments() -> ConsoleServer {
    let console = console().await;
    console.server.execute(PAYMENTS).await;
    console
}

/// Loads a page until all of it is counted.
pub(super) async fn load_counted(client: &Client, path: &str) -> Page {
    loop {
        let page = client.get(path).await;
        assert_eq!(page.status, 200, "{path}: {}", page.text());
        if !page.text().contains("is being counted") {
            return page;
        }
    }
}

/// The ids of the listed payments, from the cells behind their times.
fn payment_ids(page: &Page) -> Vec<i64> {
    let rows = page.body.split("<tr><td class=\"nowrap\">").skip(1);
    rows.filter_map(|row| row.split("</td><td>").nth(1)?.parse().ok()).collect()
}

#[tokio::test]
async fn totals_are_those_of_the_ledger() {
    let console = console_with_payments().await;
    let page = load_counted(&console.log_in(Role::ReadOnly).await, &format!("/sales?{NOVEMBER}")).await;
    assert_eq!(payment_ids(&page), [6, 5, 4, 3, 2, 1]);
    // Sales, amount, tax, refunds, refunded amount and tax, net amount and tax.
    page.assert_contains("EUR 3 29.00 1.75 0 0.00 0.00 29.00 1.75");
    page.assert_contains("USD 2 15.50 1.90 1 -5.50 0.00 10.00 1.90");
    page.assert_contains("2026-11-02 EUR 2 9.00 1.75 0 0.00 0.00 9.00 1.75");
    let sums = "select currency, round(sum(amount), 2), round(sum(tax), 2) from payments
        where kind in ('sale', 'top_up', 'refill', 'refund') group by 1 order by 1";
    console.server.assert_rows(sums, &["EUR|29.00|1.75", "USD|10.00|1.90"]).await;
    assert_eq!(page.body.matches("<rect class=\"bar\"").count(), 30);
    // Time, id, kind, card, group, shop, amount, tax, currency, reference, description.
    page.assert_contains("2026-11-01 10:00:00 1 Sale 1111111003 ten dollars user 10.00 1.90 USD A1");
    page.assert_contains("2026-11-02 09:00:00 3 Refund 1111111001 ten dollars user -5.50 0.00 USD");
    page.assert_contains("2026-11-03 11:00:00 6 Refill of a user customer – reseller 20.00 0.00 EUR R2");
    assert!(page.body.contains("<a href=\"/cards/12\">120001</a>"));
    // Texts of clients are no markup.
    page.assert_contains("=1+1 <script>alert(1)</script>, \"quoted\"");
    assert!(!page.body.contains("<script>alert"));
    // This account may not send forms.
    page.assert_lacks("Download the payments");
}

#[tokio::test]
async fn filters_select_payments_and_totals() {
    let console = console_with_payments().await;
    let admin = console.log_in(Role::Admin).await;
    let cases: [(&str, &[i64], &str); 10] = [
        ("group=6", &[3, 2, 1], "USD 2 15.50 1.90 1 -5.50 0.00 10.00 1.90"),
        ("group=12", &[4], "EUR 1 4.00 1.00 0"),
        // The refund by a command belongs to the shop that sold.
        ("user=USER", &[3, 2, 1], "USD 2 15.50"),
        ("user=reseller&currency=EUR", &[6, 4], "EUR 2 24.00"),
        ("currency=USD&kind=sale", &[2, 1], "USD 2 15.50 1.90 0 0.00"),
        ("kind=refund", &[3], "USD 0 0.00 0.00 1 -5.50"),
        ("kind=top_up", &[5], "EUR 1 5.00 0.75"),
        ("kind=refill&user=user", &[], "There is no payment."),
        ("group=&user=+&currency=&kind=&before=", &[6, 5, 4, 3, 2, 1], "EUR 3 29.00"),
        // 23:30 UTC is the next day in Vilnius.
        (
            "from=2026-11-02&to=2026-11-02&time_zone=europe/vilnius",
            &[5, 4, 3, 2],
            "2026-11-02 to 2026-11-02 (Europe/Vilnius)",
        ),
    ];
    for (filter, ids, text) in cases {
        let days = if filter.contains("from") { "" } else { NOVEMBER };
        let page = load_counted(&admin, &format!("/sales?{filter}&{days}")).await;
        assert_eq!(payment_ids(&page), ids, "{filter}");
        page.assert_contains(text);
    }
    let refused = [
        ("from=2026-11-31", 422, "a day is today, yesterday or a date"),
        ("to=2026-11-30", 422, "Enter the first day too."),
        ("from=2026-11-30&to=2026-11-01", 422, "The first day (2026-11-30) is after the last day (2026-11-01)."),
        ("time_zone=Mars", 422, "\"Mars\" is no time zone"),
        ("group=99", 404, "There is no card group 99."),
        ("group=x", 404, "There is no card group x."),
        ("user=nix", 404, "There is no user \"nix\"."),
        ("kind=transfer", 400, "there is no such kind"),
        ("user=%00", 400, "a field has a null character"),
        ("before_id=1&before=x", 400, "the parameter before is not a time"),
    ];
    for (filter, status, text) in refused {
        let page = admin.get(&format!("/sales?{filter}")).await;
        assert_eq!(page.status, status, "{filter}: {}", page.text());
        page.assert_contains(text);
    }
    // The last seven days are shown if none are named.
    console
        .server
        .execute(
            "insert into payments (kind, date_added, amount, currency) values
                ('sale', now() at time zone 'utc' - interval '6 days', 1, 'LTL'),
                ('sale', now() at time zone 'utc' - interval '7 days', 1, 'LTL')",
        )
        .await;
    load_counted(&admin, "/sales?currency=LTL").await.assert_contains("LTL 1 1.00");
}

#[tokio::test]
async fn a_reseller_sees_the_own_payments_only() {
    let console = console_with_payments().await;
    let reseller = console.log_in_reseller(3).await;
    let page = load_counted(&reseller, &format!("/sales?{NOVEMBER}")).await;
    assert_eq!(payment_ids(&page), [6, 4]);
    page.assert_contains("EUR 2 24.00 1.00 0 0.00 0.00 24.00 1.00");
    // Neither payments nor choices of others.
    for foreign in ["A1", "ten dollars", "euro group", "accountant", "partner"] {
        page.assert_secret(foreign);
    }
    page.assert_contains("the reseller's");
    for filter in ["group=6", "user=user", "user=admin", "user=accountant"] {
        let page = reseller.get(&format!("/sales?{NOVEMBER}&{filter}")).await;
        assert_eq!(page.status, 404, "{filter}");
    }
    let page = load_counted(&reseller, &format!("/sales?{NOVEMBER}&user=reseller&group=12")).await;
    assert_eq!(payment_ids(&page), [4]);
    // A payment of another owner as the start of a page gives own payments only.
    let page = reseller.get(&format!("/sales?{NOVEMBER}&before=2026-11-02+11:00:00&before_id=5")).await;
    assert_eq!(payment_ids(&page), [4]);

    let page = load_counted(&reseller, &format!("/sales/tax?{NOVEMBER}")).await;
    page.assert_contains("EUR 0.0 % 1 20.00 0.00 EUR 25.0 % 1 4.00 1.00");
    page.assert_lacks("USD");
    let page = load_counted(&reseller, &format!("/sales/statement?{NOVEMBER}")).await;
    page.assert_contains("Sold for reseller");
    page.assert_contains("Sale EUR 1 4.00 1.00 Refill of a user EUR 1 20.00 0.00");
    page.assert_lacks("admin");
    for foreign in ["0", "4", "2", "x"] {
        let page = reseller.get(&format!("/sales/statement?{NOVEMBER}&user={foreign}")).await;
        assert_eq!(page.status, 404, "{foreign}");
    }

    let days = [("from", "2026-11-01"), ("to", "2026-11-30")];
    let csv = reseller.post_confirmed("/sales/export", &days).await;
    let references: Vec<_> = csv.body.lines().skip(1).filter_map(|line| line.split(',').nth(11)).collect();
    assert_eq!(references, ["R2", "R1"]);
    let page = reseller.post_confirmed("/sales/export", &[&days[..], &[("group", "6")]].concat()).await;
    assert_eq!(page.status, 404);
}

#[tokio::test]
async fn taxes_and_statements_of_all_are_shown_to_admins() {
    let console = console_with_payments().await;
    let admin = console.log_in(Role::Admin).await;
    let page = load_counted(&admin, &format!("/sales/tax?{NOVEMBER}")).await;
    page.assert_contains("EUR 0.0 % 1 20.00 0.00 EUR 15.0 % 1 5.00 0.75 EUR 25.0 % 1 4.00 1.00");
    page.assert_contains("USD 0.0 % 2 0.00 0.00 USD 19.0 % 1 10.00 1.90");
    let page = admin.get(&format!("/sales/statement?{NOVEMBER}")).await;
    page.assert_contains("Choose a reseller.");
    for name in ["admin", "reseller", "reseller_read"] {
        page.assert_contains(name);
    }
    page.assert_lacks("accountant");
    let page = load_counted(&admin, &format!("/sales/statement?{NOVEMBER}&user=3")).await;
    page.assert_contains("2026-11-01 to 2026-11-30 (UTC)");
    page.assert_contains("Sale EUR 1 4.00 1.00");
    page.assert_contains("Own balance, in USD");
    assert_eq!(admin.get("/sales/statement?user=6").await.status, 404);
}

/// 120 payments, seven of them at the same time, so that pages end between payments of the same time.
const MANY_PAYMENTS: &str = "
    insert into payments (id, kind, date_added, amount, currency, reference)
    select 1000 + i, 'sale', timestamp '2026-11-10' + i / 7 * interval '1 minute', 1, 'USD', 'M' || i from generate_series(1, 120) i";

#[tokio::test]
async fn the_list_has_pages() {
    let console = console().await;
    console.server.execute(MANY_PAYMENTS).await;
    let support = console.log_in(Role::Support).await;
    let mut path = format!("/sales?{NOVEMBER}&currency=USD");
    let mut pages = Vec::new();
    loop {
        let page = support.get(&path).await;
        pages.push(payment_ids(&page));
        // A payment that is newer than a page does not move the next pages.
        console
            .server
            .execute(
                "insert into payments (kind, date_added, amount, currency) values ('sale', '2026-11-11', 1, 'USD')",
            )
            .await;
        let Some((before, _)) = page.body.split_once("\" rel=\"next\"") else { break };
        path = before.rsplit_once("href=\"").unwrap().1.replace("&amp;", "&").replace("&#x2f;", "/");
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [50, 50, 20]);
    assert_eq!(pages.concat(), (1001..=1120).rev().collect::<Vec<_>>());
}

/// A filter that selects few of many payments: each page says how far the search has come.
#[tokio::test]
async fn rare_payments_are_found() {
    let console = console().await;
    console
        .server
        .execute(
            "insert into payments (id, kind, date_added, amount, currency)
             select i, 'sale', timestamp '2026-11-10' + i * interval '1 second', 1, case when i = 1 then 'EUR' else 'USD' end
             from generate_series(1, 25000) i",
        )
        .await;
    let support = console.log_in(Role::Support).await;
    let mut path = format!("/sales?{NOVEMBER}&currency=EUR");
    loop {
        let page = support.get(&path).await;
        let Some((before, _)) = page.body.split_once("\" rel=\"next\"") else {
            assert_eq!(payment_ids(&page), [1]);
            break;
        };
        page.assert_contains("The search for payments has come to 2026-11-10");
        path = before.rsplit_once("href=\"").unwrap().1.replace("&amp;", "&").replace("&#x2f;", "/");
    }
    // The file has the payment without further requests.
    let fields = [("from", "2026-11-01"), ("to", "2026-11-30"), ("currency", "EUR")];
    let csv = support.post_confirmed("/sales/export", &fields).await;
    assert_eq!(csv.body.lines().count(), 2, "{}", csv.body);
}

#[tokio::test]
async fn the_csv_has_quoted_cells_and_no_formula() {
    let console = console_with_payments().await;
    let admin = console.log_in(Role::Admin).await;
    let fields = [("from", "2026-11-01"), ("to", "2026-11-30")];
    let csv = admin.post_confirmed("/sales/export", &fields).await;
    assert_eq!(csv.status, 200);
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8"));
    assert_eq!(csv.header("content-disposition"), Some("attachment; filename=\"sales-2026-11-01-2026-11-30.csv\""));
    assert_eq!(
        csv.body,
        "id,date_utc,kind,card_id,number,group,user,currency,amount,tax,tax_included,reference,description\n\
         6,2026-11-03 11:00:00,refill,,,,reseller,EUR,20.0,0.0,no,R2,\n\
         5,2026-11-02 11:00:00,top_up,7,700001,euro group,,EUR,5.0,0.75,no,A5,'@sum\n\
         4,2026-11-02 10:00:00,sale,12,120001,the reseller's,reseller,EUR,4.0,1.0,no,R1,\n\
         3,2026-11-02 09:00:00,refund,2,1111111001,ten dollars,user,USD,-5.5,0.0,no,,\n\
         2,2026-11-01 23:30:00,sale,2,1111111001,ten dollars,user,USD,5.5,0.0,no,'=1+1,\
         \"<script>alert(1)</script>, \"\"quoted\"\"\"\n\
         1,2026-11-01 10:00:00,sale,1,1111111003,ten dollars,user,USD,10.000000000000001,1.9,no,A1,\n"
    );
    // The confirmation is demanded, and the fields are checked.
    let page = admin.post("/sales/export", &fields).await;
    assert_eq!(page.status, 422, "{}", page.text());
    assert_eq!(admin.post_confirmed("/sales/export", &[("from", "x")]).await.status, 422);
    let read_only = console.log_in(Role::ReadOnly).await;
    assert_eq!(read_only.post_confirmed("/sales/export", &fields).await.status, 403);
}

/// More rows than a page of the file.
#[tokio::test]
async fn a_long_csv_is_complete() {
    let console = console().await;
    console
        .server
        .execute(
            "insert into payments (id, kind, date_added, amount, currency)
             select i, 'sale', timestamp '2026-11-10' + i / 3 * interval '1 second', 1, 'USD' from generate_series(1, 2500) i",
        )
        .await;
    let admin = console.log_in(Role::Admin).await;
    let csv = admin.post_confirmed("/sales/export", &[("from", "2026-11-01"), ("to", "2026-11-30")]).await;
    let ids: Vec<i32> = csv.body.lines().skip(1).map(|line| line.split(',').next().unwrap().parse().unwrap()).collect();
    assert_eq!(ids, (1..=2500).rev().collect::<Vec<_>>());
}

/// The first page and a next one read the payments in the order of the index, also before the first `analyze`.
#[tokio::test]
async fn pages_are_read_by_the_index_of_dates() {
    let server = server().await;
    server
        .execute(
            "alter table cards set (autovacuum_enabled = off); alter table payments set (autovacuum_enabled = off);
             insert into cards (id, cardgroup_id, number, pin, sold)
             select 1000 + i, 6, (1000000 + i)::text, (5000000 + i)::text, 1 from generate_series(1, 30000) i;
             insert into payments (kind, date_added, amount, user_id, owner_id, card, caller_id)
             select 'sale', timestamp '2026-10-01' + i / 3 * interval '1 minute', 10, 1000 + i, 0, 1, i % 5 from generate_series(1, 30000) i",
        )
        .await;
    let period = ["'2026-10-01 00:00:00'", "'2026-11-01 00:00:00'"];
    for statistics in ["select", "analyze"] {
        server.execute(statistics).await;
        for start in [["null", "null"], ["'2026-10-10 10:00:00'", "20000"]] {
            for filter in
                ["'{}'", "'{\"owner\": 3, \"group\": 6, \"user\": 2, \"currency\": \"USD\", \"kind\": \"sale\"}'"]
            {
                let values = [&period[..], &start[..], &["10000", "51", filter]].concat();
                let plan = server.query_plan(&["-- Lists payments of a period"], "force_custom_plan", &values).await;
                assert_ordered(&plan);
                assert!(plan.contains("using cards_pkey on cards c"), "{plan}");
                assert!(!plan.contains("  Sort\n") && !plan.starts_with("Sort"), "{plan}");
            }
            let values = [&period[..], &start[..], &["10000"]].concat();
            let plan = server.query_plan(&["(array_agg(id order by date_added, id))[1]"], "force_custom_plan", &values);
            assert_ordered(&plan.await);
        }
    }
}

fn assert_ordered(plan: &str) {
    assert!(plan.contains("Scan Backward using payments_date_added on payments"), "{plan}");
    for table in ["payments", "cards", "users"] {
        assert!(!plan.contains(&format!("Seq Scan on {table}")), "{table}\n{plan}");
    }
}

/// The totals by card group and by shop, and the links to usual periods.
#[tokio::test]
async fn totals_by_group_and_by_shop() {
    let console = console_with_payments().await;
    let admin = console.log_in(Role::Admin).await;
    let page = load_counted(&admin, &format!("/sales?{NOVEMBER}")).await;
    page.assert_contains("ten dollars USD 2 15.50 1.90 1 -5.50 0.00 10.00 1.90");
    page.assert_contains("the reseller's EUR 1 4.00 1.00 0 0.00 0.00 4.00 1.00");
    page.assert_contains("No group (user balances) EUR 1 20.00 0.00");
    page.assert_contains("user USD 2 15.50 1.90 1 -5.50 0.00 10.00 1.90");
    page.assert_contains("reseller EUR 2 24.00 1.00");
    page.assert_contains("Commands and console EUR 1 5.00 0.75");
    let shop = console.log_in_reseller(3).await;
    let page = load_counted(&shop, &format!("/sales?{NOVEMBER}")).await;
    page.assert_contains("the reseller's EUR 1 4.00 1.00");
    page.assert_lacks("ten dollars");
    page.assert_lacks("Commands and console");
}

#[tokio::test]
async fn links_name_usual_periods() {
    let console = console().await;
    console
        .server
        .execute(
            "insert into payments (id, kind, date_added, amount, currency) values
                 (1, 'sale', now() at time zone 'utc', 1, 'USD'),
                 (2, 'sale', date_trunc('day', now() at time zone 'utc') - interval '1 hour', 1, 'USD'),
                 (3, 'sale', date_trunc('month', now() at time zone 'utc') - interval '1 second', 1, 'USD'),
                 (4, 'sale', date_trunc('month', now() at time zone 'utc') - interval '1 month', 1, 'USD'),
                 (5, 'sale', date_trunc('month', now() at time zone 'utc') - interval '1 month 1 second', 1, 'USD')",
        )
        .await;
    let admin = console.log_in(Role::Admin).await;
    let text = |sql: &str| format!("select ({sql})::date::text");
    let now = "now() at time zone 'utc'";
    for (days, first, last) in [
        ("today", now.to_owned(), now.to_owned()),
        ("yesterday", format!("{now} - interval '1 day'"), format!("{now} - interval '1 day'")),
        ("this_month", format!("date_trunc('month', {now})"), now.to_owned()),
        (
            "last_month",
            format!("date_trunc('month', {now}) - interval '1 month'"),
            format!("date_trunc('month', {now}) - interval '1 day'"),
        ),
    ] {
        let first = console.server.rows(&text(&first)).await.concat();
        let last = console.server.rows(&text(&last)).await.concat();
        for path in ["/sales", "/sales/tax", "/sales/statement?user=0"] {
            let link = format!("{path}{}", if path.contains('?') { "&" } else { "?" });
            let page = load_counted(&admin, &format!("{link}days={days}")).await;
            page.assert_contains(&format!("{first} to {last} (UTC)"));
            // The links of the next pages and the form have the days themselves.
            assert_eq!((page.field_value("from"), page.field_value("to")), (first.clone(), last.clone()), "{path}");
        }
        let expected = format!(
            "select id from payments where date_added >= '{first}' and date_added < '{last}'::date + 1 order by date_added desc"
        );
        let ids = payment_ids(&load_counted(&admin, &format!("/sales?days={days}")).await);
        let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
        assert_eq!(ids, console.server.rows(&expected).await, "{days}");
    }
    // The other filters stay.
    let page = load_counted(&admin, "/sales?kind=sale&time_zone=Europe/Vilnius").await;
    assert!(page.body.contains("kind=sale&amp;days=yesterday"), "{}", page.body);
    assert!(page.body.contains("time_zone=Europe%2FVilnius"), "{}", page.body);
    assert_eq!(admin.get("/sales?days=always").await.status, 400);
}
