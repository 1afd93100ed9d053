//! Which row of the contract's tables applies, or which error.

use sqlx::PgConnection;

use super::lookup::{Device, Found, Group, Holder, named_group};
use super::{Desk, Wish};
use crate::error::Fault;
use crate::store::card::Card;

/// A row of the contract's two tables.
#[derive(Debug)]
pub(super) enum Deed {
    /// A device's user is topped up.
    RefillUser { device: Device },
    /// The caller's card is topped up.
    TopUp { card: Card },
    /// The caller's card is replaced by one of another group.
    Replace { card: Card, group: Group },
    /// A new card.
    Create { group: Group },
    /// A device's user gets the PIN card's balance.
    PinToUser { device: Device, pin_card: Card },
    /// The caller's card gets it.
    PinToCard { card: Card, pin_card: Card },
    /// The PIN card, of another group, takes the place of the caller's card.
    PinTakesOver { card: Card, pin_card: Card },
    /// The PIN card becomes the caller's.
    PinSold { pin_card: Card },
}

impl Deed {
    /// The errors in the contract's order, then the row that applies.
    pub(super) async fn choose(
        connection: &mut PgConnection,
        desk: &Desk<'_>,
        wish: &Wish,
        found: Found,
    ) -> Result<Self, Fault> {
        let Found { holder, pin_card } = found;
        let owner = desk.caller.owner();
        match &holder {
            Holder::Device(device) if device.is_providers => return Err(Fault::CallerIdOfProvider),
            Holder::Device(device) if device.owner_id != Some(owner) => return Err(Fault::CallerIdOfOthersDevice),
            Holder::Card(card) if card.owner_id != owner => return Err(Fault::CardOfAnotherOwner),
            _ => {}
        }
        let pin_card = match &wish.pin {
            None => None,
            Some(_) => Some(usable_pin_card(desk, &holder, pin_card)?),
        };
        let group = named_group(connection, desk, wish, &holder).await?;
        let deed = match (holder, pin_card, group) {
            (Holder::Device(device), Some(pin_card), _) => Self::PinToUser { device, pin_card },
            (Holder::Card(card), Some(pin_card), _) if card.cardgroup_id == pin_card.cardgroup_id => {
                Self::PinToCard { card, pin_card }
            }
            (Holder::Card(card), Some(pin_card), _) => Self::PinTakesOver { card, pin_card },
            (Holder::Nobody, Some(pin_card), _) => Self::PinSold { pin_card },
            (Holder::Device(device), None, _) => Self::RefillUser { device },
            (Holder::Card(card), None, Some(group)) if group.id != card.cardgroup_id => Self::Replace { card, group },
            (Holder::Card(card), None, _) => Self::TopUp { card },
            (Holder::Nobody, None, Some(group)) => Self::Create { group },
            (Holder::Nobody, None, None) => return Err(Fault::NothingFound),
        };
        deed.is_possible(desk, wish)?;
        Ok(deed)
    }

    /// What no row of the tables has words for: amounts that can't be added, cards that an X7 server can't save.
    pub(super) fn is_possible(&self, desk: &Desk<'_>, wish: &Wish) -> Result<(), Fault> {
        // Of a currency that nobody knows the amount would be lost; taxes of less than nothing would turn it round.
        let (rate, tax_share) = match self {
            Self::TopUp { card } => (Some(&card.rate), Some(&card.tax_share)),
            Self::Replace { group, .. } | Self::Create { group } => (Some(&group.rate), Some(&group.tax_share)),
            Self::RefillUser { device } => (None, device.tax_share.as_ref()),
            _ => (None, None),
        };
        let lost = rate.is_some_and(|rate| *rate == 0) && !desk.call.dialect().loses_unknown_currencies();
        let turned = tax_share.is_some_and(|share| *share <= -1);
        if wish.pin.is_none() && (wish.amount < 0 || wish.amount != 0 && (lost || turned)) {
            return Err(Fault::CallerIdFailed);
        }
        if !desk.call.dialect().refuses_unsound_cards() {
            return Ok(());
        }
        let flaw = |card: &Card| card.flaw.clone().map(Fault::CardUnsound);
        let fault = match self {
            Self::TopUp { card } => card.flaw.as_ref().map(|_| Fault::CallerIdFailed),
            Self::Replace { card, .. } => flaw(card),
            Self::PinToUser { pin_card, .. } | Self::PinSold { pin_card } => flaw(pin_card),
            Self::PinToCard { card, pin_card } | Self::PinTakesOver { card, pin_card } => flaw(pin_card).or(flaw(card)),
            Self::RefillUser { .. } | Self::Create { .. } => None,
        };
        fault.map_or(Ok(()), Err)
    }
}

/// The PIN card must be the owner's and another than the caller's, with funds where they are to be moved, and unsold where it
/// is to be sold.
pub(super) fn usable_pin_card(desk: &Desk<'_>, holder: &Holder, pin_card: Option<Card>) -> Result<Card, Fault> {
    let pin_card = pin_card.filter(|card| card.owner_id == desk.caller.owner()).ok_or(Fault::PinNotFound)?;
    let funds = match holder {
        Holder::Card(card) if card.id == pin_card.id => return Err(Fault::PinNotFound),
        Holder::Card(card) if card.cardgroup_id != pin_card.cardgroup_id => Some(&card.balance),
        Holder::Card(_) | Holder::Device(_) => Some(&pin_card.balance),
        Holder::Nobody => None,
    };
    match funds {
        Some(funds) if funds * &desk.conversion.rate == 0 => Err(Fault::PinBalanceZero),
        None if pin_card.sold => Err(Fault::PinAlreadySold),
        _ => Ok(pin_card),
    }
}
