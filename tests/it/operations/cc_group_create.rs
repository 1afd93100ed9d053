//! `cc_group_create` (`endpoints/cc_group_create.md`).

use crate::harness::{Reply, Server, hash, server, x7_server};

pub const CREATE: &str = "cc_group_create";
/// Counts groups and tax rows.
pub const ROW_COUNTS: &str = "select (select count(*) from cardgroups) g, (select count(*) from taxes) t";
/// The counts before a request.
pub const UNCHANGED: &[&str] = &["7|4"];

/// A set of parameters that are all invalid.
pub const INVALID_VALUES: &[(&str, &str)] = &[
    ("compound_tax", "2"),
    ("tax2_enabled", "x"),
    ("tax3_enabled", "-1"),
    ("tax4_enabled", "1.0"),
    ("name", " "),
    ("use_external_function", "2"),
    ("allow_loss_calls", " 1"),
    ("tell_cents", "yes"),
    ("solo_pinless", "01"),
    ("disable_voucher", "x"),
    ("callerid_leave", "2"),
    ("disable_topup_from_cards_with_cid", "2"),
    ("date_from", "4102444800"),
    ("date_till", "1.5"),
    ("tariff_id", "99"),
    ("lcr_id", "99"),
    ("location_id", "99"),
    ("currency", "JPY"),
    ("tax_id", "99"),
    ("tax1_value", "19,5"),
    ("tax2_value", "NaN"),
    ("tax3_value", "-1"),
    ("tax4_value", "5 %25"),
    ("valid_after_first_use", "10000"),
    ("price_with_vat", "-1"),
    ("pin_length", "6a"),
    ("number_length", "0"),
    ("setup_fee", "1,5"),
    ("ghost_min_perc", "-0.1"),
    ("ghost_balance_perc", "x"),
    ("daily_charge", "1000000000000000"),
];
/// The errors in documented order: the message, the parameter that causes it, and a value that passes this check.
pub const ERRORS: &[(&str, &str, &str)] = &[
    ("Compound TAX enabling value is incorrect format", "compound_tax", "0"),
    ("TAX 2 enabling value is incorrect format", "tax2_enabled", "1"),
    ("TAX 3 enabling value is incorrect format", "tax3_enabled", ""),
    ("TAX 4 enabling value is incorrect format", "tax4_enabled", "0"),
    ("Card Group must have name", "name", "taken"),
    ("Use external function is incorrect format", "use_external_function", "1"),
    ("Allow loss calls is incorrect format", "allow_loss_calls", ""),
    ("Tell cents is incorrect format", "tell_cents", "0"),
    ("Solo pinless is incorrect format", "solo_pinless", "1"),
    ("Disable voucher is incorrect format", "disable_voucher", "1"),
    ("CallerID leave is incorrect format", "callerid_leave", "1"),
    ("Disable topup from cards with cid is incorrect format", "disable_topup_from_cards_with_cid", "0"),
    ("Invalid date from", "date_from", "4102444799"),
    ("Invalid date till", "date_till", "4102444798"),
    ("Date from is greater than date till", "date_till", "4102444799"),
    ("Tariff was not found", "tariff_id", "1"),
    ("LCR was not found", "lcr_id", "1"),
    ("Location was not found", "location_id", "1"),
    ("Currency was not found", "currency", "ltl"),
    ("TAX was not found", "tax_id", "2"),
    ("Invalid TAX value", "tax1_value", "19.5"),
    ("Invalid TAX value", "tax2_value", "0"),
    ("Invalid TAX value", "tax3_value", ""),
    ("Invalid TAX value", "tax4_value", "+1_0.5e-1"),
    ("Valid after is incorrect format", "valid_after_first_use", "9999"),
    ("Invalid Price with TAX", "price_with_vat", "999999999999999"),
    ("Card Group name must be unique", "name", "Taken"),
    ("PIN length must consist only of digits", "pin_length", "0"),
    ("PIN length must be greater than 0", "pin_length", "31"),
    ("PIN length can be between 1 and 30", "pin_length", "30"),
    ("Number length can be between 1 and 30", "number_length", "30"),
    ("Invalid setup fee", "setup_fee", "1.5"),
    ("Invalid ghost min perc", "ghost_min_perc", "0"),
    ("Invalid ghost balance perc", "ghost_balance_perc", "1e2"),
    ("Invalid daily charge", "daily_charge", "0.1"),
];

pub async fn insert_fixtures(server: &Server) {
    server
        .execute(
            "insert into tariffs (id, name, owner_id) values (1, 'one', 0), (2, 'two', 3), (3, 'three', 4);
             insert into lcrs (id, name, user_id) values (1, 'one', 0), (2, 'two', 3);
             insert into locations (id, name, user_id) values (1, 'one', 0), (2, 'two', 3);
             insert into acc_rights (id, name) values (3, 'See_financial_data');
             insert into acc_group_rights (acc_group_id, acc_right_id, value) values (1, 3, 1), (3, 3, 1), (9, 1, 2);
             update users set acc_group_id = 9 where id = 9",
        )
        .await;
}

