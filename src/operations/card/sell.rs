//! `card_from_group_sell` (`buy_card_from_callingroup`): sells cards of a group, each exactly once.
//! Contract: `endpoints/card_from_group_sell.md`; published page: `source/card_from_group_sell.txt`.

use bigdecimal::BigDecimal;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::selector::CardSelector;
use crate::accounts::Currencies;
use crate::auth::caller::Caller;
use crate::auth::signature::HashRule;
use crate::error::{ApiError, is_lock_timeout};
use crate::http::context::{Access, CallContext, Operation};
use crate::idempotency::key::is_duplicate_key;
use crate::idempotency::{ChangeOutcome, Idempotency};
use crate::mail::OutboxEntry;
use crate::operations::spec::{OperationSpec, ParamType, Parameter};
use crate::sales::batcher::{BatchOutcome, Dispatch, ORDER_CARDS_MAX};
use crate::sales::order::{BatchKey, SaleOrder};
use crate::sales::statement::{BuyerEmail, CardSelection, PaymentTerms, SaleRequest, SoldCard, StoredReplySpec, sell};
use crate::store;
use crate::store::stock::{is_card_already_paid, recheck_stock};
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
        ]],
        is_mutation: true,
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
    let terms = resolve_terms(call, caller, &currencies, &input, email);
    let context = SaleContext { call, caller, input: &input, terms: terms.as_ref(), idempotency: &idempotency };

    let cards = context.sell_fast_path().await?;
    if !cards.is_empty() {
        context.after_commit(cards.len());
        let currency = terms.as_ref().map(display_currency).unwrap_or_default().to_owned();
        return Ok(render_reply(Reply { currency, cards: cards.into_iter().map(Some).collect() }));
    }
    // Boxed: the future is large, and few sales take this path.
    let outcome =
        Box::pin(idempotency.change(async { Ok::<_, ApiError>(()) }, async |connection, ()| {
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

/// Returns the e-mail address for the cards. An invalid address does not make the sale fail.
async fn resolve_email(call: &CallContext, caller: &Caller, input: &Input) -> Result<Option<BuyerEmail>, ApiError> {
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
    Ok(Some(BuyerEmail { address, outbox_entry }))
}

/// Returns the currencies of the payment, the order rows and the reply. `None`: the client named an inactive currency.
fn resolve_terms(
    call: &CallContext,
    caller: &Caller,
    currencies: &Currencies,
    input: &Input,
    email: Option<BuyerEmail>,
) -> Option<PaymentTerms> {
    let dialect = call.dialect();
    let one = BigDecimal::from(1);
    let system_currency = currencies.system().map(|system| system.name.clone()).unwrap_or_default();

    if dialect.pays_in_group_currency() {
        let caller_rate = currencies.display_rate(caller.currency_id(), dialect);
        return Some(PaymentTerms {
            currency: None,
            rate: caller_rate.clone(),
            display_rate: caller_rate.clone(),
            order_rate: caller_rate,
            system_currency,
            email,
        });
    }
    let (name, rate) = match &input.currency {
        None => (system_currency.clone(), one.clone()),
        Some(name) => {
            let currency = currencies.by_name(name).filter(|currency| currency.active)?;
            (currency.name.clone(), currencies.rate_to(currency))
        }
    };
    Some(PaymentTerms {
        currency: Some(name),
        rate: rate.clone(),
        display_rate: rate,
        order_rate: one,
        system_currency,
        email,
    })
}

/// The content of the reply.
#[derive(Debug, Serialize, Deserialize)]
struct Reply {
    /// The currency that is printed with each balance.
    currency: String,
    /// `None`: a card that an X7 server does not sell and reports as an error.
    cards: Vec<Option<SoldCard>>,
}

/// A card that may be sold. Its row is locked.
#[derive(Debug)]
struct Candidate {
    id: i64,
    sold: bool,
    sellable: bool,
}

/// The data that all steps of a sale use.
struct SaleContext<'a> {
    call: &'a CallContext,
    caller: &'a Caller,
    input: &'a Input,
    /// `None`: the client named a currency that is not active.
    terms: Option<&'a PaymentTerms>,
    idempotency: &'a Idempotency<'a>,
}

impl SaleContext<'_> {
    /// Sells the next free cards in one round trip: in a statement of its own, or in a batch with other sales. The
    /// statement skips cards that are locked by other transactions. An empty result means that nothing was changed and
    /// that [`Self::sell_in_transaction`] must handle the request: it names a card number, an inactive currency or too
    /// many cards, fewer cards can be sold than requested, a card has a sale payment although it is in stock, or the
    /// idempotency key already exists.
    async fn sell_fast_path(&self) -> Result<Vec<SoldCard>, ApiError> {
        let Self { call, caller, terms, input, idempotency } = *self;
        let (Some(terms), CardSelector::Next(quantity)) = (terms, &input.selector) else { return Ok(Vec::new()) };
        if *quantity > call.state.config.max_quantity.get() {
            return Ok(Vec::new());
        }
        let _permit =
            match self.batchable_order(terms, *quantity).map(|order| call.state.batcher.submit(caller.id(), order)) {
                None => None,
                Some(Dispatch::Immediate(permit)) => Some(permit),
                Some(Dispatch::Queued(queued_sale)) => match queued_sale.wait_for_outcome().await {
                    BatchOutcome::Sold(cards) => return Ok(cards),
                    BatchOutcome::RetryAlone => None,
                    BatchOutcome::Failed(error) => return Err(idempotency.with_retry_hint(error)),
                },
            };
        self.sell_unbatched(terms, *quantity).await
    }

    /// Returns the order to submit if the sale may be batched: it writes no order rows, and the payment's currency is
    /// known without reading the group.
    fn batchable_order<'a>(
        &'a self,
        terms: &'a PaymentTerms,
        quantity: u32,
    ) -> Option<impl FnOnce() -> SaleOrder + use<'a>> {
        let Self { call, caller, input, idempotency, .. } = *self;
        let currency = terms.currency.as_ref()?;
        let is_batchable = terms.email.is_none() && !call.dialect().refuses_invalid_cards();
        let order = move || SaleOrder {
            group_id: input.group,
            quantity,
            key: idempotency.key().cloned(),
            batch_key: BatchKey {
                user_id: caller.id(),
                owner_id: caller.owner_id(),
                currency: currency.clone(),
                rate: terms.rate.clone(),
            },
        };
        (is_batchable && quantity <= ORDER_CARDS_MAX).then_some(order)
    }

    async fn sell_unbatched(&self, terms: &PaymentTerms, quantity: u32) -> Result<Vec<SoldCard>, ApiError> {
        let Self { call, caller, input, idempotency, .. } = *self;
        let only_sellable = call.dialect().refuses_invalid_cards();
        let stored_reply = idempotency.key().map(|key| StoredReplySpec { key, currency: display_currency(terms) });
        let selection = CardSelection::Next { quantity: i64::from(quantity), only_sellable, stored_reply };
        let mut connection = call.state.pool.acquire().await?;
        let sale = sell(&mut connection, build_sale_request(caller, input, terms, selection));
        match call.state.pool.limit_commit(sale).await {
            Ok(cards) => {
                connection.release_clean();
                Ok(cards)
            }
            Err(error) if is_duplicate_key(&error) || is_card_already_paid(&error) => Ok(Vec::new()),
            Err(error) if stored_reply.is_some() && is_lock_timeout(&error) => Err(ApiError::RequestInProgress),
            Err(error) => Err(idempotency.with_retry_hint(ApiError::from_commit_error(error))),
        }
    }

    /// Handles all other sales in one transaction, with the checks in the order of the contract. It waits for
    /// concurrent sales: if one of them is rolled back, its cards are free again.
    async fn sell_in_transaction(&self, connection: &mut PgConnection) -> Result<Reply, ApiError> {
        let Self { call, caller, input, terms, .. } = *self;
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
        let terms = terms.ok_or(ApiError::CurrencyNotFound)?;
        if call.dialect().creates_missing_taxes() {
            store::tax::ensure_taxes(connection, input.group).await?;
        }

        let can_sell = |candidate: &Candidate| candidate.sellable || !call.dialect().refuses_invalid_cards();
        let ids: Vec<i64> = candidates.iter().filter(|card| can_sell(card)).map(|card| card.id).collect();
        let sold = sell(&mut *connection, build_sale_request(caller, input, terms, CardSelection::Ids(&ids))).await?;
        if sold.len() != ids.len() {
            // The group was hidden or got another owner while this transaction waited for its cards.
            return Err(ApiError::TransactionFailed);
        }
        let mut sold = sold.into_iter();
        let cards = candidates.iter().map(|card| if can_sell(card) { sold.next() } else { None }).collect();
        Ok(Reply { currency: display_currency(terms).to_owned(), cards })
    }

    /// Counts the sold cards and wakes the mailer, after the sale was committed.
    fn after_commit(&self, cards: usize) {
        self.call.state.record_cards_sold(cards);
        if self.terms.and_then(|terms| terms.email.as_ref()).is_some() {
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
        .ok_or(ApiError::CardgroupNotFound)
}

/// Locks the group's card whose number has this value. Leading zeros are ignored; numbers have at most 255 digits.
async fn lock_by_number(connection: &mut PgConnection, group: i32, digits: &str) -> Result<Candidate, ApiError> {
    let card = sqlx::query_as!(
        Candidate,
        r#"select c.id, c.sold = 1 or has_sale_payment(c) as "sold!", is_sellable(c, g.pin_length, g.number_length) as "sellable!"
           from cards c join cardgroups g on g.id = c.cardgroup_id
           where c.cardgroup_id = $1 and c.hidden = 0 and c.retired_at is null and c.number = any (
               array(select lpad($2, length, '0') from generate_series(length($2), greatest(length($2), 255)) length))
           order by c.id limit 1
           for no key update of c"#,
        group,
        digits
    )
    .fetch_optional(connection)
    .await?
    .ok_or(ApiError::FreeCardsNotFound)?;
    if card.sold { Err(ApiError::CardAlreadySold) } else { Ok(card) }
}

/// Locks the next free cards: as many as requested, or all free cards if there are fewer. Takes cards that have a sale
/// payment out of stock.
async fn lock_next_free(connection: &mut PgConnection, group: i32, quantity: u32) -> Result<Vec<Candidate>, ApiError> {
    loop {
        let cards = sqlx::query_as!(
            Candidate,
            r#"select c.id, has_sale_payment(c) as "sold!", is_sellable(c, g.pin_length, g.number_length) as "sellable!"
               from card_stock s join cards c on c.id = s.card_id join cardgroups g on g.id = c.cardgroup_id
               where s.cardgroup_id = $1 and c.cardgroup_id + 0 = $1 and is_in_stock(c)
               order by s.number, s.card_id limit $2
               for no key update of c"#,
            group,
            i64::from(quantity)
        )
        .fetch_all(&mut *connection)
        .await?;
        let paid: Vec<i64> = cards.iter().filter(|card| card.sold).map(|card| card.id).collect();
        if paid.is_empty() {
            return if cards.is_empty() { Err(ApiError::FreeCardsNotFound) } else { Ok(cards) };
        }
        recheck_stock(connection, &paid).await?;
        tracing::warn!(group, cards = paid.len(), "paid cards removed from the stock");
    }
}

fn build_sale_request<'a>(
    caller: &Caller,
    input: &Input,
    terms: &'a PaymentTerms,
    selection: CardSelection<'a>,
) -> SaleRequest<'a> {
    SaleRequest {
        user_id: caller.id(),
        owner_id: Some(caller.owner_id()),
        group_id: input.group,
        selection,
        terms,
        sold_over_api: true,
    }
}

/// Returns the currency that is printed with balances: the payment's, or the system's if the payment is in the group's
/// currency.
fn display_currency(terms: &PaymentTerms) -> &str {
    terms.currency.as_deref().unwrap_or(&terms.system_currency)
}

fn render_reply(reply: Reply) -> XmlReply {
    XmlReply::new("page", |page| {
        page.element("cards", |cards| {
            for sold_card in &reply.cards {
                match sold_card {
                    Some(sold_card) => cards.element("card", |card| {
                        card.optional_text("pin", sold_card.pin.as_deref());
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
