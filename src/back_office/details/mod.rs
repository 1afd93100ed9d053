//! All that is known about one card: its state in words, its payments, its history and its e-mails.

mod verdict;

use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use super::BackOfficeError;
use super::void_and_exchange::VoidAndExchange;
use crate::money::Money;
use crate::pin::Pin;
use crate::store::change_log::{Author, Change, Target, What};

/// Maximum number of rows of the history.
const HISTORY_ROWS_MAX: i64 = 100;

/// A card with everything that belongs to it.
#[derive(Debug, Serialize)]
pub struct CardDetails {
    /// The state in words: why the card can or cannot be used or sold.
    pub verdict: String,
    /// The card.
    pub card: CardRow,
    /// Its payments, oldest first.
    pub payments: Vec<PaymentOfCard>,
    /// The order rows and e-mails of its sale.
    pub mails: Vec<CardMail>,
    /// The latest rows of the audit trail about it, oldest first.
    pub history: Vec<HistoryRow>,
    /// Its void and its exchange. Not part of the JSON, whose `verdict` says it.
    #[serde(skip)]
    pub void_and_exchange: VoidAndExchange,
}

/// A card and its group. Times are in UTC.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "MOR's column names")]
pub struct CardRow {
    pub id: i64,
    pub number: Option<String>,
    /// The number of characters of the PIN. `None`: the card has no PIN. Not part of the JSON.
    #[serde(skip)]
    pub pin_length: Option<i32>,
    pub serial: Option<String>,
    pub batch_number: Option<String>,
    pub cardgroup_id: i32,
    pub cardgroup: String,
    pub cardgroup_price: Option<Money>,
    pub owner_id: i32,
    pub owner: Option<String>,
    /// As the SQL function `card_state` returns it.
    pub state: String,
    /// In the system's currency, without tax.
    pub balance: Money,
    pub sold: bool,
    pub hidden: bool,
    pub withheld: Option<String>,
    pub retired: bool,
    pub callerid: Option<String>,
    pub language: Option<String>,
    pub name: Option<String>,
    pub distributor: Option<String>,
    pub call_count: i32,
    pub first_use: Option<String>,
    pub daily_charge_paid_till: Option<String>,
    pub retired_on: Option<String>,
    pub quarantined_on: Option<String>,
    pub first_used_on: Option<String>,
    pub cardgroup_deleted: bool,
    pub valid_from: Option<String>,
    pub valid_till: Option<String>,
    /// The day on which the validity begins, if it has not begun.
    pub begins_on: Option<String>,
    /// The day on which the validity ended, if it has ended.
    pub expired_on: Option<String>,
    /// The day on which the days after the first use ended, if they have ended.
    pub expired_after_use_on: Option<String>,
    /// Days.
    pub valid_after_first_use: i32,
    /// The rule of the import about the card.
    pub import_rule: Option<String>,
}

/// A payment of a card.
#[derive(Debug, Serialize)]
pub struct PaymentOfCard {
    /// The id in the table `payments`.
    pub id: i64,
    /// UTC.
    pub at: Option<String>,
    /// The day: 3 Nov 2026.
    pub on: Option<String>,
    /// The kind. `None`: a payment from MOR.
    pub kind: Option<String>,
    /// Without tax, except a top-up by `card_payment_add`.
    pub amount: Money,
    /// The tax.
    pub tax: Money,
    /// The currency of both.
    pub currency: String,
    /// The API user who caused it. `None`: a command, or MOR.
    pub user: Option<String>,
    /// The shop's reference.
    pub reference: Option<String>,
    /// The payment that a refund undoes.
    pub reverses: Option<i64>,
    /// The number of the card that this card replaces.
    pub replaced_number: Option<String>,
    /// The description that the client sent.
    pub description: Option<String>,
}

