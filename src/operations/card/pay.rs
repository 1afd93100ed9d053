//! `card_payment_add`: tops up a sold card, found by its number.
//! Contract: `endpoints/card_payment_add.md`.

use bigdecimal::BigDecimal;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::accounts::{Currencies, Setting, UserType};
use crate::auth::admission;
use crate::auth::caller::{Caller, rights};
use crate::auth::signature::HashRule;
use crate::error::ApiError;
use crate::http::context::{Access, CallContext, Operation};
use crate::idempotency::Idempotency;
use crate::money::Money;
use crate::number;
use crate::operations::spec::{OperationSpec, PAYMENT_REFERENCE_PARAMETER, ParamType, Parameter, ReplyType};
use crate::store;
use crate::store::card_payment::{self, CardPayment, PaidAmounts};
use crate::xml::XmlReply;

/// The operation's description and handler. Hashed: `description`, `number`, `amount` and `currency`, and the other
/// sent parameters of the parameter list.
pub const OPERATION: Operation = Operation {
    name: "card_payment_add",
    aliases: &[],
    hash_rules: &[HashRule::ParamOrder(&[])],
    spec: OperationSpec {
        summary: "Tops up a sold card",
        description: "Adds an amount, without the card group's taxes, to the balance of a sold card. The setting \
            API_Allow_payments_ower_API (MOR's spelling) must be 1.",
        parameters: &[&[
            Parameter::new("number", ParamType::Text, "The number of the card.", "1111111000").required(),
            Parameter::new("amount", ParamType::Decimal, "The amount paid, taxes included; above 0.", "11.90")
                .required(),
            Parameter::new(
                "currency",
                ParamType::Text,
                "The name of an active currency; default: the system's currency.",
                "USD",
            )
            .in_example(),
            Parameter::new("description", ParamType::Text, "The description of the payment.", "Top-up").in_example(),
            PAYMENT_REFERENCE_PARAMETER,
        ]],
        is_mutation: true,
        reply_type: ReplyType::Xml,
        example_reply: "<page>
  <status>
    <success>Calling Card balance successfully updated</success>
  </status>
  <calling_card_group>
    <name>Ten dollar cards</name>
  </calling_card_group>
  <calling_card>
    <number>1111111000</number>
  </calling_card>
  <add_payment>
    <currency>USD</currency>
    <amount_with_tax>11.9</amount_with_tax>
    <details>
      <current_balance>8.403361344537815</current_balance>
      <amount_with_tax>11.9</amount_with_tax>
      <amount_without_tax>10.0</amount_without_tax>
      <new_balance>18.403361344537815</new_balance>
      <description>Top-up</description>
    </details>
  </add_payment>
</page>",
    },
    access: Access::Own(authorize),
    handler: |call, caller| Box::pin(handle(call, caller)),
};

fn authorize(call: &CallContext, caller: Option<Caller>) -> Result<Caller, ApiError> {
    if !call.system_settings.is_enabled(Setting::AllowPayments) {
        return Err(ApiError::Refused("Feature Disabled"));
    }
    let caller = caller.ok_or(ApiError::AccessDeniedInPage)?;
    let (right, error) = match caller.usertype() {
        UserType::Admin => return Ok(caller),
        UserType::Reseller if caller.right("calling_cards") > 0 => return Ok(caller),
        UserType::Reseller => {
            (caller.calling_cards_right(), ApiError::Refused("You are not authorized to use Calling Cards"))
        }
        UserType::Accountant | UserType::User | UserType::Partner => (rights::USER_TYPE, ApiError::AccessDeniedInPage),
    };
    admission::log_missing_right(call, &caller, right);
    Err(error)
}

async fn handle(call: &CallContext, caller: &Caller) -> Result<XmlReply, ApiError> {
    let idempotency = Idempotency::new(call, caller).await?;
    let receipt = idempotency.change(call.state.accounts.currencies(), async |connection, currencies| {
        let card = Card::find(connection, call, caller).await?;
        let payment = Payment::read(call, caller, currencies, idempotency.reference())?;
        if call.dialect().creates_missing_taxes() {
            store::tax::ensure_taxes(connection, card.cardgroup_id).await?;
        }
        let accepts_any_tax = call.dialect().accepts_any_amount();
        let result = payment.input.add(connection, card.id, card.cardgroup_id, accepts_any_tax).await?;
        // No row: taxes of -100 % or less, which would change the sign of the amount.
        Ok(Receipt::new(card, payment, result.ok_or(ApiError::TransactionFailed)?))
    });
    Ok(receipt.await?.render(render_reply))
}

/// The card to top up. Its row is locked.
#[derive(Debug)]
struct Card {
    id: i64,
    number: String,
    cardgroup_id: i32,
    cardgroup_name: String,
}

