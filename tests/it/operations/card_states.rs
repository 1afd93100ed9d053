//! Blocked, assigned, reserved and quarantined cards, and the same number under several owners, in each operation
//! (`ledger.md`, "Cards").

use super::card_by_cli_update::{assert_card, assert_error, insert_fixtures, send};
use crate::harness::{FIXTURE_SQL, Reply, Server, hash, postgres, server, server_on_database, with_timeout};

async fn prepared_server() -> Server {
    let server = server().await;
    insert_fixtures(&server).await;
    server.execute("insert into conflines (name, value) values ('API_Allow_payments_ower_API', '1')").await;
    server
}

async fn balance(server: &Server, user: &str, key: &str, number: &str) -> Reply {
    server.post("card_balance_get", &format!("u={user}&number={number}&hash={}", hash(number, key))).await
}

async fn pay(server: &Server, user: &str, key: &str, number: &str) -> Reply {
    let hash = hash(&format!("{number}1"), key);
    server.post("card_payment_add", &format!("u={user}&number={number}&amount=1&hash={hash}")).await
}

/// The numbers of the cards that match the filter.
async fn list(server: &Server, filter: &str) -> Vec<String> {
    let reply = server.post("calling_cards_get", &format!("u=admin{filter}&hash={}", hash("", "secret"))).await;
    reply.element_texts("card_number").into_iter().map(str::to_owned).collect()
}

async fn update(server: &Server, card: i64, fields: &str) -> Reply {
    server.post_signed("calling_card_update", &format!("u=admin&card_id={card}&{fields}"), &card.to_string()).await
}

const BALANCES: &str = "select coalesce(sum(balance), 0) from cards";

/// Card 4 is sold and has the caller id 3701111; card 2 is free and has the PIN 1001.
#[tokio::test]
async fn blocked_and_quarantined_cards_are_not_found() {
    for state in ["withheld = 'blocked'", "quarantined_at = now()"] {
        let server = prepared_server().await;
        server.execute(&format!("update cards set {state} where id in (2, 4)")).await;
        let before = server.rows(BALANCES).await.concat();
        assert_error(&balance(&server, "admin", "secret", "1111111000").await, "Calling Card was not found");
        pay(&server, "admin", "secret", "1111111000").await.assert_page_error("Calling Card was not found");
        // By caller id: it keeps the caller id, and no card is created.
        assert_error(&send(&server, "callerid=3701111&amount=5").await, "Card was not found");
        assert_error(&send(&server, "callerid=3701111&amount=5&cardgroup_id=11").await, "Card was not found");
        assert_error(&send(&server, "callerid=3701111&pin=1002").await, "Card was not found");
        update(&server, 7, "callerid=3701111").await.assert_page_error("CallerID must be unique");
        // By PIN: with a device, with a card, and without either.
        for callerid in ["555", "700", "999"] {
            assert_error(&send(&server, &format!("callerid={callerid}&pin=1001")).await, "Card was not found");
        }
        let sold = server.post_signed("card_from_group_sell", "u=admin&id=6&number=1111111001", "6").await;
        sold.assert_page_error("Free cards was not found");
        for filter in ["&number=1111111001", "&pin=1001", "&callerid=3701111"] {
            assert_eq!(list(&server, filter).await, Vec::<String>::new(), "{state}: {filter}");
        }
        server.assert_rows("select count(*) from payments", &["0"]).await;
        server.assert_rows(BALANCES, &[&before]).await;
        server.assert_rows("select count(*) from cards where retired_at is not null or id > 100", &["0"]).await;
        // Unblocked, the card is usable again.
        server.execute("update cards set withheld = null, quarantined_at = null").await;
        assert_card(&send(&server, "callerid=3701111&pin=1001").await, "4", "6", "20.17", "3701111");
    }
}

