//! The cards that the import has quarantined, and the decisions about them.

use bigdecimal::BigDecimal;
use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::PgConnection;
use strum::{EnumString, IntoStaticStr, VariantNames};

use super::BackOfficeError;
use super::payments::write_off;
use crate::money::Money;
use crate::store::card::retire;
use crate::store::change_log::{Author, RowChange, What};

/// A quarantined card.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "MOR's column names")]
pub struct QuarantinedCard {
    pub id: i64,
    pub number: Option<String>,
    pub cardgroup_id: i32,
    /// In the system's currency, without tax.
    pub balance: Money,
    /// MOR's flag.
    pub sold: bool,
    /// Deleted in MOR.
    pub hidden: bool,
    pub withheld: Option<String>,
    pub first_use: Option<String>,
    /// The rules of the import that quarantined it.
    pub rules: Option<String>,
}

/// Returns the cards that wait for a decision.
///
/// # Errors
///
/// Database errors.
pub async fn list_quarantined(connection: &mut PgConnection) -> sqlx::Result<Vec<QuarantinedCard>> {
    sqlx::query_as!(
        QuarantinedCard,
        r#"select id, number, cardgroup_id, coalesce(balance, 0) as "balance!: Money", sold = 1 as "sold!",
               hidden <> 0 as "hidden!", withheld, to_char(first_use, 'YYYY-MM-DD HH24:MI:SS') as first_use,
               (select string_agg(distinct rule, ', ' order by rule) from import_findings
                where "table" = 'cards' and import_findings.id = c.id) as rules
           from cards c
           where (hidden <> 0 or quarantined_at is not null) and quarantined_at is not null and retired_at is null
           order by cardgroup_id, number, id"#
    )
    .fetch_all(connection)
    .await
}

/// What becomes of a quarantined card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Settlement {
    /// Sold and usable, also if MOR has deleted it.
    Sold,
    /// In stock again, also if MOR has deleted it or the import has reserved it.
    Free,
    /// Never used or sold again; its balance is given up.
    Retired,
}

/// A decision about a quarantined card.
#[derive(Debug)]
pub struct Settle<'a> {
    /// The card's id.
    pub card_id: i64,
    /// What becomes of it.
    pub settlement: Settlement,
    /// Whether a card that looks used may come into stock.
    pub used: bool,
    /// Why. The change log gets it.
    pub reason: &'a str,
}

