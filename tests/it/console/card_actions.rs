//! What the forms of `/cards/ID` do.

use axum::http::StatusCode;
use mortise::console::access::Role;

use super::{ConsoleServer, Page, console, console_without_jobs, random_id};
use crate::harness::ledger;
use crate::mail::settings_sql;

const CHANGES: &str =
    "select who, target_id, after ->> 'reason' as reason from change_log where what = 'card' order by id";

/// A console whose server queues e-mails and sends none.
async fn console_with_mails() -> ConsoleServer {
    let console = console_without_jobs().await;
    console.server.execute(&settings_sql(0, 25, "Card Shop <shop@example.com>")).await;
    console
}

/// Asserts that the form was refused with this text.
#[track_caller]
pub(super) fn assert_refused(page: &Page, text: &str) {
    assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", page.text());
    page.assert_contains(text);
    page.assert_contains("Nothing was changed.");
}

async fn balances(console: &ConsoleServer) -> String {
    console.server.rows(ledger::UNPAID_BALANCES_QUERY).await.remove(0)
}

#[tokio::test]
async fn top_up_is_the_payment_of_card_payment_add() {
    let console = console().await;
    let before = balances(&console).await;
    console.sell("1111111001", "").await;
    let admin = console.log_in(Role::Admin).await;
    let fields = [("amount", "11.90"), ("description", "at the <b>counter</b>")];
    let page = admin.submit("/cards/2/top-up", &fields).await;
    page.assert_contains(
        "The card 1111111001 is topped up: 11.9 USD paid, tax included, 10.0 USD added. Its balance is now 20.0840336134454 USD.",
    );
    page.assert_contains(
        "Topped up: 11.9 USD, tax included, balance +10.0, description at the <b>counter</b>, payment 2",
    );
    let server = &console.server;
    server
        .assert_rows(
            "select kind, amount, currency, tax, user_id, owner_id, card, caller_id, balance_change, tax_included, description
             from payments where kind = 'top_up'",
            &["top_up|11.900000000000000|USD|2.261000000000000|2|0|1|∅|10.000000000000000|true|at the <b>counter</b>"],
        )
        .await;
    server
        .assert_rows(
            "select user_id, target_type, target_id, data, data2, data3 from actions where action = 'card_payment_created' and target_id = 2",
            &["0|Payment|2|2|11.9|USD"],
        )
        .await;
    server
        .assert_rows(
            "select who, target_id, target_name, before ->> 'balance' as before, after ->> 'balance' as after, after ->> 'topped_up' as top_up
             from change_log where what = 'card'",
            &[&format!(
                "{}|2|1111111001|10.084033613445400|20.084033613445400|{{\"amount\": \"11.9\", \"payment\": 2, \"currency\": \"USD\"}}",
                admin.login().name
            )],
        )
        .await;
    ledger::assert_holds(server, &before).await;
    let long = "x".repeat(256);
    for (amount, description, text) in [
        ("0", "", "The amount must be a number above 0"),
        ("-1", "", "The amount must be a number above 0"),
        ("1,5", "", "The amount must be a number above 0"),
        ("1000000000000000", "", "The amount must be a number above 0"),
        ("NaN", "", "The amount must be a number above 0"),
        ("", "", "The amount must be a number above 0"),
        ("1", "a\u{200b}b", "The description is invalid: it has the invisible character U+200B"),
        ("1", &long, "The description has more than 255 characters"),
    ] {
        let page = admin.post("/cards/2/top-up", &[("amount", amount), ("description", description)]).await;
        assert_refused(&page, text);
    }
    let page = admin.post("/cards/3/top-up", &[("amount", "1")]).await;
    assert_refused(&page, "The card 1111111002 is free: only a sold card can be topped up");
    server.assert_rows("select count(*) from payments", &["2"]).await;
}

