//! `cc_group_create`: makes a card group, with a tax row of its own.
//! The spec's page: `endpoints/cc_group_create.md`; the published one: `source/cc_group_create.txt`.

use bigdecimal::BigDecimal;

use crate::call::{Call, Operation};
use crate::caller::{self, Caller};
use crate::dialect::Dialect;
use crate::directory::{Currencies, UserType};
use crate::document::Document;
use crate::fault::{Fault, on_constraint};
use crate::number;
use crate::params::Params;
use crate::signature::Rule;

/// The operation.
pub const OPERATION: Operation = Operation {
    name: "cc_group_create",
    aliases: &[],
    hashed: &[Rule::Exactly(&["name"])],
    handler: |call| Box::pin(answer(call)),
};

/// MOR's columns for names and the description.
const LONGEST_TEXT: usize = 255;
/// Where `numeric(30,15)` ends.
const LARGEST_AMOUNT: i64 = 1_000_000_000_000_000;
const YEAR_2100: i64 = 4_102_444_800;
const DAY: i64 = 86_400;

async fn answer(call: Call) -> Result<Document, Fault> {
    let caller = caller::admit(&call).await?.ok_or(Fault::UserUnknown)?;
    may_create(&caller, call.dialect())?;
    let currencies = call.app.directory.currencies().await?;
    let facts = Facts::look_up(&call, &caller).await?;
    let group = Group::read(&call, &caller, &currencies, &facts)?;
    if group.would_lose_money() && !call.dialect().loses_unknown_currencies() {
        return Err(Fault::TransactionFailed);
    }
    create(&call, &group).await?;
    Ok(Document::new("page", |page| {
        page.element("status", |status| status.text("success", "Card Group was successfully created"));
    }))
}

fn may_create(caller: &Caller, dialect: Dialect) -> Result<(), Fault> {
    let may = match caller.usertype() {
        UserType::Admin => true,
        UserType::Accountant => {
            let cards = caller.right("callingcard_manage") > 0 || dialect.asks_for_financial_data_alone();
            cards && caller.right("see_financial_data") > 0
        }
        UserType::Reseller => caller.right("calling_cards") == 2,
        UserType::User | UserType::Partner => return Err(Fault::AccessDeniedOnPage),
    };
    if may { Ok(()) } else { Err(Fault::NotAuthorized) }
}

/// What the database has to say about a request, asked at once before its parameters are gone through in order.
#[derive(Debug)]
struct Facts {
    /// Seconds since 1970.
    now: i64,
    /// Seconds from the beginning of this year to the beginning of this day.
    year_so_far: i64,
    /// The tariff asked for, or the first that the caller may use.
    tariff: Option<i32>,
    lcr: Option<i32>,
    location: Option<i32>,
    tax: Option<i32>,
    name_taken: bool,
}

impl Facts {
    async fn look_up(call: &Call, caller: &Caller) -> Result<Self, Fault> {
        let wanted = |name| call.params.filled(name).map(number::integer);
        let reseller = caller.usertype() == UserType::Reseller;
        let location = match wanted("location_id") {
            None => usual_location(call, caller).await?,
            Some(id) => Some(id),
        };
        let facts = sqlx::query_as!(
            Facts,
            r#"select floor(extract(epoch from now()))::bigint as "now!",
                   extract(epoch from date_trunc('day', now()) - date_trunc('year', now()))::bigint as "year_so_far!",
                   (select id::integer from tariffs where case
                        when $1::bigint is not null then id = $1 and not ($5 and owner_id = 0)
                        when $7 then id = 1
                        else not $5 or owner_id = $6
                    end order by id limit 1) as tariff,
                   (select id::integer from lcrs where case
                        when $2::bigint is not null then id = $2 and not ($5 and user_id = 0)
                        when $7 then id = 1
                        else not $5 or user_id = $6
                    end order by id limit 1) as lcr,
                   case when $3::bigint is null then 1
                        else (select id from locations where id = $3 and not ($5 and user_id = 0)) end as location,
                   (select id from taxes where id = $4::bigint) as tax,
                   exists (select from cardgroups where name = $8) as "name_taken!""#,
            wanted("tariff_id"),
            wanted("lcr_id"),
            location,
            wanted("tax_id"),
            reseller,
            caller.id(),
            call.dialect().has_fixed_defaults(),
            name(&call.params, call.dialect())
        )
        .fetch_one(&call.app.pool)
        .await?;
        Ok(facts)
    }
}

/// An X7 server knows a reseller's usual location.
async fn usual_location(call: &Call, caller: &Caller) -> Result<Option<i64>, Fault> {
    if !call.dialect().has_fixed_defaults() || caller.usertype() != UserType::Reseller {
        return Ok(None);
    }
    let own = call.app.directory.settings(caller.id()).await?;
    Ok(own.text("Default_device_location_id").map(number::integer))
}

