//! What a request is about: the device or card that has the caller id, the card that has the PIN, the group that is named.

use bigdecimal::BigDecimal;
use sqlx::PgConnection;

use super::{Desk, Wish};
use crate::error::Fault;
use crate::store;
use crate::store::card::Card;

/// A device that has the caller id.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) id: i32,
    pub(super) user_id: i32,
    pub(super) is_providers: bool,
    /// The owner of the device's user, if there is such a user.
    pub(super) owner_id: Option<i32>,
    /// What that user's taxes add to 1.
    pub(super) tax_share: Option<BigDecimal>,
}

/// What has the caller id; devices go before cards.
#[derive(Debug)]
pub(super) enum Holder {
    Device(Device),
    Card(Card),
    Nobody,
}

/// What the request is about, locked.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) holder: Holder,
    /// The card with the PIN sent.
    pub(super) pin_card: Option<Card>,
}

impl Found {
    pub(super) async fn look_up(connection: &mut PgConnection, desk: &Desk<'_>, wish: &Wish) -> Result<Self, Fault> {
        let dialect = desk.call.dialect();
        let partial = dialect.matches_partial_callerids() || desk.call.app.config.match_partial_callerids;
        let device = device(connection, &wish.callerid, partial).await?;
        let cards = store::card::lock(connection, &wish.callerid, wish.pin.as_deref()).await?;
        let by_callerid = cards.iter().find(|card| card.callerid.as_deref() == Some(&wish.callerid)).cloned();
        let holder = match (device, by_callerid) {
            (Some(device), _) => Holder::Device(device),
            (None, Some(card)) => Holder::Card(card),
            (None, None) => Holder::Nobody,
        };
        let has_pin = |card: &&Card| wish.pin.is_some() && card.pin == wish.pin && card.in_open_group;
        let pin_card = cards.iter().find(has_pin).cloned();
        Ok(Self { holder, pin_card })
    }
}

pub(super) async fn device(
    connection: &mut PgConnection,
    callerid: &str,
    partial: bool,
) -> sqlx::Result<Option<Device>> {
    sqlx::query_as!(
        Device,
        r#"select d.id, d.user_id, d.user_id = -1 or exists (select from providers p where p.device_id = d.id) as "is_providers!",
               (select coalesce(u.owner_id, 0) from users u where u.id = d.user_id) as owner_id,
               (select tax_share_of(u.tax_id, u.owner_id) from users u where u.id = d.user_id) as tax_share
           from devices d
           where d.id = any (array(select device_id from callerids where cli = $1))
               or $2 and d.id = any (array(select device_id from callerids where $2 and position($1 in cli) > 0))
           order by d.id limit 1"#,
        callerid,
        partial
    )
    .fetch_optional(connection)
    .await
}

/// A card group of the caller's owner, for a new card.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: i32,
    pub(super) number_length: i32,
    pub(super) pin_length: i32,
    /// From the system's currency to the group's.
    pub(super) rate: BigDecimal,
    /// What its taxes add to 1.
    pub(super) tax_share: BigDecimal,
}

pub(super) async fn named_group(
    connection: &mut PgConnection,
    desk: &Desk<'_>,
    wish: &Wish,
    holder: &Holder,
) -> Result<Option<Group>, Fault> {
    let Some(id) = wish.group else { return Ok(None) };
    let group = sqlx::query_as!(
        Group,
        r#"select id, number_length, pin_length, system_rate_to(tell_balance_in_currency) as "rate!",
               tax_share_of(tax_id, owner_id) as "tax_share!"
           from cardgroups where id = $1 and owner_id = $2 and hidden = 0"#,
        id,
        desk.caller.owner()
    )
    .fetch_optional(connection)
    .await?;
    let card_found = matches!(holder, Holder::Card(_));
    group.map(Some).ok_or(Fault::GroupNotTheOwners { card_found })
}
