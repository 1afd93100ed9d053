//! Query plans of the look-ups of the back office, with missing, fresh and stale statistics: each card and its rows are
//! found by indexes.

use crate::harness::{Server, server};

const ROWS: &str = "
    insert into cards (id, cardgroup_id, number, pin, balance, sold, callerid, serial, batch_number)
    select 1000 + i, 6 + i % 2, (1000000 + i)::text, (5000000 + i)::text, 1, 1, (4700000 + i)::text, 'S' || i, 'B' || i % 50
    from generate_series(1, 30000) i;
    insert into cards (id, cardgroup_id, number, pin, balance, hidden)
    select 100000 + i, 6, (9000000 + i)::text, (9000000 + i)::text, 1, 1 from generate_series(1, 3000) i;
    insert into payments (paymenttype, kind, amount, user_id, card, date_added, reference)
    select 'Card', 'sale', 1, 1000 + i, 1, '2026-01-01'::timestamp + make_interval(secs => i), 'ref' || i from generate_series(1, 30000) i;
    insert into payments (paymenttype, kind, amount, user_id, card, reverses)
    select 'Card', 'refund', -1, 1000 + i, 1, i from generate_series(1, 1000) i;
    insert into actions (action, target_type, target_id, data)
    select 'card_payment_created', 'Payment', i, (1000 + i)::text from generate_series(1, 30000) i;
    insert into actions (action, target_type, target_id) select 'card_sell_over_api', 'Card', 1000 + i from generate_series(1, 30000) i;
    insert into ccorders (id, email, date_added) select i, 'buyer' || i || '@example.com', now() from generate_series(1, 30000) i;
    insert into cclineitems (ccorder_id, card_id) select i, 1000 + i from generate_series(1, 30000) i;
    insert into change_log (who, what, target_id) select 'command', 'card', 1000 + i from generate_series(1, 30000) i;
    insert into change_log (who, what, cardgroup_id, number_from, number_till)
    select 'command', 'card', 6, (1000000 + i)::text, (1000009 + i)::text from generate_series(1, 2000) i;
    insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, created_at, sent_at)
    select 0, 0, 'a', 'm' || i, array[1000 + i]::bigint[], '{1}', 'USD', '2026-01-01'::timestamp + make_interval(secs => i), now()
    from generate_series(1, 5000) i";

const TABLES: [&str; 8] =
    ["cards", "payments", "actions", "ccorders", "cclineitems", "change_log", "email_outbox", "vouchers"];

/// Parts of a statement, its values, and the index conditions that its plan must have.
const LOOKUPS: [(&[&str], &[&str], &[&str]); 17] = [
    (
        &["select id as \"id!\" from cards", "where number = $1", "limit $2"],
        &["'1000042'", "100", "null"],
        &["using cards_number on cards"],
    ),
    (
        &["select id as \"id!\" from cards", "pin <> '' and pin = $1", "limit $2"],
        &["'5000042'", "100", "null"],
        &["using cards_pin on cards"],
    ),
    (
        &["select id from cards", "where callerid <> '' and callerid = $1 and", "coalesce(owner_id, 0) = $2"],
        &["'4700042'", "null"],
        &["using cards_callerid on cards"],
    ),
    (
        &["with ccorder as materialized"],
        &["'Buyer42@example.com'", "100", "null"],
        &["using ccorders_email on ccorders", "using cclineitems_ccorder on cclineitems", "using cards_pkey on cards"],
    ),
    (
        &["with payment as materialized"],
        &["'ref42'", "100", "null"],
        &["using payments_reference on payments", "using cards_pkey on cards"],
    ),
    (&["select id from cards", "where serial = $1 and"], &["'S42'", "100", "null"], &["using cards_serial on cards"]),
    (&["-- Reads a card with its group, owner"], &["1042"], &["using cards_pkey on cards"]),
    (&["as \"replaced_number?\""], &["1042"], &["using payments_user_date_added on payments"]),
    (
        &["as ordered_at"],
        &["1042"],
        &["using cclineitems_card on cclineitems", "using email_outbox_created_at on email_outbox"],
    ),
    (
        &["-- Reads the latest rows of the audit trail about a card"],
        &["1042", "6", "'1000042'", "array[42]", "100"],
        &[
            "using actions_target on actions",
            "using change_log_target on change_log",
            "using change_log_numbers on change_log",
            "using vouchers_number on vouchers",
        ],
    ),
    (
        &["-- Reads what has happened to a card, the latest first"],
        &["1042", "6", "'1000042'", "51", "null", "null", "null", "false"],
        &[
            "using payments_user_date_added on payments",
            "using actions_target on actions",
            "using change_log_target on change_log",
            "using change_log_numbers on change_log",
            "using vouchers_number on vouchers",
            "using cclineitems_card on cclineitems",
            "using ccorders_pkey on ccorders",
            "using email_outbox_created_at on email_outbox",
        ],
    ),
    (
        &["and not exists (select from payments refund"],
        &["array[1042, 1043]"],
        &["using payments_user_date_added on payments", "using payments_reverses on payments"],
    ),
    (&["with recursive chain (id)"], &["1042"], &["using payments_sale_card_unique on payments"]),
    (
        &["m.card_ids && array(select card_id from sale)"],
        &["array[1042]"],
        &["using email_outbox_created_at on email_outbox m", "using payments_"],
    ),
    (
        &["and has_calls(c))", "as \"used!\""],
        &["array[1042]"],
        &["using cards_pkey on cards", "using payments_user_date_added on payments", "using actions_target on actions"],
    ),
    (
        &["has_calls(c) or coalesce(c.callerid", "rule = 'used_unsold'"],
        &["1042"],
        &[
            "using cards_pkey on cards c",
            "using payments_user_date_added on payments",
            "using cclineitems_card on cclineitems",
            "using vouchers_number on vouchers",
            "using actions_target on actions",
        ],
    ),
    (
        &["coalesce(replacing.number"],
        &["1042"],
        &[
            "using change_log_target on change_log",
            "using payments_sale_card_unique on payments",
            "using payments_replaces_card_unique on payments p",
        ],
    ),
];

