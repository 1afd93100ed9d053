//! `calling_card_update` (`endpoints/calling_card_update.md`).

use crate::harness::{Reply, Server, hash, server, server_with_settings, x7_server};

const UPDATE: &str = "calling_card_update";
const CARD: &str = "select number, pin, name, batch_number, language, callerid, trim_scale(min_balance) as min, daily_charge_paid_till, first_use, user_id,
    trim_scale(balance) as balance, sold, owner_id, cardgroup_id from cards where id = ";
/// Card 7 with the fixtures, as `CARD` shows it.
const UNCHANGED: &str = "700001|7001|||en|∅|0|∅|∅|-1|1.366026910730141|0|0|7";

async fn insert_fixtures(server: &Server) {
    server
        .execute(
            "insert into acc_rights (id, name) values (4, 'Callingcard_PIN');
             insert into acc_group_rights (acc_group_id, acc_right_id, value) values (1, 4, 2), (6, 1, 2), (6, 4, 1);
             update users set acc_group_id = 6 where id = 8",
        )
        .await;
}

/// Sends a request with the hash over the card's id alone.
async fn send(server: &Server, user: &str, card: &str, rest: &str) -> Reply {
    let key = if user == "reseller" { "reskey" } else { "secret" };
    server.post(UPDATE, &format!("u={user}&card_id={}{rest}&hash={}", card.replace(' ', "+"), hash(card, key))).await
}

#[track_caller]
fn assert_updated(reply: &Reply) {
    reply.assert_body(
        "<page>\n  <status>\n    <success>Calling Card successfully updated</success>\n  </status>\n</page>",
    );
}

#[tokio::test]
async fn unsent_and_blank_parameters_change_nothing() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        insert_fixtures(server).await;
        let blank = "&number=&name=+&batch_number=&language=&callerid=+&min_balance=&daily_charge_paid_till=&first_use=&distributor=";
        for rest in ["", blank, "&balance=99&sold=1&owner_id=3&cardgroup_id=6&hidden=1&id=6", "&number=700001&pin=7001"]
        {
            assert_updated(&send(server, "admin", "7", rest).await);
            server.assert_rows(&format!("{CARD}7"), &[UNCHANGED]).await;
        }
    }
}

#[tokio::test]
async fn every_parameter_is_stored() {
    let server = server().await;
    insert_fixtures(&server).await;
    let rest = "&number=654321&pin=9%C3%A9%3C8&name=N+%3C1%3E&batch_number=B1&language=abcdefghijkl&callerid=37060000&min_balance=0.123456789012345\
                &daily_charge_paid_till=1893493230&first_use=0&distributor=2";
    assert_updated(&send(&server, "accountant", "007", rest).await);
    let expected = "654321|9é<8|N <1>|B1|abcdefghij|37060000|0.123456789012345|2030-01-01T10:20:30|1970-01-01T00:00:00|2|1.366026910730141|0|0|7";
    server.assert_rows(&format!("{CARD}7"), &[expected]).await;
    assert_updated(&send(&server, "admin", "7", "&first_use=-1&distributor=0").await);
    server.assert_rows("select first_use, user_id from cards where id = 7", &["∅|-1"]).await;
    // The card is sold by its new number.
    server.assert_rows("select * from card_stock_differences", &[]).await;
    let reply = server.post_signed("card_from_group_sell", "u=admin&id=7", "7").await;
    assert_eq!((reply.element_texts("number"), reply.element_texts("pin")), (vec!["654321"], vec!["9é&lt;8"]));
    // A sold card can be changed too.
    assert_updated(&send(&server, "admin", "7", "&number=700001&name=sold").await);
    server.assert_rows("select number, name, sold from cards where id = 7", &["700001|sold|1"]).await;
}

#[tokio::test]
async fn errors_in_documented_order() {
    let server = server().await;
    insert_fixtures(&server).await;
    server
        .execute(
            "update cards set number = '1111111004' where id = 1; update cards set callerid = '37066' where id = 12",
        )
        .await;
    let long = "x".repeat(256);
    // All parameters are invalid at first. Each row has the error and the value that corrects its parameter.
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
    for (message, corrected, value) in [
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
        send(&server, "admin", "99", &rest).await.assert_page_error("Calling Card was not found");
        send(&server, "admin", "7", &rest).await.assert_page_error(message);
        sent.iter_mut().find(|(name, _)| *name == corrected).unwrap().1 = value;
    }
    server.assert_rows(&format!("{CARD}7"), &[UNCHANGED]).await;
    let rest: String = sent.iter().map(|(name, value)| format!("&{name}={value}")).collect();
    assert_updated(&send(&server, "admin", "7", &rest).await);
    server
        .assert_rows(
            &format!("{CARD}7"),
            &["123456|0043|N|B|en|37067|10|9999-12-31T23:59:59|1970-01-01T00:00:01|2|1.366026910730141|0|0|7"],
        )
        .await;
    send(&server, "admin", "7", "&min_balance=1e15").await.assert_page_error("Failed to make transaction");
}

