//! `card_by_cli_update` (`endpoints/card_by_cli_update.md`): both tables, every error, and money that is conserved.

use crate::harness::{Reply, Server, hash, server, server_with_settings, x7_server};

const UPDATE: &str = "card_by_cli_update";
/// All that is worth money, in the system's currency.
const MONEY: &str = "select (select sum(balance) from cards) + (select sum(balance) from users) as money";

/// Devices and their users, beside the cards of `world.sql`: the admin's `user` has device 1, the reseller's `customer` 2.
async fn world(server: &Server) {
    server
        .execute(
            "insert into devices (id, name, user_id) values (1, '101', 2), (2, '102', 11), (3, 'provider', 5), (4, 'provider', -1), (5, 'lost', 777);
             insert into callerids (cli, device_id) values ('555', 1), ('556', 2), ('557', 3), ('558', 4), ('559', 5), ('55500', 1), ('555', 0);
             insert into providers (name, device_id) values ('provider', 3);
             update users set tax_id = 2, balance = 1, currency_id = 2, first_name = 'First', last_name = 'Last' where id = 2;
             update cards set owner_id = 3 where cardgroup_id = 12;
             update cards set callerid = '700' where id = 7;
             update cards set callerid = '1200' where id = 12",
        )
        .await;
}

/// A request of the admin's: the hash covers pin, amount, callerid, cardgroup_id.
async fn ask(server: &Server, form: &str) -> Reply {
    ask_as(server, "admin", "secret", form).await
}

async fn ask_as(server: &Server, user: &str, key: &str, form: &str) -> Reply {
    let value = |name: &str| {
        let prefix = format!("{name}=");
        form.split('&').find_map(|pair| pair.strip_prefix(&prefix)).unwrap_or_default()
    };
    let hashed = ["pin", "amount", "callerid", "cardgroup_id"].map(value).concat();
    server.post(UPDATE, &format!("u={user}&{form}&hash={}", hash(&hashed, key))).await
}

#[track_caller]
fn is_error(reply: &Reply, words: &str) {
    reply.assert_body(&format!("<page>\n  <error>{words}</error>\n</page>"));
}

#[track_caller]
fn is_card(reply: &Reply, id: &str, group: &str, balance: &str, callerid: &str) {
    let (pin, number) = (reply.element_texts("pin")[0], reply.element_texts("number")[0]);
    reply.assert_body(&format!(
        "<page>\n  <status>ok</status>\n  <card>\n    <id>{id}</id>\n    <cardgroup_id>{group}</cardgroup_id>\n    <balance>{balance}</balance>\n    \
         <callerid>{callerid}</callerid>\n    <pin>{pin}</pin>\n    <number>{number}</number>\n  </card>\n</page>"
    ));
}

const PAYMENTS: &str = "select paymenttype, kind, amount, currency, round(tax, 9) as tax, user_id, owner_id, card, completed, first_name, description from payments order by id";
const ACTIONS: &str = "select user_id, action, target_type, target_id, data, data2, data3 from actions order by id";

#[tokio::test]
async fn an_amount_to_a_device_tops_up_its_user() {
    let server = server().await;
    world(&server).await;
    ask(&server, "callerid=555&amount=11.9").await.assert_body(
        r"
        <page>
          <status>ok</status>
          <device_id>1</device_id>
          <user_id>2</user_id>
          <new_balance>11.00</new_balance>
          <new_balance_with_vat>13.09</new_balance_with_vat>
        </page>
    ",
    );
    // In the user's currency; no card, so no audit row of one.
    server.assert_rows(PAYMENTS, &["card_refill|refill|7.441000000000000|EUR|0.000000000|2|0|0|1|∅|"]).await;
    server.assert_rows(ACTIONS, &[]).await;
    server.assert_rows("select balance from users where id = 2", &["11.000000000000000"]).await;
    // Nothing is added by nothing.
    assert_eq!(ask(&server, "callerid=555").await.element_texts("new_balance"), ["11.00"]);
    server.assert_rows("select count(*) from payments", &["1"]).await;
}

