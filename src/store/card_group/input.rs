//! Reads and checks the parameters of a card group, in the order of the published page
//! (`endpoints/cc_group_create.md`, `endpoints/cc_group_update.md`).

use bigdecimal::{BigDecimal, ToPrimitive};
use serde::Serialize;

use super::GroupRequest;
use super::lookups::{ExistingGroup, Lookups};
use super::taxes::Taxes;
use crate::accounts::Currencies;
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::http::params::Params;
use crate::money::AMOUNT_MAX_EXCLUSIVE;
use crate::number;

const UNIX_TIME_2100: i64 = 4_102_444_800;
const SECONDS_PER_DAY: i64 = 86_400;

/// The checked parameters of a request. `None`: a new group gets the default, an existing group keeps its value.
///
/// `create.sql` and `update.sql` read the serialized fields by name.
#[derive(Debug, Serialize)]
pub(super) struct Input {
    name: Option<String>,
    description: Option<String>,
    #[serde(skip)]
    pub(super) taxes: Taxes,
    #[serde(flatten)]
    flags: Flags,
    /// Seconds since 1970.
    valid_from: Option<i64>,
    /// Seconds since 1970.
    valid_till: Option<i64>,
    tariff: Option<i32>,
    lcr: Option<i32>,
    location: Option<i32>,
    currency: Option<String>,
    valid_after_first_use: Option<i32>,
    /// Taxes included, in the caller's currency.
    price: Option<BigDecimal>,
    /// In the caller's currency.
    setup_fee: Option<BigDecimal>,
    /// In the caller's currency.
    daily_charge: Option<BigDecimal>,
    ghost_min_perc: Option<BigDecimal>,
    ghost_balance_perc: Option<BigDecimal>,
    /// Only for a new group.
    pin_length: Option<i32>,
    /// Only for a new group.
    number_length: Option<i32>,
    /// The rate from the system's currency to the caller's.
    rate: BigDecimal,
}

/// Parameters that are 0 or 1.
#[derive(Debug, Serialize)]
pub(super) struct Flags {
    use_external_function: Option<i16>,
    allow_loss_calls: Option<i16>,
    tell_cents: Option<i16>,
    solo_pinless: Option<i16>,
    disable_voucher: Option<i16>,
    callerid_leave: Option<i16>,
    disable_topup_from_cards_with_cid: Option<i16>,
}

impl Flags {
    fn read(params: &Params) -> Result<Self, ApiError> {
        let read = |name, label| read_flag(params, name).ok_or(ApiError::IncorrectFormat(label));
        Ok(Self {
            use_external_function: read("use_external_function", "Use external function")?,
            allow_loss_calls: read("allow_loss_calls", "Allow loss calls")?,
            tell_cents: read("tell_cents", "Tell cents")?,
            solo_pinless: read("solo_pinless", "Solo pinless")?,
            disable_voucher: read("disable_voucher", "Disable voucher")?,
            callerid_leave: read("callerid_leave", "CallerID leave")?,
            disable_topup_from_cards_with_cid: read(
                "disable_topup_from_cards_with_cid",
                "Disable topup from cards with cid",
            )?,
        })
    }
}

