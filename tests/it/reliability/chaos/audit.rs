//! The auditor: knows what clients were told and what SQL says, and nothing of the program. Each rule is one of those that hold
//! whatever is killed when.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::clients::{RequestKind, RequestLog, SentRequest};
use super::world::TestEnvironment;
use crate::harness::smtp::ReceivedMail;

/// Must find nothing, ever.
const VIOLATION_QUERIES: [(&str, &str); 7] = [
    ("a card with two sales", "select user_id from payments where kind = 'sale' group by user_id having count(*) > 1"),
    (
        "a sale without its card, or of one that is still for sale",
        "select p.id from payments p left join cards c on c.id = p.user_id
         where p.kind = 'sale' and (c.id is null or c.sold = 0 and c.retired_at is null)",
    ),
    (
        "a sold card without its sale",
        "select c.id from cards c where c.cardgroup_id in (70, 71) and c.sold = 1
             and not exists (select from payments p where p.user_id = c.id and p.kind = 'sale')",
    ),
    (
        "a card sold over the API twice, or without a sale",
        "select a.target_id from actions a left join payments p on p.user_id = a.target_id and p.kind = 'sale'
         where a.action = 'card_sell_over_api' group by a.target_id having count(*) <> 1 or count(p.id) <> 1",
    ),
    (
        "a card's payment without its one audit row",
        "select p.id from payments p left join actions a on a.action = 'card_payment_created' and a.target_id = p.id
         where p.kind in ('sale', 'top_up') group by p.id having count(a.id) <> 1",
    ),
    ("a stock that isn't true", "select * from card_stock_differences"),
    ("a key without its reply", "select key from idempotency_keys where reply is null"),
];

/// What the database said before the round.
pub struct AuditBaseline {
    balance_sum: String,
    last_payment_id: i32,
    last_action_id: i32,
    key_count: i64,
}

impl AuditBaseline {
    pub async fn capture(world: &TestEnvironment) -> Self {
        let mut connection = world.connect().await;
        Self {
            balance_sum: query_text(&mut connection, BALANCE_SUM_QUERY).await,
            last_payment_id: query_i64(&mut connection, "select coalesce(max(id), 0)::bigint from payments").await
                as i32,
            last_action_id: query_i64(&mut connection, "select coalesce(max(id), 0)::bigint from actions").await as i32,
            key_count: query_i64(&mut connection, "select count(*) from idempotency_keys").await,
        }
    }

    pub async fn verify(self, world: &TestEnvironment, remembered: &RequestLog) {
        let connection = &mut world.connect().await;
        for (what, query) in VIOLATION_QUERIES {
            let found = query_i64(connection, &format!("select count(*) from ({query}) never")).await;
            assert_eq!(found, 0, "{what}");
        }
        self.assert_balances_match_payments(connection, remembered).await;
        self.assert_effects_match_requests(connection, remembered).await;
        assert_sold_cards_match_replies(connection, remembered).await;
    }

    /// Top-ups and refills net of 25 % tax, new cards at their price, and nothing else.
    async fn assert_balances_match_payments(&self, connection: &mut PgConnection, remembered: &RequestLog) {
        let (mut paid, mut made) = (0, 0);
        for asked in successful_requests(remembered) {
            match asked.kind {
                RequestKind::TopUp { amount } | RequestKind::Refill { amount } => paid += amount,
                RequestKind::CreateCards { count, .. } => made += count,
                _ => {}
            }
        }
        let expected = format!("select ({} + {paid} / 1.25 + {made} * 8)::numeric(30, 15)::text", self.balance_sum);
        assert_eq!(
            query_text(connection, BALANCE_SUM_QUERY).await,
            query_text(connection, &expected).await,
            "the balances' sum"
        );
    }