#[tokio::test]
async fn void_undoes_the_sale() {
    let console = console_with_mails().await;
    let before = balances(&console).await;
    let form = "u=accountant&id=6&number=1111111001&email=anna@example.com";
    console.server.post_signed("card_from_group_sell", form, "anna@example.com6").await;
    let admin = console.log_in(Role::Admin).await;
    let fields = [("reason", "the <wrong> card"), ("refund", "full")];
    let wrong = admin.post("/cards/2/void", &[&[("confirm", "000000")], &fields[..]].concat()).await;
    assert_refused(&wrong, "The code is wrong");
    let page = admin.post_confirmed("/cards/2/void", &[("reason", " "), ("refund", "full")]).await;
    assert_refused(&page, "The reason is missing or invalid: say why.");
    let page = admin.post_confirmed("/cards/2/void", &[("reason", &*"x".repeat(1_001)), ("refund", "full")]).await;
    assert_refused(&page, "The reason is missing or invalid: it has more than 1000 characters.");
    let page =
        admin.post_confirmed("/cards/2/void", &[("reason", "x"), ("refund", "amount"), ("amount", "8,40")]).await;
    assert_refused(&page, "Choose what is refunded: everything, nothing, or an amount such as 8.40.");
    let page = admin.post_confirmed("/cards/2/void", &[&fields[..], &[("amount", "1")]].concat()).await;
    assert_refused(&page, "You typed an amount to refund: choose \"This amount\" too, or delete the amount.");
    let page = admin.submit("/cards/2/void", &fields).await;
    page.assert_contains(
        "The card is void. The balance 10.0840336134454 was removed. Refund of the payment 1: -10.0840336134454 USD, \
         tax -1.915966386554626. Pay the money back with the payment provider: it is only recorded here. The card was taken out of \
         e-mails that were not sent: 1.",
    );
    page.assert_contains("Retired because it was voided on");
    page.assert_contains("(the <wrong> card)");
    page.assert_contains("change Voided: the <wrong> card");
    let server = &console.server;
    server
        .assert_rows(
            "select kind, amount, tax, reverses, caller_id, balance_change from payments order by id offset 1",
            &["refund|-10.084033613445400|-1.915966386554626|1|∅|-10.084033613445400"],
        )
        .await;
    server
        .assert_rows(
            "select balance, sold, retired_at is not null as retired from cards where id = 2",
            &["0.000000000000000|0|true"],
        )
        .await;
    server.assert_rows("select count(*) from email_outbox", &["0"]).await;
    server.assert_rows(CHANGES, &[&format!("{}|2|∅", admin.login().name)]).await;
    ledger::assert_holds(server, &before).await;
    // Another form: nothing is written.
    let page = admin.submit("/cards/2/void", &fields).await;
    page.assert_contains("The card was voided on");
    server.assert_rows("select count(*) from payments", &["2"]).await;
}

#[tokio::test]
async fn used_card_is_voided_with_a_choice() {
    let console = console().await;
    let before = balances(&console).await;
    console.sell("1111111001", "").await;
    console.server.execute("update cards set first_use = now() where id in (2, 4)").await;
    let admin = console.log_in(Role::Admin).await;
    let page = admin.post_confirmed("/cards/2/void", &[("reason", "x"), ("refund", "full")]).await;
    assert_refused(&page, "The card was used. Tick the box that says so, and choose what is refunded.");
    let used = [("reason", "x"), ("used", "yes")];
    let page =
        admin.post_confirmed("/cards/2/void", &[&used, &[("refund", "amount"), ("amount", "11")][..]].concat()).await;
    assert_refused(&page, "Only 10.0840336134454 USD were paid, without tax.");
    let page = admin.submit("/cards/2/void", &[&used, &[("refund", "amount"), ("amount", "5.00")][..]].concat()).await;
    page.assert_contains("Refund of the payment 1: -5.0 USD, tax -0.95");
    // From MOR.
    let page = admin.post_confirmed("/cards/4/void", &[&used, &[("refund", "full")][..]].concat()).await;
    assert_refused(&page, "The card was sold in MOR. Mortise does not know the payment");
    let page = admin.submit("/cards/4/void", &[&used, &[("refund", "none")][..]].concat()).await;
    page.assert_contains("The balance 10.0840336134454 was removed. Nothing was refunded.");
    console
        .server
        .assert_rows(
            "select kind, amount, user_id from payments order by id offset 1",
            &["refund|-5.000000000000000|2", "write_off|0.000000000000000|4"],
        )
        .await;
    ledger::assert_holds(&console.server, &before).await;
}

