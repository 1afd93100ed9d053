//! `cc_group_create`: currencies, dates, lengths, and numbers in unusual forms.

use super::cc_group_create::{CREATE, ROW_COUNTS, UNCHANGED, assert_created, insert_fixtures, send};
use crate::harness::{server, x7_server};

#[tokio::test]
async fn group_currency() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        insert_fixtures(server).await;
        server.execute("update users set currency_id = 4 where id = 6").await;
    }
    for (user, rest, documented, x7_currency) in [
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
        for (server, expected) in [(&server, documented), (&x7, x7_currency)] {
            let reply = send(server, user, "new", rest).await;
            match expected {
                None => reply.assert_page_error("Currency was not found"),
                Some(currency) => {
                    assert_created(&reply);
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
async fn valid_from_and_valid_till() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        insert_fixtures(server).await;
    }
    const FROM: (&str, &str) = ("Invalid date from", "Date from is incorrect format");
    const TILL: (&str, &str) = ("Invalid date till", "Time till is incorrect format");
    const ORDER: (&str, &str) = ("Date from is greater than date till", "Date from is greater than date till");
    const VALID: (&str, &str) = ("", "");
    for (rest, (documented, x7_message)) in [
        ("&date_from=0", VALID),
        ("&date_from=", VALID),
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
        ("&date_till=4102444799", VALID),
    ] {
        for (server, message) in [(&server, documented), (&x7, x7_message)] {
            let reply = send(server, "admin", "new", rest).await;
            if message.is_empty() {
                assert!(reply.body.contains("successfully"), "{rest}: {}", reply.body);
                server.execute("delete from cardgroups where name = 'new'").await;
            } else {
                assert_eq!(reply.element_texts("error"), [message], "{rest}");
            }
        }
    }
}

#[tokio::test]
async fn x7_reads_numeric_prefixes() {
    let server = x7_server().await;
    insert_fixtures(&server).await;
    send(&server, "admin", "", "")
        .await
        .assert_body("<page>\n  <status>\n    <status>Card Group must have name</status>\n  </status>\n</page>");
    let rest = "&setup_fee=-1.5x&ghost_min_perc=abc&daily_charge=1,5&price_with_vat=-3&number_length=31&pin_length=5.5&valid_after_first_use=abc";
    assert_created(&send(&server, "admin", &"x".repeat(300), rest).await);
    server
        .assert_rows(
            "select length(name), setup_fee, ghost_min_perc, daily_charge, price, number_length, pin_length, valid_after_first_use from cardgroups where id > 100",
            &["255|-1.500000000000000|0.000000000000000|1.000000000000000|-3.000000000000000|31|5|0"],
        )
        .await;
    send(&server, "admin", "b", "&pin_length=.").await.assert_page_error("PIN length must be greater than 0");
    send(&server, "admin", "b", "&pin_length=-1").await.assert_page_error("PIN length can be between 1 and 30");
    send(&server, "admin", "b", "&pin_length=6_0").await.assert_page_error("PIN length must consist only of digits");
    server.execute("delete from tariffs where id = 1").await;
    send(&server, "admin", "b", "").await.assert_page_error("Card Group must have name");
}

#[tokio::test]
async fn long_and_unusual_values_are_stored_whole_or_refused() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        insert_fixtures(server).await;
    }
    let long = "é".repeat(256);
    send(&server, "admin", &long, "").await.assert_page_error("Card Group name is too long");
    send(&server, "admin", "new", &format!("&description={long}")).await.assert_page_error("Description is too long");
    send(&server, "admin", "new", &format!("&tax3_name={long}")).await.assert_page_error("TAX name is too long");
    send(&server, "admin", "new", "&tax1_value=-100").await.assert_page_error("Invalid TAX value");
    // Values that no column can hold. x7 has no specific message for them.
    for amount in ["1e15", "1e999999999", "9999999999999999", "-1e20"] {
        send(&x7, "admin", "new", &format!("&price_with_vat={amount}"))
            .await
            .assert_page_error("Failed to make transaction");
        send(&server, "admin", "new", &format!("&price_with_vat={amount}"))
            .await
            .assert_page_error("Invalid Price with TAX");
    }
    send(&server, "admin", "new", "&tax1_value=1e40").await.assert_page_error("Failed to make transaction");
    server.assert_rows(ROW_COUNTS, UNCHANGED).await;
    x7.assert_rows(ROW_COUNTS, UNCHANGED).await;
    let unusual = "'; drop table cards; -- <&>\" 漢💳";
    assert_created(
        &server
            .post_signed(CREATE, "u=admin&name='%3B+drop+table+cards%3B+--+%3C%26%3E%22+漢💳&description=%0A", unusual)
            .await,
    );
    server.assert_rows("select name = '''; drop table cards; -- <&>\" 漢💳' and description = E'\\n' as same from cardgroups where id > 100", &["true"]).await;
    // More digits than a binary floating-point number has.
    let exact = "123456789012345.123456789012345";
    assert_created(&send(&server, "admin", "exact", &format!("&setup_fee={exact}&ghost_min_perc={exact}")).await);
    server
        .assert_rows(
            "select setup_fee, ghost_min_perc from cardgroups where name = 'exact'",
            &[&format!("{exact}|{exact}")],
        )
        .await;
}

/// A price can't be converted from a currency with rate 0.
#[tokio::test]
async fn price_in_a_currency_with_rate_zero_is_refused() {
    let server = server().await;
    insert_fixtures(&server).await;
    server
        .execute("update currencies set exchange_rate = 0 where id = 2; update users set currency_id = 2 where id = 0")
        .await;
    send(&server, "admin", "new", "&price_with_vat=50").await.assert_page_error("Failed to make transaction");
    assert_created(&send(&server, "admin", "new", "").await);
}

#[tokio::test]
async fn x7_stores_the_price_as_given() {
    let server = x7_server().await;
    insert_fixtures(&server).await;
    assert_created(&send(&server, "admin", "a", "&price_with_vat=121&tax1_value=21").await);
    server.assert_rows("select price from cardgroups where id > 100", &["121.000000000000000"]).await;
}

/// A database that was imported may have no tariff and no LCR with the id 1.
#[tokio::test]
async fn x7_defaults_are_the_resellers_own_without_the_first_tariff_and_lcr() {
    let x7 = x7_server().await;
    insert_fixtures(&x7).await;
    let groups = "select tariff_id, lcr_id from cardgroups where id > 100 order by id";
    assert_created(&send(&x7, "reseller", "a", "").await);
    x7.assert_rows(groups, &["1|1"]).await;
    x7.execute("delete from tariffs where id = 1; delete from lcrs where id = 1").await;
    assert_created(&send(&x7, "reseller", "b", "").await);
    x7.assert_rows(groups, &["1|1", "2|2"]).await;
    // As in MOR.
    send(&x7, "admin", "c", "").await.assert_page_error("Card Group must have name");
    x7.execute("delete from lcrs where user_id = 3").await;
    send(&x7, "reseller", "d", "").await.assert_page_error("LCR was not found");
}
