//! The PIN of a card, kept out of logs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The PIN of a card, as it is stored or sent. Its `Debug` output does not contain it. Serialized, it is the text, for
/// stored replies and for the parameters of statements.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct Pin(String);

impl Pin {
    /// Returns the text, to send it, compare it or show it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether the PIN is empty or only white space: a card with such a PIN has none.
    pub fn is_blank(&self) -> bool {
        self.0.trim().is_empty()
    }
}

impl From<String> for Pin {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Pin {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Pin([REDACTED])")
    }
}