#[tokio::test]
async fn rights_and_visible_cards() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        insert_fixtures(server).await;
        for user in ["unknown", "", "user", "partner"] {
            send(server, user, "", "").await.assert_page_error("Access Denied");
        }
        for user in ["accountant_none", "accountant_read", "reseller_read", "reseller_none"] {
            send(server, user, "", "").await.assert_page_error("You are not authorized to use this functionality");
        }
        server.post(UPDATE, "u=user&card_id=7").await.assert_status_error("Incorrect hash");
        for card in ["", "x", "-7", "7x", " 7", "7.0"] {
            send(server, "admin", card, "").await.assert_page_error("Wrong Calling Card ID");
        }
        for (user, card) in
            [("admin", "7"), ("admin", "12"), ("admin", "5"), ("admin", "8"), ("accountant", "7"), ("reseller", "12")]
        {
            assert_updated(&send(server, user, card, &format!("&name=by+{user}")).await);
        }
        for (user, card) in [("accountant", "12"), ("reseller", "7")] {
            send(server, user, card, "&name=no").await.assert_page_error("Calling Card was not found");
        }
        server.execute("update cards set retired_at = now() where id = 6").await;
    }
    for card in ["99", "6", "99999999999999999999"] {
        send(&server, "admin", card, "").await.assert_page_error("Calling Card was not found");
        send(&x7, "admin", card, "").await.assert_status_error("There is no such API");
    }
    server
        .assert_rows(
            "select id, name from cards where name <> '' order by id",
            &["5|by admin", "7|by accountant", "8|by admin", "12|by reseller"],
        )
        .await;
}

/// For an accountant without the right to change PINs, a sent PIN is ignored: no change, and no error that shows
/// whether it is in use.
#[tokio::test]
async fn pin_change_needs_its_right() {
    let server = server().await;
    insert_fixtures(&server).await;
    for pin in ["1234", "0042", "1", ""] {
        assert_updated(&send(&server, "accountant_zero", "7", &format!("&pin={pin}&name={pin}x")).await);
        server.assert_rows("select pin, name from cards where id = 7", &[&format!("7001|{pin}x")]).await;
    }
    send(&server, "accountant", "7", "&pin=0042").await.assert_page_error("PIN is already taken");
    assert_updated(&send(&server, "accountant", "7", "&pin=1234").await);
    server.assert_rows("select pin from cards where id = 7", &["1234"]).await;
}

/// Trailing spaces of a PIN are ignored, also when it is compared with other PINs.
#[tokio::test]
async fn trailing_spaces_of_a_pin_are_ignored() {
    let server = server().await;
    insert_fixtures(&server).await;
    assert_updated(&send(&server, "admin", "7", "&pin=9999+++").await);
    server.assert_rows("select pin from cards where id = 7", &["9999"]).await;
    send(&server, "admin", "7", "&pin=0042+").await.assert_page_error("PIN is already taken");
    send(&server, "admin", "7", "&pin=999+").await.assert_page_error("Bad PIN length, should be: 4");
}

/// A distributor is a simple user of the caller's owner.
#[tokio::test]
async fn distributor_is_a_user_of_the_owner() {
    let server = server().await;
    insert_fixtures(&server).await;
    for (user, card, distributor, expected) in [
        ("admin", "7", "2", "2"),
        ("admin", "7", "11", "-1"),
        ("admin", "7", "3", "-1"),
        ("accountant", "7", "02", "2"),
        ("admin", "7", "99999999999999999999", "-1"),
        ("reseller", "12", "11", "11"),
        ("reseller", "12", "2", "-1"),
    ] {
        assert_updated(&send(&server, user, card, &format!("&distributor={distributor}")).await);
        server.assert_rows(&format!("select user_id from cards where id = {card}"), &[expected]).await;
    }
}

