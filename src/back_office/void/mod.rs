//! Undoes the sale of a card: its payments are refunded, its balance is removed, and it is never sold again, because
//! its PIN was seen.

mod refunds;

use bigdecimal::BigDecimal;
use serde::Serialize;
use serde_json::{Map, json};
use sqlx::PgConnection;

pub use self::refunds::RefundRow;
use self::refunds::{PaidAmount, find_paid_amounts, refund_all, refund_amount, write_refunds};
use super::outbox::remove_cards_from_mails;
use super::payments::write_off;
use super::void_and_exchange::VoidAndExchange;
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

/// A choice that the void of the card requires and a [`Void`] lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingChoice {
    /// The card was used: [`Void::used`] and [`Void::refund`] must be set.
    Used,
    /// No payment of ours is known: [`Void::refund`] must be [`Refund::None`].
    NoRefund,
}

impl VoidTerms {
    /// Reads the terms. They can change until the card is locked.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::NotFound`] if the card does not exist.
    pub async fn load(connection: &mut PgConnection, card_id: i64) -> Result<Self, BackOfficeError> {
        Ok(Card::load(connection, card_id).await?.terms())
    }

    /// Returns the choice that the void of the card requires and these values lack.
    pub fn missing_choice(&self, used: bool, refund: Option<&Refund>) -> Option<MissingChoice> {
        if self.used && !(used && refund.is_some()) {
            Some(MissingChoice::Used)
        } else if self.sold_in_mor && refund != Some(&Refund::None) {
            Some(MissingChoice::NoRefund)
        } else {
            None
        }
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

impl Void<'_> {
    /// Undoes the sale, in the caller's transaction.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::NotFound`] if the card does not exist, [`BackOfficeError::Refused`] if it was not sold, was
    /// used, or another amount must be refunded.
    pub async fn run(&self, connection: &mut PgConnection, author: &Author) -> Result<VoidOutcome, BackOfficeError> {
        let card = self.lock(&mut *connection).await?;
        if let Some(voided_on) = &card.void_and_exchange.voided {
            return Ok(VoidOutcome::AlreadyVoided { voided_on: voided_on.clone() });
        }
        self.check(&card)?;
        let refunds = match &self.refund {
            Some(Refund::None) => Vec::new(),
            None | Some(Refund::Full) => refund_all(&card.paid),
            Some(Refund::Amount(amount)) => refund_amount(&card.paid, amount)?,
        };
        let change = RowChange::begin(&mut *connection, What::Card, self.card_id).await?;
        match refunds.is_empty() {
            true => write_off(&mut *connection, self.card_id, &card.row.balance, author).await?,
            false => write_refunds(&mut *connection, &refunds, &card.row.balance, author).await?,
        }
        retire(&mut *connection, self.card_id).await?;
        let mails = remove_cards_from_mails(&mut *connection, &card.with_replaced).await?;
        let details = json!({ "voided": self.reason, "refunds": refunds, "mails": mails });
        let details = if let serde_json::Value::Object(details) = details { details } else { Map::new() };
        change.record_with(connection, author, details).await?;
        Ok(VoidOutcome::Voided { refunds, balance_removed: card.row.balance.into(), mails })
    }

    /// Locks the card first: a top-up, a transfer, a reissue or another void of the card waits, or has ended.
    async fn lock(&self, connection: &mut PgConnection) -> Result<Card, BackOfficeError> {
        let id = self.card_id;
        let locked = sqlx::query_scalar!("select id from cards where id = $1 for no key update", id);
        locked.fetch_optional(&mut *connection).await?.ok_or_else(|| BackOfficeError::no_card(id))?;
        Card::load(connection, id).await
    }

    fn check(&self, card: &Card) -> Result<(), BackOfficeError> {
        let (number, terms) = (&card.row.number, card.terms());
        let message = match (terms.refused.as_ref(), terms.missing_choice(self.used, self.refund.as_ref())) {
            (Some(refused), _) => refused.clone(),
            (None, None) => return Ok(()),
            (None, Some(MissingChoice::Used)) => {
                let moved = if card.row.retired { ", its balance was moved to another card or user" } else { "" };
                format!(
                    "the card {number} was used{moved}: say --used and what to refund, --refund full, none or an amount"
                )
            }
            (None, Some(MissingChoice::NoRefund)) => {
                format!("the card {number} was sold in MOR, its payment is not known here: use --refund none")
            }
        };
        Err(BackOfficeError::Refused(message))
    }
}

/// A card, with what its void depends on.
struct Card {
    row: CardRow,
    void_and_exchange: VoidAndExchange,
    /// The ids of the card and of the cards that it replaces.
    with_replaced: Vec<i64>,
    /// The payments of these cards.
    paid: Vec<PaidAmount>,
    /// Whether one of them was used, or the balance of the card was moved.
    is_used: bool,
}

struct CardRow {
    id: i64,
    number: String,
    sold: bool,
    quarantined: bool,
    /// Retired, and not by a decision about the import's quarantine.
    retired: bool,
    balance: BigDecimal,
}

impl Card {
    async fn load(connection: &mut PgConnection, id: i64) -> Result<Self, BackOfficeError> {
        let row = sqlx::query_as!(
            CardRow,
            r#"select id, coalesce(number, '') as "number!", sold = 1 or has_sale_payment(c) as "sold!",
                   quarantined_at is not null and retired_at is null as "quarantined!",
                   retired_at is not null and quarantined_at is null as "retired!", coalesce(balance, 0) as "balance!"
               from cards c where id = $1"#,
            id
        );
        let row = row.fetch_optional(&mut *connection).await?.ok_or_else(|| BackOfficeError::no_card(id))?;
        let void_and_exchange = VoidAndExchange::load(&mut *connection, id).await?;
        let with_replaced = replaced_cards(&mut *connection, id).await?;
        let paid = find_paid_amounts(&mut *connection, &with_replaced).await?;
        let is_used = row.retired || is_used(connection, &with_replaced).await?;
        Ok(Self { row, void_and_exchange, with_replaced, paid, is_used })
    }

    fn terms(&self) -> VoidTerms {
        VoidTerms {
            refused: self.refusal(),
            used: self.is_used,
            sold_in_mor: self.paid.is_empty(),
            refunds: refund_all(&self.paid),
        }
    }

    /// Why the card cannot be voided, whatever is refunded.
    fn refusal(&self) -> Option<String> {
        let CardRow { id, number, .. } = &self.row;
        if let Some(voided_on) = &self.void_and_exchange.voided {
            Some(format!("the card {number} was voided on {voided_on}"))
        } else if self.row.quarantined {
            Some(format!("the card {number} is quarantined: decide with `mortise card settle {id}`"))
        } else if let Some(replacing) = &self.void_and_exchange.replaced_by_number {
            Some(format!("the card {number} was replaced by the card {replacing}: void that one"))
        } else if !self.row.sold && self.paid.is_empty() {
            Some(format!("the card {number} was never sold"))
        } else {
            None
        }
    }
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
