//! What can be said of a card group, when it is made and when it is changed: each parameter's rule, in the published order
//! (`endpoints/cc_group_create.md`, `endpoints/cc_group_update.md`).

use bigdecimal::BigDecimal;

use super::lookups::{Facts, Standing};
use crate::accounts::{Currencies, UserType};
use crate::auth::admission::Caller;
use crate::dialect::Dialect;
use crate::error::Fault;
use crate::http::context::Call;
use crate::http::params::Params;
use crate::money::LARGEST_AMOUNT;
use crate::number;

const YEAR_2100: i64 = 4_102_444_800;
const DAY: i64 = 86_400;

/// Who may make and change card groups.
pub(super) fn admit(caller: Option<Caller>, dialect: Dialect) -> Result<Caller, Fault> {
    let caller = caller.ok_or(Fault::UserUnknown)?;
    let may = match caller.usertype() {
        UserType::Admin => true,
        UserType::Accountant => {
            let cards = caller.right("callingcard_manage") > 0 || dialect.asks_for_financial_data_alone();
            cards && caller.right("see_financial_data") > 0
        }
        UserType::Reseller => caller.right("calling_cards") == 2,
        UserType::User | UserType::Partner => false,
    };
    if may { Ok(caller) } else { Err(caller.refusal()) }
}

/// What a request says of a card group. What it doesn't say has a default when the group is made, and stays when it is
/// changed.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) taxes: Taxes,
    /// In the order of [`FLAGS`].
    pub(super) flags: [Option<i16>; 7],
    /// Seconds since 1970.
    pub(super) valid_from: Option<i64>,
    /// Likewise.
    pub(super) valid_till: Option<i64>,
    pub(super) tariff: Option<i32>,
    pub(super) lcr: Option<i32>,
    pub(super) location: Option<i32>,
    pub(super) currency: Option<String>,
    pub(super) valid_after_first_use: Option<i32>,
    /// Tax included, in the caller's currency; so are the fee and the charge.
    pub(super) price: Option<BigDecimal>,
    pub(super) setup_fee: Option<BigDecimal>,
    pub(super) daily_charge: Option<BigDecimal>,
    pub(super) ghost_min_perc: Option<BigDecimal>,
    pub(super) ghost_balance_perc: Option<BigDecimal>,
    /// Of a new group.
    pub(super) pin_length: Option<i32>,
    /// Likewise.
    pub(super) number_length: Option<i32>,
    /// From the system's currency to the caller's.
    pub(super) rate: BigDecimal,
}

/// What it says of the group's taxes.
#[derive(Debug)]
pub(super) struct Taxes {
    /// The row whose values are meant.
    pub(super) row: Option<i32>,
    pub(super) total_name: Option<String>,
    pub(super) names: [Option<String>; 4],
    /// In percent.
    pub(super) values: [Option<BigDecimal>; 4],
    pub(super) enabled: [Option<i16>; 4],
    pub(super) compound: Option<i16>,
}

impl Taxes {
    pub(super) fn say_nothing(&self) -> bool {
        self.row.is_none()
            && self.total_name.is_none()
            && self.compound.is_none()
            && self.names.iter().all(Option::is_none)
            && self.values.iter().all(Option::is_none)
            && self.enabled.iter().all(Option::is_none)
    }
}

/// In the order of [`Wish::flags`], with the words that refuse them.
const FLAGS: [(&str, &str); 7] = [
    ("use_external_function", "Use external function"),
    ("allow_loss_calls", "Allow loss calls"),
    ("tell_cents", "Tell cents"),
    ("solo_pinless", "Solo pinless"),
    ("disable_voucher", "Disable voucher"),
    ("callerid_leave", "CallerID leave"),
    ("disable_topup_from_cards_with_cid", "Disable topup from cards with cid"),
];