/// An order row of a sale, and its e-mail if one is stored.
#[derive(Debug, Serialize)]
pub struct CardMail {
    /// The id of the e-mail, as in `mortise mail list`. `None`: no e-mail is stored.
    pub mail_id: Option<i64>,
    /// The buyer's address.
    pub address: String,
    /// UTC.
    pub ordered_at: Option<String>,
    /// `sent`, `failed` or `waiting`. `None`: no e-mail is stored.
    pub mail: Option<String>,
    /// When the e-mail was sent or failed; UTC.
    pub mailed_at: Option<String>,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// A row of the audit trail.
#[derive(Debug, Serialize)]
pub struct HistoryRow {
    /// UTC.
    pub at: String,
    /// The API user, or `command` with the name of the operating system's user.
    pub user: Option<String>,
    /// The action of MOR's audit trail, or what was changed.
    pub what: String,
    /// The data of the action, or the changed fields.
    pub details: String,
}

/// Reads a card with everything that belongs to it.
///
/// # Errors
///
/// [`BackOfficeError::NotFound`] if the card does not exist.
pub async fn load(connection: &mut PgConnection, card_id: i64) -> Result<CardDetails, BackOfficeError> {
    let mut details = load_without_history(&mut *connection, card_id).await?;
    details.history = load_history(connection, &details.card, &details.payments).await?;
    Ok(details)
}

/// Like [`load`], but without rows of the audit trail: see [`timeline`](super::timeline).
///
/// # Errors
///
/// As [`load`].
pub async fn load_without_history(connection: &mut PgConnection, card_id: i64) -> Result<CardDetails, BackOfficeError> {
    let card = sqlx::query_file_as!(CardRow, "src/back_office/card_details.sql", card_id);
    let card = card.fetch_optional(&mut *connection).await?;
    let card = card.ok_or_else(|| BackOfficeError::no_card(card_id))?;
    let payments = load_payments(&mut *connection, card_id).await?;
    let mails = load_mails(&mut *connection, card_id).await?;
    let void_and_exchange = VoidAndExchange::load(&mut *connection, card_id).await?;
    let verdict = verdict::describe(&card, &payments, &void_and_exchange);
    Ok(CardDetails { verdict, card, payments, mails, history: Vec::new(), void_and_exchange })
}

/// Reads the sale of the card, and its latest 1000 payments.
async fn load_payments(connection: &mut PgConnection, card_id: i64) -> sqlx::Result<Vec<PaymentOfCard>> {
    sqlx::query_as!(
        PaymentOfCard,
        r#"select p.id, to_char(p.date_added, 'YYYY-MM-DD HH24:MI:SS') as at, to_char(p.date_added, 'FMDD Mon YYYY') as on,
               p.kind, coalesce(p.amount, 0) as "amount!: Money", coalesce(p.tax, 0) as "tax!: Money", p.currency,
               u.username as "user?", p.reference, p.reverses, old.number as "replaced_number?", nullif(p.description, '') as description
           from (
               select * from payments
               where id = any (array(
                   (select id from payments where user_id = $1 and card = 1 and kind in ('sale', 'reissue') limit 2)
                   union all
                   (select id from payments where user_id = $1 and card = 1 order by date_added desc limit 1000)))
               offset 0
           ) p left join users u on u.id = p.caller_id left join cards old on old.id = p.replaces_card
           order by p.date_added, p.id"#,
        card_id
    )
    .fetch_all(connection)
    .await
}

/// Reads the latest 1000 orders. The e-mail of a sale has the time of the sale's payment.
///
/// # Errors
///
/// Database errors.
pub async fn load_mails(connection: &mut PgConnection, card_id: i64) -> sqlx::Result<Vec<CardMail>> {
    sqlx::query_as!(
        CardMail,
        r#"select m.id as "mail_id?", coalesce(m.address, o.email, '') as "address!", to_char(o.date_added, 'YYYY-MM-DD HH24:MI:SS') as ordered_at,
               case when m.sent_at is not null then 'sent' when m.failed_at is not null then 'failed'
                   when m.id is not null then 'waiting' end as mail,
               to_char(coalesce(m.sent_at, m.failed_at), 'YYYY-MM-DD HH24:MI:SS') as mailed_at, m.last_error as "error?"
           from (select * from cclineitems where card_id = $1 order by id + 0 desc limit 1000) l
           join ccorders o on o.id = l.ccorder_id
           left join email_outbox m on m.created_at = o.date_added and m.card_ids @> array[$1::bigint]
           order by o.id + 0"#,
        card_id
    )
    .fetch_all(connection)
    .await
}

async fn load_history(
    connection: &mut PgConnection,
    card: &CardRow,
    payments: &[PaymentOfCard],
) -> sqlx::Result<Vec<HistoryRow>> {
    let payment_ids: Vec<i64> = payments.iter().map(|payment| payment.id).collect();
    let rows = sqlx::query_file_as!(
        HistoryRow,
        "src/back_office/card_history.sql",
        card.id,
        card.cardgroup_id,
        card.number,
        &payment_ids,
        HISTORY_ROWS_MAX
    );
    let mut rows = rows.fetch_all(connection).await?;
    rows.reverse();
    Ok(rows)
}

impl PaymentOfCard {
    /// Whether the payment has sold the card, or has issued it in exchange for another one.
    pub fn is_sale(&self) -> bool {
        matches!(self.kind.as_deref(), Some("sale" | "reissue"))
    }
}

/// A PIN to show.
#[derive(Debug)]
pub struct RevealedPin {
    /// The card number.
    pub number: String,
    /// `None`: the card has no PIN.
    pub pin: Option<Pin>,
}

/// Returns the PIN of a card, and writes a row of the change log.
///
/// # Errors
///
/// [`BackOfficeError::NotFound`] if the card does not exist.
pub async fn reveal_pin(
    connection: &mut PgConnection,
    card_id: i64,
    author: &Author,
) -> Result<RevealedPin, BackOfficeError> {
    let card = sqlx::query_as!(
        RevealedPin,
        r#"select coalesce(number, '') as "number!", pin as "pin: Pin" from cards where id = $1"#,
        card_id
    );
    let card = card.fetch_optional(&mut *connection).await?.ok_or_else(|| BackOfficeError::no_card(card_id))?;
    let target = Target::Row { id: card_id, name: &card.number };
    let after = Some(json!({ "pin_shown": true }).to_string());
    Change { what: What::Card, target, before: None, after }.record(connection, author).await?;
    Ok(RevealedPin { pin: card.pin.filter(|pin| !pin.is_blank()), ..card })
}
