//! What a request is about: the device or card that has the caller id, the card that has the PIN, the group that is named.

use bigdecimal::BigDecimal;
use sqlx::PgConnection;

use super::{Context, Input};
use crate::error::ApiError;
use crate::store;
use crate::store::card::LockedCard;

/// A device that has the caller id.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) id: i32,
    pub(super) user_id: i32,
    pub(super) is_provider_device: bool,
    /// The owner of the device's user, if there is such a user.
    pub(super) owner_id: Option<i32>,
    /// What that user's taxes add to 1.
    pub(super) tax_rate: Option<BigDecimal>,
}

/// What has the caller id; devices go before cards.
#[derive(Debug)]
pub(super) enum CallerIdOwner {
    Device(Device),
    Card(LockedCard),
    Unassigned,
}

/// What the request is about, locked.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) callerid_owner: CallerIdOwner,
    /// The card with the PIN sent.
    pub(super) pin_card: Option<LockedCard>,
}

impl Lookup {
    pub(super) async fn load(
        connection: &mut PgConnection,
        desk: &Context<'_>,
        wish: &Input,
    ) -> Result<Self, ApiError> {
        let dialect = desk.call.dialect();
        let partial = dialect.matches_partial_callerids() || desk.call.state.config.match_partial_callerids;
        let device = find_device(connection, &wish.callerid, partial).await?;
        let cards = store::card::lock_matching(connection, &wish.callerid, wish.pin.as_deref()).await?;
        let by_callerid = cards.iter().find(|card| card.callerid.as_deref() == Some(&wish.callerid)).cloned();
        let holder = match (device, by_callerid) {
            (Some(device), _) => CallerIdOwner::Device(device),
            (None, Some(card)) => CallerIdOwner::Card(card),
            (None, None) => CallerIdOwner::Unassigned,
        };
        let has_pin = |card: &&LockedCard| wish.pin.is_some() && card.pin == wish.pin && card.group_visible;
        let pin_card = cards.iter().find(has_pin).cloned();
        Ok(Self { callerid_owner: holder, pin_card })
    }
}

pub(super) async fn find_device(
    connection: &mut PgConnection,
    callerid: &str,
    partial: bool,
) -> sqlx::Result<Option<Device>> {
    sqlx::query_as!(
        Device,
        r#"select d.id, d.user_id, d.user_id = -1 or exists (select from providers p where p.device_id = d.id) as "is_provider_device!",
               (select coalesce(u.owner_id, 0) from users u where u.id = d.user_id) as owner_id,
               (select effective_tax_rate(u.tax_id, u.owner_id) from users u where u.id = d.user_id) as tax_rate
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
    pub(super) tax_rate: BigDecimal,
}

pub(super) async fn find_group(
    connection: &mut PgConnection,
    desk: &Context<'_>,
    wish: &Input,
    holder: &CallerIdOwner,
) -> Result<Option<Group>, ApiError> {
    let Some(id) = wish.group else { return Ok(None) };
    let group = sqlx::query_as!(
        Group,
        r#"select id, number_length, pin_length, exchange_rate_to(tell_balance_in_currency) as "rate!",
               effective_tax_rate(tax_id, owner_id) as "tax_rate!"
           from cardgroups where id = $1 and owner_id = $2 and hidden = 0"#,
        id,
        desk.caller.owner_id()
    )
    .fetch_optional(connection)
    .await?;
    let card_found = matches!(holder, CallerIdOwner::Card(_));
    group.map(Some).ok_or(ApiError::GroupNotOwned { card_found })
}
