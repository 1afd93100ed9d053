//! The fields of a card group, with the names of the parameters of `cc_group_create`.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use serde::Serialize;
use sqlx::PgConnection;

use super::own::OwnGroup;
use crate::console::error::ConsoleError;
use crate::console::session::Session;
use crate::error::ApiError;
use crate::http::params::Params;

/// Entries of a list to choose from.
const CHOICES_MAX: i64 = 1_000;

/// The values of fields, by name.
pub(super) type Values = BTreeMap<String, String>;

/// What a field contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Text,
    /// A number with a point.
    Decimal,
    /// A number of digits.
    Integer,
    /// A day. The group is valid from its start, or up to its end.
    Date,
    /// 0 or 1.
    Flag,
    /// The name of a currency.
    Currency,
    /// The id of a tariff, an LCR or a location.
    Reference,
}

/// Where a field is on the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Section {
    Main,
    /// Only for a new group.
    Lengths,
    Taxes,
    More,
}

/// Name, label, hint, kind and section of a field.
type Field = (&'static str, &'static str, &'static str, Kind, Section);

const FIELDS: [Field; 36] = [
    ("name", "Name", "No other group may have it.", Kind::Text, Section::Main),
    ("description", "Description", "For customers.", Kind::Text, Section::Main),
    (
        "price_with_vat",
        "Price with taxes",
        "In the system's currency. The price without taxes is computed from it.",
        Kind::Decimal,
        Section::Main,
    ),
    ("currency", "Currency of sales", "The amounts of payments are converted to it.", Kind::Currency, Section::Main),
    ("date_from", "Valid from", "The first day, in UTC.", Kind::Date, Section::Main),
    ("date_till", "Valid till", "The last day, in UTC. Empty: a new group ends today.", Kind::Date, Section::Main),
    ("number_length", "Digits of a card number", "1 to 30. Empty: 10.", Kind::Integer, Section::Lengths),
    ("pin_length", "Digits of a PIN", "1 to 30. Empty: 6.", Kind::Integer, Section::Lengths),
    ("total_tax_name", "Name of all taxes together", "", Kind::Text, Section::Taxes),
    ("tax1_name", "Tax 1: name", "", Kind::Text, Section::Taxes),
    ("tax1_value", "Tax 1: percent", "This tax is always used.", Kind::Decimal, Section::Taxes),
    ("tax2_enabled", "Use tax 2", "", Kind::Flag, Section::Taxes),
    ("tax2_name", "Tax 2: name", "", Kind::Text, Section::Taxes),
    ("tax2_value", "Tax 2: percent", "", Kind::Decimal, Section::Taxes),
    ("tax3_enabled", "Use tax 3", "", Kind::Flag, Section::Taxes),
    ("tax3_name", "Tax 3: name", "", Kind::Text, Section::Taxes),
    ("tax3_value", "Tax 3: percent", "", Kind::Decimal, Section::Taxes),
    ("tax4_enabled", "Use tax 4", "", Kind::Flag, Section::Taxes),
    ("tax4_name", "Tax 4: name", "", Kind::Text, Section::Taxes),
    ("tax4_value", "Tax 4: percent", "", Kind::Decimal, Section::Taxes),
    (
        "compound_tax",
        "Tax on tax",
        "Yes: each tax is added to the amount with the taxes before it.",
        Kind::Flag,
        Section::Taxes,
    ),
    ("tariff_id", "Tariff", "", Kind::Reference, Section::More),
    ("lcr_id", "LCR", "", Kind::Reference, Section::More),
    ("location_id", "Location", "", Kind::Reference, Section::More),
    ("valid_after_first_use", "Days valid after the first use", "0: no limit.", Kind::Integer, Section::More),
    ("setup_fee", "Setup fee", "Charged once, in the system's currency.", Kind::Decimal, Section::More),
    (
        "daily_charge",
        "Daily charge",
        "Charged each day of use, in the system's currency.",
        Kind::Decimal,
        Section::More,
    ),
    ("ghost_min_perc", "Announced call time, percent", "100: the real time.", Kind::Decimal, Section::More),
    ("ghost_balance_perc", "Announced balance, percent", "100: the real balance.", Kind::Decimal, Section::More),
    ("use_external_function", "Use an external script", "", Kind::Flag, Section::More),
    ("allow_loss_calls", "Allow calls that cost more than they earn", "", Kind::Flag, Section::More),
    ("tell_cents", "Announce cents", "", Kind::Flag, Section::More),
    ("solo_pinless", "One call at a time for a card with a caller id", "", Kind::Flag, Section::More),
    ("disable_voucher", "A sale redeems the voucher that has the card's number", "", Kind::Flag, Section::More),
    ("callerid_leave", "An empty card keeps its caller id", "", Kind::Flag, Section::More),
    ("disable_topup_from_cards_with_cid", "Cards with a caller id cannot top up others", "", Kind::Flag, Section::More),
];

/// An entry of a list to choose from.
#[derive(Debug, Clone, Serialize)]
struct Choice {
    value: String,
    label: String,
}

/// What the account may choose.
#[derive(Debug)]
pub(super) struct Choices(BTreeMap<&'static str, Vec<Choice>>);

/// A field as the template shows it.
#[derive(Debug, Serialize)]
pub(super) struct FieldView {
    name: &'static str,
    label: &'static str,
    hint: &'static str,
    kind: Kind,
    section: Section,
    value: String,
    /// The value that the page shows first. A field that is sent with it stays unchanged.
    was: String,
    choices: Vec<Choice>,
}

impl Choices {
    /// Loads the tariffs, LCRs and locations, of a reseller the own ones, and the active currencies.
    pub(super) async fn load(connection: &mut PgConnection, session: &Session) -> sqlx::Result<Self> {
        let owner = session.owner_id();
        let currencies = sqlx::query_as!(
            Choice,
            r#"select name as "value!", name as "label!" from currencies where active = 1 order by name limit $1"#,
            CHOICES_MAX
        );
        let currencies = currencies.fetch_all(&mut *connection).await?;
        let tariffs = sqlx::query_as!(
            Choice,
            r#"select id::text as "value!", name as "label!" from tariffs
               where $1::integer is null or owner_id = $1 order by id limit $2"#,
            owner,
            CHOICES_MAX
        );
        let tariffs = tariffs.fetch_all(&mut *connection).await?;
        let lcrs = sqlx::query_as!(
            Choice,
            r#"select id::text as "value!", name as "label!" from lcrs
               where $1::integer is null or user_id = $1 order by id limit $2"#,
            owner,
            CHOICES_MAX
        );
        let lcrs = lcrs.fetch_all(&mut *connection).await?;
        let locations = sqlx::query_as!(
            Choice,
            r#"select id::text as "value!", coalesce(name, '') as "label!" from locations
               where $1::integer is null or user_id = $1 order by id limit $2"#,
            owner,
            CHOICES_MAX
        );
        let locations = locations.fetch_all(connection).await?;
        Ok(Self(
            [("currency", currencies), ("tariff_id", tariffs), ("lcr_id", lcrs), ("location_id", locations)].into(),
        ))
    }

    /// Returns the fields of a group, with the entered values.
    pub(super) fn fields(&self, values: &Values, shown: &Values, is_new: bool) -> Vec<FieldView> {
        let text = |values: &Values, name| values.get(name).cloned().unwrap_or_default();
        let view = |(name, label, hint, kind, section): Field| {
            let was = values.get(&format!("was_{name}")).cloned().unwrap_or_else(|| text(shown, name));
            let mut choices = self.0.get(name).cloned().unwrap_or_default();
            if !was.is_empty() && kind == Kind::Reference && !choices.iter().any(|choice| choice.value == was) {
                choices.push(Choice { value: was.clone(), label: format!("{was} (as now)") });
            }
            let value = values.get(name).cloned().unwrap_or_else(|| was.clone());
            FieldView { name, label, hint, kind, section, value, was, choices }
        };
        let is_shown = |(.., section): &Field| is_new || *section != Section::Lengths;
        FIELDS.into_iter().filter(is_shown).map(view).collect()
    }

    /// Whether the account may choose the value. A reseller must not use what belongs to others.
    fn allows(&self, name: &str, value: &str) -> bool {
        self.0.get(name).is_none_or(|choices| choices.iter().any(|choice| choice.value == value))
    }

    /// Returns the parameters of the fields that were changed; of a new group, of all.
    pub(super) fn to_params(&self, entered: &Values, group: Option<&OwnGroup>) -> Result<Params, ConsoleError> {
        let mut fields = Vec::new();
        for (name, label, _, kind, section) in FIELDS {
            let value = entered.get(name).map(|value| value.trim()).unwrap_or_default();
            let was = entered.get(&format!("was_{name}")).map(|value| value.trim()).unwrap_or_default();
            let is_unchanged = group.is_some() && (value == was || section == Section::Lengths);
            if value.is_empty() || is_unchanged {
                continue;
            }
            if kind == Kind::Reference && !self.allows(name, value) {
                return Err(ConsoleError::Refused(format!("{label}: choose one from the list.")));
            }
            let value = match kind {
                Kind::Date => to_unix_time(name, value)
                    .ok_or_else(|| ConsoleError::Refused(format!("{label}: enter a day such as 2026-11-30.")))?,
                _ => value.to_owned(),
            };
            fields.push((name.to_owned(), value));
        }
        fields.extend(group.map(|group| ("cc_group_id".to_owned(), group.id().to_string())));
        Params::from_fields(fields).map_err(explain)
    }
}

/// Returns the first or the last second of the day, in seconds since 1970.
fn to_unix_time(name: &str, day: &str) -> Option<String> {
    let time = if name == "date_till" { "23:59:59" } else { "00:00:00" };
    let time = Some(day).filter(|day| day.len() == 10).map(|day| format!("{day}T{time}Z"))?;
    let seconds = humantime::parse_rfc3339(&time).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(seconds.as_secs().to_string())
}

/// Reads the values of a group, as the page shows them.
pub(super) async fn load_values(connection: &mut PgConnection, group: &OwnGroup) -> Result<Values, ConsoleError> {
    let values = sqlx::query_file_scalar!("src/console/pages/groups/values.sql", group.id());
    let values = values.fetch_one(connection).await?;
    serde_json::from_str(&values).map_err(|error| ConsoleError::Failed(error.to_string()))
}

/// Says in words why a group cannot be created or changed.
pub(super) fn explain(error: ApiError) -> ConsoleError {
    ConsoleError::Refused(match error {
        ApiError::NotFound("Card Group") => {
            return ConsoleError::NotFound(
                "There is no such card group, or it is hidden: restore it first.".to_owned(),
            );
        }
        ApiError::CardGroupNameMissing => "Name: enter one.".to_owned(),
        ApiError::CardGroupNameTaken => "Name: another group has it. Hidden groups count too.".to_owned(),
        ApiError::TooLong(field) => format!("{field}: at most 255 characters."),
        ApiError::IncorrectFormat("Valid after") => {
            "Days valid after the first use: a number of at most 4 digits.".to_owned()
        }
        ApiError::IncorrectFormat(field) => format!("{field}: choose yes or no."),
        ApiError::InvalidCompoundTaxFlag => "Tax on tax: choose yes or no.".to_owned(),
        ApiError::InvalidTaxFlag(number) => format!("Use tax {number}: choose yes or no."),
        ApiError::InvalidDateFrom => "Valid from: a day between 1970 and 2100.".to_owned(),
        ApiError::InvalidDateTill => "Valid till: a day between 1970 and 2100.".to_owned(),
        ApiError::DateFromAfterTill => "Valid from is after Valid till.".to_owned(),
        ApiError::NoTariffAvailable => "Tariff: there is none. Create one first.".to_owned(),
        ApiError::NotFound(what) => format!("{what}: it does not exist. Create it first."),
        ApiError::CurrencyNotFound => "Currency of sales: it is unknown, or not active.".to_owned(),
        ApiError::Refused("Invalid Price with TAX") => amount_words("Price with taxes"),
        ApiError::Refused("Invalid setup fee") => amount_words("Setup fee"),
        ApiError::Refused("Invalid daily charge") => amount_words("Daily charge"),
        ApiError::Refused("Invalid TAX value") => amount_words("The percent of a tax"),
        ApiError::Refused("Invalid ghost min perc") => amount_words("Announced call time, percent"),
        ApiError::Refused("Invalid ghost balance perc") => amount_words("Announced balance, percent"),
        ApiError::PinLengthNotDigits | ApiError::PinLengthZero | ApiError::PinLengthOutOfRange => {
            "Digits of a PIN: a number from 1 to 30.".to_owned()
        }
        ApiError::NumberLengthOutOfRange => "Digits of a card number: a number from 1 to 30.".to_owned(),
        ApiError::TransactionFailed => "An amount is too large, or the taxes are -100 % or less.".to_owned(),
        ApiError::Unavailable => return ConsoleError::database_busy(),
        error => return ConsoleError::Failed(format!("card group: {error:?}")),
    })
}

fn amount_words(field: &str) -> String {
    format!("{field}: a number of at least 0, with a point, such as 10.50.")
}
