//! MOR's settings in the table `conflines` that Mortise reads: their types, defaults and meanings.

use serde_json::json;
use sqlx::{PgConnection, PgExecutor};

use super::BackOfficeError;
use crate::mail;
use crate::number;
use crate::store::change_log::{Author, Change, Target, What};

/// The limit of a tax rate in percent.
const PERCENTAGE_MAX_EXCLUSIVE: i32 = 1000;

/// What the value of a setting is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingType {
    /// `1` is on, any other value is off.
    Switch,
    /// A number from 0 to this one.
    Integer(i64),
    /// A port of TCP.
    Port,
    /// A decimal number from 0 to less than 1000.
    Percentage,
    /// A name. A number is refused: it is a value in the wrong place.
    Name,
    /// A host name or an address of the Internet Protocol.
    Host,
    /// An address, also with a name: `Card Shop <shop@example.com>`.
    Email,
    /// Any text.
    Text,
    /// A key or a password. It is never shown.
    Secret,
}

impl SettingType {
    /// Returns the name for operators.
    pub fn name(self) -> &'static str {
        match self {
            Self::Switch => "switch",
            Self::Integer(_) => "integer",
            Self::Port => "port",
            Self::Percentage => "percentage",
            Self::Name => "name",
            Self::Host => "host",
            Self::Email => "e-mail address",
            Self::Text => "text",
            Self::Secret => "key or password",
        }
    }

    /// Returns the value as MOR stores it. An empty value counts as not set.
    ///
    /// # Errors
    ///
    /// What the value of the type must be.
    pub fn normalize(self, value: &str) -> Result<String, String> {
        let is_valid = match self {
            // MOR reads every value except 1 as off, without an error.
            Self::Switch => {
                return match value {
                    "1" | "on" | "yes" | "true" => Ok("1".to_owned()),
                    "0" | "off" | "no" | "false" | "" => Ok("0".to_owned()),
                    _ => Err("is a switch: its value is on or off".to_owned()),
                };
            }
            Self::Percentage if !value.is_empty() => {
                let rate = number::parse_whole_decimal(value);
                let rate = rate.filter(|rate| *rate >= 0 && *rate < PERCENTAGE_MAX_EXCLUSIVE);
                return rate.map(|rate| rate.to_plain_string()).ok_or_else(|| {
                    format!(
                        "is a percentage: its value is a number such as 19 or 7.5, less than {PERCENTAGE_MAX_EXCLUSIVE}"
                    )
                });
            }
            _ if value.is_empty() => true,
            Self::Integer(max) => number::is_digits(value) && value.parse::<i64>().is_ok_and(|number| number <= max),
            Self::Port => value.parse::<u16>().is_ok_and(|port| port > 0),
            // "19 %" and "7,5" are numbers too.
            Self::Name => !number::is_decimal(&value.replace('%', "").replace(',', ".")),
            Self::Host => !value.contains(char::is_whitespace),
            Self::Email => mail::is_sender(value),
            Self::Text | Self::Secret | Self::Percentage => true,
        };
        let expected = match self {
            _ if is_valid => return Ok(value.to_owned()),
            Self::Integer(max) => format!("is an integer: its value is 0 to {max}"),
            Self::Port => "is a port: its value is 1 to 65535".to_owned(),
            Self::Name => "is a name, not a number".to_owned(),
            Self::Host => "is a host: its value has no spaces".to_owned(),
            _ => "is an e-mail address, such as shop@example.com or Card Shop <shop@example.com>".to_owned(),
        };
        Err(expected)
    }
}

/// A setting.
#[derive(Debug)]
pub struct SettingInfo {
    /// The name in `conflines`.
    pub name: &'static str,
    /// The type of the value.
    pub kind: SettingType,
    /// The value that counts if the setting is not set.
    pub default: &'static str,
    /// One line for operators.
    pub description: &'static str,
}

const fn setting(
    name: &'static str,
    kind: SettingType,
    default: &'static str,
    description: &'static str,
) -> SettingInfo {
    SettingInfo { name, kind, default, description }
}

