//! How a sale is paid: its currencies, and its order rows.

use std::sync::Arc;

use bigdecimal::BigDecimal;

use super::Input;
use crate::accounts::Currencies;
use crate::auth::caller::Caller;
use crate::http::context::CallContext;
use crate::mail::OutboxEntry;
use crate::sales::order::SaleTerms;
use crate::sales::statement::OrderRows;

/// How a sale is paid, and its order rows.
#[derive(Debug)]
pub(super) struct Payment {
    pub(super) terms: Arc<SaleTerms>,
    /// `None`: the sale writes no order rows.
    pub(super) order_rows: Option<OrderRows>,
}

impl Payment {
    /// Chooses the currencies of the payment, the order rows and the reply. `None`: the client named a currency that is
    /// not active.
    pub(super) fn choose(
        call: &CallContext,
        caller: &Caller,
        currencies: &Currencies,
        input: &Input,
        email: Option<(String, Option<OutboxEntry>)>,
    ) -> Option<Self> {
        let dialect = call.dialect();
        let one = BigDecimal::from(1);
        let system_currency = currencies.system().map(|system| system.name.clone()).unwrap_or_default();
        let (currency, rate, order_rate) = match &input.currency {
            _ if dialect.pays_in_group_currency() => {
                let caller_rate = currencies.display_rate(caller.currency_id(), dialect);
                (system_currency.clone(), caller_rate.clone(), caller_rate)
            }
            None => (system_currency.clone(), one.clone(), one),
            Some(name) => {
                let currency = currencies.by_name(name).filter(|currency| currency.active)?;
                (currency.name.clone(), currencies.rate_to(currency), one)
            }
        };
        let terms = SaleTerms {
            user_id: caller.id(),
            owner_id: caller.owner_id(),
            currency,
            rate,
            pays_in_group_currency: dialect.pays_in_group_currency(),
            only_sellable: dialect.refuses_invalid_cards(),
        };
        let order_rows = email.map(|(address, outbox_entry)| OrderRows {
            address,
            rate: order_rate,
            currency: system_currency,
            outbox_entry,
        });
        Some(Self { terms: Arc::new(terms), order_rows })
    }
}
