//! The rules of the ledger that hold after any requests (`ledger.md`), checked in SQL without code of the program.

use crate::harness::Server;

/// Violations with the queries that find them. The rule about the sum of all balances needs [`UNPAID_BALANCES_QUERY`].
pub const VIOLATION_QUERIES: [(&str, &str); 4] = [
    (
        "a card has two payments of the kinds sale and reissue",
        "select user_id from payments where kind in ('sale', 'reissue') group by user_id having count(*) > 1",
    ),
    (
        "the refunds of a payment do not sum to between 0 and minus its amount and tax",
        "select p.id from payments p join payments r on r.reverses = p.id group by p.id
         having coalesce(sum(r.amount), 0) not between least(-coalesce(p.amount, 0), 0) and greatest(-coalesce(p.amount, 0), 0)
             or coalesce(sum(r.tax), 0) not between least(-coalesce(p.tax, 0), 0) and greatest(-coalesce(p.tax, 0), 0)",
    ),
    (
        "a refund without its payment, or another payment that reverses one",
        "select r.id from payments r left join payments p on p.id = r.reverses
         where (r.kind = 'refund' or r.reverses is not null) and (r.kind is distinct from 'refund' or p.id is null)",
    ),
    ("a retired card has a balance", "select id from cards where retired_at is not null and coalesce(balance, 0) <> 0"),
];

/// The sum of all balances of cards and users less the sum of `balance_change`. It changes by the face values of new
/// cards, and by nothing else.
pub const UNPAID_BALANCES_QUERY: &str = "
    select ((select coalesce(sum(balance), 0) from cards) + (select coalesce(sum(balance), 0) from users)
        - (select coalesce(sum(balance_change), 0) from payments))::numeric(40, 15)::text as balances";

/// Asserts the rules. `unpaid_balances`: the result of [`UNPAID_BALANCES_QUERY`] at the start, plus the face values of
/// the cards that were created since.
pub async fn assert_holds(server: &Server, unpaid_balances: &str) {
    for (violation, query) in VIOLATION_QUERIES {
        let rows = server.rows(query).await;
        assert!(rows.is_empty(), "{violation}: {rows:?}");
    }
    server.assert_rows(UNPAID_BALANCES_QUERY, &[unpaid_balances]).await;
}
