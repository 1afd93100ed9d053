//! Orders of the next free cards of a group.

use std::sync::Arc;

use bigdecimal::BigDecimal;

use crate::idempotency::key::IdempotencyKey;

/// An order of the next free cards of a group.
#[derive(Debug, Clone)]
pub struct SaleOrder {
    /// The card group.
    pub group_id: i32,
    /// The number of cards. The order gets this many or none.
    pub quantity: u32,
    /// The idempotency key under which the reply is stored, if one was sent. A queued order holds the key's lock until
    /// its statement ends, even if the client disconnects: a repeated request waits for the outcome. An order that runs
    /// alone ends with its request; the database then lets a repeated request wait.
    pub key: Option<Arc<IdempotencyKey>>,
    /// The client's reference, for the payments.
    pub reference: Option<String>,
    /// The seller, and how the sale is paid.
    pub terms: Arc<SaleTerms>,
}

/// The user who sells, and how the sale is paid. Orders with equal terms can share a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaleTerms {
    /// The caller's id.
    pub user_id: i32,
    /// The owner that the group must have. A hidden group sells nothing.
    pub owner_id: i32,
    /// The currency that is printed with each balance. The payment is in this currency too, unless
    /// `pays_in_group_currency` is set.
    pub currency: String,
    /// The factor by which a card's balance is multiplied in the reply. It is the rate from the system's currency to
    /// the payment's. If the payment is in the group's currency, it is the rate to the caller's currency, and the
    /// statement multiplies it by the group's.
    pub rate: BigDecimal,
    /// Whether the payment is in the currency of the group.
    pub pays_in_group_currency: bool,
    /// Sell none if one of the cards is not sellable, or the group has no tax row.
    pub only_sellable: bool,
}

impl SaleTerms {
    /// Whether the orders need nothing from the group but its owner and taxes: only such orders are batched.
    pub fn is_plain(&self) -> bool {
        !self.pays_in_group_currency && !self.only_sellable
    }

    /// The payment's currency. `None`: the group's.
    pub fn payment_currency(&self) -> Option<&str> {
        (!self.pays_in_group_currency).then_some(&self.currency)
    }
}