/// A blocked card can still be changed by its id and is listed with other filters; a quarantined card cannot.
#[tokio::test]
async fn operator_sees_blocked_cards() {
    let server = prepared_server().await;
    server.execute("update cards set withheld = 'blocked', language = 'xx' where id = 2").await;
    assert_eq!(list(&server, "&language=xx").await, ["1111111001"]);
    update(&server, 2, "name=Anna").await.assert_body(
        r"
        <page>
          <status>
            <success>Calling Card successfully updated</success>
          </status>
        </page>
    ",
    );
    server.execute("update cards set withheld = null, quarantined_at = now() where id = 2").await;
    assert_eq!(list(&server, "&language=xx").await, Vec::<String>::new());
    update(&server, 2, "name=Bea").await.assert_page_error("Calling Card was not found");
    server.assert_rows("select name from cards where id = 2", &["Anna"]).await;
}

/// A customer who has the PIN of an assigned or reserved card can use it. The first use marks it as sold.
#[tokio::test]
async fn assigned_and_reserved_cards_are_only_sold_by_their_pin() {
    for state in ["assigned", "reserved"] {
        let server = prepared_server().await;
        server.execute(&format!("update cards set withheld = '{state}' where id in (1, 2, 3, 4, 6)")).await;
        for form in ["u=admin&id=6&number=1111111001", "u=admin&id=6"] {
            let sold = server.post_signed("card_from_group_sell", form, "6").await;
            sold.assert_page_error("Free cards was not found");
        }
        assert_eq!(
            balance(&server, "admin", "secret", "1111111001").await.element_texts("balance"),
            ["10.0840336134454"]
        );
        assert_eq!(pay(&server, "admin", "secret", "1111111000").await.element_texts("number"), ["1111111000"]);
        assert_eq!(list(&server, "&pin=1001").await, ["1111111001"]);
        // The funds of an assigned card are moved to another card; another one is activated by its PIN.
        assert_eq!(send(&server, "callerid=3701111&pin=1001").await.element_texts("id"), ["4"]);
        assert_eq!(send(&server, "callerid=999&pin=1002").await.element_texts("id"), ["3"]);
        server
            .assert_rows(
                "select sold, callerid, withheld, (select kind from payments where user_id = cards.id) from cards where id = 3",
                &[&format!("1|999|{state}|sale")],
            )
            .await;
    }
}

/// Both owners have a card with the number 1111111000, and one with 900001.
async fn server_with_doubled_numbers() -> Server {
    let server = prepared_server().await;
    server
        .execute(
            "update cards set number = '1111111000', shares_number = true, balance = 5, sold = 1 where id = 12;
             update cards set number = '900001', shares_number = true, balance = 6, sold = 1 where id = 13;
             update cards set owner_id = 77 where number = '900001' and id = 9",
        )
        .await;
    server
}

#[tokio::test]
async fn number_finds_the_card_of_the_owner() {
    let server = server_with_doubled_numbers().await;
    let shown = async |user, key, number| {
        let reply = balance(&server, user, key, number).await;
        reply.element_texts("balance").concat()
    };
    assert_eq!(shown("admin", "secret", "1111111000").await, "10.0840336134454");
    assert_eq!(shown("reseller", "reskey", "1111111000").await, "5.0");
    // No card of owner 0 has the number: the lowest id counts.
    assert_eq!(shown("admin", "secret", "900001").await, "3.0");
    assert_eq!(shown("reseller", "reskey", "900001").await, "6.0");
    pay(&server, "admin", "secret", "1111111000").await.element_texts("new_balance");
    pay(&server, "reseller", "reskey", "1111111000").await.element_texts("new_balance");
    server
        .assert_rows(
            "select user_id, caller_id, balance_change from payments order by id",
            &["4|0|0.840336134453782", "12|3|0.793650793650794"],
        )
        .await;
    let mut numbers = list(&server, "&number=1111111000").await;
    numbers.dedup();
    assert_eq!(numbers, ["1111111000"]);
}