/// Sends a request with the hash over the name alone.
pub async fn send(server: &Server, user: &str, name: &str, rest: &str) -> Reply {
    let key = if user == "reseller" { "reskey" } else { "secret" };
    let form = format!("u={user}&name={}{rest}&hash={}", name.replace(' ', "+"), hash(name, key));
    server.post(CREATE, &form).await
}

#[track_caller]
pub fn assert_created(reply: &Reply) {
    reply.assert_body(
        "<page>\n  <status>\n    <success>Card Group was successfully created</success>\n  </status>\n</page>",
    );
}

#[tokio::test]
async fn name_alone_suffices() {
    let server = server().await;
    insert_fixtures(&server).await;
    assert_created(&send(&server, "admin", "new", "").await);
    server
        .assert_rows(
            "select name, description, price, setup_fee, ghost_min_perc, daily_charge, tariff_id, lcr_id, vat_percent, number_length, pin_length,
                 image, location_id, owner_id, valid_after_first_use, ghost_balance_perc, tell_balance_in_currency, hidden,
                 use_external_function + allow_loss_calls + tell_cents + solo_pinless + disable_voucher + callerid_leave + disable_topup_from_cards_with_cid as flags,
                 created_at between now() - interval '1 minute' and now() as now,
                 valid_from = date_trunc('day', created_at) as from_today, valid_till = date_trunc('day', created_at) + interval '86399 seconds' as till_tonight
             from cardgroups where id > 100",
            &["new||0.000000000000000|0.000000000000000|100.000000000000000|0.000000000000000|1|1|0.000000000000000|10|6\
               |example.jpg|1|0|0|100.000000000000000|USD|0|0|true|true|true"],
        )
        .await;
    server
        .assert_rows(
            "select t.tax1_enabled, t.tax2_enabled, tax1_name, tax2_name, total_tax_name, tax1_value, compound_tax
             from taxes t join cardgroups g on g.tax_id = t.id where g.id > 100",
            &["1|0|TAX||TAX|0.000000000000000|1"],
        )
        .await;
}

#[tokio::test]
async fn every_parameter_is_stored() {
    let server = server().await;
    insert_fixtures(&server).await;
    let rest = "&description=all+of+it&price_with_vat=127.05&setup_fee=1.5&ghost_min_perc=90.5&daily_charge=0.25&tariff_id=2&lcr_id=2\
                &date_from=1893493230&date_till=1927884153&number_length=8&pin_length=5&location_id=2&valid_after_first_use=30\
                &ghost_balance_perc=80&use_external_function=1&allow_loss_calls=1&tell_cents=1&tell_balance_in_currency=1&solo_pinless=1\
                &disable_topup_from_cards_with_cid=1&disable_voucher=1&callerid_leave=1&currency=usd&tax1_name=VAT&tax2_name=Eco\
                &total_tax_name=All&tax1_value=21&tax2_value=5&tax2_enabled=1&compound_tax=1&id=55&owner_id=9&hidden=1";
    // The reseller's amounts are in euros. The system's currency is worth 0.7441 euros.
    assert_created(&send(&server, "reseller", "new", rest).await);
    server
        .assert_rows(
            "select name, description, price, setup_fee, ghost_min_perc, daily_charge, tariff_id, lcr_id, number_length, pin_length, location_id,
                 owner_id, valid_after_first_use, ghost_balance_perc, tell_balance_in_currency, hidden, valid_from, valid_till,
                 use_external_function + allow_loss_calls + tell_cents + solo_pinless + disable_voucher + callerid_leave + disable_topup_from_cards_with_cid as flags
             from cardgroups where id > 100",
            // 127.05 / 1.21 / 1.05 / 0.7441; 1.5 / 0.7441; 0.25 / 0.7441
            &["new|all of it|134.390538906061013|2.015858083590915|90.500000000000000|0.335976347265153|2|2|8|5|2\
               |3|30|80.000000000000000|USD|0|2030-01-01T10:20:30|2031-02-03T11:22:33|7"],
        )
        .await;
    server
        .assert_rows(
            "select tax1_name, tax2_name, total_tax_name, tax1_value, tax2_value, tax2_enabled, tax3_enabled, compound_tax from taxes where id > 100",
            &["VAT|Eco|All|21.000000000000000|5.000000000000000|1|0|1"],
        )
        .await;
}

#[tokio::test]
async fn errors_in_documented_order() {
    let server = server().await;
    insert_fixtures(&server).await;
    server.execute("insert into cardgroups (name) values ('taken')").await;
    let mut sent = INVALID_VALUES.to_vec();
    for (message, corrected, value) in ERRORS {
        let name = sent.iter().find(|(name, _)| *name == "name").unwrap().1;
        let rest: String = sent
            .iter()
            .filter(|(name, _)| *name != "name")
            .map(|(name, value)| format!("&{name}={}", value.replace(' ', "+")))
            .collect();
        send(&server, "admin", name, &rest).await.assert_page_error(message);
        sent.iter_mut().find(|(name, _)| name == corrected).unwrap().1 = value;
    }
    server.assert_rows(ROW_COUNTS, &["8|4"]).await;
    let rest: String =
        sent.iter().filter(|(name, _)| *name != "name").map(|(name, value)| format!("&{name}={value}")).collect();
    assert_created(&send(&server, "admin", "Taken", &rest).await);
    // The group has its own tax row with the values of tax row 2.
    server.assert_rows("select tax1_value, g.tax_id <> 2 as own from cardgroups g join taxes t on t.id = g.tax_id where g.name = 'Taken'", &["19.000000000000000|true"]).await;
}