/// Rows that are new since the last `analyze`.
const MORE_ROWS: &str = "
    insert into actions (action, target_type, target_id, data)
    select 'card_payment_created', 'Payment', 30000 + i, (1000 + i)::text from generate_series(1, 30000) i;
    insert into actions (action, target_type, target_id) select 'Added to cards balance', 'card', 1000 + i from generate_series(1, 30000) i;
    insert into payments (paymenttype, kind, amount, user_id, card, date_added)
    select 'Card', 'top_up', 1, 1000 + i, 1, '2026-06-01'::timestamp + make_interval(secs => i) from generate_series(1, 30000) i";

async fn check(server: &Server) {
    for (parts, values, conditions) in LOOKUPS {
        let plan = server.query_plan(parts, "force_generic_plan", values).await;
        for condition in conditions {
            assert!(plan.contains(condition), "{parts:?}: {condition}\n{plan}");
        }
        for table in TABLES {
            assert!(!plan.contains(&format!("Seq Scan on {table}")), "{parts:?}: {table}\n{plan}");
        }
        // Each index of these tables is read with a condition.
        let mut lines = plan.lines().peekable();
        while let Some(line) = lines.next() {
            let is_scan = TABLES.iter().any(|table| line.contains(" using ") && line.contains(&format!(" on {table}")));
            let has_condition = lines.peek().is_some_and(|next| next.contains("Index Cond: "));
            assert!(!is_scan || has_condition, "{parts:?}: {line}\n{plan}");
        }
    }
}

#[tokio::test]
async fn cards_and_their_rows_are_found_by_indexes() {
    let server = server().await;
    for table in TABLES {
        server.execute(&format!("alter table {table} set (autovacuum_enabled = off)")).await;
    }
    server.execute(ROWS).await;
    check(&server).await;
    server.execute("analyze").await;
    check(&server).await;
    server.execute(MORE_ROWS).await;
    check(&server).await;
}

/// The index of `actions` finds the rows of one card, payment or voucher: it has the id before the type, of which there
/// are few.
#[tokio::test]
async fn history_of_a_card_reads_its_own_audit_rows() {
    let server = server().await;
    let check = async || {
        let history = &["-- Reads the latest rows of the audit trail about a card"];
        let values = ["1042", "6", "'1000042'", "array[42]", "100"];
        let plan = server.query_plan(history, "force_generic_plan", &values).await;
        let mut conditions = Vec::new();
        let mut lines = plan.lines();
        while let Some(line) = lines.next() {
            if line.contains("using actions_target on actions") {
                conditions.push(lines.next().unwrap_or_default().trim());
            }
        }
        let by_id = |condition: &&&str| condition.starts_with("Index Cond: (") && condition.contains("target_id = ");
        assert_eq!((conditions.len(), conditions.iter().filter(by_id).count()), (3, 3), "{plan}");
        assert!(!plan.contains("Seq Scan on actions"), "{plan}");
    };
    server.execute("alter table actions set (autovacuum_enabled = off)").await;
    check().await;
    server.execute(ROWS).await;
    check().await;
    server.execute("analyze").await;
    check().await;
    server.execute(MORE_ROWS).await;
    check().await;
}

/// The function that says which cards a command selects must be inlined: otherwise it is called for each card.
#[tokio::test]
async fn batches_and_ranges_of_numbers_are_selected_by_indexes() {
    let server = server().await;
    server.execute(ROWS).await;
    server.execute("analyze").await;
    for (values, index) in [
        (["null", "'B7'", "null", "null"], "using cards_batch"),
        (["null", "null", "'1000042'", "'1000051'"], "using cards_number on cards"),
    ] {
        let plan = server.query_plan(&["card_state(c) as \"state!\""], "force_custom_plan", &values).await;
        assert!(plan.contains(index) && plan.contains("Index Cond: "), "{values:?}\n{plan}");
    }
}
