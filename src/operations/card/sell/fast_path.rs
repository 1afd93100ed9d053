//! The fast path of a sale: one statement, alone or in a batch with other sales.

use std::time::Duration;

use super::{CardSelector, SaleContext};
use crate::error::{ApiError, is_lock_timeout};
use crate::idempotency::key::is_duplicate_key;
use crate::sales::batcher::{BatchOutcome, Dispatch};
use crate::sales::order::SaleOrder;
use crate::sales::statement::{OrderRows, SoldCard, SoldCardRow, sell_next, write_order_rows};
use crate::store::bulk_create::reset_lock_timeout;
use crate::store::stock::is_card_already_paid;

/// The delay of the reply to a sale that the database has refused and that ran alone. Without it, a client that repeats
/// such a sale makes the other sales 42 % slower, with it 3 %: a refused statement costs as much as a statement that
/// makes several sales.
const REFUSED_SALE_DELAY: Duration = Duration::from_millis(10);

impl SaleContext<'_> {
    /// Sells the next free cards: in a statement of its own, or in a batch with other sales. That is one round trip,
    /// except with order rows. The statement skips cards that are locked by other transactions. `None`: nothing was
    /// changed, and [`Self::sell_in_transaction`] must handle the request. It names a card number, an inactive currency
    /// or too many cards, fewer cards can be sold than requested, a card has a sale payment although it is in stock,
    /// the idempotency key already exists, or the payment reference is the key.
    pub(super) async fn sell_fast_path(&self) -> Result<Option<Vec<SoldCard>>, ApiError> {
        let Self { call, payment, idempotency, .. } = *self;
        let (Some(payment), Some(order)) = (payment, self.order()) else { return Ok(None) };
        if idempotency.is_keyed_by_reference() {
            return Ok(None);
        }
        // A batch writes no order rows.
        let is_batched =
            payment.order_rows.is_none() && order.terms.is_plain() && call.state.batcher.is_batchable(&order);
        let unbatched_permit = match is_batched {
            true => None,
            false => Some(call.acquire_unbatched_sale(order.terms.user_id, order.quantity).await?),
        };
        let sold = match &payment.order_rows {
            Some(order_rows) => self.sell_with_order_rows(&order, order_rows).await,
            None if is_batched => match call.state.batcher.submit(&order) {
                Dispatch::Immediate(_permit) => self.sell_alone(&order).await,
                Dispatch::Queued(queued_sale) => match queued_sale.wait_for_outcome().await {
                    BatchOutcome::Sold(cards) => return Ok(Some(cards)),
                    BatchOutcome::NothingSold => return Ok(None),
                    BatchOutcome::RetryAlone => {
                        let _permit = call.acquire_unbatched_sale(order.terms.user_id, order.quantity).await?;
                        self.sell_alone(&order).await
                    }
                    BatchOutcome::Failed(error) => return Err(idempotency.with_retry_hint(error)),
                },
            },
            None => self.sell_alone(&order).await,
        };
        if payment.order_rows.is_none() && matches!(sold, Err(ApiError::TransactionFailed)) {
            call.state.batcher.isolate_group(&order);
            if unbatched_permit.is_some() {
                drop(unbatched_permit);
                tokio::time::sleep(REFUSED_SALE_DELAY).await;
            }
        }
        sold
    }

    async fn sell_alone(&self, order: &SaleOrder) -> Result<Option<Vec<SoldCard>>, ApiError> {
        let mut connection = self.call.state.pool.acquire().await?;
        match self.call.state.pool.limit_commit(sell_next(&mut connection, &[order])).await {
            Ok(cards) => {
                connection.release_clean();
                Ok(sold_cards(cards))
            }
            Err(error) if self.needs_transaction(&error, order) => Ok(None),
            Err(error) => Err(self.idempotency.with_retry_hint(ApiError::from_commit_error(error))),
        }
    }

    /// Sells the cards and writes the order rows, in one transaction.
    async fn sell_with_order_rows(
        &self,
        order: &SaleOrder,
        order_rows: &OrderRows,
    ) -> Result<Option<Vec<SoldCard>>, ApiError> {
        let mut transaction = self.call.state.pool.begin().await?;
        let cards = match sell_next(&mut transaction, &[order]).await {
            Ok(cards) => cards,
            Err(error) if self.needs_transaction(&error, order) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !cards.is_empty() {
            if order.key.is_some() {
                // The statement of an order with a key has shortened it.
                let timeout = self.call.state.config.database_acquire_timeout;
                reset_lock_timeout(&mut transaction, timeout).await?;
            }
            write_order_rows(&mut transaction, order_rows, &order.terms, &cards).await?;
            let committed = transaction.commit().await.map_err(ApiError::from_commit_error);
            committed.map_err(|error| self.idempotency.with_retry_hint(error))?;
        }
        Ok(sold_cards(cards))
    }

    /// Whether a statement failed because another server used the order's key at the same time, or a card in stock has
    /// a sale payment. Such a key is kept out of batches: it would make each batch fail.
    fn needs_transaction(&self, error: &sqlx::Error, order: &SaleOrder) -> bool {
        let is_key_in_use = order.key.is_some() && (is_duplicate_key(error) || is_lock_timeout(error));
        if is_key_in_use {
            self.call.state.batcher.isolate_key(order);
        }
        is_key_in_use || is_card_already_paid(error)
    }

    /// Returns the order of a request for the next free cards. `None`: the request names a card number, an inactive
    /// currency, or too many cards.
    pub(super) fn order(&self) -> Option<SaleOrder> {
        let (payment, CardSelector::Next(quantity)) = (self.payment?, &self.input.selector) else { return None };
        let is_allowed = *quantity <= self.call.state.config.max_quantity.get();
        is_allowed.then(|| SaleOrder {
            group_id: self.input.group,
            quantity: *quantity,
            key: self.idempotency.key().cloned(),
            reference: self.idempotency.reference().map(str::to_owned),
            terms: payment.terms.clone(),
        })
    }
}

/// Returns the cards that a statement sold. `None`: it sold none.
fn sold_cards(rows: Vec<SoldCardRow>) -> Option<Vec<SoldCard>> {
    (!rows.is_empty()).then(|| rows.into_iter().map(SoldCard::from).collect())
}
