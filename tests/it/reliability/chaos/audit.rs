//! The audit: compares the replies that clients received with the database, in SQL, without code of the program. The
//! rules hold independently of which process is killed, and when.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::clients::{CLIENT_COUNT, FIRST_OWN_GROUP, RequestKind, RequestLog, SentRequest};
use super::environment::TestEnvironment;
use super::operator::OperatorChange;
use crate::harness::ledger;
use crate::harness::smtp::ReceivedMail;

/// Violations with the queries that find them.
const VIOLATION_QUERIES: [(&str, &str); 6] = [
    (
        "a sale without its card, or of a card that is still for sale",
        "select p.id from payments p left join cards c on c.id = p.user_id
         where p.kind in ('sale', 'reissue') and (c.id is null or c.sold = 0 and c.retired_at is null)",
    ),
    (
        "a sold card without its sale",
        "select c.id from cards c where c.cardgroup_id between 70 and 99 and c.sold = 1
             and not exists (select from payments p where p.user_id = c.id and p.kind in ('sale', 'reissue'))",
    ),
    (
        "a card with two audit rows of a sale, or with one but without a sale",
        "select a.target_id from actions a left join payments p on p.user_id = a.target_id and p.kind = 'sale'
         where a.action = 'card_sell_over_api' group by a.target_id having count(*) <> 1 or count(p.id) <> 1",
    ),
    (
        "a payment of a card without exactly one audit row",
        "select p.id from payments p left join actions a on a.action = 'card_payment_created' and a.target_id = p.id
         where p.kind in ('sale', 'top_up', 'refund', 'reissue', 'write_off') group by p.id having count(a.id) <> 1",
    ),
    ("a difference between cards and card_stock", "select * from card_stock_differences"),
    ("an idempotency key without a reply", "select key from idempotency_keys where reply is null"),
];

/// The state of the database before the round.
pub struct AuditBaseline {
    balance_sum: String,
    unpaid_balances: String,
    last_payment_id: i32,
    last_action_id: i32,
    key_count: i64,
}

impl AuditBaseline {
    pub async fn capture(environment: &TestEnvironment) -> Self {
        let mut connection = environment.connect().await;
        Self {
            balance_sum: query_text(&mut connection, BALANCE_SUM_QUERY).await,
            unpaid_balances: query_text(&mut connection, ledger::UNPAID_BALANCES_QUERY).await,
            last_payment_id: query_i64(&mut connection, "select coalesce(max(id), 0)::bigint from payments").await
                as i32,
            last_action_id: query_i64(&mut connection, "select coalesce(max(id), 0)::bigint from actions").await as i32,
            key_count: query_i64(&mut connection, "select count(*) from idempotency_keys").await,
        }
    }

    pub async fn verify(self, environment: &TestEnvironment, request_log: &RequestLog, changes: &[OperatorChange]) {
        let connection = &mut environment.connect().await;
        for (violation, query) in VIOLATION_QUERIES.into_iter().chain(ledger::VIOLATION_QUERIES) {
            let count = query_i64(connection, &format!("select count(*) from ({query}) violations")).await;
            assert_eq!(count, 0, "{violation}");
        }
        self.assert_balances_match_payments(connection, request_log).await;
        self.assert_effects_match_requests(connection, request_log).await;
        self.assert_references_match_requests(connection, request_log).await;
        assert_sold_cards_match_replies(connection, request_log).await;
        for change in changes {
            assert_eq!(query_i64(connection, &change.count_query()).await, 1, "{change:?}");
        }
    }

    /// The payments of each request have its reference, and no other payments have it.
    async fn assert_references_match_requests(&self, connection: &mut PgConnection, request_log: &RequestLog) {
        let query = format!(
            "select reference, count(*) filter (where kind = 'sale'), count(*) filter (where kind in ('top_up', 'refill'))
             from payments where id > {} and reference is not null group by reference",
            self.last_payment_id
        );
        let rows = sqlx::raw_sql(AssertSqlSafe(query)).fetch_all(connection).await.unwrap();
        let counts: HashMap<String, (i64, i64)> =
            rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
        for request in &request_log.0 {
            let (sales, paid) = counts.get(&request.reference).copied().unwrap_or_default();
            match (&request.kind, &request.reply) {
                (RequestKind::Sale { .. }, Some(_)) => {
                    assert_eq!(sales, request.element_texts("number").len() as i64, "{request:?}");
                }
                (RequestKind::Sale { quantity, .. }, None) => assert!(sales <= *quantity as i64, "{request:?}"),
                (RequestKind::TopUp { .. } | RequestKind::Refill { .. }, _) => {
                    assert_eq!(paid, i64::from(request.succeeded()), "{request:?}");
                }
                _ => assert_eq!(paid, 0, "{request:?}"),
            }
        }
    }

