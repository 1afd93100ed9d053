//! What resellers and support accounts may not do on `/cards/ID`.

use axum::http::StatusCode;
use mortise::console::access::Role;

use super::card_actions::assert_refused;
use super::{Client, Page, console, console_with_settings};

async fn post_all(client: &Client, id: i64) -> Vec<Page> {
    let mut pages = Vec::new();
    for (form, fields) in [
        ("top-up", &[("amount", "1")][..]),
        ("void", &[("reason", "x"), ("refund", "none"), ("used", "yes")]),
        ("reissue", &[("reason", "x")]),
        ("block", &[("reason", "x")]),
        ("unblock", &[("reason", "x")]),
        ("send", &[("mail", "1")]),
        ("pin", &[]),
    ] {
        pages.push(client.post_confirmed(&format!("/cards/{id}/{form}"), fields).await);
    }
    pages
}

#[tokio::test]
async fn cards_of_other_owners_do_not_exist_for_a_reseller() {
    let console = console().await;
    console
        .server
        .execute("update cards set owner_id = 3 where id in (12, 13); update cards set sold = 1 where id = 12")
        .await;
    console.sell("1111111001", "").await;
    let shop = console.log_in_as(&console.create_account(Role::Reseller, Some(3), true).await).await;
    assert_eq!(shop.get("/cards/2").await.text(), shop.get("/cards/4711").await.text());
    assert_eq!(shop.get("/cards/2").await.status, StatusCode::NOT_FOUND);
    let rows = "select (select count(*) from payments), (select count(*) from change_log), (select md5(string_agg(c::text, '' order by id)) from cards c)";
    let before = console.server.rows(rows).await;
    for page in post_all(&shop, 2).await {
        assert_eq!(page.status, StatusCode::NOT_FOUND, "{}", page.text());
        page.assert_contains("There is no such card.");
        page.assert_lacks("1111111001");
    }
    assert_eq!(console.server.rows(rows).await, before);

    // Its own.
    shop.get("/cards/12").await.assert_contains("Number 120001");
    let page = shop.post_confirmed("/cards/12/reissue", &[("reason", "x"), ("to", "1111111002")]).await;
    assert_refused(&page, "The card group has no card with the number 1111111002.");
    shop.submit("/cards/12/top-up", &[("amount", "10")]).await.assert_contains("The card 120001 is topped up");
    shop.submit("/cards/12/block", &[("reason", "stolen")]).await.assert_contains("The card is blocked");
    shop.submit("/cards/12/reissue", &[("reason", "x"), ("to", "120002")])
        .await
        .assert_contains("by this card, 120002");
    shop.post_confirmed("/cards/13/pin", &[]).await.assert_contains("1202");
}

#[tokio::test]
async fn support_changes_so_much_on_one_card_and_day() {
    let console = console_with_settings(&[("console_support_max", "15")]).await;
    let server = &console.server;
    console.sell("1111111001", "").await;
    console.sell("1111111002", "").await;
    let support = console.log_in(Role::Support).await;
    let other = console.log_in(Role::Support).await;
    let admin = console.log_in(Role::Admin).await;
    // 10 dollars without tax.
    support.submit("/cards/2/top-up", &[("amount", "11.9")]).await.assert_contains("10.0 USD added");
    other
        .get("/cards/2")
        .await
        .assert_contains("Support accounts may still change 5.0 USD without tax on this card today");
    let page = other.post("/cards/2/top-up", &[("amount", "7.14")]).await;
    assert_refused(
        &page,
        "Support accounts may change at most 15.0 USD without tax on one card and day (UTC). For this card 5.0 USD are left \
         today, and this change is 6.0 USD.",
    );
    // The balance is 20, although 0 or 1 would be refunded.
    for fields in [&[("refund", "none")][..], &[("refund", "amount"), ("amount", "1")], &[("refund", "full")]] {
        let fields = [&[("reason", "x"), ("used", "yes")], fields].concat();
        let page = support.post_confirmed("/cards/2/void", &fields).await;
        assert_refused(&page, "and this change is 20.0840336134454 USD");
    }
    let page = support.post_confirmed("/cards/2/reissue", &[("reason", "x")]).await;
    assert_refused(&page, "and this change is 20.0840336134454 USD");
    // The refund counts if the balance is less: it is 10, and is paid in another currency.
    server
        .execute(
            "update cards set balance = 1 where id = 3;
             update payments set amount = 7.441, tax = 0, currency = 'EUR' where user_id = 3 and kind = 'sale';
             insert into console_submissions (id, account_id, card_id, amount)
             select 'other', id, 3, 5.000000000000001 from console_accounts where role = 'support' limit 1",
        )
        .await;
    let page = support.post_confirmed("/cards/3/void", &[("reason", "x"), ("refund", "full")]).await;
    assert_refused(&page, "and this change is 10.0 USD");
    server.execute("update console_submissions set amount = 5 where id = 'other'").await;
    support.submit("/cards/3/void", &[("reason", "x"), ("refund", "full")]).await.assert_contains("The card is void.");
    server
        .assert_rows(
            "select card_id, amount from console_submissions where amount is not null order by card_id, amount",
            &["2|10.000000000000000", "3|5.000000000000000", "3|10.000000000000000"],
        )
        .await;
    // Admins have no limit, and do not use up that of support.
    admin.submit("/cards/2/top-up", &[("amount", "119")]).await.assert_contains("100.0 USD added");
    other.get("/cards/2").await.assert_contains("may still change 5.0 USD");
    // The next day.
    server.execute("update console_submissions set created_at = created_at - interval '1 day'").await;
    other.submit("/cards/2/top-up", &[("amount", "17.85")]).await.assert_contains("15.0 USD added");
    assert_refused(&other.post("/cards/2/top-up", &[("amount", "0.01")]).await, "For this card 0.0 USD are left today");
}

