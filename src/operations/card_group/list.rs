//! `cc_groups_get`: the caller's card groups, however many, in one query.
//! The spec's page: `endpoints/cc_groups_get.md`.

use async_stream::try_stream;
use futures_util::{Stream, TryStreamExt};
use tokio::sync::OwnedSemaphorePermit;

use crate::accounts::UserType;
use crate::auth::admission::{self, Caller, READ};
use crate::auth::signature::Rule;
use crate::db::pool::Pool;
use crate::error::Fault;
use crate::http::context::{Call, Operation};
use crate::money::Money;
use crate::number;
use crate::operations::spec::{Kind, Page, Parameter};
use crate::store;
use crate::xml::{Document, Element};

/// The operation. Its hash is of the key alone.
pub const OPERATION: Operation = Operation {
    name: "cc_groups_get",
    aliases: &[],
    hashed: &[Rule::Exactly(&[])],
    page: Page {
        summary: "Lists card groups",
        description: "The caller's card groups, by id.",
        parameters: &[&[Parameter::new("cc_group_id", Kind::Integer, "Only this one.", "6").usual()]],
        changes: false,
        reply: "<page>
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
    handler: |call| Box::pin(answer(call)),
};

async fn answer(call: &Call) -> Result<Document, Fault> {
    let caller = admission::admit_to_calling_cards(call, READ).await?;
    let which = Which::read(call, &caller)?;
    if call.dialect().repairs_taxes() {
        repair(call, &which).await?;
    }
    let turn = call.app.list_turn().await.ok_or(Fault::Unavailable)?;
    let labels_currency = call.dialect().labels_group_currency();
    let write = move |list: &mut Element<'_>, group: &CardGroup| show(list, group, labels_currency);
    Document::list("page", "cc_groups", find(call.app.pool.clone(), which, turn), |_| (), write)
        .await?
        .ok_or(Fault::Refused("Calling Cards Groups were not found"))
}

/// Which groups: not hidden ones, that much is sure.
#[derive(Debug)]
struct Which {
    /// The one with this id. A number beyond every id is none's.
    id: Option<i32>,
    /// Those of this owner.
    owner: Option<i32>,
    /// Whose LCRs are named; an accountant has none.
    lcrs_of: Option<i32>,
}

impl Which {
    fn read(call: &Call, caller: &Caller) -> Result<Self, Fault> {
        let id = match call.params.filled("cc_group_id") {
            None => None,
            Some(id) if !call.dialect().is_digits(id) => return Err(Fault::Refused("Wrong Calling Cards Group ID")),
            Some(id) => Some(i32::try_from(number::integer(id)).unwrap_or(-1)),
        };
        let lcrs_of = (caller.usertype() != UserType::Accountant).then(|| caller.id());
        Ok(Self { id, owner: caller.confined_to(), lcrs_of })
    }
}

/// An X7 server gives groups without a tax row one, also when it only reads.
async fn repair(call: &Call, which: &Which) -> Result<(), Fault> {
    let mut connection = call.app.pool.acquire().await?;
    let groups = sqlx::query_scalar!(
        "select id from cardgroups g
         where hidden = 0 and ($1::integer is null or id = $1) and ($2::integer is null or owner_id = $2)
             and not exists (select from taxes t where t.id = g.tax_id)
         order by id",
        which.id,
        which.owner
    )
    .fetch_all(&mut *connection)
    .await?;
    connection.keep();
    // One after the other: whoever repairs a group locks its owner too.
    for group in groups {
        let mut transaction = call.app.pool.begin().await?;
        store::tax::repair(&mut transaction, group).await?;
        transaction.commit().await?;
    }
    Ok(())
}

/// What is shown of a card group.
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
    cards: i64,
    currency: Option<String>,
}

fn find(pool: Pool, which: Which, turn: OwnedSemaphorePermit) -> impl Stream<Item = sqlx::Result<CardGroup>> {
    try_stream! {
        let mut connection = pool.acquire().await?;
        let mut groups = sqlx::query_as!(
            CardGroup,
            r#"select g.id, g.image, g.name, g.description, g.number_length, g.pin_length, t.name as "tariff?", l.name as "lcr?",
                   coalesce(g.price, 0) as "price!: Money",
                   coalesce(g.price, 0) * (1 + case when own.id is null then tax_share_of(g.tax_id, g.owner_id) else tax_share(own) end)
                       as "price_with_tax!: Money",
                   (select count(*) from cards c where c.cardgroup_id = g.id) as "cards!", g.tell_balance_in_currency as currency
               from cardgroups g
               left join taxes own on own.id = g.tax_id
               left join tariffs t on t.id = g.tariff_id
               left join lcrs l on l.id = g.lcr_id and l.user_id = $3
               where g.hidden = 0 and ($1::integer is null or g.id = $1) and ($2::integer is null or g.owner_id = $2)
               order by g.id"#,
            which.id,
            which.owner,
            which.lcrs_of
        )
        .fetch(&mut *connection);
        while let Some(group) = groups.try_next().await? {
            yield group;
        }
        drop(groups);
        connection.keep();
        drop(turn);
    }
}

fn show(list: &mut Element<'_>, group: &CardGroup, labels_currency: bool) {
    list.element("cc_group", |item| {
        item.text("group_id", group.id.to_string());
        item.value("group_image", group.image.as_deref());
        item.text("group_name", &group.name);
        item.text("group_description", &group.description);
        item.text("group_number_pin_length", format!("{}/{}", group.number_length, group.pin_length));
        // MOR spells it so.
        item.value("group_tarrif", group.tariff.as_deref());
        if let Some(lcr) = &group.lcr {
            item.text("group_lcr", lcr);
        }
        item.text("group_price", group.price_with_tax.plain());
        item.text("group_price_without_tax", group.price.plain());
        item.text("group_cards_count", group.cards.to_string());
        if labels_currency {
            item.value("group_currency", group.currency.as_deref());
        }
    });
}