    /// The balances have grown by the top-ups and refills, net of 25 % tax, and by the new cards at 8 dollars each.
    /// Voids and reissues have taken what their payments say.
    async fn assert_balances_match_payments(&self, connection: &mut PgConnection, request_log: &RequestLog) {
        let (mut paid, mut created) = (0, 0);
        for request in successful_requests(request_log) {
            match request.kind {
                RequestKind::TopUp { amount } | RequestKind::Refill { amount } => paid += amount,
                RequestKind::CreateCards { count, .. } => created += count,
                _ => {}
            }
        }
        let expected = format!(
            "select ({} + {paid} / 1.25 + {created} * 8 + coalesce(sum(balance_change), 0))::numeric(30, 15)::text
             from payments where id > {} and kind in ('refund', 'reissue', 'write_off')",
            self.balance_sum, self.last_payment_id
        );
        assert_eq!(
            query_text(connection, BALANCE_SUM_QUERY).await,
            query_text(connection, &expected).await,
            "sum of the balances"
        );
        // The payments say the same.
        let expected = format!("select ({} + {created} * 8)::numeric(40, 15)::text", self.unpaid_balances);
        assert_eq!(
            query_text(connection, ledger::UNPAID_BALANCES_QUERY).await,
            query_text(connection, &expected).await,
            "sum of the balances without that of the payments"
        );
    }

    /// Each request with a reply was executed once, each one without a reply at most once.
    async fn assert_effects_match_requests(&self, connection: &mut PgConnection, request_log: &RequestLog) {
        let (mut sold, mut possibly_sold, mut topped_up, mut refilled) = (0, 0, 0, 0);
        for request in &request_log.0 {
            match (&request.kind, &request.reply) {
                (RequestKind::Sale { quantity, .. }, None) => possibly_sold += *quantity as i64,
                (RequestKind::Sale { .. }, Some(_)) => sold += request.element_texts("number").len() as i64,
                (RequestKind::TopUp { .. }, _) => topped_up += i64::from(request.succeeded()),
                (RequestKind::Refill { .. }, _) => refilled += i64::from(request.succeeded()),
                _ => {}
            }
        }
        let Self { last_payment_id, last_action_id, key_count, .. } = self;
        let sales =
            format!("select count(*) from actions where id > {last_action_id} and action = 'card_sell_over_api'");
        let sales = query_i64(connection, &sales).await;
        let sales_max = sold + possibly_sold;
        assert!((sold..=sales_max).contains(&sales), "{sales} sales, expected {sold} to {sales_max}");
        self.assert_own_groups_match_requests(connection, request_log).await;
        for (kind, expected) in [("top_up", topped_up), ("refill", refilled)] {
            let payments = format!("select count(*) from payments where id > {last_payment_id} and kind = '{kind}'");
            assert_eq!(query_i64(connection, &payments).await, expected, "{kind}");
        }
        let new_keys = request_log.0.iter().filter(|request| request.key.is_some()).count() as i64;
        let keys = query_i64(connection, "select count(*) from idempotency_keys").await;
        assert_eq!(keys, key_count + new_keys, "idempotency keys");
        for request in successful_requests(request_log) {
            let (query, expected) = match &request.kind {
                RequestKind::CreateGroup { name } => {
                    (format!("select count(*) from cardgroups where name = '{name}'"), 1)
                }
                RequestKind::CreateTariff { name } => {
                    (format!("select count(*) from tariffs where name = '{name}'"), 1)
                }
                RequestKind::CreateCards { from, count } => (
                    format!(
                        "select count(*) from cards where cardgroup_id = 71 and number between '{from}' and '{}'",
                        from + count - 1
                    ),
                    *count as i64,
                ),
                _ => continue,
            };
            assert_eq!(query_i64(connection, &query).await, expected, "{request:?}");
        }
    }
}

