//! `/cards/ID`: what the page shows. What its forms do is in `card_actions`.

use axum::http::StatusCode;
use mortise::back_office::details;
use mortise::console::access::Role;

use super::{ConsoleServer, console};

impl ConsoleServer {
    /// Sells a card of group 6 with its number and further parameters, which are not hashed.
    pub(super) async fn sell(&self, number: &str, parameters: &str) {
        let form = format!("u=accountant&id=6&number={number}{parameters}");
        let sold = self.server.post_signed("card_from_group_sell", &form, "6").await;
        assert_eq!(sold.element_texts("number"), [number], "{}", sold.body);
    }
}

#[tokio::test]
async fn page_says_the_state_in_words_and_what_can_be_done() {
    let console = console().await;
    console.sell("1111111001", "").await;
    console
        .server
        .execute(
            "update payments set date_added = '2026-11-03 10:00:00';
             update cards set withheld = 'blocked' where id = 1;
             update cards set quarantined_at = '2026-11-04' where id = 7;
             update cards set first_use = '2026-11-05', call_count = 3, balance = 0 where id = 4;
             update cards set retired_at = '2026-11-06', balance = 0 where id = 11;
             update cardgroups set valid_till = '2021-05-01' where id = 9",
        )
        .await;
    let support = console.log_in(Role::Support).await;
    for (id, verdict, forms) in [
        (
            2,
            "Sold on 3 Nov 2026 by accountant for 10.0840336134454 USD; never used; nothing stops its use.",
            &["top-up", "reissue", "void", "block"][..],
        ),
        (
            4,
            "Sold in MOR; first used on 5 Nov 2026, calls: 3; its balance is 0.",
            &["top-up", "reissue", "void", "block"],
        ),
        (1, "Blocked: it can neither be used nor sold.", &["unblock"]),
        (5, "Deleted.", &[]),
        (7, "Set aside by the import on 4 Nov 2026: an operator decides with `mortise card settle 7`.", &[]),
        (9, "Free; the card group expired on 1 May 2021.", &["block"]),
        (11, "Retired because its balance was moved to another card or user on 6 Nov 2026.", &[]),
    ] {
        let page = support.get(&format!("/cards/{id}")).await;
        assert_eq!(page.status, StatusCode::OK, "{id}");
        page.assert_contains(verdict);
        for form in ["top-up", "reissue", "void", "block", "unblock", "send", "pin"] {
            let has_form = page.body.contains(&format!("action=\"/cards/{id}/{form}\""));
            assert_eq!(has_form, forms.contains(&form), "card {id}, form {form}");
        }
    }
    let page = support.get("/cards/9").await;
    page.assert_contains("Top up: the card 900001 is free: only a sold card can be topped up.");
    page.assert_contains("Void: the card 900001 was never sold.");
    support
        .get("/cards/5")
        .await
        .assert_contains("Block: the card is deleted, retired or quarantined: it cannot be used.");
    let page = support.get("/cards/2").await;
    page.assert_contains("Balance 10.0840336134454 USD without tax");
    page.assert_contains("Group ten dollars (6), tax 19.0 %");
    page.assert_contains("Valid without end");
    page.assert_contains("Support accounts may still change 50.0 USD without tax on this card today");
    // No free card is left to replace it.
    console.server.execute("update cards set sold = 1 where cardgroup_id = 6").await;
    let page = support.get("/cards/2").await;
    page.assert_contains("Replace: the card group ten dollars has no free card.");
    assert!(!page.body.contains("/cards/2/reissue"));
    for path in ["/cards/4711", "/cards/x", "/cards/99999999999999999999"] {
        let page = support.get(path).await;
        assert_eq!(page.status, StatusCode::NOT_FOUND, "{path}");
        page.assert_contains("There is no such card.");
    }
}

/// The used card says so in the form that voids it; the card from MOR cannot be refunded.
#[tokio::test]
async fn void_form_offers_what_is_possible() {
    let console = console().await;
    console.sell("1111111001", "").await;
    let admin = console.log_in(Role::Admin).await;
    let page = admin.get("/cards/2").await;
    page.assert_contains("Everything that was paid: 10.0840336134454 USD and the tax 1.915966386554626");
    page.assert_lacks("I know that the card was used");
    console.server.execute("update cards set first_use = now() where id = 2").await;
    admin
        .get("/cards/2")
        .await
        .assert_contains("I know that the card was used, or that its balance was moved. Void it.");
    let page = admin.get("/cards/4").await;
    page.assert_contains("Nothing. The card was sold in MOR: Mortise does not know the payment.");
    page.assert_lacks("Everything that was paid");
}

