//! Money is conserved by any sequence of operations and by operations that run at the same time.

use std::str::FromStr;

use bigdecimal::{BigDecimal, RoundingMode};
use proptest::prelude::*;

use crate::harness::{Server, hash, ledger, server_with_settings};

/// Groups of the fixtures, each with the divisor that turns an amount into a balance: its tax factor times its currency
/// rate.
const GROUPS: [(i32, &str); 4] = [(6, "1.19"), (7, "0.85943550"), (9, "1.26"), (11, "1.0")];
const CALLERIDS: [&str; 6] = ["700", "701", "702", "703", "555", "556"];
const PINS: [&str; 8] = ["", "", "1001", "1002", "1003", "0042", "7001", "9001"];
/// Card numbers, each with the tax factor of its group.
const NUMBERS: [(&str, &str); 4] =
    [("1111111000", "1.19"), ("1111111001", "1.19"), ("700001", "1.155"), ("900001", "1.26")];
const AMOUNTS: [&str; 7] = ["0", "1", "0.01", "19.99", "0.000000000000007", "33.333333333333333", "123456.789"];
const TOTAL_BALANCE: &str =
    "select ((select sum(balance) from cards) + (select sum(balance) from users))::text as money";

#[derive(Debug, Clone)]
enum Request {
    ByCallerId { callerid: usize, pin: usize, group: Option<usize>, amount: usize },
    Sell { group: usize, quantity: u8 },
    Pay { number: usize, amount: usize, euros: bool },
    Rename { card: i64, number: u8 },
    MakeGroup,
    MakeTariff,
}

fn request() -> impl Strategy<Value = Request> {
    let group = proptest::option::of(0..GROUPS.len());
    let by_callerid = (0..CALLERIDS.len(), 0..PINS.len(), group, 0..AMOUNTS.len());
    prop_oneof![
        12 => by_callerid.prop_map(|(callerid, pin, group, amount)| Request::ByCallerId { callerid, pin, group, amount }),
        2 => (0..GROUPS.len(), 1..4u8).prop_map(|(group, quantity)| Request::Sell { group, quantity }),
        3 => (0..NUMBERS.len(), 0..AMOUNTS.len(), any::<bool>()).prop_map(|(number, amount, euros)| Request::Pay { number, amount, euros }),
        2 => (1..14i64, any::<u8>()).prop_map(|(card, number)| Request::Rename { card, number }),
        1 => Just(Request::MakeGroup),
        1 => Just(Request::MakeTariff),
    ]
}

async fn server_with_fixtures(connections: &str) -> Server {
    let server = server_with_settings(&[("database_connections", connections)]).await;
    server
        .execute(
            "insert into devices (id, name, user_id) values (1, '101', 2);
             insert into callerids (cli, device_id) values ('555', 1), ('556', 1);
             insert into conflines (name, value) values ('API_Allow_payments_ower_API', '1');
             insert into tariffs (name) values ('one'); insert into lcrs (name) values ('one');
             update users set tax_id = 3, currency_id = 4 where id = 2;
             update users set currency_id = 2 where id = 0;
             update cards set balance = coalesce(balance, 0)",
        )
        .await;
    server
}

/// Sends a request. Returns what it adds to the sum of all balances, computed independently of the server.
async fn send(server: &Server, request: &Request, number: usize) -> BigDecimal {
    let zero = BigDecimal::from(0);
    match request {
        Request::ByCallerId { callerid, pin, group, amount } => {
            let (callerid, pin, amount) = (CALLERIDS[*callerid], PINS[*pin], AMOUNTS[*amount]);
            let group = group.map(|group| GROUPS[group].0.to_string()).unwrap_or_default();
            let form = format!("u=admin&callerid={callerid}&amount={amount}&pin={pin}&cardgroup_id={group}");
            let hashed = format!("{pin}{amount}{callerid}{group}");
            let reply = server.post("card_by_cli_update", &format!("{form}&hash={}", hash(&hashed, "secret"))).await;
            assert_eq!(reply.status, 200, "{}", reply.body);
            if reply.body.contains("<error>") || !pin.is_empty() {
                return zero;
            }
            let divisor = match reply.element_texts("cardgroup_id")[..] {
                [group] => GROUPS.iter().find(|(id, _)| id.to_string() == group).unwrap().1,
                _ => "1.155",
            };
            let added = BigDecimal::from_str(amount).unwrap().with_scale(60) / BigDecimal::from_str(divisor).unwrap();
            added.with_scale_round(15, RoundingMode::HalfUp)
        }
        Request::Sell { group, quantity } => {
            let group = GROUPS[*group].0;
            server
                .post_signed(
                    "card_from_group_sell",
                    &format!("u=admin&id={group}&quantity={quantity}"),
                    &format!("{group}{quantity}"),
                )
                .await;
            zero
        }
        Request::Pay { number, amount, euros } => {
            let ((card, tax_factor), amount) = (NUMBERS[*number], AMOUNTS[*amount]);
            let currency = if *euros { "EUR" } else { "USD" };
            let form = format!("u=admin&description=paid&number={card}&amount={amount}&currency={currency}");
            let reply = server.post_signed("card_payment_add", &form, &format!("paid{card}{amount}{currency}")).await;
            assert_eq!(reply.status, 200, "{}", reply.body);
            if reply.body.contains("<error>") {
                return zero;
            }
            let decimal = |text| BigDecimal::from_str(text).unwrap().with_scale(60);
            let divisor = decimal(tax_factor) * decimal(if *euros { "0.7441" } else { "1" });
            (decimal(amount) / divisor).with_scale_round(15, RoundingMode::HalfUp)
        }
        Request::Rename { card, number } => {
            let form = format!("u=admin&card_id={card}&name={number}&callerid=9{number}");
            let reply = server.post_signed("calling_card_update", &form, &card.to_string()).await;
            assert_eq!(reply.status, 200, "{}", reply.body);
            zero
        }
        Request::MakeGroup => {
            let name = format!("group {number}");
            let reply = server
                .post_signed("cc_group_create", &format!("u=admin&name=group+{number}&price_with_vat=10"), &name)
                .await;
            assert!(reply.body.contains("successfully"), "{}", reply.body);
            zero
        }
        Request::MakeTariff => {
            let name = format!("tariff {number}");
            let reply =
                server.post_signed("tariff_wholesale_update", &format!("u=admin&name=tariff+{number}"), &name).await;
            assert_eq!(reply.element_texts("status"), ["ok"]);
            zero
        }
    }
}