impl Wish {
    /// The parameters in the published order; the first that is wrong is the answer.
    pub(super) fn read(
        call: &Call,
        caller: &Caller,
        currencies: &Currencies,
        facts: &Facts,
        standing: Option<&Standing>,
    ) -> Result<Self, Fault> {
        let (params, dialect) = (&call.params, call.dialect());
        let is_new = standing.is_none();
        let compound = switch(params, "compound_tax").ok_or(Fault::CompoundTaxFormat)?;
        let mut enabled = [None; 4];
        for (number, name) in [(2, "tax2_enabled"), (3, "tax3_enabled"), (4, "tax4_enabled")] {
            enabled[number - 1] = switch(params, name).ok_or(Fault::TaxSwitchFormat(number))?;
        }
        let name = params.filled("name");
        if is_new && name.is_none() {
            return Err(Fault::CardGroupWithoutName);
        }
        let name = name.map(|name| call.text(name, "Card Group name")).transpose()?;
        let description = if is_new { params.get("description") } else { params.filled("description") };
        let description = description.map(|text| call.text(text, "Description")).transpose()?;
        let mut flags = [None; 7];
        for (flag, (name, words)) in flags.iter_mut().zip(FLAGS) {
            *flag = switch(params, name).ok_or(Fault::IncorrectFormat(words))?;
        }
        let (valid_from, valid_till) = validity(params, dialect, facts, standing)?;
        let found = |name: &str, id: Option<i32>, fault: Fault| match id {
            _ if !is_new && params.filled(name).is_none() => Ok(None),
            Some(id) => Ok(Some(id)),
            None => Err(fault),
        };
        let none_at_all = params.filled("tariff_id").is_none();
        let no_tariff = if none_at_all { Fault::NoTariffAtAll } else { Fault::NotFound("Tariff") };
        let tariff = found("tariff_id", facts.tariff, no_tariff)?;
        let lcr = found("lcr_id", facts.lcr, Fault::NotFound("LCR"))?;
        let location = found("location_id", facts.location, Fault::NotFound("Location"))?;
        let currency = currency(params, dialect, caller, currencies, is_new)?;
        let taxes = taxes(call, facts, is_new, enabled, compound)?;
        let valid_after = params.filled("valid_after_first_use");
        if valid_after.is_some_and(|text| text.chars().count() > 4) {
            return Err(Fault::IncorrectFormat("Valid after"));
        }
        let price = amount(params, dialect, "price_with_vat", "Invalid Price with TAX")?;
        if name.is_some() && facts.name_taken {
            return Err(Fault::CardGroupNameTaken);
        }
        let own_currency = currencies.of_user(caller.currency());
        let wish = Self {
            pin_length: if is_new { pin_length(params, dialect)? } else { None },
            number_length: if is_new { number_length(params, dialect)? } else { None },
            setup_fee: amount(params, dialect, "setup_fee", "Invalid setup fee")?,
            ghost_min_perc: amount(params, dialect, "ghost_min_perc", "Invalid ghost min perc")?,
            ghost_balance_perc: amount(params, dialect, "ghost_balance_perc", "Invalid ghost balance perc")?,
            daily_charge: amount(params, dialect, "daily_charge", "Invalid daily charge")?,
            valid_after_first_use: valid_after.map(|text| clamped(number::integer(text))),
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
        if wish.would_lose_money() && !dialect.loses_unknown_currencies() {
            return Err(Fault::TransactionFailed);
        }
        Ok(wish)
    }

    /// In a currency that is worth nothing, or less, no amount can be said.
    fn would_lose_money(&self) -> bool {
        let amounts = [&self.price, &self.setup_fee, &self.daily_charge];
        self.rate <= 0 && amounts.into_iter().flatten().any(|amount| *amount != 0)
    }
}

fn clamped(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX })
}

/// 0, 1, or nothing where nothing was sent. `None`: neither.
fn switch(params: &Params, name: &str) -> Option<Option<i16>> {
    match params.get(name).unwrap_or_default() {
        "" => Some(None),
        "0" => Some(Some(0)),
        "1" => Some(Some(1)),
        _ => None,
    }
}

/// From and till, in seconds since 1970. A new group is valid from the beginning of today to its end; in one that is
/// changed the side that isn't sent stays as it is.
fn validity(
    params: &Params,
    dialect: Dialect,
    facts: &Facts,
    standing: Option<&Standing>,
) -> Result<(Option<i64>, Option<i64>), Fault> {
    let today = facts.now - facts.now.rem_euclid(DAY);
    let x7 = dialect.has_fixed_defaults();
    let limit = if x7 { YEAR_2100 + facts.year_so_far + 1 } else { YEAR_2100 };
    let read = |name, fault| match params.filled(name) {
        None => Ok(None),
        Some(text) => {
            let digits = if x7 { text.strip_prefix('-').unwrap_or(text) } else { text };
            let seconds = Some(number::integer(text)).filter(|seconds| *seconds < limit && *seconds > -limit);
            seconds.filter(|_| number::is_digits(digits)).map(Some).ok_or(fault)
        }
    };
    let from = read("date_from", Fault::InvalidDateFrom)?;
    let till = read("date_till", Fault::InvalidDateTill)?;
    let usual = (Some(today), Some(if x7 { facts.now } else { today + DAY - 1 }));
    let otherwise = match standing {
        Some(standing) if !x7 => (standing.valid_from, standing.valid_till),
        _ => usual,
    };
    let says_something = standing.is_none() || from.is_some() || till.is_some();
    if let (true, Some(from), Some(till)) = (says_something, from.or(otherwise.0), till.or(otherwise.1))
        && (from > till || x7 && from == till)
    {
        return Err(Fault::DateFromAfterTill);
    }
    if standing.is_some() { Ok((from, till)) } else { Ok((from.or(usual.0), till.or(usual.1))) }
}

