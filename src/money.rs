//! Exact amounts of money (`data.md`, "Money").

use bigdecimal::BigDecimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where `numeric(30,15)` ends: the least amount that it doesn't hold.
pub const AMOUNT_MAX_EXCLUSIVE: i64 = 1_000_000_000_000_000;

/// An amount, exact: as many digits as `numeric(30,15)` and its products have. There is no way in from a binary float.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
pub struct Money(BigDecimal);

impl From<BigDecimal> for Money {
    fn from(amount: BigDecimal) -> Self {
        Self(amount)
    }
}

impl Money {
    /// Nothing.
    pub fn zero() -> Self {
        Self(BigDecimal::from(0))
    }

    /// Printed "plain": all digits, trailing zeros dropped, at least one decimal. The database's function `plain` prints
    /// the same.
    pub fn to_plain_string(&self) -> String {
        let mut text = self.0.normalized().to_plain_string();
        if !text.contains('.') {
            text.push_str(".0");
        }
        text
    }

    /// Printed "nice": fixed decimals, as C's `%.Nf` prints the nearest double (so that 0.125 gives 0.12).
    pub fn to_fixed_string(&self, digits: usize) -> String {
        // A detour over text: it rounds to the nearest double, and no other way into one is open.
        let double: f64 = self.0.to_plain_string().parse().unwrap_or_default();
        format!("{double:.digits$}")
    }
}

/// As text: a number would be read as a binary float by somebody some day.
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
