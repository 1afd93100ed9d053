//! `mortise currency`.

use super::Operator;

#[tokio::test]
async fn currencies_are_added_changed_and_listed() {
    let operator = Operator::new().await;
    operator.server.execute("select setval('currencies_id_seq', 4)").await;
    assert_eq!(
        operator.run_ok(&["currency", "add", "GBP", "0.8", "--full-name", "Pound"]),
        "The currency GBP was added, with the rate 0.8.\n"
    );
    assert_eq!(
        operator.run_ok(&["currency", "set", "jpy", "--rate", "110", "--active", "on"]),
        "JPY has the rate 110.0 and is on now.\n"
    );
    operator
        .assert_changes(&[
            "currency 5 GBP -> {\"id\": 5, \"name\": \"GBP\", \"active\": 1, \"full_name\": \"Pound\", \
             \"exchange_rate\": 0.800000000000000}",
            "currency 3 JPY {\"active\": 0, \"exchange_rate\": 101.333333333333333} -> \
             {\"active\": 1, \"exchange_rate\": 110.000000000000000}",
        ])
        .await;
    let listed = operator.run_ok(&["currency", "list"]);
    let column = |line: &str| line.split_whitespace().take(4).collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = listed.lines().map(column).collect();
    assert_eq!(
        lines,
        [
            "ID NAME RATE ACTIVE",
            "1 USD 1.0 yes",
            "2 EUR 0.7441 yes",
            "3 JPY 110.0 yes",
            "4 LTL 2.5693 yes",
            "5 GBP 0.8 yes"
        ]
    );
    assert_eq!(operator.run_json(&["currency", "list"])[4]["exchange_rate"], "0.8");
}

#[tokio::test]
async fn invalid_changes_are_refused() {
    let operator = Operator::new().await;
    operator.assert_error(&["currency", "set", "USD", "--rate", "2"], 1, "USD is the system's currency");
    operator.assert_error(&["currency", "add", "eur", "2"], 1, "the currency eur already exists");
    operator.assert_error(&["currency", "set", "XXX", "--rate", "2"], 3, "there is no currency XXX");
    operator.assert_error(&["currency", "set", "EUR"], 2, "--rate or --active");
    for rate in ["0", "1e9", "1,5", "x"] {
        operator.assert_error(
            &["currency", "set", "EUR", "--rate", rate],
            2,
            "expected a rate above 0, such as 0.9174",
        );
    }
    operator.assert_error(&["currency", "add", "EURO 1", "2"], 2, "one to five letters");
    operator
        .server
        .assert_rows(
            "select exchange_rate from currencies where id < 3 order by id",
            &["1.000000000000000", "0.744100000000000"],
        )
        .await;
    operator.server.assert_rows("select count(*) from change_log", &["0"]).await;
}
