//! `card_by_cli_update` (`cc_by_cli`): makes and tops up cards, and moves funds, for a caller id.
//! The spec's page: `endpoints/card_by_cli_update.md`; the published one: `source/card_by_cli_update.txt`.

mod action;
mod apply;
mod lookup;

use bigdecimal::BigDecimal;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use self::action::Deed;
use self::lookup::{Device, Found};
use crate::auth::admission::{self, Caller};
use crate::auth::attempt_limiter::Guess;
use crate::auth::signature::Rule;
use crate::error::Fault;
use crate::http::context::{Call, Operation};
use crate::http::params::Params;
use crate::idempotency::Once;
use crate::money::Money;
use crate::number;
use crate::operations::spec::{Kind, Page, Parameter};
use crate::sales::statement::{Sale, Take, Terms, sell};
use crate::store;
use crate::store::card::Conversion;
use crate::xml::{Document, Element};

/// The operation. Under its old name the hash may follow the rule of 2012, which leaves `amount` out.
pub const OPERATION: Operation = Operation {
    name: "card_by_cli_update",
    aliases: &["cc_by_cli"],
    hashed: &[Rule::Listed(&[]), Rule::Legacy("cc_by_cli", &["user_id", "pin", "callerid"])],
    page: Page {
        summary: "Makes or tops up the card of a caller id",
        description: "Tops up what has the caller id, a device's user or a card; makes a new card of the group where nothing has it. \
            With a PIN the value of that card is moved instead. A device's user is answered with device_id, user_id, new_balance and \
            new_balance_with_vat in place of the card.",
        parameters: &[&[
            Parameter::new("callerid", Kind::Text, "The caller id, up to 30 characters.", "123").required(),
            Parameter::new(
                "calleridid",
                Kind::Text,
                "Another spelling of callerid, as the published page has it.",
                "123",
            ),
            Parameter::new("amount", Kind::Decimal, "What is added, taxes included; else nothing.", "11.90").usual(),
            Parameter::new(
                "pin",
                Kind::Secret,
                "The PIN of a card whose value is used; amount doesn't count then.",
                "28402719",
            ),
            Parameter::new("cardgroup_id", Kind::Integer, "The card group of a new card.", "3").usual(),
            Parameter::new("cardgroup", Kind::Integer, "Another spelling of cardgroup_id.", "3"),
            Parameter::new("user_id", Kind::Text, "Hashed by the rule of 2012, and read by nobody.", ""),
        ]],
        changes: true,
        reply: "<page>
  <status>ok</status>
  <card>
    <id>10001</id>
    <cardgroup_id>3</cardgroup_id>
    <balance>10.00</balance>
    <callerid>123</callerid>
    <pin>61820475</pin>
    <number>5307741926</number>
  </card>
</page>",
    },
    handler: |call| Box::pin(answer(call)),
};

async fn answer(call: &Call) -> Result<Document, Fault> {
    let caller = admission::admit_strictly(call).await?;
    let once = Once::new(call, &caller).await?;
    let wrapped = call.dialect().wraps_in_response();
    once.answer(serve(call, &caller, &once), |shown| reply(wrapped, &shown)).await
}

async fn serve(call: &Call, caller: &Caller, once: &Once<'_>) -> Result<Shown, Fault> {
    let desk = &Desk::new(call, caller).await?;
    let wish = &Wish::read(&call.params, call)?;
    wish.may_guess(call)?;
    update(desk, wish, once).await.map_err(|fault| match fault {
        Fault::TransactionFailed => Fault::CallerIdFailed,
        Fault::PinNotFound => {
            call.guessed_wrong(Guess::Pin);
            Fault::PinNotFound
        }
        fault => fault,
    })
}

async fn update(desk: &Desk<'_>, wish: &Wish, once: &Once<'_>) -> Result<Shown, Fault> {
    let _turn = desk.call.app.callerid_turn(&wish.callerid).await.ok_or(Fault::Unavailable)?;
    let mut change = once.begin().await?;
    // Once more: others waited for their connection as well.
    wish.may_guess(desk.call)?;
    store::caller_id::take_turn(&mut change, &wish.callerid).await?;
    let found = Found::look_up(&mut change, desk, wish).await?;
    let deed = Deed::choose(&mut change, desk, wish, found).await?;
    let outcome = deed.carry_out(&mut change, desk, wish).await?;
    let shown = outcome.show(&mut change, desk, wish).await?;
    change.commit(shown).await
}

/// Who serves whom: the request, and how its amounts are counted.
struct Desk<'a> {
    call: &'a Call,
    caller: &'a Caller,
    conversion: Conversion,
    terms: Terms,
}

impl<'a> Desk<'a> {
    async fn new(call: &'a Call, caller: &'a Caller) -> Result<Self, Fault> {
        let currencies = call.app.directory.currencies().await?;
        let rate = currencies.shown_rate(caller.currency(), call.dialect());
        let digits = call.system.nice_digits();
        let terms = Terms {
            currency: None,
            rate: rate.clone(),
            shown_rate: rate.clone(),
            order_rate: rate.clone(),
            system_currency: String::new(),
            email: None,
        };
        Ok(Self { call, caller, conversion: Conversion { caller: caller.id(), rate, digits }, terms })
    }

