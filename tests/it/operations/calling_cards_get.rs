//! `calling_cards_get` (`endpoints/calling_cards_get.md`).

use axum::body::Body;
use axum::http::Request;
use futures_util::StreamExt;
use mortise::store::pages::PAGE_ROWS;
use tower::ServiceExt;

use crate::harness::proxy::CountingProxy;
use crate::harness::{
    FIXTURE_SQL, Reply, Server, hash, postgres, server, server_with_connect_options, server_with_settings, x7_server,
};

const GET: &str = "calling_cards_get";

async fn send(server: &Server, user: &str, rest: &str) -> Reply {
    let key = if user == "reseller" { "reskey" } else { "secret" };
    server.post(GET, &format!("u={user}{rest}&hash={}", hash("", key))).await
}

/// Returns the ids of the cards in the reply, separated by spaces. A reply without cards must be the error.
async fn ids(server: &Server, user: &str, rest: &str) -> String {
    let reply = send(server, user, rest).await;
    let ids = reply.element_texts("card_id").join(" ");
    if ids.is_empty() {
        reply.assert_page_error("Cards were not found");
    }
    ids
}

async fn insert_fixtures(server: &Server) {
    server
        .execute(
            "insert into acc_rights (id, name) values (4, 'Callingcard_PIN');
             insert into acc_group_rights (acc_group_id, acc_right_id, value) values (1, 4, 1), (2, 4, 0);
             update users set first_name = 'Ann', last_name = 'O''Neil & Sons' where id = 11;
             update cards set first_use = '2015-11-06 02:00:00.75', daily_charge_paid_till = '2031-02-03 23:59:59', user_id = 2, name = 'N <1>',
                 batch_number = 'B1', min_balance = 0.5, language = 'lt' where id = 4;
             update cards set user_id = 11, batch_number = 'b2%', callerid = 'Office_1' where id = 12;
             update cards set language = 'All' where id = 7",
        )
        .await;
}

#[tokio::test]
async fn shows_every_field_of_a_card() {
    let server = server().await;
    insert_fixtures(&server).await;
    send(&server, "admin", "&number=1111111000").await.assert_body(
        r"
        <page>
          <cards>
            <card>
              <card_id>4</card_id>
              <card_number>1111111000</card_number>
              <card_name>N &lt;1&gt;</card_name>
              <card_pin>1000</card_pin>
              <card_batch_number>B1</card_batch_number>
              <card_callerid>3701111</card_callerid>
              <card_balance>10.0840336134454</card_balance>
              <card_minimal_balance>0.5</card_minimal_balance>
              <card_first_use>2015-11-06 02:00:00</card_first_use>
              <card_daily_charge_paid_till>2031-02-03 23:59:59</card_daily_charge_paid_till>
              <card_sold>1</card_sold>
              <card_language>lt</card_language>
              <card_distributor>user</card_distributor>
            </card>
          </cards>
        </page>
    ",
    );
    server.execute("update cards set name = null, pin = null, batch_number = null, language = null, min_balance = null where id = 13").await;
    // Each group has its own `cards` element. A missing value is an empty element.
    send(&server, "reseller", "").await.assert_body(
        r"
        <page>
          <cards>
            <card>
              <card_id>12</card_id>
              <card_number>120001</card_number>
              <card_name></card_name>
              <card_pin>1201</card_pin>
              <card_batch_number>b2%</card_batch_number>
              <card_callerid>Office_1</card_callerid>
              <card_balance>5.0</card_balance>
              <card_minimal_balance>0.0</card_minimal_balance>
              <card_first_use></card_first_use>
              <card_daily_charge_paid_till></card_daily_charge_paid_till>
              <card_sold>0</card_sold>
              <card_language>en</card_language>
              <card_distributor>Ann O'Neil &amp; Sons</card_distributor>
            </card>
            <card>
              <card_id>13</card_id>
              <card_number>120002</card_number>
              <card_name/>
              <card_pin/>
              <card_batch_number/>
              <card_callerid/>
              <card_balance>0.0</card_balance>
              <card_minimal_balance>0.0</card_minimal_balance>
              <card_first_use></card_first_use>
              <card_daily_charge_paid_till></card_daily_charge_paid_till>
              <card_sold>0</card_sold>
              <card_language/>
            </card>
          </cards>
        </page>
    ",
    );
    let all = send(&server, "admin", "").await;
    assert_eq!(all.body.matches("<cards>").count(), 5);
    // Ordered by group, then by number, without hidden cards and cards of hidden groups.
    assert_eq!(all.element_texts("card_id").join(" "), "6 4 2 3 1 7 9 10 11 12 13");
}

