//! `calling_card_update` (`endpoints/calling_card_update.md`).

use crate::harness::{Reply, Server, hash, server, server_with_settings, x7_server};

const UPDATE: &str = "calling_card_update";
const CARD: &str = "select number, pin, name, batch_number, language, callerid, trim_scale(min_balance) as min, daily_charge_paid_till, first_use, user_id,
    trim_scale(balance) as balance, sold, owner_id, cardgroup_id from cards where id = ";
const AS_IT_WAS: &str = "700001|7001|||en|∅|0|∅|∅|-1|1.366026910730141|0|0|7";

async fn world(server: &Server) {
    server
        .execute(
            "insert into acc_rights (id, name) values (4, 'Callingcard_PIN');
             insert into acc_group_rights (acc_group_id, acc_right_id, value) values (1, 4, 2), (6, 1, 2), (6, 4, 1);
             update users set acc_group_id = 6 where id = 8",
        )
        .await;
}

/// Asks with the hash over the card's id alone.
async fn ask(server: &Server, user: &str, card: &str, rest: &str) -> Reply {
    let key = if user == "reseller" { "reskey" } else { "secret" };
    server.post(UPDATE, &format!("u={user}&card_id={}{rest}&hash={}", card.replace(' ', "+"), hash(card, key))).await
}

#[track_caller]
fn is_updated(reply: &Reply) {
    reply.assert_body(
        "<page>\n  <status>\n    <success>Calling Card successfully updated</success>\n  </status>\n</page>",
    );
}

#[tokio::test]
async fn what_isnt_sent_stays() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        world(server).await;
        let blank = "&number=&name=+&batch_number=&language=&callerid=+&min_balance=&daily_charge_paid_till=&first_use=&distributor=";
        for rest in ["", blank, "&balance=99&sold=1&owner_id=3&cardgroup_id=6&hidden=1&id=6", "&number=700001&pin=7001"]
        {
            is_updated(&ask(server, "admin", "7", rest).await);
            server.assert_rows(&format!("{CARD}7"), &[AS_IT_WAS]).await;
        }
    }
}

#[tokio::test]
async fn everything_that_can_be_said() {
    let server = server().await;
    world(&server).await;
    let rest = "&number=654321&pin=9%C3%A9%3C8&name=N+%3C1%3E&batch_number=B1&language=abcdefghijkl&callerid=37060000&min_balance=0.123456789012345\
                &daily_charge_paid_till=1893493230&first_use=0&distributor=2";
    is_updated(&ask(&server, "accountant", "007", rest).await);
    let expected = "654321|9é<8|N <1>|B1|abcdefghij|37060000|0.123456789012345|2030-01-01T10:20:30|1970-01-01T00:00:00|2|1.366026910730141|0|0|7";
    server.assert_rows(&format!("{CARD}7"), &[expected]).await;
    is_updated(&ask(&server, "admin", "7", "&first_use=-1&distributor=0").await);
    server.assert_rows("select first_use, user_id from cards where id = 7", &["∅|-1"]).await;
    // It is sold by its new number.
    server.assert_rows("select * from card_stock_differences", &[]).await;
    let reply = server.post_signed("card_from_group_sell", "u=admin&id=7", "7").await;
    assert_eq!((reply.element_texts("number"), reply.element_texts("pin")), (vec!["654321"], vec!["9é&lt;8"]));
    // Nor is a sold card beyond change.
    is_updated(&ask(&server, "admin", "7", "&number=700001&name=sold").await);
    server.assert_rows("select number, name, sold from cards where id = 7", &["700001|sold|1"]).await;
}

