//! `cc_groups_get`: lists the caller's card groups. One query reads all of them.
//! Contract: `endpoints/cc_groups_get.md`.

use sqlx::PgConnection;

use crate::accounts::UserType;
use crate::auth::caller::{Caller, RIGHT_READ};
use crate::auth::signature::HashRule;
use crate::error::ApiError;
use crate::http::context::{Access, CallContext, Operation};
use crate::money::Money;
use crate::number;
use crate::operations::spec::{OperationSpec, ParamType, Parameter, ReplyType};
use crate::store;
use crate::store::pages::{self, LIST_DURATION_MAX, ListConnections, PAGE_ROWS, PageReader};
use crate::xml::{Element, XmlReply};

/// The operation's description and handler. No parameter is hashed: the hash is the SHA-1 of the key.
pub const OPERATION: Operation = Operation {
    name: "cc_groups_get",
    aliases: &[],
    hash_rules: &[HashRule::Exactly(&[])],
    spec: OperationSpec {
        summary: "Lists card groups",
        description: "Lists the caller's card groups, ordered by id.",
        parameters: &[&[Parameter::new(
            "cc_group_id",
            ParamType::Integer,
            "Lists only the card group with this id.",
            "6",
        )
        .in_example()]],
        is_mutation: false,
        reply_type: ReplyType::Xml,
        example_reply: "<page>
  <cc_groups>
    <cc_group>
      <group_id>6</group_id>
      <group_image>example.jpg</group_image>
      <group_name>Ten dollar cards</group_name>
      <group_description>Ten dollars of calls, 19 % VAT included</group_description>
      <group_number_pin_length>10/8</group_number_pin_length>
      <group_tarrif>Default</group_tarrif>
      <group_lcr>Default</group_lcr>
      <group_price>10.0</group_price>
      <group_price_without_tax>8.403361344537815</group_price_without_tax>
      <group_cards_count>10000</group_cards_count>
      <group_currency>USD</group_currency>
    </cc_group>
  </cc_groups>
</page>",
    },
    access: Access::CallingCards(RIGHT_READ),
    handler: |call, caller| Box::pin(handle(call, caller)),
};

async fn handle(call: &CallContext, caller: &Caller) -> Result<XmlReply, ApiError> {
    let filter = GroupFilter::read(call, caller)?;
    if call.dialect().creates_missing_taxes() {
        ensure_taxes(call, &filter).await?;
    }
    let permit = call.acquire_list_permit(caller.id()).await?;
    let shows_currency = call.dialect().shows_group_currency();
    let write = move |list: &mut Element<'_>, group: &CardGroup| write_group(list, group, shows_currency);
    let connections = ListConnections::new(call.state.pool.clone(), permit);
    let groups = pages::stream_pages(GroupReader { connections, filter, after: Some(i32::MIN) }, LIST_DURATION_MAX);
    XmlReply::stream_list("page", "cc_groups", groups, |_| (), write)
        .await?
        .ok_or(ApiError::Refused("Calling Cards Groups were not found"))
}

/// The groups to list. Hidden groups are never listed.
#[derive(Debug)]
struct GroupFilter {
    /// Only the group with this id; -1 (no group) if the number is out of range.
    id: Option<i32>,
    /// Only groups of this owner.
    owner: Option<i32>,
    /// The user whose LCRs are named. `None` for accountants, who have no LCRs.
    lcr_user_id: Option<i32>,
}

impl GroupFilter {
    fn read(call: &CallContext, caller: &Caller) -> Result<Self, ApiError> {
        let id = match call.params.non_blank("cc_group_id") {
            None => None,
            Some(id) if !call.dialect().is_valid_id(id) => {
                return Err(ApiError::Refused("Wrong Calling Cards Group ID"));
            }
            Some(id) => Some(i32::try_from(number::parse_integer(id)).unwrap_or(-1)),
        };
        let lcr_user_id = (caller.usertype() != UserType::Accountant).then(|| caller.id());
        Ok(Self { id, owner: caller.owner_scope(), lcr_user_id })
    }
}