/// In capitals, as MOR keeps it.
fn currency(
    params: &Params,
    dialect: Dialect,
    caller: &Caller,
    known: &Currencies,
    is_new: bool,
) -> Result<Option<String>, Fault> {
    let spoken = params.filled("tell_balance_in_currency");
    let named = params.filled("currency").or(spoken.filter(|name| !matches!(*name, "0" | "1")));
    let name = match (spoken, named) {
        (Some("0"), _) => known.system().map(|currency| currency.name.clone()),
        (_, None) if !is_new => return Ok(None),
        (_, None) => known.of_user(caller.currency()).or(known.system()).map(|currency| currency.name.clone()),
        (_, Some(name)) => {
            let usable = known.by_name(name).filter(|currency| currency.active || dialect.takes_inactive_currencies());
            // An x7 server keeps the spaces that were sent behind the name.
            usable.map(|currency| if dialect.cuts_long_texts() { name.to_owned() } else { currency.name.clone() })
        }
    };
    name.map(|name| Some(name.to_uppercase())).ok_or(Fault::CurrencyNotFound)
}

fn taxes(
    call: &Call,
    facts: &Facts,
    is_new: bool,
    enabled: [Option<i16>; 4],
    compound: Option<i16>,
) -> Result<Taxes, Fault> {
    let params = &call.params;
    let row = params.filled("tax_id").map(|_| facts.tax.ok_or(Fault::NotFound("TAX"))).transpose()?;
    let mut taxes =
        Taxes { row, total_name: None, names: [const { None }; 4], values: [const { None }; 4], enabled, compound };
    // A new group with a row to copy needs no more.
    if is_new && row.is_some() {
        return Ok(taxes);
    }
    let text = |name| params.filled(name).map(|text| call.text(text, "TAX name")).transpose();
    taxes.total_name = text("total_tax_name")?;
    taxes.names = [text("tax1_name")?, text("tax2_name")?, text("tax3_name")?, text("tax4_name")?];
    taxes.values =
        ["tax1_value", "tax2_value", "tax3_value", "tax4_value"].map(|name| params.filled(name).map(number::decimal));
    if taxes.values.iter().flatten().any(|value| *value < 0) && !call.dialect().takes_any_amount() {
        return Err(Fault::Refused("Invalid TAX value"));
    }
    Ok(taxes)
}

/// A number that isn't negative. An x7 server reads what it can.
fn amount(params: &Params, dialect: Dialect, name: &str, words: &'static str) -> Result<Option<BigDecimal>, Fault> {
    let Some(text) = params.filled(name) else { return Ok(None) };
    let amount = number::decimal(text);
    let proper = number::is_decimal(text) && amount >= 0 && amount < LARGEST_AMOUNT;
    if proper || dialect.takes_any_amount() { Ok(Some(amount)) } else { Err(Fault::Refused(words)) }
}

fn pin_length(params: &Params, dialect: Dialect) -> Result<Option<i32>, Fault> {
    let Some(text) = params.filled("pin_length") else { return Ok(None) };
    let lenient = dialect.takes_any_amount();
    let allowed = |byte: u8| byte.is_ascii_digit() || lenient && matches!(byte, b'-' | b'.');
    if !text.bytes().all(allowed) {
        return Err(Fault::PinLengthNotDigits);
    }
    match number::integer(text) {
        0 => Err(Fault::PinLengthZero),
        length @ 1..=30 => Ok(Some(clamped(length))),
        _ => Err(Fault::PinLengthOutOfRange),
    }
}

fn number_length(params: &Params, dialect: Dialect) -> Result<Option<i32>, Fault> {
    let Some(text) = params.filled("number_length") else { return Ok(None) };
    match number::integer(text) {
        length if dialect.takes_any_amount() => Ok(Some(clamped(length))),
        length @ 1..=30 if number::is_decimal(text) => Ok(Some(clamped(length))),
        _ => Err(Fault::NumberLengthOutOfRange),
    }
}
