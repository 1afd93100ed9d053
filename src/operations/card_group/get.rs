//! `card_group_get` (`show_calling_card_group`): shows a card group, for example in a web shop.
//! Contract: `endpoints/card_group_get.md`.

use bigdecimal::BigDecimal;

use crate::auth::caller::Caller;
use crate::auth::signature::HashRule;
use crate::error::ApiError;
use crate::http::context::{Access, CallContext, Operation};
use crate::money::Money;
use crate::operations::spec::{OperationSpec, ParamType, Parameter, ReplyType};
use crate::store;
use crate::xml::XmlReply;

/// The operation's description and handler.
pub const OPERATION: Operation = Operation {
    name: "card_group_get",
    aliases: &["show_calling_card_group"],
    hash_rules: &[HashRule::ParamOrder(&[])],
    spec: OperationSpec {
        summary: "Shows a card group",
        description: "Shows a card group for a web shop: name, image, price, number of free cards.",
        parameters: &[&[Parameter::new("id", ParamType::Integer, "The card group.", "6").required()]],
        is_mutation: false,
        reply_type: ReplyType::Xml,
        example_reply: "<page>
  <cardgroup>
    <name>Ten dollar cards</name>
    <iamge_link>/billing/cards/example.jpg</iamge_link>
    <description>Ten dollars of calls, 19 % VAT included</description>
    <price>8.40</price>
    <price_with_tax>10.00</price_with_tax>
    <currency>USD</currency>
    <free_cards_size>9998</free_cards_size>
    <pin_length>8</pin_length>
    <number_length>10</number_length>
  </cardgroup>
</page>",
    },
    access: Access::Strict,
    handler: |call, caller| Box::pin(handle(call, caller)),
};

async fn handle(call: &CallContext, caller: &Caller) -> Result<XmlReply, ApiError> {
    let id = i32::try_from(call.params.integer("id")).unwrap_or(-1);
    let currencies = call.state.accounts.currencies().await?;
    let rate = currencies.display_rate(caller.currency_id(), call.dialect());
    let group = find(call, caller, id, &rate).await?.ok_or(ApiError::CardGroupNotFound)?;
    if !group.has_taxes && call.dialect().creates_missing_taxes() {
        // Boxed: the future is large, and this happens once per group.
        Box::pin(ensure_taxes(call, id)).await?;
    }
    let currency = currencies.system().map_or("", |system| &system.name);
    Ok(render_reply(&group, currency, &call.state.config.prefix, call.system_settings.nice_digits()))
}

async fn ensure_taxes(call: &CallContext, group_id: i32) -> sqlx::Result<()> {
    let mut transaction = call.state.pool.begin().await?;
    store::tax::ensure_taxes(&mut transaction, group_id).await?;
    transaction.commit().await
}

/// The fields of a card group in the reply. Prices are multiplied by the rate that the dialect prescribes.
#[derive(Debug)]
struct CardGroup {
    name: String,
    image: Option<String>,
    description: String,
    price: Money,
    price_with_tax: Money,
    free_cards: i64,
    pin_length: i32,
    number_length: i32,
    has_taxes: bool,
}

/// Finds the group if it belongs to the caller's owner and is not hidden.
async fn find(call: &CallContext, caller: &Caller, id: i32, rate: &BigDecimal) -> sqlx::Result<Option<CardGroup>> {
    let mut connection = call.state.pool.acquire().await?;
    let group = sqlx::query_as!(
        CardGroup,
        r#"select name, image, description, coalesce(price, 0) * $3::numeric as "price!: Money",
               coalesce(price, 0) * $3::numeric * (1 + effective_tax_rate(tax_id, owner_id)) as "price_with_tax!: Money",
               (select count(*) from card_stock s where s.cardgroup_id = cardgroups.id) as "free_cards!",
               pin_length, number_length, exists (select from taxes where id = tax_id) as "has_taxes!"
           from cardgroups where id = $1 and owner_id = $2 and hidden = 0"#,
        id,
        caller.owner_id(),
        rate
    )
    .fetch_optional(&mut *connection)
    .await?;
    connection.release_clean();
    Ok(group)
}

fn render_reply(group: &CardGroup, currency: &str, prefix: &str, digits: usize) -> XmlReply {
    XmlReply::new("page", |page| {
        page.element("cardgroup", |cardgroup| {
            cardgroup.text("name", &group.name);
            // MOR's spelling, which clients expect.
            cardgroup.text("iamge_link", format!("{prefix}/cards/{}", group.image.as_deref().unwrap_or_default()));
            cardgroup.text("description", &group.description);
            cardgroup.text("price", group.price.to_fixed_string(digits));
            cardgroup.text("price_with_tax", group.price_with_tax.to_fixed_string(digits));
            cardgroup.text("currency", currency);
            cardgroup.text("free_cards_size", group.free_cards.to_string());
            cardgroup.text("pin_length", group.pin_length.to_string());
            cardgroup.text("number_length", group.number_length.to_string());
        });
    })
}
