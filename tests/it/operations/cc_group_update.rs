//! `cc_group_update` (`endpoints/cc_group_update.md`).

use super::cc_group_create::{ERRORS, INVALID_VALUES};
use crate::harness::{Reply, Server, hash, server, x7_server};

const UPDATE: &str = "cc_group_update";
/// The columns of a group that an update can change, and some that it can't.
const GROUP: &str = "select name, description, trim_scale(price) as price, trim_scale(setup_fee) as fee, trim_scale(daily_charge) as charge,
        trim_scale(ghost_min_perc) as min, trim_scale(ghost_balance_perc) as perc, tariff_id, lcr_id, location_id, owner_id,
        number_length || '/' || pin_length as lengths, valid_after_first_use, tell_balance_in_currency, valid_from, valid_till,
        concat(use_external_function, allow_loss_calls, tell_cents, solo_pinless, disable_voucher, callerid_leave,
            disable_topup_from_cards_with_cid) as flags
    from cardgroups where id = ";
/// Group 6 with the fixtures, as `GROUP` shows it.
const UNCHANGED: &str = "ten dollars||0|0|0|100|100|0|0|1|0|10/4|0|USD|2020-01-01T00:00:00|2040-01-01T23:59:59|0000000";

async fn insert_fixtures(server: &Server) {
    server
        .execute(
            "insert into tariffs (id, name, owner_id) values (1, 'one', 0), (2, 'two', 3);
             insert into lcrs (id, name, user_id) values (1, 'one', 0), (2, 'two', 3);
             insert into locations (id, name, user_id) values (1, 'one', 0), (2, 'two', 3);
             insert into acc_rights (id, name) values (3, 'See_financial_data');
             insert into acc_group_rights (acc_group_id, acc_right_id, value) values (1, 3, 1), (3, 3, 1), (9, 1, 2);
             update users set acc_group_id = 9 where id = 9;
             update cardgroups set valid_from = '2020-01-01', valid_till = '2040-01-01 23:59:59'",
        )
        .await;
}

/// Sends a request with the hash over the group's id alone.
async fn send(server: &Server, user: &str, group: &str, rest: &str) -> Reply {
    let key = if user == "reseller" { "reskey" } else { "secret" };
    let form = format!("u={user}&cc_group_id={}{rest}&hash={}", group.replace(' ', "+"), hash(group, key));
    server.post(UPDATE, &form).await
}

#[track_caller]
fn assert_updated(reply: &Reply) {
    reply.assert_body(
        "<page>\n  <status>\n    <success>Card Group was successfully updated</success>\n  </status>\n</page>",
    );
}

#[tokio::test]
async fn unsent_and_blank_parameters_change_nothing() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        insert_fixtures(server).await;
        let taxes = "select * from taxes order by id";
        let before = server.rows(taxes).await;
        let blank = "&name=+&description=&use_external_function=&date_from=&date_till=&tariff_id=&lcr_id=&location_id=&currency=&tax_id=\
                     &valid_after_first_use=&price_with_vat=&setup_fee=+&ghost_min_perc=&daily_charge=&tax1_value=&tax1_name=&tax2_enabled=\
                     &compound_tax=&tell_balance_in_currency=&pin_length=x&number_length=99&owner_id=3&hidden=1&image=x&id=7";
        for rest in ["", blank, "&name=ten+dollars", "&tell_balance_in_currency=1"] {
            assert_updated(&send(server, "admin", "6", rest).await);
            server.assert_rows(&format!("{GROUP}6"), &[UNCHANGED]).await;
        }
        assert_eq!(server.rows(taxes).await, before);
        server.assert_rows("select hidden, image, tax_id from cardgroups where id = 6", &["0|example.jpg|2"]).await;
    }
}