#[tokio::test]
async fn an_amount_to_a_card_of_the_callers_tops_it_up() {
    let server = server().await;
    world(&server).await;
    // Card 7 of group 7, euros at 0.7441, taxes of 10 % and 5 % on top of each other; unsold.
    is_card(&ask(&server, "callerid=700&amount=8.59436").await, "7", "7", "11.37", "700");
    server
        .assert_rows(
            PAYMENTS,
            &[
                "Card|sale|1.016460624274298|EUR|0.157551397|7|0|1|1|∅|",
                "Card|top_up|7.441004329004329|EUR|1.153355671|7|0|1|1|∅|",
            ],
        )
        .await;
    server
        .assert_rows(
            ACTIONS,
            &[
                "0|card_payment_created|Payment|1|7|1.0164606242742979181|EUR",
                "0|card_payment_created|Payment|2|7|7.441004329004329|EUR",
            ],
        )
        .await;
    // 8.59436 / 1.1 / 1.05 / 0.7441, to the fifteenth decimal.
    server.assert_rows("select sold, active, balance from cards where id = 7", &["1|1|11.366032728502388"]).await;
    // Its own group may be named, and no amount is none.
    is_card(&ask(&server, "callerid=700&cardgroup_id=7").await, "7", "7", "11.37", "700");
    server.assert_rows("select count(*) from payments", &["2"]).await;
}

#[tokio::test]
async fn a_card_of_another_group_than_named_is_replaced() {
    let server = server().await;
    world(&server).await;
    let reply = ask(&server, "callerid=700&cardgroup_id=6&amount=11.9").await;
    is_card(&reply, "101", "6", "11.37", "700");
    let (number, pin) = (reply.element_texts("number")[0], reply.element_texts("pin")[0]);
    assert!(
        number.len() == 10 && pin.len() == 4 && (number.to_owned() + pin).bytes().all(|byte| byte.is_ascii_digit())
    );
    server
        .assert_rows(
            "select id, balance, sold, callerid, owner_id, retired_at is not null as retired from cards where id in (7, 101) order by id",
            &["7|0.000000000000000|0|∅|0|true", "101|11.366026910730141|1|700|0|false"],
        )
        .await;
    server
        .assert_rows(
            PAYMENTS,
            &[
                "Card|sale|1.366026910730141|USD|0.259545113|101|0|1|1|∅|",
                "Card|top_up|10.000000000000000|USD|1.900000000|101|0|1|1|∅|",
            ],
        )
        .await;
    server
        .assert_rows(
            ACTIONS,
            &[
                "0|Added to cards balance|card|7|-1.37|∅|∅",
                "0|card_payment_created|Payment|1|101|1.366026910730141|USD",
                "0|card_payment_created|Payment|2|101|10.0|USD",
            ],
        )
        .await;
    // The old card can't be bought any more.
    server.post_signed("card_from_group_sell", "u=admin&id=7", "7").await.assert_page_error("Free cards was not found");
}

#[tokio::test]
async fn nobodys_caller_id_gets_a_new_card() {
    let server = server().await;
    world(&server).await;
    let reply = ask(&server, "callerid=900&cardgroup_id=6&amount=11.9").await;
    is_card(&reply, "101", "6", "10.00", "900");
    server
        .assert_rows(
            "select language, user_id, name, batch_number, first_use, active from cards where id = 101",
            &["en|-1|||∅|1"],
        )
        .await;
    server
        .assert_rows(
            "select kind, amount from payments order by id",
            &["sale|0.000000000000000", "top_up|10.000000000000000"],
        )
        .await;
    // A second request finds it.
    is_card(&ask(&server, "callerid=900&cardgroup_id=6&amount=11.9").await, "101", "6", "20.00", "900");
}

#[tokio::test]
async fn a_pin_to_a_device_pays_its_user() {
    let server = server().await;
    world(&server).await;
    let reply = ask(&server, "callerid=555&pin=0042&amount=7").await;
    assert_eq!(
        (reply.element_texts("new_balance"), reply.element_texts("new_balance_with_vat")),
        (vec!["11.08"], vec!["13.19"])
    );
    server
        .assert_rows(
            "select balance, sold, retired_at is not null as retired from cards where id = 6",
            &["0.000000000000000|0|true"],
        )
        .await;
    // The user is paid with money that was there before: no refill.
    server.assert_rows(PAYMENTS, &["card_refill|transfer|7.503529411764722|EUR|0.000000000|2|0|0|1|∅|"]).await;
    server.assert_rows(ACTIONS, &["0|Added to cards balance|card|6|-10.08|∅|∅"]).await;
    is_error(&ask(&server, "callerid=555&pin=0042").await, "Card was not found");
}

