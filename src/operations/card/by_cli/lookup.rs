//! The rows that a request refers to: the device or card that has the caller id, the card that has the PIN, the named
//! group.

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
    /// The owner of the device's user. `None`: the user does not exist.
    pub(super) owner_id: Option<i32>,
    /// The tax rate of the user as a fraction (19 %: 0.19).
    pub(super) tax_rate: Option<BigDecimal>,
}

/// The owner of the caller id. Devices take precedence over cards.
#[derive(Debug)]
pub(super) enum CallerIdOwner {
    Device(Device),
    Card(LockedCard),
    /// A blocked or quarantined card has the caller id, and keeps it. Requests do not find this card.
    UnusableCard,
    Unassigned,
}

/// The rows that the request refers to. The cards are locked.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) callerid_owner: CallerIdOwner,
    /// The card with the sent PIN.
    pub(super) pin_card: Option<LockedCard>,
}

impl Lookup {
    pub(super) async fn load(
        connection: &mut PgConnection,
        context: &Context<'_>,
        input: &Input,
    ) -> Result<Self, ApiError> {
        let dialect = context.call.dialect();
        let match_partial = dialect.matches_partial_callerids() || context.call.state.config.match_partial_callerids;
        let device = find_device(connection, &input.callerid, match_partial).await?;
        let cards = store::card::lock_matching(connection, &input.callerid, input.pin.as_ref()).await?;
        let card = cards.iter().find(|card| card.callerid.as_deref() == Some(&input.callerid)).cloned();
        let callerid_owner = match (device, card) {
            (Some(device), _) => CallerIdOwner::Device(device),
            (None, Some(card)) if card.usable => CallerIdOwner::Card(card),
            (None, Some(_)) => CallerIdOwner::UnusableCard,
            (None, None) => CallerIdOwner::Unassigned,
        };
        let has_pin =
            |card: &&LockedCard| input.pin.is_some() && card.pin == input.pin && card.group_visible && card.usable;
        let pin_card = cards.iter().find(has_pin).cloned();
        Ok(Self { callerid_owner, pin_card })
    }
}

pub(super) async fn find_device(
    connection: &mut PgConnection,
    callerid: &str,
    match_partial: bool,
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
        match_partial
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
    /// The rate from the system's currency to the group's; 0 if the group's currency is unknown.
    pub(super) rate: BigDecimal,
    /// The tax rate of the group as a fraction (19 %: 0.19).
    pub(super) tax_rate: BigDecimal,
}

pub(super) async fn find_group(
    connection: &mut PgConnection,
    context: &Context<'_>,
    input: &Input,
    callerid_owner: &CallerIdOwner,
) -> Result<Option<Group>, ApiError> {
    let Some(id) = input.group_id else { return Ok(None) };
    let group = sqlx::query_as!(
        Group,
        r#"select id, number_length, pin_length, exchange_rate_to(tell_balance_in_currency) as "rate!",
               effective_tax_rate(tax_id, owner_id) as "tax_rate!"
           from cardgroups where id = $1 and owner_id = $2 and hidden = 0"#,
        id,
        context.caller.owner_id()
    )
    .fetch_optional(connection)
    .await?;
    let card_found = matches!(callerid_owner, CallerIdOwner::Card(_));
    group.map(Some).ok_or(ApiError::GroupNotOwned { card_found })
}
