//! `/sales/reconciliation`: a provider's list, uploaded as a file.

use mortise::console::access::Role;

use super::sales::console_with_payments;
use super::{Client, Page, console};

const DAYS: [(&str, &str); 2] = [("from", "2026-11-01"), ("to", "2026-11-30")];

async fn compare(client: &Client, fields: &[(&str, &str)], list: &str) -> Page {
    client.upload("/sales/reconciliation", fields, "file", "list.csv", list).await
}

#[tokio::test]
async fn differences_are_listed() {
    let console = console_with_payments().await;
    let admin = console.log_in(Role::Admin).await;
    // The tax of A1 is on top: 11.90. A5 is missing, R1 differs, and nothing has the reference of line 4. The refunded
    // sale is in no list.
    let list = "reference,amount,currency\nA1,11.90,usd\nR1,4.5,EUR\n<b>X</b>,1,EUR\nR2,20.00,EUR\n";
    let page = compare(&admin, &DAYS, list).await;
    assert_eq!(page.status, 200, "{}", page.text());
    page.assert_contains("The list and the payments differ.");
    page.assert_contains("Matched 2 Missing here 1 Missing in the list 1 Different amounts 1");
    page.assert_contains("Missing here <b>X</b> EUR 1.0 – 4");
    page.assert_contains("Missing in the list A5 EUR – 5.75");
    page.assert_contains("Different amounts R1 EUR 4.5 5.0 3");
    assert!(!page.body.contains("<b>X</b>"));
    // Only the payments of one shop must be in the list.
    let list = "reference;amount;currency\nA1;11.9;USD\n";
    let page = compare(&admin, &[&DAYS[..], &[("user", "user")]].concat(), list).await;
    page.assert_contains("The list and the payments agree.");
    page.assert_contains("Matched 1 Missing here 0 Missing in the list 0 Different amounts 0");
    // Without days, an empty list is compared with nothing.
    let page = compare(&admin, &[], "reference,amount,currency\n").await;
    page.assert_contains("The list names no payment: nothing was compared.");
    // Nothing was stored.
    console.server.assert_rows("select count(*) from payments", &["8"]).await;
}

#[tokio::test]
async fn a_reseller_compares_the_own_payments_only() {
    let console = console_with_payments().await;
    let reseller = console.log_in_reseller(3).await;
    // The payment A1 belongs to the admin: for the reseller it does not exist, whatever its amount.
    let list = "reference,amount,currency\nA1,1,USD\nR1,5,EUR\n";
    let page = compare(&reseller, &DAYS, list).await;
    page.assert_contains("Matched 1 Missing here 1 Missing in the list 1 Different amounts 0");
    page.assert_contains("Missing here A1 USD 1.0 – 2");
    page.assert_contains("Missing in the list R2 EUR – 20.0");
    page.assert_secret("11.9");
    // Without days, the list's own payments give them.
    let page = compare(&reseller, &[], list).await;
    page.assert_contains("Matched 1 Missing here 1 Missing in the list 0 Different amounts 0");
    let page = compare(&reseller, &[("user", "user")], list).await;
    assert_eq!(page.status, 404);
    page.assert_contains("There is no user \"user\".");
}

#[tokio::test]
async fn unusable_files_are_refused() {
    let console = console().await;
    let support = console.log_in(Role::Support).await;
    let cases = [
        ("", 422, "Choose a file that is not empty."),
        ("a,b\n1,2\n", 422, "The first line of the list must name the column reference"),
        (
            "reference,amount,currency\nA,x,USD\nB,1,\n",
            422,
            "The list has bad lines: Line 2: the amount is not a decimal",
        ),
    ];
    for (list, status, text) in cases {
        let page = compare(&support, &[], list).await;
        assert_eq!(page.status, status, "{list:?}: {}", page.text());
        page.assert_contains(text);
    }
    let page = compare(&support, &[("to", "2026-11-01")], "reference,amount,currency\n").await;
    assert_eq!(page.status, 422);
    let page = support.upload("/sales/reconciliation", &[], "file", "list.csv", vec![b'x'; 64 << 20]).await;
    assert_eq!(page.status, 413);
    page.assert_contains("The file is larger than 64 MiB.");
    // A form without a file, and one of another session.
    assert_eq!(support.post("/sales/reconciliation", &[]).await.status, 400);
    let mut foreign = console.log_in(Role::Support).await;
    foreign.token = support.token.clone();
    assert_eq!(compare(&foreign, &[], "reference,amount,currency\n").await.status, 403);
    let read_only = console.log_in(Role::ReadOnly).await;
    assert_eq!(compare(&read_only, &[], "reference,amount,currency\n").await.status, 403);
    read_only
        .get("/sales/reconciliation")
        .await
        .assert_contains("Accounts with the role read-only cannot upload a list.");
}

/// A list that is larger than what stays in memory, with more differences than the page shows.
#[tokio::test]
async fn a_large_list_is_compared() {
    let console = console_with_payments().await;
    let admin = console.log_in(Role::Admin).await;
    let lines: String = (0..100_000).map(|line| format!("reference {line},1.00,USD\n")).collect();
    assert!(lines.len() > 1 << 20);
    let page = compare(&admin, &DAYS, &format!("reference,amount,currency\n{lines}")).await;
    page.assert_contains("Missing here 100000 Missing in the list 4");
    page.assert_contains("And 99504 more.");
    assert_eq!(page.body.matches("<td>Missing ").count(), 500);
}