#[tokio::test]
async fn a_pin_of_the_same_group_feeds_the_callers_card() {
    let server = server().await;
    world(&server).await;
    server.execute("update cards set callerid = '600' where id = 6").await;
    is_card(&ask(&server, "callerid=600&pin=1001").await, "6", "6", "20.17", "600");
    server
        .assert_rows(
            "select id, balance, sold, retired_at is not null as retired from cards where id in (2, 6) order by id",
            &["2|0.000000000000000|0|true", "6|20.168067226890800|1|false"],
        )
        .await;
    server
        .assert_rows(
            ACTIONS,
            &[
                "0|Added to cards balance|card|2|-10.08|∅|∅",
                "0|card_payment_created|Payment|1|6|10.0840336134454|USD",
                "0|Added to cards balance|card|6|10.08|∅|∅",
            ],
        )
        .await;
}

#[tokio::test]
async fn a_pin_of_another_group_takes_the_card_over() {
    let server = server().await;
    world(&server).await;
    is_card(&ask(&server, "callerid=700&pin=0042").await, "6", "6", "11.45", "700");
    server
        .assert_rows(
            "select id, balance, sold, callerid, retired_at is not null as retired from cards where id in (6, 7) order by id",
            &["6|11.450060524175541|1|700|false", "7|0.000000000000000|0|∅|true"],
        )
        .await;
    server
        .assert_rows(
            ACTIONS,
            &[
                "0|card_payment_created|Payment|1|6|10.0840336134454|USD",
                "0|Added to cards balance|card|7|-1.37|∅|∅",
                "0|Added to cards balance|card|6|1.37|∅|∅",
            ],
        )
        .await;
}

#[tokio::test]
async fn a_pin_for_nobodys_caller_id_is_sold() {
    let server = server().await;
    world(&server).await;
    server.execute("update cards set first_use = '2020-01-01' where id = 6").await;
    let reply = server.post_signed(UPDATE, "u=admin&callerid=900&pin=0042+", "0042 900").await;
    is_card(&reply, "6", "6", "10.08", "900");
    server
        .assert_rows(
            "select sold, active, callerid, first_use from cards where id = 6",
            &["1|1|900|2020-01-01T00:00:00"],
        )
        .await;
    server.assert_rows("select kind, amount, currency from payments", &["sale|10.084033613445400|USD"]).await;
    is_error(&ask(&server, "callerid=901&pin=0042").await, "PIN number already sold");
}

