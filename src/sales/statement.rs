//! The statements that sell cards, for all operations that sell cards (`data.md`, "Selling a card"). Each is one
//! statement, so it is atomic.

use bigdecimal::BigDecimal;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::types::Json;

use super::order::{SaleOrder, SaleTerms};
use crate::mail::OutboxEntry;
use crate::money::Money;
use crate::pin::Pin;

/// A sold card, as the reply contains it.
#[derive(Debug, Serialize, Deserialize)]
pub struct SoldCard {
    /// The card number.
    pub number: String,
    /// The PIN, if the card has one.
    pub pin: Option<Pin>,
    /// The balance, multiplied by the display rate.
    pub balance: Money,
}

/// A card that a statement sold.
#[derive(Debug)]
pub struct SoldCardRow {
    /// The position of its order among the orders of the statement, from 1.
    pub order_number: i64,
    /// The id.
    pub id: i64,
    /// The card number.
    pub number: String,
    /// The PIN, if the card has one.
    pub pin: Option<Pin>,
    /// The balance, multiplied by the display rate.
    pub balance: Money,
}

impl From<SoldCardRow> for SoldCard {
    fn from(SoldCardRow { number, pin, balance, .. }: SoldCardRow) -> Self {
        Self { number, pin, balance }
    }
}

/// Sells the next free cards for orders with equal terms, and stores the replies of the orders that have an idempotency
/// key. An order whose key is known gets no cards. An order of a group with too few free cards gets none either. The
/// rows are in the order of the orders.
///
/// # Errors
///
/// Database errors, such as [`is_duplicate_key`](crate::idempotency::key::is_duplicate_key) and
/// [`is_lock_timeout`](crate::error::is_lock_timeout) if another server uses a key at the same time. Nothing was
/// changed then.
pub async fn sell_next(connection: &mut PgConnection, orders: &[&SaleOrder]) -> sqlx::Result<Vec<SoldCardRow>> {
    match orders {
        [] => Ok(Vec::new()),
        // A statement of its own: it costs two thirds of the batch statement.
        [order] if order.terms.is_plain() && order.reference.is_none() => sell_one(connection, order).await,
        [first, ..] => sell_batch(connection, first, orders).await,
    }
}

async fn sell_one(
    connection: &mut PgConnection,
    SaleOrder { group_id, quantity, key, terms, .. }: &SaleOrder,
) -> sqlx::Result<Vec<SoldCardRow>> {
    sqlx::query_file_as!(
        SoldCardRow,
        "src/sales/sell_one.sql",
        group_id,
        terms.owner_id,
        terms.user_id,
        terms.currency,
        terms.rate,
        i64::from(*quantity),
        key.as_ref().map(|key| key.key.as_str()),
        key.as_ref().map(|key| key.fingerprint.as_slice())
    )
    .fetch_all(connection)
    .await
}

/// An order as `sell_batch.sql` reads it, by the names of the fields.
#[derive(Debug, Serialize)]
struct BatchOrder<'a> {
    group_id: i32,
    quantity: u32,
    key: Option<&'a str>,
    /// Hexadecimal.
    fingerprint: Option<String>,
    reference: Option<&'a str>,
}

impl<'a> From<&'a SaleOrder> for BatchOrder<'a> {
    fn from(SaleOrder { group_id, quantity, key, reference, .. }: &'a SaleOrder) -> Self {
        Self {
            group_id: *group_id,
            quantity: *quantity,
            key: key.as_ref().map(|key| key.key.as_str()),
            fingerprint: key.as_ref().map(|key| hex::encode(key.fingerprint)),
            reference: reference.as_deref(),
        }
    }
}

async fn sell_batch(
    connection: &mut PgConnection,
    SaleOrder { terms, .. }: &SaleOrder,
    orders: &[&SaleOrder],
) -> sqlx::Result<Vec<SoldCardRow>> {
    let batch_orders: Vec<BatchOrder<'_>> = orders.iter().map(|order| BatchOrder::from(*order)).collect();
    sqlx::query_file_as!(
        SoldCardRow,
        "src/sales/sell_batch.sql",
        Json(batch_orders) as _,
        terms.owner_id,
        terms.user_id,
        terms.currency,
        terms.rate,
        terms.pays_in_group_currency,
        terms.only_sellable
    )
    .fetch_all(connection)
    .await
}

/// A sale of given cards of a group.
#[derive(Debug)]
pub struct CardSale<'a> {
    /// The ids of the cards, which the transaction has locked.
    pub card_ids: &'a [i64],
    /// The card group.
    pub group_id: i32,
    /// The owner that the group must have. If it is set, a hidden group sells nothing. `None`: owner and visibility are
    /// not checked here.
    pub owner_id: Option<i32>,
    /// The caller's id.
    pub user_id: i32,
    /// As [`SaleTerms::payment_currency`].
    pub currency: Option<&'a str>,
    /// As in [`SaleTerms`].
    pub rate: &'a BigDecimal,
    /// Whether each card gets the audit row `card_sell_over_api` of `card_from_group_sell`.
    pub sold_over_api: bool,
    /// The client's reference, for the payments.
    pub reference: Option<&'a str>,
}

/// Sells the given cards, except those that are not free. The rows are in the order of the numbers.
pub async fn sell_cards(connection: &mut PgConnection, sale: &CardSale<'_>) -> sqlx::Result<Vec<SoldCardRow>> {
    sqlx::query_file_as!(
        SoldCardRow,
        "src/sales/sell_cards.sql",
        sale.card_ids,
        sale.owner_id,
        sale.user_id,
        sale.group_id,
        sale.currency,
        sale.rate,
        sale.sold_over_api,
        sale.reference
    )
    .fetch_all(connection)
    .await
}

/// The order rows of a sale, and the e-mail to the buyer. `order_rows.sql` reads the fields by their names.
#[derive(Debug, Serialize)]
pub struct OrderRows {
    /// The buyer's address, as the client sent it.
    pub address: String,
    /// The factor by which a card's balance is multiplied in the order rows.
    pub rate: BigDecimal,
    /// The currency of the order rows: the system's.
    pub currency: String,
    /// The e-mail with the cards. `None`: no e-mail is sent.
    pub outbox_entry: Option<OutboxEntry>,
}

/// Writes the order rows of sold cards, and queues the e-mail to the buyer. It belongs to the transaction of the sale.
pub async fn write_order_rows(
    connection: &mut PgConnection,
    order_rows: &OrderRows,
    terms: &SaleTerms,
    sold: &[SoldCardRow],
) -> sqlx::Result<()> {
    let card_ids: Vec<i64> = sold.iter().map(|card| card.id).collect();
    sqlx::query_file!(
        "src/sales/order_rows.sql",
        &card_ids,
        terms.user_id,
        terms.rate,
        terms.currency,
        Json(order_rows) as _
    )
    .execute(connection)
    .await?;
    Ok(())
}
