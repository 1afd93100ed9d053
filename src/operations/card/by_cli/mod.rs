//! `card_by_cli_update` (`cc_by_cli`): creates and tops up cards, and moves funds, for a caller id.
//! Contract: `endpoints/card_by_cli_update.md`; published page: `source/card_by_cli_update.txt`.

mod action;
mod apply;
mod lookup;

use std::sync::Arc;

use bigdecimal::BigDecimal;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tokio::sync::OwnedSemaphorePermit;

use self::action::Action;
use self::lookup::{Device, Lookup};
use crate::accounts::Currencies;
use crate::auth::attempt_limiter::AttemptKind;
use crate::auth::caller::Caller;
use crate::auth::signature::HashRule;
use crate::error::ApiError;
use crate::http::context::{Access, CallContext, Operation};
use crate::http::params::Params;
use crate::idempotency::Idempotency;
use crate::money::Money;
use crate::number;
use crate::operations::spec::{OperationSpec, PAYMENT_REFERENCE_PARAMETER, ParamType, Parameter, ReplyType};
use crate::pin::Pin;
use crate::sales::statement::{CardSale, sell_cards};
use crate::store;
use crate::store::card::Conversion;
use crate::xml::{Element, XmlReply};

/// The operation's description and handler. Under the old name the hash may follow the rule of 2012, which leaves
/// `amount` unsigned.
pub const OPERATION: Operation = Operation {
    name: "card_by_cli_update",
    aliases: &["cc_by_cli"],
    hash_rules: &[HashRule::ParamOrder(&[]), HashRule::Legacy("cc_by_cli", &["user_id", "pin", "callerid"])],
    spec: OperationSpec {
        summary: "Creates or tops up the card of a caller id",
        description: "Tops up the owner of the caller id: the user of a device, or a card. If nothing has the caller \
            id, creates a card of the card group. With a PIN, the balance of the PIN's card is moved instead. For the \
            user of a device, the reply contains device_id, user_id, new_balance and new_balance_with_vat instead of \
            the card.",
        parameters: &[&[
            Parameter::new("callerid", ParamType::Text, "The caller id, up to 30 characters.", "123").required(),
            Parameter::new("calleridid", ParamType::Text, "Another name of callerid, from the published page.", "123"),
            Parameter::new("amount", ParamType::Decimal, "The amount to add, taxes included; default: 0.", "11.90")
                .in_example(),
            Parameter::new(
                "pin",
                ParamType::Secret,
                "The PIN of a card whose balance is used; amount is then ignored.",
                "28402719",
            ),
            Parameter::new("cardgroup_id", ParamType::Integer, "The card group of a new card.", "3").in_example(),
            Parameter::new("cardgroup", ParamType::Integer, "Another name of cardgroup_id.", "3"),
            Parameter::new("user_id", ParamType::Text, "Hashed by the rule of 2012, otherwise ignored.", ""),
            PAYMENT_REFERENCE_PARAMETER,
        ]],
        is_mutation: true,
        reply_type: ReplyType::Xml,
        example_reply: "<page>
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
    access: Access::Strict,
    handler: |call, caller| Box::pin(handle(call, caller)),
};

async fn handle(call: &CallContext, caller: &Caller) -> Result<XmlReply, ApiError> {
    let idempotency = Idempotency::new(call, caller).await?;
    let wrapped = call.dialect().wraps_in_response();
    let changed = idempotency.change(prepare(call), async |connection, (currencies, input, _lock)| {
        let context = Context::new(call, caller, currencies, idempotency.reference());
        update(connection, &context, input).await.map_err(|error| match error {
            ApiError::TransactionFailed => ApiError::CallerIdTransactionFailed,
            ApiError::PinNotFound => {
                call.record_failed_attempt(AttemptKind::Pin);
                ApiError::PinNotFound
            }
            error => error,
        })
    });
    Ok(changed.await?.render(|reply| render_reply(wrapped, &reply)))
}

/// Reads the request, and waits for the lock of its caller id.
async fn prepare(call: &CallContext) -> Result<(Arc<Currencies>, Input, OwnedSemaphorePermit), ApiError> {
    let currencies = call.state.accounts.currencies().await?;
    let input = Input::read(&call.params, call)?;
    input.check_attempt_limit(call)?;
    let lock = call.lock_callerid(&input.callerid).await?;
    Ok((currencies, input, lock))
}

async fn update(connection: &mut PgConnection, context: &Context<'_>, input: &Input) -> Result<Reply, ApiError> {
    // Checked again: other requests of the client may have failed while this one waited for the lock and the
    // connection.
    input.check_attempt_limit(context.call)?;
    store::caller_id::advisory_lock(connection, &input.callerid).await?;
    let lookup = Lookup::load(connection, context, input).await?;
    let action = Action::choose(connection, context, input, lookup).await?;
    let result = action.execute(connection, context, input).await?;
    result.load_reply(connection, context, input).await
}

/// The request, its caller, and the conversion of its amounts.
struct Context<'a> {
    call: &'a CallContext,
    caller: &'a Caller,
    conversion: Conversion,
}

