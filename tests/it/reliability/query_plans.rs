//! How the database carries out what must stay fast in large tables, whether its statistics are fresh, stale or missing.

use crate::harness::{Server, server};

/// Most of a group is sold, and it stands among others.
const CARDS: &str = "insert into cards (id, cardgroup_id, number, pin, balance, sold)
    select 1000 + i, 6 + i % 4, (1000000 + i)::text, (5000000 + i)::text, 1, case when i < 58000 then 1 else 0 end
    from generate_series(1, 60000) i where 6 + i % 4 <> 8;
    insert into payments (paymenttype, kind, amount, user_id) select 'Card', 'sale', 1, id from cards where sold = 1 and id > 1000";

/// What a shop begins with.
const FEW: &str = "insert into cards (id, cardgroup_id, number, pin, balance)
    select 200000 + i, 11, (3000000 + i)::text, (30000000 + i)::text, 7 from generate_series(1, 6000) i";

/// The sale of one card, as `card_from_group_sell` sends it: without order rows, as an X7 server, with them, with a key, and together with
/// others.
const DOCUMENTED: &str = "from picked where (select true";
const SALES: [(&[&str], &[&str]); 5] = [
    (&["as now\n", DOCUMENTED], &["6", "0", "0", "true", "'USD'", "1", "1", "1"]),
    (
        &["as now\n", "from picked where (select count(*) from picked where has_taxes"],
        &["6", "0", "0", "true", "'USD'", "1", "1", "1"],
    ),
    (
        &["as ccorder_id\n", DOCUMENTED],
        &["6", "0", "0", "true", "'USD'", "1", "1", "1", "1", "'USD'", "'buyer@example.com'", "'example.com'", "null"],
    ),
    (
        &["as now\n", DOCUMENTED, "stored_reply as"],
        &["6", "0", "0", "true", "'USD'", "1", "1", "1", "'key'", "'print'", "'USD'"],
    ),
    (
        &["asked (id, quantity)"],
        &[
            "array[6, 9]",
            "0",
            "0",
            "array[1, 2]",
            "'USD'",
            "1",
            "array[6]",
            "array[1]",
            "array[1]",
            "array['key']",
            "array['print'::bytea]",
        ],
    ),
];

async fn at_each_age_of_the_statistics(look: impl AsyncFn(&Server)) {
    // Missing: nobody has looked at the tables yet, be there few cards or many.
    let server = server().await;
    server
        .execute(
            "alter table cards set (autovacuum_enabled = off); alter table card_stock set (autovacuum_enabled = off)",
        )
        .await;
    server.execute(FEW).await;
    look(&server).await;
    server.execute(CARDS).await;
    look(&server).await;
    server.execute("analyze").await;
    look(&server).await;
    // Stale: most of what they tell of is gone.
    server
        .execute(
            "update cards set sold = 1 where id in (select card_id from card_stock where cardgroup_id = 6 limit 400)",
        )
        .await;
    look(&server).await;
}

#[tokio::test]
async fn a_sale_looks_at_free_cards_only() {
    at_each_age_of_the_statistics(async |server| {
        for (parts, values) in SALES {
            let plan = server.query_plan(parts, "force_generic_plan", values).await;
            assert!(plan.contains("using card_stock_pkey on card_stock"), "{plan}");
            assert!(plan.contains("using cards_pkey on cards"), "{plan}");
            // Groups are found by their ids.
            assert!(!plan.contains("Join Filter"), "{plan}");
            // In the index's order: nothing is gathered and sorted before the first card is locked.
            let pick = plan.split("LockRows").nth(1).unwrap().split("CTE sale").next().unwrap();
            assert!(!pick.contains("Sort"), "{plan}");
            assert!(pick.contains("using cards_pkey on cards c"), "{plan}");
            for table in ["cards", "card_stock", "payments"] {
                assert!(!plan.contains(&format!("Seq Scan on {table}")), "{table}: {plan}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_group_is_shown_without_its_sold_cards() {
    at_each_age_of_the_statistics(async |server| {
        let plan = server.query_plan(&["as \"free_cards!\""], "force_generic_plan", &["6", "0", "1"]).await;
        assert!(plan.contains("using card_stock_pkey on card_stock"), "{plan}");
        assert!(!plan.contains("on cards"), "{plan}");
    })
    .await;
}
