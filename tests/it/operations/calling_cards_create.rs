//! `calling_cards_create` (`endpoints/calling_cards_create.md`).

use crate::harness::{Reply, Server, hash, server, server_with_settings, x7_server};

const CREATE: &str = "calling_cards_create";
const CARDS: &str = "select count(*) from cards";
const AS_BEFORE: &[&str] = &["13"];

/// Asks with the hash over group and range.
async fn ask(server: &Server, user: &str, group: &str, from: &str, till: &str, rest: &str) -> Reply {
    let key = if user == "reseller" { "reskey" } else { "secret" };
    let hashed = hash(&format!("{group}{from}{till}"), key);
    let plus = |text: &str| text.replace(' ', "+");
    let form = format!(
        "u={user}&card_group_id={group}&cards_from={}&cards_till={}{rest}&hash={hashed}",
        plus(from),
        plus(till)
    );
    server.post(CREATE, &form).await
}

#[track_caller]
fn is_created(reply: &Reply, count: &str) {
    reply
        .assert_body(&format!("<page>\n  <status>\n    <status>Cards created: {count}</status>\n  </status>\n</page>"));
}

#[tokio::test]
async fn makes_the_cards_of_a_range() {
    let server = server().await;
    server.execute("update cardgroups set price = 8.403361344537815 where id = 11").await;
    is_created(&ask(&server, "admin", "11", "000998", "001001", "").await, "4/4");
    server
        .assert_rows(
            "select id, cardgroup_id, owner_id, number, balance, sold, active, hidden, callerid, language, name, user_id, min_balance, batch_number,
                 call_count, frozen_balance, first_use, daily_charge_paid_till, retired_at, pin ~ '^[0-9]{4}$' as proper
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
    // They can be sold.
    server.assert_rows("select * from card_stock_differences", &[]).await;
    let reply = server.post_signed("card_from_group_sell", "u=admin&id=11", "11").await;
    assert_eq!(reply.element_texts("number"), ["000998"]);
}

#[tokio::test]
async fn everything_that_can_be_said() {
    let server = server().await;
    let rest =
        "&batch_number=B+%26+%3C1%3E&min_balance=1.5&language=abcdefghijkl&distributor_id=2&owner_id=9&pin=0000&sold=1";
    is_created(&ask(&server, "admin", "11", "000001", "000001", rest).await, "1/1");
    let said = "select batch_number, trim_scale(min_balance) as min, language, user_id, owner_id, sold from cards where id > 100 order by id desc limit 1";
    server.assert_rows(said, &["B & <1>|1.5|abcdefghij|2|0|0"]).await;
    for (rest, expected) in [
        ("&min_balance=abc&language=&distributor_id=", "|0||-1|0|0"),
        ("&min_balance=1e2&distributor_id=2abc", "|100|en|2|0|0"),
        // Neither an admin, nor another owner's, nor nobody at all is a distributor.
        ("&min_balance=5abc&distributor_id=0", "|0|en|-1|0|0"),
        ("&min_balance=0x10&distributor_id=11", "|0|en|-1|0|0"),
        ("&min_balance=&distributor_id=-1", "|0|en|-1|0|0"),
        ("&distributor_id=99999999999999999999", "|0|en|-1|0|0"),
    ] {
        server.execute("delete from cards where id > 100").await;
        is_created(&ask(&server, "admin", "11", "000001", "000001", rest).await, "1/1");
        server.assert_rows(said, &[expected]).await;
    }
    let long = format!("&batch_number={}", "x".repeat(256));
    ask(&server, "admin", "11", "000002", "000002", &long).await.assert_page_error("Batch number is too long");
    let x7 = x7_server().await;
    is_created(&ask(&x7, "admin", "11", "000001", "000001", &format!("{long}&min_balance=0x10")).await, "1/1");
    x7.assert_rows(
        "select length(batch_number) as length, trim_scale(min_balance) as min from cards where id > 100",
        &["255|16"],
    )
    .await;
}

/// The cards are the group's owner's; those that an X7 server makes are the caller's.
#[tokio::test]
async fn whose_the_cards_are() {
    let (server, x7) = (server().await, x7_server().await);
    for (server, admins) in [(&server, "3|000001|11"), (&x7, "0|000001|11")] {
        is_created(&ask(server, "admin", "12", "000001", "000001", "&distributor_id=11").await, "1/1");
        is_created(&ask(server, "reseller", "12", "000002", "000002", "&distributor_id=2").await, "1/1");
        is_created(&ask(server, "accountant", "11", "000003", "000003", "&distributor_id=2").await, "1/1");
        is_created(&ask(server, "accountant_read", "11", "000004", "000004", "").await, "1/1");
        server
            .assert_rows(
                "select owner_id, number, user_id from cards where id > 100 order by number",
                &[admins, "3|000002|-1", "0|000003|2", "0|000004|-1"],
            )
            .await;
    }
}

#[tokio::test]
async fn errors_in_their_order() {
    let (server, x7) = (server_with_settings(&[("max_new_cards", "50")]).await, x7_server().await);
    for server in [&server, &x7] {
        server.execute("update cardgroups set pin_length = 2 where id = 7").await;
        server.post(CREATE, "u=user").await.assert_status_error("Incorrect hash");
        for user in ["nobody", "user", "partner"] {
            ask(server, user, "", "", "", "").await.assert_page_error("Access Denied");
        }
        for user in ["accountant_zero", "accountant_none", "reseller_read", "reseller_none"] {
            ask(server, user, "", "", "", "")
                .await
                .assert_page_error("You are not authorized to use this functionality");
        }
        for (user, group) in
            [("admin", ""), ("admin", "8"), ("admin", "99"), ("admin", "-7"), ("accountant", "12"), ("reseller", "7")]
        {
            ask(server, user, group, "", "", "").await.assert_page_error("Card Group was not found");
        }
        ask(server, "admin", "7", "", "", "").await.assert_page_error("Cards from was not found");
        ask(server, "admin", "7", " ", "", "").await.assert_page_error("Cards from was not found");
        ask(server, "admin", "7", "x", "", "").await.assert_page_error("Cards till was not found");
        for from in ["x", "00001", "0000001", " 00001", "-00001", "00001.", "１２３４５６"] {
            ask(server, "admin", "7", from, "x", "").await.assert_page_error("Cards from is in incorrect format");
        }
        ask(server, "admin", "7", "000002", "x", "").await.assert_page_error("Cards till is in incorrect format");
        ask(server, "admin", "7", "000002", "000001", "")
            .await
            .assert_page_error("Cards from must not be greater than Cards till");
        // A fifth of a hundred PINs may be in use.
        ask(server, "admin", "7", "000001", "000021", "").await.assert_page_error("PIN is too short for this interval");
        server.assert_rows(CARDS, AS_BEFORE).await;
        is_created(&ask(server, "admin", "7", "000001", "000005", "").await, "5/5");
        ask(server, "admin", "7", "000006", "000021", "").await.assert_page_error("PIN is too short for this interval");
        is_created(&ask(server, "admin", "7", "000006", "000020", "").await, "15/15");
        ask(server, "admin", "7", "000021", "000021", "").await.assert_page_error("PIN is too short for this interval");
        ask(server, "admin", "11", "100001", "100001", "").await.assert_page_error("Cards already exist");
        server.assert_rows("select count(*), count(distinct pin) as pins, min(length(pin)) as length from cards where cardgroup_id = 7 and id > 100", &["20|20|2"]).await;
    }
    ask(&server, "admin", "11", "000100", "000150", "")
        .await
        .assert_page_error("At most 50 cards can be created at once");
    is_created(&ask(&server, "admin", "11", "000101", "000150", "").await, "50/50");
}

/// A number is in use where a card has it that isn't hidden, or a card of the same group.
#[tokio::test]
async fn numbers_that_exist_are_passed_over() {
    let server = server().await;
    server
        .execute(
            "insert into cards (cardgroup_id, number, pin, hidden) values
                 (11, '000001', 'a', 1), (7, '000002', 'b', 0), (7, '000003', 'c', 1)",
        )
        .await;
    ask(&server, "admin", "11", "000001", "000002", "").await.assert_page_error("Cards already exist");
    is_created(&ask(&server, "admin", "11", "000001", "000004", "").await, "2/4");
    server
        .assert_rows(
            "select number from cards where cardgroup_id = 11 and pin ~ '^[0-9]+$' order by id",
            &["000003", "000004"],
        )
        .await;
}

/// Numbers of any length, and a range over more than one statement's cards.
#[tokio::test]
async fn long_numbers_and_many_cards() {
    let server = server().await;
    server.execute("update cardgroups set number_length = 30, pin_length = 30 where id = 11; update cardgroups set number_length = 10, pin_length = 9 where id = 7").await;
    let (from, till) = ("999999999999999999999999999998", "999999999999999999999999999999");
    is_created(&ask(&server, "admin", "11", from, till, "").await, "2/2");
    server
        .assert_rows(
            "select number, length(pin) as pin from cards where cardgroup_id = 11 order by id",
            &[&format!("{from}|30"), &format!("{till}|30")],
        )
        .await;
    is_created(&ask(&server, "admin", "7", "1000000001", "1000025000", "").await, "25000/25000");
    server
        .assert_rows(
            "select count(*), count(distinct number) as numbers, min(number), max(number), count(distinct pin) as pins from cards where length(pin) = 9",
            &["25000|25000|1000000001|1000025000|25000"],
        )
        .await;
    // Ids follow the numbers.
    server.assert_rows("select count(*) from (select number, lag(number) over (order by id) as last from cards where length(pin) = 9) card where number < last", &["0"]).await;
    server.assert_rows("select * from card_stock_differences", &[]).await;
}

/// A PIN is the next one's as likely as any other: none is left out, and the order says nothing.
#[tokio::test]
async fn pins_are_random() {
    let server = server().await;
    server.execute("update cardgroups set pin_length = 5, number_length = 6 where id = 11").await;
    is_created(&ask(&server, "admin", "11", "200000", "209999", "").await, "10000/10000");
    let counts = server.rows("select count(*) from cards, generate_series(1, 5) place where length(pin) = 5 group by place, substr(pin, place, 1)").await;
    assert_eq!(counts.len(), 50);
    // A thousand each; six standard deviations are 180.
    assert!(counts.iter().all(|count| (820..1180).contains(&count.parse::<i32>().unwrap())), "{counts:?}");
    let rising = server.rows("select count(*) from (select pin, lag(pin) over (order by number) as last from cards where length(pin) = 5) card where pin > last").await;
    assert!((4700..5300).contains(&rising[0].parse::<i32>().unwrap()), "{rising:?}");
}

/// All or nothing: what goes wrong in the last statement undoes the first.
#[tokio::test]
async fn a_failure_at_the_end_leaves_nothing() {
    let server = server().await;
    server
        .execute(
            "update cardgroups set pin_length = 9 where id = 11;
             alter table cards add constraint no_last_card check (number <> '025000')",
        )
        .await;
    ask(&server, "admin", "11", "000001", "025000", "").await.assert_page_error("Failed to make transaction");
    server.assert_rows(CARDS, AS_BEFORE).await;
    is_created(&ask(&server, "admin", "11", "000001", "024999", "").await, "24999/24999");
}

/// Two calls over the same numbers, and others beside them that draw from the same few PINs: nothing twice, nothing lost, and
/// nobody waits for ever.
#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_never_clash() {
    let server = server_with_settings(&[("database_connections", "8")]).await;
    server.execute("update cardgroups set pin_length = 4, number_length = 6").await;
    let mut tasks = Vec::new();
    for call in 0..12 {
        let server = server.clone();
        tasks.push(tokio::spawn(async move {
            match call % 3 {
                // The same hundred numbers four times, in two groups.
                0 => ask(&server, "admin", if call < 6 { "11" } else { "9" }, "000001", "000100", "").await,
                1 => ask(&server, "admin", "7", &format!("{call:03}000"), &format!("{call:03}099"), "").await,
                // A new card by caller id draws its number and PIN beside them.
                _ => {
                    let form = format!("u=admin&callerid=55{call}&cardgroup_id=11&amount=1");
                    server.post_signed("card_by_cli_update", &form, &format!("155{call}11")).await
                }
            }
        }));
    }
    let mut made = 0;
    for task in tasks {
        let reply = task.await.unwrap();
        match reply.element_texts("error")[..] {
            ["Cards already exist"] => {}
            [] => {
                made += reply
                    .element_texts("status")
                    .iter()
                    .filter_map(|text| text.rsplit(' ').next()?.split('/').next()?.parse::<i32>().ok())
                    .sum::<i32>()
            }
            _ => panic!("{}", reply.body),
        }
    }
    // A card by caller id may have taken one of the numbers.
    let cards = server.rows("select count(*) filter (where callerid is null) as made, count(*) filter (where callerid like '55%') as by_cli,
        count(*) - count(distinct number) as twice, count(*) - count(distinct pin) as pins from cards where id > 100").await;
    assert_eq!(cards, [format!("{made}|4|0|0")]);
    assert!((498..=500).contains(&made), "{made}");
}

/// Somebody makes cards by the thousand.
async fn somebody_makes_cards(server: &Server) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut other = server.pool.begin().await.unwrap();
    sqlx::raw_sql("select pg_advisory_xact_lock(hashtextextended('calling_cards_create', 0))")
        .execute(&mut *other)
        .await
        .unwrap();
    other
}

