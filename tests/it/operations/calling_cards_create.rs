//! `calling_cards_create` (`endpoints/calling_cards_create.md`).

use crate::harness::{Reply, Server, hash, server, server_with_settings, x7_server};

const CREATE: &str = "calling_cards_create";
const CARD_COUNT: &str = "select count(*) from cards";
const UNCHANGED: &[&str] = &["13"];

/// Sends a request with the hash over group and range.
async fn send(server: &Server, user: &str, group: &str, from: &str, till: &str, rest: &str) -> Reply {
    let key = if user == "reseller" { "reskey" } else { "secret" };
    let hashed = hash(&format!("{group}{from}{till}"), key);
    let encoded = |text: &str| text.replace(' ', "+");
    let form = format!(
        "u={user}&card_group_id={group}&cards_from={}&cards_till={}{rest}&hash={hashed}",
        encoded(from),
        encoded(till)
    );
    server.post(CREATE, &form).await
}

#[track_caller]
fn assert_created(reply: &Reply, count: &str) {
    reply
        .assert_body(&format!("<page>\n  <status>\n    <status>Cards created: {count}</status>\n  </status>\n</page>"));
}

#[tokio::test]
async fn creates_the_cards_of_a_range() {
    let server = server().await;
    server.execute("update cardgroups set price = 8.403361344537815 where id = 11").await;
    assert_created(&send(&server, "admin", "11", "000998", "001001", "").await, "4/4");
    server
        .assert_rows(
            "select id, cardgroup_id, owner_id, number, balance, sold, active, hidden, callerid, language, name, user_id, min_balance, batch_number,
                 call_count, frozen_balance, first_use, daily_charge_paid_till, retired_at, pin ~ '^[0-9]{4}$' as valid_pin
             from cards where id > 100 order by id",
            &["000998", "000999", "001000", "001001"]
                .iter()
                .zip(101..)
                .map(|(number, id)| {
                    format!("{id}|11|0|{number}|8.403361344537815|0|0|0|∅|en||-1|0.000000000000000||0|0.000000000000000|∅|∅|∅|true")
                })
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
        )
        .await;
    server.assert_rows("select count(distinct pin) from cards where id > 100", &["4"]).await;
    // The new cards can be sold.
    server.assert_rows("select * from card_stock_differences", &[]).await;
    let reply = server.post_signed("card_from_group_sell", "u=admin&id=11", "11").await;
    assert_eq!(reply.element_texts("number"), ["000998"]);
}

#[tokio::test]
async fn optional_parameters_are_stored() {
    let server = server().await;
    let rest =
        "&batch_number=B+%26+%3C1%3E&min_balance=1.5&language=abcdefghijkl&distributor_id=2&owner_id=9&pin=0000&sold=1";
    assert_created(&send(&server, "admin", "11", "000001", "000001", rest).await, "1/1");
    let stored = "select batch_number, trim_scale(min_balance) as min, language, user_id, owner_id, sold from cards where id > 100 order by id desc limit 1";
    server.assert_rows(stored, &["B & <1>|1.5|abcdefghij|2|0|0"]).await;
    for (rest, expected) in [
        ("&min_balance=+&language=&distributor_id=", "|0||-1|0|0"),
        ("&min_balance=1e2&distributor_id=2abc", "|100|en|2|0|0"),
        // An admin, another owner's user and an unknown user are no distributors.
        ("&min_balance=+5+&distributor_id=0", "|5|en|-1|0|0"),
        ("&distributor_id=11", "|0|en|-1|0|0"),
        ("&min_balance=&distributor_id=-1", "|0|en|-1|0|0"),
        ("&distributor_id=99999999999999999999", "|0|en|-1|0|0"),
    ] {
        server.execute("delete from cards where id > 100").await;
        assert_created(&send(&server, "admin", "11", "000001", "000001", rest).await, "1/1");
        server.assert_rows(stored, &[expected]).await;
    }
    let long = format!("&batch_number={}", "x".repeat(256));
    send(&server, "admin", "11", "000002", "000002", &long).await.assert_page_error("Batch number is too long");
    for invalid in ["abc", "5abc", "0x10", "1,5", "NaN"] {
        send(&server, "admin", "11", "000002", "000002", &format!("&min_balance={invalid}"))
            .await
            .assert_page_error("Balance is not a numerical value");
    }
    server.assert_rows("select count(*) from cards where number = '000002'", &["0"]).await;
    let x7 = x7_server().await;
    assert_created(&send(&x7, "admin", "11", "000002", "000002", "&min_balance=5abc").await, "1/1");
    x7.assert_rows("select trim_scale(min_balance) as min from cards where number = '000002'", &["0"]).await;
    x7.execute("delete from cards where number = '000002'").await;
    assert_created(&send(&x7, "admin", "11", "000001", "000001", &format!("{long}&min_balance=0x10")).await, "1/1");
    x7.assert_rows(
        "select length(batch_number) as length, trim_scale(min_balance) as min from cards where id > 100",
        &["255|16"],
    )
    .await;
}