#[tokio::test]
async fn every_parameter_is_stored() {
    let server = server().await;
    insert_fixtures(&server).await;
    let rest = "&name=new&description=all+of+it&price_with_vat=127.05&setup_fee=1.5&ghost_min_perc=90.5&daily_charge=0.25&tariff_id=2&lcr_id=2\
                &date_from=1893493230&date_till=1927884153&number_length=8&pin_length=5&location_id=2&valid_after_first_use=30\
                &ghost_balance_perc=80&use_external_function=1&allow_loss_calls=1&tell_cents=1&tell_balance_in_currency=1&solo_pinless=1\
                &disable_topup_from_cards_with_cid=1&disable_voucher=1&callerid_leave=1&currency=usd&tax1_name=VAT&tax2_name=Eco\
                &total_tax_name=All&tax1_value=21&tax2_value=5&tax2_enabled=1&compound_tax=1";
    // The reseller's amounts are in euros. The system's currency is worth 0.7441 euros.
    assert_updated(&send(&server, "reseller", "12", rest).await);
    // 127.05 / 1.21 / 1.05 / 0.7441; 1.5 / 0.7441; 0.25 / 0.7441
    let expected = "new|all of it|134.390538906061013|2.015858083590915|0.335976347265153|90.5|80|2|2|2|3|6/4|30|USD\
                    |2030-01-01T10:20:30|2031-02-03T11:22:33|1111111";
    server.assert_rows(&format!("{GROUP}12"), &[expected]).await;
    server
        .assert_rows(
            "select tax1_name, tax2_name, total_tax_name, tax1_value, tax2_value, tax2_enabled, compound_tax
             from taxes t join cardgroups g on g.tax_id = t.id where g.id = 12",
            &["VAT|Eco|All|21.000000000000000|5.000000000000000|1|1"],
        )
        .await;
}

#[tokio::test]
async fn errors_in_documented_order() {
    let server = server().await;
    insert_fixtures(&server).await;
    // The values of the create test without the lengths, which can't change. The name is another group's: a blank name
    // means no change here.
    let mut sent = INVALID_VALUES.to_vec();
    sent.retain(|(name, _)| !name.ends_with("_length"));
    sent.iter_mut().find(|(name, _)| *name == "name").unwrap().1 = "euro group";
    let changeable =
        |message: &str, parameter: &str| !parameter.ends_with("_length") && message != "Card Group must have name";
    for (message, corrected, value) in ERRORS.iter().filter(|(message, parameter, _)| changeable(message, parameter)) {
        let rest: String = sent.iter().map(|(name, value)| format!("&{name}={}", value.replace(' ', "+"))).collect();
        send(&server, "admin", "99", &rest).await.assert_page_error("Card Group was not found");
        send(&server, "admin", "6", &rest).await.assert_page_error(message);
        sent.iter_mut().find(|(name, _)| name == corrected).unwrap().1 = value;
    }
    server.assert_rows(&format!("{GROUP}6"), &[UNCHANGED]).await;
    let rest: String = sent.iter().map(|(name, value)| format!("&{name}={value}")).collect();
    assert_updated(&send(&server, "admin", "6", &rest).await);
}

#[tokio::test]
async fn rights_and_visible_groups() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        insert_fixtures(server).await;
        for (user, group) in [("admin", "6"), ("admin", "012"), ("accountant", "6"), ("reseller", "12")] {
            assert_updated(&send(server, user, group, &format!("&description=by+{user}")).await);
        }
        for (user, group) in [
            ("admin", ""),
            ("admin", "8"),
            ("admin", "99"),
            ("admin", "6x"),
            ("admin", " 6"),
            ("admin", "-6"),
            ("admin", "99999999999999999999"),
            ("accountant", "12"),
            ("reseller", "6"),
        ] {
            send(server, user, group, "&description=no").await.assert_page_error("Card Group was not found");
        }
        for user in ["accountant_none", "accountant_read", "reseller_read", "reseller_none"] {
            send(server, user, "99", "").await.assert_page_error("You are not authorized to use this functionality");
        }
        for user in ["user", "partner"] {
            send(server, user, "99", "").await.assert_page_error("Access Denied");
        }
        server.post(UPDATE, "u=user&cc_group_id=6").await.assert_status_error("Incorrect hash");
        server
            .assert_rows(
                "select description from cardgroups where id in (6, 12) order by id",
                &["by accountant", "by reseller"],
            )
            .await;
        // A reseller can't use the admin's tariffs, LCRs and locations.
        for (parameter, message) in [
            ("tariff_id", "Tariff was not found"),
            ("lcr_id", "LCR was not found"),
            ("location_id", "Location was not found"),
        ] {
            send(server, "reseller", "12", &format!("&{parameter}=1")).await.assert_page_error(message);
        }
    }
    send(&server, "unknown", "6", "").await.assert_page_error("Access Denied");
    send(&x7, "unknown", "6", "").await.assert_body("<page>\n  <error>Access Denied</error>\n</page>");
}

