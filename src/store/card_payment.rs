//! The payment that tops up a sold card, of `card_payment_add` and of the console: one statement, and the rules about
//! its amount.

use bigdecimal::{BigDecimal, RoundingMode};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::money::{AMOUNT_MAX_EXCLUSIVE, Money};
use crate::number;

/// A payment for a card. `card_payment.sql` reads the serialized fields by name.
#[derive(Debug, Serialize)]
pub struct CardPayment {
    /// The API user, for the payment and its audit row. `None`: an account of the console.
    pub caller_id: Option<i32>,
    /// Taxes included, in `currency`.
    pub amount: BigDecimal,
    /// The name of the currency.
    pub currency: String,
    /// The rate from the system's currency to `currency`.
    pub rate: BigDecimal,
    /// The description of the payment.
    pub description: String,
    /// The factor by which balances in the reply are multiplied.
    pub display_rate: BigDecimal,
    /// The client's reference.
    pub reference: Option<String>,
}

/// The amounts of a completed payment in the system's currency, and the balances multiplied by `display_rate`. (An X7
/// server adds the amount to the balance as if it were in the caller's currency.)
#[derive(Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct PaidAmounts {
    /// The id in the table `payments`. Stored replies do not have it.
    #[serde(skip)]
    pub payment_id: i64,
    pub current_balance: Money,
    pub with_tax: Money,
    pub without_tax: Money,
    pub new_balance: Money,
}

impl CardPayment {
    /// Adds the amount without the group's taxes to the balance, and writes the payment and its audit row. The caller
    /// has locked the card. `None`: taxes of -100 % or less, which would change the sign of the amount; the caller then
    /// rolls back.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn add(
        &self,
        connection: &mut PgConnection,
        card_id: i64,
        cardgroup_id: i32,
        accepts_any_tax: bool,
    ) -> sqlx::Result<Option<PaidAmounts>> {
        sqlx::query_file_as!(
            PaidAmounts,
            "src/store/card_payment.sql",
            Json(self) as _,
            card_id,
            cardgroup_id,
            accepts_any_tax
        )
        .fetch_optional(connection)
        .await
    }
}

/// Reads an amount that can be paid: only a number, above 0 and in range.
pub fn parse_amount(text: &str) -> Option<BigDecimal> {
    let amount = round_amount(&number::parse_decimal(text));
    let is_valid = number::is_decimal(text) && amount > 0 && amount < AMOUNT_MAX_EXCLUSIVE;
    is_valid.then_some(amount)
}

/// Rounds to the decimals of the database.
pub fn round_amount(amount: &BigDecimal) -> BigDecimal {
    amount.with_scale_round(15, RoundingMode::HalfUp)
}