#[tokio::test]
async fn rights_and_visible_cards() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        insert_fixtures(server).await;
        for (user, expected) in [
            ("admin", "6 4 2 3 1 7 9 10 11 12 13"),
            ("accountant", "6 4 2 3 1 7 9 10 11"),
            ("accountant_read", "6 4 2 3 1 7 9 10 11"),
            ("reseller", "12 13"),
        ] {
            assert_eq!(ids(server, user, "").await, expected, "{user}");
        }
        for user in ["accountant_zero", "accountant_none", "reseller_read", "reseller_none"] {
            send(server, user, "").await.assert_page_error("You are not authorized to use this functionality");
        }
        for user in ["user", "partner", "unknown", ""] {
            send(server, user, "").await.assert_page_error("Access Denied");
        }
        server.post(GET, "u=user").await.assert_status_error("Incorrect hash");
        assert_eq!(send(server, "accountant", "&number=700001").await.element_texts("card_pin"), ["7001"]);
        assert_eq!(
            send(server, "accountant_read", "&number=700001").await.element_texts("card_pin"),
            Vec::<&str>::new()
        );
    }
    // A user who isn't shown PINs can't search by PIN. In x7 the user can.
    server.execute("update cards set pin = '' where id = 9").await;
    assert_eq!(ids(&server, "accountant", "&pin=70%25").await, "7");
    for pin in ["7001", "70%25", "%25", ""] {
        assert_eq!(
            ids(&server, "accountant_read", &format!("&pin={pin}&number=700001")).await,
            if pin.is_empty() { "7" } else { "" }
        );
    }
    assert_eq!(ids(&x7, "accountant_read", "&pin=70%25").await, "7");
}

#[tokio::test]
async fn search_parameters() {
    let (server, x7) = (server().await, x7_server().await);
    const ALL: &str = "6 4 2 3 1 7 9 10 11 12 13";
    for server in [&server, &x7] {
        insert_fixtures(server).await;
        for (rest, expected) in [
            ("&number=700001", "7"),
            ("&number=1111111%25", "4 2 3 1"),
            ("&number=%250001", "7 9 11 12"),
            ("&number=70000_", "7"),
            ("&number=70000", ""),
            ("&number=", ALL),
            ("&number=+700001", ""),
            ("&pin=0042", "6"),
            ("&pin=%25", ALL),
            ("&name=n+%3C1%3E", "4"),
            ("&name=n%25", "4"),
            ("&batch_number=b1", "4"),
            ("&batch_number=b2%25", "12"),
            ("&batch_number=b2%5C%25", "12"),
            ("&batch_number=b_%5C%25", "12"),
            ("&callerid=3701111", "4"),
            ("&callerid=office%5C_1", "12"),
            ("&callerid=office%5C_2", ""),
            ("&min_balance=10.0840336134454", "6 4 2 3 1"),
            ("&min_balance=5", "6 4 2 3 1 11 12"),
            ("&min_balance=abc", ALL),
            ("&max_balance=3", "7 9 10 13"),
            ("&max_balance=abc", "13"),
            ("&min_balance=1.5x&max_balance=5", "9 10 12"),
            ("&min_balance=-1e99&max_balance=1e99", ALL),
            ("&language=LT", "4"),
            ("&language=l%25", ""),
            ("&sold=yes", "4"),
            ("&sold=no", "6 2 3 1 7 9 10 11 12 13"),
            ("&sold=YES", ALL),
            ("&distributor=2", "4"),
            ("&distributor=11x", "12"),
            ("&distributor=99999999999999999999", ""),
            ("&number=1111111%25&sold=no&max_balance=11&language=en&pin=100%25&distributor=-1", "2 3 1"),
            ("&callerid=%25%5C", ""),
            ("&number=7%25%5C", ""),
            ("&number='%3B+drop+table+cards%3B+--", ""),
        ] {
            assert_eq!(ids(server, "admin", rest).await, expected, "{rest}");
        }
        assert_eq!(ids(server, "reseller", "&number=700001").await, "");
    }
    for (rest, documented, x7_ids) in [
        ("&language=All", "7", ALL),
        ("&distributor=-1", "6 2 3 1 7 9 10 11 13", ALL),
        ("&min_balance=9,9&max_balance=10,09", "", "6 4 2 3 1"),
        ("&max_balance=1,37", "13", "7 13"),
    ] {
        assert_eq!(ids(&server, "admin", rest).await, documented, "{rest}");
        assert_eq!(ids(&x7, "admin", rest).await, x7_ids, "{rest}");
    }
}