/// The date that isn't sent keeps its stored value. An X7 server checks the sent date against today and now instead.
#[tokio::test]
async fn valid_from_and_valid_till() {
    let (server, x7) = (server().await, x7_server().await);
    const ORDER: &str = "Date from is greater than date till";
    for server in [&server, &x7] {
        insert_fixtures(server).await;
    }
    for (rest, documented, x7_message) in [
        ("&date_from=0", "", ""),
        ("&date_from=4102444799", ORDER, ORDER),
        // Before the stored date in 2040, after the current date.
        ("&date_from=2000000000", "", ORDER),
        ("&date_till=1600000000", "", ORDER),
        ("&date_till=1500000000", ORDER, ORDER),
        ("&date_from=5&date_till=5", "", ORDER),
        ("&date_from=-1", "Invalid date from", ""),
        ("&date_till=12a", "Invalid date till", "Time till is incorrect format"),
    ] {
        for (server, message) in [(&server, documented), (&x7, x7_message)] {
            server
                .execute(
                    "update cardgroups set valid_from = '2020-01-01', valid_till = '2040-01-01 23:59:59' where id = 6",
                )
                .await;
            let reply = send(server, "admin", "6", rest).await;
            if message.is_empty() { assert_updated(&reply) } else { reply.assert_page_error(message) }
        }
    }
    // Without a stored date there is nothing to compare.
    server.execute("update cardgroups set valid_from = null, valid_till = null where id = 6").await;
    assert_updated(&send(&server, "admin", "6", "&date_from=4102444799").await);
    server.assert_rows("select valid_from, valid_till from cardgroups where id = 6", &["2099-12-31T23:59:59|∅"]).await;
}

/// The sent taxes are written into a tax row that no other group or user shares.
#[tokio::test]
async fn shared_tax_row_is_copied_before_the_change() {
    let server = server().await;
    insert_fixtures(&server).await;
    let taxes = "select tax1_value, tax2_value, tax2_enabled, compound_tax from taxes t join cardgroups g on g.tax_id = t.id where g.id = ";
    // Row 2 is group 6's own; row 4 is shared with the reseller's group 12.
    assert_updated(&send(&server, "admin", "6", "&tax1_value=7").await);
    server.assert_rows(&format!("{taxes}6"), &["7.000000000000000|0.000000000000000|0|1"]).await;
    server.assert_rows("select tax_id from cardgroups where id = 6", &["2"]).await;
    assert_updated(&send(&server, "admin", "9", "&tax1_value=7").await);
    server.assert_rows(&format!("{taxes}9"), &["7.000000000000000|5.000000000000000|1|0"]).await;
    server.assert_rows("select tax1_value from taxes where id = 4", &["21.000000000000000"]).await;
    // The values of the given row, overridden by the sent taxes.
    assert_updated(&send(&server, "admin", "9", "&tax_id=3&tax2_value=6&compound_tax=0").await);
    server.assert_rows(&format!("{taxes}9"), &["10.000000000000000|6.000000000000000|1|0"]).await;
    server.assert_rows("select tax_id from cardgroups where id = 9", &["101"]).await;
    server.assert_rows("select tax2_value, compound_tax from taxes where id = 3", &["5.000000000000000|1"]).await;
    // The group has no tax row: the new row copies the owner's. If the owner has none, it has the defaults from the
    // settings.
    assert_updated(&send(&server, "admin", "10", "&tax2_value=3&tax2_enabled=1").await);
    server.assert_rows(&format!("{taxes}10"), &["0.000000000000000|3.000000000000000|1|1"]).await;
    server
        .execute("update users set tax_id = 998 where id = 0; update cardgroups set tax_id = 998 where id = 10")
        .await;
    assert_updated(&send(&server, "admin", "10", "&tax2_value=3").await);
    server.assert_rows(&format!("{taxes}10"), &["7.500000000000000|3.000000000000000|0|1"]).await;
}

