//! `card_balance_get`: what is left on a card.
//! The spec's page: `endpoints/card_balance_get.md`.

use crate::accounts::UserType;
use crate::auth::admission::{self, Caller};
use crate::auth::signature::Rule;
use crate::error::Fault;
use crate::http::context::{Call, Operation};
use crate::money::Money;
use crate::operations::spec::{Kind, Page, Parameter};
use crate::xml::Document;

/// The operation.
pub const OPERATION: Operation = Operation {
    name: "card_balance_get",
    aliases: &[],
    hashed: &[Rule::Listed(&[])],
    page: Page {
        summary: "Shows what is left on a card",
        description: "The balance of the card with the number, without taxes and in the system's currency.",
        parameters: &[&[Parameter::new("number", Kind::Text, "The card's number.", "1111111000").required()]],
        changes: false,
        reply: "<page>
  <calling_card>
    <balance>8.403361344537815</balance>
    <currency>USD</currency>
  </calling_card>
</page>",
    },
    handler: |call| Box::pin(answer(call)),
};

async fn answer(call: &Call) -> Result<Document, Fault> {
    let caller = admission::admit(call).await?.ok_or(Fault::RefusedOnPage("User was not found"))?;
    if !may_see(&caller) {
        return Err(Fault::RefusedOnPage("You are not authorized to use this functionality"));
    }
    let currencies = call.app.directory.currencies().await?;
    let balance = find(call, &caller).await?.ok_or(Fault::RefusedOnPage("Calling Card was not found"))?;
    let balance = balance.or((!call.dialect().shows_missing_balance()).then(Money::zero));
    Ok(Document::new("page", |page| {
        page.element("calling_card", |card| {
            card.value("balance", balance.map(|balance| balance.plain()).as_deref());
            card.text("currency", currencies.system().map_or("", |system| &system.name));
        });
    }))
}

fn may_see(caller: &Caller) -> bool {
    match caller.usertype() {
        UserType::Admin => true,
        UserType::Reseller => caller.right("calling_cards") > 0,
        UserType::Accountant | UserType::User | UserType::Partner => false,
    }
}

/// The balance of the card with the number, a reseller's own; a hidden card's where no other has it. Of a card the balance
/// may be missing in old data.
async fn find(call: &Call, caller: &Caller) -> sqlx::Result<Option<Option<Money>>> {
    let number = call.params.get("number").unwrap_or_default().trim_end_matches(' ');
    let owner = (caller.usertype() == UserType::Reseller).then(|| caller.id());
    let mut connection = call.app.pool.acquire().await?;
    let balance = sqlx::query_scalar!(
        r#"select balance as "balance: Money" from (
               select 1 as place, id, balance, owner_id from cards where number = $1 and hidden = 0
               union all
               select 2, id, balance, owner_id from cards where number = $1 and hidden <> 0
           ) card
           where $2::integer is null or owner_id = $2
           order by place, id limit 1"#,
        number,
        owner
    )
    .fetch_optional(&mut *connection)
    .await?;
    connection.keep();
    Ok(balance)
}