/// The highest id in the database.
const ID_MAX: i64 = i32::MAX as i64;

/// All settings that Mortise reads, ordered by subject.
pub const SETTINGS: [SettingInfo; 29] = [
    setting("Allow_API", SettingType::Switch, "off", "The API accepts requests; for a reseller: with its own key"),
    setting("Allow_GET_API", SettingType::Switch, "off", "The API accepts GET; only of the admin"),
    setting("API_Secret_Key", SettingType::Secret, "", "Signs requests; set it with mortise key"),
    setting("API_Secret_Key_Previous", SettingType::Secret, "", "Valid after a key rotation, until its VALUE2 in UTC"),
    setting("API_Disable_hash_checking", SettingType::Switch, "off", "Requests need no hash: any client can buy cards"),
    setting("XML_API_Extension", SettingType::Switch, "off", "Replies have a file name with .xml; only of the admin"),
    setting("CC_Active", SettingType::Switch, "off", "Dialect x7: MOR's calling card add-on is on; only of the admin"),
    setting("API_Allow_payments_ower_API", SettingType::Switch, "off", "card_payment_add is on; only of the admin"),
    setting("Devices_Check_Rate", SettingType::Switch, "off", "rate_get is on; only of the admin"),
    setting(
        "Allow_Resellers_to_use_Admin_Tariffs",
        SettingType::Switch,
        "off",
        "Resellers see the admin's tariffs; only of the admin",
    ),
    setting("Nice_Number_Digits", SettingType::Integer(15), "2", "Decimals of amounts in replies; only of the admin"),
    setting(
        "Default_device_location_id",
        SettingType::Integer(ID_MAX),
        "1",
        "Dialect x7: location of a reseller's new card groups",
    ),
    setting("Email_Sending_Enabled", SettingType::Switch, "off", "Buyers get e-mails"),
    setting("Email_Smtp_Server", SettingType::Host, "", "The mail server"),
    setting("Email_port", SettingType::Port, "25", "The port of the mail server"),
    setting("Email_Login", SettingType::Text, "", "The login at the mail server, if it requires one"),
    setting("Email_Password", SettingType::Secret, "", "The password at the mail server"),
    setting("Email_from", SettingType::Email, "", "The sender of e-mails"),
    setting("Company_Email", SettingType::Email, "", "The sender of e-mails, if Email_from is not set"),
    setting("Tax_1", SettingType::Name, "", "Name of the first tax of new users and card groups; not its rate"),
    setting("Tax_2", SettingType::Name, "", "Name of the second tax; VALUE2 1: it counts"),
    setting("Tax_3", SettingType::Name, "", "Name of the third tax; VALUE2 1: it counts"),
    setting("Tax_4", SettingType::Name, "", "Name of the fourth tax; VALUE2 1: it counts"),
    setting("Tax_1_Value", SettingType::Percentage, "0", "Rate of the first tax of new users and card groups"),
    setting("Tax_2_Value", SettingType::Percentage, "0", "Rate of the second tax"),
    setting("Tax_3_Value", SettingType::Percentage, "0", "Rate of the third tax"),
    setting("Tax_4_Value", SettingType::Percentage, "0", "Rate of the fourth tax"),
    setting("Total_tax_name", SettingType::Name, "", "Name of the sum of the taxes"),
    setting("Tax_compound", SettingType::Switch, "on", "Each tax is added on top of the previous ones"),
];

/// Finds a setting by its name, as MOR spells it.
pub fn find(name: &str) -> Option<&'static SettingInfo> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// Whether a setting is a key, or a password that MOR stores in its settings.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["key", "password", "passwd", "secret", "token"].iter().any(|part| name.contains(part))
}

