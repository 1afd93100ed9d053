//! `card_from_group_sell` (`buy_card_from_callingroup`): sells cards of a group, each exactly once.
//! Contract: `endpoints/card_from_group_sell.md`; published page: `source/card_from_group_sell.txt`.

mod candidates;
mod fast_path;
mod payment;

use serde::{Deserialize, Serialize};
use sqlx::{Connection, PgConnection};
use tokio::sync::OwnedSemaphorePermit;

use self::candidates::{Candidate, lock_by_number, lock_next_free};
use self::payment::Payment;
use super::selector::CardSelector;
use crate::auth::caller::Caller;
use crate::auth::signature::HashRule;
use crate::error::ApiError;
use crate::http::context::{Access, CallContext, Operation};
use crate::idempotency::{ChangeOutcome, Idempotency};
use crate::mail::OutboxEntry;
use crate::operations::spec::{OperationSpec, PAYMENT_REFERENCE_PARAMETER, ParamType, Parameter, ReplyType};
use crate::pin::Pin;
use crate::sales::order::SaleOrder;
use crate::sales::statement::{CardSale, SoldCard, sell_cards, sell_next, write_order_rows};
use crate::store;
use crate::store::stock::is_card_already_paid;
use crate::xml::XmlReply;

/// The operation's description and handler. Hashed: `email`, `id` and `quantity`, and the other sent parameters of the
/// parameter list.
pub const OPERATION: Operation = Operation {
    name: "card_from_group_sell",
    aliases: &["buy_card_from_callingroup"],
    hash_rules: &[HashRule::ParamOrder(&["number"])],
    spec: OperationSpec {
        summary: "Sells cards of a group",
        description: "Sells the next free cards of a card group, or the card with a number. Each card is sold exactly \
            once, even if many clients buy at the same time. If fewer cards are free than requested, all free cards \
            are sold.",
        parameters: &[&[
            Parameter::new("id", ParamType::Integer, "The card group.", "6").required(),
            Parameter::new("quantity", ParamType::Integer, "How many cards; default: 1.", "2").in_example(),
            Parameter::new(
                "number",
                ParamType::Text,
                "The number of the card; quantity is then ignored.",
                "1111111500",
            ),
            Parameter::new("email", ParamType::Text, "The address to which the cards are sent.", "anna@example.com"),
            Parameter::new("curr", ParamType::Text, "The payment's currency; default: the system's.", "USD"),
            PAYMENT_REFERENCE_PARAMETER,
        ]],
        is_mutation: true,
        reply_type: ReplyType::Xml,
        example_reply: "<page>
  <cards>
    <card>
      <pin>28402719</pin>
      <number>1111111000</number>
      <balance_without_vat>8.403361344537815</balance_without_vat>
      <currency>USD</currency>
    </card>
    <card>
      <pin>90417336</pin>
      <number>1111111001</number>
      <balance_without_vat>8.403361344537815</balance_without_vat>
      <currency>USD</currency>
    </card>
  </cards>
</page>",
    },
    access: Access::Strict,
    handler: |call, caller| Box::pin(handle(call, caller)),
};

async fn handle(call: &CallContext, caller: &Caller) -> Result<XmlReply, ApiError> {
    let idempotency = Idempotency::new(call, caller).await?;
    let input = Input::read(call);
    let currencies = call.state.accounts.currencies().await?;
    let email = resolve_email(call, caller, &input).await?;
    let payment = Payment::choose(call, caller, &currencies, &input, email);
    let context = SaleContext { call, caller, input: &input, payment: payment.as_ref(), idempotency: &idempotency };

    if let Some(cards) = context.sell_fast_path().await? {
        context.after_commit(cards.len());
        let currency = payment.as_ref().map(|payment| payment.terms.currency.clone()).unwrap_or_default();
        return Ok(render_reply(Reply { currency, cards: cards.into_iter().map(Some).collect() }));
    }
    // Boxed: the future is large, and few sales take this path.
    let outcome = Box::pin(idempotency.change(context.acquire_transaction_permit(), async |connection, _permit| {
        context.sell_in_transaction(connection).await
    }));
    let outcome = outcome.await?;
    if let ChangeOutcome::Done(reply) = &outcome {
        context.after_commit(reply.cards.iter().flatten().count());
    }
    Ok(outcome.render(render_reply))
}