#[tokio::test]
async fn paging() {
    let server = server().await;
    for (rest, expected) in [
        ("&per_page=3", "6 4 2"),
        ("&per_page=3&page=1", "6 4 2"),
        ("&per_page=3&page=2", "3 1 7"),
        ("&per_page=3&page=4", "12 13"),
        ("&per_page=3&page=5", ""),
        ("&per_page=0&page=0", "6"),
        ("&per_page=-5&page=2", "4"),
        ("&page=1", "6 4 2 3 1 7 9 10 11 12 13"),
        ("&page=2", ""),
        ("&page=&per_page=", "6 4 2 3 1 7 9 10 11 12 13"),
        ("&page=99999999999999999999&per_page=99999999999999999999", ""),
    ] {
        assert_eq!(ids(&server, "admin", rest).await, expected, "{rest}");
    }
}

/// Balances are in the system's currency for every user, in x7 too.
#[tokio::test]
async fn balances_are_in_the_system_currency() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        server.execute("update users set currency_id = 2").await;
        assert_eq!(send(server, "admin", "&number=100001").await.element_texts("card_balance"), ["7.0"]);
    }
}

/// The number of round trips depends on the number of pages, not of cards: three for a page (its statement and its
/// transaction), and six more where a group continues in the next page.
#[tokio::test]
async fn round_trips_depend_on_the_number_of_pages() {
    let proxy = CountingProxy::new().await;
    let server = server_with_connect_options(
        proxy.connect_options(&postgres::create_database(FIXTURE_SQL).await),
        &[("cache", "on")],
    )
    .await;
    server
        .execute(
            "insert into cards (cardgroup_id, number, pin)
             select case when i % 2 = 0 then 7 else 11 end, (1000000 + i)::text, (5000000 + i)::text from generate_series(1, 20000) i;
             analyze",
        )
        .await;
    let many = async || {
        let reply = send(&server, "admin", "&number=1______").await;
        let numbers = reply.element_texts("card_number");
        assert_eq!((numbers.len(), reply.header("content-length")), (20_000, None));
        assert!(numbers[..10_000].is_sorted() && numbers[10_000..].is_sorted());
        assert_eq!(reply.body.matches("<cards>").count(), 2);
    };
    let one = async || {
        let reply = send(&server, "admin", "&pin=5010000").await;
        assert_eq!(reply.element_texts("card_number"), ["1010000"]);
        assert!(reply.header("content-length").is_some());
    };
    let (many, one) = (proxy.min_round_trips(&server, many).await, proxy.min_round_trips(&server, one).await);
    let pages = 20_000 / usize::try_from(PAGE_ROWS).unwrap() + 1;
    assert!(many <= 3 * pages + 12 && one == 3, "{many} {one}");
}

