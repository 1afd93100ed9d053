//! Exact amounts of money (`data.md`, "Money").

use bigdecimal::BigDecimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Postgres, Type};

/// The smallest positive amount that is out of range for `numeric(30,15)`.
pub const AMOUNT_MAX_EXCLUSIVE: i64 = 1_000_000_000_000_000;

/// An exact decimal amount, with all digits of `numeric(30,15)` and of products of such values. It cannot be created
/// from a binary float.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Money(BigDecimal);

impl Type<Postgres> for Money {
    fn type_info() -> PgTypeInfo {
        <BigDecimal as Type<Postgres>>::type_info()
    }
}

/// Reads NaN and the infinities as 0, like NULL. A check refuses them, but a row that is older than the check must not
/// break off a list; `mortise doctor` names it. No statement stores such an amount in another row.
impl<'r> Decode<'r, Postgres> for Money {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        // Bytes 4 and 5 of a binary numeric are its sign: NaN, positive and negative infinity.
        let is_binary = value.format() == PgValueFormat::Binary;
        if is_binary && matches!(value.as_bytes()?.get(4..6), Some([0xC0 | 0xD0 | 0xF0, 0])) {
            return Ok(Self::zero());
        }
        <BigDecimal as Decode<Postgres>>::decode(value).map(Self)
    }
}

impl From<BigDecimal> for Money {
    fn from(amount: BigDecimal) -> Self {
        Self(amount)
    }
}

impl From<Money> for BigDecimal {
    fn from(Money(amount): Money) -> Self {
        amount
    }
}

impl Money {
    /// Returns the amount 0.
    pub fn zero() -> Self {
        Self(BigDecimal::from(0))
    }

    /// Formats the amount "plain": all digits without trailing zeros, with at least one decimal. The SQL function
    /// `plain_text` does the same.
    pub fn to_plain_string(&self) -> String {
        let mut text = self.0.normalized().to_plain_string();
        if !text.contains('.') {
            text.push_str(".0");
        }
        text
    }

    /// Formats the amount with all decimals of `numeric(30,15)`, trailing zeros included.
    pub fn to_full_string(&self) -> String {
        self.0.with_scale_round(15, bigdecimal::RoundingMode::HalfUp).to_plain_string()
    }

    /// Formats the amount "nice": fixed decimals, as C's `%.Nf` prints the nearest double (0.125 gives 0.12).
    pub fn to_fixed_string(&self, digits: usize) -> String {
        // Through text, because parsing rounds to the nearest double.
        let double: f64 = self.0.to_plain_string().parse().unwrap_or_default();
        format!("{double:.digits$}")
    }
}

/// Serializes as a string: JSON parsers read numbers as binary floats.
impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_plain_string())
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}