#[tokio::test]
async fn every_row_for_accountant_and_reseller() {
    let server = server().await;
    world(&server).await;
    server.execute("update users set acc_group_id = 1 where id = 6; update users set balance = 3 where id = 11").await;
    let accountant = async |form: &str| ask_as(&server, "accountant", "secret", form).await;
    let reseller = async |form: &str| ask_as(&server, "reseller", "reskey", form).await;
    assert_eq!(accountant("callerid=555&amount=1.19").await.element_texts("new_balance"), ["2.00"]);
    is_card(&accountant("callerid=700&amount=0").await, "7", "7", "1.37", "700");
    assert_eq!(accountant("callerid=700&cardgroup_id=11&amount=1").await.element_texts("balance"), ["2.37"]);
    assert_eq!(accountant("callerid=900&cardgroup_id=11&amount=1").await.element_texts("balance"), ["1.00"]);
    assert_eq!(accountant("callerid=555&pin=0042").await.element_texts("new_balance"), ["12.08"]);
    assert_eq!(accountant("callerid=900&pin=1001").await.element_texts("balance"), ["11.08"]);
    // 900 has the card of PIN 1001 now: one of its own group feeds it, and another is bought with its PIN.
    is_card(&accountant("callerid=900&pin=1003").await, "2", "6", "21.17", "900");
    is_card(&accountant("callerid=903&pin=1002").await, "3", "6", "10.08", "903");

    // The customer's taxes are none, the reseller's group's 26 %, its currency the euro.
    server
        .execute(
            "insert into cardgroups (id, name, owner_id, tax_id, tell_balance_in_currency, number_length, pin_length) values (14, 'dollars', 3, 1, 'USD', 6, 4);
             insert into cards (cardgroup_id, owner_id, number, pin, balance) select 14, 3, i::text, i::text, 2 from generate_series(140001, 140004) i",
        )
        .await;
    assert_eq!(reseller("callerid=556&amount=2").await.element_texts("new_balance"), ["5.00"]);
    is_card(&reseller("callerid=1200&amount=0.937566").await, "12", "12", "6.00", "1200");
    assert_eq!(reseller("callerid=1200&cardgroup_id=14&amount=1").await.element_texts("balance"), ["7.00"]);
    assert_eq!(reseller("callerid=901&cardgroup_id=12&amount=0.937566").await.element_texts("balance"), ["1.00"]);
    assert_eq!(reseller("callerid=556&pin=140001").await.element_texts("new_balance"), ["7.00"]);
    assert_eq!(reseller("callerid=1200&pin=140002").await.element_texts("balance"), ["9.00"]);
    assert_eq!(reseller("callerid=901&pin=140003").await.element_texts("balance"), ["3.00"]);
    is_card(&reseller("callerid=902&pin=1202").await, "13", "12", "0.00", "902");
    server.assert_rows("select distinct p.owner_id from payments p join cards c on c.id = p.user_id where p.card = 1 and c.owner_id = 3", &["3"]).await;
    server.assert_rows("select distinct owner_id from payments where user_id in (11, 12, 13)", &["3"]).await;
}

#[tokio::test]
async fn errors_in_their_order() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        world(server).await;
        server.execute("update cards set balance = 0 where id = 3; insert into cards (cardgroup_id, number, pin, balance, callerid) values (7, '700002', '7002', 0, '702')").await;
    }
    for (form, documented, field) in [
        ("callerid=&pin=9999", "Callerid must be specified", None),
        ("pin=9999", "Callerid must be specified", None),
        (
            "callerid=557&pin=9999",
            "Callerid belongs to provider",
            Some("You do not have permission to add to user's balance"),
        ),
        (
            "callerid=558&amount=-1",
            "Callerid belongs to provider",
            Some("You do not have permission to add to user's balance"),
        ),
        (
            "callerid=556&pin=9999",
            "Device allready have such callerid, but you do not have permission to change user's balance",
            Some("You do not have permission to add to user's balance"),
        ),
        (
            "callerid=559",
            "Device allready have such callerid, but you do not have permission to change user's balance",
            Some("You do not have permission to add to user's balance"),
        ),
        ("callerid=1200&pin=9999", "You do not have permission to access card", None),
        ("callerid=700&pin=9999&cardgroup_id=99", "Card was not found", Some("PIN number not found")),
        ("callerid=700&pin=7001", "Card was not found", Some("PIN number not found")),
        ("callerid=700&pin=1202", "Card was not found", Some("PIN number not found")),
        ("callerid=900&pin=8001", "Card was not found", Some("PIN number not found")),
        ("callerid=900&pin=0999", "Card was not found", Some("PIN number not found")),
        ("callerid=555&pin=1002&cardgroup_id=99", "PIN number balance is zero", None),
        ("callerid=702&pin=0042&cardgroup_id=99", "PIN number balance is zero", None),
        (
            "callerid=700&cardgroup_id=99&amount=-1",
            "Supplied Cardgroup_id is invalid",
            Some("You do not have permission to access cardgroup"),
        ),
        ("callerid=900&cardgroup_id=12&amount=-1", "Supplied Cardgroup_id is invalid", None),
        ("callerid=900&cardgroup_id=8", "Supplied Cardgroup_id is invalid", None),
        ("callerid=900&amount=-1", "Card was not found", Some("Supplied Cardgroup_id is invalid")),
        ("callerid=700&amount=-1", "Failed to make transaction", None),
        ("callerid=700&cardgroup_id=6&amount=-0.5", "Failed to make transaction", None),
        ("callerid=555&amount=-1", "Failed to make transaction", None),
        ("callerid=900&cardgroup_id=6&amount=1e16", "Failed to make transaction", None),
    ] {
        for (server, words) in [(&server, documented), (&x7, field.unwrap_or(documented))] {
            is_error(&ask(server, form).await, words);
        }
    }
    is_error(&ask(&server, "callerid=900&pin=1000").await, "PIN number already sold");
    ask(&x7, "callerid=900&pin=1000")
        .await
        .assert_body("<page>\n  <error>\n    <error>Cannot sell already sold card</error>\n  </error>\n</page>");
    let nothing = "select (select count(*) from payments) p, (select count(*) from actions) a, (select count(*) from cards) c, (select count(*) from taxes) t";
    server.assert_rows(nothing, &["0|0|14|4"]).await;
    x7.assert_rows(nothing, &["0|0|14|4"]).await;
}

