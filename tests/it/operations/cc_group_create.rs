//! `cc_group_create` (`endpoints/cc_group_create.md`).

use crate::harness::{Reply, Server, hash, server, x7_server};

const CREATE: &str = "cc_group_create";
/// The groups and tax rows that the world begins with.
const NOTHING_NEW: &str = "select (select count(*) from cardgroups) g, (select count(*) from taxes) t";
const NOTHING: &[&str] = &["7|4"];

/// Parameters of which each is wrong.
pub const WRONG: &[(&str, &str)] = &[
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
    ("valid_after_first_use", "10000"),
    ("price_with_vat", "-1"),
    ("pin_length", "6a"),
    ("number_length", "0"),
    ("setup_fee", "1,5"),
    ("ghost_min_perc", "-0.1"),
    ("ghost_balance_perc", "x"),
    ("daily_charge", "1000000000000000"),
];
/// The errors in their order; each row mends what it was refused for.
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

async fn world(server: &Server) {
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

/// Asks with the hash over the name alone.
async fn ask(server: &Server, user: &str, name: &str, rest: &str) -> Reply {
    let key = if user == "reseller" { "reskey" } else { "secret" };
    let form = format!("u={user}&name={}{rest}&hash={}", name.replace(' ', "+"), hash(name, key));
    server.post(CREATE, &form).await
}

#[track_caller]
fn is_created(reply: &Reply) {
    reply.assert_body(
        "<page>\n  <status>\n    <success>Card Group was successfully created</success>\n  </status>\n</page>",
    );
}

#[tokio::test]
async fn a_name_is_enough() {
    let server = server().await;
    world(&server).await;
    is_created(&ask(&server, "admin", "new", "").await);
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
async fn everything_that_can_be_said() {
    let server = server().await;
    world(&server).await;
    let rest = "&description=all+of+it&price_with_vat=127.05&setup_fee=1.5&ghost_min_perc=90.5&daily_charge=0.25&tariff_id=2&lcr_id=2\
                &date_from=1893493230&date_till=1927884153&number_length=8&pin_length=5&location_id=2&valid_after_first_use=30\
                &ghost_balance_perc=80&use_external_function=1&allow_loss_calls=1&tell_cents=1&tell_balance_in_currency=1&solo_pinless=1\
                &disable_topup_from_cards_with_cid=1&disable_voucher=1&callerid_leave=1&currency=usd&tax1_name=VAT&tax2_name=Eco\
                &total_tax_name=All&tax1_value=21&tax2_value=5&tax2_enabled=1&compound_tax=1&id=55&owner_id=9&hidden=1";
    // The reseller counts in euros, of which the system's currency is worth 0.7441.
    is_created(&ask(&server, "reseller", "new", rest).await);
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
async fn an_x7_server_stores_the_price_as_it_was_given() {
    let server = x7_server().await;
    world(&server).await;
    is_created(&ask(&server, "admin", "a", "&price_with_vat=121&tax1_value=21").await);
    server.assert_rows("select price from cardgroups where id > 100", &["121.000000000000000"]).await;
}

#[tokio::test]
async fn errors_in_their_order() {
    let server = server().await;
    world(&server).await;
    server.execute("insert into cardgroups (name) values ('taken')").await;
    let mut sent = WRONG.to_vec();
    for (words, mended, value) in ERRORS {
        let name = sent.iter().find(|(name, _)| *name == "name").unwrap().1;
        let rest: String = sent
            .iter()
            .filter(|(name, _)| *name != "name")
            .map(|(name, value)| format!("&{name}={}", value.replace(' ', "+")))
            .collect();
        ask(&server, "admin", name, &rest).await.assert_page_error(words);
        sent.iter_mut().find(|(name, _)| name == mended).unwrap().1 = value;
    }
    server.assert_rows(NOTHING_NEW, &["8|4"]).await;
    let rest: String =
        sent.iter().filter(|(name, _)| *name != "name").map(|(name, value)| format!("&{name}={value}")).collect();
    is_created(&ask(&server, "admin", "Taken", &rest).await);
    // The tax row's values, in a row of its own.
    server.assert_rows("select tax1_value, g.tax_id <> 2 as own from cardgroups g join taxes t on t.id = g.tax_id where g.name = 'Taken'", &["19.000000000000000|true"]).await;
}

#[tokio::test]
async fn who_may_and_who_may_not() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        world(server).await;
        for user in ["admin", "accountant", "reseller"] {
            is_created(&ask(server, user, &format!("of {user}"), "").await);
        }
        for user in ["accountant_none", "reseller_read", "reseller_none"] {
            ask(server, user, "new", "").await.assert_page_error("You are not authorized to use this functionality");
        }
        for user in ["user", "partner"] {
            ask(server, user, "new", "").await.assert_page_error("Access Denied");
        }
        server.post(CREATE, "u=user&name=new").await.assert_status_error("Incorrect hash");
        server
            .assert_rows(
                "select owner_id, name from cardgroups where id > 100 order by id",
                &["0|of admin", "0|of accountant", "3|of reseller"],
            )
            .await;
    }
    for user in ["nobody", ""] {
        ask(&server, user, "new", "").await.assert_page_error("Access Denied");
        ask(&x7, user, "new", "").await.assert_body("<page>\n  <error>Access Denied</error>\n</page>");
    }
    // Financial data without calling cards: enough for an x7 server.
    ask(&server, "accountant_zero", "new", "")
        .await
        .assert_page_error("You are not authorized to use this functionality");
    is_created(&ask(&x7, "accountant_zero", "new", "").await);
}

#[tokio::test]
async fn a_reseller_may_not_use_what_is_the_admins() {
    let server = server().await;
    world(&server).await;
    for (rest, words) in [
        ("&tariff_id=1", "Tariff was not found"),
        ("&lcr_id=1", "LCR was not found"),
        ("&location_id=1", "Location was not found"),
    ] {
        ask(&server, "reseller", "new", rest).await.assert_page_error(words);
    }
    // Unsaid, the first that is the reseller's own.
    is_created(&ask(&server, "reseller", "new", "").await);
    server.assert_rows("select tariff_id, lcr_id, location_id from cardgroups where id > 100", &["2|2|1"]).await;
    server.execute("delete from tariffs where owner_id = 3").await;
    ask(&server, "reseller", "another", "").await.assert_page_error("Tariff was not found");
}

#[tokio::test]
async fn the_currency() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        world(server).await;
        server.execute("update users set currency_id = 4 where id = 6").await;
    }
    for (user, rest, documented, field) in [
        ("admin", "", Some("USD"), Some("USD")),
        ("accountant", "", Some("LTL"), Some("LTL")),
        ("admin", "&currency=eur", Some("EUR"), Some("EUR")),
        ("admin", "&tell_balance_in_currency=eur", Some("EUR"), Some("EUR")),
        ("admin", "&tell_balance_in_currency=1&currency=Eur", Some("EUR"), Some("EUR")),
        ("accountant", "&tell_balance_in_currency=0&currency=eur", Some("USD"), Some("USD")),
        ("accountant", "&tell_balance_in_currency=1", Some("LTL"), Some("LTL")),
        ("admin", "&currency=jpy", None, Some("JPY")),
        ("admin", "&currency=XXX", None, None),
        ("admin", "&currency=eur+", Some("EUR"), Some("EUR ")),
    ] {
        for (server, expected) in [(&server, documented), (&x7, field)] {
            let reply = ask(server, user, "new", rest).await;
            match expected {
                None => reply.assert_page_error("Currency was not found"),
                Some(currency) => {
                    is_created(&reply);
                    server
                        .assert_rows("select tell_balance_in_currency from cardgroups where name = 'new'", &[currency])
                        .await;
                    server.execute("delete from cardgroups where name = 'new'").await;
                }
            }
        }
    }
}

