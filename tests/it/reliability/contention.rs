//! Many buyers at once, through a real server on a real socket, and then an independent audit in SQL.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::harness::{Reply, hash, server_with_settings};

const CARDS: usize = 1000;

/// Buys, with ever another quantity, until there is nothing left; the cards that this buyer was given.
async fn buy_until_empty(address: SocketAddr, quantities: &'static [usize], buyer: usize) -> Vec<(String, String)> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<axum::body::Bytes>>();
    let mut cards = Vec::new();
    for turn in buyer.. {
        let quantity = quantities[turn % quantities.len()];
        let form = format!("u=admin&id=11&quantity={quantity}&hash={}", hash(&format!("11{quantity}"), "secret"));
        let request = axum::http::Request::post(format!("http://{address}/billing/api/card_from_group_sell"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::from(form))
            .unwrap();
        let (parts, body) = client.request(request).await.unwrap().into_parts();
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
        let reply = Reply { status: parts.status, headers: parts.headers, body };
        if reply.body.contains("<error>") {
            reply.assert_page_error("Free cards was not found");
            return cards;
        }
        let (numbers, pins) = (reply.element_texts("number"), reply.element_texts("pin"));
        assert!((1..=quantity).contains(&numbers.len()), "{quantity} wanted: {}", reply.body);
        cards.extend(numbers.into_iter().zip(pins).map(|(number, pin)| (number.to_owned(), pin.to_owned())));
    }
    unreachable!()
}

async fn sell_out(buyers: usize, quantities: &'static [usize]) {
    let server = server_with_settings(&[("database_connections", "16"), ("cache", "on")]).await;
    server
        .execute(&format!(
            "insert into cards (cardgroup_id, number, pin, balance)
             select 11, (1000000 + i)::text, (2000000 + i)::text, 7 from generate_series(1, {CARDS}) i"
        ))
        .await;
    let address = server.listen().await;
    let tasks: Vec<_> = (0..buyers).map(|buyer| tokio::spawn(buy_until_empty(address, quantities, buyer))).collect();
    let mut bought = Vec::new();
    for task in tasks {
        bought.extend(task.await.unwrap());
    }

    // Each buyer's cards are his own, and together they are the stock.
    let numbers: HashSet<&String> = bought.iter().map(|(number, _)| number).collect();
    assert_eq!((bought.len(), numbers.len()), (CARDS, CARDS));
    // What they were told is what the database says.
    let rows = server.rows("select number, pin from cards where cardgroup_id = 11 and sold = 1").await;
    let sold: HashMap<&str, &str> = rows.iter().map(|row| row.split_once('|').unwrap()).collect();
    assert!(bought.iter().all(|(number, pin)| sold.get(number.as_str()) == Some(&pin.as_str())));
    // Each card has one payment of its balance, and its two audit rows.
    server
        .assert_rows(
            "select count(*) as payments, count(distinct user_id) as cards, sum(amount) as amount from payments where kind = 'sale'",
            &[&format!("{CARDS}|{CARDS}|{}.000000000000000", CARDS * 7)],
        )
        .await;
    server
        .assert_rows(
            "select action, count(*), count(distinct target_id) as targets from actions group by action order by action",
            &[&format!("card_payment_created|{CARDS}|{CARDS}"), &format!("card_sell_over_api|{CARDS}|{CARDS}")],
        )
        .await;
    server.assert_rows("select count(*) from card_stock where cardgroup_id = 11", &["0"]).await;
    server.assert_rows("select * from card_stock_differences", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_buyers_empty_a_group_card_by_card() {
    sell_out(32, &[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_buyers_empty_a_group_in_handfuls() {
    sell_out(40, &[1, 2, 3, 4, 5, 6, 7]).await;
}

/// Buyers who name their card: one gets it, the others hear that it is sold.
#[tokio::test(flavor = "multi_thread")]
async fn one_card_is_sold_to_one_of_many() {
    let server = server_with_settings(&[("database_connections", "16")]).await;
    let mut tasks = Vec::new();
    for _ in 0..32 {
        let server = server.clone();
        tasks.push(tokio::spawn(async move {
            server.post_signed("card_from_group_sell", "u=admin&id=6&number=42", "6").await
        }));
    }
    let mut won = 0;
    for task in tasks {
        let reply = task.await.unwrap();
        if reply.body.contains("<error>") {
            reply.assert_page_error("Card is already sold");
        } else {
            won += 1;
        }
    }
    assert_eq!(won, 1);
    server.assert_rows("select count(*) from payments", &["1"]).await;
}
