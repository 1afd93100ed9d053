//! The states of cards are compared, although MOR has no column for most of them.

use super::Import;

/// Card 101 was used, 102 has a distributor, 103 was emptied, 105 is sold, 106 is hidden, 104 and 107 are free.
const CARDS: &str = "
    update cards set call_count = 1 where id = 101;
    update cards set user_id = 3 where id = 102;
    update cards set balance = 0 where id = 103;
    update cards set sold = 1 where id = 105;
    insert into payments (id, paymenttype, amount, currency, date_added, user_id, card)
        values (11, 'Card', 10, 'USD', '2014-03-30 12:00:00', 103, 1);
    insert into cards (id, number, pin, balance, cardgroup_id, hidden, user_id) values
        (106, '1000000106', '0106', 10, 7, 1, 3), (107, '1000000107', '0107', 10, 7, 0, -1)";

#[tokio::test]
async fn a_difference_in_each_state_is_found() {
    let import = Import::new(CARDS).await;
    let output = import.import_ok(&[]);
    assert!(output.stdout.contains("every row and every checksum agrees"), "{output:?}");
    let reconcile = || import.run(&["reconcile", &import.mor.url()]);
    let output = reconcile();
    assert!(output.code == 0 && output.stdout.contains("Equal:"), "{output:?}");
    for (id, change, restore, differences) in [
        (
            104,
            "retired_at = now()",
            "retired_at = null",
            ["free: 2 expected, 1 in Mortise", "retired: 1 expected, 2 in Mortise"],
        ),
        (
            104,
            "withheld = 'assigned'",
            "withheld = null",
            ["free: 2 expected, 1 in Mortise", "assigned: 0 expected, 1 in Mortise"],
        ),
        (
            105,
            "withheld = 'blocked'",
            "withheld = null",
            ["blocked: 0 expected, 1 in Mortise", "blocked: 0 expected, 1 in Mortise"],
        ),
        (
            101,
            "quarantined_at = null",
            "quarantined_at = now()",
            ["free: 2 expected, 3 in Mortise", "quarantined: 1 expected, 0 in Mortise"],
        ),
        (
            103,
            "retired_at = null, quarantined_at = now()",
            "retired_at = now(), quarantined_at = null",
            ["quarantined: 1 expected, 2 in Mortise", "retired: 1 expected, 0 in Mortise"],
        ),
        (
            102,
            "withheld = null",
            "withheld = 'reserved'",
            ["free: 2 expected, 3 in Mortise", "reserved: 1 expected, 0 in Mortise"],
        ),
    ] {
        import.execute(&format!("update cards set {change} where id = {id}")).await;
        let output = reconcile();
        assert_eq!(output.code, 1, "{change}: {output:?}");
        for difference in differences {
            assert!(output.stdout.contains(&format!("DIFFERENCE cards: 7: {difference}")), "{change}: {output:?}");
        }
        import.execute(&format!("update cards set {restore} where id = {id}")).await;
    }
    let output = reconcile();
    assert_eq!(output.code, 0, "{output:?}");
}