impl<'a> Context<'a> {
    fn new(call: &'a CallContext, caller: &'a Caller, currencies: &Currencies, reference: Option<&str>) -> Self {
        let rate = currencies.display_rate(caller.currency_id(), call.dialect());
        let digits = call.system_settings.nice_digits();
        let reference = reference.map(str::to_owned);
        let conversion = Conversion { user_id: caller.id(), caller_rate: rate, nice_digits: digits, reference };
        Self { call, caller, conversion }
    }

    /// Sells a card, which must belong to the caller's owner. The owner and visibility of its group are not checked.
    async fn sell(&self, connection: &mut PgConnection, card_id: i64, group_id: i32) -> Result<(), ApiError> {
        let sale = CardSale {
            card_ids: &[card_id],
            group_id,
            owner_id: None,
            user_id: self.caller.id(),
            currency: None,
            rate: &self.conversion.caller_rate,
            sold_over_api: false,
            reference: self.conversion.reference.as_deref(),
        };
        match sell_cards(connection, &sale).await?.len() {
            1 => Ok(()),
            _ => Err(ApiError::TransactionFailed),
        }
    }

    async fn ensure_taxes(&self, connection: &mut PgConnection, group_id: i32) -> Result<(), ApiError> {
        if self.call.dialect().creates_missing_taxes() {
            store::tax::ensure_taxes(connection, group_id).await?;
        }
        Ok(())
    }
}

/// The parameters of the request.
struct Input {
    /// The caller id as it is stored: cut to the length of MOR's column.
    callerid: String,
    /// The caller id as it was sent; the reply contains it.
    callerid_raw: String,
    pin: Option<Pin>,
    /// Taxes included; 0 if there is a PIN. `None`: the text that was sent is not an amount.
    amount: Option<BigDecimal>,
    /// The id of the named group, -1 if it is out of range. `None`: no group is named.
    group_id: Option<i32>,
}

impl Input {
    fn read(params: &Params, call: &CallContext) -> Result<Self, ApiError> {
        let sent = params.non_blank("callerid").or(params.non_blank("calleridid")).ok_or(ApiError::CallerIdMissing)?;
        let callerid: String = sent.chars().take(store::caller_id::CALLERID_LEN_MAX).collect();
        if callerid != sent && !call.dialect().truncates_long_text() {
            return Err(ApiError::CallerIdTransactionFailed);
        }
        let blank_is_unknown = call.dialect().treats_blank_group_as_unknown();
        let group = match params.get("cardgroup_id") {
            Some(group) if blank_is_unknown => Some(group),
            _ => params.non_blank("cardgroup_id").or(params.non_blank("cardgroup")),
        };
        let pin = params.non_blank("pin").map(|pin| Pin::from(pin.trim_end_matches(' ')));
        let amount = match params.non_blank("amount") {
            Some(text) if pin.is_none() => call.dialect().parse_amount(text),
            _ => Some(BigDecimal::from(0)),
        };
        Ok(Self {
            callerid,
            callerid_raw: sent.to_owned(),
            pin,
            amount,
            group_id: group.map(|id| i32::try_from(number::parse_integer(id)).unwrap_or(-1)),
        })
    }

