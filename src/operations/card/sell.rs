//! `card_from_group_sell` (`buy_card_from_callingroup`): sells cards of a group, exactly once each.
//! The spec's page: `endpoints/card_from_group_sell.md`; the published one: `source/card_from_group_sell.txt`.

use bigdecimal::BigDecimal;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::accounts::Currencies;
use crate::auth::admission::{self, Caller};
use crate::auth::signature::Rule;
use crate::error::Fault;
use crate::http::context::{Call, Operation};
use crate::http::params::Params;
use crate::idempotency::{self, Once};
use crate::mail::Posting;
use crate::number::{self, Sign};
use crate::operations::spec::{Kind, Page, Parameter};
use crate::sales::batcher::{Alike, MOST_OF_ONE, Order, Outcome, Way};
use crate::sales::statement::{Email, Keeping, Sale, SoldCard, Take, Terms, sell};
use crate::store;
use crate::xml::Document;

/// The operation. (`email`, `id` and `quantity` are hashed, and what else of the long list a client sends.)
pub const OPERATION: Operation = Operation {
    name: "card_from_group_sell",
    aliases: &["buy_card_from_callingroup"],
    hashed: &[Rule::Listed(&["number"])],
    page: Page {
        summary: "Sells cards of a group",
        description: "Sells the next free cards of a card group, or the one with a number, each exactly once however many clients ask at \
            the same time. Where fewer are free than asked for, those are sold.",
        parameters: &[&[
            Parameter::new("id", Kind::Integer, "The card group.", "6").required(),
            Parameter::new("quantity", Kind::Integer, "How many cards; 1 unless it is said.", "2").usual(),
            Parameter::new("number", Kind::Text, "Sells the card with this number instead.", "1111111500"),
            Parameter::new("email", Kind::Text, "Whom the cards are sent to.", "anna@example.com"),
            Parameter::new("curr", Kind::Text, "The payment's currency; else the system's.", "USD"),
        ]],
        changes: true,
        reply: "<page>
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
    handler: |call| Box::pin(answer(call)),
};

async fn answer(call: &Call) -> Result<Document, Fault> {
    let caller = admission::admit_strictly(call).await?;
    let once = Once::new(call, &caller).await?;
    let wish = Wish::read(&call.params);
    let currencies = call.app.directory.currencies().await?;
    let email = email(call, &caller, &wish).await?;
    let terms = terms(call, &caller, &currencies, &wish, email);
    let till = Till { call, caller: &caller, wish: &wish, terms: terms.as_ref(), once: &once };

    let cards = till.at_once().await?;
    if !cards.is_empty() {
        till.sold(cards.len());
        let currency = terms.as_ref().map(shown_currency).unwrap_or_default().to_owned();
        return Ok(reply(Sold { currency, cards: cards.into_iter().map(Some).collect() }));
    }
    // In a box: it is large, and few sales come here.
    Box::pin(once.answer(till.step_by_step(), reply)).await
}

/// What the client asks for.
#[derive(Debug)]
struct Wish {
    group: i32,
    which: Which,
    email: Option<String>,
    currency: Option<String>,
}

#[derive(Debug)]
enum Which {
    /// The card whose number has this value: its digits without leading zeros. `None`: a value that no card has.
    Number(Option<String>),
    /// The next free ones, this many.
    Next(u32),
}

impl Wish {
    fn read(params: &Params) -> Self {
        let which = match params.get("number").and_then(number::digits) {
            Some((sign, digits)) if !digits.is_empty() => Which::Number((sign == Sign::Plus).then_some(digits)),
            _ => Which::Next(u32::try_from(params.integer("quantity").max(1)).unwrap_or(u32::MAX)),
        };
        Self {
            group: i32::try_from(params.integer("id")).unwrap_or(-1),
            which,
            email: params.get("email").map(str::to_owned),
            currency: params.filled("curr").map(str::to_owned),
        }
    }
}

/// Where the cards are sent. A bad address never undoes a sale.
async fn email(call: &Call, caller: &Caller, wish: &Wish) -> Result<Option<Email>, Fault> {
    let Some(sent) = &wish.email else { return Ok(None) };
    let blank = sent.trim().is_empty();
    if blank && !call.dialect().orders_for_blank_email() {
        return Ok(None);
    }
    // MOR's column would cut a longer one; it is no address anyway.
    let address: String = sent.chars().take(255).collect();
    let posting = match blank {
        true => None,
        false => Posting::to(&address, &call.app.directory, caller.owner()).await?,
    };
    Ok(Some(Email { address, posting }))
}

/// In which currencies the sale is paid, ordered and shown. `None`: the client named one that isn't active.
fn terms(call: &Call, caller: &Caller, currencies: &Currencies, wish: &Wish, email: Option<Email>) -> Option<Terms> {
    let dialect = call.dialect();
    let one = BigDecimal::from(1);
    let system_currency = currencies.system().map(|system| system.name.clone()).unwrap_or_default();

    if dialect.pays_in_groups_currency() {
        let own = currencies.shown_rate(caller.currency(), dialect);
        return Some(Terms {
            currency: None,
            rate: own.clone(),
            shown_rate: own.clone(),
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
    Some(Terms { currency: Some(name), rate: rate.clone(), shown_rate: rate, order_rate: one, system_currency, email })
}

/// What the reply says.
#[derive(Debug, Serialize, Deserialize)]
struct Sold {
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
    sound: bool,
}

/// A sale that is being made.
struct Till<'a> {
    call: &'a Call,
    caller: &'a Caller,
    wish: &'a Wish,
    /// `None`: the client named a currency that isn't active.
    terms: Option<&'a Terms>,
    once: &'a Once<'a>,
}

impl Till<'_> {
    /// The common case in one round trip: the next free cards, as many as asked, sold by one statement that waits for nobody's cards; its
    /// own, or that of the sales it goes together with. None sold: it isn't that simple, or was done before, and nothing was changed.
    async fn at_once(&self) -> Result<Vec<SoldCard>, Fault> {
        let Self { call, caller, terms, wish, once } = *self;
        let (Some(terms), Which::Next(quantity)) = (terms, &wish.which) else { return Ok(Vec::new()) };
        if *quantity > call.app.config.max_quantity.get() {
            return Ok(Vec::new());
        }
        let _place = match self.order(terms, *quantity).map(|order| call.app.together.begin(caller.id(), order)) {
            None => None,
            Some(Way::Alone(place)) => Some(place),
            Some(Way::With(others)) => match others.outcome().await {
                Outcome::Sold(cards) => return Ok(cards),
                Outcome::Undone => None,
                Outcome::Refused(fault) => return Err(once.advise(fault)),
            },
        };
        self.alone(terms, *quantity).await
    }

    /// What there is to say of a sale that may go together with others: it writes no order rows, and is paid in a currency that is known.
    fn order<'a>(&'a self, terms: &'a Terms, quantity: u32) -> Option<impl FnOnce() -> Order + use<'a>> {
        let Self { call, caller, wish, once, .. } = *self;
        let currency = terms.currency.as_ref()?;
        let is_plain = terms.email.is_none() && !call.dialect().refuses_unsound_cards();
        let order = move || Order {
            group: wish.group,
            quantity,
            key: once.key().cloned(),
            alike: Alike {
                caller: caller.id(),
                owner: caller.owner(),
                currency: currency.clone(),
                rate: terms.rate.clone(),
            },
        };
        (is_plain && quantity <= MOST_OF_ONE).then_some(order)
    }

    async fn alone(&self, terms: &Terms, quantity: u32) -> Result<Vec<SoldCard>, Fault> {
        let Self { call, caller, wish, once, .. } = *self;
        let only_sound = call.dialect().refuses_unsound_cards();
        let kept = once.key().map(|key| Keeping { key, currency: shown_currency(terms) });
        let take = Take::Next { quantity: i64::from(quantity), only_sound, kept };
        let mut connection = call.app.pool.acquire().await?;
        match sell(&mut connection, sale(caller, wish, terms, take)).await {
            Ok(cards) => {
                connection.keep();
                Ok(cards)
            }
            Err(error) if idempotency::is_known(&error) => Ok(Vec::new()),
            Err(error) if kept.is_some() && idempotency::is_waited_for_in_vain(&error) => Err(Fault::StillRunning),
            Err(error) => Err(once.advise(Fault::of_commit(error))),
        }
    }

    /// Everything else, in the order of the contract, in one transaction. It waits for sales that are under way, since their
    /// cards may yet come free again.
    async fn step_by_step(&self) -> Result<Sold, Fault> {
        let Self { call, caller, wish, terms, once } = *self;
        let mut change = once.begin().await?;
        let connection = &mut *change;
        find_group(connection, caller, wish.group).await?;
        let candidates = match &wish.which {
            Which::Number(digits) => vec![named(connection, wish.group, digits.as_deref()).await?],
            Which::Next(quantity) if *quantity > call.app.config.max_quantity.get() => {
                return Err(Fault::TransactionFailed);
            }
            Which::Next(quantity) => next_free(connection, wish.group, *quantity).await?,
        };
        let terms = terms.ok_or(Fault::CurrencyNotFound)?;
        if call.dialect().repairs_taxes() {
            store::tax::repair(connection, wish.group).await?;
        }

        let sells = |candidate: &Candidate| candidate.sound || !call.dialect().refuses_unsound_cards();
        let these: Vec<i64> = candidates.iter().filter(|card| sells(card)).map(|card| card.id).collect();
        let sold = sell(&mut *connection, sale(caller, wish, terms, Take::These(&these))).await?;
        if sold.len() != these.len() {
            // The group was hidden, or given to somebody else, while we waited for its cards.
            return Err(Fault::TransactionFailed);
        }
        let mut sold = sold.into_iter();
        let cards = candidates.iter().map(|card| if sells(card) { sold.next() } else { None }).collect();
        let sold = change.commit(Sold { currency: shown_currency(terms).to_owned(), cards }).await?;
        self.sold(these.len());
        Ok(sold)
    }

    /// What is done once a sale is safe.
    fn sold(&self, cards: usize) {
        self.call.app.sold(cards);
        if self.terms.and_then(|terms| terms.email.as_ref()).is_some() {
            self.call.app.mail.wake();
        }
    }
}

/// The group must be one of the caller's owner, and not hidden.
async fn find_group(connection: &mut PgConnection, caller: &Caller, group: i32) -> Result<(), Fault> {
    sqlx::query!("select id from cardgroups where id = $1 and owner_id = $2 and hidden = 0", group, caller.owner())
        .fetch_optional(connection)
        .await?
        .map(drop)
        .ok_or(Fault::CardgroupNotFound)
}

/// The group's card whose number has this value: leading zeros don't matter, and no number is longer than 255.
async fn named(connection: &mut PgConnection, group: i32, digits: Option<&str>) -> Result<Candidate, Fault> {
    let card = sqlx::query_as!(
        Candidate,
        r#"select c.id, c.sold = 1 or was_sold(c) as "sold!", is_sound(c, g.pin_length, g.number_length) as "sound!"
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
    .ok_or(Fault::FreeCardsNotFound)?;
    if card.sold { Err(Fault::CardAlreadySold) } else { Ok(card) }
}

/// The next free cards: as many as asked, or as many as there are.
async fn next_free(connection: &mut PgConnection, group: i32, quantity: u32) -> Result<Vec<Candidate>, Fault> {
    let cards = sqlx::query_as!(
        Candidate,
        r#"select c.id, c.sold = 1 as "sold!", is_sound(c, g.pin_length, g.number_length) as "sound!"
           from card_stock s join cards c on c.id = s.card_id join cardgroups g on g.id = c.cardgroup_id
           where s.cardgroup_id = $1 and c.cardgroup_id + 0 = $1 and is_in_stock(c)
           order by s.number, s.card_id limit $2
           for no key update of c"#,
        group,
        i64::from(quantity)
    )
    .fetch_all(connection)
    .await?;
    if cards.is_empty() { Err(Fault::FreeCardsNotFound) } else { Ok(cards) }
}

fn sale<'a>(caller: &Caller, wish: &Wish, terms: &'a Terms, take: Take<'a>) -> Sale<'a> {
    Sale { caller: caller.id(), owner: Some(caller.owner()), group: wish.group, take, terms, over_api: true }
}

/// The currency that balances are labelled with: the payment's, or the system's where that is the group's.
fn shown_currency(terms: &Terms) -> &str {
    terms.currency.as_deref().unwrap_or(&terms.system_currency)
}

fn reply(Sold { currency, cards: sold }: Sold) -> Document {
    Document::new("page", |page| {
        page.element("cards", |cards| {
            for sold in sold {
                match sold {
                    Some(sold) => cards.element("card", |card| {
                        card.value("pin", sold.pin.as_deref());
                        card.text("number", &sold.number);
                        card.text("balance_without_vat", sold.balance.plain());
                        card.text("currency", &currency);
                    }),
                    None => cards.element("status", |status| status.text("error", "Card error")),
                }
            }
        });
    })
}