impl Settle<'_> {
    /// Carries out the decision, in the caller's transaction. Returns `false` if it was made before.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::NotFound`] if the card does not exist, [`BackOfficeError::Refused`] if it is not
    /// quarantined, or if the decision contradicts the card or another card.
    pub async fn run(&self, connection: &mut PgConnection, author: &Author) -> Result<bool, BackOfficeError> {
        let id = self.card_id;
        let card = sqlx::query!(
            r#"select quarantined_at is not null and retired_at is null as "quarantined!", coalesce(balance, 0) as "balance!"
               from cards where id = $1 for no key update"#,
            id
        );
        let card = card.fetch_optional(&mut *connection).await?;
        let card = card.ok_or_else(|| BackOfficeError::no_card(id))?;
        let decision: &'static str = self.settlement.into();
        if !card.quarantined {
            return match find_decision(&mut *connection, id).await? {
                Some(earlier) if earlier == decision => Ok(false),
                Some(earlier) => Err(BackOfficeError::Refused(format!("the card {id} was settled as {earlier}"))),
                None => Err(BackOfficeError::Refused(format!("the card {id} is not quarantined"))),
            };
        }
        let change = RowChange::begin(&mut *connection, What::Card, id).await?;
        match self.settlement {
            Settlement::Sold => settle_as_sold(&mut *connection, id).await?,
            Settlement::Free => self.settle_as_free(&mut *connection).await?,
            Settlement::Retired => settle_as_retired(&mut *connection, id, &card.balance, author).await?,
        }
        let details = [("settled", decision), ("reason", self.reason)];
        let details: Map<_, _> = details.into_iter().map(|(name, text)| (name.to_owned(), Value::from(text))).collect();
        change.record_with(connection, author, details).await?;
        Ok(true)
    }

    async fn settle_as_free(&self, connection: &mut PgConnection) -> Result<(), BackOfficeError> {
        let card = sqlx::query!(
            r#"select coalesce(c.withheld = 'reserved', false) and not is_sellable(c, g.pin_length, g.number_length)
                   as "unsellable!",
                   c.sold = 1 or has_calls(c) or coalesce(c.callerid, '') <> ''
                   or c.balance is distinct from coalesce(g.price, 0)
                   or exists (
                       select from import_findings
                       where "table" = 'cards' and import_findings.id = c.id and rule = 'used_unsold')
                   or exists (select from payments where user_id = c.id and card = 1)
                   or exists (select from cclineitems where card_id = c.id)
                   or exists (select from vouchers v where v.number = c.number and v.use_date is not null)
                   or exists (
                       select from actions where target_type in ('Card', 'card') and target_id = c.id
                           and action !~* '^(calling_?)?cards?_?(add(ed)?|creat(e|ed|ion))$') as "used!"
               from cards c join cardgroups g on g.id = c.cardgroup_id where c.id = $1"#,
            self.card_id
        );
        let card = card.fetch_one(&mut *connection).await?;
        if card.unsellable {
            return Err(BackOfficeError::refused(
                "the length of the number or the PIN is not that of the card group, or the minimal balance is below 0: \
                 settle the card as retired",
            ));
        }
        if card.used && !self.used {
            let message = format!("the card {} looks used: settle it as sold or retired, or say --used", self.card_id);
            return Err(BackOfficeError::Refused(message));
        }
        let settled = sqlx::query_scalar!(
            r#"update cards c set sold = 0, callerid = null, hidden = 0, withheld = nullif(withheld, 'reserved'),
                   quarantined_at = null
               where id = $1 returning has_sale_payment(c) as "paid!""#,
            self.card_id
        );
        let paid = settled.fetch_one(connection).await.map_err(taken)?;
        if paid { Err(BackOfficeError::refused("the card has a payment of a sale: settle it as sold")) } else { Ok(()) }
    }
}

async fn settle_as_sold(connection: &mut PgConnection, id: i64) -> Result<(), BackOfficeError> {
    sqlx::query!(
        "update cards set sold = 1, active = 1, hidden = 0, withheld = nullif(withheld, 'reserved'), quarantined_at = null
         where id = $1",
        id
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(taken)
}

/// A retired card stays in quarantine: so it can keep a number and a PIN that another card has too.
async fn settle_as_retired(
    connection: &mut PgConnection,
    id: i64,
    balance: &BigDecimal,
    author: &Author,
) -> Result<(), BackOfficeError> {
    write_off(&mut *connection, id, balance, author).await?;
    Ok(retire(connection, id).await?)
}

/// The error of a card whose number or PIN another card has.
fn taken(error: sqlx::Error) -> BackOfficeError {
    let refuse = |field: &str| {
        BackOfficeError::Refused(format!("another card in use has the same {field}: settle the card as retired"))
    };
    let constraint = error.as_database_error().and_then(|error| error.constraint()).unwrap_or_default();
    match constraint {
        "cards_number" | "cards_group_number" => refuse("number"),
        "cards_pin" => refuse("PIN"),
        _ => error.into(),
    }
}

async fn find_decision(connection: &mut PgConnection, id: i64) -> sqlx::Result<Option<String>> {
    let decision = sqlx::query_scalar!(
        "select after ->> 'settled' from change_log
         where what = 'card' and target_id = $1 and after ->> 'settled' is not null order by id + 0 desc limit 1",
        id
    );
    Ok(decision.fetch_optional(connection).await?.flatten())
}
