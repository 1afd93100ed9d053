//! Concurrent sales through a real server on a real socket, then an independent audit in SQL.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use sqlx::AssertSqlSafe;

use crate::harness::{Reply, Server, hash, ledger, server, server_with_settings, with_timeout};

/// Cards of the group that all buyers share, and of the group that each buyer has for itself.
const SHARED_CARDS: usize = 1000;
const OWN_CARDS: usize = 40;
const SHARED_GROUP: usize = 11;
/// The first of the buyers' own groups.
const FIRST_OWN_GROUP: usize = 1000;

/// Buys cards in turn from the shared group and from the buyer's own one, cycling through the quantities, until both
/// have no free cards; returns the cards as (number, PIN). No other buyer takes cards of the own group: each sale must
/// return exactly the cards that it ordered, or all that are left. A sale that is made but reported as refused would
/// show.
async fn buy_until_empty(address: SocketAddr, quantities: &'static [usize], buyer: usize) -> Vec<(String, String)> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<axum::body::Bytes>>();
    let mut cards = Vec::new();
    let (mut own_left, own_group) = (OWN_CARDS, FIRST_OWN_GROUP + buyer);
    let mut groups = vec![SHARED_GROUP, own_group];
    for index in buyer.. {
        let (quantity, group) = (quantities[index % quantities.len()], groups[index % groups.len()]);
        let form =
            format!("u=admin&id={group}&quantity={quantity}&hash={}", hash(&format!("{group}{quantity}"), "secret"));
        let request = axum::http::Request::post(format!("http://{address}/billing/api/card_from_group_sell"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::from(form))
            .unwrap();
        let reply = async {
            let (parts, body) = client.request(request).await.unwrap().into_parts();
            let body = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
            Reply::new(parts.status, parts.headers, body.into()).unwrap()
        };
        let reply = with_timeout("a sale", reply).await;
        let numbers = reply.element_texts("number");
        if group == own_group {
            assert_eq!(numbers.len(), quantity.min(own_left), "{quantity} of {own_left} ordered: {}", reply.body);
            own_left -= numbers.len();
        }
        if reply.body.contains("<error>") {
            reply.assert_page_error("Free cards was not found");
            groups.retain(|other| *other != group);
            if groups.is_empty() {
                return cards;
            }
            continue;
        }
        assert!((1..=quantity).contains(&numbers.len()), "{quantity} ordered: {}", reply.body);
        let pins = reply.element_texts("pin");
        cards.extend(numbers.into_iter().zip(pins).map(|(number, pin)| (number.to_owned(), pin.to_owned())));
    }
    unreachable!()
}

/// Settings of a server under contention. With a concurrency of two, sales are batched on a machine with any number of
/// processors.
pub const SETTINGS: [(&str, &str); 3] = [("database_connections", "16"), ("cache", "on"), ("sale_concurrency", "2")];

/// Creates cards, sells all of them to concurrent buyers, and audits the database. Every request must succeed.
pub async fn sell_all_cards(server: &Server, buyers: usize, quantities: &'static [usize]) {
    server
        .execute(&format!(
            "insert into cardgroups (id, name, owner_id, tax_id, tell_balance_in_currency, number_length, pin_length)
             select {FIRST_OWN_GROUP} + buyer, 'buyer ' || buyer, owner_id, tax_id, tell_balance_in_currency, 7, 7
             from cardgroups, generate_series(0, {buyers} - 1) buyer where id = {SHARED_GROUP};
             insert into cards (cardgroup_id, number, pin, balance)
             select {SHARED_GROUP}, (1000000 + i)::text, (2000000 + i)::text, 7 from generate_series(1, {SHARED_CARDS}) i;
             insert into cards (cardgroup_id, number, pin, balance)
             select {FIRST_OWN_GROUP} + buyer, number::text, (number + 1000000)::text, 7
             from generate_series(0, {buyers} - 1) buyer, generate_series(1, {OWN_CARDS}) i,
                 lateral (select 3000000 + buyer * 1000 + i as number) numbers"
        ))
        .await;
    let cards = SHARED_CARDS + buyers * OWN_CARDS;
    let balances = server.rows(ledger::UNPAID_BALANCES_QUERY).await.concat();
    let address = server.listen().await;
    let tasks: Vec<_> = (0..buyers).map(|buyer| tokio::spawn(buy_until_empty(address, quantities, buyer))).collect();
    let mut bought = Vec::new();
    for task in tasks {
        bought.extend(task.await.unwrap());
    }

    // All cards were sold, and none twice.
    let numbers: HashSet<&String> = bought.iter().map(|(number, _)| number).collect();
    assert_eq!((bought.len(), numbers.len()), (cards, cards));
    // The replies agree with the database.
    let rows = server
        .rows("select number, pin from cards where (cardgroup_id = 11 or cardgroup_id >= 1000) and sold = 1")
        .await;
    let sold: HashMap<&str, &str> = rows.iter().map(|row| row.split_once('|').unwrap()).collect();
    assert!(bought.iter().all(|(number, pin)| sold.get(number.as_str()) == Some(&pin.as_str())));
    // Each card has one payment of its balance, and two audit rows.
    server
        .assert_rows(
            "select count(*) as payments, count(distinct user_id) as cards, sum(amount) as amount
             from payments where kind = 'sale'",
            &[&format!("{cards}|{cards}|{}.000000000000000", cards * 7)],
        )
        .await;
    server
        .assert_rows(
            "select action, count(*), count(distinct target_id) as targets
             from actions group by action order by action",
            &[&format!("card_payment_created|{cards}|{cards}"), &format!("card_sell_over_api|{cards}|{cards}")],
        )
        .await;
    ledger::assert_holds(server, &balances).await;
    server.assert_rows("select count(*) from card_stock where cardgroup_id = 11 or cardgroup_id >= 1000", &["0"]).await;
    server.assert_rows("select * from card_stock_differences", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_single_card_sales_sell_each_card_once() {
    sell_all_cards(&server_with_settings(&SETTINGS).await, 32, &[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_multi_card_sales_sell_each_card_once() {
    sell_all_cards(&server_with_settings(&SETTINGS).await, 40, &[1, 2, 3, 4, 5, 6, 7]).await;
}

/// A card that gets another number or group while a sale waits for it is not sold by its old number.
#[tokio::test]
async fn card_is_not_sold_by_a_number_that_it_had() {
    for change in ["number = '1111111999'", "cardgroup_id = 7", "quarantined_at = now()"] {
        let server = server().await;
        let mut transaction = server.pool.begin().await.unwrap();
        let update = format!("update cards set {change} where number = '1111111003'");
        sqlx::query(AssertSqlSafe(update)).execute(&mut *transaction).await.unwrap();
        let sale = {
            let server = server.clone();
            tokio::spawn(async move {
                server.post_signed("card_from_group_sell", "u=admin&id=6&number=1111111003", "6").await
            })
        };
        with_timeout("the sale to wait for the card", server.wait_for_lock_waiter()).await;
        transaction.commit().await.unwrap();
        sale.await.unwrap().assert_page_error("Free cards was not found");
        server.assert_rows("select count(*) from payments", &["0"]).await;
    }
}

/// Buyers that all order the same card by its number: one gets it, the others get an error.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_sales_by_number_sell_the_card_once() {
    let server = server_with_settings(&[("database_connections", "16")]).await;
    let mut tasks = Vec::new();
    for _ in 0..32 {
        let server = server.clone();
        tasks.push(tokio::spawn(async move {
            server.post_signed("card_from_group_sell", "u=admin&id=6&number=42", "6").await
        }));
    }
    let mut sales = 0;
    for task in tasks {
        let reply = task.await.unwrap();
        if reply.body.contains("<error>") {
            reply.assert_page_error("Card is already sold");
        } else {
            sales += 1;
        }
    }
    assert_eq!(sales, 1);
    server.assert_rows("select count(*) from payments", &["1"]).await;
}
