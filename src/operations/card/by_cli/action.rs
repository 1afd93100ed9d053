//! Selects the row of the contract's tables (`endpoints/card_by_cli_update.md`) that applies, or the error.

use sqlx::PgConnection;

use super::lookup::{CallerIdOwner, Device, Group, Lookup, find_group};
use super::{Context, Input};
use crate::error::ApiError;
use crate::store::card::LockedCard;

/// A row of the contract's two tables.
#[derive(Debug)]
pub(super) enum Action {
    /// The user of the device is topped up.
    TopUpUser { device: Device },
    /// The card with the caller id is topped up.
    TopUpCard { card: LockedCard },
    /// The card with the caller id is replaced by a new card of another group.
    ReplaceCard { card: LockedCard, group: Group },
    /// A new card of the group is created and sold.
    CreateCard { group: Group },
    /// The PIN card's balance is moved to the user of the device.
    TransferToUser { device: Device, pin_card: LockedCard },
    /// The PIN card's balance is moved to the card with the caller id.
    TransferToCard { card: LockedCard, pin_card: LockedCard },
    /// The PIN card, of another group, replaces the card with the caller id.
    TransferToPinCard { card: LockedCard, pin_card: LockedCard },
    /// The PIN card is sold and gets the caller id.
    SellPinCard { pin_card: LockedCard },
}

impl Action {
    /// Checks for errors in the contract's order, then selects the row that applies.
    pub(super) async fn choose(
        connection: &mut PgConnection,
        context: &Context<'_>,
        input: &Input,
        lookup: Lookup,
    ) -> Result<Self, ApiError> {
        let Lookup { callerid_owner, pin_card } = lookup;
        let owner = context.caller.owner_id();
        match &callerid_owner {
            CallerIdOwner::Device(device) if device.is_provider_device => {
                return Err(ApiError::CallerIdOnProviderDevice);
            }
            CallerIdOwner::Device(device) if device.owner_id != Some(owner) => {
                return Err(ApiError::CallerIdDeviceNotOwned);
            }
            CallerIdOwner::Card(card) if card.owner_id != owner => return Err(ApiError::CardNotOwned),
            _ => {}
        }
        let pin_card = match &input.pin {
            None => None,
            Some(_) => Some(validate_pin_card(context, &callerid_owner, pin_card)?),
        };
        let group = find_group(connection, context, input, &callerid_owner).await?;
        let action = match (callerid_owner, pin_card, group) {
            (CallerIdOwner::UnusableCard, ..) => return Err(ApiError::NoMatch),
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
        action.validate(context, input)?;
        Ok(action)
    }

    /// Checks for errors that the tables do not list: amounts that cannot be added, and cards that an X7 server cannot
    /// save.
    pub(super) fn validate(&self, context: &Context<'_>, input: &Input) -> Result<(), ApiError> {
        // In an unknown currency (rate 0) the amount would be lost. Taxes of -100 % or less would change its sign.
        let (rate, tax_rate) = match self {
            Self::TopUpCard { card } => (Some(&card.group_rate), Some(&card.tax_rate)),
            Self::ReplaceCard { group, .. } | Self::CreateCard { group } => (Some(&group.rate), Some(&group.tax_rate)),
            Self::TopUpUser { device } => (None, device.tax_rate.as_ref()),
            _ => (None, None),
        };
        let is_lost = rate.is_some_and(|rate| *rate == 0) && !context.call.dialect().treats_unknown_currency_as_zero();
        let is_inverted = tax_rate.is_some_and(|rate| *rate <= -1);
        let amount = input.amount()?;
        if *amount < 0 || *amount != 0 && (is_lost || is_inverted) {
            return Err(ApiError::CallerIdTransactionFailed);
        }
        if !context.call.dialect().refuses_invalid_cards() {
            return Ok(());
        }
        let invalid_card = |card: &LockedCard| card.validation_error.clone().map(ApiError::InvalidCard);
        let error = match self {
            Self::TopUpCard { card } => card.validation_error.as_ref().map(|_| ApiError::CallerIdTransactionFailed),
            Self::ReplaceCard { card, .. } => invalid_card(card),
            Self::TransferToUser { pin_card, .. } | Self::SellPinCard { pin_card } => invalid_card(pin_card),
            Self::TransferToCard { card, pin_card } | Self::TransferToPinCard { card, pin_card } => {
                invalid_card(pin_card).or(invalid_card(card))
            }
            Self::TopUpUser { .. } | Self::CreateCard { .. } => None,
        };
        error.map_or(Ok(()), Err)
    }
}

/// Checks the PIN card: it must belong to the caller's owner and must not be the card with the caller id. If a balance
/// is moved, that balance must not be 0. If neither a device nor a card has the caller id, the PIN card must be unsold.
pub(super) fn validate_pin_card(
    context: &Context<'_>,
    callerid_owner: &CallerIdOwner,
    pin_card: Option<LockedCard>,
) -> Result<LockedCard, ApiError> {
    let pin_card = pin_card.filter(|card| card.owner_id == context.caller.owner_id()).ok_or(ApiError::PinNotFound)?;
    let moved_balance = match callerid_owner {
        CallerIdOwner::Card(card) if card.id == pin_card.id => return Err(ApiError::PinNotFound),
        CallerIdOwner::Card(card) if card.cardgroup_id != pin_card.cardgroup_id => Some(&card.balance),
        CallerIdOwner::Card(_) | CallerIdOwner::Device(_) => Some(&pin_card.balance),
        CallerIdOwner::Unassigned | CallerIdOwner::UnusableCard => None,
    };
    match moved_balance {
        Some(balance) if balance * &context.conversion.caller_rate == 0 => Err(ApiError::PinBalanceZero),
        None if pin_card.sold => Err(ApiError::PinAlreadySold),
        _ => Ok(pin_card),
    }
}
