//! `/dashboard`: today's sales, stock, e-mails, refusals and checks.

use mortise::console::access::Role;

use super::{Client, ConsoleServer, Page, console};
use crate::harness::{Server, server};

/// Payments of today, and of the same weekday a week before: at midnight, and in the last microsecond of the day. The
/// refund is of today. The last two payments are for the cards and users of the reseller.
const PAYMENTS: &str = "
    create temporary table days as
        select date_trunc('day', now() at time zone 'utc') as today, date_trunc('day', now() at time zone 'utc') - interval '7 days' as before;
    insert into payments (id, kind, date_added, amount, tax, currency, user_id, owner_id, card, caller_id, reverses)
    select 1, 'sale', today, 10.5, 1, 'USD', 1, 0, 1, 2, null::bigint from days
    union all select 2, 'sale', now() at time zone 'utc', 5, 1, 'USD', 2, 0, 1, 6, null
    union all select 3, 'refund', now() at time zone 'utc', -5, -1, 'USD', 2, 0, 1, null, 2
    union all select 4, 'sale', before, 7, 0, 'USD', 3, 0, 1, 2, null from days
    union all select 5, 'sale', before + interval '1 day' - interval '1 microsecond', 100, 0, 'USD', 6, 0, 1, 2, null from days
    union all select 6, 'sale', now() at time zone 'utc', 4, 1, 'EUR', 12, 3, 1, 3, null
    union all select 7, 'refill', now() at time zone 'utc', 20, 0, 'EUR', 11, 3, 0, null, null;
    update cards set sold = 1 where id in (1, 2, 3, 6, 12);
    select setval('payments_id_seq', 100)";

/// Loads a page until all of it is counted.
async fn load_counted(client: &Client, path: &str) -> Page {
    loop {
        let page = client.get(path).await;
        assert_eq!(page.status, 200, "{}", page.text());
        if !page.text().contains("is being counted") {
            return page;
        }
    }
}

async fn console_with_payments() -> ConsoleServer {
    let console = console().await;
    console.server.execute(PAYMENTS).await;
    console
}

#[tokio::test]
async fn sales_of_today_stand_beside_those_of_last_week() {
    let console = console_with_payments().await;
    let page = load_counted(&console.log_in(Role::Support).await, "/dashboard").await;
    // Name, currency, sales and net of today, sales and net a week before.
    page.assert_contains("All EUR 2 24.00 0 0.00");
    page.assert_contains("All USD 2 10.50 1 7.00");
    page.assert_contains("ten dollars USD 2 10.50 1 7.00");
    page.assert_contains("the reseller's EUR 1 4.00 0 0.00");
    page.assert_contains("No group (user balances) EUR 1 20.00 0 0.00");
    // The refund belongs to the shop that sold.
    page.assert_contains("accountant USD 1 0.00 0 0.00");
    page.assert_contains("user USD 1 10.50 1 7.00");
    // Two currencies: the chart has the number of sales.
    page.assert_contains("Number of sales and top-ups by day");
    assert_eq!(page.body.matches("<rect class=\"bar\"").count(), 14);
    page.assert_contains("USD 2 15.50 2.00 1 -5.00 -1.00 10.50 1.00");
    assert!(page.body.contains("data-refresh-seconds=\"60\""));
}

#[tokio::test]
async fn a_reseller_sees_the_own_sales_and_stock_only() {
    let console = console_with_payments().await;
    console
        .server
        .execute(
            "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, next_attempt_at, failed_at)
             select owner_id, 0, 'a@example.com', 'm' || i, '{1}', '{1}', 'USD', now() + interval '1 day', failed_at
             from (values (1, 0, null::timestamp), (2, 0, null), (3, 3, null), (4, 0, now() at time zone 'utc')) mail (i, owner_id, failed_at);
             insert into actions (user_id, action, data, data2, data3)
             values (-1, 'error', 'API : Incorrect hash', '/billing/api/card_group_get?<b>', '192.0.2.9')",
        )
        .await;
    let support = load_counted(&console.log_in(Role::Support).await, "/dashboard").await;
    let reseller = load_counted(&console.log_in_reseller(3).await, "/dashboard").await;
    let other = load_counted(&console.log_in_reseller(4).await, "/dashboard").await;
    support.assert_contains("Waiting 3, the oldest for 0 min Failed within a day 1");
    reseller.assert_contains("Waiting 1, the oldest for 0 min Failed within a day 0");
    other.assert_contains("Waiting 0 Failed within a day 0");
    reseller.assert_contains("All EUR 2 24.00 0 0.00");
    // One currency: the chart has amounts.
    reseller.assert_contains("Net amount by day, in EUR");
    // Group, free cards, sold, days left.
    support.assert_contains("ten dollars 0 4 0");
    support.assert_contains("the reseller's 1 1 28");
    reseller.assert_contains("the reseller's 1 1 28");
    for page in [&reseller, &other] {
        page.assert_lacks("ten dollars");
        page.assert_lacks("USD");
        page.assert_lacks("192.0.2.9");
        page.assert_lacks("Refused requests");
        page.assert_lacks("Checks");
    }
    other.assert_contains("Nothing was sold on either day.");
    other.assert_contains("There is no card group.");
    support.assert_contains("API : Incorrect hash 1");
    support.assert_contains("192.0.2.9 API : Incorrect hash /billing/api/card_group_get?<b>");
    assert!(!support.body.contains("card_group_get?<b>"));
    support.assert_lacks("Checks");
}