/// A card group that can be made.
#[derive(Debug)]
struct Group {
    owner: i32,
    name: String,
    description: String,
    tax: Tax,
    flags: [i16; 7],
    valid_from: i64,
    valid_till: i64,
    tariff: i32,
    lcr: i32,
    location: i32,
    currency: String,
    valid_after_first_use: i32,
    /// Tax included, in the caller's currency; so are the fee and the charge.
    price: BigDecimal,
    setup_fee: BigDecimal,
    daily_charge: BigDecimal,
    ghost_min_perc: BigDecimal,
    ghost_balance_perc: BigDecimal,
    pin_length: i32,
    number_length: i32,
    /// From the system's currency to the caller's.
    rate: BigDecimal,
}

/// Where the group's taxes come from.
#[derive(Debug)]
enum Tax {
    /// The values of this row.
    Row(i32),
    /// These values.
    Values(Box<TaxValues>),
}

#[derive(Debug)]
struct TaxValues {
    total_name: String,
    names: [String; 4],
    /// In percent.
    values: [BigDecimal; 4],
    switches: Switches,
}

/// In the order of [`Group::flags`], with the words that refuse them.
const FLAGS: [(&str, &str); 7] = [
    ("use_external_function", "Use external function"),
    ("allow_loss_calls", "Allow loss calls"),
    ("tell_cents", "Tell cents"),
    ("solo_pinless", "Solo pinless"),
    ("disable_voucher", "Disable voucher"),
    ("callerid_leave", "CallerID leave"),
    ("disable_topup_from_cards_with_cid", "Disable topup from cards with cid"),
];

impl Group {
    /// The parameters in the published order; the first that is wrong is the answer.
    fn read(call: &Call, caller: &Caller, currencies: &Currencies, facts: &Facts) -> Result<Self, Fault> {
        let (params, dialect) = (&call.params, call.dialect());
        let switches = Switches::read(params)?;
        let name = name(params, dialect);
        if name.trim().is_empty() {
            return Err(Fault::CardGroupWithoutName);
        }
        let name = short_enough(name, "Card Group name")?;
        let description = params.get("description").unwrap_or_default();
        let description = short_enough(cut(description, dialect), "Description")?;
        let flags = flags(params)?;
        let (valid_from, valid_till) = validity(params, dialect, facts)?;
        let unsent = params.filled("tariff_id").is_none();
        let tariff = facts.tariff.ok_or(if unsent { Fault::NoTariffAtAll } else { Fault::NotFound("Tariff") })?;
        let lcr = facts.lcr.ok_or(Fault::NotFound("LCR"))?;
        let location = facts.location.ok_or(Fault::NotFound("Location"))?;
        let currency = currency(params, dialect, caller, currencies)?;
        let tax = Tax::read(params, dialect, facts, switches)?;
        let valid_after = params.get("valid_after_first_use").unwrap_or_default();
        if valid_after.chars().count() > 4 {
            return Err(Fault::IncorrectFormat("Valid after"));
        }
        let price = amount(params, dialect, "price_with_vat", 0, "Invalid Price with TAX")?;
        if facts.name_taken {
            return Err(Fault::CardGroupNameTaken);
        }
        let own_currency = currencies.of_user(caller.currency());
        let rate = own_currency.map_or(BigDecimal::from(1), |currency| currencies.rate_to(currency));
        Ok(Self {
            owner: caller.owner(),
            pin_length: pin_length(params, dialect)?,
            number_length: number_length(params, dialect)?,
            setup_fee: amount(params, dialect, "setup_fee", 0, "Invalid setup fee")?,
            ghost_min_perc: amount(params, dialect, "ghost_min_perc", 100, "Invalid ghost min perc")?,
            ghost_balance_perc: amount(params, dialect, "ghost_balance_perc", 100, "Invalid ghost balance perc")?,
            daily_charge: amount(params, dialect, "daily_charge", 0, "Invalid daily charge")?,
            valid_after_first_use: clamped(number::integer(valid_after)),
            rate,
            name,
            description,
            tax,
            flags,
            valid_from,
            valid_till,
            tariff,
            lcr,
            location,
            currency,
            price,
        })
    }
}

impl Group {
    /// In a currency that is worth nothing no amount can be said.
    fn would_lose_money(&self) -> bool {
        self.rate == 0 && [&self.price, &self.setup_fee, &self.daily_charge].iter().any(|amount| **amount != 0)
    }
}

fn name(params: &Params, dialect: Dialect) -> String {
    cut(params.get("name").unwrap_or_default(), dialect)
}

fn cut(text: &str, dialect: Dialect) -> String {
    if dialect.cuts_long_texts() { text.chars().take(LONGEST_TEXT).collect() } else { text.to_owned() }
}

