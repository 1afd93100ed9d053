//! `mortise card show`.

use serde_json::Value;

use super::Operator;

impl Operator {
    /// Sells a card of the group 6 with its number.
    pub(super) async fn sell(&self, number: &str) {
        self.sell_with(number, "").await;
    }

    /// Sells a card of the group 6 with its number and further parameters, which are not hashed.
    pub(super) async fn sell_with(&self, number: &str, parameters: &str) {
        let form = format!("u=accountant&id=6&number={number}{parameters}");
        let sold = self.server.post_signed("card_from_group_sell", &form, "6").await;
        assert_eq!(sold.element_texts("number"), [number], "{}", sold.body);
    }
}

#[tokio::test]
async fn verdict_says_the_state_in_words() {
    let operator = Operator::new().await;
    operator.sell("1111111001").await;
    operator
        .server
        .execute(
            "update payments set date_added = '2026-11-03 10:00:00';
             update cards set withheld = 'blocked' where id = 1;
             update cards set withheld = 'reserved' where id = 3;
             update cards set quarantined_at = '2026-11-04' where id = 7;
             update cards set first_use = '2026-11-05', call_count = 3, balance = 0 where id = 4;
             update cards set user_id = 2, withheld = 'assigned', pin = '' where id = 6;
             update cards set retired_at = '2026-11-06', balance = 0 where id = 11;
             update cardgroups set valid_till = '2021-05-01' where id = 9",
        )
        .await;
    for (number, verdict) in [
        ("1111111001", "sold on 3 Nov 2026 by accountant for 10.0840336134454 USD; never used; nothing stops its use"),
        ("1111111000", "sold in MOR; first used on 5 Nov 2026, calls: 3; its balance is 0"),
        ("1111111003", "blocked: it can neither be used nor sold"),
        ("1111111002", "reserved, not for sale"),
        ("0000000042", "assigned to user, not for sale; it has no PIN"),
        ("1111110999", "deleted"),
        ("800001", "free; its card group is hidden"),
        ("900001", "free; the card group expired on 1 May 2021"),
        ("700001", "set aside by the import on 4 Nov 2026: an operator decides with `mortise card settle 7`"),
        ("100001", "retired because its balance was moved to another card or user on 6 Nov 2026"),
        ("120001", "free"),
    ] {
        let card = operator.run_json(&["card", "show", number]);
        assert_eq!(card["verdict"], verdict, "{number}");
        let text = operator.run_ok(&["card", "show", number]);
        assert!(text.contains(&format!("state         {verdict}\n")), "{text}");
    }
}

/// Each key finds the card; a PIN is sent on standard input.
#[tokio::test]
async fn card_is_found_by_everything_that_is_known_about_it() {
    let operator = Operator::new().await;
    operator.sell_with("1111111001", "&payment_ref=invoice-1").await;
    let form = "u=accountant&id=6&number=1111111002&email=Anna@example.com";
    operator.server.post_signed("card_from_group_sell", form, "Anna@example.com6").await;
    operator.server.execute("update cards set serial = 'S-7' where id = 7").await;
    for (arguments, id) in [
        (&["1111111001"][..], 2),
        (&["--callerid", "3701111"], 4),
        (&["--email", "anna@EXAMPLE.com"], 3),
        (&["--reference", "invoice-1"], 2),
        (&["--serial", "S-7"], 7),
        (&["--id", "5"], 5),
    ] {
        let card = operator.run_json(&[&["card", "show"], arguments].concat());
        assert_eq!(card["card"]["id"], id, "{arguments:?}");
    }
    let by_pin = operator.run_with_input("0999\n", &["card", "show", "--pin", "--json"]);
    let card: Value = serde_json::from_str(&by_pin.stdout).unwrap();
    assert_eq!(card["card"]["id"], 5, "{by_pin:?}");
    operator.assert_error(&["card", "show", "4711"], 3, "no card has the number 4711");
    let unknown = operator.run_with_input("7777\n", &["card", "show", "--pin"]);
    assert!(unknown.code == 3 && unknown.stderr.contains("no card has this PIN"), "{unknown:?}");
    operator.assert_error(&["card", "show"], 2, "required");
}

#[tokio::test]
async fn several_cards_are_listed() {
    let operator = Operator::new().await;
    let form = "u=accountant&id=6&quantity=2&email=anna@example.com";
    operator.server.post_signed("card_from_group_sell", form, "anna@example.com62").await;
    let cards = operator.run_json(&["card", "show", "--email", "anna@example.com"]);
    let numbers: Vec<_> = cards.as_array().unwrap().iter().map(|card| card["number"].as_str().unwrap()).collect();
    assert_eq!(numbers, ["0000000042", "1111111001"]);
    let text = operator.run_ok(&["card", "show", "--email", "anna@example.com"]);
    assert!(
        text.starts_with("ID  NUMBER      STATE  GROUP          OWNER\n6   0000000042  sold   6 ten dollars  admin\n"),
        "{text}"
    );
    // The same number under two owners, and of a deleted card.
    operator.server.execute("update cards set number = '900001', hidden = 1 where id = 10").await;
    operator
        .server
        .execute("update cards set number = '900001', owner_id = 3, shares_number = true where id = 12")
        .await;
    assert_eq!(operator.run_json(&["card", "show", "900001"]).as_array().unwrap().len(), 3);
    operator.assert_error(
        &["card", "block", "900001"],
        1,
        "several cards have the number 900001, choose one with --id: 9 (free, group 9, owner admin), 10 (deleted",
    );
    operator.server.execute("update cards set number = '120001' where id = 12").await;
    // A duplicate that was settled as retired stays in quarantine.
    operator
        .server
        .execute("update cards set hidden = 0, quarantined_at = now(), retired_at = now(), balance = 0 where id = 10")
        .await;
    assert_eq!(operator.run_ok(&["card", "block", "900001"]), "The card 900001 is blocked.\n");
    operator.server.assert_rows("select id from cards where withheld = 'blocked'", &["9"]).await;
}

