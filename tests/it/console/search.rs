//! `/search`.

use axum::http::StatusCode;
use mortise::console::access::Role;

use super::{Client, console};

async fn search(client: &Client, text: &str) -> super::Page {
    client.post("/search", &[("q", text)]).await
}

#[tokio::test]
async fn one_card_is_found_by_everything_that_is_known_about_it() {
    let console = console().await;
    let server = &console.server;
    let form = "u=accountant&id=6&number=1111111002&email=Anna@example.com&payment_ref=invoice-1";
    server.post_signed("card_from_group_sell", form, "Anna@example.com6").await;
    server
        .execute("update cards set serial = 'S-7' where id = 7; update cards set pin = 'secret-pin' where id = 1")
        .await;
    for role in [Role::Admin, Role::Support, Role::ReadOnly] {
        let client = console.log_in(role).await;
        for (text, id) in [
            ("1111111003", 1),
            (" 1111111003 ", 1),
            ("1111-111 003", 1),
            ("secret-pin", 1),
            ("3701111", 4),
            ("anna@EXAMPLE.com", 3),
            ("invoice-1", 3),
            ("S-7", 7),
            // Deleted.
            ("1111110999", 5),
        ] {
            let page = search(&client, text).await;
            assert_eq!(page.status, StatusCode::SEE_OTHER, "{text}: {}", page.text());
            assert_eq!(page.location, Some(format!("/cards/{id}")), "{text}");
        }
    }
}

#[tokio::test]
async fn several_cards_are_listed_with_what_has_found_them() {
    let console = console().await;
    // The number of one card is the serial number of another one, and the caller id of a third.
    console
        .server
        .execute(
            "update cards set serial = '1111111001' where id = 7;
             update cards set callerid = '1111111001', name = '<script>alert(1)</script>' where id = 11;
             update cardgroups set name = '<script>alert(2)</script>\"' where id = 10;
             update cards set serial = '1111111001' where id = 2",
        )
        .await;
    let support = console.log_in(Role::Support).await;
    let page = search(&support, "1111111001").await;
    assert_eq!(page.status, StatusCode::OK);
    page.assert_contains("Cards: 3.");
    page.assert_contains("1111111001 free ten dollars admin serial number, number");
    page.assert_contains("700001 free euro group admin serial number");
    page.assert_contains("100001 free <script>alert(2)</script>\" admin caller id");
    assert!(!page.body.contains("<script>alert"), "{}", page.body);
    for id in [2, 7, 11] {
        assert!(page.body.contains(&format!("href=\"/cards/{id}\"")), "{id}");
    }
}

#[tokio::test]
async fn search_says_when_there_are_more_cards() {
    let console = console().await;
    console
        .server
        .execute(
            "insert into cards (cardgroup_id, number, pin, serial)
             select 6, '2' || lpad(i::text, 9, '0'), 'x' || i, 'box 1' from generate_series(1, 100) i",
        )
        .await;
    let support = console.log_in(Role::Support).await;
    let page = search(&support, "box 1").await;
    page.assert_contains("Cards: 100.");
    page.assert_lacks("There are more cards");
    console.server.execute("update cards set serial = 'box 1' where id = 1").await;
    let page = search(&support, "box 1").await;
    page.assert_contains("There are more cards: only 100 are shown.");
    assert_eq!(page.body.matches("href=\"/cards/").count(), 100);
}

