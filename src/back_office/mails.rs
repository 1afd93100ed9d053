//! The outbox: which e-mails to buyers wait or have failed, and why; new attempts, and corrected addresses.

use serde::Serialize;
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::BackOfficeError;
use crate::mail;
use crate::store::change_log::{Author, Change, Target, What};

/// The reason that operators give to an e-mail that they cancel (`email.md`).
const CANCELLED: &str = "given up";

/// The state of an e-mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailState {
    /// It waits for an attempt.
    Waiting,
    /// It has failed permanently: there is no further attempt.
    Failed,
    /// The mail server has accepted it.
    Sent,
}

impl MailState {
    fn name(self) -> &'static str {
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

/// Makes e-mails due at once. The next server that polls the outbox sends them. Returns the number of e-mails.
///
/// # Errors
///
/// [`BackOfficeError::NotFound`] if an id does not exist, [`BackOfficeError::Refused`] if one was sent. Nothing is
/// changed then.
pub async fn retry(pool: &PgPool, retry: &Retry<'_>, author: &Author) -> Result<u64, BackOfficeError> {
    let mut transaction = pool.begin().await?;
    let ids = match retry {
        Retry::Waiting | Retry::Failed => None,
        Retry::Ids { ids, sent_too } => {
            for id in *ids {
                let mail = lock(&mut transaction, *id).await?;
                if mail.is_sent && !sent_too {
                    return Err(BackOfficeError::refused(format!("the e-mail {id} was sent: --again sends it again")));
                }
            }
            Some(*ids)
        }
    };
    let retried = sqlx::query_scalar!(
        "update email_outbox
         set sent_at = null, failed_at = null, next_attempt_at = now() at time zone 'utc'
         where case
             when $1::bigint[] is not null then id = any ($1)
             when $2 then sent_at is null and failed_at is not null and last_error is distinct from $3
             else sent_at is null and failed_at is null end
         returning id",
        ids,
        matches!(retry, Retry::Failed),
        CANCELLED
    );
    let retried = retried.fetch_all(&mut *transaction).await?;
    if !retried.is_empty() {
        let after = Some(json!({ "retried": retried.len(), "ids": ids }).to_string());
        let change = Change { what: What::Mail, target: Target::Named("outbox"), before: None, after };
        change.record(&mut transaction, author).await?;
    }
    transaction.commit().await?;
    Ok(retried.len() as u64)
}

/// Replaces the address of an e-mail that was not sent yet, and makes the e-mail due at once. Returns the old address.
///
/// # Errors
///
/// [`BackOfficeError::NotFound`] if the id does not exist; [`BackOfficeError::Refused`] if the e-mail was sent or
/// is being sent, or if the text is not one address.
pub async fn correct(pool: &PgPool, id: i64, address: &str, author: &Author) -> Result<String, BackOfficeError> {
    if !mail::is_address(address) {
        return Err(BackOfficeError::refused(format!("{address:?} is not an e-mail address")));
    }
    let mut transaction = pool.begin().await?;
    let mail = lock(&mut transaction, id).await?;
    if mail.is_sent {
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
    .execute(&mut *transaction)
    .await?;
    let address_json = |address: &str| Some(json!({ "address": address }).to_string());
    let change = Change {
        what: What::Mail,
        target: Target::Row { id, name: address },
        before: address_json(&mail.address),
        after: address_json(address),
    };
    change.record(&mut transaction, author).await?;
    transaction.commit().await?;
    Ok(mail.address)
}

/// An e-mail whose row is locked.
struct LockedMail {
    address: String,
    is_sent: bool,
    /// The time for which a server that sends the e-mail may still need, in seconds.
    claimed_for_s: i64,
}

async fn lock(connection: &mut PgConnection, id: i64) -> Result<LockedMail, BackOfficeError> {
    let mail = sqlx::query_as!(
        LockedMail,
        r#"select address, sent_at is not null as "is_sent!",
               coalesce(ceil(extract(epoch from claimed_until - now() at time zone 'utc')), 0)::bigint as "claimed_for_s!"
           from email_outbox where id = $1 for no key update"#,
        id
    );
    let mail = mail.fetch_optional(connection).await?;
    mail.ok_or_else(|| BackOfficeError::NotFound(format!("there is no e-mail {id}: `mortise mail list` shows all")))
}