#[tokio::test]
async fn x7_accepts_more_values() {
    let server = x7_server().await;
    insert_fixtures(&server).await;
    let rest = format!(
        "&name={}&callerid={}&min_balance=1.123456789512345678&daily_charge_paid_till=-1&first_use=-2",
        "x".repeat(300),
        "1".repeat(40)
    );
    assert_updated(&send(&server, "admin", "7", &rest).await);
    server
        .assert_rows(
            "select length(name) as name, length(callerid) as callerid, trim_scale(min_balance) as min, daily_charge_paid_till, first_use from cards where id = 7",
            &["255|30|1.12345679|1969-12-31T23:59:59|1969-12-31T23:59:58"],
        )
        .await;
    assert_updated(&send(&server, "admin", "7", "&min_balance=0x10").await);
    server.assert_rows("select trim_scale(min_balance) as min from cards where id = 7", &["16"]).await;
    // MOR reports success for a card that it can't save for another reason. Mortise saves the card.
    server.execute("update cards set pin = '1' where id = 7").await;
    assert_updated(&send(&server, "admin", "7", "&name=saved").await);
    server.assert_rows("select name from cards where id = 7", &["saved"]).await;
}

/// The update takes the caller id from the deleted card.
#[tokio::test]
async fn caller_id_of_a_deleted_card_is_free() {
    let server = server().await;
    insert_fixtures(&server).await;
    server.execute("update cards set callerid = '555' where id = 5").await;
    assert_updated(&send(&server, "admin", "7", "&callerid=555").await);
    server.assert_rows("select id from cards where callerid = '555'", &["7"]).await;
}

/// Two deleted cards swap their caller ids, repeatedly. The two requests don't deadlock.
#[tokio::test(flavor = "multi_thread")]
async fn swapping_caller_ids_of_deleted_cards_does_not_deadlock() {
    let server = server().await;
    insert_fixtures(&server).await;
    for _ in 0..30 {
        server.execute("update cards set callerid = null where id in (1, 2); update cards set hidden = 1, callerid = 'c' || id where id in (1, 2)").await;
        let tasks = [("1", "c2"), ("2", "c1")].map(|(card, callerid)| {
            let server = server.clone();
            tokio::spawn(async move { send(&server, "admin", card, &format!("&callerid={callerid}")).await })
        });
        for task in tasks {
            assert_updated(&task.await.unwrap());
        }
    }
}

/// The update of a card waits for a running sale of it, then changes the sold card.
#[tokio::test(flavor = "multi_thread")]
async fn update_waits_for_a_sale() {
    let server = server_with_settings(&[("database_connections", "4")]).await;
    insert_fixtures(&server).await;
    let mut sale = server.pool.begin().await.unwrap();
    sqlx::raw_sql("update cards set sold = 1, active = 1 where id = 7").execute(&mut *sale).await.unwrap();
    let update = tokio::spawn({
        let server = server.clone();
        async move { send(&server, "admin", "7", "&number=654321&name=changed").await }
    });
    server.wait_for_lock_waiter().await;
    sale.commit().await.unwrap();
    assert_updated(&update.await.unwrap());
    server.assert_rows("select number, name, sold from cards where id = 7", &["654321|changed|1"]).await;
    server.assert_rows("select * from card_stock_differences", &[]).await;
}

/// Sales empty a group while its cards are renumbered. Each card is sold once, none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn renumbered_cards_are_sold_once() {
    let server = server_with_settings(&[("database_connections", "12")]).await;
    insert_fixtures(&server).await;
    server
        .execute("insert into cards (id, cardgroup_id, number, pin, balance) select 1000 + i, 11, (100000 + i)::text, (1000 + i)::text, 1 from generate_series(1, 120) i where 1000 + i not in (select pin::int from cards)")
        .await;
    let stock: i64 = server.rows("select count(*) from cards where cardgroup_id = 11").await[0].parse().unwrap();
    let mut tasks = Vec::new();
    for index in 0..120 {
        let server = server.clone();
        tasks.push(tokio::spawn(async move {
            let reply =
                send(&server, "admin", &(1001 + index).to_string(), &format!("&number={}&name=n", 300_000 - index))
                    .await;
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
    let sold_count = sold.len();
    sold.sort();
    sold.dedup();
    assert_eq!(sold.len(), sold_count);
    // A sale may miss a card that is renumbered at the same time. The remaining cards can be sold.
    let left = server
        .post_signed("card_from_group_sell", "u=admin&id=11&quantity=200", "11200")
        .await
        .element_texts("pin")
        .len();
    assert_eq!(i64::try_from(sold_count + left).unwrap(), stock);
    server
        .assert_rows(
            "select count(*), count(distinct user_id) as cards from payments where kind = 'sale'",
            &[&format!("{stock}|{stock}")],
        )
        .await;
    server.assert_rows("select * from card_stock_differences", &[]).await;
}

/// Three updates set the same caller id, and a fourth request makes a new card for it. One card gets the caller id. The
/// others are refused, or top that card up.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_give_a_caller_id_to_one_card() {
    let server = server_with_settings(&[("database_connections", "8")]).await;
    insert_fixtures(&server).await;
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
                    card => send(&server, "admin", card, &format!("&callerid=77{round}")).await,
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
