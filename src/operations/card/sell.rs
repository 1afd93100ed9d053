//! `card_from_group_sell` (`buy_card_from_callingroup`): sells cards of a group, exactly once each.
//! The spec's page: `endpoints/card_from_group_sell.md`; the published one: `source/card_from_group_sell.txt`.

use bigdecimal::BigDecimal;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::accounts::Currencies;
use crate::auth::admission::{self, Caller};
use crate::auth::signature::HashRule;
use crate::error::ApiError;
use crate::http::context::{CallContext, Operation};
use crate::http::params::Params;
use crate::idempotency::{self, Idempotency};
use crate::mail::OutboxEntry;
use crate::number::{self, Sign};
use crate::operations::spec::{OperationSpec, ParamType, Parameter};
use crate::sales::batcher::{BatchKey, BatchOutcome, Dispatch, ORDER_CARDS_MAX, SaleOrder};
use crate::sales::statement::{BuyerEmail, CardSelection, PaymentTerms, SaleRequest, SoldCard, StoredReplySpec, sell};
use crate::store;
use crate::xml::XmlReply;

/// The operation. (`email`, `id` and `quantity` are hashed, and what else of the long list a client sends.)
pub const OPERATION: Operation = Operation {
    name: "card_from_group_sell",
    aliases: &["buy_card_from_callingroup"],
    hash_rules: &[HashRule::ParamOrder(&["number"])],
    spec: OperationSpec {
        summary: "Sells cards of a group",
        description: "Sells the next free cards of a card group, or the one with a number, each exactly once however many clients ask at \
            the same time. Where fewer are free than asked for, those are sold.",
        parameters: &[&[
            Parameter::new("id", ParamType::Integer, "The card group.", "6").required(),
            Parameter::new("quantity", ParamType::Integer, "How many cards; 1 unless it is said.", "2").in_example(),
            Parameter::new("number", ParamType::Text, "Sells the card with this number instead.", "1111111500"),
            Parameter::new("email", ParamType::Text, "Whom the cards are sent to.", "anna@example.com"),
            Parameter::new("curr", ParamType::Text, "The payment's currency; else the system's.", "USD"),
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
    handler: |call| Box::pin(handle(call)),
};

async fn handle(call: &CallContext) -> Result<XmlReply, ApiError> {
    let caller = admission::authorize_strict(call).await?;
    let once = Idempotency::new(call, &caller).await?;
    let wish = Input::read(&call.params);
    let currencies = call.state.accounts.currencies().await?;
    let email = resolve_email(call, &caller, &wish).await?;
    let terms = resolve_terms(call, &caller, &currencies, &wish, email);
    let till = SaleContext { context: call, caller: &caller, input: &wish, terms: terms.as_ref(), idempotency: &once };

    let cards = till.sell_fast_path().await?;
    if !cards.is_empty() {
        till.after_commit(cards.len());
        let currency = terms.as_ref().map(shown_currency).unwrap_or_default().to_owned();
        return Ok(render_reply(Reply { currency, cards: cards.into_iter().map(Some).collect() }));
    }
    // In a box: it is large, and few sales come here.
    Box::pin(once.replay_or_run(till.sell_in_transaction(), render_reply)).await
}

/// What the client asks for.
#[derive(Debug)]
struct Input {
    group: i32,
    selector: CardSelector,
    email: Option<String>,
    currency: Option<String>,
}

#[derive(Debug)]
enum CardSelector {
    /// The card whose number has this value: its digits without leading zeros. `None`: a value that no card has.
    Number(Option<String>),
    /// The next free ones, this many.
    Next(u32),
}

impl Input {
    fn read(params: &Params) -> Self {
        let selector = match params.get("number").and_then(number::parse_digits) {
            Some((sign, digits)) if !digits.is_empty() => CardSelector::Number((sign == Sign::Plus).then_some(digits)),
            _ => CardSelector::Next(u32::try_from(params.integer("quantity").max(1)).unwrap_or(u32::MAX)),
        };
        Self {
            group: i32::try_from(params.integer("id")).unwrap_or(-1),
            selector,
            email: params.get("email").map(str::to_owned),
            currency: params.non_blank("curr").map(str::to_owned),
        }
    }
}

/// Where the cards are sent. A bad address never undoes a sale.
async fn resolve_email(call: &CallContext, caller: &Caller, wish: &Input) -> Result<Option<BuyerEmail>, ApiError> {
    let Some(sent) = &wish.email else { return Ok(None) };
    let blank = sent.trim().is_empty();
    if blank && !call.dialect().creates_order_for_blank_email() {
        return Ok(None);
    }
    // MOR's column would cut a longer one; it is no address anyway.
    let address: String = sent.chars().take(255).collect();
    let posting = match blank {
        true => None,
        false => OutboxEntry::prepare(&address, &call.state.accounts, caller.owner_id()).await?,
    };
    Ok(Some(BuyerEmail { address, outbox_entry: posting }))
}

/// In which currencies the sale is paid, ordered and shown. `None`: the client named one that isn't active.
fn resolve_terms(
    call: &CallContext,
    caller: &Caller,
    currencies: &Currencies,
    wish: &Input,
    email: Option<BuyerEmail>,
) -> Option<PaymentTerms> {
    let dialect = call.dialect();
    let one = BigDecimal::from(1);
    let system_currency = currencies.system().map(|system| system.name.clone()).unwrap_or_default();

    if dialect.pays_in_group_currency() {
        let own = currencies.display_rate(caller.currency_id(), dialect);
        return Some(PaymentTerms {
            currency: None,
            rate: own.clone(),
            display_rate: own.clone(),
            order_rate: own,
            system_currency,
            email,
        });
    }
    let (name, rate) = match &wish.currency {
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

/// What the reply says.
#[derive(Debug, Serialize, Deserialize)]
struct Reply {
    /// That balances are labelled with.
    currency: String,
    /// A card that an X7 server wouldn't sell stands among the others as nothing.
    cards: Vec<Option<SoldCard>>,
}

/// A card that could be sold, locked.
#[derive(Debug)]
struct Candidate {
    id: i64,
    sold: bool,
    sellable: bool,
}

/// A sale that is being made.
struct SaleContext<'a> {
    context: &'a CallContext,
    caller: &'a Caller,
    input: &'a Input,
    /// `None`: the client named a currency that isn't active.
    terms: Option<&'a PaymentTerms>,
    idempotency: &'a Idempotency<'a>,
}

impl SaleContext<'_> {
    /// The common case in one round trip: the next free cards, as many as asked, sold by one statement that waits for nobody's cards; its
    /// own, or that of the sales it goes together with. None sold: it isn't that simple, or was done before, and nothing was changed.
    async fn sell_fast_path(&self) -> Result<Vec<SoldCard>, ApiError> {
        let Self { context: call, caller, terms, input: wish, idempotency: once } = *self;
        let (Some(terms), CardSelector::Next(quantity)) = (terms, &wish.selector) else { return Ok(Vec::new()) };
        if *quantity > call.state.config.max_quantity.get() {
            return Ok(Vec::new());
        }
        let _place =
            match self.batchable_order(terms, *quantity).map(|order| call.state.batcher.submit(caller.id(), order)) {
                None => None,
                Some(Dispatch::Immediate(place)) => Some(place),
                Some(Dispatch::Queued(others)) => match others.wait_for_outcome().await {
                    BatchOutcome::Sold(cards) => return Ok(cards),
                    BatchOutcome::RetryAlone => None,
                    BatchOutcome::Failed(fault) => return Err(once.with_retry_hint(fault)),
                },
            };
        self.sell_unbatched(terms, *quantity).await
    }

    /// What there is to say of a sale that may go together with others: it writes no order rows, and is paid in a currency that is known.
    fn batchable_order<'a>(
        &'a self,
        terms: &'a PaymentTerms,
        quantity: u32,
    ) -> Option<impl FnOnce() -> SaleOrder + use<'a>> {
        let Self { context: call, caller, input: wish, idempotency: once, .. } = *self;
        let currency = terms.currency.as_ref()?;
        let is_plain = terms.email.is_none() && !call.dialect().refuses_invalid_cards();
        let order = move || SaleOrder {
            group_id: wish.group,
            quantity,
            key: once.key().cloned(),
            batch_key: BatchKey {
                user_id: caller.id(),
                owner_id: caller.owner_id(),
                currency: currency.clone(),
                rate: terms.rate.clone(),
            },
        };
        (is_plain && quantity <= ORDER_CARDS_MAX).then_some(order)
    }

    async fn sell_unbatched(&self, terms: &PaymentTerms, quantity: u32) -> Result<Vec<SoldCard>, ApiError> {
        let Self { context: call, caller, input: wish, idempotency: once, .. } = *self;
        let only_sound = call.dialect().refuses_invalid_cards();
        let kept = once.key().map(|key| StoredReplySpec { key, currency: shown_currency(terms) });
        let take = CardSelection::Next { quantity: i64::from(quantity), only_sellable: only_sound, stored_reply: kept };
        let mut connection = call.state.pool.acquire().await?;
        match sell(&mut connection, build_sale_request(caller, wish, terms, take)).await {
            Ok(cards) => {
                connection.release_clean();
                Ok(cards)
            }
            Err(error) if idempotency::is_duplicate_key(&error) => Ok(Vec::new()),
            Err(error) if kept.is_some() && idempotency::is_lock_timeout(&error) => Err(ApiError::RequestInProgress),
            Err(error) => Err(once.with_retry_hint(ApiError::from_commit_error(error))),
        }
    }

    /// Everything else, in the order of the contract, in one transaction. It waits for sales that are under way, since their
    /// cards may yet come free again.
    async fn sell_in_transaction(&self) -> Result<Reply, ApiError> {
        let Self { context: call, caller, input: wish, terms, idempotency: once } = *self;
        let mut change = once.begin().await?;
        let connection = &mut *change;
        check_group_exists(connection, caller, wish.group).await?;
        let candidates = match &wish.selector {
            CardSelector::Number(digits) => vec![lock_by_number(connection, wish.group, digits.as_deref()).await?],
            CardSelector::Next(quantity) if *quantity > call.state.config.max_quantity.get() => {
                return Err(ApiError::TransactionFailed);
            }
            CardSelector::Next(quantity) => lock_next_free(connection, wish.group, *quantity).await?,
        };
        let terms = terms.ok_or(ApiError::CurrencyNotFound)?;
        if call.dialect().creates_missing_taxes() {
            store::tax::ensure_taxes(connection, wish.group).await?;
        }

        let sells = |candidate: &Candidate| candidate.sellable || !call.dialect().refuses_invalid_cards();
        let these: Vec<i64> = candidates.iter().filter(|card| sells(card)).map(|card| card.id).collect();
        let sold = sell(&mut *connection, build_sale_request(caller, wish, terms, CardSelection::Ids(&these))).await?;
        if sold.len() != these.len() {
            // The group was hidden, or given to somebody else, while we waited for its cards.
            return Err(ApiError::TransactionFailed);
        }
        let mut sold = sold.into_iter();
        let cards = candidates.iter().map(|card| if sells(card) { sold.next() } else { None }).collect();
        let sold = change.commit(Reply { currency: shown_currency(terms).to_owned(), cards }).await?;
        self.after_commit(these.len());
        Ok(sold)
    }

    /// What is done once a sale is safe.
    fn after_commit(&self, cards: usize) {
        self.context.state.record_cards_sold(cards);
        if self.terms.and_then(|terms| terms.email.as_ref()).is_some() {
            self.context.state.mail.wake();
        }
    }
}

/// The group must be one of the caller's owner, and not hidden.
async fn check_group_exists(connection: &mut PgConnection, caller: &Caller, group: i32) -> Result<(), ApiError> {
    sqlx::query!("select id from cardgroups where id = $1 and owner_id = $2 and hidden = 0", group, caller.owner_id())
        .fetch_optional(connection)
        .await?
        .map(drop)
        .ok_or(ApiError::CardgroupNotFound)
}

/// The group's card whose number has this value: leading zeros don't matter, and no number is longer than 255.
async fn lock_by_number(
    connection: &mut PgConnection,
    group: i32,
    digits: Option<&str>,
) -> Result<Candidate, ApiError> {
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

/// The next free cards: as many as asked, or as many as there are.
async fn lock_next_free(connection: &mut PgConnection, group: i32, quantity: u32) -> Result<Vec<Candidate>, ApiError> {
    let cards = sqlx::query_as!(
        Candidate,
        r#"select c.id, c.sold = 1 as "sold!", is_sellable(c, g.pin_length, g.number_length) as "sellable!"
           from card_stock s join cards c on c.id = s.card_id join cardgroups g on g.id = c.cardgroup_id
           where s.cardgroup_id = $1 and c.cardgroup_id + 0 = $1 and is_in_stock(c)
           order by s.number, s.card_id limit $2
           for no key update of c"#,
        group,
        i64::from(quantity)
    )
    .fetch_all(connection)
    .await?;
    if cards.is_empty() { Err(ApiError::FreeCardsNotFound) } else { Ok(cards) }
}

fn build_sale_request<'a>(
    caller: &Caller,
    wish: &Input,
    terms: &'a PaymentTerms,
    take: CardSelection<'a>,
) -> SaleRequest<'a> {
    SaleRequest {
        user_id: caller.id(),
        owner_id: Some(caller.owner_id()),
        group_id: wish.group,
        selection: take,
        terms,
        sold_over_api: true,
    }
}

/// The currency that balances are labelled with: the payment's, or the system's where that is the group's.
fn shown_currency(terms: &PaymentTerms) -> &str {
    terms.currency.as_deref().unwrap_or(&terms.system_currency)
}

fn render_reply(Reply { currency, cards: sold }: Reply) -> XmlReply {
    XmlReply::new("page", |page| {
        page.element("cards", |cards| {
            for sold in sold {
                match sold {
                    Some(sold) => cards.element("card", |card| {
                        card.optional_text("pin", sold.pin.as_deref());
                        card.text("number", &sold.number);
                        card.text("balance_without_vat", sold.balance.to_plain_string());
                        card.text("currency", &currency);
                    }),
                    None => cards.element("status", |status| status.text("error", "Card error")),
                }
            }
        });
    })
}
