//! Reads which cards a sale asks for: the parameters `number` and `quantity`.

use bigdecimal::ToPrimitive;

use crate::dialect::Dialect;
use crate::number::{self, Sign};

/// The cards to sell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CardSelector {
    /// The card whose number has this value: digits without leading zeros.
    Number(String),
    /// The client named a card by a text that is no card's number.
    NoCard,
    /// The next free cards, this many.
    Next(u32),
    /// The quantity is not a number.
    InvalidQuantity,
}

impl CardSelector {
    /// Reads the parameters that were sent and are not blank. `quantity` is not read if `number` chooses the card.
    pub(super) fn read(number: Option<&str>, quantity: Option<&str>, dialect: Dialect) -> Self {
        if dialect.ignores_invalid_card_numbers() {
            let digits = number.and_then(number::parse_digits).filter(|(sign, _)| *sign == Sign::Plus);
            if let Some((_, digits)) = digits.filter(|(_, digits)| !digits.is_empty()) {
                return Self::Number(digits);
            }
        } else if let Some(number) = number {
            return number::parse_card_number(number).map_or(Self::NoCard, Self::Number);
        }
        quantity.map_or(Self::Next(1), |text| Self::read_quantity(text, dialect))
    }

    /// Less than 1 counts as 1. A fraction is cut off.
    fn read_quantity(text: &str, dialect: Dialect) -> Self {
        if let Ok(quantity) = text.parse::<u32>() {
            return Self::Next(quantity.max(1));
        }
        if dialect.ignores_invalid_card_numbers() {
            return Self::Next(u32::try_from(number::parse_integer(text).max(1)).unwrap_or(u32::MAX));
        }
        match number::parse_whole_decimal(text) {
            Some(quantity) if quantity < 1 => Self::Next(1),
            Some(quantity) => Self::Next(quantity.to_u32().unwrap_or(u32::MAX)),
            None => Self::InvalidQuantity,
        }
    }
}
