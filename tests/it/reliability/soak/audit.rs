//! What must be true in the database after any requests: an auditor that knows nothing of the operations.

use crate::harness::Server;

/// Each with what it finds.
const VIOLATION_QUERIES: [(&str, &str); 6] = [
    ("the stock isn't what the cards say", "select * from card_stock_differences"),
    (
        "a card is sold without exactly one sale",
        "select id from cards where (sold = 1 or retired_at is null and id in (select user_id from payments where kind = 'sale')) and id <> 4
         and sold <> (select count(*) from payments where kind = 'sale' and user_id = cards.id)",
    ),
    (
        "a sale isn't written down once for its card",
        "select target_id from actions where action = 'card_sell_over_api' group by target_id having count(*) > 1",
    ),
    ("a retired card isn't empty", "select id from cards where retired_at is not null and (balance <> 0 or sold = 1 or callerid is not null)"),
    ("a caller id has two cards", "select callerid from cards where callerid <> '' group by callerid having count(*) > 1"),
    (
        "a card in stock is sold, hidden or retired",
        "select card_id from card_stock join cards on id = card_id where sold = 1 or hidden = 1 or retired_at is not null",
    ),
];

/// In each transaction balances grow by what it says was paid, and by nothing else; new stock apart. (A payment that came by
/// number says what was sent, taxes included. Amounts are rounded once to 15 decimals.)
const MONEY_VIOLATIONS_QUERY: &str = "
    select transaction, moved, net, gross
    from (select transaction, sum(amount) filter (where not stock) as moved from soak_moves group by transaction) moves
    full join (
        select xmin::text::bigint as transaction, sum(amount / exchange_rate_to(currency)) as net,
            sum(amount * amount / nullif(amount + tax, 0) / exchange_rate_to(currency)) as gross
        from payments where kind in ('top_up', 'refill') group by xmin
    ) paid using (transaction)
    where abs(coalesce(moved, 0) - coalesce(net, 0)) > 1e-13 and abs(coalesce(moved, 0) - coalesce(gross, 0)) > 1e-13";

/// An X7 server adds some amounts by other rules, and writes them down as it always did (`x7.md`, \"Payments\"): what must hold is
/// that nothing moves in the other transactions, new cards apart.
const X7_MONEY_VIOLATIONS_QUERY: &str = "
    select transaction, sum(amount) from soak_moves
    where transaction not in (select xmin::text::bigint from payments where kind in ('sale', 'top_up', 'refill'))
    group by transaction having sum(amount) filter (where not stock) <> 0";

/// What is wrong.
pub async fn find_violations(server: &Server, dialect: &str) -> Vec<String> {
    let money = if dialect == "x7" { X7_MONEY_VIOLATIONS_QUERY } else { MONEY_VIOLATIONS_QUERY };
    let mut wrong = Vec::new();
    for (what, query) in VIOLATION_QUERIES.into_iter().chain([("money was made or lost", money)]) {
        let rows = server.rows(query).await;
        if !rows.is_empty() {
            wrong.push(format!("{what}: {} rows, {:?}", rows.len(), rows.iter().take(3).collect::<Vec<_>>()));
        }
    }
    wrong
}