#[tokio::test]
async fn errors_in_their_order() {
    let server = server().await;
    world(&server).await;
    server
        .execute(
            "update cards set number = '1111111004' where id = 1; update cards set callerid = '37066' where id = 12",
        )
        .await;
    let long = "x".repeat(256);
    // All is wrong at first; each row mends what the row above was refused for.
    let mut sent = vec![
        ("number", "700001\nx"),
        ("name", long.as_str()),
        ("batch_number", long.as_str()),
        ("pin", " "),
        ("callerid", "3701111370111137011113701111123"),
        ("min_balance", "5x"),
        ("daily_charge_paid_till", "12a"),
        ("first_use", "-2"),
        ("distributor", "-1"),
    ];
    for (words, mended, value) in [
        ("Calling Card number must be numerical", "number", "1111111000"),
        ("Number is already taken", "number", "123"),
        ("Bad number length, should be: 6", "number", "123456"),
        ("Name is too long", "name", "N"),
        ("Batch number is too long", "batch_number", "B"),
        ("Card PIN is blank", "pin", "00042"),
        ("Bad PIN length, should be: 4", "pin", "0042"),
        ("PIN is already taken", "pin", "0043"),
        ("CallerID is too long", "callerid", "3701111"),
        ("CallerID must be unique", "callerid", "37066"),
        ("CallerID must be unique", "callerid", "37067"),
        ("Balance is not a numerical value", "min_balance", "0"),
        ("Bad minimal balance", "min_balance", "-0.1"),
        ("Bad minimal balance", "min_balance", "1e1"),
        ("Wrong date entered", "daily_charge_paid_till", "-1"),
        ("Wrong date entered", "daily_charge_paid_till", "253402300800"),
        ("Wrong date entered", "daily_charge_paid_till", "253402300799"),
        ("Wrong date entered", "first_use", "1.5"),
        ("Wrong date entered", "first_use", "1"),
        ("Wrong distributor", "distributor", "x"),
        ("Wrong distributor", "distributor", "2"),
    ] {
        let rest: String = sent
            .iter()
            .map(|(name, value)| format!("&{name}={}", value.replace(' ', "+").replace('\n', "%0A")))
            .collect();
        ask(&server, "admin", "99", &rest).await.assert_page_error("Calling Card was not found");
        ask(&server, "admin", "7", &rest).await.assert_page_error(words);
        sent.iter_mut().find(|(name, _)| *name == mended).unwrap().1 = value;
    }
    server.assert_rows(&format!("{CARD}7"), &[AS_IT_WAS]).await;
    let rest: String = sent.iter().map(|(name, value)| format!("&{name}={value}")).collect();
    is_updated(&ask(&server, "admin", "7", &rest).await);
    server
        .assert_rows(
            &format!("{CARD}7"),
            &["123456|0043|N|B|en|37067|10|9999-12-31T23:59:59|1970-01-01T00:00:01|2|1.366026910730141|0|0|7"],
        )
        .await;
    ask(&server, "admin", "7", "&min_balance=1e15").await.assert_page_error("Failed to make transaction");
}

#[tokio::test]
async fn who_may_and_which_card() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        world(server).await;
        for user in ["nobody", "", "user", "partner"] {
            ask(server, user, "", "").await.assert_page_error("Access Denied");
        }
        for user in ["accountant_none", "accountant_read", "reseller_read", "reseller_none"] {
            ask(server, user, "", "").await.assert_page_error("You are not authorized to use this functionality");
        }
        server.post(UPDATE, "u=user&card_id=7").await.assert_status_error("Incorrect hash");
        for card in ["", "x", "-7", "7x", " 7", "7.0"] {
            ask(server, "admin", card, "").await.assert_page_error("Wrong Calling Card ID");
        }
        for (user, card) in
            [("admin", "7"), ("admin", "12"), ("admin", "5"), ("admin", "8"), ("accountant", "7"), ("reseller", "12")]
        {
            is_updated(&ask(server, user, card, &format!("&name=by+{user}")).await);
        }
        for (user, card) in [("accountant", "12"), ("reseller", "7")] {
            ask(server, user, card, "&name=no").await.assert_page_error("Calling Card was not found");
        }
        server.execute("update cards set retired_at = now() where id = 6").await;
    }
    for card in ["99", "6", "99999999999999999999"] {
        ask(&server, "admin", card, "").await.assert_page_error("Calling Card was not found");
        ask(&x7, "admin", card, "").await.assert_status_error("There is no such API");
    }
    server
        .assert_rows(
            "select id, name from cards where name <> '' order by id",
            &["5|by admin", "7|by accountant", "8|by admin", "12|by reseller"],
        )
        .await;
}

