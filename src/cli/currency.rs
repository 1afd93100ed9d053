//! `mortise currency`: currencies and their rates.

use bigdecimal::BigDecimal;
use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use super::database::with_database;
use super::{AuditEntry, CommandError, Report};
use crate::config::Config;
use crate::money::Money;
use crate::number;

/// The system's own currency.
const SYSTEM_CURRENCY_ID: i32 = 1;

/// What to do with currencies.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the currencies; the first is the system's own
    List,
    /// Add a currency
    Add {
        /// Its name, up to five letters: EUR
        name: String,
        /// How many of it one unit of the system's currency is worth
        #[arg(value_parser = parse_rate)]
        rate: BigDecimal,
        /// Its name in full
        #[arg(long, value_name = "NAME", default_value = "")]
        full_name: String,
    },
    /// Change a currency's rate, or switch it on or off
    Set {
        /// Its name
        name: String,
        /// How many of it one unit of the system's currency is worth
        #[arg(long, value_parser = parse_rate)]
        rate: Option<BigDecimal>,
        /// Whether it can be paid in
        #[arg(long)]
        active: Option<Active>,
    },
}

/// Whether a currency can be paid in.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Active {
    On,
    Off,
}

/// A rate is more than 0, and fits its column.
fn parse_rate(text: &str) -> Result<BigDecimal, String> {
    let rate = number::parse_decimal(text);
    let fits = number::is_decimal(text) && rate > 0 && rate < 1_000_000_000;
    if fits { Ok(rate) } else { Err("a rate looks like 0.9174, and is more than 0".to_owned()) }
}

/// Does it.
pub async fn run(command: &Command, config: &Config) -> Result<Report, CommandError> {
    match command {
        Command::List => list(config).await,
        Command::Add { name, rate, full_name } => add(name, rate, full_name, config).await,
        Command::Set { name, rate, active } => set(name, rate.as_ref(), *active, config).await,
    }
}

#[derive(Debug, Serialize)]
struct CurrencyRow {
    id: i32,
    name: String,
    full_name: Option<String>,
    exchange_rate: Money,
    active: bool,
    last_update: String,
}

async fn list(config: &Config) -> Result<Report, CommandError> {
    let currencies = with_database(config, async |pool| {
        let currencies = sqlx::query_as!(
            CurrencyRow,
            r#"select id, name, full_name, coalesce(exchange_rate, 1) as "exchange_rate!: Money", active = 1 as "active!",
                   to_char(last_update, 'YYYY-MM-DD HH24:MI:SS') as "last_update!"
               from currencies order by id"#
        );
        Ok(currencies.fetch_all(pool).await?)
    })
    .await?;
    Ok(Report::table(["ID", "NAME", "RATE", "ACTIVE", "LAST UPDATE", "FULL NAME"], &currencies, |currency| {
        [
            currency.id.to_string(),
            currency.name.clone(),
            currency.exchange_rate.to_plain_string(),
            if currency.active { "yes" } else { "no" }.to_owned(),
            currency.last_update.clone(),
            currency.full_name.clone().unwrap_or_default(),
        ]
    }))
}

async fn add(name: &str, rate: &BigDecimal, full_name: &str, config: &Config) -> Result<Report, CommandError> {
    if !(1..=5).contains(&name.len()) || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(CommandError::Usage("a currency's name has one to five letters".to_owned()));
    }
    with_database(config, async |pool| {
        let mut change = pool.begin().await?;
        sqlx::query!("lock table currencies in share row exclusive mode").execute(&mut *change).await?;
        let added = sqlx::query_scalar!(
            "insert into currencies (name, full_name, exchange_rate)
             select $1, $2, $3 where not exists (select from currencies where lower(rtrim(name)) = lower($1))
             returning id",
            name,
            full_name,
            rate
        );
        let id = added.fetch_optional(&mut *change).await?;
        let id = id.ok_or_else(|| CommandError::Failed(format!("there is a currency {name} already")))?;
        let rate = Money::from(rate.clone()).to_plain_string();
        audit_entry("currency_created", id, name, &rate).record(&mut change).await?;
        change.commit().await?;
        Ok(Report::done(format!("The currency {name} was added, with the rate {rate}.")))
    })
    .await
}

async fn set(
    name: &str,
    rate: Option<&BigDecimal>,
    active: Option<Active>,
    config: &Config,
) -> Result<Report, CommandError> {
    if rate.is_none() && active.is_none() {
        return Err(CommandError::Usage("say what to change: --rate or --active".to_owned()));
    }
    let active = active.map(|active| i16::from(matches!(active, Active::On)));
    with_database(config, async |pool| {
        let mut change = pool.begin().await?;
        let changed = sqlx::query!(
            r#"update currencies set exchange_rate = coalesce($2, exchange_rate), active = coalesce($3, active),
                   last_update = now() at time zone 'utc'
               where lower(rtrim(name)) = lower(rtrim($1))
               returning id, name, coalesce(exchange_rate, 1) as "rate!: Money", active = 1 as "active!""#,
            name,
            rate,
            active
        );
        let missing =
            || CommandError::NotFound(format!("there is no currency {name}: `mortise currency list` shows all"));
        let changed = changed.fetch_optional(&mut *change).await?.ok_or_else(missing)?;
        if changed.id == SYSTEM_CURRENCY_ID {
            let words = format!("{name} is the system's own currency: its rate is 1, and it is always active");
            return Err(CommandError::Failed(words));
        }
        let (rate, state) = (changed.rate.to_plain_string(), if changed.active { "on" } else { "off" });
        audit_entry("currency_changed", changed.id, &changed.name, &format!("{rate} {state}"))
            .record(&mut change)
            .await?;
        change.commit().await?;
        Ok(Report::done(format!("{} has the rate {rate} and is {state} now.", changed.name)))
    })
    .await
}

fn audit_entry<'a>(action: &'a str, id: i32, name: &'a str, data2: &'a str) -> AuditEntry<'a> {
    AuditEntry { action, target_type: "Currency", target_id: id.into(), data: name, data2, ..AuditEntry::default() }
}