/// A new number or PIN must not exist under any owner, or on a quarantined card.
#[tokio::test]
async fn used_numbers_and_pins_are_refused_under_any_owner() {
    let server = prepared_server().await;
    server
        .execute(
            "update cards set owner_id = 3, pin = '4444' where id = 9;
             update cards set owner_id = 3, quarantined_at = now(), pin = '5555' where id = 10;
             update cardgroups set number_length = 6 where id = 7",
        )
        .await;
    for number in ["900001", "900002"] {
        update(&server, 7, &format!("number={number}")).await.assert_page_error("Number is already taken");
        let form = format!("u=admin&card_group_id=7&cards_from={number}&cards_till={number}");
        let created = server.post_signed("calling_cards_create", &form, &format!("7{number}{number}")).await;
        created.assert_page_error("Cards already exist");
    }
    for pin in ["4444", "5555"] {
        update(&server, 7, &format!("pin={pin}")).await.assert_page_error("PIN is already taken");
    }
    // Only these two PINs of one digit are left, of which one is used by a quarantined card.
    server
        .execute(
            "update cardgroups set pin_length = 1, number_length = 2 where id = 11;
             update cards set pin = '7' where id = 10;
             insert into cards (cardgroup_id, number, pin)
             select 8, (10 + i)::text, i::text from generate_series(0, 9) i where i not in (3, 7)",
        )
        .await;
    assert_eq!(send(&server, "callerid=999&amount=1&cardgroup_id=11").await.element_texts("pin"), ["3"]);
    assert_error(&send(&server, "callerid=998&amount=1&cardgroup_id=11").await, "Failed to make transaction");
}

/// A card that shares its number gets another number: it does not share this one.
#[tokio::test]
async fn new_number_is_not_shared() {
    let server = server_with_doubled_numbers().await;
    server
        .execute("update cards set sold = 0 where id = 13; update cardgroups set number_length = 6 where id = 12")
        .await;
    for (fields, shares_number) in [("name=Anna", "true"), ("number=900001", "true"), ("number=900009", "false")] {
        update(&server, 13, fields).await.element_texts("success");
        server.assert_rows("select shares_number from cards where id = 13", &[shares_number]).await;
    }
    update(&server, 7, "number=900009").await.assert_page_error("Number is already taken");
}

async fn create_as_reseller(server: &Server, number: &str) -> Reply {
    let hash = hash(&format!("12{number}{number}"), "reskey");
    let form = format!("u=reseller&card_group_id=12&cards_from={number}&cards_till={number}&hash={hash}");
    server.post("calling_cards_create", &form).await
}

/// Two servers give one number to cards of two owners at the same time. Neither sees the other's card when it checks
/// the number: the database decides.
#[tokio::test]
async fn concurrent_requests_give_a_number_to_one_owner() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let first_server = server_on_database(&database, &[]).await;
    let second_server = server_on_database(&database, &[]).await;
    let owners = "select number, owner_id from cards where number in ('120008', '120009') order by number";

    // The update waits for its card. Meanwhile the reseller creates a card.
    let mut card_lock = first_server.pool.begin().await.unwrap();
    sqlx::query("select from cards where id = 7 for update").execute(&mut *card_lock).await.unwrap();
    let create = async {
        with_timeout("the update to wait for the card", first_server.wait_for_lock_waiter()).await;
        let reply = create_as_reseller(&second_server, "120008").await;
        card_lock.rollback().await.unwrap();
        reply
    };
    let (updated, created) = tokio::join!(update(&first_server, 7, "number=120008"), create);
    updated.assert_page_error("Number is already taken");
    assert_eq!(created.element_texts("status").concat().trim(), "Cards created: 1/1", "{}", created.body);

    // A change of a number is not yet committed. The reseller waits for it.
    let mut change = first_server.pool.begin().await.unwrap();
    sqlx::query("update cards set number = '120009' where id = 7").execute(&mut *change).await.unwrap();
    let commit = async {
        with_timeout("the creation to wait for the number", second_server.wait_for_lock_waiter()).await;
        change.commit().await.unwrap();
    };
    let (created, ()) = tokio::join!(create_as_reseller(&second_server, "120009"), commit);
    created.assert_page_error("Cards already exist");
    first_server.assert_rows(owners, &["120008|3", "120009|0"]).await;
}
