//! Query plans of the reports, with missing, fresh and stale statistics: a report of a day reads the payments of that
//! day by an index, and no other rows of the large tables.

use crate::harness::{Server, server};

/// 40,000 sales in 40 days, top-ups, and refunds of a hundredth.
const PAYMENTS: &str = "
    insert into cards (id, cardgroup_id, number, pin, sold)
    select 1000 + i, 6 + i % 2, (1000000 + i)::text, (5000000 + i)::text, 1 from generate_series(1, 40000) i;
    insert into payments (kind, date_added, amount, tax, user_id, owner_id, card, caller_id, reference)
    select 'sale', timestamp '2026-10-01' + i * interval '86.4 seconds', 10, 1.9, 1000 + i, 0, 1, i % 5, 'ref' || i
    from generate_series(1, 40000) i;
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
    assert_plan_reads_by_index(&server.query_plan(parts, MODE, values).await, conditions);
}

#[track_caller]
fn assert_plan_reads_by_index(plan: &str, conditions: &[&str]) {
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
                assert_reads_by_index(server, &sales, &[day[0], day[1], "'UTC'", by, "'{}'"], &conditions).await;
            }
            let taxes = ["as \"rate: Money\""];
            assert_reads_by_index(server, &taxes, &[day[0], day[1], "null"], &["payments_date_added"]).await;
            assert_reads_by_index(server, &taxes, &[day[0], day[1], "3"], &["payments_date_added"]).await;
            // With the filter of the console.
            let filter = "'{\"owner\": 3, \"group\": 12, \"user\": 2, \"currency\": \"USD\", \"kind\": \"refund\"}'";
            let conditions =
                ["payments_date_added", "using cards_pkey on cards c", "using payments_pkey on payments original"];
            assert_reads_by_index(server, &sales, &[day[0], day[1], "'UTC'", "'{day}'", filter], &conditions).await;
            let statement = ["array_position(array['sale', 'top_up', 'refill', 'refund']"];
            assert_reads_by_index(server, &statement, &[day[0], day[1], "0"], &["payments_date_added"]).await;
            let balance = ["as \"opening!: Money\""];
            assert_reads_by_index(server, &balance, &[day[0], day[1], "3"], &["payments_user_date_added"]).await;
        }
    })
    .await;
}

/// The settings of the report of the stock and of the comparison of a list: they may join by hashing.
const HASH_MODE: &str = "force_custom_plan; set enable_bitmapscan = on; set enable_hashjoin = on; set enable_sort = on";

#[tokio::test]
async fn report_of_the_stock_reads_the_payments_of_the_last_weeks() {
    with_statistics_of_each_age(async |server| {
        let plan = server.query_plan(&["-- Each visible card group with its free cards"], HASH_MODE, &["28", "null"]);
        assert_plan_reads_by_index(&plan.await, &["payments_date_added", "using cards_pkey on cards"]);
    })
    .await;
}

/// The list has a part of the payments of a day.
#[tokio::test]
async fn comparison_of_a_list_finds_payments_by_indexes() {
    const LIST: &str = "
        create temporary table listed (line bigint, reference text, amount numeric, currency text);
        insert into listed select i, 'ref' || 19000 + i * 7, 11.9, 'USD' from generate_series(1, 100) i;";
    const TIMES: &str = include_str!("../../../src/back_office/reports/reconciliation_times.sql");
    const TABLES: &str = include_str!("../../../src/back_office/reports/reconciliation_tables.sql");
    const COMPARISON: &str = include_str!("../../../src/back_office/reports/reconciliation.sql");
    with_statistics_of_each_age(async |server| {
        for (statement, values, conditions) in [
            (TIMES, "'UTC', null, null", &["payments_reference"][..]),
            (
                COMPARISON,
                "'2026-10-20 00:00:00', '2026-10-21 00:00:00', null, null",
                &["payments_reference", "payments_reverses", "payments_date_added"],
            ),
            (COMPARISON, "null, null, null, null", &["payments_reference", "payments_reverses"]),
        ] {
            let mut connection = server.pool.acquire().await.unwrap();
            // The temporary tables of the program end with its transaction.
            let tables = TABLES.replace(" on commit drop", "");
            let prepare =
                format!("{LIST} {tables}; set plan_cache_mode = {HASH_MODE}; prepare statement as {statement}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(prepare)).execute(&mut *connection).await.unwrap();
            let explain = sqlx::AssertSqlSafe(format!("explain (costs off) execute statement ({values})"));
            let lines: Vec<(String,)> = sqlx::query_as(explain).fetch_all(&mut *connection).await.unwrap();
            connection.close_on_drop();
            let plan = lines.into_iter().map(|(line,)| line).collect::<Vec<_>>().join("\n");
            assert_plan_reads_by_index(&plan, conditions);
        }
    })
    .await;
}

/// The sample of `mortise doctor`: it must not read all payments.
#[tokio::test]
async fn rules_of_the_ledger_are_checked_by_indexes() {
    with_statistics_of_each_age(async |server| {
        let after_id = server.rows("select max(id) - 100 from payments").await;
        let parts = ["-- Violations of the rules of the ledger"];
        let plan = server.query_plan(&parts, "force_custom_plan; set enable_sort = on", &[&after_id[0]]).await;
        assert_plan_reads_by_index(&plan, &["using payments_pkey on payments", "payments_reverses"]);
        // The payments of the sample, for each of the three rules.
        assert_eq!(plan.matches("Index Cond: (id > ").count(), 3, "{plan}");
    })
    .await;
}