/// The parameters of the request.
#[derive(Debug)]
struct Input {
    group: i32,
    selector: CardSelector,
    email: Option<String>,
    currency: Option<String>,
}

impl Input {
    fn read(call: &CallContext) -> Self {
        let params = &call.params;
        Self {
            group: i32::try_from(params.integer("id")).unwrap_or(-1),
            selector: CardSelector::read(params.non_blank("number"), params.non_blank("quantity"), call.dialect()),
            email: params.get("email").map(str::to_owned),
            currency: params.non_blank("curr").map(str::to_owned),
        }
    }
}

/// Returns the buyer's address for the order rows, and the e-mail with the cards if one is sent. An invalid address
/// does not make the sale fail.
async fn resolve_email(
    call: &CallContext,
    caller: &Caller,
    input: &Input,
) -> Result<Option<(String, Option<OutboxEntry>)>, ApiError> {
    let Some(sent) = &input.email else { return Ok(None) };
    let blank = sent.trim().is_empty();
    if blank && !call.dialect().creates_order_for_blank_email() {
        return Ok(None);
    }
    // Cut to the length of MOR's column. A longer text is not a valid address.
    let address: String = sent.chars().take(255).collect();
    let outbox_entry = match blank {
        true => None,
        false => OutboxEntry::prepare(&address, &call.state.accounts, caller.owner_id()).await?,
    };
    Ok(Some((address, outbox_entry)))
}

/// The content of the reply.
#[derive(Debug, Serialize, Deserialize)]
struct Reply {
    /// The currency that is printed with each balance.
    currency: String,
    /// `None`: a card that an X7 server does not sell and reports as an error.
    cards: Vec<Option<SoldCard>>,
}

/// The data that all steps of a sale use.
struct SaleContext<'a> {
    call: &'a CallContext,
    caller: &'a Caller,
    input: &'a Input,
    /// `None`: the client named a currency that is not active.
    payment: Option<&'a Payment>,
    idempotency: &'a Idempotency<'a>,
}