/// What was typed can be a PIN.
#[tokio::test]
async fn typed_text_is_in_no_address_and_on_no_page() {
    let console = console().await;
    let support = console.log_in(Role::Support).await;
    let empty = support.get("/search").await;
    empty.assert_contains("Find a card");
    empty.assert_lacks("Result");
    let forms = empty.body.matches("action=\"/search\" method=\"post\"").count();
    assert_eq!(forms, 2, "the search in the head, and the page's: {}", empty.body);
    let page = search(&support, "98765432").await;
    assert_eq!(page.status, StatusCode::OK);
    page.assert_contains(
        "No card was found. Your text was compared with: PIN, caller id, number, payment reference, serial number.",
    );
    page.assert_secret("98765432");
    search(&support, "unknown@example.com").await.assert_contains("e-mail address, payment reference, serial number.");
    search(&support, "  ").await.assert_lacks("Result");
    // A parameter of the address is not read.
    let page = support.get("/search?q=1111111001").await;
    assert_eq!(page.status, StatusCode::OK);
    page.assert_lacks("Result");
    // Without the token of the session, nothing is searched.
    let page = support.post_plain("/search", &[("q", "1111111001")]).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn resellers_find_their_own_cards_only() {
    let console = console().await;
    console
        .server
        .execute(
            "update cards set owner_id = 3 where id in (12, 13);
             update cards set serial = 'S-1', callerid = id::text where id in (2, 12, 13);
             insert into cards (cardgroup_id, number, pin, serial)
             select 6, '2' || lpad(i::text, 9, '0'), 'x' || i, 'S-1' from generate_series(1, 2000) i",
        )
        .await;
    let shop = console.log_in_reseller(3).await;
    for text in ["1111111001", "1001", "2", "3701111"] {
        let page = search(&shop, text).await;
        assert_eq!(page.status, StatusCode::OK, "{text}: {:?}", page.location);
        page.assert_contains("No card was found.");
        page.assert_contains("Only your own cards are searched.");
    }
    assert_eq!(search(&shop, "120001").await.location.as_deref(), Some("/cards/12"));
    assert_eq!(search(&shop, "12").await.location.as_deref(), Some("/cards/12"));
    // The cards of others do not use up the limit of the list.
    let page = search(&shop, "S-1").await;
    page.assert_contains("Cards: 2.");
    page.assert_contains("120002 free the reseller's reseller serial number");
    page.assert_lacks("1111111001");
}

/// An account cannot try all PINs.
#[tokio::test]
async fn searches_that_find_nothing_are_limited() {
    let console = console().await;
    let support = console.log_in(Role::Support).await;
    for index in 0..100 {
        // These are no guesses.
        search(&support, "unknown@example.com").await.assert_contains("No card was found.");
        assert_eq!(search(&support, "1111111001").await.status, StatusCode::SEE_OTHER);
        let page = search(&support, &format!("9999{index}")).await;
        assert_eq!(page.status, StatusCode::OK, "{index}");
    }
    for text in ["1001", "99", "1111111001"] {
        let page = search(&support, text).await;
        assert_eq!(page.status, StatusCode::TOO_MANY_REQUESTS, "{text}");
        page.assert_contains("Too many searches without a result");
    }
    search(&support, "unknown@example.com").await.assert_contains("No card was found.");
    // The limit is that of the account.
    let other = console.log_in(Role::Support).await;
    assert_eq!(search(&other, "1001").await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn concurrent_searches_do_not_exceed_the_limit() {
    let console = console().await;
    let support = console.log_in(Role::Support).await;
    let texts: Vec<String> = (0..150).map(|index| format!("9999{index}")).collect();
    let pages = futures_util::future::join_all(texts.iter().map(|text| search(&support, text))).await;
    let found_nothing = pages.iter().filter(|page| page.status == StatusCode::OK).count();
    let refused = pages.iter().filter(|page| page.status == StatusCode::TOO_MANY_REQUESTS).count();
    assert_eq!((found_nothing, refused), (100, 50));
}

#[tokio::test]
async fn a_card_that_its_pin_has_found_is_recorded() {
    let console = console().await;
    let changes = "select who, target_id, target_name, after from change_log where what = 'card' order by id";
    let clerk = console.log_in_with_pins(Role::Support).await;
    assert_eq!(search(&clerk, "1001").await.status, StatusCode::SEE_OTHER);
    let reader = console.log_in_with_pins(Role::ReadOnly).await;
    assert_eq!(search(&reader, "1111111001").await.status, StatusCode::SEE_OTHER);
    console.server.assert_rows(changes, &[]).await;
    let support = console.log_in(Role::Support).await;
    for client in [&reader, &support] {
        assert_eq!(search(client, "10-01").await.status, StatusCode::SEE_OTHER);
    }
    let [reader, support] = [reader.login(), support.login()].map(|login| &login.name);
    let row = |who| format!("{who}|2|1111111001|{{\"found_by\": \"PIN\"}}");
    console.server.assert_rows(changes, &[&row(reader), &row(support)]).await;
    clerk.get("/cards/2").await.assert_contains("change Found by its PIN");
}

/// The payments of others are not read without end.
#[tokio::test]
async fn a_reference_of_many_sales_is_read_in_part() {
    let console = console().await;
    console
        .server
        .execute(
            "update cards set owner_id = 3 where id = 12;
             insert into payments (paymenttype, kind, amount, user_id, card, reference)
             select 'Card', 'top_up', 1, case i when 1 then 12 else 2 end, 1, 'cash' from generate_series(1, 10001) i",
        )
        .await;
    let shop = console.log_in_reseller(3).await;
    let page = search(&shop, "cash").await;
    page.assert_contains("There are more cards");
    page.assert_contains("120001 free the reseller's");
    console.server.execute("delete from payments where reference = 'cash' and user_id = 2").await;
    assert_eq!(search(&shop, "cash").await.location.as_deref(), Some("/cards/12"));
}
