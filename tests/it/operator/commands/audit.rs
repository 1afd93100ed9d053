//! `mortise audit`.

use super::Operator;

fn actions(found: &serde_json::Value) -> Vec<&str> {
    found.as_array().unwrap().iter().map(|row| row["action"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_trail_is_searched() {
    let operator = Operator::new().await;
    let sold = operator.server.post_signed("card_from_group_sell", "u=accountant&id=6&number=1111111002", "6").await;
    assert_eq!(sold.element_texts("number").len(), 1, "{}", sold.body);
    operator.says(&["user", "block", "reseller"]);
    operator.ask("admin", "wrong").await.assert_status_error("Incorrect hash");
    operator.server.execute("update actions set date = date - interval '3 hours' where action = 'user_blocked'").await;

    let all = operator.json(&["audit"]);
    assert_eq!(actions(&all), ["card_payment_created", "card_sell_over_api", "user_blocked", "error"]);
    assert_eq!((all[1]["user"].as_str(), all[1]["target_id"].as_i64()), (Some("accountant"), Some(3)));
    for (arguments, found) in [
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
        assert_eq!(actions(&operator.json(&[&["audit"], arguments].concat())), found, "{arguments:?}");
    }
    operator.refuses(&["audit", "--user", "nobody"], 3, "there is no user \"nobody\"");
    operator.refuses(&["audit", "--card", "1"], 3, "there is no card 1");
    operator.refuses(&["audit", "--since", "yesterday"], 2, "invalid value 'yesterday'");
}

#[tokio::test]
async fn a_row_is_a_line_whatever_is_in_it() {
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
        operator.says(&["audit"]),
        "DATE (UTC)           USER  ACTION              TARGET  DATA\n\
         2026-01-02 03:04:05  -     error                       one\u{fffd}\u{fffd}[31mtwo, three\n\
         2026-01-02 03:04:06  99    card_sell_over_api  Card\n"
    );
}
