//! The outbox: which e-mails to buyers wait or have failed, and why; new attempts, and corrected addresses.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::BackOfficeError;
use crate::mail;
use crate::store::change_log::{Author, Change, Target, What};

/// The reason that operators give to an e-mail that they cancel (`email.md`).
const CANCELLED: &str = "given up";

/// The state of an e-mail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailState {
    /// It waits for an attempt.
    #[default]
    Waiting,
    /// It has failed permanently: there is no further attempt.
    Failed,
    /// The mail server has accepted it.
    Sent,
}

impl MailState {
    /// Returns the name, as in [`OutboxMail::state`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Sent => "sent",
        }
    }
}

/// An e-mail of the outbox. Times are in UTC.
#[derive(Debug, Serialize)]
pub struct OutboxMail {
    /// The id.
    pub id: i64,
    /// `waiting`, `failed` or `sent`.
    pub state: String,
    /// The owner of the card group, whose mail settings apply.
    pub owner: Option<String>,
    /// The buyer's address, as the client sent it.
    pub address: String,
    /// The number of cards.
    pub cards: i32,
    /// The time of the sale.
    pub created_at: String,
    /// The number of attempts.
    pub attempts: i32,
    /// The time from which on the next attempt is due. `None`: there is none.
    pub next_attempt_at: Option<String>,
    /// When it was sent or failed.
    pub finished_at: Option<String>,
    /// Why the last attempt failed.
    pub reason: Option<String>,
}

/// Returns the oldest e-mails in any of the states.
///
/// # Errors
///
/// Database errors.
pub async fn list(pool: &PgPool, states: &[MailState], limit: u32) -> sqlx::Result<Vec<OutboxMail>> {
    let states: Vec<String> = states.iter().map(|state| state.name().to_owned()).collect();
    let mut transaction = pool.begin_with(crate::store::pages::BEGIN_READ_ONLY).await?;
    sqlx::query_as!(
        OutboxMail,
        r#"select id as "id!", state as "state!", owner as "owner?", address as "address!", cardinality(card_ids) as "cards!",
               to_char(created_at, 'YYYY-MM-DD HH24:MI:SS') as "created_at!", attempts as "attempts!",
               case when state = 'waiting' then to_char(next_attempt_at, 'YYYY-MM-DD HH24:MI:SS') end as next_attempt_at,
               to_char(coalesce(sent_at, failed_at), 'YYYY-MM-DD HH24:MI:SS') as finished_at, last_error as reason
           from (
               select o.*, u.username as owner, case
                   when sent_at is not null then 'sent' when failed_at is not null then 'failed' else 'waiting' end as state
               from email_outbox o left join users u on u.id = o.owner_id) mail
           where state = any ($1) order by mail.created_at, id limit $2"#,
        &states,
        i64::from(limit)
    )
    .fetch_all(&mut *transaction)
    .await
}

/// Begins a statement that reads a page of the outbox. It may sort what an index has found.
const BEGIN_PAGE: &str = "begin read only; set local plan_cache_mode = force_custom_plan; set local enable_sort = on";

