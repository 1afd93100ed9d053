//! The rules of the ledger, which the audits of the chaos, soak and contention tests check: each of them can fail.

use crate::harness::{ledger, server};

/// A violation of each rule of `ledger::VIOLATION_QUERIES`, in this order. Rows are damaged as a wrong statement of the
/// program would: where the database prevents it, its index is dropped before.
const DAMAGES: [&[&str]; 4] = [
    &[
        "drop index payments_sale_card_unique; insert into payments (kind, user_id) values ('sale', 4), ('sale', 4)",
        "drop index payments_sale_card_unique; insert into payments (kind, user_id) values ('sale', 4), ('reissue', 4)",
    ],
    &[
        // More than was paid, in amount and in tax, in one refund and in several; of the same sign.
        "insert into payments (kind, user_id, reverses, amount, tax) values ('refund', 4, 1000, -10.000000000000001, 0)",
        "insert into payments (kind, user_id, reverses, amount, tax) values ('refund', 4, 1000, -6, 0), ('refund', 4, 1000, -5, 0)",
        "insert into payments (kind, user_id, reverses, amount, tax) values ('refund', 4, 1000, -10, -1.900000000000001)",
        "insert into payments (kind, user_id, reverses, amount, tax) values ('refund', 4, 1000, 0.000000000000001, 0)",
        "update payments set tax = null;
         insert into payments (kind, user_id, reverses, amount, tax) values ('refund', 4, 1000, -10, -1)",
    ],
    &[
        "insert into payments (kind, user_id, amount) values ('refund', 4, -1)",
        "insert into payments (kind, user_id, amount, reverses) values ('top_up', 4, -1, 1000)",
    ],
    &["update cards set retired_at = now(), balance = 0.000000000000001 where id = 4"],
];

#[tokio::test]
async fn each_violation_is_found() {
    for ((violation, query), damages) in ledger::VIOLATION_QUERIES.into_iter().zip(DAMAGES) {
        for damage in damages {
            let server = server().await;
            server
                .execute("insert into payments (id, kind, user_id, amount, tax) values (1000, 'top_up', 4, 10, 1.9)")
                .await;
            assert!(server.rows(query).await.is_empty(), "{violation}");
            server.execute(damage).await;
            assert_eq!(server.rows(query).await.len(), 1, "{violation}: {damage}");
        }
    }
}

/// A full refund, or several, are no violation.
#[tokio::test]
async fn refunds_up_to_the_payment_are_allowed() {
    let server = server().await;
    server
        .execute(
            "insert into payments (id, kind, user_id, amount, tax) values (1000, 'top_up', 4, 10, 1.9);
             insert into payments (kind, user_id, reverses, amount, tax) values
                 ('refund', 4, 1000, -4.000000000000001, -0.76), ('refund', 4, 1000, -5.999999999999999, -1.14)",
        )
        .await;
    let balances = server.rows(ledger::UNPAID_BALANCES_QUERY).await.concat();
    ledger::assert_holds(&server, &balances).await;
}

/// The sum of all balances changes with `balance_change`, to the 15th decimal.
#[tokio::test]
async fn unpaid_changes_of_balances_are_found() {
    let server = server().await;
    let balances = server.rows(ledger::UNPAID_BALANCES_QUERY).await.concat();
    server
        .execute(
            "update cards set balance = balance + 1.5 where id = 4; update users set balance = balance - 0.5 where id = 2;
             insert into payments (kind, balance_change) values ('top_up', 1.5), ('write_off', -0.5)",
        )
        .await;
    ledger::assert_holds(&server, &balances).await;
    for damage in [
        "update cards set balance = balance + 0.000000000000001 where id = 4",
        "update users set balance = balance - 0.000000000000002 where id = 2",
        "insert into payments (kind, balance_change) values ('write_off', -0.000000000000003)",
    ] {
        let before = server.rows(ledger::UNPAID_BALANCES_QUERY).await;
        server.execute(damage).await;
        assert_ne!(server.rows(ledger::UNPAID_BALANCES_QUERY).await, before, "{damage}");
    }
}
