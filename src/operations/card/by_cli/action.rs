//! Which row of the contract's tables applies, or which error.

use sqlx::PgConnection;

use super::lookup::{CallerIdOwner, Device, Group, Lookup, find_group};
use super::{Context, Input};
use crate::error::ApiError;
use crate::store::card::LockedCard;

/// A row of the contract's two tables.
#[derive(Debug)]
pub(super) enum Action {
    /// A device's user is topped up.
    TopUpUser { device: Device },
    /// The caller's card is topped up.
    TopUpCard { card: LockedCard },
    /// The caller's card is replaced by one of another group.
    ReplaceCard { card: LockedCard, group: Group },
    /// A new card.
    CreateCard { group: Group },
    /// A device's user gets the PIN card's balance.
    TransferToUser { device: Device, pin_card: LockedCard },
    /// The caller's card gets it.
    TransferToCard { card: LockedCard, pin_card: LockedCard },
    /// The PIN card, of another group, takes the place of the caller's card.
    TransferToPinCard { card: LockedCard, pin_card: LockedCard },
    /// The PIN card becomes the caller's.
    SellPinCard { pin_card: LockedCard },
}

impl Action {
    /// The errors in the contract's order, then the row that applies.
    pub(super) async fn choose(
        connection: &mut PgConnection,
        desk: &Context<'_>,
        wish: &Input,
        found: Lookup,
    ) -> Result<Self, ApiError> {
        let Lookup { callerid_owner: holder, pin_card } = found;
        let owner = desk.caller.owner_id();
        match &holder {
            CallerIdOwner::Device(device) if device.is_provider_device => {
                return Err(ApiError::CallerIdOnProviderDevice);
            }
            CallerIdOwner::Device(device) if device.owner_id != Some(owner) => {
                return Err(ApiError::CallerIdDeviceNotOwned);
            }
            CallerIdOwner::Card(card) if card.owner_id != owner => return Err(ApiError::CardNotOwned),
            _ => {}
        }
        let pin_card = match &wish.pin {
            None => None,
            Some(_) => Some(validate_pin_card(desk, &holder, pin_card)?),
        };
        let group = find_group(connection, desk, wish, &holder).await?;
        let deed = match (holder, pin_card, group) {
            (CallerIdOwner::Device(device), Some(pin_card), _) => Self::TransferToUser { device, pin_card },
            (CallerIdOwner::Card(card), Some(pin_card), _) if card.cardgroup_id == pin_card.cardgroup_id => {
                Self::TransferToCard { card, pin_card }
            }
            (CallerIdOwner::Card(card), Some(pin_card), _) => Self::TransferToPinCard { card, pin_card },
            (CallerIdOwner::Unassigned, Some(pin_card), _) => Self::SellPinCard { pin_card },
            (CallerIdOwner::Device(device), None, _) => Self::TopUpUser { device },
            (CallerIdOwner::Card(card), None, Some(group)) if group.id != card.cardgroup_id => {
                Self::ReplaceCard { card, group }
            }
            (CallerIdOwner::Card(card), None, _) => Self::TopUpCard { card },
            (CallerIdOwner::Unassigned, None, Some(group)) => Self::CreateCard { group },
            (CallerIdOwner::Unassigned, None, None) => return Err(ApiError::NoMatch),
        };
        deed.validate(desk, wish)?;
        Ok(deed)
    }

    /// What no row of the tables has words for: amounts that can't be added, cards that an X7 server can't save.
    pub(super) fn validate(&self, desk: &Context<'_>, wish: &Input) -> Result<(), ApiError> {
        // Of a currency that nobody knows the amount would be lost; taxes of less than nothing would turn it round.
        let (rate, tax_rate) = match self {
            Self::TopUpCard { card } => (Some(&card.group_rate), Some(&card.tax_rate)),
            Self::ReplaceCard { group, .. } | Self::CreateCard { group } => (Some(&group.rate), Some(&group.tax_rate)),
            Self::TopUpUser { device } => (None, device.tax_rate.as_ref()),
            _ => (None, None),
        };
        let lost = rate.is_some_and(|rate| *rate == 0) && !desk.call.dialect().treats_unknown_currency_as_zero();
        let turned = tax_rate.is_some_and(|share| *share <= -1);
        if wish.pin.is_none() && (wish.amount < 0 || wish.amount != 0 && (lost || turned)) {
            return Err(ApiError::CallerIdTransactionFailed);
        }
        if !desk.call.dialect().refuses_invalid_cards() {
            return Ok(());
        }
        let flaw = |card: &LockedCard| card.validation_error.clone().map(ApiError::InvalidCard);
        let fault = match self {
            Self::TopUpCard { card } => card.validation_error.as_ref().map(|_| ApiError::CallerIdTransactionFailed),
            Self::ReplaceCard { card, .. } => flaw(card),
            Self::TransferToUser { pin_card, .. } | Self::SellPinCard { pin_card } => flaw(pin_card),
            Self::TransferToCard { card, pin_card } | Self::TransferToPinCard { card, pin_card } => {
                flaw(pin_card).or(flaw(card))
            }
            Self::TopUpUser { .. } | Self::CreateCard { .. } => None,
        };
        fault.map_or(Ok(()), Err)
    }
}

/// The PIN card must be the owner's and another than the caller's, with funds where they are to be moved, and unsold where it
/// is to be sold.
pub(super) fn validate_pin_card(
    desk: &Context<'_>,
    holder: &CallerIdOwner,
    pin_card: Option<LockedCard>,
) -> Result<LockedCard, ApiError> {
    let pin_card = pin_card.filter(|card| card.owner_id == desk.caller.owner_id()).ok_or(ApiError::PinNotFound)?;
    let funds = match holder {
        CallerIdOwner::Card(card) if card.id == pin_card.id => return Err(ApiError::PinNotFound),
        CallerIdOwner::Card(card) if card.cardgroup_id != pin_card.cardgroup_id => Some(&card.balance),
        CallerIdOwner::Card(_) | CallerIdOwner::Device(_) => Some(&pin_card.balance),
        CallerIdOwner::Unassigned => None,
    };
    match funds {
        Some(funds) if funds * &desk.conversion.caller_rate == 0 => Err(ApiError::PinBalanceZero),
        None if pin_card.sold => Err(ApiError::PinAlreadySold),
        _ => Ok(pin_card),
    }
}
