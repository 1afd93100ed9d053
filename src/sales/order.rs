//! A sale as it waits for a batch.

use std::sync::Arc;

use bigdecimal::BigDecimal;

use crate::idempotency::key::IdempotencyKey;

/// A sale of the next free cards of a group, as it waits for a batch. It writes no order rows (table `ccorders`).
#[derive(Debug)]
pub struct SaleOrder {
    /// The card group.
    pub group_id: i32,
    /// The number of cards, up to [`ORDER_CARDS_MAX`](super::batcher::ORDER_CARDS_MAX).
    pub quantity: u32,
    /// The idempotency key under which the reply is stored, if one was sent. The order holds the key's lock until its
    /// statement ends, even if the client disconnects: a repeated request waits for the outcome.
    pub key: Option<Arc<IdempotencyKey>>,
    /// The user who sells, and how the sale is paid.
    pub batch_key: BatchKey,
}

/// Orders with equal batch keys can share a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in `SaleRequest` and `PaymentTerms`")]
pub struct BatchKey {
    pub user_id: i32,
    pub owner_id: i32,
    pub currency: String,
    pub rate: BigDecimal,
}
