//! What is known of users, settings and currencies, and what can be asked of it.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use bigdecimal::{BigDecimal, RoundingMode};
use strum::{EnumCount, EnumString, IntoStaticStr, VariantNames};

use crate::config::Secret;
use crate::dialect::Dialect;
use crate::number;

/// The settings that Mortise reads from `conflines`, as MOR spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, EnumString, IntoStaticStr, VariantNames)]
#[expect(missing_docs, reason = "MOR's own names")]
pub enum Setting {
    #[strum(serialize = "Allow_API")]
    AllowApi,
    #[strum(serialize = "Allow_GET_API")]
    AllowGetApi,
    #[strum(serialize = "API_Secret_Key")]
    SecretKey,
    /// The key that went before [`Setting::SecretKey`]; `value2` says until when it counts as well.
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
    /// The names of all.
    pub const NAMES: &[&str] = Self::VARIANTS;

    /// Its name in `conflines`.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The names of all, as the database takes them.
    pub fn owned_names() -> Vec<String> {
        Self::NAMES.iter().copied().map(str::to_owned).collect()
    }
}

/// A user, as far as admission and the operations need one.
#[derive(Debug)]
#[expect(missing_docs, reason = "MOR's own column names")]
pub struct User {
    pub id: i32,
    pub usertype: UserType,
    pub owner_id: i32,
    /// Blocked or hidden.
    pub blocked: bool,
    /// SHA-1 hex, as MOR stores it; empty once the operator has emptied it.
    pub password: Secret,
    /// Ours; goes before `password` where it stands.
    pub password_argon2: Option<Secret>,
    pub currency_id: Option<i32>,
    pub(super) rights: HashMap<String, i16>,
}

impl User {
    /// The value of a right: 0 none, 1 read, 2 edit. `name` in lower case.
    pub fn right(&self, name: &str) -> i16 {
        self.rights.get(name).copied().unwrap_or(0)
    }

    /// Whose settings count and whose card groups are the user's: an admin's and an accountant's are owner 0's, a reseller's
    /// the reseller's own, anyone else's their owner's.
    pub fn settings_owner(&self) -> i32 {
        match self.usertype {
            UserType::Admin | UserType::Accountant => 0,
            UserType::Reseller => self.id,
            UserType::User | UserType::Partner => self.owner_id,
        }
    }
}

/// What kind of user. Whatever MOR doesn't know has the fewest rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "MOR's own words")]
pub enum UserType {
    Admin,
    Accountant,
    Reseller,
    User,
    Partner,
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

/// What a hash may be made with. Not for logs.
#[expect(missing_docs, reason = "the names say it")]
pub struct SecretKey<'a> {
    pub text: &'a str,
    pub is_previous: bool,
}

/// A row of `conflines`, and the database's time when it was read, in seconds since 1970.
pub(super) struct Confline {
    pub name: String,
    pub value: String,
    pub value2: String,
    pub now: i64,
}

impl Confline {
    /// The time in `value2`. What is over was over at the database's time: that is the same for every server.
    fn expires_at(&self) -> Option<Instant> {
        let until = humantime::parse_rfc3339_weak(self.value2.trim()).ok()?;
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(self.now).ok()?);
        Instant::now().checked_add(until.duration_since(now).unwrap_or_default())
    }
}

/// One owner's settings.
#[derive(Debug)]
pub struct Settings {
    /// By [`Setting`].
    texts: [Option<Secret>; Setting::COUNT],
    /// Until when the previous key counts.
    previous_key_expires_at: Option<Instant>,
}

impl Settings {
    /// An owner's rows of `conflines`.
    pub(super) fn new(owner: i32, rows: Vec<Confline>) -> Self {
        let previous_key_expires_at = rows.iter().find(|row| row.name == Setting::PreviousKey.name()).and_then(|row| {
            let until = row.expires_at();
            if until.is_none() {
                let name = Setting::PreviousKey.name();
                tracing::warn!(owner, "value2 of {name} is no time like 2030-01-31 12:00:00: that key is over");
            }
            until
        });
        let mut texts = [const { None }; Setting::COUNT];
        for row in rows.into_iter().filter(|row| !row.value.is_empty()) {
            if let Ok(setting) = row.name.parse::<Setting>() {
                texts[setting as usize] = Some(row.value.into());
            }
        }
        Self { texts, previous_key_expires_at }
    }

    /// The secret key, and the previous one as long as it counts. Without a key there is none to go before it: whoever
    /// empties `API_Secret_Key` means everybody.
    pub fn secret_keys(&self) -> impl Iterator<Item = SecretKey<'_>> {
        let key = self.text(Setting::SecretKey);
        let until = key.and(self.previous_key_expires_at).filter(|until| Instant::now() < *until);
        let previous = until.and_then(|_| self.text(Setting::PreviousKey));
        let as_key = |is_previous| move |text| SecretKey { text, is_previous };
        key.map(as_key(false)).into_iter().chain(previous.map(as_key(true)))
    }

    /// Whether a switch is on.
    pub fn is_enabled(&self, setting: Setting) -> bool {
        self.text(setting).is_some_and(|value| number::parse_integer(value) == 1)
    }

    /// How many decimals a "nice" amount has (`data.md`, "Money"): 2 where nothing is set.
    pub fn nice_digits(&self) -> usize {
        self.text(Setting::NiceNumberDigits)
            .map_or(2, |digits| usize::try_from(number::parse_integer(digits)).unwrap_or(0).min(100))
    }

    /// A setting's text, where it isn't empty.
    pub fn text(&self, setting: Setting) -> Option<&str> {
        self.texts[setting as usize].as_ref().map(Secret::reveal)
    }
}

/// A currency; `exchange_rate` units of it are worth one of the system's.
#[derive(Debug)]
#[expect(missing_docs, reason = "MOR's own column names")]
pub struct Currency {
    pub id: i32,
    pub name: String,
    pub exchange_rate: BigDecimal,
    pub active: bool,
}

/// All currencies, with the system's own (id 1) among them (`data.md`, "Currencies").
#[derive(Debug)]
pub struct Currencies(Vec<Currency>);

impl From<Vec<Currency>> for Currencies {
    fn from(rows: Vec<Currency>) -> Self {
        Self(rows)
    }
}

impl Currencies {
    /// The system's currency. `None` only in a database that lost it.
    pub fn system(&self) -> Option<&Currency> {
        self.by_id(1)
    }

    /// By id.
    pub fn by_id(&self, id: i32) -> Option<&Currency> {
        self.0.iter().find(|currency| currency.id == id)
    }

    /// The currency of a user who has this id as `currency_id`.
    pub fn user_currency(&self, currency_id: Option<i32>) -> Option<&Currency> {
        currency_id.and_then(|id| self.by_id(id))
    }

    /// What the amounts are multiplied by that such a user is shown: 1, or by an X7 server the user's own currency's rate
    /// (`x7.md`, "Values printed").
    pub fn display_rate(&self, currency_id: Option<i32>, dialect: Dialect) -> BigDecimal {
        let own = self.user_currency(currency_id).filter(|_| dialect.converts_to_caller_currency());
        own.map_or(BigDecimal::from(1), |currency| currency.exchange_rate.clone())
    }

    /// By name, in any letter case, trailing spaces ignored.
    pub fn by_name(&self, name: &str) -> Option<&Currency> {
        let name = name.trim_end_matches(' ').to_lowercase();
        self.0.iter().find(|currency| currency.name.to_lowercase() == name)
    }

    /// What one unit of the system's currency is worth in `currency`. 0 where the system's own rate is 0.
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