#[tokio::test]
async fn the_parameters_old_spellings() {
    let server = server().await;
    world(&server).await;
    // As the published page spells them: calleridid, cardgroup. The latter is never hashed.
    let hash_of = |values: &str| hash(values, "secret");
    let reply =
        server.post("cc_by_cli", &format!("u=admin&callerid=900&cardgroup=6&amount=5&hash={}", hash_of("5900"))).await;
    assert_eq!(reply.element_texts("cardgroup_id"), ["6"]);
    let reply = server.post("cc_by_cli", &format!("u=admin&calleridid=901&cardgroup=6&hash={}", hash_of(""))).await;
    assert_eq!(reply.element_texts("callerid"), ["901"]);
    // Blank names no group; for x7 it names one that isn't there.
    let x7 = x7_server().await;
    world(&x7).await;
    is_error(&ask(&server, "callerid=902&cardgroup_id=").await, "Card was not found");
    is_card(&ask(&server, "callerid=700&cardgroup_id=").await, "7", "7", "1.37", "700");
    is_error(&ask(&x7, "callerid=700&cardgroup_id=").await, "You do not have permission to access cardgroup");
}

#[tokio::test]
async fn the_older_hash_is_for_the_older_name_and_can_be_refused() {
    let server = server().await;
    let strict = server_with_settings(&[("legacy_hashes", "false")]).await;
    for server in [&server, &strict] {
        world(server).await;
        server
            .execute(
                "update users set username = 'user', password = '', usertype = 'accountant', acc_group_id = 1 where id = 2; update users set username = 'x' where id = 6;
                 update conflines set value = '456789' where name = 'API_Secret_Key' and owner_id = 0",
            )
            .await;
        server.execute(&format!("update users set password = '{}' where id = 2", hash("user1", ""))).await;
    }
    // The published page's examples, to the letter.
    let page = "f7c3bc1d808e04732adf679965ccc34ca7ae3441";
    let first = format!("/billing/api/cc_by_cli?u=user&p=user1&callerid=123&cardgroup=6&amount=100&hash={page}");
    let second = format!("/billing/api/cc_by_cli?u=user&p=user1&callerid=123&cardgroup=6&hash={page}");
    assert_eq!(server.get(&first).await.element_texts("balance"), ["84.03"]);
    assert_eq!(server.get(&second).await.element_texts("balance"), ["84.03"]);
    server.get(&first.replace("cc_by_cli", UPDATE)).await.assert_status_error("Incorrect hash");
    strict.get(&first).await.assert_status_error("Incorrect hash");
    assert_eq!(strict.get(&second).await.element_texts("balance"), ["0.00"], "without an amount both rules are one");
}

#[tokio::test]
async fn caller_ids_have_thirty_characters() {
    let (server, x7) = (server().await, x7_server().await);
    let (fits, long) = ("é".repeat(30), "é".repeat(31));
    for server in [&server, &x7] {
        assert_eq!(
            ask(server, &format!("callerid={fits}&cardgroup_id=6")).await.element_texts("callerid"),
            [fits.as_str()]
        );
    }
    is_error(&ask(&server, &format!("callerid={long}&cardgroup_id=6")).await, "Failed to make transaction");
    // An x7 server cuts it, and echoes it in full.
    assert_eq!(ask(&x7, &format!("callerid={long}&cardgroup_id=6")).await.element_texts("callerid"), [long.as_str()]);
    x7.assert_rows("select count(*) from cards where length(callerid) = 30", &["1"]).await;
    let odd = "o'b & <1> 漢";
    let reply =
        server.post_signed(UPDATE, "u=admin&callerid=o'b+%26+%3C1%3E+漢&cardgroup_id=6", &format!("{odd}6")).await;
    assert_eq!(reply.element_texts("callerid"), ["o'b &amp; &lt;1&gt; 漢"]);
}

