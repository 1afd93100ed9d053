//! Undoes the sale of a card: its payments are refunded, its balance is removed, and it is never sold again, because
//! its PIN was seen.

use bigdecimal::{BigDecimal, RoundingMode};
use serde::Serialize;
use serde_json::{Map, json};
use sqlx::PgConnection;

use super::card_payment::{audit_payments, write_off};
use super::outbox::remove_cards_from_mails;
use super::{BackOfficeError, replaced_cards};
use crate::money::{AMOUNT_MAX_EXCLUSIVE, Money};
use crate::number;
use crate::store::card::retire;
use crate::store::change_log::{Author, RowChange, What};

/// A card whose sale is undone.
#[derive(Debug)]
pub struct Void<'a> {
    /// The card's id.
    pub card_id: i64,
    /// Why. The change log gets it.
    pub reason: &'a str,
    /// Whether the card may have been used.
    pub used: bool,
    /// What is refunded. `None`: everything, if the card is not used and was sold here.
    pub refund: Option<Refund>,
}

/// What is refunded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refund {
    /// All payments of the card, with their taxes.
    Full,
    /// Nothing.
    None,
    /// An amount in the currency of the sale, without tax; the tax is added in proportion.
    Amount(BigDecimal),
}

impl Refund {
    /// Reads `full`, `none` or an amount.
    ///
    /// # Errors
    ///
    /// Any other text.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "full" => Ok(Self::Full),
            "none" => Ok(Self::None),
            text => number::parse_whole_decimal(text)
                .map(|amount: BigDecimal| amount.normalized())
                .filter(|amount| *amount > 0 && *amount < AMOUNT_MAX_EXCLUSIVE && amount.fractional_digit_count() <= 15)
                .map(Self::Amount)
                .ok_or_else(|| "expected full, none, or an amount above 0, such as 8.40".to_owned()),
        }
    }
}

/// What is known about a void before it is carried out.
#[derive(Debug, Serialize)]
pub struct VoidTerms {
    /// Why the card cannot be voided. `None`: it can.
    pub refused: Option<String>,
    /// Whether the card was used, or its balance was moved: [`Void::used`] and [`Void::refund`] must be set.
    pub used: bool,
    /// Whether no payment of ours is known: nothing can be refunded.
    pub sold_in_mor: bool,
    /// The refunds of everything that was paid.
    pub refunds: Vec<RefundRow>,
}

impl VoidTerms {
    /// Reads the terms. They can change until the card is locked.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::NotFound`] if the card does not exist.
    pub async fn load(connection: &mut PgConnection, card_id: i64) -> Result<Self, BackOfficeError> {
        let card = Card::load(&mut *connection, card_id).await?;
        let card = card.ok_or_else(|| not_found(card_id))?;
        let cards = replaced_cards(&mut *connection, card_id).await?;
        let paid = find_paid_amounts(&mut *connection, &cards).await?;
        let already = card.voided.as_ref().map(|on| format!("the card {} was voided on {on}", card.number));
        Ok(Self {
            refused: already.or_else(|| card.refusal(card_id, !paid.is_empty())),
            used: card.retired || is_used(connection, &cards).await?,
            sold_in_mor: paid.is_empty(),
            refunds: paid.iter().map(|paid| paid.refund(&paid.without_tax())).collect(),
        })
    }
}

/// The outcome of a void.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum VoidOutcome {
    /// The sale was undone.
    Voided {
        /// The refunds, as the payments have them: amounts below 0.
        refunds: Vec<RefundRow>,
        /// What was removed from the card; in the system's currency.
        balance_removed: Money,
        /// The e-mails that were not sent yet and lost the card.
        mails: Vec<i64>,
    },
    /// The card was voided before. Nothing was written.
    AlreadyVoided {
        /// The day and the reason: 3 Nov 2026 (the wrong card).
        voided_on: String,
    },
}

/// A refund.
#[derive(Debug, Clone, Serialize)]
pub struct RefundRow {
    /// The payment that it undoes.
    pub reverses: i64,
    /// Without tax, unless `tax_included`.
    pub amount: Money,
    /// The tax.
    pub tax: Money,
    /// The currency of both.
    pub currency: String,
    /// Whether the amount includes tax, as that of a top-up by `card_payment_add`.
    pub tax_included: bool,
}

/// The locked card.
struct Card {
    number: String,
    sold: bool,
    quarantined: bool,
    retired: bool,
    balance: BigDecimal,
    /// The day and the reason of an earlier void.
    voided: Option<String>,
    /// The number of the card that replaces it.
    replaced_by: Option<String>,
}

/// A payment of the card, or of a card that it replaces, without refunds.
struct PaidAmount {
    id: i64,
    amount: BigDecimal,
    tax: BigDecimal,
    currency: String,
    tax_included: bool,
}