#[tokio::test]
async fn users_with_and_without_rights() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        insert_fixtures(server).await;
        for user in ["admin", "accountant", "reseller"] {
            assert_created(&send(server, user, &format!("of {user}"), "").await);
        }
        for user in ["accountant_none", "reseller_read", "reseller_none"] {
            send(server, user, "new", "").await.assert_page_error("You are not authorized to use this functionality");
        }
        for user in ["user", "partner"] {
            send(server, user, "new", "").await.assert_page_error("Access Denied");
        }
        server.post(CREATE, "u=user&name=new").await.assert_status_error("Incorrect hash");
        server
            .assert_rows(
                "select owner_id, name from cardgroups where id > 100 order by id",
                &["0|of admin", "0|of accountant", "3|of reseller"],
            )
            .await;
    }
    for user in ["unknown", ""] {
        send(&server, user, "new", "").await.assert_page_error("Access Denied");
        send(&x7, user, "new", "").await.assert_body("<page>\n  <error>Access Denied</error>\n</page>");
    }
    // x7 accepts the right to see financial data without the right to manage calling cards.
    send(&server, "accountant_zero", "new", "")
        .await
        .assert_page_error("You are not authorized to use this functionality");
    assert_created(&send(&x7, "accountant_zero", "new", "").await);
}

#[tokio::test]
async fn reseller_needs_own_tariff_lcr_and_location() {
    let server = server().await;
    insert_fixtures(&server).await;
    for (rest, message) in [
        ("&tariff_id=1", "Tariff was not found"),
        ("&lcr_id=1", "LCR was not found"),
        ("&location_id=1", "Location was not found"),
    ] {
        send(&server, "reseller", "new", rest).await.assert_page_error(message);
    }
    // Without the parameters: the reseller's own first tariff and LCR, and location 1.
    assert_created(&send(&server, "reseller", "new", "").await);
    server.assert_rows("select tariff_id, lcr_id, location_id from cardgroups where id > 100", &["2|2|1"]).await;
    server.execute("delete from tariffs where owner_id = 3").await;
    send(&server, "reseller", "another", "").await.assert_page_error("Tariff was not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_for_one_name_create_one_group() {
    let server = server().await;
    insert_fixtures(&server).await;
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let server = server.clone();
            tokio::spawn(async move { send(&server, "admin", "shared", "").await })
        })
        .collect();
    let mut created = 0;
    for task in tasks {
        let reply = task.await.unwrap();
        match reply.element_texts("error")[..] {
            [] => created += 1,
            [message] => assert_eq!(message, "Card Group name must be unique"),
            _ => panic!("{}", reply.body),
        }
    }
    assert_eq!(created, 1);
    // The refused requests left no tax rows.
    server.assert_rows(ROW_COUNTS, &["8|5"]).await;
}

#[tokio::test]
async fn new_group_sells_cards_with_its_balance_and_taxes() {
    let server = server().await;
    insert_fixtures(&server).await;
    assert_created(
        &send(&server, "reseller", "new", "&price_with_vat=12.1&tax1_value=21&number_length=4&pin_length=4").await,
    );
    let group = server.rows("select id from cardgroups where name = 'new'").await.concat();
    server.execute(&format!("insert into cards (cardgroup_id, number, pin, balance) select id, '4711', '0815', price from cardgroups where id = {group}")).await;
    let reply = server
        .post("card_from_group_sell", &format!("u=reseller&id={group}&curr=EUR&hash={}", hash(&group, "reskey")))
        .await;
    assert_eq!(reply.element_texts("number"), ["4711"]);
    // Ten euros and 21 % tax.
    server
        .assert_rows(
            "select round(amount, 12) as amount, currency, round(tax, 12) as tax from payments",
            &["10.000000000000|EUR|2.100000000000"],
        )
        .await;

    // By caller id: 12.1 in the group's currency, which is the reseller's (euros), are ten without taxes.
    let form = format!("u=reseller&callerid=900&cardgroup_id={group}&amount=12.1");
    let reply =
        server.post("card_by_cli_update", &format!("{form}&hash={}", hash(&format!("12.1900{group}"), "reskey"))).await;
    assert_eq!(reply.element_texts("balance"), ["13.44"]);
    server
        .assert_rows(
            "select amount, currency, tax from payments where kind = 'top_up'",
            &["10.000000000000000|EUR|2.100000000000000"],
        )
        .await;
}
