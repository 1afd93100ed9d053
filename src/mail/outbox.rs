//! The statements on the outbox. Each function runs short statements only: while an e-mail is being sent, its row is
//! not locked; a claim with an expiry time marks it.

use std::time::Duration;

use sqlx::PgPool;

use crate::money::Money;
use crate::pin::Pin;

/// Delays in seconds after the first failed attempt, the second, and so on. The last one applies to all later attempts.
const RETRY_DELAYS_S: [i32; 5] = [60, 300, 900, 3600, 7200];
/// Maximum number of owners whose e-mails are sent at the same time.
const CONCURRENT_OWNERS_MAX: usize = 64;

/// An e-mail that this server has claimed.
#[derive(Debug)]
pub(super) struct ClaimedMail {
    pub id: i64,
    /// Number of claims. It identifies the claim: a result of an earlier claim is ignored.
    pub attempts: i32,
    pub address: String,
    pub message_id: String,
    pub currency: String,
    /// The time of the sale, in seconds since 1970.
    pub sold_at: i64,
}

/// A sold card, as the e-mail shows it.
#[derive(Debug)]
pub(super) struct MailedCard {
    pub group: String,
    pub number: String,
    /// Blank if the card has no PIN.
    pub pin: Pin,
    pub balance: Money,
}

/// Returns the owners that have due e-mails, without those in `busy_owners`, ordered by the longest wait first.
pub(super) async fn find_due_owners(pool: &PgPool, busy_owners: Vec<i32>) -> sqlx::Result<Vec<i32>> {
    sqlx::query_scalar!(
        "select owner_id from email_outbox
         where sent_at is null and failed_at is null and next_attempt_at <= now() at time zone 'utc'
             and (claimed_until is null or claimed_until <= now() at time zone 'utc') and owner_id <> all ($1)
         group by owner_id order by min(next_attempt_at)
         limit $2",
        &busy_owners,
        i64::try_from(CONCURRENT_OWNERS_MAX.saturating_sub(busy_owners.len())).unwrap_or(0)
    )
    .fetch_all(pool)
    .await
}

/// Claims the next due e-mail of an owner for the time of the lease. The claim counts as an attempt, even if this
/// server is killed afterwards.
pub(super) async fn claim(pool: &PgPool, owner: i32, lease: Duration) -> sqlx::Result<Option<ClaimedMail>> {
    sqlx::query_as!(
        ClaimedMail,
        r#"update email_outbox
           set attempts = attempts + 1, claimed_until = now() at time zone 'utc' + make_interval(secs => $2::bigint)
           where id = any (array(
               select id from email_outbox
               where owner_id = $1 and sent_at is null and failed_at is null and next_attempt_at <= now() at time zone 'utc'
                   and (claimed_until is null or claimed_until <= now() at time zone 'utc')
               order by next_attempt_at limit 1
               for no key update skip locked))
           returning id, attempts, address, message_id, currency, floor(extract(epoch from created_at))::bigint as "sold_at!""#,
        owner,
        i64::try_from(lease.as_secs()).unwrap_or(i64::MAX).max(1)
    )
    .fetch_optional(pool)
    .await
}

/// Returns the cards of an e-mail in the order of the sale: none if the e-mail was deleted meanwhile, because its cards
/// were voided. `None`: a card of the e-mail no longer exists.
pub(super) async fn fetch_cards(pool: &PgPool, id: i64) -> sqlx::Result<Option<Vec<MailedCard>>> {
    let rows = sqlx::query!(
        r#"select g.name as "group?", coalesce(c.number, '') as "number!", coalesce(c.pin, '') as "pin!: Pin",
               sold.balance as "balance!: Money"
           from email_outbox o
           cross join unnest(o.card_ids, o.balances) with ordinality sold (card_id, balance, ordinal)
           left join cards c on c.id = sold.card_id
           left join cardgroups g on g.id = c.cardgroup_id
           where o.id = $1
           order by sold.ordinal"#,
        id
    );
    let rows = rows.fetch_all(pool).await?.into_iter();
    let cards = rows
        .map(|row| row.group.map(|group| MailedCard { group, number: row.number, pin: row.pin, balance: row.balance }));
    Ok(cards.collect())
}

