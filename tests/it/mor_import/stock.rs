//! A card that was ever paid for, used or emptied is never in stock after an import, whatever the operator decides.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::{BASICS, Import, X7_SCHEMA};

const SEEDS: u64 = 3;
const CARDS: u64 = 400;
/// The decisions that the operator may take about a finding of a rule.
const DECISIONS: [(&str, &[&str]); 10] = [
    ("used_unsold", &["default", "quarantine", "leave-out"]),
    ("emptied", &["default", "quarantine", "leave-out"]),
    ("unsellable", &["default", "quarantine", "reserve", "stock", "keep", "leave-out"]),
    ("distributor", &["undecided", "default", "quarantine", "reserve", "stock", "leave-out"]),
    ("duplicate_number", &["quarantine", "leave-out"]),
    ("duplicate_pin", &["quarantine", "leave-out"]),
    ("number_other_owner", &["default", "keep", "quarantine"]),
    ("orphan_card", &["default", "quarantine", "leave-out"]),
    ("duplicate_callerid", &["default", "quarantine"]),
    ("sold_above_1", &["default", "quarantine"]),
];

/// The cards of a random MOR, and the ids of those that were used.
struct Cards {
    sql: String,
    used: BTreeSet<i64>,
}

impl Cards {
    /// Each card has each property with a low probability. What counts as used is computed here, without the rules.
    fn new(random: &mut fastrand::Rng) -> Self {
        let (mut sql, mut used) = (String::new(), BTreeSet::new());
        for index in 0..CARDS {
            let id = 1000 + index;
            let mut rarely = |chance: u64| random.u64(0..chance) == 0;
            // Some cards share a number or a PIN.
            let number = if rarely(12) { 1_000_001_000 + index % 7 } else { 1_000_002_000 + index };
            let pin = if rarely(12) { 1000 + index % 7 } else { 5000 + index };
            let sold = u8::from(rarely(4)) * if rarely(9) { 3 } else { 1 };
            let first_use = ["null", "'0000-00-00 00:00:00'", "'2014-00-00 00:00:00'", "'2014-05-01 10:00:00'"]
                [if rarely(8) {
                    3
                } else if rarely(8) {
                    2
                } else {
                    usize::from(rarely(2))
                }];
            let call_count = u8::from(rarely(15));
            let frozen = if rarely(15) { "-0.000000000000001" } else { "0" };
            let balance = ["10", "0", "null", "9.999999999999999"][if rarely(6) { index as usize % 4 } else { 0 }];
            let group = if rarely(15) { 99 } else { 7 };
            let user = if rarely(10) { 3 } else { -1 };
            let owner = u8::from(rarely(6)) * 3;
            let (hidden, callerid) = (u8::from(rarely(15)), if rarely(10) { "'3706000'" } else { "null" });
            let _ = writeln!(
                sql,
                "insert into cards (id, number, pin, balance, cardgroup_id, sold, first_use, call_count, frozen_balance,
                     user_id, owner_id, hidden, callerid)
                 values ({id}, '{number}', '{pin}', {balance}, {group}, {sold}, {first_use}, {call_count}, {frozen}, {user},
                     {owner}, {hidden}, {callerid});"
            );
            let mut is_used = sold > 0
                || call_count > 0
                || frozen != "0"
                || first_use.contains("2014")
                || (balance != "10" && group == 7);
            for (chance, statement) in [
                (12, "insert into payments (user_id, card, amount, currency) values ({id}, 1, 10, 'USD');"),
                (12, "insert into cclineitems (card_id, price) values ({id}, 10);"),
                (
                    12,
                    "insert into actions (date, action, target_type, target_id)
                      values ('2014-05-01 10:00:00', 'Added to cards balance', 'card', {id});",
                ),
                (
                    12,
                    "insert into actions (date, action, data, data2, target_type, target_id)
                      values ('2014-05-01 10:00:00', 'Disable_Voucher_when_Card_is_used', 'x', '{id}', 'Voucher', 1);",
                ),
                (12, "insert into calls (card_id) values ({id});"),
                (
                    20,
                    "insert into vouchers (number, tag, currency, active_till, use_date)
                      values ('{number}', '', 'USD', '2030-01-01 00:00:00', '2014-05-05 00:00:00');",
                ),
            ] {
                if rarely(chance) {
                    sql += &statement.replace("{id}", &id.to_string()).replace("{number}", &number.to_string());
                    is_used = true;
                }
            }
            if is_used {
                used.insert(i64::try_from(id).unwrap());
            }
        }
        Self { sql, used }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn used_cards_are_never_in_stock() {
    for seed in 0..SEEDS {
        let mut random = fastrand::Rng::with_seed(seed);
        let cards = Cards::new(&mut random);
        assert!(cards.used.len() > 150 && cards.used.len() < 350, "{}", cards.used.len());
        let import = Import::with(&[X7_SCHEMA, BASICS, &cards.sql].concat()).await;
        let decided: Vec<String> = import
            .findings()
            .iter()
            .map(|line| {
                let (rest, decision) = line.rsplit_once('\t').unwrap();
                let rule = rest.split('\t').next().unwrap();
                let decided = match DECISIONS.iter().find(|(name, _)| *name == rule) {
                    Some((_, accepted)) => accepted[random.usize(0..accepted.len())],
                    None => decision,
                };
                format!("{rest}\t{decided}")
            })
            .collect();
        assert!(decided.len() > 100, "{decided:?}");
        let decisions = import.file("decisions.tsv");
        std::fs::write(&decisions, decided.join("\n")).unwrap();
        import.import_ok(&["--decisions", decisions.to_str().unwrap()]);
        let server = import.server().await;
        let stock = server.rows("select card_id from card_stock").await;
        let used: Vec<i64> = stock.iter().map(|id| id.parse().unwrap()).filter(|id| cards.used.contains(id)).collect();
        assert!(used.is_empty(), "seed {seed}: used cards in stock: {used:?}");
        assert!(stock.len() > 20, "seed {seed}: {stock:?}");
        // None of them is one that a later command could put into stock either.
        let free = "select id from cards where sold = 0 and retired_at is null and quarantined_at is null";
        let used: Vec<i64> =
            server.rows(free).await.iter().map(|id| id.parse().unwrap()).filter(|id| cards.used.contains(id)).collect();
        assert!(used.is_empty(), "seed {seed}: used cards that count as free: {used:?}");
        server.assert_rows("select count(*) from card_stock_differences", &["0"]).await;
        server.close().await;
    }
}