impl Input {
    /// Checks the parameters in the order of the published page, and returns the first error.
    ///
    /// `existing`: the group to change, `None` to create one.
    pub(super) fn read(
        request: &GroupRequest<'_>,
        currencies: &Currencies,
        lookups: &Lookups,
        existing: Option<&ExistingGroup>,
    ) -> Result<Self, ApiError> {
        let (params, dialect) = (request.params, request.dialect);
        let is_new = existing.is_none();
        let compound_tax = read_flag(params, "compound_tax").ok_or(ApiError::InvalidCompoundTaxFlag)?;
        let mut taxes = Taxes { compound_tax, ..Taxes::default() };
        for (flag, number, name) in [
            (&mut taxes.tax2_enabled, 2, "tax2_enabled"),
            (&mut taxes.tax3_enabled, 3, "tax3_enabled"),
            (&mut taxes.tax4_enabled, 4, "tax4_enabled"),
        ] {
            *flag = read_flag(params, name).ok_or(ApiError::InvalidTaxFlag(number))?;
        }
        let name = params.non_blank("name");
        if is_new && name.is_none() {
            return Err(ApiError::CardGroupNameMissing);
        }
        let name = name.map(|name| request.fit_text(name, "Card Group name")).transpose()?;
        let description = if is_new { params.get("description") } else { params.non_blank("description") };
        let description = description.map(|text| request.fit_text(text, "Description")).transpose()?;
        let flags = Flags::read(params)?;
        let (valid_from, valid_till) = read_validity(params, dialect, lookups, existing)?;
        let check_found = |name: &str, id: Option<i32>, error: ApiError| match id {
            _ if !is_new && params.non_blank(name).is_none() => Ok(None),
            Some(id) => Ok(Some(id)),
            None => Err(error),
        };
        let tariff_unset = params.non_blank("tariff_id").is_none();
        let tariff_error = if tariff_unset { ApiError::NoTariffAvailable } else { ApiError::NotFound("Tariff") };
        let tariff = check_found("tariff_id", lookups.tariff, tariff_error)?;
        let lcr = check_found("lcr_id", lookups.lcr, ApiError::NotFound("LCR"))?;
        let location = check_found("location_id", lookups.location, ApiError::NotFound("Location"))?;
        let currency = read_currency(request, currencies, is_new)?;
        read_taxes(request, lookups, is_new, &mut taxes)?;
        let valid_after_first_use = params.non_blank("valid_after_first_use");
        if valid_after_first_use.is_some_and(|text| text.chars().count() > 4) {
            return Err(ApiError::IncorrectFormat("Valid after"));
        }
        let price = read_amount(params, dialect, "price_with_vat", "Invalid Price with TAX")?;
        if name.is_some() && lookups.name_taken {
            return Err(ApiError::CardGroupNameTaken);
        }
        let own_currency = currencies.user_currency(request.currency_id);
        let input = Self {
            pin_length: if is_new { read_pin_length(params, dialect)? } else { None },
            number_length: if is_new { read_number_length(params, dialect)? } else { None },
            setup_fee: read_amount(params, dialect, "setup_fee", "Invalid setup fee")?,
            ghost_min_perc: read_amount(params, dialect, "ghost_min_perc", "Invalid ghost min perc")?,
            ghost_balance_perc: read_amount(params, dialect, "ghost_balance_perc", "Invalid ghost balance perc")?,
            daily_charge: read_amount(params, dialect, "daily_charge", "Invalid daily charge")?,
            valid_after_first_use: valid_after_first_use.map(|text| clamp_to_i32(number::parse_integer(text))),
            rate: own_currency.map_or(BigDecimal::from(1), |currency| currencies.rate_to(currency)),
            name,
            description,
            taxes,
            flags,
            valid_from,
            valid_till,
            tariff,
            lcr,
            location,
            currency,
            price,
        };
        if input.has_unconvertible_amount() && !dialect.treats_unknown_currency_as_zero() {
            return Err(ApiError::TransactionFailed);
        }
        Ok(input)
    }

    /// Whether an amount is sent though the rate of the caller's currency is 0 or negative.
    fn has_unconvertible_amount(&self) -> bool {
        let amounts = [&self.price, &self.setup_fee, &self.daily_charge];
        self.rate <= 0 && amounts.into_iter().flatten().any(|amount| *amount != 0)
    }
}

fn clamp_to_i32(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX })
}

/// Reads a flag: `Some(None)` if it is blank or not sent, `None` if it is neither 0 nor 1.
fn read_flag(params: &Params, name: &str) -> Option<Option<i16>> {
    match params.get(name).unwrap_or_default() {
        "" => Some(None),
        "0" => Some(Some(0)),
        "1" => Some(Some(1)),
        _ => None,
    }
}

/// Reads `date_from` and `date_till`, in seconds since 1970. By default a new group is valid from the start to the end
/// of today (UTC). In an existing group, a date that is not sent stays unchanged (`None`).
fn read_validity(
    params: &Params,
    dialect: Dialect,
    lookups: &Lookups,
    existing: Option<&ExistingGroup>,
) -> Result<(Option<i64>, Option<i64>), ApiError> {
    let today = lookups.now - lookups.now.rem_euclid(SECONDS_PER_DAY);
    let x7 = dialect.has_fixed_defaults();
    let limit = if x7 { UNIX_TIME_2100 + lookups.year_to_date_s + 1 } else { UNIX_TIME_2100 };
    let read = |name, error| match params.non_blank(name) {
        None => Ok(None),
        Some(text) => {
            let digits = if x7 { text.strip_prefix('-').unwrap_or(text) } else { text };
            let seconds = Some(number::parse_integer(text)).filter(|seconds| *seconds < limit && *seconds > -limit);
            seconds.filter(|_| number::is_digits(digits)).map(Some).ok_or(error)
        }
    };
    let from = read("date_from", ApiError::InvalidDateFrom)?;
    let till = read("date_till", ApiError::InvalidDateTill)?;
    let defaults = (Some(today), Some(if x7 { lookups.now } else { today + SECONDS_PER_DAY - 1 }));
    let fallback = match existing {
        Some(existing) if !x7 => (existing.valid_from, existing.valid_till),
        _ => defaults,
    };
    let needs_check = existing.is_none() || from.is_some() || till.is_some();
    if let (true, Some(from), Some(till)) = (needs_check, from.or(fallback.0), till.or(fallback.1))
        && (from > till || x7 && from == till)
    {
        return Err(ApiError::DateFromAfterTill);
    }
    if existing.is_some() { Ok((from, till)) } else { Ok((from.or(defaults.0), till.or(defaults.1))) }
}