#[tokio::test]
async fn payments_changes_and_mails_are_in_one_list() {
    let console = console().await;
    let server = &console.server;
    let form = "u=accountant&id=6&number=1111111001&email=anna@example.com&payment_ref=invoice-1";
    server.post_signed("card_from_group_sell", form, "anna@example.com6").await;
    server
        .execute(
            "update payments set date_added = '2026-11-03 10:00:00';
             update ccorders set date_added = '2026-11-03 10:00:00';
             update actions set date = '2026-11-03 10:00:00';
             insert into actions (user_id, date, action, target_type, target_id, data)
             values (0, '2026-11-02', 'card_renamed', 'Card', 2, 'Bob');
             insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, created_at, sent_at)
             values (0, 0, 'anna@example.com', 'm', '{2}', '{1}', 'USD', '2026-11-03 10:00:00', '2026-11-03 10:05:00');
             insert into change_log (at, who, operator, what, target_id, before, after)
             values ('2026-11-04', 'command', 'root', 'card', 2, '{\"name\": \"\"}', '{\"name\": \"Anna\"}');
             insert into change_log (at, who, what, cardgroup_id, number_from, number_till, after)
             values ('2026-11-05', 'boss', 'card', 6, '1111111000', '1111111002', '{\"withheld\": \"blocked\"}')",
        )
        .await;
    let read_only = console.log_in(Role::ReadOnly).await;
    let page = read_only.get("/cards/2").await;
    page.assert_contains(
        "2026-11-05 00:00:00 change Blocked boss \
         2026-11-04 00:00:00 change Changed: name: → Anna command (root) \
         2026-11-03 10:05:00 e-mail E-mail 1 to anna@example.com was sent – \
         2026-11-03 10:00:00 action Sold over the API accountant \
         2026-11-03 10:00:00 payment Sold for 10.0840336134454 USD, tax 1.915966386554626, reference invoice-1, payment 1 \
         accountant \
         2026-11-02 00:00:00 action \"card renamed\" in MOR: Bob",
    );
    page.assert_contains("anna@example.com 2026-11-03 10:00:00 sent 2026-11-03 10:05:00");
    // It changes nothing.
    assert!(!page.body.contains("action=\"/cards/"), "{}", page.body);
    for form in ["top-up", "reissue", "void", "block", "unblock", "send", "pin"] {
        let page = read_only.post_confirmed(&format!("/cards/2/{form}"), &[("reason", "x")]).await;
        assert_eq!(page.status, StatusCode::FORBIDDEN, "{form}");
    }
}

/// Rows of the same time are on one page each.
#[tokio::test]
async fn long_list_has_pages() {
    let console = console().await;
    console
        .server
        .execute(
            "insert into payments (kind, amount, tax, user_id, card, date_added, description, tax_included)
             select 'top_up', i, 0, 4, 1, '2026-11-03'::timestamp + make_interval(mins => i / 40), 'number ' || i, true
             from generate_series(1, 120) i;
             insert into payments (kind, amount, user_id, card) values (null, 7, 4, 1)",
        )
        .await;
    let support = console.log_in(Role::Support).await;
    let mut path = "/cards/4".to_owned();
    let mut numbers = Vec::new();
    for entries in [50, 50, 21] {
        let page = support.get(&path).await;
        let text = page.text();
        let found = text.split("description number ").skip(1).map(|rest| rest.split(',').next().unwrap().to_owned());
        let before = numbers.len();
        numbers.extend(found);
        let unpaid = usize::from(text.contains("Payment in MOR: 7.0 USD"));
        assert_eq!(numbers.len() - before + unpaid, entries, "{text}");
        let link =
            page.body.split("href=\"").find(|rest| rest.contains(">Earlier entries<") && rest.starts_with("/cards/4?"));
        match link {
            Some(link) => path = link.split(['"', '#']).next().unwrap().to_owned(),
            None => assert_eq!(entries, 21),
        }
    }
    let expected: Vec<String> = (1..=120).rev().map(|number: i32| number.to_string()).collect();
    assert_eq!(numbers, expected);
    for text in ["x", "1_2", "9999999999999999999_1_1"] {
        assert_eq!(support.get(&format!("/cards/4?before={text}")).await.status, StatusCode::BAD_REQUEST, "{text}");
    }
}

#[tokio::test]
async fn hostile_text_is_shown_as_text() {
    let console = console().await;
    let hostile = "<script>alert(1)</script>\"'<img src=x onerror=alert(1)>";
    let quoted = hostile.replace('\'', "''");
    console.sell("1111111001", "").await;
    console
        .server
        .execute(&format!(
            "update cards set name = '{quoted}', callerid = '{quoted}', serial = '{quoted}', batch_number = '{quoted}', language = '{quoted}'
             where id = 2;
             update cardgroups set name = '{quoted}' where id = 6;
             update payments set description = '{quoted}', reference = '{quoted}';
             insert into ccorders (id, email, date_added) values (1000, '{quoted}', '2026-11-03');
             insert into cclineitems (ccorder_id, card_id) values (1000, 2);
             insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, created_at, failed_at, last_error)
             values (0, 0, '{quoted}', 'm', '{{2}}', '{{1}}', 'USD', '2026-11-03', now(), '{quoted}');
             insert into actions (action, target_type, target_id, data) values ('{quoted}', 'Card', 2, '{quoted}');
             insert into change_log (who, what, target_id, after) values ('{quoted}', 'card', 2, jsonb_build_object('voided', '{quoted}'))"
        ))
        .await;
    let admin = console.log_in(Role::Admin).await;
    let page = admin.get("/cards/2").await;
    assert_eq!(page.status, StatusCode::OK);
    // Name, caller id, serial number, batch, language and group; 2 in the list of e-mails; in that of what has happened
    // 2 of the payment, 2 of the e-mail, 2 of the action and 2 of the change.
    assert!(page.text().matches(hostile).count() >= 16, "{}", page.text());
    assert!(!page.body.contains("<script>alert") && !page.body.contains("<img"), "{}", page.body);
}