#[tokio::test]
async fn partial_caller_ids_are_a_setting_and_x7s_way() {
    let exact = server().await;
    let partial = server_with_settings(&[("match_partial_callerids", "true")]).await;
    let x7 = x7_server().await;
    for server in [&exact, &partial, &x7] {
        world(server).await;
    }
    is_error(&ask(&exact, "callerid=5550").await, "Card was not found");
    assert_eq!(ask(&partial, "callerid=5550").await.element_texts("device_id"), ["1"]);
    assert_eq!(ask(&x7, "callerid=5550").await.element_texts("device_id"), ["1"]);
    // SQL patterns are text.
    is_error(&ask(&partial, "callerid=5_5").await, "Card was not found");
}

#[tokio::test]
async fn a_deleted_cards_caller_id_is_free() {
    let server = server().await;
    world(&server).await;
    server.execute("update cards set hidden = 1 where id = 7").await;
    is_card(&ask(&server, "callerid=700&cardgroup_id=6").await, "101", "6", "0.00", "700");
    server.assert_rows("select callerid, balance from cards where id = 7", &["∅|1.366026910730141"]).await;
    server.execute("update cards set hidden = 1, callerid = null where id = 101; update cards set callerid = '700' where id = 7").await;
    is_card(&ask(&server, "callerid=700&pin=0042").await, "6", "6", "10.08", "700");
}

#[tokio::test]
async fn a_group_without_free_numbers_makes_no_card() {
    let server = server().await;
    server.execute("update cardgroups set number_length = 1, pin_length = 1 where id = 11; insert into cards (cardgroup_id, number, pin) select 11, i::text, i::text from generate_series(0, 9) i").await;
    is_error(&ask(&server, "callerid=900&cardgroup_id=11").await, "Failed to make transaction");
    server.assert_rows("select count(*) from cards where cardgroup_id = 11", &["10"]).await;
}

#[tokio::test]
async fn an_unknown_currency_takes_no_money() {
    let server = server().await;
    world(&server).await;
    server.execute("update cardgroups set tell_balance_in_currency = 'ABC' where id in (7, 11)").await;
    is_error(&ask(&server, "callerid=700&amount=5").await, "Failed to make transaction");
    is_error(&ask(&server, "callerid=900&cardgroup_id=11&amount=5").await, "Failed to make transaction");
    is_card(&ask(&server, "callerid=900&cardgroup_id=11").await, "101", "11", "0.00", "900");
}

#[tokio::test]
async fn the_x7_replies() {
    let server = x7_server().await;
    world(&server).await;
    server.execute("insert into conflines (name, value) values ('Nice_Number_Digits', '4')").await;
    let reply = ask(&server, "callerid=700").await;
    reply.assert_body(
        r"
        <page>
          <response>
            <status>ok</status>
            <card>
              <id>7</id>
              <cardgroup_id>7</cardgroup_id>
              <balance>1.3660</balance>
              <balance_with_vat>1.5778</balance_with_vat>
              <callerid>700</callerid>
              <pin>7001</pin>
              <number>700001</number>
            </card>
          </response>
        </page>
    ",
    );
    // A payment for nothing is a payment too.
    server
        .assert_rows(
            "select kind, amount from payments order by id",
            &["sale|1.016460624274298", "top_up|0.000000000000000"],
        )
        .await;
    ask(&server, "callerid=555&amount=1.19").await.assert_body(
        r"
        <page>
          <response>
            <status>ok</status>
            <device_id>1</device_id>
            <user_id>2</user_id>
            <new_balance>2.0000</new_balance>
            <new_balance_with_vat>2.3800</new_balance_with_vat>
          </response>
        </page>
    ",
    );
    server.assert_rows("select first_name, last_name from payments where kind = 'refill'", &["First|Last"]).await;
}