/// The e-mail with the PIN of the old card is not sent.
#[tokio::test]
async fn reissue_shows_the_new_card() {
    let console = console_with_mails().await;
    let before = balances(&console).await;
    let form = "u=accountant&id=6&quantity=2&email=anna@example.com";
    console.server.post_signed("card_from_group_sell", form, "anna@example.com62").await;
    let server = &console.server;
    server.assert_rows("select card_ids, cardinality(balances) as balances from email_outbox", &["[6,2]|2"]).await;
    let admin = console.log_in(Role::Admin).await;
    let page = admin.post_confirmed("/cards/2/reissue", &[("reason", "")]).await;
    assert_refused(&page, "The reason is missing or invalid");
    let page = admin.post_confirmed("/cards/2/reissue", &[("reason", "lost"), ("to", "900001")]).await;
    assert_refused(&page, "The card 900001 is of another card group, 9.");
    let page = admin.post_confirmed("/cards/2/reissue", &[("reason", "lost"), ("to", "1111111003")]).await;
    let location = page.location.clone().unwrap();
    assert!(location.starts_with("/cards/1?done="), "{location}");
    let page = admin.get(&location).await;
    page.assert_contains(
        "The card is replaced by this card, 1111111003, with the balance 10.0840336134454. The old card was taken out of \
         e-mails that were not sent: 1. The customer does not get an e-mail",
    );
    page.assert_contains("to replace the card 1111111001; never used");
    page.assert_contains("change Replaces the card 1111111001: lost");
    let name = &admin.login().name;
    server.assert_rows(CHANGES, &[&format!("{name}|2|lost"), &format!("{name}|1|lost")]).await;
    server
        .assert_rows(
            "select kind, amount, user_id, replaces_card, caller_id from payments where kind = 'reissue'",
            &["reissue|0.000000000000000|1|2|∅"],
        )
        .await;
    server.assert_rows("select card_ids, cardinality(balances) as balances from email_outbox", &["[6]|1"]).await;
    ledger::assert_holds(server, &before).await;
    let old = admin.get("/cards/2").await;
    old.assert_contains("Retired because it was replaced by the card 1111111003");
    old.assert_contains("change Replaced by the card 1111111003: lost");
    assert!(old.body.contains("href=\"/cards/1\"") && page.body.contains("href=\"/cards/2\""));
    // Another form: the same card, and nothing is written.
    let again = admin.submit("/cards/2/reissue", &[("reason", "lost")]).await;
    again.assert_contains("The card was replaced before by this card, 1111111003. Nothing was changed.");
    // The last card of the e-mail.
    admin.post_confirmed("/cards/6/reissue", &[("reason", "lost")]).await;
    server.assert_rows("select count(*) from email_outbox", &["0"]).await;
}

#[tokio::test]
async fn card_is_blocked_and_unblocked_with_a_reason() {
    let console = console().await;
    let support = console.log_in(Role::Support).await;
    let page = support.post("/cards/4/block", &[("reason", "")]).await;
    assert_refused(&page, "The reason is missing or invalid");
    let page = support.submit("/cards/4/block", &[("reason", "stolen")]).await;
    page.assert_contains("The card is blocked: it can neither be used nor sold.");
    page.assert_contains("change Blocked: stolen");
    let server = &console.server;
    server.assert_rows("select withheld from cards where id = 4", &["blocked"]).await;
    support.submit("/cards/4/block", &[("reason", "again")]).await.assert_contains("The card was blocked before.");
    let page = support.submit("/cards/4/unblock", &[("reason", "found")]).await;
    page.assert_contains("The card is unblocked.");
    page.assert_contains("change Unblocked: found");
    support.submit("/cards/4/unblock", &[("reason", "x")]).await.assert_contains("The card was not blocked.");
    let name = &support.login().name;
    server.assert_rows(CHANGES, &[&format!("{name}|4|stolen"), &format!("{name}|4|found")]).await;
    server.assert_rows("select withheld from cards where id = 4", &["∅"]).await;
    let page = support.post("/cards/5/block", &[("reason", "x")]).await;
    assert_refused(&page, "The card is deleted, retired or quarantined: it cannot be used.");
}

#[tokio::test]
async fn mail_of_the_card_is_sent_again() {
    let console = console_with_mails().await;
    let server = &console.server;
    let form = "u=accountant&id=6&quantity=2&email=anna@example.com";
    server.post_signed("card_from_group_sell", form, "anna@example.com62").await;
    let form = "u=accountant&id=6&number=1111111002&email=other@example.com";
    server.post_signed("card_from_group_sell", form, "other@example.com6").await;
    server.execute("update email_outbox set failed_at = now(), last_error = '550 unknown user'").await;
    let (support, admin) = (console.log_in(Role::Support).await, console.log_in(Role::Admin).await);
    let page = support.get("/cards/2").await;
    page.assert_contains("550 unknown user");
    page.assert_contains("Send now");
    let page = support.submit("/cards/2/send", &[("mail", "1")]).await;
    page.assert_contains("The e-mail to anna@example.com is sent now.");
    let state = "select id, failed_at is null as open, sent_at is null as unsent from email_outbox order by id";
    server.assert_rows(state, &["1|true|true", "2|false|true"]).await;
    let changes = "select who, what, target_name, after from change_log where what = 'mail'";
    let change = format!("{}|mail|outbox|{{\"ids\": [1], \"retried\": 1}}", support.login().name);
    server.assert_rows(changes, &[&change]).await;
    // Of another card.
    let page = support.post("/cards/2/send", &[("mail", "2")]).await;
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    // A buyer gets an e-mail a second time only from the form that says so.
    server.execute("update email_outbox set sent_at = now() where id = 1").await;
    support.get("/cards/2").await.assert_contains("Send a second time");
    let page = support.post("/cards/2/send", &[("mail", "1")]).await;
    assert_refused(&page, "The e-mail was sent meanwhile.");
    support.submit("/cards/2/send", &[("mail", "1"), ("again", "yes")]).await.assert_contains("is sent now");
    server.assert_rows(state, &["1|true|true", "2|false|true"]).await;
    // Its first sending is not forgotten: the PINs are not sent to another address.
    let page = admin.post("/mail/1/correct", &[("address", "own@example.com")]).await;
    assert_refused(&page, "The e-mail 1 was sent to anna@example.com: it stays as it is");
    // It has the PIN of a card that is retired now.
    server.execute("update email_outbox set sent_at = now() where id = 1").await;
    admin.submit("/cards/6/reissue", &[("reason", "lost")]).await.assert_contains("is replaced by this card");
    let page = support.post("/cards/2/send", &[("mail", "1"), ("again", "yes")]).await;
    let retired = "The e-mail 1 has a retired card, which was voided or replaced: its PIN is not sent again";
    assert_refused(&page, retired);
    // Also from the page of all e-mails.
    server.execute("update email_outbox set sent_at = null, failed_at = now() where id = 1").await;
    assert_refused(&admin.post("/mail/1/retry", &[]).await, retired);
}