    /// The card is the caller's owner's; whose its group is, and whether it is hidden, doesn't matter here.
    async fn sell(&self, connection: &mut PgConnection, card: i64, group: i32) -> Result<(), Fault> {
        let sale = Sale {
            caller: self.caller.id(),
            owner: None,
            group,
            take: Take::These(&[card]),
            terms: &self.terms,
            over_api: false,
        };
        match sell(connection, sale).await?.len() {
            1 => Ok(()),
            _ => Err(Fault::TransactionFailed),
        }
    }

    async fn repair(&self, connection: &mut PgConnection, group: i32) -> Result<(), Fault> {
        if self.call.dialect().repairs_taxes() {
            store::tax::repair(connection, group).await?;
        }
        Ok(())
    }
}

/// What the client asks for.
struct Wish {
    /// As it is kept.
    callerid: String,
    /// As it was sent, for the reply.
    callerid_sent: String,
    pin: Option<String>,
    /// Tax included. Unused when there is a PIN.
    amount: BigDecimal,
    /// The group named, by whatever number was read.
    group: Option<i32>,
}

impl Wish {
    fn read(params: &Params, call: &Call) -> Result<Self, Fault> {
        let sent = params.filled("callerid").or(params.filled("calleridid")).ok_or(Fault::CallerIdMissing)?;
        let callerid: String = sent.chars().take(store::caller_id::LONGEST).collect();
        if callerid != sent && !call.dialect().cuts_long_texts() {
            return Err(Fault::CallerIdFailed);
        }
        let blank_counts = call.dialect().takes_blank_group_for_unknown();
        let group = match params.get("cardgroup_id") {
            Some(group) if blank_counts => Some(group),
            _ => params.filled("cardgroup_id").or(params.filled("cardgroup")),
        };
        Ok(Self {
            callerid,
            callerid_sent: sent.to_owned(),
            pin: params.filled("pin").map(|pin| pin.trim_end_matches(' ').to_owned()),
            amount: params.get("amount").map_or_else(|| BigDecimal::from(0), number::decimal),
            group: group.map(|id| i32::try_from(number::integer(id)).unwrap_or(-1)),
        })
    }

    /// Refuses PINs of a client that sent too many which no card has.
    fn may_guess(&self, call: &Call) -> Result<(), Fault> {
        self.pin.as_ref().map_or(Ok(()), |_| call.may_guess(Guess::Pin))
    }
}

/// Whom the reply shows.
enum Outcome {
    Card(i64),
    User(Device),
}

impl Outcome {
    async fn show(self, connection: &mut PgConnection, desk: &Desk<'_>, wish: &Wish) -> Result<Shown, Fault> {
        let rate = &desk.conversion.rate;
        let nice = |amount: &Money| amount.nice(desk.conversion.digits);
        match self {
            Self::Card(id) => {
                let card = sqlx::query!(
                    r#"select c.id, c.cardgroup_id, c.pin, c.number,
                           coalesce(c.balance, 0) * $2::numeric as "balance!: Money", coalesce(c.balance, 0) * $2::numeric * (1 + tax_share_of(g.tax_id, g.owner_id)) as "with_vat!: Money"
                       from cards c join cardgroups g on g.id = c.cardgroup_id where c.id = $1"#,
                    id,
                    rate
                )
                .fetch_one(connection)
                .await?;
                Ok(Shown::Card {
                    id: card.id,
                    cardgroup_id: card.cardgroup_id,
                    balance: nice(&card.balance),
                    balance_with_vat: nice(&card.with_vat),
                    callerid: wish.callerid_sent.clone(),
                    pin: card.pin,
                    number: card.number,
                })
            }
            Self::User(device) => {
                let user = sqlx::query!(
                    r#"select coalesce(balance, 0) * $2::numeric as "balance!: Money", coalesce(balance, 0) * $2::numeric * (1 + tax_share_of(users.tax_id, users.owner_id)) as "with_vat!: Money"
                       from users where id = $1"#,
                    device.user_id,
                    rate
                )
                .fetch_one(connection)
                .await?;
                Ok(Shown::User {
                    device_id: device.id,
                    user_id: device.user_id,
                    new_balance: nice(&user.balance),
                    new_balance_with_vat: nice(&user.with_vat),
                })
            }
        }
    }
}

/// What the reply says, amounts as they are printed.
#[derive(Debug, Serialize, Deserialize)]
enum Shown {
    Card {
        id: i64,
        cardgroup_id: i32,
        balance: String,
        balance_with_vat: String,
        callerid: String,
        pin: Option<String>,
        number: Option<String>,
    },
    User {
        device_id: i32,
        user_id: i32,
        new_balance: String,
        new_balance_with_vat: String,
    },
}

fn reply(wrapped: bool, shown: &Shown) -> Document {
    let content = |page: &mut Element<'_>| {
        page.text("status", "ok");
        match shown {
            Shown::Card { id, cardgroup_id, balance, balance_with_vat, callerid, pin, number } => {
                page.element("card", |card| {
                    card.text("id", id.to_string());
                    card.text("cardgroup_id", cardgroup_id.to_string());
                    card.text("balance", balance);
                    if wrapped {
                        card.text("balance_with_vat", balance_with_vat);
                    }
                    card.text("callerid", callerid);
                    card.value("pin", pin.as_deref());
                    card.value("number", number.as_deref());
                });
            }
            Shown::User { device_id, user_id, new_balance, new_balance_with_vat } => {
                page.text("device_id", device_id.to_string());
                page.text("user_id", user_id.to_string());
                page.text("new_balance", new_balance);
                page.text("new_balance_with_vat", new_balance_with_vat);
            }
        }
    };
    Document::new("page", |page| if wrapped { page.element("response", content) } else { content(page) })
}