impl SaleContext<'_> {
    /// Waits for a permit of the caller. The transaction can wait for cards that other transactions have locked:
    /// without the permit, the sales of one caller could occupy all connections meanwhile.
    async fn acquire_transaction_permit(&self) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        let (call, user_id) = (self.call, self.caller.id());
        let permit = match self.input.selector {
            CardSelector::Number(_) => call.acquire_unbatched_sale(user_id, 1).await?,
            CardSelector::Next(quantity) if self.idempotency.is_keyed_by_reference() => {
                call.acquire_unbatched_sale(user_id, quantity).await?
            }
            CardSelector::Next(_) => call.acquire_wait_for_cards(user_id, self.input.group).await?,
            // Refused before a card is locked.
            CardSelector::NoCard | CardSelector::InvalidQuantity => return Ok(None),
        };
        Ok(Some(permit))
    }

    /// Handles all other sales in one transaction, with the checks in the order of the contract. It waits for
    /// concurrent sales: if one of them is rolled back, its cards are free again.
    async fn sell_in_transaction(&self, connection: &mut PgConnection) -> Result<Reply, ApiError> {
        let Self { call, caller, input, payment, idempotency } = *self;
        if idempotency.is_keyed_by_reference()
            && let Some(reply) = self.sell_without_waiting(connection).await?
        {
            return Ok(reply);
        }
        check_group_exists(connection, caller, input.group).await?;
        let candidates = match &input.selector {
            CardSelector::Number(digits) => vec![lock_by_number(connection, input.group, digits).await?],
            CardSelector::NoCard => return Err(ApiError::FreeCardsNotFound),
            CardSelector::InvalidQuantity => return Err(ApiError::TransactionFailed),
            CardSelector::Next(quantity) if *quantity > call.state.config.max_quantity.get() => {
                return Err(ApiError::TransactionFailed);
            }
            CardSelector::Next(quantity) => lock_next_free(connection, input.group, *quantity).await?,
        };
        let Payment { terms, order_rows } = payment.ok_or(ApiError::CurrencyNotFound)?;
        if call.dialect().creates_missing_taxes() {
            store::tax::ensure_taxes(connection, input.group).await?;
        }

        let can_sell = |candidate: &Candidate| candidate.sellable || !call.dialect().refuses_invalid_cards();
        let ids: Vec<i64> = candidates.iter().filter(|card| can_sell(card)).map(|card| card.id).collect();
        let sale = CardSale {
            card_ids: &ids,
            group_id: input.group,
            owner_id: Some(caller.owner_id()),
            user_id: caller.id(),
            currency: terms.payment_currency(),
            rate: &terms.rate,
            sold_over_api: true,
            reference: idempotency.reference(),
        };
        let sold = sell_cards(connection, &sale).await?;
        if sold.len() != ids.len() {
            // The group was hidden or got another owner while this transaction waited for its cards.
            return Err(ApiError::TransactionFailed);
        }
        if let Some(order_rows) = order_rows.as_ref().filter(|_| !sold.is_empty()) {
            write_order_rows(connection, order_rows, terms, &sold).await?;
        }
        let mut sold = sold.into_iter().map(SoldCard::from);
        let cards = candidates.iter().map(|card| if can_sell(card) { sold.next() } else { None }).collect();
        Ok(Reply { currency: terms.currency.clone(), cards })
    }

    /// Sells the next free cards as the fast path does, within the transaction: it passes over cards that concurrent
    /// sales have locked. `None`: nothing was changed.
    async fn sell_without_waiting(&self, connection: &mut PgConnection) -> Result<Option<Reply>, ApiError> {
        let (Some(Payment { terms, order_rows }), Some(order)) = (self.payment, self.order()) else { return Ok(None) };
        let order = SaleOrder { key: None, ..order };
        let mut savepoint = connection.begin().await?;
        let sold = match sell_next(&mut savepoint, &[&order]).await {
            Ok(sold) => sold,
            Err(error) if is_card_already_paid(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        savepoint.commit().await?;
        if sold.is_empty() {
            return Ok(None);
        }
        if let Some(order_rows) = order_rows {
            write_order_rows(connection, order_rows, terms, &sold).await?;
        }
        let cards = sold.into_iter().map(SoldCard::from).map(Some).collect();
        Ok(Some(Reply { currency: terms.currency.clone(), cards }))
    }

    /// Counts the sold cards and wakes the mailer, after the sale was committed.
    fn after_commit(&self, cards: usize) {
        self.call.state.record_cards_sold(cards);
        if self.payment.is_some_and(|payment| payment.order_rows.is_some()) {
            self.call.state.mail.wake();
        }
    }
}

/// Checks that the group exists, is not hidden and belongs to the caller's owner.
async fn check_group_exists(connection: &mut PgConnection, caller: &Caller, group: i32) -> Result<(), ApiError> {
    sqlx::query!("select id from cardgroups where id = $1 and owner_id = $2 and hidden = 0", group, caller.owner_id())
        .fetch_optional(connection)
        .await?
        .map(drop)
        .ok_or(ApiError::CardGroupNotFound)
}

fn render_reply(reply: Reply) -> XmlReply {
    XmlReply::new("page", |page| {
        page.element("cards", |cards| {
            for sold_card in &reply.cards {
                match sold_card {
                    Some(sold_card) => cards.element("card", |card| {
                        card.optional_text("pin", sold_card.pin.as_ref().map(Pin::expose));
                        card.text("number", &sold_card.number);
                        card.text("balance_without_vat", sold_card.balance.to_plain_string());
                        card.text("currency", &reply.currency);
                    }),
                    None => cards.element("status", |status| status.text("error", "Card error")),
                }
            }
        });
    })
}