/// A search by number, PIN or caller id uses an index. The list of all cards is read in index order, without a sort.
#[tokio::test]
async fn searches_use_indexes() {
    let server = server().await;
    server
        .execute(
            "insert into cards (cardgroup_id, number, pin, callerid)
             select 11, (1000000 + i)::text, (5000000 + i)::text, (8000000 + i)::text from generate_series(1, 50000) i;
             analyze",
        )
        .await;
    const ALL: &str =
        "force_custom_plan; set enable_seqscan = on; set enable_bitmapscan = on; set enable_hashjoin = on";
    let statement = ["-- Lists the first $3 cards that match the filters $1"];
    for (filter, index) in [("number", "cards_number"), ("pin", "cards_pin"), ("callerid", "cards_callerid")] {
        let search = format!(r#"'{{"{filter}": {{"exact": "1000500"}}}}'"#);
        let plan = server.query_plan(&statement, ALL, &[&search, "'\"Start\"'", "2000", "null"]).await;
        assert!(plan.contains(&format!("Index Scan using {index} on cards")), "{plan}");
    }
    let plan = server.query_plan(&statement, ALL, &["'{}'", "'\"Start\"'", "2000", "null"]).await;
    assert!(plan.contains("Index Scan using cards_group_number on cards"), "{plan}");
    assert!(!plan.contains("->  Sort") && !plan.starts_with("Sort"), "{plan}");
}

/// Clients that don't read their lists hold no database connection. The number of open lists is limited: one user
/// leaves half of them to others.
#[tokio::test]
async fn number_of_open_lists_is_limited() {
    let server = server_with_settings(&[("database_connections", "1"), ("database_acquire_timeout_ms", "2000")]).await;
    server
        .execute("insert into cards (cardgroup_id, number, pin) select 11, (1000000 + i)::text, (5000000 + i)::text from generate_series(1, 5000) i")
        .await;
    let list = async |user: &str| {
        let form = format!("u={user}&hash={}", hash("", "secret"));
        let request = Request::post(format!("/billing/api/{GET}")).body(Body::from(form)).unwrap();
        server.router.clone().oneshot(request).await.unwrap()
    };
    let mut unread = Vec::new();
    for user in ["admin", "accountant"] {
        for _ in 0..8 {
            unread.push(list(user).await);
            assert_eq!(unread.last().unwrap().status().as_u16(), 200);
        }
        assert_eq!(list(user).await.status().as_u16(), 503);
    }
    for _ in 0..5 {
        assert_eq!(
            server.post_signed("card_from_group_sell", "u=admin&id=11", "11").await.element_texts("pin").len(),
            1
        );
    }
    drop(unread);
    assert_eq!(ids(&server, "reseller", "").await, "12 13");
}

/// When a client disconnects while a page is read, the query stops and its database connection is closed.
#[tokio::test]
async fn disconnect_stops_the_query() {
    let server = server_with_settings(&[("database_connections", "2")]).await;
    server
        .execute("insert into cards (cardgroup_id, number, pin) select 11, (1000000 + i)::text, (5000000 + i)::text from generate_series(1, 20000) i")
        .await;
    for _ in 0..3 {
        let form = format!("u=admin&hash={}", hash("", "secret"));
        let request = Request::post(format!("/billing/api/{GET}")).body(Body::from(form)).unwrap();
        let response = server.router.clone().oneshot(request).await.unwrap();
        let mut lock = server.pool.begin().await.unwrap();
        sqlx::query("lock table cards in access exclusive mode").execute(&mut *lock).await.unwrap();
        let client = tokio::spawn(async move { response.into_body().into_data_stream().count().await });
        // A later page waits for the table lock.
        server.wait_for_lock_waiter().await;
        client.abort();
        let lock_waiters =
            "select pid from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
        server.wait_for_rows(lock_waiters, |waiters| waiters.is_empty()).await;
        lock.rollback().await.unwrap();
        assert_eq!(ids(&server, "reseller", "").await, "12 13");
    }
}