/// The list is cut: it says so, also to a script.
#[tokio::test]
async fn list_says_that_there_are_more_cards() {
    let operator = Operator::new().await;
    operator
        .server
        .execute(
            "insert into cards (cardgroup_id, number, pin, serial)
             select 6, '2' || lpad(i::text, 9, '0'), 'x' || i, 'box 1' from generate_series(1, 101) i",
        )
        .await;
    let text = operator.run_ok(&["card", "show", "--serial", "box 1"]);
    assert!(text.ends_with("\nThere are more cards: only 100 are listed.\n"), "{text}");
    let json = operator.run(&["card", "show", "--serial", "box 1", "--json"]);
    assert_eq!((json.code, json.stderr.as_str()), (0, "note: There are more cards: only 100 are listed.\n"));
    let cards: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(cards.as_array().unwrap().len(), 100);
    operator.server.execute("update cards set serial = 'box 2' where number = '2000000101'").await;
    let text = operator.run_ok(&["card", "show", "--serial", "box 1"]);
    assert!(!text.contains("more cards"), "{text}");
}

#[tokio::test]
async fn payments_mails_and_history_are_shown() {
    let operator = Operator::new().await;
    let form = "u=accountant&id=6&number=1111111001&email=anna@example.com&payment_ref=invoice-1";
    operator.server.post_signed("card_from_group_sell", form, "anna@example.com6").await;
    operator.run_ok(&["card", "block", "1111111001"]);
    operator.run_ok(&["cards", "unblock", "--from", "1111111000", "--till", "1111111002", "--yes"]);
    let card = operator.run_json(&["card", "show", "1111111001"]);
    let payment = &card["payments"][0];
    assert_eq!((&payment["kind"], &payment["amount"]), (&"sale".into(), &"10.0840336134454".into()));
    assert_eq!((&payment["user"], &payment["reference"]), (&"accountant".into(), &"invoice-1".into()));
    assert_eq!(card["mails"][0]["address"], "anna@example.com");
    let history: Vec<_> = card["history"].as_array().unwrap().iter().map(|row| row["what"].as_str().unwrap()).collect();
    assert_eq!(history, ["card_payment_created", "card_sell_over_api", "card_changed", "card_changed"]);
    let text = operator.run_ok(&["card", "show", "1111111001"]);
    for part in
        ["sale: 10.0840336134454 USD, tax 1.915966386554626, by accountant, reference invoice-1", "anna@example.com"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn pin_is_masked_unless_asked_for() {
    let operator = Operator::new().await;
    let masked = operator.run_ok(&["card", "show", "1111111001"]);
    assert!(masked.contains("PIN           ****\n") && !masked.contains("PIN           1001"), "{masked}");
    assert!(operator.run_json(&["card", "show", "1111111001"])["card"].get("pin").is_none());
    operator.server.assert_rows("select count(*) from change_log", &["0"]).await;
    let shown = operator.run_ok(&["card", "show", "1111111001", "--show-pin"]);
    assert!(shown.contains("PIN           1001\n"), "{shown}");
    operator.assert_changes(&["card 2 1111111001 -> {\"pin_shown\": true}"]).await;
    let json = operator.run_json(&["card", "show", "--id", "2", "--show-pin"]);
    assert_eq!(json["card"]["pin"], "1001");
}

#[tokio::test]
async fn hostile_text_does_not_reach_the_terminal() {
    let operator = Operator::new().await;
    operator.server.execute("update cards set name = E'a\\n\\033[31mb' where id = 2").await;
    let text = operator.run_ok(&["card", "show", "1111111001"]);
    assert!(text.contains("name          a\u{fffd}\u{fffd}[31mb\n"), "{text}");
}

#[tokio::test]
async fn end_of_the_days_after_the_first_use_is_shown() {
    let operator = Operator::new().await;
    operator.sell("1111111001").await;
    operator
        .server
        .execute(
            "update cardgroups set valid_after_first_use = 30 where id = 6;
             update cards set first_use = '2026-01-02 03:04:05' where id = 2",
        )
        .await;
    let verdict = async || operator.run_json(&["card", "show", "1111111001"])["verdict"].as_str().unwrap().to_owned();
    assert!(verdict().await.contains("; expired on 1 Feb 2026, 30 days after the first use"), "{}", verdict().await);
    operator.server.execute("update cardgroups set valid_after_first_use = 2147483647 where id = 6").await;
    assert!(verdict().await.contains("; valid for 2147483647 days after the first use"), "{}", verdict().await);
}