#[tokio::test]
async fn dates() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        world(server).await;
    }
    const FROM: (&str, &str) = ("Invalid date from", "Date from is incorrect format");
    const TILL: (&str, &str) = ("Invalid date till", "Time till is incorrect format");
    const ORDER: (&str, &str) = ("Date from is greater than date till", "Date from is greater than date till");
    const FINE: (&str, &str) = ("", "");
    for (rest, (documented, field)) in [
        ("&date_from=0", FINE),
        ("&date_from=", FINE),
        ("&date_from=abc", FROM),
        ("&date_from=+5", FROM),
        ("&date_from=12.5", FROM),
        ("&date_from=99999999999999999999", FROM),
        ("&date_from=-1", (FROM.0, "")),
        ("&date_till=-99999999999999999999", TILL),
        ("&date_till=abc", TILL),
        ("&date_till=0", ORDER),
        ("&date_from=4000000000", ORDER),
        ("&date_from=5&date_till=5", ("", ORDER.1)),
        ("&date_from=6&date_till=5", ORDER),
        ("&date_till=4102444799", FINE),
    ] {
        for (server, words) in [(&server, documented), (&x7, field)] {
            let reply = ask(server, "admin", "new", rest).await;
            if words.is_empty() {
                assert!(reply.body.contains("successfully"), "{rest}: {}", reply.body);
                server.execute("delete from cardgroups where name = 'new'").await;
            } else {
                assert_eq!(reply.element_texts("error"), [words], "{rest}");
            }
        }
    }
}

