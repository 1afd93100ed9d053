//! Random sequences of sales, top-ups, moves, voids, reissues and blocks keep the rules of the ledger, one change after
//! the other and at the same time.

use std::fmt::Write;

use fastrand::Rng;
use mortise::back_office::BackOfficeError;
use mortise::back_office::reissue::Reissue;
use mortise::back_office::void::{Refund, Void, VoidOutcome};
use mortise::back_office::withhold::block_card;
use mortise::store::change_log::Author;
use sqlx::PgPool;

use crate::harness::{Server, hash, ledger, server, server_with_settings};

const CARDS: i64 = 40;
/// Card ids of the test, from this one on.
const FIRST_ID: i64 = 1001;

/// Cards of two groups with taxes, and the currencies USD and EUR; the first ones are sold.
async fn insert_cards(server: &Server) {
    server
        .execute(&format!(
            "insert into conflines (name, value) values ('API_Allow_payments_ower_API', '1');
             insert into cards (id, cardgroup_id, number, pin, balance, callerid)
             select {FIRST_ID} + i, 6 + i % 2, (case when i % 2 = 0 then 2000000000 else 200000 end + i)::text, (2000 + i)::text,
                 round(10 / 3.0 + i, 15), case when i < 12 then (900 + i)::text end
             from generate_series(0, {CARDS} - 1) i"
        ))
        .await;
}

fn author() -> Author {
    Author::Command { operator: "ann".to_owned() }
}