    /// The amount to add. [`Action::choose`] refuses a request without a readable amount.
    fn amount(&self) -> Result<&BigDecimal, ApiError> {
        self.amount.as_ref().ok_or(ApiError::CallerIdTransactionFailed)
    }

    /// Refuses a PIN if the client has sent too many unknown PINs.
    fn check_attempt_limit(&self, call: &CallContext) -> Result<(), ApiError> {
        self.pin.as_ref().map_or(Ok(()), |_| call.check_attempt_limit(AttemptKind::Pin))
    }
}

/// The card or user that the reply describes.
enum ActionResult {
    Card(i64),
    User(Device),
}

impl ActionResult {
    async fn load_reply(
        self,
        connection: &mut PgConnection,
        context: &Context<'_>,
        input: &Input,
    ) -> Result<Reply, ApiError> {
        let rate = &context.conversion.caller_rate;
        let format_amount = |amount: &Money| amount.to_fixed_string(context.conversion.nice_digits);
        match self {
            Self::Card(id) => {
                let card = sqlx::query!(
                    r#"select c.id, c.cardgroup_id, c.pin as "pin: Pin", c.number,
                           coalesce(c.balance, 0) * $2::numeric as "balance!: Money", coalesce(c.balance, 0) * $2::numeric * (1 + effective_tax_rate(g.tax_id, g.owner_id)) as "with_vat!: Money"
                       from cards c join cardgroups g on g.id = c.cardgroup_id where c.id = $1"#,
                    id,
                    rate
                )
                .fetch_one(connection)
                .await?;
                Ok(Reply::Card {
                    id: card.id,
                    cardgroup_id: card.cardgroup_id,
                    balance: format_amount(&card.balance),
                    balance_with_vat: format_amount(&card.with_vat),
                    callerid: input.callerid_raw.clone(),
                    pin: card.pin,
                    number: card.number,
                })
            }
            Self::User(device) => {
                let user = sqlx::query!(
                    r#"select coalesce(balance, 0) * $2::numeric as "balance!: Money", coalesce(balance, 0) * $2::numeric * (1 + effective_tax_rate(users.tax_id, users.owner_id)) as "with_vat!: Money"
                       from users where id = $1"#,
                    device.user_id,
                    rate
                )
                .fetch_one(connection)
                .await?;
                Ok(Reply::User {
                    device_id: device.id,
                    user_id: device.user_id,
                    new_balance: format_amount(&user.balance),
                    new_balance_with_vat: format_amount(&user.with_vat),
                })
            }
        }
    }
}

/// The content of the reply, with formatted amounts.
#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    Card {
        id: i64,
        cardgroup_id: i32,
        balance: String,
        balance_with_vat: String,
        callerid: String,
        pin: Option<Pin>,
        number: Option<String>,
    },
    User {
        device_id: i32,
        user_id: i32,
        new_balance: String,
        new_balance_with_vat: String,
    },
}

fn render_reply(wrapped: bool, reply: &Reply) -> XmlReply {
    let content = |page: &mut Element<'_>| {
        page.text("status", "ok");
        match reply {
            Reply::Card { id, cardgroup_id, balance, balance_with_vat, callerid, pin, number } => {
                page.element("card", |card| {
                    card.text("id", id.to_string());
                    card.text("cardgroup_id", cardgroup_id.to_string());
                    card.text("balance", balance);
                    if wrapped {
                        card.text("balance_with_vat", balance_with_vat);
                    }
                    card.text("callerid", callerid);
                    card.optional_text("pin", pin.as_ref().map(Pin::expose));
                    card.optional_text("number", number.as_deref());
                });
            }
            Reply::User { device_id, user_id, new_balance, new_balance_with_vat } => {
                page.text("device_id", device_id.to_string());
                page.text("user_id", user_id.to_string());
                page.text("new_balance", new_balance);
                page.text("new_balance_with_vat", new_balance_with_vat);
            }
        }
    };
    XmlReply::new("page", |page| if wrapped { page.element("response", content) } else { content(page) })
}