impl Void<'_> {
    /// Undoes the sale, in the caller's transaction.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::NotFound`] if the card does not exist, [`BackOfficeError::Refused`] if it was not sold, was
    /// used, or another amount must be refunded.
    pub async fn run(&self, connection: &mut PgConnection, author: &Author) -> Result<VoidOutcome, BackOfficeError> {
        let card = self.lock(&mut *connection).await?;
        if let Some(voided_on) = &card.voided {
            return Ok(VoidOutcome::AlreadyVoided { voided_on: voided_on.clone() });
        }
        let cards = replaced_cards(&mut *connection, self.card_id).await?;
        let paid = find_paid_amounts(&mut *connection, &cards).await?;
        self.check(&card, !paid.is_empty(), is_used(&mut *connection, &cards).await?)?;
        let refunds = self.refunds(&paid)?;
        let change = RowChange::begin(&mut *connection, What::Card, self.card_id).await?;
        match refunds.is_empty() {
            true => write_off(&mut *connection, self.card_id, &card.balance, author).await?,
            false => write_refunds(&mut *connection, &refunds, &card.balance, author).await?,
        }
        retire(&mut *connection, self.card_id).await?;
        let mails = remove_cards_from_mails(&mut *connection, &cards).await?;
        let details = json!({ "voided": self.reason, "refunds": refunds, "mails": mails });
        let details = if let serde_json::Value::Object(details) = details { details } else { Map::new() };
        change.record_with(connection, author, details).await?;
        Ok(VoidOutcome::Voided { refunds, balance_removed: card.balance.into(), mails })
    }

    /// Locks the card first: a top-up, a transfer, a reissue or another void of the card waits, or has ended.
    async fn lock(&self, connection: &mut PgConnection) -> Result<Card, BackOfficeError> {
        let id = self.card_id;
        sqlx::query!("select id from cards where id = $1 for no key update", id)
            .fetch_optional(&mut *connection)
            .await?
            .ok_or_else(|| not_found(id))?;
        let card = Card::load(connection, id).await?;
        card.ok_or_else(|| not_found(id))
    }

    fn check(&self, card: &Card, has_payments: bool, is_used: bool) -> Result<(), BackOfficeError> {
        let number = &card.number;
        let message = if let Some(message) = card.refusal(self.card_id, has_payments) {
            message
        } else if card.retired && !(self.used && self.refund.is_some()) {
            format!(
                "the card {number} was used, its balance was moved to another card or user: say --used and what to \
                 refund, --refund full, none or an amount"
            )
        } else if is_used && !(self.used && self.refund.is_some()) {
            format!("the card {number} was used: say --used and what to refund, --refund full, none or an amount")
        } else if !has_payments && self.refund != Some(Refund::None) {
            format!("the card {number} was sold in MOR, its payment is not known here: use --refund none")
        } else {
            return Ok(());
        };
        Err(BackOfficeError::Refused(message))
    }

    /// Returns the refunds. An amount is taken from the sale first, then from the top-ups in the sale's currency.
    fn refunds(&self, paid: &[PaidAmount]) -> Result<Vec<RefundRow>, BackOfficeError> {
        let amount = match &self.refund {
            Some(Refund::None) => return Ok(Vec::new()),
            None | Some(Refund::Full) => return Ok(paid.iter().map(|paid| paid.refund(&paid.without_tax())).collect()),
            Some(Refund::Amount(amount)) => amount,
        };
        let Some(sale) = paid.first() else { return Ok(Vec::new()) };
        let mut left = amount.clone();
        let mut refunds = Vec::new();
        for paid in paid.iter().filter(|paid| paid.currency == sale.currency && paid.amount > 0) {
            let part = left.clone().min(paid.without_tax());
            if part > 0 {
                refunds.push(paid.refund(&part));
                left -= part;
            }
        }
        if left > 0 {
            let most = Money::from(amount - left).to_plain_string();
            return Err(BackOfficeError::Refused(format!("only {most} {} were paid, without tax", sale.currency)));
        }
        Ok(refunds)
    }
}

impl Card {
    async fn load(connection: &mut PgConnection, id: i64) -> sqlx::Result<Option<Self>> {
        let card = sqlx::query_as!(
            Card,
            r#"select coalesce(c.number, '') as "number!", c.sold = 1 or has_sale_payment(c) as "sold!",
                   c.quarantined_at is not null and c.retired_at is null as "quarantined!",
                   c.retired_at is not null and c.quarantined_at is null as "retired!", coalesce(c.balance, 0) as "balance!",
                   (select to_char(at, 'FMDD Mon YYYY') || ' (' || (after ->> 'voided') || ')' from change_log
                    where what = 'card' and target_id = $1 and after ->> 'voided' is not null order by id + 0 limit 1) as voided,
                   (select coalesce(replacing.number, replacing.id::text) from payments p join cards replacing on replacing.id = p.user_id
                    where p.replaces_card = $1) as replaced_by
               from cards c where c.id = $1"#,
            id
        );
        card.fetch_optional(connection).await
    }

