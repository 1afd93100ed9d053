//! The roles of console accounts, and the rule that each route has.

use clap::ValueEnum;
use strum::{EnumString, IntoStaticStr};

/// What an account may see and do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr, ValueEnum)]
#[strum(serialize_all = "snake_case")]
pub enum Role {
    /// Everything; it needs a second factor.
    Admin,
    /// The groups, cards and sales of one user.
    Reseller,
    /// Helps customers: searches, tops up, voids, reissues, blocks and sends again, within limits.
    Support,
    /// Sees all pages but API users and Settings, and changes nothing.
    ReadOnly,
}

impl Role {
    /// Returns the name of the role, as in `console_accounts.role`.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Who may request a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everyone, also without a session.
    Public,
    /// Accounts of these roles.
    Roles(&'static [Role]),
}

impl Access {
    /// All accounts.
    pub const ALL: Self = Self::Roles(&[Role::Admin, Role::Reseller, Role::Support, Role::ReadOnly]);
    /// Admins.
    pub const ADMIN: Self = Self::Roles(&[Role::Admin]);
    /// Admins and resellers.
    pub const ADMIN_RESELLER: Self = Self::Roles(&[Role::Admin, Role::Reseller]);
    /// Admins and support.
    pub const ADMIN_SUPPORT: Self = Self::Roles(&[Role::Admin, Role::Support]);
    /// Who sees card groups and batches.
    pub const GROUPS: Self = Self::Roles(&[Role::Admin, Role::Reseller, Role::ReadOnly]);
    /// Who sees e-mails.
    pub const MAIL: Self = Self::Roles(&[Role::Admin, Role::Support, Role::ReadOnly]);
    /// Who sees the change log.
    pub const CHANGES: Self = Self::Roles(&[Role::Admin, Role::ReadOnly]);
    /// Admins, resellers and support: who changes cards.
    pub const WRITERS: Self = Self::Roles(&[Role::Admin, Role::Reseller, Role::Support]);

    /// Whether accounts of the role may request the route.
    pub fn allows(self, role: Role) -> bool {
        match self {
            Self::Public => true,
            Self::Roles(roles) => roles.contains(&role),
        }
    }
}
