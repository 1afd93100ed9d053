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
    operator.server.execute("update change_log set at = at - interval '3 hours'").await;
    operator.run_ok(&["cards", "generate", "--group", "6", "--quantity", "2", "--from", "1111111005"]);

    let all = operator.run_json(&["audit"]);
    let in_order = ["user_changed", "card_payment_created", "card_sell_over_api", "error", "card_changed"];
    assert_eq!(actions(&all), in_order);
    assert_eq!((all[2]["user"].as_str(), all[2]["target_id"].as_i64()), (Some("accountant"), Some(3)));
    assert_eq!((all[0]["user"].as_str(), all[0]["target_name"].as_str()), (Some("command (ann)"), Some("reseller")));
    assert_eq!((&all[0]["before"]["blocked"], &all[0]["after"]["blocked"]), (&0.into(), &1.into()));
    let text = operator.run_ok(&["audit", "--user", "reseller"]);
    assert!(
        text.contains("command (ann)  user_changed  user reseller  {\"blocked\": 0} -> {\"blocked\": 1}"),
        "{text}"
    );
    for (arguments, expected) in [
        (&["--user", "accountant"][..], &["card_payment_created", "card_sell_over_api"][..]),
        (&["--user", "reseller"], &["user_changed"]),
        (&["--card", "1111111002"], &["card_payment_created", "card_sell_over_api"]),
        (&["--card", "1111111001"], &[]),
        // A card of a range.
        (&["--card", "1111111006"], &["card_changed"]),
        (&["--action", "BLOCK"], &["user_changed"]),
        (&["--action", "incorrect hash"], &["error"]),
        (&["--since", "1h"], &["card_payment_created", "card_sell_over_api", "error", "card_changed"]),
        (&["--since", "1h", "--action", "card_"], &["card_payment_created", "card_sell_over_api", "card_changed"]),
        (&["--limit", "2"], &["error", "card_changed"]),
    ] {
        assert_eq!(actions(&operator.run_json(&[&["audit"], arguments].concat())), expected, "{arguments:?}");
    }
    operator.assert_error(&["audit", "--user", "unknown"], 3, "there is no user \"unknown\"");
    operator.assert_error(&["audit", "--card", "1"], 3, "there is no card 1");
    operator.assert_error(&["audit", "--since", "yesterday"], 2, "invalid value 'yesterday'");
}

/// A text that is longer than a formatted column can be.
#[tokio::test]
async fn very_long_text_is_printed() {
    let operator = Operator::new().await;
    operator
        .server
        .execute("insert into actions (user_id, action, target_type) values (6, repeat('x', 70000), 'Card')")
        .await;
    let output = operator.run_ok(&["audit"]);
    let row = output.lines().last().unwrap();
    assert!(row.len() < 71_000 && row.ends_with("x  Card"), "{} characters", row.len());
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
