//! `card_group_get` (`endpoints/card_group_get.md`).

use crate::harness::proxy::CountingProxy;
use crate::harness::{
    FIXTURE_SQL, hash, postgres, server, server_with_connect_options, server_with_settings, x7_server,
};

const GET: &str = "card_group_get";

#[tokio::test]
async fn shows_the_group() {
    let server = server().await;
    server
        .execute("update cardgroups set price = 10.0840336134454, description = 'Ten <dollars> & more' where id = 6")
        .await;
    server.post_signed(GET, "u=admin&id=6", "6").await.assert_body(
        r"
        <page>
          <cardgroup>
            <name>ten dollars</name>
            <iamge_link>/billing/cards/example.jpg</iamge_link>
            <description>Ten &lt;dollars&gt; &amp; more</description>
            <price>10.08</price>
            <price_with_tax>12.00</price_with_tax>
            <currency>USD</currency>
            <free_cards_size>4</free_cards_size>
            <pin_length>4</pin_length>
            <number_length>10</number_length>
          </cardgroup>
        </page>
    ",
    );
    // The older name with the id in the path, for a reseller's own group.
    let path = format!("/api/show_calling_card_group/12.xml?u=reseller&hash={}", hash("12", "reskey"));
    let reply = server.get(&path).await;
    assert_eq!(
        (reply.element_texts("name"), reply.element_texts("free_cards_size")),
        (vec!["the reseller's"], vec!["2"])
    );
}

#[tokio::test]
async fn errors_in_documented_order() {
    let server = server().await;
    server.post(GET, "u=unknown&id=99").await.assert_status_error("Bad login");
    server.post(GET, "u=user&id=99").await.assert_status_error("Incorrect hash");
    for user in ["user", "partner", "accountant_zero", "reseller_read"] {
        server.post_signed(GET, &format!("u={user}&id=99"), "99").await.assert_status_error("Access Denied");
    }
    // Missing, not an id, hidden, another owner's, unknown, larger than any id.
    for id in ["", "0", "-6", "VFT", "8", "12", "99", "99999999999999999999"] {
        server.post_signed(GET, &format!("u=admin&id={id}"), id).await.assert_page_error("Cardgroup was not found");
    }
    server.post_signed(GET, "u=admin", "").await.assert_page_error("Cardgroup was not found");
    let hashed = hash("6", "reskey");
    server.post(GET, &format!("u=reseller&id=6&hash={hashed}")).await.assert_page_error("Cardgroup was not found");
    // Only the leading number is read.
    assert_eq!(server.post_signed(GET, "u=accountant_read&id=+6x", " 6x").await.element_texts("name"), ["ten dollars"]);
}

/// Counts the cards that a sale would find: not sold, hidden or retired ones.
#[tokio::test]
async fn free_cards_are_the_sellable_ones() {
    let server = server().await;
    let free = async || server.post_signed(GET, "u=admin&id=6", "6").await.element_texts("free_cards_size").concat();
    for (change, expected) in [
        ("update cards set hidden = 1 where id = 1", "3"),
        ("update cards set retired_at = now() where id = 2", "2"),
        ("update cards set hidden = 0 where id = 1", "3"),
        ("delete from cards where id = 3", "2"),
    ] {
        server.execute(change).await;
        assert_eq!(free().await, expected, "{change}");
    }
    server.post_signed("card_from_group_sell", "u=admin&id=6", "6").await;
    assert_eq!(free().await, "1");
}

#[tokio::test]
async fn prices_are_rounded_and_taxed() {
    for (digits, price, group, expected) in [
        ("2", "0.125", 11, ["0.12", "0.12"]),
        ("2", "0.375", 11, ["0.38", "0.38"]),
        ("4", "100", 7, ["100.0000", "115.5000"]),
        ("0", "2.5", 6, ["2", "3"]),
        ("3", "10", 9, ["10.000", "12.600"]),
        // A group without a tax row has its owner's taxes: the admin has none.
        ("2", "10", 10, ["10.00", "10.00"]),
        ("2", "null", 6, ["0.00", "0.00"]),
    ] {
        let server = server().await;
        server
            .execute(&format!(
                "insert into conflines (name, value) values ('Nice_Number_Digits', '{digits}'); update cardgroups set price = {price}"
            ))
            .await;
        let reply = server.post_signed(GET, &format!("u=admin&id={group}"), &group.to_string()).await;
        assert_eq!(
            [reply.element_texts("price"), reply.element_texts("price_with_tax")].concat(),
            expected,
            "{digits} {price} {group}"
        );
    }
}

/// An X7 server multiplies the price by the rate of the caller's currency and names the system's currency.
#[tokio::test]
async fn x7_converts_the_price_to_the_callers_currency() {
    let (server, x7) = (server().await, x7_server().await);
    for (server, price) in [(&server, "10.00"), (&x7, "7.44")] {
        server.execute("update cardgroups set price = 10; update users set currency_id = 2").await;
        let reply = server.post_signed(GET, "u=admin&id=11", "11").await;
        assert_eq!((reply.element_texts("price"), reply.element_texts("currency")), (vec![price], vec!["USD"]));
    }
}

#[tokio::test]
async fn x7_adds_the_missing_tax_row() {
    let (server, x7) = (server().await, x7_server().await);
    for (server, taxes) in [(&server, "4|999"), (&x7, "5|101")] {
        server.post_signed(GET, "u=admin&id=10", "10").await;
        server.post_signed(GET, "u=admin&id=10", "10").await;
        server
            .assert_rows("select (select count(*) from taxes) t, tax_id from cardgroups where id = 10", &[taxes])
            .await;
    }
}

#[tokio::test]
async fn image_link_without_image_and_with_another_prefix() {
    let server = server_with_settings(&[("prefix", "/shop")]).await;
    server.execute("update cardgroups set image = null where id = 6").await;
    assert_eq!(server.post_signed(GET, "u=admin&id=6", "6").await.element_texts("iamge_link"), Vec::<&str>::new());
    let path = format!("/shop/api/card_group_get?u=admin&id=6&hash={}", hash("6", "secret"));
    assert_eq!(server.get(&path).await.element_texts("iamge_link"), ["/shop/cards/"]);
}

#[tokio::test]
async fn takes_one_round_trip() {
    let proxy = CountingProxy::new().await;
    let server = server_with_connect_options(
        proxy.connect_options(&postgres::create_database(FIXTURE_SQL).await),
        &[("cache", "on")],
    )
    .await;
    let get =
        async || assert_eq!(server.post_signed(GET, "u=accountant&id=6", "6").await.element_texts("name").len(), 1);
    assert_eq!(proxy.min_round_trips(&server, get).await, 1);
}