/// Marks an e-mail as sent.
pub(super) async fn mark_sent(pool: &PgPool, id: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "update email_outbox
         set sent_at = now() at time zone 'utc', claimed_until = null, failed_at = null, last_error = null
         where id = $1",
        id
    )
    .execute(pool)
    .await
    .map(drop)
}

/// Releases a claim: the e-mail is due again at once.
pub(super) async fn release_claim(pool: &PgPool, claimed: &ClaimedMail) -> sqlx::Result<()> {
    sqlx::query!(
        "update email_outbox set claimed_until = null where id = $1 and attempts = $2",
        claimed.id,
        claimed.attempts
    )
    .execute(pool)
    .await
    .map(drop)
}

/// Records a failed attempt. The e-mail is retried after a delay; it fails permanently if `is_permanent` is set or if
/// it is older than `retry_hours`. Returns whether it has failed permanently.
pub(super) async fn reschedule(
    pool: &PgPool,
    claimed: &ClaimedMail,
    reason: &str,
    is_permanent: bool,
    retry_hours: i32,
) -> sqlx::Result<bool> {
    let failed = sqlx::query_scalar!(
        r#"update email_outbox
           set claimed_until = null, last_error = $3,
               next_attempt_at = now() at time zone 'utc'
                   + make_interval(secs => ($6::integer[])[least(attempts, cardinality($6))]),
               failed_at = case when $4 or created_at < now() at time zone 'utc' - make_interval(hours => $5)
                   then now() at time zone 'utc' end
           where id = $1 and attempts = $2 and sent_at is null and failed_at is null
           returning failed_at is not null as "failed!""#,
        claimed.id,
        claimed.attempts,
        reason,
        is_permanent,
        retry_hours,
        &RETRY_DELAYS_S
    )
    .fetch_optional(pool)
    .await?;
    Ok(failed.unwrap_or(false))
}

/// Records a failed attempt for each due e-mail of an owner that is not claimed. Those older than `retry_hours` fail
/// permanently (`None`: none does). Returns how many have failed permanently.
pub(super) async fn reschedule_all(
    pool: &PgPool,
    owner: i32,
    reason: &str,
    retry_hours: Option<i32>,
) -> sqlx::Result<usize> {
    let failed = sqlx::query_scalar!(
        r#"update email_outbox
           set attempts = attempts + 1, last_error = $2,
               next_attempt_at = now() at time zone 'utc'
                   + make_interval(secs => ($4::integer[])[least(attempts + 1, cardinality($4))]),
               failed_at = case when created_at < now() at time zone 'utc' - make_interval(hours => $3::integer)
                   then now() at time zone 'utc' end
           where owner_id = $1 and sent_at is null and failed_at is null and next_attempt_at <= now() at time zone 'utc'
               and (claimed_until is null or claimed_until <= now() at time zone 'utc')
           returning failed_at is not null as "failed!""#,
        owner,
        reason,
        retry_hours,
        &RETRY_DELAYS_S
    )
    .fetch_all(pool)
    .await?;
    Ok(failed.into_iter().filter(|failed| *failed).count())
}

/// Deletes the e-mails that were sent, or failed permanently, more than `retention_days` ago. It deletes in batches, to
/// keep each statement short.
pub(super) async fn purge_expired(pool: &PgPool, retention_days: i32) -> sqlx::Result<()> {
    const BATCH_LEN_MAX: u64 = 5_000;
    loop {
        let deleted = sqlx::query!(
            "delete from email_outbox where id = any (array(
                 select id from email_outbox
                 where coalesce(sent_at, failed_at) < now() at time zone 'utc' - make_interval(days => $1)
                 order by coalesce(sent_at, failed_at) limit $2 for update skip locked))",
            retention_days,
            i64::try_from(BATCH_LEN_MAX).unwrap_or(i64::MAX)
        )
        .execute(pool)
        .await?;
        if deleted.rows_affected() < BATCH_LEN_MAX {
            return Ok(());
        }
    }
}