/// An X7 server links the given row and changes its values.
#[tokio::test]
async fn x7_links_and_changes_the_given_tax_row() {
    let server = x7_server().await;
    insert_fixtures(&server).await;
    assert_updated(&send(&server, "admin", "6", "&tax_id=4&tax1_value=7").await);
    server
        .assert_rows(
            "select tax_id, tax1_value from cardgroups g join taxes t on t.id = g.tax_id where g.id in (6, 9)",
            &["4|7.000000000000000"; 2],
        )
        .await;
}

/// The price is stored without the taxes that the group has after the request; x7 stores it as given. Without a sent
/// price the stored price stays.
#[tokio::test]
async fn price_and_taxes_in_one_request() {
    let (server, x7) = (server().await, x7_server().await);
    for (server, price) in [(&server, "100"), (&x7, "121")] {
        insert_fixtures(server).await;
        assert_updated(&send(server, "admin", "6", "&price_with_vat=121&tax1_value=21").await);
        server.assert_rows("select trim_scale(price) as price from cardgroups where id = 6", &[price]).await;
        assert_updated(&send(server, "admin", "6", "&tax1_value=50").await);
        server.assert_rows("select trim_scale(price) as price from cardgroups where id = 6", &[price]).await;
    }
    // A price can't be converted from a currency with rate 0. The stored price stays.
    server
        .execute("update currencies set exchange_rate = 0 where id = 2; update users set currency_id = 2 where id = 0")
        .await;
    send(&server, "admin", "6", "&price_with_vat=50").await.assert_page_error("Failed to make transaction");
    assert_updated(&send(&server, "admin", "6", "&description=new").await);
    server.assert_rows("select trim_scale(price) as price from cardgroups where id = 6", &["100"]).await;
}

/// A price can't be divided by a tax factor of 0 (taxes of -100 %) or less.
#[tokio::test]
async fn tax_factor_of_zero_or_less_is_refused() {
    let server = server().await;
    insert_fixtures(&server).await;
    server.execute("update taxes set tax1_value = -100 where id = 2").await;
    send(&server, "admin", "6", "&price_with_vat=10&description=x")
        .await
        .assert_page_error("Failed to make transaction");
    server.assert_rows(&format!("{GROUP}6"), &[UNCHANGED]).await;
    assert_updated(&send(&server, "admin", "6", "&price_with_vat=10&tax1_value=25").await);
    server.assert_rows("select trim_scale(price) as price from cardgroups where id = 6", &["8"]).await;
    server.execute("update taxes set tax1_value = -100 where id = 2").await;
    let reply = server.post_signed("cc_group_create", "u=admin&name=new&tax_id=2&price_with_vat=10", "new").await;
    reply.assert_page_error("Failed to make transaction");
}

#[tokio::test]
async fn x7_reads_numeric_prefixes() {
    let server = x7_server().await;
    insert_fixtures(&server).await;
    let rest =
        "&setup_fee=-1.5x&ghost_min_perc=abc&daily_charge=1,5&price_with_vat=-3&valid_after_first_use=abc&currency=jpy";
    assert_updated(&send(&server, "admin", "6", &format!("{rest}&name={}", "x".repeat(300))).await);
    server
        .assert_rows(
            "select length(name), trim_scale(setup_fee) as fee, trim_scale(ghost_min_perc) as min, trim_scale(daily_charge) as charge,
                 trim_scale(price) as price, valid_after_first_use, tell_balance_in_currency from cardgroups where id = 6",
            &["255|-1.5|0|1|-3|0|JPY"],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_for_one_name_update_one_group() {
    let server = server().await;
    insert_fixtures(&server).await;
    let mut tasks = Vec::new();
    for group in ["6", "7", "9", "10", "11", "12"] {
        let server = server.clone();
        tasks.push(tokio::spawn(async move { send(&server, "admin", group, "&name=shared&tax1_value=33").await }));
    }
    let mut updated = 0;
    for task in tasks {
        let reply = task.await.unwrap();
        match reply.element_texts("error")[..] {
            [] => updated += 1,
            [message] => assert_eq!(message, "Card Group name must be unique"),
            _ => panic!("{}", reply.body),
        }
    }
    assert_eq!(updated, 1);
    server.assert_rows("select count(*) from cardgroups g join taxes t on t.id = g.tax_id where name = 'shared' and tax1_value = 33", &["1"]).await;
    server.assert_rows("select count(*) from taxes where tax1_value = 33", &["1"]).await;
}