fn short_enough(text: String, what: &'static str) -> Result<String, Fault> {
    if text.chars().count() > LONGEST_TEXT { Err(Fault::TooLong(what)) } else { Ok(text) }
}

fn clamped(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX })
}

/// 0, 1, or `otherwise` where nothing was sent.
fn switch(params: &Params, name: &str, otherwise: i16) -> Option<i16> {
    match params.get(name).unwrap_or_default() {
        "" => Some(otherwise),
        "0" => Some(0),
        "1" => Some(1),
        _ => None,
    }
}

#[derive(Debug, Clone, Copy)]
struct Switches {
    compound: i16,
    enabled: [i16; 4],
}

impl Switches {
    fn read(params: &Params) -> Result<Self, Fault> {
        let compound = switch(params, "compound_tax", 1).ok_or(Fault::CompoundTaxFormat)?;
        let mut enabled = [1; 4];
        for number in 2..=4 {
            let name = format!("tax{number}_enabled");
            enabled[number - 1] = switch(params, &name, 0).ok_or(Fault::TaxSwitchFormat(number))?;
        }
        Ok(Self { compound, enabled })
    }
}

fn flags(params: &Params) -> Result<[i16; 7], Fault> {
    let mut flags = [0; 7];
    for (flag, (name, words)) in flags.iter_mut().zip(FLAGS) {
        *flag = switch(params, name, 0).ok_or(Fault::IncorrectFormat(words))?;
    }
    Ok(flags)
}

/// From and till, in seconds since 1970: by default from the beginning of today to its end.
fn validity(params: &Params, dialect: Dialect, facts: &Facts) -> Result<(i64, i64), Fault> {
    let today = facts.now - facts.now.rem_euclid(DAY);
    let x7 = dialect.has_fixed_defaults();
    let limit = if x7 { YEAR_2100 + facts.year_so_far + 1 } else { YEAR_2100 };
    let read = |name, otherwise| match params.filled(name) {
        None => Some(otherwise),
        Some(text) => {
            let digits = if x7 { text.strip_prefix('-').unwrap_or(text) } else { text };
            let proper = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            Some(number::integer(text)).filter(|seconds| proper && *seconds < limit && *seconds > -limit)
        }
    };
    let from = read("date_from", today).ok_or(Fault::InvalidDateFrom)?;
    let till = read("date_till", if x7 { facts.now } else { today + DAY - 1 }).ok_or(Fault::InvalidDateTill)?;
    if from > till || x7 && from == till { Err(Fault::DateFromAfterTill) } else { Ok((from, till)) }
}

/// In capitals, as MOR keeps it.
fn currency(params: &Params, dialect: Dialect, caller: &Caller, known: &Currencies) -> Result<String, Fault> {
    let spoken = params.filled("tell_balance_in_currency");
    let named = params.filled("currency").or(spoken.filter(|name| !matches!(*name, "0" | "1")));
    let name = match (spoken, named) {
        (Some("0"), _) => known.system().map(|currency| currency.name.clone()),
        (_, None) => known.of_user(caller.currency()).or(known.system()).map(|currency| currency.name.clone()),
        (_, Some(name)) => {
            let usable = known.by_name(name).filter(|currency| currency.active || dialect.takes_inactive_currencies());
            // An x7 server keeps the spaces that were sent behind the name.
            usable.map(|currency| if dialect.cuts_long_texts() { name.to_owned() } else { currency.name.clone() })
        }
    };
    name.map(|name| name.to_uppercase()).ok_or(Fault::CurrencyNotFound)
}

impl Tax {
    fn read(params: &Params, dialect: Dialect, facts: &Facts, switches: Switches) -> Result<Self, Fault> {
        if params.filled("tax_id").is_some() {
            return facts.tax.map(Self::Row).ok_or(Fault::NotFound("TAX"));
        }
        let text = |name: &str| short_enough(cut(params.get(name).unwrap_or_default(), dialect), "TAX name");
        let or = |text: String, otherwise: &str| if text.trim().is_empty() { otherwise.to_owned() } else { text };
        let total = or(text("total_tax_name")?, "TAX");
        let first = or(text("tax1_name")?, &total);
        let value = |name| number::decimal(params.get(name).unwrap_or_default());
        let values = ["tax1_value", "tax2_value", "tax3_value", "tax4_value"].map(value);
        if values.iter().any(|value| *value < 0) && !dialect.takes_any_amount() {
            return Err(Fault::Invalid("Invalid TAX value"));
        }
        Ok(Self::Values(Box::new(TaxValues {
            total_name: total,
            names: [first, text("tax2_name")?, text("tax3_name")?, text("tax4_name")?],
            values,
            switches,
        })))
    }
}