/// New cards belong to the owner of the group; in x7 they belong to the caller.
#[tokio::test]
async fn owner_and_distributor_of_new_cards() {
    let (server, x7) = (server().await, x7_server().await);
    for (server, card_of_admin) in [(&server, "3|000001|11"), (&x7, "0|000001|11")] {
        assert_created(&send(server, "admin", "12", "000001", "000001", "&distributor_id=11").await, "1/1");
        assert_created(&send(server, "reseller", "12", "000002", "000002", "&distributor_id=2").await, "1/1");
        assert_created(&send(server, "accountant", "11", "000003", "000003", "&distributor_id=2").await, "1/1");
        assert_created(&send(server, "accountant_read", "11", "000004", "000004", "").await, "1/1");
        server
            .assert_rows(
                "select owner_id, number, user_id from cards where id > 100 order by number",
                &[card_of_admin, "3|000002|-1", "0|000003|2", "0|000004|-1"],
            )
            .await;
    }
}

#[tokio::test]
async fn errors_in_documented_order() {
    let (server, x7) = (server_with_settings(&[("max_new_cards", "50")]).await, x7_server().await);
    for server in [&server, &x7] {
        server.execute("update cardgroups set pin_length = 2 where id = 7").await;
        server.post(CREATE, "u=user").await.assert_status_error("Incorrect hash");
        for user in ["unknown", "user", "partner"] {
            send(server, user, "", "", "", "").await.assert_page_error("Access Denied");
        }
        for user in ["accountant_zero", "accountant_none", "reseller_read", "reseller_none"] {
            send(server, user, "", "", "", "")
                .await
                .assert_page_error("You are not authorized to use this functionality");
        }
        for (user, group) in
            [("admin", ""), ("admin", "8"), ("admin", "99"), ("admin", "-7"), ("accountant", "12"), ("reseller", "7")]
        {
            send(server, user, group, "", "", "").await.assert_page_error("Card Group was not found");
        }
        send(server, "admin", "7", "", "", "").await.assert_page_error("Cards from was not found");
        send(server, "admin", "7", " ", "", "").await.assert_page_error("Cards from was not found");
        send(server, "admin", "7", "x", "", "").await.assert_page_error("Cards till was not found");
        for from in ["x", "00001", "0000001", " 00001", "-00001", "00001.", "１２３４５６"] {
            send(server, "admin", "7", from, "x", "").await.assert_page_error("Cards from is in incorrect format");
        }
        send(server, "admin", "7", "000002", "x", "").await.assert_page_error("Cards till is in incorrect format");
        send(server, "admin", "7", "000002", "000001", "")
            .await
            .assert_page_error("Cards from must not be greater than Cards till");
        // At most a fifth of the hundred possible PINs may be in use.
        send(server, "admin", "7", "000001", "000021", "")
            .await
            .assert_page_error("PIN is too short for this interval");
        server.assert_rows(CARD_COUNT, UNCHANGED).await;
        assert_created(&send(server, "admin", "7", "000001", "000005", "").await, "5/5");
        send(server, "admin", "7", "000006", "000021", "")
            .await
            .assert_page_error("PIN is too short for this interval");
        assert_created(&send(server, "admin", "7", "000006", "000020", "").await, "15/15");
        send(server, "admin", "7", "000021", "000021", "")
            .await
            .assert_page_error("PIN is too short for this interval");
        send(server, "admin", "11", "100001", "100001", "").await.assert_page_error("Cards already exist");
        server.assert_rows("select count(*), count(distinct pin) as pins, min(length(pin)) as length from cards where cardgroup_id = 7 and id > 100", &["20|20|2"]).await;
    }
    send(&server, "admin", "11", "000100", "000150", "")
        .await
        .assert_page_error("At most 50 cards can be created at once");
    assert_created(&send(&server, "admin", "11", "000101", "000150", "").await, "50/50");
}