    /// Why the card cannot be voided, whatever is refunded.
    fn refusal(&self, id: i64, has_payments: bool) -> Option<String> {
        let number = &self.number;
        if self.quarantined {
            Some(format!("the card {number} is quarantined: decide with `mortise card settle {id}`"))
        } else if let Some(replacing) = &self.replaced_by {
            Some(format!("the card {number} was replaced by the card {replacing}: void that one"))
        } else if !self.sold && !has_payments {
            Some(format!("the card {number} was never sold"))
        } else {
            None
        }
    }
}

impl PaidAmount {
    fn without_tax(&self) -> BigDecimal {
        without_tax(&self.amount, &self.tax, self.tax_included)
    }

    /// The refund of a part of the amount without tax. The columns of the payment are refunded in proportion.
    fn refund(&self, part: &BigDecimal) -> RefundRow {
        let whole = self.without_tax();
        let share = |value: &BigDecimal| match *part == whole {
            true => -value,
            false => -(value * part / &whole).with_scale_round(15, RoundingMode::HalfUp),
        };
        RefundRow {
            reverses: self.id,
            amount: share(&self.amount).into(),
            tax: share(&self.tax).into(),
            currency: self.currency.clone(),
            tax_included: self.tax_included,
        }
    }
}

impl RefundRow {
    /// What is refunded without tax, above 0.
    pub fn without_tax(&self) -> BigDecimal {
        let [amount, tax] = [&self.amount, &self.tax].map(|money| -BigDecimal::from(money.clone()));
        without_tax(&amount, &tax, self.tax_included)
    }
}

/// Returns an amount without tax. If the amount includes tax, the tax is the amount times the rate, as in MOR: at 19 %,
/// 2.261 of 11.9.
fn without_tax(amount: &BigDecimal, tax: &BigDecimal, tax_included: bool) -> BigDecimal {
    let divisor = amount + tax;
    match tax_included && divisor > 0 {
        true => (amount * amount / divisor).with_scale_round(15, RoundingMode::HalfUp),
        false => amount.clone(),
    }
}

fn not_found(card_id: i64) -> BackOfficeError {
    BackOfficeError::NotFound(format!("there is no card with the id {card_id}"))
}

/// Returns the sales and top-ups of the cards that have no refund: the sale first.
async fn find_paid_amounts(connection: &mut PgConnection, cards: &[i64]) -> sqlx::Result<Vec<PaidAmount>> {
    sqlx::query_as!(
        PaidAmount,
        r#"select id, coalesce(amount, 0) as "amount!", coalesce(tax, 0) as "tax!", currency,
               coalesce(tax_included, false) as "tax_included!"
           from payments p
           where user_id = any ($1) and card = 1 and kind in ('sale', 'top_up')
               and not exists (select from payments refund where refund.reverses = p.id)
           order by kind, date_added, id"#,
        cards
    )
    .fetch_all(connection)
    .await
}

/// Whether one of the cards was used: by calls, top-ups, or transfers from or to it. A sale by `card_by_cli_update`
/// counts: it can move the balance of another card to the new one. Only that operation writes no audit row of the sale.
async fn is_used(connection: &mut PgConnection, cards: &[i64]) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from cards c where id = any ($1) and has_calls(c))
               or exists (select from payments where user_id = any ($1) and card = 1 and kind = 'top_up')
               or exists (
                   select from actions
                   where target_type = 'card' and target_id = any ($1) and action = 'Added to cards balance')
               or exists (
                   select from payments p
                   where p.user_id = any ($1) and p.kind = 'sale' and not exists (
                       select from actions
                       where target_type = 'Card' and target_id = p.user_id and action = 'card_sell_over_api'))
               as "used!""#,
        cards
    )
    .fetch_one(connection)
    .await
}

/// Writes the refunds. The first one has the balance that is removed from the card.
async fn write_refunds(
    connection: &mut PgConnection,
    refunds: &[RefundRow],
    balance: &BigDecimal,
    author: &Author,
) -> sqlx::Result<()> {
    let reversed: Vec<i64> = refunds.iter().map(|refund| refund.reverses).collect();
    let amounts: Vec<BigDecimal> = refunds.iter().map(|refund| refund.amount.clone().into()).collect();
    let taxes: Vec<BigDecimal> = refunds.iter().map(|refund| refund.tax.clone().into()).collect();
    let ids = sqlx::query_scalar!(
        r#"insert into payments (paymenttype, kind, amount, currency, tax, user_id, owner_id, card, completed, date_added,
               shipped_at, description, caller_id, reverses, tax_included, balance_change)
           select 'Card', 'refund', refund.amount, p.currency, refund.tax, p.user_id, p.owner_id, 1, 1, now() at time zone 'utc',
               now() at time zone 'utc', '', $4, p.id, p.tax_included, case when position = 1 then -$5::numeric end
           from unnest($1::bigint[], $2::numeric[], $3::numeric[]) with ordinality refund (reverses, amount, tax, position)
           join payments p on p.id = refund.reverses
           order by position
           returning id"#,
        &reversed,
        &amounts,
        &taxes,
        author.user_id(),
        balance
    );
    let ids = ids.fetch_all(&mut *connection).await?;
    audit_payments(connection, &ids, author).await
}