#[tokio::test]
async fn admins_see_the_findings_of_the_checks() {
    let console = console().await;
    let admin = load_counted(&console.log_in(Role::Admin).await, "/dashboard").await;
    admin.assert_contains("Problem: key length. secret keys with fewer than 8 characters can be guessed");
    admin.assert_contains("What to do: run `mortise key rotate --keep 7d`");
    admin.assert_contains("Warning: backup.");
    let read_only = load_counted(&console.log_in(Role::ReadOnly).await, "/dashboard").await;
    read_only.assert_lacks("key length");
    read_only.assert_contains("Refused requests");
}

/// A statement that takes long does not delay the page.
#[tokio::test]
async fn the_page_does_not_wait_for_the_stock() {
    let console = console().await;
    let support = console.log_in(Role::Support).await;
    let mut lock = console.server.pool.begin().await.unwrap();
    sqlx::raw_sql("lock table card_stock in access exclusive mode").execute(&mut *lock).await.unwrap();
    let page = support.get("/dashboard").await;
    assert_eq!(page.status, 200);
    page.assert_contains("Stock It is being counted.");
    assert!(page.body.contains("data-refresh-seconds=\"3\""));
    lock.rollback().await.unwrap();
    load_counted(&support, "/dashboard").await.assert_contains("euro group 1 0 –");
}

#[tokio::test]
async fn names_of_groups_and_users_are_text() {
    let console = console_with_payments().await;
    console
        .server
        .execute(
            "update cardgroups set name = '<script>alert(1)</script>' where id = 6;
             update users set username = '\"><img src=x onerror=alert(2)>' where id = 2",
        )
        .await;
    let page = load_counted(&console.log_in(Role::Admin).await, "/dashboard").await;
    page.assert_contains("<script>alert(1)</script> USD 2 10.50 1 7.00");
    page.assert_contains("\"><img src=x onerror=alert(2)> USD 1 10.50 1 7.00");
    assert!(!page.body.contains("<script>alert") && !page.body.contains("<img"));
}

/// The settings of the transactions of these statements, on top of those of every session.
const MODE: &str = "force_custom_plan; set enable_bitmapscan = on; set enable_sort = on";

/// A part of each statement, its values, and the index that it reads.
// "email_outbox_f": the index of failed or that of finished e-mails, whichever has fewer rows.
const STATEMENTS: [(&str, &[&str], &[&str]); 4] = [
    ("as \"oldest_min!\"", &["null", "100000"], &["email_outbox_pending", "email_outbox_f"]),
    ("as \"oldest_min!\"", &["3", "100000"], &["email_outbox_pending", "email_outbox_f"]),
    ("select data from actions", &["100000"], &["actions_refusals"]),
    ("as \"client!\"", &["10"], &["actions_refusals"]),
];

#[tokio::test]
async fn the_counts_are_read_by_indexes() {
    let server: Server = server().await;
    server
        .execute(
            "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, created_at, sent_at)
             select i % 5, 0, 'a', 'm' || i, '{1}', '{1}', 'USD', timestamp '2026-01-01' + make_interval(mins => i), timestamp '2026-01-01' + make_interval(mins => i)
             from generate_series(1, 20000) i;
             insert into actions (action, target_type, target_id) select 'card_sell_over_api', 'Card', i from generate_series(1, 20000) i;
             insert into actions (user_id, action, data, date)
             select -1, 'error', 'API : Incorrect hash', timestamp '2026-01-01' + make_interval(mins => i) from generate_series(1, 20000) i",
        )
        .await;
    for statistics in ["select", "analyze"] {
        server.execute(statistics).await;
        for (part, values, indexes) in STATEMENTS {
            let plan = server.query_plan(&[part], MODE, values).await;
            for index in indexes {
                assert!(plan.contains(index), "{part}: {index}\n{plan}");
            }
            assert!(!plan.contains("Seq Scan"), "{part}\n{plan}");
        }
    }
}