/// An accountant who may not change PINs neither changes one nor hears whether it is in use.
#[tokio::test]
async fn pins_are_changed_by_right() {
    let server = server().await;
    world(&server).await;
    for pin in ["1234", "0042", "1", ""] {
        is_updated(&ask(&server, "accountant_zero", "7", &format!("&pin={pin}&name={pin}x")).await);
        server.assert_rows("select pin, name from cards where id = 7", &[&format!("7001|{pin}x")]).await;
    }
    ask(&server, "accountant", "7", "&pin=0042").await.assert_page_error("PIN is already taken");
    is_updated(&ask(&server, "accountant", "7", "&pin=1234").await);
    server.assert_rows("select pin from cards where id = 7", &["1234"]).await;
}

/// Spaces behind a PIN don't count, not even to tell it from another.
#[tokio::test]
async fn a_pin_with_spaces_behind() {
    let server = server().await;
    world(&server).await;
    is_updated(&ask(&server, "admin", "7", "&pin=9999+++").await);
    server.assert_rows("select pin from cards where id = 7", &["9999"]).await;
    ask(&server, "admin", "7", "&pin=0042+").await.assert_page_error("PIN is already taken");
    ask(&server, "admin", "7", "&pin=999+").await.assert_page_error("Bad PIN length, should be: 4");
}

/// A distributor is a simple user of the caller's owner.
#[tokio::test]
async fn distributors() {
    let server = server().await;
    world(&server).await;
    for (user, card, distributor, expected) in [
        ("admin", "7", "2", "2"),
        ("admin", "7", "11", "-1"),
        ("admin", "7", "3", "-1"),
        ("accountant", "7", "02", "2"),
        ("admin", "7", "99999999999999999999", "-1"),
        ("reseller", "12", "11", "11"),
        ("reseller", "12", "2", "-1"),
    ] {
        is_updated(&ask(&server, user, card, &format!("&distributor={distributor}")).await);
        server.assert_rows(&format!("select user_id from cards where id = {card}"), &[expected]).await;
    }
}

#[tokio::test]
async fn an_x7_server_takes_more() {
    let server = x7_server().await;
    world(&server).await;
    let rest = format!(
        "&name={}&callerid={}&min_balance=1.123456789512345678&daily_charge_paid_till=-1&first_use=-2",
        "x".repeat(300),
        "1".repeat(40)
    );
    is_updated(&ask(&server, "admin", "7", &rest).await);
    server
        .assert_rows(
            "select length(name) as name, length(callerid) as callerid, trim_scale(min_balance) as min, daily_charge_paid_till, first_use from cards where id = 7",
            &["255|30|1.12345679|1969-12-31T23:59:59|1969-12-31T23:59:58"],
        )
        .await;
    is_updated(&ask(&server, "admin", "7", "&min_balance=0x10").await);
    server.assert_rows("select trim_scale(min_balance) as min from cards where id = 7", &["16"]).await;
    // What MOR can't save for another reason it says that it saved. Here it is.
    server.execute("update cards set pin = '1' where id = 7").await;
    is_updated(&ask(&server, "admin", "7", "&name=saved").await);
    server.assert_rows("select name from cards where id = 7", &["saved"]).await;
}

/// A deleted card holds on to nothing.
#[tokio::test]
async fn a_deleted_cards_caller_id_is_free() {
    let server = server().await;
    world(&server).await;
    server.execute("update cards set callerid = '555' where id = 5").await;
    is_updated(&ask(&server, "admin", "7", "&callerid=555").await);
    server.assert_rows("select id from cards where callerid = '555'", &["7"]).await;
}

/// Two deleted cards swap caller ids, over and over: neither request waits for the other for ever.
#[tokio::test(flavor = "multi_thread")]
async fn deleted_cards_swap_their_caller_ids() {
    let server = server().await;
    world(&server).await;
    for _ in 0..30 {
        server.execute("update cards set callerid = null where id in (1, 2); update cards set hidden = 1, callerid = 'c' || id where id in (1, 2)").await;
        let tasks = [("1", "c2"), ("2", "c1")].map(|(card, callerid)| {
            let server = server.clone();
            tokio::spawn(async move { ask(&server, "admin", card, &format!("&callerid={callerid}")).await })
        });
        for task in tasks {
            is_updated(&task.await.unwrap());
        }
    }
}