/// A number is in use if a visible card or a card of the same group has it.
#[tokio::test]
async fn existing_numbers_are_skipped() {
    let server = server().await;
    server
        .execute(
            "insert into cards (cardgroup_id, number, pin, hidden) values
                 (11, '000001', 'a', 1), (7, '000002', 'b', 0), (7, '000003', 'c', 1)",
        )
        .await;
    send(&server, "admin", "11", "000001", "000002", "").await.assert_page_error("Cards already exist");
    assert_created(&send(&server, "admin", "11", "000001", "000004", "").await, "2/4");
    server
        .assert_rows(
            "select number from cards where cardgroup_id = 11 and pin ~ '^[0-9]+$' order by id",
            &["000003", "000004"],
        )
        .await;
}

/// Numbers of 30 digits, and a range that takes more than one statement.
#[tokio::test]
async fn long_numbers_and_many_cards() {
    let server = server().await;
    server.execute("update cardgroups set number_length = 30, pin_length = 30 where id = 11; update cardgroups set number_length = 10, pin_length = 9 where id = 7").await;
    let (from, till) = ("999999999999999999999999999998", "999999999999999999999999999999");
    assert_created(&send(&server, "admin", "11", from, till, "").await, "2/2");
    server
        .assert_rows(
            "select number, length(pin) as pin from cards where cardgroup_id = 11 order by id",
            &[&format!("{from}|30"), &format!("{till}|30")],
        )
        .await;
    assert_created(&send(&server, "admin", "7", "1000000001", "1000025000", "").await, "25000/25000");
    server
        .assert_rows(
            "select count(*), count(distinct number) as numbers, min(number), max(number), count(distinct pin) as pins from cards where length(pin) = 9",
            &["25000|25000|1000000001|1000025000|25000"],
        )
        .await;
    // Ids are in the order of the numbers.
    server.assert_rows("select count(*) from (select number, lag(number) over (order by id) as last from cards where length(pin) = 9) card where number < last", &["0"]).await;
    server.assert_rows("select * from card_stock_differences", &[]).await;
}

/// All PINs are equally likely, and their order is random.
#[tokio::test]
async fn pins_are_random() {
    let server = server().await;
    server.execute("update cardgroups set pin_length = 5, number_length = 6 where id = 11").await;
    assert_created(&send(&server, "admin", "11", "200000", "209999", "").await, "10000/10000");
    let counts = server.rows("select count(*) from cards, generate_series(1, 5) digit where length(pin) = 5 group by digit, substr(pin, digit, 1)").await;
    assert_eq!(counts.len(), 50);
    // A thousand of each digit in each position are expected. Six standard deviations are 180.
    assert!(counts.iter().all(|count| (820..1180).contains(&count.parse::<i32>().unwrap())), "{counts:?}");
    let rising = server.rows("select count(*) from (select pin, lag(pin) over (order by number) as last from cards where length(pin) = 5) card where pin > last").await;
    assert!((4700..5300).contains(&rising[0].parse::<i32>().unwrap()), "{rising:?}");
}

/// An error in the last statement rolls the first one back.
#[tokio::test]
async fn error_in_the_last_statement_rolls_back_all() {
    let server = server().await;
    server
        .execute(
            "update cardgroups set pin_length = 9 where id = 11;
             alter table cards add constraint no_last_card check (number <> '025000')",
        )
        .await;
    send(&server, "admin", "11", "000001", "025000", "").await.assert_page_error("Failed to make transaction");
    server.assert_rows(CARD_COUNT, UNCHANGED).await;
    assert_created(&send(&server, "admin", "11", "000001", "024999", "").await, "24999/24999");
}