/// Returns the next e-mails in the state, after the one with the id `after`: those that wait, the oldest sale first;
/// others, the last one that was finished first.
///
/// # Errors
///
/// Database errors.
pub async fn page(pool: &PgPool, state: MailState, after: Option<i64>, limit: i64) -> sqlx::Result<Vec<OutboxMail>> {
    let mut transaction = pool.begin_with(BEGIN_PAGE).await?;
    let position = match after {
        Some(id) => {
            let position = sqlx::query!(
                r#"select created_at::text as "created_at!", coalesce(sent_at, failed_at)::text as finished_at
                   from email_outbox where id = $1"#,
                id
            );
            position.fetch_optional(&mut *transaction).await?
        }
        None => None,
    };
    if state == MailState::Failed {
        return sqlx::query_as!(
            OutboxMail,
            r#"select o.id, 'failed' as "state!", u.username as "owner?", address, cardinality(card_ids) as "cards!",
                   to_char(created_at, 'YYYY-MM-DD HH24:MI:SS') as "created_at!", attempts, null as next_attempt_at,
                   to_char(failed_at, 'YYYY-MM-DD HH24:MI:SS') as finished_at, last_error as reason
               from email_outbox o left join users u on u.id = o.owner_id
               where failed_at is not null and ($1::text is null or (failed_at, o.id) < ($1::timestamp, $2))
               order by failed_at desc, o.id desc limit $3"#,
            position.and_then(|position| position.finished_at),
            after,
            limit
        )
        .fetch_all(&mut *transaction)
        .await;
    }
    if state == MailState::Waiting {
        return sqlx::query_as!(
            OutboxMail,
            r#"with waiting as materialized (
                   -- Few rows, by the index of those that wait.
                   select id, created_at from email_outbox
                   where sent_at is null and failed_at is null
                       and ($1::text is null or (created_at, id) > ($1::timestamp, $2))
               ), page as materialized (
                   select id from waiting order by created_at, id limit $3
               )
               select o.id as "id!", 'waiting' as "state!", u.username as "owner?", address as "address!",
                   cardinality(card_ids) as "cards!", to_char(created_at, 'YYYY-MM-DD HH24:MI:SS') as "created_at!",
                   attempts as "attempts!",
                   to_char(next_attempt_at, 'YYYY-MM-DD HH24:MI:SS') as next_attempt_at, null as finished_at, last_error as reason
               from page join email_outbox o on o.id = page.id left join users u on u.id = o.owner_id
               order by created_at, o.id"#,
            position.map(|position| position.created_at),
            after,
            limit
        )
        .fetch_all(&mut *transaction)
        .await;
    }
    sqlx::query_as!(
        OutboxMail,
        r#"select o.id, 'sent' as "state!", u.username as "owner?", address, cardinality(card_ids) as "cards!",
               to_char(created_at, 'YYYY-MM-DD HH24:MI:SS') as "created_at!", attempts, null as next_attempt_at,
               to_char(sent_at, 'YYYY-MM-DD HH24:MI:SS') as finished_at, last_error as reason
           from email_outbox o left join users u on u.id = o.owner_id
           where coalesce(sent_at, failed_at) is not null and failed_at is null
               and ($1::text is null or (coalesce(sent_at, failed_at), o.id) < ($1::timestamp, $2))
           order by coalesce(sent_at, failed_at) desc, o.id desc limit $3"#,
        position.and_then(|position| position.finished_at),
        after,
        limit
    )
    .fetch_all(&mut *transaction)
    .await
}

/// Which e-mails are sent again.
#[derive(Debug)]
pub enum Retry<'a> {
    /// All that wait.
    Waiting,
    /// All that have failed, except those that an operator has cancelled.
    Failed,
    /// Those with these ids. `sent_too`: also if they were sent.
    Ids {
        /// The ids.
        ids: &'a [i64],
        /// The buyer gets the e-mail again.
        sent_too: bool,
    },
}

/// Makes e-mails due at once, in the caller's transaction. The next server that polls the outbox sends them. Returns
/// the number of e-mails.
///
/// # Errors
///
/// [`BackOfficeError::NotFound`] if an id does not exist, [`BackOfficeError::Refused`] if one was sent or has a retired
/// card. Nothing is changed then.
pub async fn retry(connection: &mut PgConnection, retry: &Retry<'_>, author: &Author) -> Result<u64, BackOfficeError> {
    let (retried, ids) = match retry {
        Retry::Waiting => (retry_waiting(&mut *connection).await?, None),
        Retry::Failed => (retry_failed(&mut *connection).await?, None),
        Retry::Ids { ids, sent_too } => {
            lock_cards(&mut *connection, ids).await?;
            // In the order of the ids, so that two operators do not block each other.
            for id in ids.iter().copied().collect::<BTreeSet<i64>>() {
                let mail = lock(&mut *connection, id).await?;
                if mail.is_sent && !sent_too {
                    return Err(BackOfficeError::refused(format!("the e-mail {id} was sent")));
                }
            }
            refuse_retired_cards(&mut *connection, ids).await?;
            let retried = sqlx::query!(
                "update email_outbox set first_sent_at = coalesce(first_sent_at, sent_at), sent_at = null, failed_at = null,
                     next_attempt_at = now() at time zone 'utc'
                 where id = any ($1)",
                *ids
            );
            (retried.execute(&mut *connection).await?.rows_affected(), Some(*ids))
        }
    };
    if retried > 0 {
        let after = Some(json!({ "retried": retried, "ids": ids }).to_string());
        let change = Change { what: What::Mail, target: Target::Named("outbox"), before: None, after };
        change.record(connection, author).await?;
    }
    Ok(retried)
}