#[tokio::test]
async fn pin_is_hidden() {
    let console = console().await;
    console.server.execute("update cards set pin = 'PIN-58976808' where id = 2").await;
    console.sell("1111111001", "").await;
    let admin = console.log_in_with_pins(Role::Admin).await;
    let page = admin.get("/cards/2").await;
    page.assert_contains("PIN hidden, 12 characters");
    page.assert_secret("58976808");
    console.server.execute("update cards set pin = '' where id = 2").await;
    let page = admin.get("/cards/2").await;
    page.assert_contains("PIN none");
    assert!(!page.body.contains("/cards/2/pin"));
}

/// The group, the batch and the owner are one click away for roles that see their pages.
#[tokio::test]
async fn links_lead_to_what_the_card_belongs_to() {
    let console = console().await;
    let form = "u=accountant&id=6&number=1111111001&email=anna@example.com&payment_ref=invoice-1";
    console.server.post_signed("card_from_group_sell", form, "anna@example.com6").await;
    console.server.execute("update cards set batch_number = 'B&1' where id in (2, 5)").await;
    let links = ["href=\"/groups/6\"", "href=\"/batches/batch?group=6&amp;number=B%261\"", "href=\"/users/0\""];
    for (role, count) in [(Role::Admin, 3), (Role::ReadOnly, 2), (Role::Support, 0)] {
        let client = console.log_in(role).await;
        let page = client.get("/cards/2").await;
        for (i, link) in links.iter().enumerate() {
            assert_eq!(page.body.contains(link), i < count, "{role:?}, {link}: {}", page.body);
        }
        page.assert_contains("Sold by accountant, ");
        page.assert_contains("reference invoice-1");
        page.assert_contains("Buyer anna@example.com");
        if count > 1 {
            client.get("/batches/batch?group=6&number=B%261").await.assert_contains("Batch B&1");
        }
    }
    // The batch of a deleted card can be empty.
    assert!(!console.log_in(Role::Admin).await.get("/cards/5").await.body.contains("/batches/batch"));
}

/// The first line says that nothing stops the use only if that is so.
#[tokio::test]
async fn page_says_whether_the_card_can_be_used() {
    let console = console().await;
    console.sell("1111111001", "").await;
    let support = console.log_in(Role::Support).await;
    support.get("/cards/2").await.assert_contains("nothing stops its use.");
    for (change, undo) in [
        ("update cards set balance = 0 where id = 2", "update cards set balance = 1 where id = 2"),
        ("update cards set pin = ' ' where id = 2", "update cards set pin = '1001' where id = 2"),
        ("update cards set withheld = 'blocked' where id = 2", "update cards set withheld = null where id = 2"),
        (
            "update cardgroups set valid_till = '2021-05-01' where id = 6",
            "update cardgroups set valid_till = null where id = 6",
        ),
        (
            "update cardgroups set valid_from = '2100-05-01' where id = 6",
            "update cardgroups set valid_from = null where id = 6",
        ),
    ] {
        console.server.execute(change).await;
        support.get("/cards/2").await.assert_lacks("nothing stops its use");
        console.server.execute(undo).await;
    }
    support.get("/cards/2").await.assert_contains("nothing stops its use.");
}

/// A card with a million top-ups has a page.
#[tokio::test]
async fn the_latest_payments_of_a_card_are_read_with_its_sale() {
    let console = console().await;
    console.sell("1111111001", "").await;
    console
        .server
        .execute(
            "update payments set date_added = '2026-01-01';
             insert into payments (paymenttype, kind, amount, user_id, card, date_added)
             select 'Card', 'top_up', i, 2, 1, '2026-02-01'::timestamp + make_interval(mins => i) from generate_series(1, 1500) i",
        )
        .await;
    let mut connection = console.server.pool.acquire().await.unwrap();
    let details = details::load_without_history(&mut connection, 2).await.unwrap();
    assert_eq!(details.payments.len(), 1001);
    assert_eq!(details.payments[0].kind.as_deref(), Some("sale"));
    assert_eq!(details.payments[1].amount.to_plain_string(), "501.0");
    assert!(details.verdict.starts_with("sold on 1 Jan 2026 by accountant"), "{}", details.verdict);
}
