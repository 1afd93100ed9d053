//! The audit: rules that hold in the database after any requests, checked in SQL without code of the operations.

use crate::harness::{Server, ledger};

/// Violations with the queries that find them.
const VIOLATION_QUERIES: [(&str, &str); 6] = [
    ("cards and card_stock differ", "select * from card_stock_differences"),
    (
        "a card is sold without exactly one sale",
        "select id from cards
         where (sold = 1 or retired_at is null and id in (select user_id from payments where kind in ('sale', 'reissue')))
         and id <> 4 and sold <> (select count(*) from payments where kind in ('sale', 'reissue') and user_id = cards.id)",
    ),
    (
        "a card has several audit rows of a sale",
        "select target_id from actions where action = 'card_sell_over_api' group by target_id having count(*) > 1",
    ),
    (
        "a retired card has a balance or a caller id, or is sold",
        "select id from cards where retired_at is not null and (balance <> 0 or sold = 1 or callerid is not null)",
    ),
    (
        "a caller id has two cards",
        "select callerid from cards where callerid <> '' group by callerid having count(*) > 1",
    ),
    (
        "a card in stock is not free",
        "select card_id from card_stock join cards on id = card_id
         where sold = 1 or hidden = 1 or retired_at is not null or withheld is not null or quarantined_at is not null",
    ),
];

/// In each transaction the balances change, apart from new stock, by the sum of `balance_change`, to the last digit. In
/// the dialect `x7`, a card that is made for a caller id can have the paid amount as its face value.
const LEDGER_VIOLATIONS_QUERY: &str = "
    select transaction, change, paid
    from (
        select transaction, sum(amount) filter (where not stock) as change, bool_or(for_callerid) as for_callerid
        from soak_balance_changes group by transaction
    ) changes
    full join (
        select xmin::text::bigint as transaction, sum(balance_change) as paid from payments group by xmin
    ) transaction_payments using (transaction)
    where coalesce(change, 0) <> coalesce(paid, 0) and not ($x7 and coalesce(for_callerid, false))";

/// The balances also change by the amounts of the payments, apart from new stock. `card_payment_add` records the amount
/// as sent, with taxes: there the balance changes by the amount without taxes. The tolerance is for the rounding of
/// amounts to 15 decimals.
const MONEY_VIOLATIONS_QUERY: &str = "
    select transaction, change, paid, paid_without_tax
    from (
        select transaction, sum(amount) filter (where not stock) as change
        from soak_balance_changes group by transaction
    ) changes
    full join (
        select xmin::text::bigint as transaction, sum(amount / exchange_rate_to(currency)) as paid,
            sum(amount * amount / nullif(amount + tax, 0) / exchange_rate_to(currency)) as paid_without_tax
        from payments where kind in ('top_up', 'refill') group by xmin
    ) transaction_payments using (transaction)
    where abs(coalesce(change, 0) - coalesce(paid, 0)) > 1e-13
        and abs(coalesce(change, 0) - coalesce(paid_without_tax, 0)) > 1e-13";

/// In the dialect `x7` the recorded amount of some payments differs from the balance change (`x7.md`, "Payments").
/// There the rule is: transactions without a payment change no balances, apart from new stock.
const X7_MONEY_VIOLATIONS_QUERY: &str = "
    select transaction, sum(amount) from soak_balance_changes
    where transaction not in (select xmin::text::bigint from payments where kind in ('sale', 'top_up', 'refill'))
    group by transaction having sum(amount) filter (where not stock) <> 0";

/// Returns a message for each violated rule.
pub async fn find_violations(server: &Server, dialect: &str) -> Vec<String> {
    let money_query = if dialect == "x7" { X7_MONEY_VIOLATIONS_QUERY } else { MONEY_VIOLATIONS_QUERY };
    let money_rule = ("balances changed by other amounts than the payments", money_query);
    let ledger_query = LEDGER_VIOLATIONS_QUERY.replace("$x7", if dialect == "x7" { "true" } else { "false" });
    let ledger_rule = ("balances changed by other amounts than the ledger says", ledger_query.as_str());
    let mut violations = Vec::new();
    let rules = VIOLATION_QUERIES.into_iter().chain(ledger::VIOLATION_QUERIES).chain([money_rule, ledger_rule]);
    for (rule, query) in rules {
        let rows = server.rows(query).await;
        if !rows.is_empty() {
            violations.push(format!("{rule}: {} rows, {:?}", rows.len(), rows.iter().take(3).collect::<Vec<_>>()));
        }
    }
    violations
}
