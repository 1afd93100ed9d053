//! The caller of a request: a user whose request passed the checks of `auth::admission`.

use std::sync::Arc;

use crate::accounts::{User, UserType};
use crate::error::ApiError;

/// The user of an authenticated request. Only `auth` creates one, so a `Caller` proves that the checks passed.
#[derive(Debug, Clone)]
pub struct Caller(Arc<User>);

impl Caller {
    /// Creates the caller from the user whose request passed the checks.
    pub(super) fn new(user: Arc<User>) -> Self {
        Self(user)
    }

    /// Returns the user.
    pub(super) fn user(&self) -> &User {
        &self.0
    }

    /// Returns the user's id, for audit rows.
    pub fn id(&self) -> i32 {
        self.0.id
    }

    /// Returns the id of the user whose settings apply to the caller and whose card groups the caller uses.
    pub fn owner_id(&self) -> i32 {
        self.0.settings_owner()
    }

    /// Returns the owner to whose card groups the caller is limited; `None` for an admin, who sees the groups of all
    /// owners.
    pub fn owner_scope(&self) -> Option<i32> {
        (self.0.usertype != UserType::Admin).then(|| self.owner_id())
    }

    /// Returns the id of the user's own currency.
    pub fn currency_id(&self) -> Option<i32> {
        self.0.currency_id
    }

    /// Returns the user's type.
    pub fn usertype(&self) -> UserType {
        self.0.usertype
    }

    /// Returns the value of a right, by its name in lower case: 0 none, 1 read, 2 edit.
    pub fn right(&self, name: &str) -> i16 {
        self.0.right(name)
    }

    /// Returns the error for a user without the right, in operations that are not strict.
    pub fn missing_right_error(&self) -> ApiError {
        match self.0.usertype {
            UserType::User | UserType::Partner => ApiError::AccessDeniedInPage,
            UserType::Admin | UserType::Accountant | UserType::Reseller => ApiError::NotAuthorized,
        }
    }

    /// Whether the user may use calling cards. An accountant's `callingcard_manage` must be at least `required`.
    pub fn may_use_calling_cards(&self, required: i16) -> bool {
        match self.0.usertype {
            UserType::Admin => true,
            UserType::Accountant => self.0.right(rights::CALLINGCARD_MANAGE) >= required,
            UserType::Reseller => self.0.right(rights::CALLING_CARDS) == RIGHT_EDIT,
            UserType::User | UserType::Partner => false,
        }
    }

    /// Returns the name of the right that decides whether the user may use calling cards.
    pub fn calling_cards_right(&self) -> &'static str {
        match self.0.usertype {
            UserType::Accountant => rights::CALLINGCARD_MANAGE,
            UserType::Reseller => rights::CALLING_CARDS,
            UserType::Admin | UserType::User | UserType::Partner => rights::USER_TYPE,
        }
    }
}

/// The names of rights, in lower case.
#[expect(missing_docs, reason = "MOR's names")]
pub mod rights {
    pub const CALLINGCARD_MANAGE: &str = "callingcard_manage";
    pub const CALLINGCARD_PIN: &str = "callingcard_pin";
    pub const SEE_FINANCIAL_DATA: &str = "see_financial_data";
    pub const TARIFF_MANAGE: &str = "tariff_manage";
    pub const CALLING_CARDS: &str = "calling_cards";
    /// No right: logged for users whose type may not use an operation, whatever rights they have.
    pub const USER_TYPE: &str = "user type";
}

/// The value of a right that permits reading.
pub const RIGHT_READ: i16 = 1;
/// The value of a right that permits editing.
pub const RIGHT_EDIT: i16 = 2;
