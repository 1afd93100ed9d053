//! Tops up a sold card, with the payment of `card_payment_add`.

use bigdecimal::BigDecimal;
use serde_json::{Map, json};
use sqlx::PgConnection;

use super::BackOfficeError;
use crate::accounts::Currencies;
use crate::input;
use crate::money::Money;
use crate::store::card_payment::{CardPayment, parse_amount};
use crate::store::change_log::{Author, RowChange, What};

/// Maximum length of a description, that of MOR's column.
pub const DESCRIPTION_CHARS_MAX: usize = 255;

/// A card to top up.
#[derive(Debug)]
pub struct TopUp<'a> {
    /// The card's id.
    pub card_id: i64,
    /// The amount paid, taxes included, in the system's currency; as it was typed.
    pub amount: &'a str,
    /// The description of the payment.
    pub description: &'a str,
    /// All currencies.
    pub currencies: &'a Currencies,
}

/// A completed top-up. Amounts are in the system's currency.
#[derive(Debug)]
pub struct ToppedUp {
    /// The card's number.
    pub number: String,
    /// The name of the system's currency.
    pub currency: String,
    /// What was paid, taxes included.
    pub paid: Money,
    /// What the card got: the amount without tax.
    pub added: Money,
    /// The balance of the card after the top-up.
    pub balance: Money,
}

impl TopUp<'_> {
    /// Tops up the card, in the caller's transaction.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::NotFound`] if the card does not exist, [`BackOfficeError::Refused`] if it is not sold, cannot
    /// be used, or if the amount or the description is invalid.
    pub async fn run(&self, connection: &mut PgConnection, author: &Author) -> Result<ToppedUp, BackOfficeError> {
        let payment = self.read_payment(author)?;
        let id = self.card_id;
        sqlx::query!("select id from cards where id = $1 for no key update", id)
            .fetch_optional(&mut *connection)
            .await?
            .ok_or_else(|| BackOfficeError::no_card(id))?;
        // In a statement of its own: it sees what a transaction has committed for whose lock the first one waited.
        let card = sqlx::query!(
            r#"select coalesce(number, '') as "number!", cardgroup_id, sold = 1 as "sold!", card_state(cards) as "state!"
               from cards where id = $1"#,
            id
        );
        let card = card.fetch_one(&mut *connection).await?;
        if let Some(message) = refusal(&card.number, &card.state, card.sold) {
            return Err(BackOfficeError::Refused(message));
        }
        let change = RowChange::begin(&mut *connection, What::Card, id).await?;
        let paid = payment.add(&mut *connection, id, card.cardgroup_id, false).await?;
        let paid = paid.ok_or_else(|| {
            BackOfficeError::refused(format!("the taxes of the card group {} are -100 % or less", card.cardgroup_id))
        })?;
        let paid_amount = Money::from(payment.amount);
        let details = json!({ "payment": paid.payment_id, "amount": paid_amount, "currency": payment.currency });
        let details = Map::from_iter([("topped_up".to_owned(), details)]);
        change.record_with(connection, author, details).await?;
        Ok(ToppedUp {
            number: card.number,
            currency: payment.currency,
            paid: paid_amount,
            added: paid.without_tax,
            balance: paid.new_balance,
        })
    }

    fn read_payment(&self, author: &Author) -> Result<CardPayment, BackOfficeError> {
        let system = self.currencies.system();
        let system = system.ok_or_else(|| BackOfficeError::refused("the system's currency is missing"))?;
        let amount = parse_amount(self.amount)
            .ok_or_else(|| BackOfficeError::refused("the amount must be a number above 0, such as 11.90"))?;
        let description = input::parse_name(self.description.trim())
            .map_err(|message| BackOfficeError::refused(format!("the description is invalid: {message}")))?;
        if description.chars().count() > DESCRIPTION_CHARS_MAX {
            let message = format!("the description has more than {DESCRIPTION_CHARS_MAX} characters");
            return Err(BackOfficeError::Refused(message));
        }
        Ok(CardPayment {
            caller_id: author.user_id(),
            amount,
            currency: system.name.clone(),
            rate: BigDecimal::from(1),
            description,
            display_rate: BigDecimal::from(1),
            reference: None,
        })
    }
}

/// Why a card in this state cannot be topped up. `None`: it can. The API refuses the same cards.
pub(super) fn refusal(number: &str, state: &str, sold: bool) -> Option<String> {
    match (state, sold) {
        ("sold", true) => None,
        ("sold", false) => Some(format!("the card {number} has a payment of a sale, but is not marked as sold")),
        _ => Some(format!("the card {number} is {state}: only a sold card can be topped up")),
    }
}