/// Calls with the same numbers and calls with the same few PINs run at the same time. They create no duplicates, lose
/// no cards and don't deadlock.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_calls_create_no_duplicates() {
    let server = server_with_settings(&[("database_connections", "8")]).await;
    server.execute("update cardgroups set pin_length = 4, number_length = 6").await;
    let mut tasks = Vec::new();
    for call in 0..12 {
        let server = server.clone();
        tasks.push(tokio::spawn(async move {
            match call % 3 {
                // The same hundred numbers four times, in two groups.
                0 => send(&server, "admin", if call < 6 { "11" } else { "9" }, "000001", "000100", "").await,
                1 => send(&server, "admin", "7", &format!("{call:03}000"), &format!("{call:03}099"), "").await,
                // A new card by caller id draws its number and PIN at the same time.
                _ => {
                    let form = format!("u=admin&callerid=55{call}&cardgroup_id=11&amount=1");
                    server.post_signed("card_by_cli_update", &form, &format!("155{call}11")).await
                }
            }
        }));
    }
    let mut created = 0;
    for task in tasks {
        let reply = task.await.unwrap();
        match reply.element_texts("error")[..] {
            ["Cards already exist"] => {}
            [] => {
                created += reply
                    .element_texts("status")
                    .iter()
                    .filter_map(|text| text.rsplit(' ').next()?.split('/').next()?.parse::<i32>().ok())
                    .sum::<i32>()
            }
            _ => panic!("{}", reply.body),
        }
    }
    // A card by caller id may have taken one of the numbers.
    let cards = server.rows("select count(*) filter (where callerid is null) as created, count(*) filter (where callerid like '55%') as by_cli,
        count(*) - count(distinct number) as duplicate_numbers, count(*) - count(distinct pin) as duplicate_pins from cards where id > 100").await;
    assert_eq!(cards, [format!("{created}|4|0|0")]);
    assert!((498..=500).contains(&created), "{created}");
}

/// Holds the lock of bulk creation until the transaction ends.
async fn hold_bulk_create_lock(server: &Server) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut transaction = server.pool.begin().await.unwrap();
    sqlx::raw_sql("select pg_advisory_xact_lock(hashtextextended('calling_cards_create', 0))")
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction
}

/// The group is read after the lock is acquired, so that changes during the wait count.
#[tokio::test(flavor = "multi_thread")]
async fn group_is_read_after_the_lock_wait() {
    let server = server_with_settings(&[("database_connections", "4")]).await;
    for (change, message) in [
        ("update cardgroups set hidden = 1 where id = 11", "Card Group was not found"),
        ("update cardgroups set hidden = 0, number_length = 7 where id = 11", "Cards from is in incorrect format"),
        ("update cardgroups set number_length = 6, pin_length = 5, price = 50, owner_id = 3 where id = 11", ""),
    ] {
        let transaction = hold_bulk_create_lock(&server).await;
        let waiting = tokio::spawn({
            let server = server.clone();
            async move { send(&server, "admin", "11", "000001", "000002", "").await }
        });
        server.wait_for_lock_waiter().await;
        server.execute(change).await;
        transaction.commit().await.unwrap();
        let reply = waiting.await.unwrap();
        if message.is_empty() {
            assert_created(&reply, "2/2")
        } else {
            reply.assert_page_error(message)
        }
        server.execute("update cardgroups set hidden = 0, number_length = 6 where id = 11").await;
    }
    server
        .assert_rows(
            "select length(pin) as pin, trim_scale(balance) as balance, owner_id from cards where id > 100",
            &["5|50|3"; 2],
        )
        .await;
}

/// During a bulk creation of most numbers of a group, a new card by caller id finds one of the other numbers without
/// waiting.
#[tokio::test]
async fn new_card_by_caller_id_during_bulk_creation() {
    let server = server().await;
    server.execute("update cardgroups set number_length = 3, pin_length = 9 where id = 11").await;
    let mut transaction = hold_bulk_create_lock(&server).await;
    let cards = "insert into cards (cardgroup_id, number, pin) select 11, lpad(i::text, 3, '0'), 'p' || i from generate_series(0, 699) i";
    sqlx::raw_sql(cards).execute(&mut *transaction).await.unwrap();
    for callerid in ["901", "902", "903"] {
        let form = format!("u=admin&callerid={callerid}&cardgroup_id=11&amount=5");
        let reply = server.post_signed("card_by_cli_update", &form, &format!("5{callerid}11")).await;
        assert_eq!(reply.element_texts("balance"), ["5.00"], "{}", reply.body);
    }
    transaction.commit().await.unwrap();
    server
        .assert_rows("select count(*) from cards where number between '700' and '999' and length(number) = 3", &["3"])
        .await;
}

/// With all permitted PINs but one in use, the last card gets a PIN, even if the first ones drawn are in use.
#[tokio::test]
async fn last_permitted_pin_is_found() {
    let server = server().await;
    server.execute("update cardgroups set pin_length = 2 where id = 11").await;
    assert_created(&send(&server, "admin", "11", "000001", "000019", "").await, "19/19");
    for _ in 0..150 {
        assert_created(&send(&server, "admin", "11", "000020", "000020", "").await, "1/1");
        server.execute("delete from cards where number = '000020'").await;
    }
}
