//! Which payments a report counts or lists.

use serde::Serialize;
use strum::{EnumString, IntoStaticStr, VariantArray};

/// The kinds of payments in reports of sales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, EnumString, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum PaymentKind {
    /// The first sale of a card.
    Sale,
    /// Balance for a card.
    TopUp,
    /// Balance for a user.
    Refill,
    /// The reversal of one of the others.
    Refund,
}

/// The payments that a report counts: those that match all fields. The default is all payments.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct PaymentFilter {
    /// For cards and users of this owner.
    pub owner: Option<i32>,
    /// For cards of this group.
    pub group: Option<i32>,
    /// By this API user. A refund belongs to the user that sold.
    pub user: Option<i32>,
    /// In this currency.
    pub currency: Option<String>,
    /// Of this kind.
    pub kind: Option<PaymentKind>,
}

impl PaymentFilter {
    /// The payments for cards and users of an owner. `None`: of all.
    pub fn of_owner(owner: Option<i32>) -> Self {
        Self { owner, ..Self::default() }
    }
}