/// Both forms wait for the card: the second one sees what the first one has used up.
#[tokio::test(flavor = "multi_thread")]
async fn two_forms_at_once_keep_the_support_limit() {
    let console = console_with_settings(&[("console_support_max", "15")]).await;
    console.sell("1111111001", "").await;
    let (first, second) = (console.log_in(Role::Support).await, console.log_in(Role::Support).await);
    let mut lock = console.server.pool.begin().await.unwrap();
    sqlx::query("select id from cards where id = 2 for update").execute(&mut *lock).await.unwrap();
    let forms = [first, second]
        .map(|client| tokio::spawn(async move { client.post("/cards/2/top-up", &[("amount", "11.9")]).await.status }));
    let waiting = "select pid from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    console.server.wait_for_rows(waiting, |waiting| waiting.len() == 2).await;
    lock.commit().await.unwrap();
    let mut statuses = Vec::new();
    for form in forms {
        statuses.push(form.await.unwrap());
    }
    statuses.sort();
    assert_eq!(statuses, [StatusCode::SEE_OTHER, StatusCode::UNPROCESSABLE_ENTITY]);
    console.server.assert_rows("select sum(amount) from console_submissions", &["10.000000000000000"]).await;
    console.server.assert_rows("select balance from cards where id = 2", &["20.084033613445400"]).await;
}

/// A replacement has the limit of the card that it replaces.
#[tokio::test]
async fn a_replaced_card_has_no_new_support_limit() {
    let console = console_with_settings(&[("console_support_max", "15")]).await;
    console.sell("1111111001", "").await;
    console.server.execute("update cards set balance = 2 where id = 2").await;
    let support = console.log_in(Role::Support).await;
    // 10 dollars without tax; then the card is used up.
    support.submit("/cards/2/top-up", &[("amount", "11.9")]).await.assert_contains("10.0 USD added");
    console.server.execute("update cards set balance = 1 where id = 2").await;
    let replace = async |id: &str, to: &str| {
        let fields = [("reason", "lost"), ("to", to)];
        support.submit(&format!("/cards/{id}/reissue"), &fields).await.assert_contains("is replaced by this card");
    };
    replace("2", "1111111002").await;
    support.get("/cards/3").await.assert_contains("may still change 4.0 USD without tax on this card today");
    replace("3", "1111111003").await;
    let page = support.post("/cards/1/top-up", &[("amount", "11.9")]).await;
    assert_refused(&page, "For this card 3.0 USD are left today, and this change is 10.0 USD.");
    support.submit("/cards/1/top-up", &[("amount", "3.57")]).await.assert_contains("3.0 USD added");
    let page = support.post_confirmed("/cards/1/void", &[("reason", "x"), ("refund", "none"), ("used", "yes")]).await;
    assert_refused(&page, "For this card 0.0 USD are left today");
}

/// A reseller does not learn the names of operators.
#[tokio::test]
async fn the_timeline_of_a_reseller_names_no_operator() {
    let console = console().await;
    console
        .server
        .execute(
            "update cards set owner_id = 3 where id = 12;
             update vouchers set number = '120001' where id = 2;
             insert into actions (action, target_type, target_id, user_id) values ('a voucher of others', 'Voucher', 2, 6);
             insert into change_log (at, who, operator, what, target_id, after)
             values (now(), 'command', 'root', 'card', 12, '{\"withheld\": \"blocked\"}'),
                 (now(), 'boss of the console', null, 'card', 12, '{\"withheld\": null}')",
        )
        .await;
    let page = console.log_in_reseller(3).await.get("/cards/12").await;
    page.assert_contains("change Blocked");
    page.assert_contains("operator");
    for secret in ["root", "boss of the console", "a voucher of others"] {
        page.assert_lacks(secret);
    }
    let page = console.log_in(Role::Admin).await.get("/cards/12").await;
    for name in ["command (root)", "boss of the console", "a voucher of others"] {
        page.assert_contains(name);
    }
}