impl AuditBaseline {
    /// In the group of one client, what its replies say is what was sold: another client's sales cannot hide that a
    /// reply says less. Their stock is never exhausted.
    async fn assert_own_groups_match_requests(&self, connection: &mut PgConnection, request_log: &RequestLog) {
        for own_group in FIRST_OWN_GROUP..FIRST_OWN_GROUP + CLIENT_COUNT as u64 {
            let (mut sold, mut possibly_sold) = (0, 0);
            for request in &request_log.0 {
                let RequestKind::Sale { group, quantity, .. } = request.kind else { continue };
                match &request.reply {
                    _ if group != own_group => {}
                    None => possibly_sold += quantity as i64,
                    Some(reply) => {
                        let cards = request.element_texts("number").len();
                        assert!(!request.succeeded() || cards as u64 == quantity, "{request:?}");
                        assert!(!reply.contains("Free cards was not found"), "{request:?}");
                        sold += cards as i64;
                    }
                }
            }
            let sales = format!(
                "select count(*) from payments p join cards c on c.id = p.user_id
                 where p.id > {} and p.kind = 'sale' and c.cardgroup_id = {own_group}",
                self.last_payment_id
            );
            let sales = query_i64(connection, &sales).await;
            let expected = sold..=sold + possibly_sold;
            assert!(expected.contains(&sales), "{sales} sales in the group {own_group}, expected {expected:?}");
        }
    }
}

const BALANCE_SUM_QUERY: &str = "
    select ((select sum(coalesce(balance, 0)) from cards) + (select sum(coalesce(balance, 0)) from users))
        ::numeric(30, 15)::text";

/// Each card in a reply is sold, has the PIN of the reply, and is in no other reply.
async fn assert_sold_cards_match_replies(connection: &mut PgConnection, request_log: &RequestLog) {
    let mut cards = Vec::new();
    for request in successful_requests(request_log).filter(|request| matches!(request.kind, RequestKind::Sale { .. })) {
        cards.extend(request.element_texts("number").into_iter().zip(request.element_texts("pin")));
    }
    let numbers: HashSet<_> = cards.iter().map(|(number, _)| number).collect();
    assert_eq!(numbers.len(), cards.len(), "a card is in two replies");
    let (numbers, pins): (Vec<_>, Vec<_>) = cards.iter().cloned().unzip();
    let matching = sqlx::query_scalar::<_, i64>(
        "select count(*) from unnest($1::text[], $2::text[]) reply_cards (number, pin) join cards c using (number, pin)
         where c.sold = 1 or c.retired_at is not null",
    )
    .bind(numbers)
    .bind(pins)
    .fetch_one(connection)
    .await
    .unwrap();
    assert_eq!(matching, cards.len() as i64, "cards in replies");
}

/// Each sale with an e-mail address was mailed once. An e-mail may arrive twice only if a server was killed after the
/// mail server accepted it and before the server recorded that; both then have the same `Message-ID`.
pub async fn assert_mails_match_sales(environment: &TestEnvironment, request_log: &RequestLog, killed: bool) {
    let connection = &mut environment.connect().await;
    while query_i64(connection, "select count(*) from email_outbox where sent_at is null and failed_at is null").await
        > 0
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        query_i64(connection, "select count(*) from email_outbox where failed_at is not null").await,
        0,
        "failed e-mails"
    );
    let mut mails_by_address: HashMap<String, Vec<ReceivedMail>> = HashMap::new();
    for mail in environment.mail.received_mails() {
        mails_by_address.entry(mail.to.clone()).or_default().push(mail);
    }
    for request in &request_log.0 {
        let RequestKind::Sale { email: Some(address), .. } = &request.kind else { continue };
        let mails = mails_by_address.get(address).map_or(&[][..], Vec::as_slice);
        let ids: HashSet<_> = mails.iter().map(|mail| mail.header("Message-ID")).collect();
        assert!(ids.len() <= 1 && (killed || mails.len() <= 1), "{} e-mails {ids:?} for {request:?}", mails.len());
        if request.reply.is_some() {
            assert_eq!(ids.len(), usize::from(request.succeeded()), "{request:?}");
        }
        let pins = request.element_texts("pin");
        let all_have_pins = mails.iter().all(|mail| pins.iter().all(|pin| mail.message.contains(pin)));
        assert!(all_have_pins, "{mails:?} for {request:?}");
    }
    let addresses = query_i64(connection, "select count(distinct email) from ccorders").await;
    assert_eq!(mails_by_address.len() as i64, addresses, "addresses of e-mails and of order rows");
}

fn successful_requests(request_log: &RequestLog) -> impl Iterator<Item = &SentRequest> {
    request_log.0.iter().filter(|request| request.succeeded())
}

async fn query_text(connection: &mut PgConnection, query: &str) -> String {
    sqlx::raw_sql(AssertSqlSafe(query.to_owned())).fetch_one(connection).await.unwrap().get(0)
}

async fn query_i64(connection: &mut PgConnection, query: &str) -> i64 {
    sqlx::query(AssertSqlSafe(query.to_owned())).fetch_one(connection).await.unwrap().get(0)
}