/// While a card is being sold, its change waits; then it changes what was sold.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_waits_for_a_sale() {
    let server = server_with_settings(&[("database_connections", "4")]).await;
    world(&server).await;
    let mut sale = server.pool.begin().await.unwrap();
    sqlx::raw_sql("update cards set sold = 1, active = 1 where id = 7").execute(&mut *sale).await.unwrap();
    let update = tokio::spawn({
        let server = server.clone();
        async move { ask(&server, "admin", "7", "&number=654321&name=changed").await }
    });
    server.wait_for_lock_waiter().await;
    sale.commit().await.unwrap();
    is_updated(&update.await.unwrap());
    server.assert_rows("select number, name, sold from cards where id = 7", &["654321|changed|1"]).await;
    server.assert_rows("select * from card_stock_differences", &[]).await;
}

/// Buyers empty a group whose cards are renumbered all the while: each card is sold once, none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn cards_change_while_they_are_sold() {
    let server = server_with_settings(&[("database_connections", "12")]).await;
    world(&server).await;
    server
        .execute("insert into cards (id, cardgroup_id, number, pin, balance) select 1000 + i, 11, (100000 + i)::text, (1000 + i)::text, 1 from generate_series(1, 120) i where 1000 + i not in (select pin::int from cards)")
        .await;
    let stock: i64 = server.rows("select count(*) from cards where cardgroup_id = 11").await[0].parse().unwrap();
    let mut tasks = Vec::new();
    for turn in 0..120 {
        let server = server.clone();
        tasks.push(tokio::spawn(async move {
            let reply =
                ask(&server, "admin", &(1001 + turn).to_string(), &format!("&number={}&name=n", 300_000 - turn)).await;
            assert!(reply.body.contains("successfully") || reply.body.contains("not found"), "{}", reply.body);
            Vec::new()
        }));
    }
    for _ in 0..12 {
        let server = server.clone();
        tasks.push(tokio::spawn(async move {
            let mut pins = Vec::new();
            loop {
                let reply = server.post_signed("card_from_group_sell", "u=admin&id=11&quantity=3", "113").await;
                match reply.element_texts("error")[..] {
                    [] => pins.extend(reply.element_texts("pin").into_iter().map(str::to_owned)),
                    ["Free cards was not found"] => return pins,
                    _ => panic!("{}", reply.body),
                }
            }
        }));
    }
    let mut sold = Vec::new();
    for task in tasks {
        sold.extend(task.await.unwrap());
    }
    let bought = sold.len();
    sold.sort();
    sold.dedup();
    assert_eq!(sold.len(), bought);
    // A buyer may have looked at the moment when a card moved; whatever is left can be sold.
    let left = server
        .post_signed("card_from_group_sell", "u=admin&id=11&quantity=200", "11200")
        .await
        .element_texts("pin")
        .len();
    assert_eq!(i64::try_from(bought + left).unwrap(), stock);
    server
        .assert_rows(
            "select count(*), count(distinct user_id) as cards from payments where kind = 'sale'",
            &[&format!("{stock}|{stock}")],
        )
        .await;
    server.assert_rows("select * from card_stock_differences", &[]).await;
}

/// Two want the same caller id for their card, and a third a new card for it: one gets it, the others hear so or top it up.
#[tokio::test(flavor = "multi_thread")]
async fn one_caller_id_for_one_card() {
    let server = server_with_settings(&[("database_connections", "8")]).await;
    world(&server).await;
    for round in 0..5 {
        let mut tasks = Vec::new();
        for card in ["1", "2", "3", "new"] {
            let server = server.clone();
            tasks.push(tokio::spawn(async move {
                match card {
                    "new" => {
                        let form = format!("u=admin&callerid=77{round}&cardgroup_id=6&amount=1");
                        server.post_signed("card_by_cli_update", &form, &format!("177{round}6")).await
                    }
                    card => ask(&server, "admin", card, &format!("&callerid=77{round}")).await,
                }
            }));
        }
        for task in tasks {
            let reply = task.await.unwrap();
            assert!(matches!(reply.element_texts("error")[..], [] | ["CallerID must be unique"]), "{}", reply.body);
        }
        server.assert_rows(&format!("select count(*) from cards where callerid = '77{round}'"), &["1"]).await;
    }
}
