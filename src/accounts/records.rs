//! Users, settings and currencies as the database has them, and the rules that depend on them.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use bigdecimal::{BigDecimal, RoundingMode};
use clap::ValueEnum;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use strum::{EnumCount, EnumString, IntoStaticStr, VariantArray, VariantNames};

use crate::dialect::Dialect;
use crate::number;

/// The settings that Mortise reads from `conflines`, as MOR spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, EnumString, IntoStaticStr, VariantNames)]
#[expect(missing_docs, reason = "MOR's names")]
pub enum Setting {
    #[strum(serialize = "Allow_API")]
    AllowApi,
    #[strum(serialize = "Allow_GET_API")]
    AllowGetApi,
    #[strum(serialize = "API_Secret_Key")]
    SecretKey,
    /// The key that [`Setting::SecretKey`] replaced; `value2` is the time until which it is accepted too.
    #[strum(serialize = "API_Secret_Key_Previous")]
    PreviousKey,
    #[strum(serialize = "API_Disable_hash_checking")]
    DisableHashChecking,
    #[strum(serialize = "XML_API_Extension")]
    XmlApiExtension,
    #[strum(serialize = "CC_Active")]
    CcActive,
    #[strum(serialize = "Default_device_location_id")]
    DefaultDeviceLocation,
    #[strum(serialize = "Nice_Number_Digits")]
    NiceNumberDigits,
    #[strum(serialize = "API_Allow_payments_ower_API")]
    AllowPayments,
    #[strum(serialize = "Devices_Check_Rate")]
    DevicesCheckRate,
    #[strum(serialize = "Allow_Resellers_to_use_Admin_Tariffs")]
    AllowResellersAdminTariffs,
    #[strum(serialize = "Email_Sending_Enabled")]
    EmailSendingEnabled,
    #[strum(serialize = "Email_Smtp_Server")]
    EmailSmtpServer,
    #[strum(serialize = "Email_port")]
    EmailPort,
    #[strum(serialize = "Email_Login")]
    EmailLogin,
    #[strum(serialize = "Email_Password")]
    EmailPassword,
    #[strum(serialize = "Email_from")]
    EmailFrom,
    #[strum(serialize = "Company_Email")]
    CompanyEmail,
}

impl Setting {
    /// The names of all settings in `conflines`.
    pub const NAMES: &[&str] = Self::VARIANTS;

    /// Returns the name in `conflines`.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Returns [`NAMES`](Self::NAMES) as a query parameter.
    pub fn owned_names() -> Vec<String> {
        Self::NAMES.iter().copied().map(str::to_owned).collect()
    }
}

/// The columns of a user that authentication and the operations need.
#[derive(Debug)]
#[expect(missing_docs, reason = "MOR's column names")]
pub struct User {
    pub id: i32,
    pub usertype: UserType,
    pub owner_id: i32,
    /// Blocked or hidden.
    pub blocked: bool,
    /// SHA-1 in hexadecimal, as MOR stores it; empty if the operator has emptied it.
    pub password: SecretString,
    /// Argon2 hash, stored by Mortise only; replaces `password` if it is set.
    pub password_argon2: Option<SecretString>,
    pub currency_id: Option<i32>,
    pub(super) rights: HashMap<String, i16>,
}

impl User {
    /// Returns the value of a right: 0 none, 1 read, 2 edit. `name` is in lower case.
    pub fn right(&self, name: &str) -> i16 {
        self.rights.get(name).copied().unwrap_or(0)
    }

    /// Returns the owner whose settings and card groups apply to the user: 0 for an admin or an accountant, the user
    /// itself for a reseller, the user's owner for others.
    pub fn settings_owner(&self) -> i32 {
        match self.usertype {
            UserType::Admin | UserType::Accountant => 0,
            UserType::Reseller => self.id,
            UserType::User | UserType::Partner => self.owner_id,
        }
    }
}

/// The type of a user. An unknown type counts as `User`, which has the fewest rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize, IntoStaticStr, VariantArray)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
#[expect(missing_docs, reason = "MOR's names")]
pub enum UserType {
    Admin,
    Accountant,
    Reseller,
    User,
    Partner,
}

impl UserType {
    /// Returns the name, as in `users.usertype`.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl From<&str> for UserType {
    fn from(name: &str) -> Self {
        match name {
            "admin" => Self::Admin,
            "accountant" => Self::Accountant,
            "reseller" => Self::Reseller,
            "partner" => Self::Partner,
            _ => Self::User,
        }
    }
}

/// A secret key with which a request hash is valid. It must not be logged.
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct SecretKey<'a> {
    pub text: &'a str,
    pub is_previous: bool,
}

/// A row of `conflines`.
pub(super) struct Confline {
    pub name: String,
    pub value: String,
    pub value2: String,
    /// The time of the database when the row was read, in seconds since 1970.
    pub now: i64,
}

impl Confline {
    /// Parses the time in `value2`. The remaining time is calculated with the clock of the database, so that a key
    /// expires at the same time on all servers.
    fn expires_at(&self) -> Option<Instant> {
        let expires_at = humantime::parse_rfc3339_weak(self.value2.trim()).ok()?;
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(self.now).ok()?);
        Instant::now().checked_add(expires_at.duration_since(now).unwrap_or_default())
    }
}