/// A number that isn't negative; `otherwise` where it is blank. An x7 server reads what it can.
fn amount(
    params: &Params,
    dialect: Dialect,
    name: &str,
    otherwise: i32,
    words: &'static str,
) -> Result<BigDecimal, Fault> {
    let Some(text) = params.filled(name) else { return Ok(otherwise.into()) };
    let amount = number::decimal(text);
    let proper = number::is_decimal(text) && amount >= 0 && amount < LARGEST_AMOUNT;
    if proper || dialect.takes_any_amount() { Ok(amount) } else { Err(Fault::Invalid(words)) }
}

fn pin_length(params: &Params, dialect: Dialect) -> Result<i32, Fault> {
    let Some(text) = params.filled("pin_length") else { return Ok(6) };
    let lenient = dialect.takes_any_amount();
    let allowed = |byte: u8| byte.is_ascii_digit() || lenient && matches!(byte, b'-' | b'.');
    if !text.bytes().all(allowed) {
        return Err(Fault::PinLengthNotDigits);
    }
    match number::integer(text) {
        0 => Err(Fault::PinLengthZero),
        length @ 1..=30 => Ok(clamped(length)),
        _ => Err(Fault::PinLengthOutOfRange),
    }
}

fn number_length(params: &Params, dialect: Dialect) -> Result<i32, Fault> {
    let Some(text) = params.filled("number_length") else { return Ok(10) };
    match number::integer(text) {
        length if dialect.takes_any_amount() => Ok(clamped(length)),
        length @ 1..=30 if number::is_decimal(text) => Ok(clamped(length)),
        _ => Err(Fault::NumberLengthOutOfRange),
    }
}

/// The tax row and the group, in one transaction. Amounts lose their taxes and become the system's currency here, where
/// division is exact.
async fn create(call: &Call, group: &Group) -> Result<(), Fault> {
    let mut transaction = call.app.pool.begin().await?;
    let tax = match &group.tax {
        Tax::Row(id) => {
            sqlx::query_scalar!(r#"select copy_taxes(t) as "id!" from taxes t where id = $1"#, id)
                .fetch_one(&mut *transaction)
                .await?
        }
        Tax::Values(tax) => {
            let TaxValues { total_name, names, values, switches } = &**tax;
            sqlx::query_scalar!(
                "insert into taxes (total_tax_name, tax1_name, tax2_name, tax3_name, tax4_name,
                     tax1_value, tax2_value, tax3_value, tax4_value, tax1_enabled, tax2_enabled, tax3_enabled, tax4_enabled, compound_tax)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) returning id",
                total_name,
                names[0],
                names[1],
                names[2],
                names[3],
                values[0],
                values[1],
                values[2],
                values[3],
                switches.enabled[0],
                switches.enabled[1],
                switches.enabled[2],
                switches.enabled[3],
                switches.compound
            )
            .fetch_one(&mut *transaction)
            .await?
        }
    };
    sqlx::query!(
        "insert into cardgroups (name, description, owner_id, tax_id, tariff_id, lcr_id, location_id, tell_balance_in_currency,
             use_external_function, allow_loss_calls, tell_cents, solo_pinless, disable_voucher, callerid_leave,
             disable_topup_from_cards_with_cid, created_at, valid_from, valid_till, valid_after_first_use, pin_length, number_length,
             ghost_min_perc, ghost_balance_perc, price, setup_fee, daily_charge)
         select $1, $2, $3, $4, $5, $6, $7, $8, $9::smallint, $10, $11, $12, $13, $14, $15, now() at time zone 'utc',
             to_timestamp($16::bigint) at time zone 'utc', to_timestamp($17::bigint) at time zone 'utc', $18, $19, $20, $21, $22,
             quotient($23::numeric, $26::numeric * case when $27 then 1 + tax_share(t) else 1 end),
             quotient($24::numeric, $26::numeric), quotient($25::numeric, $26::numeric)
         from taxes t where t.id = $4",
        group.name,
        group.description,
        group.owner,
        tax,
        group.tariff,
        group.lcr,
        group.location,
        group.currency,
        group.flags[0],
        group.flags[1],
        group.flags[2],
        group.flags[3],
        group.flags[4],
        group.flags[5],
        group.flags[6],
        group.valid_from,
        group.valid_till,
        group.valid_after_first_use,
        group.pin_length,
        group.number_length,
        group.ghost_min_perc,
        group.ghost_balance_perc,
        group.price,
        group.setup_fee,
        group.daily_charge,
        group.rate,
        call.dialect().takes_taxes_off_prices()
    )
    .execute(&mut *transaction)
    .await
    .map_err(on_constraint("cardgroups_name", Fault::CardGroupNameTaken, Fault::from))?;
    transaction.commit().await.map_err(Fault::of_commit)?;
    Ok(())
}