/// Returns the value to store for a setting that Mortise reads; the value of another one as it is.
///
/// # Errors
///
/// Why the value is refused. The name of a tax and its rate are easily confused.
pub fn normalize(name: &str, value: &str) -> Result<String, String> {
    let Some(setting) = find(name) else { return Ok(value.to_owned()) };
    setting.kind.normalize(value).map_err(|expected| {
        let hint = match name {
            "Tax_1" | "Tax_2" | "Tax_3" | "Tax_4" => format!(": the rate of this tax is {name}_Value"),
            _ => String::new(),
        };
        format!("{name} {expected}{hint}")
    })
}

/// The values of a setting before and after a change, for people: those of secrets are hidden.
#[derive(Debug)]
pub struct SettingChange {
    /// The value before. Empty: it was not set.
    pub before: String,
    /// The value now.
    pub after: String,
}

/// Stores a value of a setting, in the caller's transaction. [`normalize`] has checked it.
///
/// # Errors
///
/// [`BackOfficeError::NotFound`] if neither Mortise nor the database knows the name, unless it `is_new`.
pub async fn set(
    connection: &mut PgConnection,
    owner: i32,
    name: &str,
    value: &str,
    is_new: bool,
    author: &Author,
) -> Result<SettingChange, BackOfficeError> {
    sqlx::query!("lock table conflines in share row exclusive mode").execute(&mut *connection).await?;
    let names = sqlx::query_scalar!(r#"select distinct name as "name!" from conflines where name is not null"#)
        .fetch_all(&mut *connection)
        .await?;
    if !is_new && find(name).is_none() && !names.iter().any(|known| known == name) {
        let similar = names
            .iter()
            .map(String::as_str)
            .chain(SETTINGS.iter().map(|setting| setting.name))
            .find(|known| known.eq_ignore_ascii_case(name));
        let hint = similar.map_or("--new adds it anyway".to_owned(), |similar| format!("did you mean {similar}?"));
        return Err(BackOfficeError::NotFound(format!("there is no setting {name}: {hint}")));
    }
    let before = sqlx::query_scalar!(
        "select value from conflines where owner_id = $1 and name = $2 order by id limit 1",
        owner,
        name
    );
    let before = before.fetch_optional(&mut *connection).await?;
    sqlx::query!(
        "with changed as (update conflines set value = $3 where owner_id = $1 and name = $2 returning id)
         insert into conflines (owner_id, name, value) select $1, $2, $3 where not exists (select from changed)",
        owner,
        name,
        value
    )
    .execute(&mut *connection)
    .await?;
    let masked = |value: &str| if is_secret(name) { "(hidden)".to_owned() } else { value.to_owned() };
    let value_json = |value: &str| json!({ "value": masked(value) }).to_string();
    let change = Change {
        what: What::Setting,
        target: Target::Row { id: owner.into(), name },
        // Two hidden values would look the same.
        before: before
            .as_ref()
            .filter(|_| !is_secret(name))
            .map(|before| value_json(before.as_deref().unwrap_or_default())),
        after: Some(value_json(value)),
    };
    change.record(connection, author).await?;
    Ok(SettingChange { before: masked(&before.flatten().unwrap_or_default()), after: masked(value) })
}

/// A value in the database.
#[derive(Debug)]
#[expect(missing_docs, reason = "MOR's column names")]
pub struct StoredSetting {
    pub name: String,
    pub value: String,
    pub value2: Option<String>,
}

/// Returns the values of an owner for the settings that Mortise reads, without those of secrets: `(hidden)`.
///
/// # Errors
///
/// Database errors.
pub async fn load(executor: impl PgExecutor<'_>, owner: i32) -> sqlx::Result<Vec<StoredSetting>> {
    let names: Vec<String> = SETTINGS.iter().map(|setting| setting.name.to_owned()).collect();
    let mut stored = sqlx::query_as!(
        StoredSetting,
        r#"select distinct on (name) name as "name!", coalesce(value, '') as "value!", value2
           from conflines where owner_id = $1 and name = any ($2) order by name, id"#,
        owner,
        &names
    )
    .fetch_all(executor)
    .await?;
    for setting in &mut stored {
        if is_secret(&setting.name) && !setting.value.is_empty() {
            setting.value = "(hidden)".to_owned();
        }
    }
    Ok(stored)
}