#[tokio::test]
async fn pin_is_shown_once_to_accounts_with_the_right() {
    let console = console().await;
    let server = &console.server;
    server.execute("update cards set pin = 'PIN-58976808' where id = 2").await;
    for client in [console.log_in(Role::Admin).await, console.log_in(Role::Support).await] {
        let page = client.post_confirmed("/cards/2/pin", &[]).await;
        assert_eq!(page.status, StatusCode::FORBIDDEN);
        page.assert_secret("58976808");
        page.assert_contains("Your account may not show PINs.");
    }
    let read_only = console.log_in_with_pins(Role::ReadOnly).await;
    assert_eq!(read_only.post_confirmed("/cards/2/pin", &[]).await.status, StatusCode::FORBIDDEN);
    server.assert_rows(CHANGES, &[]).await;

    let support = console.log_in_with_pins(Role::Support).await;
    assert!(support.get("/cards/2").await.body.contains("/cards/2/pin"));
    let page = support.post("/cards/2/pin", &[("confirm", "a wrong password")]).await;
    assert_refused(&page, "The password is wrong.");
    let (once, confirm) = (random_id(), support.confirmation().await);
    let fields = [("token", support.token.as_str()), ("once", &once), ("confirm", &confirm)];
    let page = support.post_plain("/cards/2/pin", &fields).await;
    assert_eq!((page.status, page.location.clone()), (StatusCode::OK, None));
    page.assert_contains("PIN-58976808");
    assert_eq!(page.header("cache-control"), Some("no-store"));
    // The second request of a double click.
    let page = support.post_plain("/cards/2/pin", &fields).await;
    page.assert_secret("58976808");
    let page = support.get(&page.location.unwrap()).await;
    page.assert_contains("The PIN was shown once.");
    page.assert_contains("change The PIN was shown");
    page.assert_secret("58976808");
    server
        .assert_rows(
            "select who, target_id, after from change_log where what = 'card'",
            &[&format!("{}|2|{{\"pin_shown\": true}}", support.login().name)],
        )
        .await;
    server.assert_rows("select count(*) from change_log where change_log::text like '%58976808%'", &["0"]).await;
    server.assert_rows("select count(*) from console_submissions where message like '%58976808%'", &["0"]).await;
}

/// The second request of a double click waits for the first one, and shows the same page.
#[tokio::test]
async fn double_click_does_it_once() {
    let console = console().await;
    console.sell("1111111001", "").await;
    let admin = console.log_in(Role::Admin).await;
    for (path, fields, query, rows) in [
        ("/cards/2/top-up", &[("amount", "11.90")][..], "select count(*) from payments where kind = 'top_up'", "1"),
        ("/cards/2/block", &[("reason", "x")], "select count(*) from change_log where after ->> 'reason' = 'x'", "1"),
        ("/cards/2/reissue", &[("reason", "x")], "select count(*) from payments where kind = 'reissue'", "1"),
        (
            "/cards/6/void",
            &[("reason", "x"), ("refund", "full"), ("used", "yes")],
            "select count(*) from payments where kind = 'refund'",
            "2",
        ),
    ] {
        let (once, confirm) = (random_id(), admin.confirmation().await);
        let envelope = [("token", admin.token.as_str()), ("once", &once), ("confirm", &confirm)];
        let form = [&envelope, fields].concat();
        let (first, second) = tokio::join!(admin.post_plain(path, &form), admin.post_plain(path, &form));
        assert_eq!(first.status, StatusCode::SEE_OTHER, "{path}: {}", first.text());
        assert_eq!(first.location, second.location, "{path}");
        assert!(first.location.unwrap().ends_with(&format!("?done={once}")));
        console.server.assert_rows(query, &[rows]).await;
    }
}