/// Creates missing tax rows, as an X7 server does even for this read-only operation.
async fn ensure_taxes(call: &CallContext, filter: &GroupFilter) -> Result<(), ApiError> {
    let mut connection = call.state.pool.acquire().await?;
    let groups = sqlx::query_scalar!(
        "select id from cardgroups g
         where hidden = 0 and ($1::integer is null or id = $1) and ($2::integer is null or owner_id = $2)
             and not exists (select from taxes t where t.id = g.tax_id)
         order by id",
        filter.id,
        filter.owner
    )
    .fetch_all(&mut *connection)
    .await?;
    connection.release_clean();
    // One transaction per group, since `ensure_taxes` also locks the group's owner.
    for group in groups {
        let mut transaction = call.state.pool.begin().await?;
        store::tax::ensure_taxes(&mut transaction, group).await?;
        transaction.commit().await?;
    }
    Ok(())
}

/// The fields of a card group in the reply.
#[derive(Debug)]
struct CardGroup {
    id: i32,
    image: Option<String>,
    name: String,
    description: String,
    number_length: i32,
    pin_length: i32,
    tariff: Option<String>,
    lcr: Option<String>,
    price: Money,
    price_with_tax: Money,
    card_count: i64,
    currency: Option<String>,
}

/// Reads the card groups that match a filter, ordered by id.
struct GroupReader {
    connections: ListConnections,
    filter: GroupFilter,
    /// The id of the last group that was read. `None`: no groups are left.
    after: Option<i32>,
}

impl PageReader for GroupReader {
    type Row = CardGroup;

    async fn next_page(&mut self) -> sqlx::Result<Option<Vec<CardGroup>>> {
        let Self { connections, filter, after } = self;
        let Some(last_id) = *after else { return Ok(None) };
        // The number of cards comes from the same statement as the group: both are of the same moment.
        let read = async |connection: &mut PgConnection| {
            sqlx::query_as!(
                CardGroup,
                r#"select g.id, g.image, g.name, g.description, g.number_length, g.pin_length, t.name as "tariff?", l.name as "lcr?",
                       coalesce(g.price, 0) as "price!: Money",
                       coalesce(g.price, 0) * (1 + case when own.id is null then effective_tax_rate(g.tax_id, g.owner_id) else tax_rate(own) end)
                           as "price_with_tax!: Money",
                       (select count(*) from cards c where c.cardgroup_id = g.id and c.hidden = 0 and c.quarantined_at is null)
                       + (select count(*) from cards c where c.cardgroup_id = g.id and c.hidden <> 0 and c.quarantined_at is null)
                       as "card_count!", g.tell_balance_in_currency as currency
                   from cardgroups g
                   left join taxes own on own.id = g.tax_id
                   left join tariffs t on t.id = g.tariff_id
                   left join lcrs l on l.id = g.lcr_id and l.user_id = $3
                   where g.hidden = 0 and ($1::integer is null or g.id = $1) and ($2::integer is null or g.owner_id = $2)
                       and g.id > $4
                   order by g.id limit $5"#,
                filter.id,
                filter.owner,
                filter.lcr_user_id,
                last_id,
                PAGE_ROWS
            )
            .fetch_all(&mut *connection)
            .await
        };
        let groups = connections.with_connection(read).await?;
        let is_full = i64::try_from(groups.len()) == Ok(PAGE_ROWS);
        *after = groups.last().filter(|_| is_full).map(|group| group.id);
        Ok(Some(groups).filter(|groups| !groups.is_empty()))
    }
}

fn write_group(list: &mut Element<'_>, group: &CardGroup, shows_currency: bool) {
    list.element("cc_group", |item| {
        item.text("group_id", group.id.to_string());
        item.optional_text("group_image", group.image.as_deref());
        item.text("group_name", &group.name);
        item.text("group_description", &group.description);
        item.text("group_number_pin_length", format!("{}/{}", group.number_length, group.pin_length));
        // MOR's spelling.
        item.optional_text("group_tarrif", group.tariff.as_deref());
        if let Some(lcr) = &group.lcr {
            item.text("group_lcr", lcr);
        }
        item.text("group_price", group.price_with_tax.to_plain_string());
        item.text("group_price_without_tax", group.price.to_plain_string());
        item.text("group_cards_count", group.card_count.to_string());
        if shows_currency {
            item.optional_text("group_currency", group.currency.as_deref());
        }
    });
}
