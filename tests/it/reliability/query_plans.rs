//! Query plans of the statements that must stay fast in large tables, with fresh, stale and missing statistics.

use crate::harness::{Server, server};

/// 45,000 cards of three groups, most of them sold.
const CARDS: &str = "insert into cards (id, cardgroup_id, number, pin, balance, sold)
    select 1000 + i, 6 + i % 4, (1000000 + i)::text, (5000000 + i)::text, 1, case when i < 58000 then 1 else 0 end
    from generate_series(1, 60000) i where 6 + i % 4 <> 8;
    insert into payments (paymenttype, kind, amount, user_id)
    select 'Card', 'sale', 1, id from cards where sold = 1 and id > 1000";

/// The stock of a new installation.
const FEW_CARDS: &str = "insert into cards (id, cardgroup_id, number, pin, balance)
    select 200000 + i, 11, (3000000 + i)::text, (30000000 + i)::text, 7 from generate_series(1, 6000) i";

/// The statements of `card_from_group_sell`, with parts that identify them and with their parameters: of one order, of
/// several orders, and of one order in the dialect `x7`.
const SALES: [(&[&str], &[&str]); 3] = [
    (&["-- Sells the next free cards of one group:"], &["6", "0", "0", "'USD'", "1", "1", "'key'", "'fingerprint'"]),
    (
        &["-- Sells the next free cards of one or several groups"],
        &[
            r#"'[{"group_id": 6, "quantity": 1, "key": "a"}, {"group_id": 9, "quantity": 2}, {"group_id": 6, "quantity": 1}]'"#,
            "0",
            "0",
            "'USD'",
            "1",
            "false",
            "false",
        ],
    ),
    (
        &["-- Sells the next free cards of one or several groups"],
        &[r#"'[{"group_id": 6, "quantity": 1, "key": "a"}]'"#, "0", "0", "'USD'", "1", "true", "true"],
    ),
];

/// Calls `check` with missing, fresh and stale statistics.
async fn with_statistics_of_each_age(check: impl AsyncFn(&Server)) {
    // Missing: the tables have never been analyzed, first with few cards, then with many.
    let server = server().await;
    server
        .execute(
            "alter table cards set (autovacuum_enabled = off); alter table card_stock set (autovacuum_enabled = off)",
        )
        .await;
    server.execute(FEW_CARDS).await;
    check(&server).await;
    server.execute(CARDS).await;
    check(&server).await;
    // Fresh.
    server.execute("analyze").await;
    check(&server).await;
    // Stale: most of the group's free cards have been sold since.
    server
        .execute(
            "update cards set sold = 1 where id in (select card_id from card_stock where cardgroup_id = 6 limit 400)",
        )
        .await;
    check(&server).await;
}

async fn assert_sale_reads_free_cards_only(server: &Server) {
    for (parts, values) in SALES {
        let plan = server.query_plan(parts, "force_generic_plan", values).await;
        assert!(plan.contains("using card_stock_pkey on card_stock"), "{plan}");
        // Card groups and cards are looked up by id.
        assert!(!plan.split("CTE sale").next().unwrap().contains("Join Filter"), "{plan}");
        // Cards are locked in the order of the index, without collecting and sorting them first.
        let pick = plan.split("LockRows").nth(1).unwrap().split("CTE sale").next().unwrap();
        assert!(!pick.contains("Sort"), "{plan}");
        assert!(pick.contains("using cards_pkey on cards c"), "{plan}");
        assert!(pick.contains("Index Cond: (id = s.card_id)"), "{plan}");
        // Each key is looked up: the seller's stored keys are not all read into a hash table.
        let key_lookup = "Index Cond: ((user_id = $3) AND (operation = 'card_from_group_sell'::text) AND (key = ";
        assert!(plan.contains(key_lookup), "{plan}");
        assert!(!plan.contains("hashed SubPlan"), "{plan}");
        for table in ["cards", "card_stock", "payments"] {
            assert!(!plan.contains(&format!("Seq Scan on {table}")), "{table}: {plan}");
        }
    }
}

#[tokio::test]
async fn sale_reads_free_cards_only() {
    with_statistics_of_each_age(assert_sale_reads_free_cards_only).await;
}

/// Most cards are unsold, as in the demo.
#[tokio::test]
async fn sale_from_a_new_stock_reads_free_cards_only() {
    let server = server().await;
    server
        .execute(
            "insert into cardgroups (id, owner_id, name, number_length, pin_length)
             select 1000 + i, 0, 'group ' || i, 7, 8 from generate_series(1, 6) i;
             insert into cards (id, cardgroup_id, number, pin, balance, sold)
             select 1000 + i, case when i <= 10000 then 6 else 1001 + i % 6 end, (4000000 + i)::text,
                 (40000000 + i)::text, 7, case when i > 11400 then 1 else 0 end
             from generate_series(1, 14700) i;
             analyze",
        )
        .await;
    assert_sale_reads_free_cards_only(&server).await;
}

#[tokio::test]
async fn card_group_query_does_not_read_sold_cards() {
    with_statistics_of_each_age(async |server| {
        let plan = server.query_plan(&["as \"free_cards!\""], "force_generic_plan", &["6", "0", "1"]).await;
        assert!(plan.contains("using card_stock_pkey on card_stock"), "{plan}");
        assert!(!plan.contains("on cards"), "{plan}");
    })
    .await;
}

/// A number or PIN is looked up by its own index. A lookup must not read another index of all cards, although its
/// condition (neither deleted nor quarantined) also holds for the card.
#[tokio::test]
async fn numbers_and_pins_are_looked_up_by_their_index() {
    with_statistics_of_each_age(async |server| {
        for (part, values, conditions) in [
            ("select min(found.id)", ["6", "'42'"].as_slice(), ["(number = lpad(", "using cards_pkey on cards c"]),
            ("c.number as \"number!\"", &["'42'", "0"], ["using cards_number on cards c", "(number = "]),
            ("select balance as \"balance: Money\"", &["'42'", "null"], ["using cards_number on cards", "(number = "]),
            ("select id, cardgroup_id from cards", &["'42'"], ["using cards_number on cards", "(number = "]),
            ("as \"group_visible!\"", &["'42'", "'43'"], ["using cards_pin on cards", "using cards_callerid on cards"]),
            (
                "-- Creates the cards whose numbers are not in use",
                &["1000000", "1000020", "7", "array['1', '2']", "'{\"cardgroup_id\": 6}'"],
                ["using cards_pin on cards c", "using cards_number on cards c"],
            ),
        ] {
            let plan = server.query_plan(&[part], "force_generic_plan", values).await;
            assert!(conditions.iter().all(|condition| plan.contains(condition)), "{plan}");
            assert!(!plan.contains("Seq Scan on cards "), "{plan}");
            // Each index of cards is read with a condition.
            let mut lines = plan.lines().skip_while(|line| !line.contains(" on cards")).peekable();
            while let Some(line) = lines.next() {
                let is_scan = line.contains(" using cards_") && line.contains(" on cards");
                assert!(!is_scan || lines.peek().is_some_and(|next| next.contains("Index Cond: ")), "{plan}");
            }
        }
    })
    .await;
}

/// A page of `calling_cards_get` reads on in the order of the index, whatever the statistics are: it sorts nothing, and
/// reads no card before its start. `mortise cards export` reads its pages in the same way.
#[tokio::test]
async fn pages_of_lists_continue_in_index_order() {
    with_statistics_of_each_age(async |server| {
        let mode = "force_custom_plan; set enable_incremental_sort = off";
        let statement = ["-- Lists the first $3 cards that match the filters $1"];
        let filters = ["{}", r#"{"name": "no name%"}"#, r#"{"batch_number": "no batch%"}"#, r#"{"sold": 1}"#];
        for filter in filters {
            for (start, condition) in [
                (
                    r#"{"AfterNumber": {"group": 7, "number": "1030000"}}"#,
                    "Index Cond: ((ROW(cardgroup_id, number) > ROW(7, '1030000'::text))",
                ),
                (r#"{"AfterGroup": {"group": 7}}"#, "Index Cond: (cardgroup_id > 7)"),
            ] {
                let values = [&format!("'{filter}'"), &format!("'{start}'"), "2000", "null"];
                let plan = server.query_plan(&statement, mode, &values).await;
                assert!(
                    plan.contains("Index Scan using cards_group_number on cards c") && plan.contains(condition),
                    "{plan}"
                );
                assert!(!plan.contains("Sort"), "{plan}");
            }
        }
        let unnumbered = ["'{}'", r#"'{"AfterUnnumbered": {"group": 7, "id": 5}}'"#, "2000", "null"];
        let plan = server.query_plan(&statement, "force_custom_plan", &unnumbered).await;
        assert!(plan.contains("number IS NULL") && !plan.contains("using cards_pkey"), "{plan}");
        for values in [
            ["11", "false", "null", "null", "null", "2000", "null", "null"],
            ["11", "true", "'B'", "'1030000'", "null", "2000", "'1000000'", "'1040000'"],
        ] {
            let plan = server.query_plan(&["between $1 and $1"], mode, &values).await;
            assert!(plan.contains("Index Scan using cards_group_number on cards c"), "{plan}");
            assert!(!plan.contains("Sort"), "{plan}");
        }
        let groups = server
            .query_plan(
                &["from cardgroups g\n", "as \"card_count!\""],
                "force_generic_plan",
                &["null", "0", "0", "7", "2000"],
            )
            .await;
        assert!(groups.contains("Index Cond: (id > $4)") && !groups.contains("Sort"), "{groups}");
    })
    .await;
}

/// 30,000 destinations, a wholesale tariff and a retail tariff with a rate for each, and small tariffs.
const RATES: &str = "insert into directions (name, code) select 'Direction ' || i, 'D' || i from generate_series(1, 300) i;
    insert into destinationgroups (name) select 'Group ' || i from generate_series(1, 30000) i;
    insert into destinations (prefix, direction_code, name, destinationgroup_id)
    select (1000000 + i)::text, 'D' || i % 300, 'Destination ' || i, i from generate_series(1, 30000) i;
    insert into tariffs (id, name, purpose) values (50, 'retail', 'user'), (51, 'wholesale', 'user_wholesale'), (52, 'small', 'user');
    insert into rates (tariff_id, destinationgroup_id) select 50, id from destinationgroups;
    insert into rates (tariff_id, destination_id) select 51, id from destinations;
    insert into aratedetails (rate_id, duration, price) select id, -1, 1 from rates where tariff_id = 50;
    insert into ratedetails (rate_id, rate) select id, 1 from rates where tariff_id = 51;
    insert into customrates (user_id, destinationgroup_id) select 2 + id % 20, id from destinationgroups;
    insert into acustratedetails (customrate_id, duration, price) select id, -1, 1 from customrates";
/// A tariff that is new since the last `analyze`.
const MORE_RATES: &str = "insert into rates (tariff_id, destinationgroup_id) select 52, id from destinationgroups;
    insert into aratedetails (rate_id, duration, price) select id, -1, 1 from rates where tariff_id = 52";

/// Each table that grows with the rates is read by its index, with the whole condition.
#[tokio::test]
async fn rate_is_found_by_indexes() {
    let server = server().await;
    let check = async || {
        let plan = server
            .query_plan(&["-- The prices of a user"], "force_generic_plan", &["2", "array['1', '12']", "true"])
            .await;
        for condition in [
            "Index Cond: (prefix = ANY ($2))",
            "Index Cond: ((tariff_id = t.id) AND (destinationgroup_id = g.id))",
            "Index Cond: ((tariff_id = t.id) AND (destination_id = destinations.id))",
            "Index Cond: ((user_id = u.id) AND (destinationgroup_id = g.id))",
            "using aratedetails_rate on aratedetails",
            "using ratedetails_rate on ratedetails",
            "using acustratedetails_customrate on acustratedetails",
            "using destinationgroups_pkey on destinationgroups",
        ] {
            assert!(plan.contains(condition), "{condition}:\n{plan}");
        }
        assert!(!plan.contains("Seq Scan"), "{plan}");
    };
    server
        .execute(
            "alter table rates set (autovacuum_enabled = off); alter table aratedetails set (autovacuum_enabled = off);
             alter table ratedetails set (autovacuum_enabled = off); alter table destinations set (autovacuum_enabled = off)",
        )
        .await;
    check().await;
    server.execute(RATES).await;
    check().await;
    server.execute("analyze").await;
    check().await;
    server.execute(MORE_RATES).await;
    check().await;
}
