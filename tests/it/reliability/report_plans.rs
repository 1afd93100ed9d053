//! Query plans of the reports, with missing, fresh and stale statistics: a report of a day reads the payments of that
//! day by an index, and no other rows of the large tables.

use crate::harness::{Server, server};

/// 40,000 sales in 40 days, top-ups, and refunds of a hundredth.
const PAYMENTS: &str = "
    insert into cards (id, cardgroup_id, number, pin, sold)
    select 1000 + i, 6 + i % 2, (1000000 + i)::text, (5000000 + i)::text, 1 from generate_series(1, 40000) i;
    insert into payments (kind, date_added, amount, tax, user_id, owner_id, card, caller_id)
    select 'sale', timestamp '2026-10-01' + i * interval '86.4 seconds', 10, 1.9, 1000 + i, 0, 1, i % 5 from generate_series(1, 40000) i;
    insert into payments (kind, date_added, amount, tax, user_id, card, reverses)
    select 'refund', date_added + interval '1 day', -amount, -tax, user_id, 1, id from payments where id % 100 = 0";
/// A day that is new since the last `analyze`.
const NEW_PAYMENTS: &str = "
    insert into payments (kind, date_added, amount, tax, user_id, card)
    select 'sale', timestamp '2026-11-20' + i * interval '1 second', 10, 1.9, 100000 + i, 1 from generate_series(1, 20000) i";

/// Calls `check` with missing, fresh and stale statistics.
async fn with_statistics_of_each_age(check: impl AsyncFn(&Server)) {
    let server = server().await;
    server
        .execute(
            "alter table cards set (autovacuum_enabled = off); alter table payments set (autovacuum_enabled = off)",
        )
        .await;
    server.execute(PAYMENTS).await;
    check(&server).await;
    server.execute("analyze").await;
    check(&server).await;
    server.execute(NEW_PAYMENTS).await;
    check(&server).await;
}

/// The settings of a transaction for a short period, on top of those of every session.
const MODE: &str = "force_custom_plan; set enable_bitmapscan = on; set enable_sort = on";

async fn assert_reads_by_index(server: &Server, parts: &[&str], values: &[&str], conditions: &[&str]) {
    let plan = server.query_plan(parts, MODE, values).await;
    for condition in conditions {
        assert!(plan.contains(condition), "{condition}:\n{plan}");
    }
    for table in ["payments", "cards"] {
        assert!(!plan.contains(&format!("Seq Scan on {table}")), "{table}:\n{plan}");
    }
    // Each index of the large tables is read with a condition.
    let mut lines = plan.lines().peekable();
    while let Some(line) = lines.next() {
        let is_scan = line.contains(" using payments_")
            || line.contains(" using cards_")
            || line.contains("Index Scan on payments_");
        assert!(!is_scan || lines.peek().is_some_and(|next| next.contains("Index Cond: ")), "{plan}");
    }
}

#[tokio::test]
async fn report_of_a_day_reads_the_payments_of_the_day() {
    with_statistics_of_each_age(async |server| {
        for day in
            [["'2026-10-20 00:00:00'", "'2026-10-21 00:00:00'"], ["'2026-11-20 00:00:00'", "'2026-11-21 00:00:00'"]]
        {
            let sales = ["-- The totals of sales, top-ups and refunds of a period"];
            for by in ["'{}'", "'{day}'", "'{group}'", "'{user}'", "'{day,group,user}'"] {
                let mut conditions = vec!["payments_date_added"];
                conditions.extend(by.contains("group").then_some("using cards_pkey on cards c"));
                conditions.extend(by.contains("user").then_some("using payments_pkey on payments original"));
                assert_reads_by_index(server, &sales, &[day[0], day[1], "'UTC'", by], &conditions).await;
            }
            assert_reads_by_index(server, &["as \"rate: Money\""], &day, &["payments_date_added"]).await;
            let statement = ["array_position(array['sale', 'top_up', 'refill', 'refund']"];
            assert_reads_by_index(server, &statement, &[day[0], day[1], "0"], &["payments_date_added"]).await;
            let balance = ["as \"opening!: Money\""];
            assert_reads_by_index(server, &balance, &[day[0], day[1], "3"], &["payments_user_date_added"]).await;
        }
    })
    .await;
}