    /// Each request that was answered happened once, and one that never was at most once.
    async fn assert_effects_match_requests(&self, connection: &mut PgConnection, remembered: &RequestLog) {
        let (mut sold, mut perhaps, mut topped_up, mut refilled) = (0, 0, 0, 0);
        for asked in &remembered.0 {
            match (&asked.kind, &asked.reply) {
                (RequestKind::Sale { quantity, .. }, None) => perhaps += *quantity as i64,
                (RequestKind::Sale { .. }, Some(_)) => sold += asked.element_texts("number").len() as i64,
                (RequestKind::TopUp { .. }, _) => topped_up += i64::from(asked.succeeded()),
                (RequestKind::Refill { .. }, _) => refilled += i64::from(asked.succeeded()),
                _ => {}
            }
        }
        let Self { last_payment_id: last_payment, last_action_id: last_action, key_count: keys, .. } = self;
        let sales = format!("select count(*) from actions where id > {last_action} and action = 'card_sell_over_api'");
        let sales = query_i64(connection, &sales).await;
        assert!((sold..=sold + perhaps).contains(&sales), "{sales} sales of {sold} to {}", sold + perhaps);
        for (kind, asked_for) in [("top_up", topped_up), ("refill", refilled)] {
            let payments = format!("select count(*) from payments where id > {last_payment} and kind = '{kind}'");
            assert_eq!(query_i64(connection, &payments).await, asked_for, "{kind}");
        }
        let keyed = remembered.0.iter().filter(|asked| asked.key.is_some()).count() as i64;
        assert_eq!(query_i64(connection, "select count(*) from idempotency_keys").await, keys + keyed, "keys");
        for asked in successful_requests(remembered) {
            let (query, expected) = match &asked.kind {
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
            assert_eq!(query_i64(connection, &query).await, expected, "{asked:?}");
        }
    }
}

const BALANCE_SUM_QUERY: &str = "select ((select sum(coalesce(balance, 0)) from cards) + (select sum(coalesce(balance, 0)) from users))::numeric(30, 15)::text";

/// Every card that a client was given is sold, has the PIN that the client was told, and is nobody else's.
async fn assert_sold_cards_match_replies(connection: &mut PgConnection, remembered: &RequestLog) {
    let mut cards = Vec::new();
    for asked in successful_requests(remembered).filter(|asked| matches!(asked.kind, RequestKind::Sale { .. })) {
        cards.extend(asked.element_texts("number").into_iter().zip(asked.element_texts("pin")));
    }
    let numbers: HashSet<_> = cards.iter().map(|(number, _)| number).collect();
    assert_eq!(numbers.len(), cards.len(), "a card was given to two");
    let (numbers, pins): (Vec<_>, Vec<_>) = cards.iter().cloned().unzip();
    let true_ones = sqlx::query_scalar::<_, i64>(
        "select count(*) from unnest($1::text[], $2::text[]) told (number, pin) join cards c using (number, pin)
         where c.sold = 1 or c.retired_at is not null",
    )
    .bind(numbers)
    .bind(pins)
    .fetch_one(connection)
    .await
    .unwrap();
    assert_eq!(true_ones, cards.len() as i64, "cards that clients were given");
}

/// Each sale that was to be mailed was, once; twice only where a server was killed between the mail server's word and its own note, and
/// then with the same id.
pub async fn assert_mails_match_sales(world: &TestEnvironment, remembered: &RequestLog, killed: bool) {
    let connection = &mut world.connect().await;
    while query_i64(connection, "select count(*) from email_outbox where sent_at is null and failed_at is null").await
        > 0
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        query_i64(connection, "select count(*) from email_outbox where failed_at is not null").await,
        0,
        "failed"
    );
    let mut mailed: HashMap<String, Vec<ReceivedMail>> = HashMap::new();
    for mail in world.mail.received_mails() {
        mailed.entry(mail.to.clone()).or_default().push(mail);
    }
    for asked in &remembered.0 {
        let RequestKind::Sale { email: Some(address), .. } = &asked.kind else { continue };
        let mails = mailed.get(address).map_or(&[][..], Vec::as_slice);
        let ids: HashSet<_> = mails.iter().map(|mail| mail.header("Message-ID")).collect();
        assert!(ids.len() <= 1 && (killed || mails.len() <= 1), "{} e-mails of {ids:?} for {asked:?}", mails.len());
        if asked.reply.is_some() {
            assert_eq!(ids.len(), usize::from(asked.succeeded()), "{asked:?}");
        }
        let pins = asked.element_texts("pin");
        assert!(mails.iter().all(|mail| pins.iter().all(|pin| mail.message.contains(pin))), "{mails:?} for {asked:?}");
    }
    let orders = query_i64(connection, "select count(distinct email) from ccorders").await;
    assert_eq!(mailed.len() as i64, orders, "e-mails without their order rows");
}

fn successful_requests(remembered: &RequestLog) -> impl Iterator<Item = &SentRequest> {
    remembered.0.iter().filter(|asked| asked.succeeded())
}

async fn query_text(connection: &mut PgConnection, query: &str) -> String {
    sqlx::raw_sql(AssertSqlSafe(query.to_owned())).fetch_one(connection).await.unwrap().get(0)
}

async fn query_i64(connection: &mut PgConnection, query: &str) -> i64 {
    sqlx::query(AssertSqlSafe(query.to_owned())).fetch_one(connection).await.unwrap().get(0)
}