/// What counts is the group as it is when the turn has come.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_changes_while_its_cards_wait() {
    let server = server_with_settings(&[("database_connections", "4")]).await;
    for (change, words) in [
        ("update cardgroups set hidden = 1 where id = 11", "Card Group was not found"),
        ("update cardgroups set hidden = 0, number_length = 7 where id = 11", "Cards from is in incorrect format"),
        ("update cardgroups set number_length = 6, pin_length = 5, price = 50, owner_id = 3 where id = 11", ""),
    ] {
        let other = somebody_makes_cards(&server).await;
        let waiting = tokio::spawn({
            let server = server.clone();
            async move { ask(&server, "admin", "11", "000001", "000002", "").await }
        });
        server.wait_for_lock_waiter().await;
        server.execute(change).await;
        other.commit().await.unwrap();
        let reply = waiting.await.unwrap();
        if words.is_empty() {
            is_created(&reply, "2/2")
        } else {
            reply.assert_page_error(words)
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

/// While most numbers of a group are being made, a new card by caller id finds one of the rest without waiting for the end.
#[tokio::test]
async fn a_new_card_beside_a_large_call() {
    let server = server().await;
    server.execute("update cardgroups set number_length = 3, pin_length = 9 where id = 11").await;
    let mut other = somebody_makes_cards(&server).await;
    let cards = "insert into cards (cardgroup_id, number, pin) select 11, lpad(i::text, 3, '0'), 'p' || i from generate_series(0, 699) i";
    sqlx::raw_sql(cards).execute(&mut *other).await.unwrap();
    for callerid in ["901", "902", "903"] {
        let form = format!("u=admin&callerid={callerid}&cardgroup_id=11&amount=5");
        let reply = server.post_signed("card_by_cli_update", &form, &format!("5{callerid}11")).await;
        assert_eq!(reply.element_texts("balance"), ["5.00"], "{}", reply.body);
    }
    other.commit().await.unwrap();
    server
        .assert_rows("select count(*) from cards where number between '700' and '999' and length(number) = 3", &["3"])
        .await;
}

/// With all PINs but one in use that may be, the last card finds its own, though those that are drawn first may be taken.
#[tokio::test]
async fn the_last_pin_is_found() {
    let server = server().await;
    server.execute("update cardgroups set pin_length = 2 where id = 11").await;
    is_created(&ask(&server, "admin", "11", "000001", "000019", "").await, "19/19");
    for _ in 0..150 {
        is_created(&ask(&server, "admin", "11", "000020", "000020", "").await, "1/1");
        server.execute("delete from cards where number = '000020'").await;
    }
}