#[tokio::test]
async fn an_x7_server_refuses_cards_that_it_cannot_save() {
    let server = x7_server().await;
    world(&server).await;
    let nested = |words: &str| format!("<page>\n  <error>\n    <error>{words}</error>\n  </error>\n</page>");
    server.execute("update cards set pin = '70011' where id = 7; update cards set pin = '00420' where id = 6").await;
    is_error(&ask(&server, "callerid=700").await, "Failed to make transaction");
    ask(&server, "callerid=700&cardgroup_id=6").await.assert_body(&nested("Bad PIN length should be: 4"));
    ask(&server, "callerid=900&pin=00420").await.assert_body(&nested("Bad PIN length should be: 4"));
    ask(&server, "callerid=555&pin=00420").await.assert_body(&nested("Bad PIN length should be: 4"));
    server.execute("update cards set pin = '7001', number = '7' where id = 7").await;
    ask(&server, "callerid=700&pin=1001").await.assert_body(&nested("Bad number length should be: 6"));
}

#[tokio::test]
async fn an_x7_server_adds_missing_tax_rows() {
    let server = x7_server().await;
    world(&server).await;
    server.execute("update users set tax_id = 888 where id = 2").await;
    assert_eq!(ask(&server, "callerid=900&cardgroup_id=10&amount=1").await.element_texts("balance"), ["1.00"]);
    assert_eq!(ask(&server, "callerid=555&amount=1").await.element_texts("new_balance"), ["2.00"]);
    server.assert_rows("select tax_id > 100 as own from cardgroups where id = 10 union all select tax_id > 100 from users where id = 2", &["true", "true"]).await;
}

/// Each row of both tables moves money from here to there, and only payments bring new money.
#[tokio::test]
async fn money_is_conserved_in_every_row() {
    for dialect in ["documented", "x7"] {
        let server = server_with_settings(&[("dialect", dialect)]).await;
        world(&server).await;
        server.execute("update cards set callerid = '600' where id = 2").await;
        for form in [
            "callerid=600&pin=1003",
            "callerid=600&pin=7001",
            "callerid=700&cardgroup_id=6",
            "callerid=600&cardgroup_id=9",
            "callerid=555&pin=9001",
            "callerid=900&pin=0042",
            "callerid=900&cardgroup_id=11",
        ] {
            let before = server.rows(MONEY).await;
            ask(&server, form).await;
            assert_eq!(server.rows(MONEY).await, before, "{dialect} {form}");
        }
    }
}

/// Two requests with one PIN: one gets the card's funds, and the card that was emptied isn't sold to the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_is_retired_meanwhile_is_not_sold() {
    let server = server_with_settings(&[("database_connections", "8")]).await;
    world(&server).await;
    for number in 0..60 {
        server
            .execute(&format!(
                "insert into cards (cardgroup_id, number, pin, balance, callerid) values (11, 'r{number}', 'r{number}', 1, 'r{number}'), (11, 'p{number}', 'p{number}', 4, null)"
            ))
            .await;
        let (first, second) = (server.clone(), server.clone());
        let feeds = tokio::spawn(async move { ask(&first, &format!("callerid=r{number}&pin=p{number}")).await });
        let takes = tokio::spawn(async move { ask(&second, &format!("callerid=s{number}&pin=p{number}")).await });
        let (feeds, takes) = (feeds.await.unwrap(), takes.await.unwrap());
        assert!(feeds.body.contains("ok") || takes.body.contains("ok"), "{} {}", feeds.body, takes.body);
    }
    server
        .assert_rows(
            "select id from cards where retired_at is not null and (sold = 1 or balance <> 0 or callerid is not null)",
            &[],
        )
        .await;
    server.assert_rows("select sum(balance) from cards where cardgroup_id = 11", &["300.000000000000000"]).await;
}

#[tokio::test]
async fn a_card_that_is_retired_while_it_is_waited_for_is_not_found() {
    let server = server().await;
    world(&server).await;
    let mut other = server.pool.begin().await.unwrap();
    sqlx::query("update cards set balance = 0, retired_at = now() where pin = '0042'")
        .execute(&mut *other)
        .await
        .unwrap();
    let waiting = server.clone();
    let waiting = tokio::spawn(async move { ask(&waiting, "callerid=900&pin=0042").await });
    server.wait_for_lock_waiter().await;
    other.commit().await.unwrap();
    is_error(&waiting.await.unwrap(), "Card was not found");
}