impl Card {
    /// Finds a sold card of the caller by its number, and locks it. "coalesce" keeps the planner from the partial index
    /// of groups: before the table is analyzed, it takes that one for small, and would read all of it.
    async fn find(connection: &mut PgConnection, call: &CallContext, caller: &Caller) -> Result<Self, ApiError> {
        let number = call.params.get("number").unwrap_or_default().trim_end_matches(' ');
        sqlx::query_as!(
            Card,
            r#"select c.id, c.number as "number!", c.cardgroup_id, g.name as cardgroup_name
               from cards c join cardgroups g on g.id = coalesce(c.cardgroup_id, 0)
               where c.number = $1 and c.hidden = 0 and c.quarantined_at is null and coalesce(c.owner_id, 0) = $2 and c.sold = 1
                   and c.retired_at is null and c.withheld is distinct from 'blocked'
               for no key update of c"#,
            number,
            caller.id()
        )
        .fetch_optional(connection)
        .await?
        .ok_or(ApiError::NotFound("Calling Card"))
    }
}

/// The payment to make, from the checked parameters.
#[derive(Debug)]
struct Payment {
    input: CardPayment,
    /// The name of the system's currency. `None` if the payment's currency is the system's.
    converted_to: Option<String>,
}

impl Payment {
    fn read(
        call: &CallContext,
        caller: &Caller,
        currencies: &Currencies,
        reference: Option<&str>,
    ) -> Result<Self, ApiError> {
        let (params, dialect) = (&call.params, call.dialect());
        let system = currencies.system().ok_or(ApiError::TransactionFailed)?;
        let named = params.non_blank("currency").and_then(|name| currencies.by_name(name));
        let currency = named.unwrap_or(system);
        let must_be_active = named.is_some() || dialect.requires_active_system_currency();
        if must_be_active && !currency.active {
            return Err(ApiError::Refused("Currency disabled"));
        }
        let text = params.get("amount").unwrap_or_default();
        let amount = match card_payment::parse_amount(text) {
            Some(amount) => amount,
            None if dialect.accepts_any_amount() => card_payment::round_amount(&number::parse_decimal(text)),
            None => return Err(ApiError::Refused("Amount is incorrect")),
        };
        // With a rate of 0 or less the amount would be lost.
        let converts = currency.id != system.id;
        let rate = currencies.rate_to(currency);
        let display_rate = currencies.display_rate(caller.currency_id(), dialect);
        if rate <= 0 || display_rate <= 0 {
            return Err(ApiError::TransactionFailed);
        }
        let input = CardPayment {
            caller_id: Some(caller.id()),
            amount,
            currency: currency.name.clone(),
            rate: if converts { rate } else { BigDecimal::from(1) },
            description: call.fit_text(params.get("description").unwrap_or_default(), "Description")?,
            display_rate,
            reference: reference.map(str::to_owned),
        };
        Ok(Self { input, converted_to: converts.then(|| system.name.clone()) })
    }
}

/// The content of the reply.
#[derive(Debug, Serialize, Deserialize)]
struct Receipt {
    cardgroup_name: String,
    number: String,
    currency: String,
    amount: Money,
    /// The exchange rate, and the name of the system's currency.
    conversion: Option<(Money, String)>,
    paid: PaidAmounts,
    description: String,
}

impl Receipt {
    fn new(card: Card, Payment { input, converted_to }: Payment, paid: PaidAmounts) -> Self {
        let to_money = |rate: &BigDecimal| Money::from(card_payment::round_amount(rate));
        Self {
            cardgroup_name: card.cardgroup_name,
            number: card.number,
            currency: input.currency,
            amount: input.amount.into(),
            conversion: converted_to.map(|system| (to_money(&input.rate), system)),
            paid,
            description: input.description,
        }
    }
}

fn render_reply(receipt: Receipt) -> XmlReply {
    let Receipt { cardgroup_name, number, currency, amount, conversion, paid, description } = &receipt;
    XmlReply::new("page", |page| {
        page.element("status", |status| status.text("success", "Calling Card balance successfully updated"));
        page.element("calling_card_group", |group| group.text("name", cardgroup_name));
        page.element("calling_card", |calling_card| calling_card.text("number", number));
        page.element("add_payment", |add_payment| {
            add_payment.text("currency", currency);
            add_payment.text("amount_with_tax", amount.to_plain_string());
            add_payment.element("details", |details| {
                details.text("current_balance", paid.current_balance.to_plain_string());
                if let Some((rate, system)) = conversion {
                    details.text("converted_to", system);
                    details.text("exchange_rate", rate.to_plain_string());
                }
                details.text("amount_with_tax", paid.with_tax.to_plain_string());
                details.text("amount_without_tax", paid.without_tax.to_plain_string());
                details.text("new_balance", paid.new_balance.to_plain_string());
                details.text("description", description);
            });
        });
    })
}