/// The settings of one owner.
#[derive(Debug)]
pub struct Settings {
    /// Indexed by [`Setting`]. `None`: not set, or empty.
    texts: [Option<SecretString>; Setting::COUNT],
    /// Until when the previous key is accepted. `None`: it is not accepted.
    previous_key_expires_at: Option<Instant>,
}

impl Settings {
    /// Creates the settings from an owner's rows of `conflines`.
    pub(super) fn new(owner: i32, rows: Vec<Confline>) -> Self {
        let previous_key_expires_at = rows.iter().find(|row| row.name == Setting::PreviousKey.name()).and_then(|row| {
            let expires_at = row.expires_at();
            if expires_at.is_none() {
                let setting = Setting::PreviousKey.name();
                tracing::warn!(owner, setting, "previous key ignored: value2 is not a time like 2030-01-31 12:00:00");
            }
            expires_at
        });
        let mut texts = [const { None }; Setting::COUNT];
        for row in rows.into_iter().filter(|row| !row.value.is_empty()) {
            if let Ok(setting) = row.name.parse::<Setting>() {
                texts[setting as usize] = Some(row.value.into());
            }
        }
        Self { texts, previous_key_expires_at }
    }

    /// Returns the secret key, and the previous key until it expires. Without a secret key the previous key is not
    /// accepted either: an operator who empties `API_Secret_Key` locks out all clients.
    pub fn secret_keys(&self) -> impl Iterator<Item = SecretKey<'_>> {
        let key = self.text(Setting::SecretKey);
        let expires_at = key.and(self.previous_key_expires_at).filter(|expires_at| Instant::now() < *expires_at);
        let previous = expires_at.and_then(|_| self.text(Setting::PreviousKey));
        let to_key = |is_previous| move |text| SecretKey { text, is_previous };
        key.map(to_key(false)).into_iter().chain(previous.map(to_key(true)))
    }

    /// Whether a setting is on: its value is 1.
    pub fn is_enabled(&self, setting: Setting) -> bool {
        self.text(setting).is_some_and(|value| number::parse_integer(value) == 1)
    }

    /// Returns the number of decimals of a "nice" amount (`data.md`, "Money"). The default is 2.
    pub fn nice_digits(&self) -> usize {
        self.text(Setting::NiceNumberDigits)
            .map_or(2, |digits| usize::try_from(number::parse_integer(digits)).unwrap_or(0).min(100))
    }

    /// Returns the text of a setting. `None`: not set, or empty.
    pub fn text(&self, setting: Setting) -> Option<&str> {
        self.texts[setting as usize].as_ref().map(|text| text.expose_secret())
    }
}

/// A currency. `exchange_rate` units of it are worth one unit of the system's currency.
#[derive(Debug)]
#[expect(missing_docs, reason = "MOR's column names")]
pub struct Currency {
    pub id: i32,
    pub name: String,
    pub exchange_rate: BigDecimal,
    pub active: bool,
}

/// The id of the system's currency (`data.md`, "Currencies").
pub const SYSTEM_CURRENCY_ID: i32 = 1;

/// All currencies, including the system's currency.
#[derive(Debug)]
pub struct Currencies(Vec<Currency>);

impl From<Vec<Currency>> for Currencies {
    fn from(rows: Vec<Currency>) -> Self {
        Self(rows)
    }
}

impl Currencies {
    /// Returns the system's currency. `None` only if its row was deleted.
    pub fn system(&self) -> Option<&Currency> {
        self.by_id(SYSTEM_CURRENCY_ID)
    }

    /// Returns the currency with this id.
    pub fn by_id(&self, id: i32) -> Option<&Currency> {
        self.0.iter().find(|currency| currency.id == id)
    }

    /// Returns the currency of a user with this `currency_id`.
    pub fn user_currency(&self, currency_id: Option<i32>) -> Option<&Currency> {
        currency_id.and_then(|id| self.by_id(id))
    }

    /// Returns the factor for amounts in replies to a user with this `currency_id`: 1, or in the X7 dialect the
    /// exchange rate of the user's currency (`x7.md`, "Values printed").
    pub fn display_rate(&self, currency_id: Option<i32>, dialect: Dialect) -> BigDecimal {
        let currency = self.user_currency(currency_id).filter(|_| dialect.converts_to_caller_currency());
        currency.map_or(BigDecimal::from(1), |currency| currency.exchange_rate.clone())
    }

    /// Returns the currency with this name; letter case and trailing spaces are ignored.
    pub fn by_name(&self, name: &str) -> Option<&Currency> {
        let name = name.trim_end_matches(' ').to_lowercase();
        self.0.iter().find(|currency| currency.name.to_lowercase() == name)
    }

    /// Returns the value of one unit of the system's currency in `currency`: 0 if the system's currency is missing or
    /// its own rate is 0.
    pub fn rate_to(&self, currency: &Currency) -> BigDecimal {
        let one = BigDecimal::from(1);
        match self.system() {
            Some(system) if system.name == currency.name => one,
            Some(system) if system.exchange_rate == 0 => BigDecimal::from(0),
            Some(system) if system.exchange_rate == one => currency.exchange_rate.clone(),
            Some(system) => {
                (&currency.exchange_rate / &system.exchange_rate).with_scale_round(30, RoundingMode::HalfUp)
            }
            None => BigDecimal::from(0),
        }
    }
}