#[tokio::test]
async fn the_older_hash_without_a_caller_id_is_the_key_alone_and_counts_for_nothing() {
    let server = server().await;
    world(&server).await;
    let form = format!("u=admin&calleridid=900&amount=1000000&cardgroup=6&hash={}", hash("", "secret"));
    server.post("cc_by_cli", &form).await.assert_status_error("Incorrect hash");
}

#[tokio::test]
async fn taxes_of_less_than_nothing_turn_no_money_round() {
    let server = server().await;
    world(&server).await;
    server.execute("update taxes set tax1_value = -300 where id in (1, 2)").await;
    is_error(&ask(&server, "callerid=900&cardgroup_id=11&amount=100").await, "Failed to make transaction");
    is_error(&ask(&server, "callerid=555&amount=100").await, "Failed to make transaction");
    server.assert_rows("select count(*) from payments", &["0"]).await;
}

#[tokio::test]
async fn lengths_beyond_reason_make_no_card() {
    let server = server().await;
    for length in ["0", "-1", "256", "2147483647"] {
        server.execute(&format!("update cardgroups set number_length = {length} where id = 11")).await;
        is_error(&ask(&server, "callerid=900&cardgroup_id=11").await, "Failed to make transaction");
    }
    server.execute("update cardgroups set number_length = 255, pin_length = 255 where id = 11").await;
    assert_eq!(ask(&server, "callerid=900&cardgroup_id=11").await.element_texts("number")[0].len(), 255);
}

#[tokio::test]
async fn the_last_free_number_and_pin_are_found() {
    let server = server().await;
    server.execute("update cardgroups set number_length = 3, pin_length = 3 where id = 11; insert into cards (cardgroup_id, number, pin) select 11, lpad(i::text, 3, '0'), lpad(i::text, 3, '0') from generate_series(0, 999) i where i <> 7").await;
    let reply = ask(&server, "callerid=900&cardgroup_id=11").await;
    assert_eq!((reply.element_texts("number"), reply.element_texts("pin")), (vec!["007"], vec!["007"]));
}

#[tokio::test]
async fn a_card_is_its_own_owners_whosever_its_group_is() {
    let server = server().await;
    world(&server).await;
    server.execute("update cards set owner_id = 0 where id = 13; update cardgroups set hidden = 1 where id = 7").await;
    is_card(&ask(&server, "callerid=900&pin=1202").await, "13", "12", "0.00", "900");
    // Unsold, in a group that was hidden since.
    is_card(&ask(&server, "callerid=700&amount=0").await, "7", "7", "1.37", "700");
    server.assert_rows("select user_id, owner_id from payments order by id", &["13|3", "7|0"]).await;
}

#[tokio::test]
async fn a_user_without_a_currency_is_paid_in_the_systems() {
    let server = server().await;
    world(&server).await;
    server.execute("update users set currency_id = 77 where id = 2").await;
    ask(&server, "callerid=555&amount=11.9").await;
    server.assert_rows("select amount, currency from payments", &["10.000000000000000|USD"]).await;
}

/// Those who wait for one caller id's turn hold no connection meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_for_one_caller_id_keeps_nobody_else_waiting() {
    let server = server_with_settings(&[("database_connections", "2")]).await;
    world(&server).await;
    let mut other = server.pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('callerid 900', 0))")
        .execute(&mut *other)
        .await
        .unwrap();
    let queue: Vec<_> = (0..20)
        .map(|_| {
            let server = server.clone();
            tokio::spawn(async move { ask(&server, "callerid=900&cardgroup_id=6&amount=1.19").await })
        })
        .collect();
    server.wait_for_lock_waiter().await;
    is_card(&ask(&server, "callerid=700&amount=0").await, "7", "7", "1.37", "700");
    other.rollback().await.unwrap();
    for task in queue {
        assert!(task.await.unwrap().body.contains("ok"));
    }
    server.assert_rows("select balance from cards where callerid = '900'", &["20.000000000000000"]).await;
}
