//! `card_balance_get`: shows the balance of a card.
//! Contract: `endpoints/card_balance_get.md`.

use crate::accounts::UserType;
use crate::auth::admission;
use crate::auth::caller::{Caller, rights};
use crate::auth::signature::HashRule;
use crate::error::ApiError;
use crate::http::context::{Access, CallContext, Operation};
use crate::money::Money;
use crate::operations::spec::{OperationSpec, ParamType, Parameter, ReplyType};
use crate::xml::XmlReply;

/// The operation's description and handler.
pub const OPERATION: Operation = Operation {
    name: "card_balance_get",
    aliases: &[],
    hash_rules: &[HashRule::ParamOrder(&[])],
    spec: OperationSpec {
        summary: "Shows the balance of a card",
        description: "Shows the balance of the card with the number, without taxes, in the system's currency.",
        parameters: &[&[Parameter::new("number", ParamType::Text, "The number of the card.", "1111111000").required()]],
        is_mutation: false,
        reply_type: ReplyType::Xml,
        example_reply: "<page>
  <calling_card>
    <balance>8.403361344537815</balance>
    <currency>USD</currency>
  </calling_card>
</page>",
    },
    access: Access::Own(authorize),
    handler: |call, caller| Box::pin(handle(call, caller)),
};

fn authorize(call: &CallContext, caller: Option<Caller>) -> Result<Caller, ApiError> {
    let caller = caller.ok_or(ApiError::RefusedWithoutStatus("User was not found"))?;
    let right = match caller.usertype() {
        UserType::Admin => return Ok(caller),
        UserType::Reseller if caller.right("calling_cards") > 0 => return Ok(caller),
        UserType::Reseller => caller.calling_cards_right(),
        UserType::Accountant | UserType::User | UserType::Partner => rights::USER_TYPE,
    };
    admission::log_missing_right(call, &caller, right);
    Err(ApiError::RefusedWithoutStatus("You are not authorized to use this functionality"))
}

async fn handle(call: &CallContext, caller: &Caller) -> Result<XmlReply, ApiError> {
    let currencies = call.state.accounts.currencies().await?;
    let balance =
        find_balance(call, caller).await?.ok_or(ApiError::RefusedWithoutStatus("Calling Card was not found"))?;
    let balance = balance.or((!call.dialect().leaves_missing_balance_empty()).then(Money::zero));
    Ok(XmlReply::new("page", |page| {
        page.element("calling_card", |card| {
            card.optional_text("balance", balance.map(|balance| balance.to_plain_string()).as_deref());
            card.text("currency", currencies.system().map_or("", |system| &system.name));
        });
    }))
}

/// Finds the balance of the card with the number: a hidden card only if no other card has the number, and for a
/// reseller only the reseller's own cards. The inner `None` is a balance that is missing in old data.
async fn find_balance(call: &CallContext, caller: &Caller) -> sqlx::Result<Option<Option<Money>>> {
    let number = call.params.get("number").unwrap_or_default().trim_end_matches(' ');
    let owner = (caller.usertype() == UserType::Reseller).then(|| caller.id());
    let mut connection = call.state.pool.acquire().await?;
    let balance = sqlx::query_scalar!(
        r#"select balance as "balance: Money" from cards
           where number = $1 and quarantined_at is null and ($2::integer is null or owner_id = $2)
               and withheld is distinct from 'blocked'
           order by hidden <> 0, coalesce(owner_id, 0) <> 0, id limit 1"#,
        number,
        owner
    )
    .fetch_optional(&mut *connection)
    .await?;
    connection.release_clean();
    Ok(balance)
}
