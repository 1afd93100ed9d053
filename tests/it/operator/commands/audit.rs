//! `mortise audit`.

use super::Operator;

fn actions(rows: &serde_json::Value) -> Vec<&str> {
    rows.as_array().unwrap().iter().map(|row| row["action"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn audit_rows_are_filtered() {
    let operator = Operator::new().await;
    let sold = operator.server.post_signed("card_from_group_sell", "u=accountant&id=6&number=1111111002", "6").await;
    assert_eq!(sold.element_texts("number").len(), 1, "{}", sold.body);
    operator.run_ok(&["user", "block", "reseller"]);
    operator.attempt_sale("admin", "wrong").await.assert_status_error("Incorrect hash");
    operator.server.execute("update actions set date = date - interval '3 hours' where action = 'user_blocked'").await;

    let all = operator.run_json(&["audit"]);
    assert_eq!(actions(&all), ["card_payment_created", "card_sell_over_api", "user_blocked", "error"]);
    assert_eq!((all[1]["user"].as_str(), all[1]["target_id"].as_i64()), (Some("accountant"), Some(3)));
    for (arguments, expected) in [
        (&["--user", "accountant"][..], &["card_payment_created", "card_sell_over_api"][..]),
        (&["--user", "reseller"], &["user_blocked"]),
        (&["--card", "1111111002"], &["card_payment_created", "card_sell_over_api"]),
        (&["--card", "1111111001"], &[]),
        (&["--action", "BLOCK"], &["user_blocked"]),
        (&["--action", "incorrect hash"], &["error"]),
        (&["--since", "1h"], &["card_payment_created", "card_sell_over_api", "error"]),
        (&["--since", "1h", "--action", "card_"], &["card_payment_created", "card_sell_over_api"]),
        (&["--limit", "2"], &["user_blocked", "error"]),
    ] {
        assert_eq!(actions(&operator.run_json(&[&["audit"], arguments].concat())), expected, "{arguments:?}");
    }
    operator.assert_error(&["audit", "--user", "unknown"], 3, "there is no user \"unknown\"");
    operator.assert_error(&["audit", "--card", "1"], 3, "there is no card 1");
    operator.assert_error(&["audit", "--since", "yesterday"], 2, "invalid value 'yesterday'");
}

#[tokio::test]
async fn control_characters_do_not_break_lines() {
    let operator = Operator::new().await;
    operator
        .server
        .execute(
            "insert into actions (user_id, date, action, data, data2, target_type) values
                  (-1, '2026-01-02 03:04:05', 'error', E'one\\n\\033[31mtwo', 'three', ''),
                  (99, '2026-01-02 03:04:06', 'card_sell_over_api', '', null, 'Card')",
        )
        .await;
    assert_eq!(
        operator.run_ok(&["audit"]),
        "DATE (UTC)           USER  ACTION              TARGET  DATA\n\
         2026-01-02 03:04:05  -     error                       one\u{fffd}\u{fffd}[31mtwo, three\n\
         2026-01-02 03:04:06  99    card_sell_over_api  Card\n"
    );
}