/// Reads the group's currency. Returns its name in upper case, as MOR stores it.
fn read_currency(
    request: &GroupRequest<'_>,
    currencies: &Currencies,
    is_new: bool,
) -> Result<Option<String>, ApiError> {
    let (params, dialect) = (request.params, request.dialect);
    let balance_currency = params.non_blank("tell_balance_in_currency");
    let sent_name = params.non_blank("currency").or(balance_currency.filter(|name| !matches!(*name, "0" | "1")));
    let name = match (balance_currency, sent_name) {
        (Some("0"), _) => currencies.system().map(|currency| currency.name.clone()),
        (_, None) if !is_new => return Ok(None),
        (_, None) => {
            currencies.user_currency(request.currency_id).or(currencies.system()).map(|currency| currency.name.clone())
        }
        (_, Some(name)) => {
            let usable =
                currencies.by_name(name).filter(|currency| currency.active || dialect.accepts_inactive_currencies());
            // An X7 server stores the name as sent, with trailing spaces.
            usable.map(|currency| if dialect.truncates_long_text() { name.to_owned() } else { currency.name.clone() })
        }
    };
    name.map(|name| Some(name.to_uppercase())).ok_or(ApiError::CurrencyNotFound)
}

/// Reads the tax parameters other than the flags.
fn read_taxes(request: &GroupRequest<'_>, lookups: &Lookups, is_new: bool, taxes: &mut Taxes) -> Result<(), ApiError> {
    let (params, dialect) = (request.params, request.dialect);
    taxes.source_id = params.non_blank("tax_id").map(|_| lookups.tax.ok_or(ApiError::NotFound("TAX"))).transpose()?;
    // A new group copies the named row. The values of the other tax parameters are checked, but not used.
    let copies_source = is_new && taxes.source_id.is_some();
    if !copies_source {
        let text = |name| params.non_blank(name).map(|text| request.fit_text(text, "TAX name")).transpose();
        taxes.total_tax_name = text("total_tax_name")?;
        taxes.tax1_name = text("tax1_name")?;
        taxes.tax2_name = text("tax2_name")?;
        taxes.tax3_name = text("tax3_name")?;
        taxes.tax4_name = text("tax4_name")?;
    }
    taxes.tax1_value = read_tax_value(params, dialect, "tax1_value")?;
    taxes.tax2_value = read_tax_value(params, dialect, "tax2_value")?;
    taxes.tax3_value = read_tax_value(params, dialect, "tax3_value")?;
    taxes.tax4_value = read_tax_value(params, dialect, "tax4_value")?;
    Ok(())
}

/// Reads a tax in percent.
fn read_tax_value(params: &Params, dialect: Dialect, name: &str) -> Result<Option<BigDecimal>, ApiError> {
    let Some(text) = params.non_blank(name) else { return Ok(None) };
    let tax = dialect.parse_amount(text).filter(|tax| *tax >= 0 || dialect.accepts_any_amount());
    tax.map(Some).ok_or(ApiError::Refused("Invalid TAX value"))
}

/// Reads a number that is not negative. An X7 server reads the numeric prefix of any text.
fn read_amount(
    params: &Params,
    dialect: Dialect,
    name: &str,
    message: &'static str,
) -> Result<Option<BigDecimal>, ApiError> {
    let Some(text) = params.non_blank(name) else { return Ok(None) };
    let amount = number::parse_decimal(text);
    let is_valid = number::is_decimal(text) && amount >= 0 && amount < AMOUNT_MAX_EXCLUSIVE;
    if is_valid || dialect.accepts_any_amount() { Ok(Some(amount)) } else { Err(ApiError::Refused(message)) }
}

fn read_pin_length(params: &Params, dialect: Dialect) -> Result<Option<i32>, ApiError> {
    let Some(text) = params.non_blank("pin_length") else { return Ok(None) };
    let lenient = dialect.accepts_any_amount();
    let allowed = |byte: u8| byte.is_ascii_digit() || lenient && matches!(byte, b'-' | b'.');
    if !text.bytes().all(allowed) {
        return Err(ApiError::PinLengthNotDigits);
    }
    match number::parse_integer(text) {
        0 => Err(ApiError::PinLengthZero),
        length @ 1..=30 => Ok(Some(clamp_to_i32(length))),
        _ => Err(ApiError::PinLengthOutOfRange),
    }
}

fn read_number_length(params: &Params, dialect: Dialect) -> Result<Option<i32>, ApiError> {
    let Some(text) = params.non_blank("number_length") else { return Ok(None) };
    if dialect.accepts_any_amount() {
        return Ok(Some(clamp_to_i32(number::parse_integer(text))));
    }
    let length = number::parse_whole_decimal(text).and_then(|length| length.to_i32());
    length.filter(|length| (1..=30).contains(length)).map(Some).ok_or(ApiError::NumberLengthOutOfRange)
}