async fn total_balance(server: &Server) -> BigDecimal {
    BigDecimal::from_str(&server.rows(TOTAL_BALANCE).await.concat()).unwrap()
}

/// Checks the database after the requests, independently of the operations. `balances_before`: the sum of all balances
/// before the first request.
async fn audit(server: &Server, balances_before: &BigDecimal, added: &BigDecimal) {
    ledger::assert_holds(server, &balances_before.with_scale(15).to_string()).await;
    server.assert_rows("select * from card_stock_differences", &[]).await;
    server
        .assert_rows("select user_id from payments where kind = 'sale' group by user_id having count(*) > 1", &[])
        .await;
    server.assert_rows("select id from cards where sold = 1 and id not in (select user_id from payments where kind = 'sale') and id <> 4", &[]).await;
    server
        .assert_rows(
            "select id from cards where retired_at is not null and (balance <> 0 or sold = 1 or callerid is not null)",
            &[],
        )
        .await;
    // The sum of all payments, converted to the system's currency. Each payment is rounded once. Payments by card
    // number include taxes.
    let paid = server
        .rows(
            "select coalesce(sum(case when description = 'paid' then amount * amount / (amount + tax) else amount end
                 / exchange_rate_to(currency)), 0)::text as paid, count(*) from payments where kind in ('top_up', 'refill')",
        )
        .await
        .concat();
    let (paid, count) = paid.split_once('|').unwrap();
    let difference = (BigDecimal::from_str(paid).unwrap() - added).abs();
    let tolerance = BigDecimal::new((i64::from_str(count).unwrap() + 1).into(), 15) * 2;
    assert!(difference <= tolerance, "payments add up to {paid}, balances grew by {added}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn balances_change_by_exactly_the_paid_amounts(requests in proptest::collection::vec(request(), 1..50)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = server_with_fixtures("2").await;
            let before = total_balance(&server).await;
            let mut expected = before.clone();
            let mut added = BigDecimal::from(0);
            for (number, request) in requests.iter().enumerate() {
                let change = send(&server, request, number).await;
                expected += &change;
                added += &change;
                assert_eq!(total_balance(&server).await, expected.with_scale(15), "after {request:?}, number {number}");
            }
            audit(&server, &before, &added).await;
            server.close().await;
        });
    }
}

/// Runs 300 pairs of concurrent requests for one caller id, or for each other's cards.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_pairs_conserve_money_and_do_not_deadlock() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::default();
    let server = server_with_fixtures("8").await;
    let before = total_balance(&server).await;
    let mut expected = before.clone();
    let mut added = BigDecimal::from(0);
    for number in 0..300 {
        let one = request().new_tree(&mut runner).unwrap().current();
        let other = request().new_tree(&mut runner).unwrap().current();
        let (one, other) = match (one, other) {
            // Three of four pairs use the same caller id. The others are unrelated, or use each other's cards.
            (
                Request::ByCallerId { callerid, pin, group, amount },
                Request::ByCallerId { pin: other_pin, amount: other_amount, .. },
            ) if number % 4 > 0 => (
                Request::ByCallerId { callerid, pin, group, amount },
                Request::ByCallerId { callerid, pin: other_pin, group, amount: other_amount },
            ),
            pair => pair,
        };
        let (first, second) = (server.clone(), server.clone());
        let first = tokio::spawn(async move { send(&first, &one, 2 * number).await });
        let second = tokio::spawn(async move { send(&second, &other, 2 * number + 1).await });
        let change = first.await.unwrap() + second.await.unwrap();
        expected += &change;
        added += &change;
        // New stock and new PINs, so that every kind of request stays possible.
        server
            .execute(
                "update cards set callerid = null where callerid is not null and random() < 0.2;
                 insert into cards (cardgroup_id, number, pin, balance)
                 select g.id, lpad((nextval('tariffs_id_seq') + 2000)::text, g.number_length, '9'), p.pin, 0
                 from cardgroups g, unnest(array['1001', '1002', '1003', '0042', '7001', '9001']) p (pin)
                 where g.id = (select (array[6, 7, 9, 11])[1 + floor(random() * 4)]) and not exists (select from cards where pin = p.pin)",
            )
            .await;
        server.execute("update cards set pin = null where retired_at is not null").await;
    }
    assert_eq!(total_balance(&server).await, expected.with_scale(15));
    audit(&server, &before, &added).await;
    server
        .assert_rows("select callerid from cards where callerid <> '' group by callerid having count(*) > 1", &[])
        .await;
}
