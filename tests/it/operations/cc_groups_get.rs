//! `cc_groups_get` (`endpoints/cc_groups_get.md`).

use mortise::store::pages::PAGE_ROWS;

use crate::harness::proxy::CountingProxy;
use crate::harness::{FIXTURE_SQL, Reply, Server, hash, postgres, server, server_with_connect_options, x7_server};

const GET: &str = "cc_groups_get";

async fn send(server: &Server, user: &str, rest: &str) -> Reply {
    let key = if user == "reseller" { "reskey" } else { "secret" };
    server.post(GET, &format!("u={user}{rest}&hash={}", hash("", key))).await
}

async fn insert_fixtures(server: &Server) {
    server
        .execute(
            "insert into tariffs (id, name, owner_id) values (1, 'Tariff <1>', 0), (2, 'Tariff 2', 3);
             insert into lcrs (id, name, user_id) values (1, 'Primary', 0), (2, 'Second', 3);
             update cardgroups set tariff_id = 1, lcr_id = 1, price = 10.084;
             update cardgroups set tariff_id = 2, lcr_id = 2, description = 'of & for resellers' where id = 12",
        )
        .await;
}

#[tokio::test]
async fn shows_every_field_of_a_group() {
    let server = server().await;
    insert_fixtures(&server).await;
    send(&server, "reseller", "").await.assert_body(
        r"
        <page>
          <cc_groups>
            <cc_group>
              <group_id>12</group_id>
              <group_image>example.jpg</group_image>
              <group_name>the reseller's</group_name>
              <group_description>of &amp; for resellers</group_description>
              <group_number_pin_length>6/4</group_number_pin_length>
              <group_tarrif>Tariff 2</group_tarrif>
              <group_lcr>Second</group_lcr>
              <group_price>12.70584</group_price>
              <group_price_without_tax>10.084</group_price_without_tax>
              <group_cards_count>2</group_cards_count>
              <group_currency>EUR</group_currency>
            </cc_group>
          </cc_groups>
        </page>
    ",
    );
    // The count includes sold and hidden cards.
    assert_eq!(send(&server, "admin", "&cc_group_id=6").await.element_texts("group_cards_count"), ["6"]);
}

#[tokio::test]
async fn rights_and_visible_groups() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        insert_fixtures(server).await;
        for (user, groups) in [
            ("admin", &["6", "7", "9", "10", "11", "12"][..]),
            ("accountant", &["6", "7", "9", "10", "11"]),
            ("accountant_read", &["6", "7", "9", "10", "11"]),
            ("reseller", &["12"]),
        ] {
            assert_eq!(send(server, user, "").await.element_texts("group_id"), groups, "{user}");
            assert_eq!(send(server, user, "&cc_group_id=").await.element_texts("group_id"), groups, "{user}");
        }
        for user in ["accountant_zero", "accountant_none", "reseller_read", "reseller_none"] {
            send(server, user, "").await.assert_page_error("You are not authorized to use this functionality");
        }
        for user in ["user", "partner", "unknown", ""] {
            send(server, user, "").await.assert_page_error("Access Denied");
        }
        server.post(GET, "u=user&cc_group_id=x").await.assert_status_error("Incorrect hash");
        // The LCR is shown to its owner only: the admin doesn't see the reseller's, an accountant doesn't see the
        // admin's.
        assert_eq!(send(server, "admin", "").await.element_texts("group_lcr"), ["Primary"; 5]);
        assert_eq!(send(server, "accountant", "").await.element_texts("group_lcr"), Vec::<&str>::new());
    }
    assert_eq!(send(&x7, "admin", "").await.element_texts("group_currency"), Vec::<&str>::new());
    // The x7 request added a tax row to the group without one.
    x7.assert_rows("select tax_id from cardgroups where id = 10", &["101"]).await;
    server.assert_rows("select tax_id from cardgroups where id = 10", &["999"]).await;
}

#[tokio::test]
async fn filter_by_group_id() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        assert_eq!(send(server, "admin", "&cc_group_id=012").await.element_texts("group_id"), ["12"]);
        for id in ["abc", "1.5", "-6", "+6", "6x"] {
            send(server, "admin", &format!("&cc_group_id={id}"))
                .await
                .assert_page_error("Wrong Calling Cards Group ID");
        }
        for (user, id) in [
            ("admin", "8"),
            ("admin", "99"),
            ("accountant", "12"),
            ("reseller", "6"),
            ("admin", "99999999999999999999"),
        ] {
            let reply = send(server, user, &format!("&cc_group_id={id}")).await;
            reply.assert_page_error("Calling Cards Groups were not found");
        }
    }
    // An X7 server accepts an id that has a line of digits.
    send(&server, "admin", "&cc_group_id=6%0Ax").await.assert_page_error("Wrong Calling Cards Group ID");
    assert_eq!(send(&x7, "admin", "&cc_group_id=6%0Ax").await.element_texts("group_id"), ["6"]);
}

/// Amounts are in the system's currency for every user, in x7 too.
#[tokio::test]
async fn prices_are_plain_decimals_in_the_system_currency() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        server
            .execute("update users set currency_id = 2; update cardgroups set price = 1.366026910730141 where id = 7")
            .await;
        server.execute("update cardgroups set price = null, image = null where id = 6").await;
        let reply = send(server, "admin", "&cc_group_id=7").await;
        assert_eq!(reply.element_texts("group_price"), ["1.577761081893312855"]);
        assert_eq!(reply.element_texts("group_price_without_tax"), ["1.366026910730141"]);
        let reply = send(server, "admin", "&cc_group_id=6").await;
        assert_eq!(reply.element_texts("group_price"), ["0.0"]);
        assert!(reply.body.contains("      <group_image/>\n      <group_name>"), "{}", reply.body);
        assert!(reply.body.contains("      <group_tarrif/>\n      <group_price>"), "{}", reply.body);
    }
}

/// Ten thousand groups with twenty thousand cards take one round trip a page. The reply is streamed.
#[tokio::test]
async fn ten_thousand_groups_take_one_round_trip_a_page() {
    let proxy = CountingProxy::new().await;
    let server = server_with_connect_options(
        proxy.connect_options(&postgres::create_database(FIXTURE_SQL).await),
        &[("cache", "on")],
    )
    .await;
    server
        .execute(
            "insert into cardgroups (id, name, tax_id) select 1000 + i, 'group ' || i, 2 from generate_series(1, 10000) i;
             insert into cards (cardgroup_id, number, pin) select 1000 + i % 10000 + 1, 'n' || i, 'p' || i from generate_series(1, 20000) i;
             analyze",
        )
        .await;
    let list = async || {
        let reply = send(&server, "admin", "").await;
        let ids: Vec<i32> = reply.element_texts("group_id").iter().map(|id| id.parse().unwrap()).collect();
        assert_eq!(ids.len(), 10_006);
        assert!(ids.is_sorted());
        assert!(reply.element_texts("group_cards_count")[6..].iter().all(|count| *count == "2"));
        assert_eq!(reply.header("content-length"), None);
    };
    let pages = 10_006_usize.div_ceil(usize::try_from(PAGE_ROWS).unwrap());
    assert_eq!(proxy.min_round_trips(&server, list).await, pages);
}