/// Runs a change of the back office in its own transaction. `None`: it was refused.
async fn void(pool: &PgPool, card_id: i64, used: bool, refund: Option<Refund>) -> Option<VoidOutcome> {
    let mut transaction = pool.begin().await.unwrap();
    let void = Void { card_id, reason: "test", used, refund };
    match void.run(&mut transaction, &author()).await {
        Ok(outcome) => {
            transaction.commit().await.unwrap();
            Some(outcome)
        }
        Err(BackOfficeError::Refused(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Returns the id of the new card. `None`: it was refused.
async fn reissue(pool: &PgPool, card_id: i64) -> Option<i64> {
    let mut transaction = pool.begin().await.unwrap();
    match (Reissue { card_id, reason: "test", to: None }).run(&mut transaction, &author()).await {
        Ok(new) => {
            transaction.commit().await.unwrap();
            Some(new.id)
        }
        Err(BackOfficeError::Refused(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Makes a random change; returns it in words, for the message of a failure.
async fn random_change(server: &Server, rng: &mut Rng) -> String {
    let card_id = rng.i64(FIRST_ID..FIRST_ID + CARDS);
    let i = card_id - FIRST_ID;
    let amount = format!("{}.{}", rng.u32(0..20), rng.u32(1..1000));
    let by_cli = async |form: String, hashed: String| {
        server.post_signed("card_by_cli_update", &format!("u=admin&{form}"), &hashed).await;
        form
    };
    let callerid = 900 + rng.i64(0..16);
    match rng.u32(0..10) {
        0 => {
            let group = rng.u32(6..8);
            server.post_signed("card_from_group_sell", &format!("u=admin&id={group}"), &group.to_string()).await;
            format!("sell a card of the group {group}")
        }
        1 => {
            let (group, number) = if i % 2 == 0 { (6, 2_000_000_000 + i) } else { (7, 200_000 + i) };
            let form = format!("u=admin&id={group}&number={number}");
            server.post_signed("card_from_group_sell", &form, &group.to_string()).await;
            form
        }
        2 => {
            let number = if i % 2 == 0 { 2_000_000_000 + i } else { 200_000 + i };
            let form = format!("u=admin&number={number}&amount={amount}");
            server.post_signed("card_payment_add", &form, &format!("{number}{amount}")).await;
            form
        }
        3 => by_cli(format!("callerid={callerid}&amount={amount}"), format!("{amount}{callerid}")).await,
        4 => {
            let pin = 2000 + i;
            by_cli(format!("callerid={callerid}&pin={pin}"), format!("{pin}{callerid}")).await
        }
        5 => {
            let form = format!("callerid={callerid}&amount={amount}&cardgroup_id=6");
            by_cli(form, format!("{amount}{callerid}6")).await
        }
        6 | 7 => {
            let refund = match rng.u32(0..4) {
                0 => None,
                1 => Some(Refund::Full),
                2 => Some(Refund::None),
                _ => Some(Refund::Amount(amount.parse().unwrap())),
            };
            let text = format!("void {card_id} with {refund:?}");
            void(&server.pool, card_id, rng.bool(), refund).await;
            text
        }
        8 => {
            reissue(&server.pool, card_id).await;
            format!("reissue {card_id}")
        }
        _ => {
            let mut transaction = server.pool.begin().await.unwrap();
            let block = rng.bool();
            let _ = block_card(&mut transaction, card_id, block, None, &author()).await;
            transaction.commit().await.unwrap();
            format!("block {card_id}: {block}")
        }
    }
}

/// Returns the violated rules.
async fn find_violations(server: &Server, unpaid_balances: &str) -> Vec<String> {
    let mut violations = Vec::new();
    let stock = ("cards and card_stock differ", "select * from card_stock_differences");
    for (rule, query) in ledger::VIOLATION_QUERIES.into_iter().chain([stock]) {
        violations.extend(server.rows(query).await.into_iter().map(|row| format!("{rule}: {row}")));
    }
    let balances = server.rows(ledger::UNPAID_BALANCES_QUERY).await.concat();
    if balances != unpaid_balances {
        violations.push(format!("the sum of the balances: {balances}, not {unpaid_balances}"));
    }
    violations
}

#[tokio::test]
async fn random_sequences_keep_the_rules() {
    for seed in 0..6 {
        let server = server().await;
        insert_cards(&server).await;
        let unpaid_balances = server.rows(ledger::UNPAID_BALANCES_QUERY).await.concat();
        let mut rng = Rng::with_seed(seed);
        let mut log = String::new();
        for _ in 0..25 {
            for _ in 0..6 {
                let change = random_change(&server, &mut rng).await;
                writeln!(log, "{change}").unwrap();
            }
            let violations = find_violations(&server, &unpaid_balances).await;
            assert!(violations.is_empty(), "seed {seed}: {violations:#?}\nafter\n{log}");
        }
        let kinds = server.rows("select distinct kind from payments order by 1").await;
        assert!(kinds.len() >= 4, "the sequence of the seed {seed} has too few kinds of payments: {kinds:?}");
    }
}

/// The same changes at the same time, from several clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_changes_keep_the_rules() {
    let server = server_with_settings(&[("database_connections", "8")]).await;
    insert_cards(&server).await;
    let unpaid_balances = server.rows(ledger::UNPAID_BALANCES_QUERY).await.concat();
    let clients = (0..6).map(|seed| {
        let server = server.clone();
        tokio::spawn(async move {
            let mut rng = Rng::with_seed(seed);
            for _ in 0..40 {
                random_change(&server, &mut rng).await;
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    assert_eq!(find_violations(&server, &unpaid_balances).await, Vec::<String>::new());
}

async fn sold_server() -> Server {
    let server = server_with_settings(&[("database_connections", "8")]).await;
    insert_cards(&server).await;
    for i in [0, 2, 4, 6] {
        let form = format!("u=admin&id=6&number={}", 2_000_000_000_u64 + i);
        let sold = server.post_signed("card_from_group_sell", &form, "6").await;
        assert_eq!(sold.element_texts("number").len(), 1, "{}", sold.body);
    }
    server
}

/// Of two voids one wins. The other one reports the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_voids_wins() {
    let server = sold_server().await;
    let unpaid_balances = server.rows(ledger::UNPAID_BALANCES_QUERY).await.concat();
    let voids = (0..6).map(|_| {
        let pool = server.pool.clone();
        tokio::spawn(async move { void(&pool, FIRST_ID, false, None).await })
    });
    let mut won = 0;
    for outcome in voids.collect::<Vec<_>>() {
        won += usize::from(matches!(outcome.await.unwrap(), Some(VoidOutcome::Voided { .. })));
    }
    assert_eq!(won, 1);
    server.assert_rows("select count(*) from payments where kind = 'refund'", &["1"]).await;
    server.assert_rows("select count(*) from change_log", &["1"]).await;
    assert_eq!(find_violations(&server, &unpaid_balances).await, Vec::<String>::new());
}

/// A top-up that has locked the card comes first: the void finds a used card. One that comes later finds no card.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn void_and_top_up_come_one_after_the_other() {
    let server = sold_server().await;
    let unpaid_balances = server.rows(ledger::UNPAID_BALANCES_QUERY).await.concat();
    let top_up = async |server: &Server| {
        let form = format!("u=admin&number=2000000000&amount=5&hash={}", hash("20000000005", "secret"));
        server.post("card_payment_add", &form).await
    };
    // The void waits for the top-up's lock.
    let mut lock = server.pool.begin().await.unwrap();
    sqlx::query("select from cards where id = $1 for no key update").bind(FIRST_ID).execute(&mut *lock).await.unwrap();
    let waiting = tokio::spawn({
        let pool = server.pool.clone();
        async move { void(&pool, FIRST_ID, false, None).await }
    });
    server.wait_for_lock_waiter().await;
    sqlx::raw_sql(
        "insert into payments (kind, card, user_id, amount, balance_change) values ('top_up', 1, 1001, 0, 0)",
    )
    .execute(&mut *lock)
    .await
    .unwrap();
    lock.commit().await.unwrap();
    assert!(waiting.await.unwrap().is_none(), "the card was voided although it was topped up meanwhile");
    // The top-up waits for the void's lock.
    let mut transaction = server.pool.begin().await.unwrap();
    let forced = Void { card_id: FIRST_ID, reason: "test", used: true, refund: Some(Refund::Full) };
    forced.run(&mut transaction, &author()).await.unwrap();
    let waiting = tokio::spawn({
        let server = server.clone();
        async move { top_up(&server).await }
    });
    server.wait_for_lock_waiter().await;
    transaction.commit().await.unwrap();
    waiting.await.unwrap().assert_page_error("Calling Card was not found");
    assert_eq!(find_violations(&server, &unpaid_balances).await, Vec::<String>::new());
}

/// A top-up over a caller id that moves to another card finds the new card. It creates no third one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_up_over_a_caller_id_waits_for_a_reissue() {
    let server = sold_server().await;
    let mut transaction = server.pool.begin().await.unwrap();
    let reissue = Reissue { card_id: FIRST_ID, reason: "test", to: None };
    let new = reissue.run(&mut transaction, &author()).await.unwrap();
    let waiting = tokio::spawn({
        let server = server.clone();
        async move {
            server
                .post_signed("card_by_cli_update", "u=admin&callerid=900&cardgroup_id=6&amount=11.9", "11.99006")
                .await
        }
    });
    server.wait_for_lock_waiter().await;
    transaction.commit().await.unwrap();
    let reply = waiting.await.unwrap();
    assert_eq!(reply.element_texts("id"), [new.id.to_string()], "{}", reply.body);
    server.assert_rows("select count(*) from cards where callerid = '900'", &["1"]).await;
}

/// Reissues beside sales of the same stock: each card is sold or issued once, and a retry gets the same new card.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reissues_and_sales_take_different_cards() {
    let server = sold_server().await;
    let unpaid_balances = server.rows(ledger::UNPAID_BALANCES_QUERY).await.concat();
    let sales = (0..8).map(|_| {
        let server = server.clone();
        tokio::spawn(async move {
            server.post_signed("card_from_group_sell", "u=admin&id=6", "6").await;
        })
    });
    let sales: Vec<_> = sales.collect();
    let reissues = [0, 0, 2, 2, 4, 6].map(|i| {
        let pool = server.pool.clone();
        tokio::spawn(async move { reissue(&pool, FIRST_ID + i).await })
    });
    let mut new_cards = Vec::new();
    for reissue in reissues {
        new_cards.push(reissue.await.unwrap().unwrap());
    }
    for sale in sales {
        sale.await.unwrap();
    }
    assert_eq!((new_cards[0], new_cards[2]), (new_cards[1], new_cards[3]));
    server
        .assert_rows("select kind, count(*) from payments group by kind order by kind", &["reissue|4", "sale|12"])
        .await;
    assert_eq!(find_violations(&server, &unpaid_balances).await, Vec::<String>::new());
}

/// A sale of the named card wins against a reissue to it, and the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_card_is_sold_or_issued() {
    let server = sold_server().await;
    let to = Reissue { card_id: FIRST_ID, reason: "test", to: Some("2000000008") };
    let mut sale = server.pool.begin().await.unwrap();
    sqlx::raw_sql(
        "update cards set sold = 1 where id = 1009; insert into payments (kind, user_id) values ('sale', 1009)",
    )
    .execute(&mut *sale)
    .await
    .unwrap();
    let waiting = tokio::spawn({
        let pool = server.pool.clone();
        async move {
            let to = Reissue { card_id: FIRST_ID, reason: "test", to: Some("2000000008") };
            let mut transaction = pool.begin().await.unwrap();
            to.run(&mut transaction, &author()).await.unwrap_err().to_string()
        }
    });
    server.wait_for_lock_waiter().await;
    sale.commit().await.unwrap();
    assert_eq!(waiting.await.unwrap(), "the card 2000000008 is sold");
    // The sale waits, then finds that the card is sold.
    let to = Reissue { to: Some("2000000010"), ..to };
    let mut transaction = server.pool.begin().await.unwrap();
    to.run(&mut transaction, &author()).await.unwrap();
    let waiting = tokio::spawn({
        let server = server.clone();
        async move { server.post_signed("card_from_group_sell", "u=admin&id=6&number=2000000010", "6").await }
    });
    server.wait_for_lock_waiter().await;
    transaction.commit().await.unwrap();
    waiting.await.unwrap().assert_page_error("Card is already sold");
}