/// Locks the cards of e-mails: until the commit, none of them is voided or replaced, which takes it out of e-mails that
/// are not sent.
async fn lock_cards(connection: &mut PgConnection, mail_ids: &[i64]) -> sqlx::Result<()> {
    sqlx::query!(
        r#"select id from cards where id = any (array(select unnest(card_ids) from email_outbox where id = any ($1)))
           order by number collate "C", id for no key update"#,
        mail_ids
    )
    .fetch_all(connection)
    .await
    .map(drop)
}

/// Refuses e-mails about a card that was voided or replaced: its PIN must not be sent again.
async fn refuse_retired_cards(connection: &mut PgConnection, mail_ids: &[i64]) -> Result<(), BackOfficeError> {
    let refused = sqlx::query_scalar!(
        "select id from email_outbox mail
         where id = any ($1) and exists (
             select from unnest(card_ids) mailed (id), lateral (
                 select from cards where cards.id = mailed.id and retired_at is not null offset 0
             ) retired)
         order by id limit 1",
        mail_ids
    );
    match refused.fetch_optional(connection).await? {
        None => Ok(()),
        Some(id) => Err(BackOfficeError::refused(format!(
            "the e-mail {id} has a retired card, which was voided or replaced: its PIN is not sent again"
        ))),
    }
}

async fn retry_waiting(connection: &mut PgConnection) -> sqlx::Result<u64> {
    let retried = sqlx::query!(
        "update email_outbox set next_attempt_at = now() at time zone 'utc' where sent_at is null and failed_at is null"
    );
    Ok(retried.execute(connection).await?.rows_affected())
}

async fn retry_failed(connection: &mut PgConnection) -> sqlx::Result<u64> {
    let retried = sqlx::query!(
        "update email_outbox set failed_at = null, next_attempt_at = now() at time zone 'utc'
         where failed_at is not null and last_error is distinct from $1",
        CANCELLED
    );
    Ok(retried.execute(connection).await?.rows_affected())
}

/// Replaces the address of an e-mail that was never sent, and makes the e-mail due at once, in the caller's
/// transaction. Returns the old address.
///
/// # Errors
///
/// [`BackOfficeError::NotFound`] if the id does not exist; [`BackOfficeError::Refused`] if the e-mail was sent before
/// or is being sent, or if the text is not one address.
pub async fn correct(
    connection: &mut PgConnection,
    id: i64,
    address: &str,
    author: &Author,
) -> Result<String, BackOfficeError> {
    if !mail::is_address(address) {
        return Err(BackOfficeError::refused(format!("{address:?} is not an e-mail address")));
    }
    let mail = lock(&mut *connection, id).await?;
    if mail.was_sent {
        return Err(BackOfficeError::refused(format!(
            "the e-mail {id} was sent to {}: it stays as it is",
            mail.address
        )));
    }
    if mail.claimed_for_s > 0 {
        return Err(BackOfficeError::refused(format!(
            "the e-mail {id} is being sent to {} now: try again in {} s",
            mail.address, mail.claimed_for_s
        )));
    }
    sqlx::query!(
        "update email_outbox set address = $2, failed_at = null, next_attempt_at = now() at time zone 'utc' where id = $1",
        id,
        address
    )
    .execute(&mut *connection)
    .await?;
    let address_json = |address: &str| Some(json!({ "address": address }).to_string());
    let change = Change {
        what: What::Mail,
        target: Target::Row { id, name: address },
        before: address_json(&mail.address),
        after: address_json(address),
    };
    change.record(connection, author).await?;
    Ok(mail.address)
}

/// An e-mail whose row is locked.
struct LockedMail {
    address: String,
    is_sent: bool,
    /// Also if it is to be sent again.
    was_sent: bool,
    /// The time for which a server that sends the e-mail may still need, in seconds.
    claimed_for_s: i64,
}

async fn lock(connection: &mut PgConnection, id: i64) -> Result<LockedMail, BackOfficeError> {
    let mail = sqlx::query_as!(
        LockedMail,
        r#"select address, sent_at is not null as "is_sent!",
               coalesce(sent_at, first_sent_at) is not null as "was_sent!",
               coalesce(ceil(extract(epoch from claimed_until - now() at time zone 'utc')), 0)::bigint as "claimed_for_s!"
           from email_outbox where id = $1 for no key update"#,
        id
    );
    let mail = mail.fetch_optional(connection).await?;
    mail.ok_or_else(|| BackOfficeError::NotFound(format!("there is no e-mail {id}")))
}