#[tokio::test]
async fn an_x7_server_reads_what_it_can() {
    let server = x7_server().await;
    world(&server).await;
    ask(&server, "admin", "", "")
        .await
        .assert_body("<page>\n  <status>\n    <status>Card Group must have name</status>\n  </status>\n</page>");
    let rest = "&setup_fee=-1.5x&ghost_min_perc=abc&daily_charge=1,5&price_with_vat=-3&number_length=31&pin_length=5.5&valid_after_first_use=abc";
    is_created(&ask(&server, "admin", &"x".repeat(300), rest).await);
    server
        .assert_rows(
            "select length(name), setup_fee, ghost_min_perc, daily_charge, price, number_length, pin_length, valid_after_first_use from cardgroups where id > 100",
            &["255|-1.500000000000000|0.000000000000000|1.000000000000000|-3.000000000000000|31|5|0"],
        )
        .await;
    ask(&server, "admin", "b", "&pin_length=.").await.assert_page_error("PIN length must be greater than 0");
    ask(&server, "admin", "b", "&pin_length=-1").await.assert_page_error("PIN length can be between 1 and 30");
    ask(&server, "admin", "b", "&pin_length=6_0").await.assert_page_error("PIN length must consist only of digits");
    server.execute("delete from tariffs where id = 1").await;
    ask(&server, "admin", "b", "").await.assert_page_error("Card Group must have name");
}

#[tokio::test]
async fn long_and_strange_values_are_kept_or_refused_whole() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        world(server).await;
    }
    let long = "é".repeat(256);
    ask(&server, "admin", &long, "").await.assert_page_error("Card Group name is too long");
    ask(&server, "admin", "new", &format!("&description={long}")).await.assert_page_error("Description is too long");
    ask(&server, "admin", "new", &format!("&tax3_name={long}")).await.assert_page_error("TAX name is too long");
    ask(&server, "admin", "new", "&tax1_value=-100").await.assert_page_error("Invalid TAX value");
    // Beyond every column: an x7 server has no words for it.
    for beyond in ["1e15", "1e999999999", "9999999999999999", "-1e20"] {
        ask(&x7, "admin", "new", &format!("&price_with_vat={beyond}"))
            .await
            .assert_page_error("Failed to make transaction");
        ask(&server, "admin", "new", &format!("&price_with_vat={beyond}"))
            .await
            .assert_page_error("Invalid Price with TAX");
    }
    ask(&server, "admin", "new", "&tax1_value=1e40").await.assert_page_error("Failed to make transaction");
    server.assert_rows(NOTHING_NEW, NOTHING).await;
    x7.assert_rows(NOTHING_NEW, NOTHING).await;
    let odd = "'; drop table cards; -- <&>\" 漢💳";
    is_created(
        &server
            .post_signed(CREATE, "u=admin&name='%3B+drop+table+cards%3B+--+%3C%26%3E%22+漢💳&description=%0A", odd)
            .await,
    );
    server.assert_rows("select name = '''; drop table cards; -- <&>\" 漢💳' and description = E'\\n' as same from cardgroups where id > 100", &["true"]).await;
}

/// In a currency that is worth nothing no price can be said.
#[tokio::test]
async fn a_price_in_a_worthless_currency_is_refused() {
    let server = server().await;
    world(&server).await;
    server
        .execute("update currencies set exchange_rate = 0 where id = 2; update users set currency_id = 2 where id = 0")
        .await;
    ask(&server, "admin", "new", "&price_with_vat=50").await.assert_page_error("Failed to make transaction");
    is_created(&ask(&server, "admin", "new", "").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_want_one_name_one_gets_it() {
    let server = server().await;
    world(&server).await;
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let server = server.clone();
            tokio::spawn(async move { ask(&server, "admin", "wanted", "").await })
        })
        .collect();
    let mut created = 0;
    for task in tasks {
        let reply = task.await.unwrap();
        match reply.element_texts("error")[..] {
            [] => created += 1,
            [words] => assert_eq!(words, "Card Group name must be unique"),
            _ => panic!("{}", reply.body),
        }
    }
    assert_eq!(created, 1);
    // Those who came too late left no tax row behind.
    server.assert_rows(NOTHING_NEW, &["8|5"]).await;
}

#[tokio::test]
async fn a_new_group_sells_cards_with_the_right_balance_and_taxes() {
    let server = server().await;
    world(&server).await;
    is_created(
        &ask(&server, "reseller", "new", "&price_with_vat=12.1&tax1_value=21&number_length=4&pin_length=4").await,
    );
    let group = server.rows("select id from cardgroups where name = 'new'").await.concat();
    server.execute(&format!("insert into cards (cardgroup_id, number, pin, balance) select id, '4711', '0815', price from cardgroups where id = {group}")).await;
    let reply = server
        .post("card_from_group_sell", &format!("u=reseller&id={group}&curr=EUR&hash={}", hash(&group, "reskey")))
        .await;
    assert_eq!(reply.element_texts("number"), ["4711"]);
    // Ten euros, and 21 % of them.
    server
        .assert_rows(
            "select round(amount, 12) as amount, currency, round(tax, 12) as tax from payments",
            &["10.000000000000|EUR|2.100000000000"],
        )
        .await;

    // And through a caller id: 12.1 euros of the group's currency, the reseller's own, are ten without their taxes.
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
