//! The outbox: what is claimed, by whom and until when. Each function is one short statement; nothing is held while a mail server
//! is talked to.

use std::time::Duration;

use sqlx::PgPool;

use crate::money::Money;

/// How long, in seconds, the next attempt waits after the first, the second and so on; the last goes for all that come after.
const RETRY_DELAYS_S: [i32; 5] = [60, 300, 900, 3600, 7200];
/// Owners whose e-mails are sent at once.
const CONCURRENT_OWNERS_MAX: usize = 64;

/// An e-mail that is ours to send.
#[derive(Debug)]
pub(super) struct ClaimedMail {
    pub id: i64,
    /// Counts claims: what is noted of an earlier one doesn't count any more.
    pub attempts: i32,
    pub address: String,
    pub message_id: String,
    pub currency: String,
    /// When its cards were sold, in seconds since 1970.
    pub sold_at: i64,
    /// How many cards there must be.
    pub card_count: i32,
}

/// A card that was sold.
#[derive(Debug)]
pub(super) struct MailedCard {
    pub group: String,
    pub number: String,
    pub pin: String,
    pub balance: Money,
}

/// Owners who have something to be sent now, those who are at it already left out; who has waited longest comes first.
pub(super) async fn find_due_owners(pool: &PgPool, busy: Vec<i32>) -> sqlx::Result<Vec<i32>> {
    sqlx::query_scalar!(
        "select owner_id from email_outbox
         where sent_at is null and failed_at is null and next_attempt_at <= now() at time zone 'utc'
             and (claimed_until is null or claimed_until <= now() at time zone 'utc') and owner_id <> all ($1)
         group by owner_id order by min(next_attempt_at)
         limit $2",
        &busy,
        i64::try_from(CONCURRENT_OWNERS_MAX.saturating_sub(busy.len())).unwrap_or(0)
    )
    .fetch_all(pool)
    .await
}

/// Takes the owner's next e-mail for so long. It counts as an attempt from now on, whatever becomes of us.
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
           returning id, attempts, address, message_id, currency, floor(extract(epoch from created_at))::bigint as "sold_at!",
               cardinality(card_ids) as "card_count!""#,
        owner,
        i64::try_from(lease.as_secs()).unwrap_or(i64::MAX).max(1)
    )
    .fetch_optional(pool)
    .await
}

/// The cards of an e-mail, in the order in which they were sold.
pub(super) async fn fetch_cards(pool: &PgPool, id: i64) -> sqlx::Result<Vec<MailedCard>> {
    sqlx::query_as!(
        MailedCard,
        r#"select g.name as "group!", coalesce(c.number, '') as "number!", coalesce(c.pin, '') as "pin!",
               sold.balance as "balance!: Money"
           from email_outbox o
           cross join unnest(o.card_ids, o.balances) with ordinality sold (card_id, balance, place)
           join cards c on c.id = sold.card_id
           join cardgroups g on g.id = c.cardgroup_id
           where o.id = $1
           order by sold.place"#,
        id
    )
    .fetch_all(pool)
    .await
}

/// It has gone.
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

/// It goes on waiting, as if nobody had claimed it.
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

/// It is tried again after a pause, unless it `for_good` can't be sent or has been tried for so many hours. Whether it has failed.
pub(super) async fn reschedule(
    pool: &PgPool,
    claimed: &ClaimedMail,
    why: &str,
    for_good: bool,
    hours: i32,
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
        why,
        for_good,
        hours,
        &RETRY_DELAYS_S
    )
    .fetch_optional(pool)
    .await?;
    Ok(failed.unwrap_or(false))
}

/// No e-mail of the owner's gets through at the moment: this was an attempt for each that is due. How many have failed for good.
/// `hours` is how long they are tried: for ever, where there are none.
pub(super) async fn reschedule_all(pool: &PgPool, owner: i32, why: &str, hours: Option<i32>) -> sqlx::Result<usize> {
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
        why,
        hours,
        &RETRY_DELAYS_S
    )
    .fetch_all(pool)
    .await?;
    Ok(failed.into_iter().filter(|failed| *failed).count())
}

/// Forgets what was sent, or failed, so many days ago; a few at a time so that nobody waits for it.
pub(super) async fn purge_expired(pool: &PgPool, days: i32) -> sqlx::Result<()> {
    const BATCH_LEN_MAX: u64 = 5_000;
    loop {
        let forgotten = sqlx::query!(
            "delete from email_outbox where id = any (array(
                 select id from email_outbox
                 where coalesce(sent_at, failed_at) < now() at time zone 'utc' - make_interval(days => $1)
                 order by coalesce(sent_at, failed_at) limit $2 for update skip locked))",
            days,
            i64::try_from(BATCH_LEN_MAX).unwrap_or(i64::MAX)
        )
        .execute(pool)
        .await?;
        if forgotten.rows_affected() < BATCH_LEN_MAX {
            return Ok(());
        }
    }
}
