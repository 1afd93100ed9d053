//! `mortise currency`: manages currencies and exchange rates.

use bigdecimal::BigDecimal;
use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use super::database::with_database;
use super::{CommandError, Report, author};
use crate::accounts::SYSTEM_CURRENCY_ID;
use crate::config::Config;
use crate::input;
use crate::money::Money;
use crate::number;
use crate::store::change_log::{RowChange, What};

/// Subcommands of `mortise currency`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List currencies; the first one is the system's currency
    List,
    /// Add a currency
    Add {
        /// The name, up to five letters or digits: EUR
        name: String,
        /// The amount of this currency that one unit of the system's currency is worth
        #[arg(value_parser = parse_rate)]
        rate: BigDecimal,
        /// The full name
        #[arg(long, value_name = "NAME", default_value = "", value_parser = input::parse_column_text)]
        full_name: String,
    },
    /// Change the rate of a currency, or enable or disable it
    Set {
        /// The name of the currency
        name: String,
        /// The amount of this currency that one unit of the system's currency is worth
        #[arg(long, value_parser = parse_rate)]
        rate: Option<BigDecimal>,
        /// Whether payments may use the currency
        #[arg(long)]
        active: Option<Active>,
    },
}

/// Whether payments may use a currency.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub enum Active {
    On,
    Off,
}

/// Parses a rate: above 0, and small enough for its column.
fn parse_rate(text: &str) -> Result<BigDecimal, String> {
    let rate = number::parse_decimal(text);
    let fits = number::is_decimal(text) && rate > 0 && rate < 1_000_000_000;
    if fits { Ok(rate) } else { Err("expected a rate above 0, such as 0.9174".to_owned()) }
}

/// Runs the command.
pub async fn run(command: &Command, config: &Config) -> Result<Report, CommandError> {
    match command {
        Command::List => list(config).await,
        Command::Add { name, rate, full_name } => add(name, rate, full_name, config).await,
        Command::Set { name, rate, active } => set(name, rate.as_ref(), *active, config).await,
    }
}

/// A row of `mortise currency list`.
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
        return Err(CommandError::Usage("a currency name has one to five letters or digits".to_owned()));
    }
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        sqlx::query!("lock table currencies in share row exclusive mode").execute(&mut *transaction).await?;
        let id = sqlx::query_scalar!(
            "insert into currencies (name, full_name, exchange_rate)
             select $1, $2, $3 where not exists (select from currencies where fold_case(rtrim(name)) = fold_case($1))
             returning id",
            name,
            full_name,
            rate
        );
        let id = id.fetch_optional(&mut *transaction).await?;
        let id = id.ok_or_else(|| CommandError::Failed(format!("the currency {name} already exists")))?;
        RowChange::created(What::Currency, id).record(&mut transaction, &author()).await?;
        let rate = Money::from(rate.clone()).to_plain_string();
        transaction.commit().await?;
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
        return Err(CommandError::Usage("nothing to change: give --rate or --active".to_owned()));
    }
    let active = active.map(|active| i16::from(matches!(active, Active::On)));
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        let not_found =
            || CommandError::NotFound(format!("there is no currency {name}: `mortise currency list` shows all"));
        let id = sqlx::query_scalar!(
            "select id from currencies where fold_case(rtrim(name)) = fold_case(rtrim($1)) order by id limit 1 for no key update",
            name
        );
        let id = id.fetch_optional(&mut *transaction).await?.ok_or_else(not_found)?;
        if id == SYSTEM_CURRENCY_ID {
            let message = format!("{name} is the system's currency: its rate is always 1, and it is always active");
            return Err(CommandError::Failed(message));
        }
        let change = RowChange::begin(&mut transaction, What::Currency, id).await?;
        let changed = sqlx::query!(
            r#"update currencies set exchange_rate = coalesce($2, exchange_rate), active = coalesce($3, active),
                   last_update = now() at time zone 'utc'
               where id = $1
               returning name, coalesce(exchange_rate, 1) as "rate!: Money", active = 1 as "active!""#,
            id,
            rate,
            active
        );
        let changed = changed.fetch_one(&mut *transaction).await?;
        change.record(&mut transaction, &author()).await?;
        let (rate, state) = (changed.rate.to_plain_string(), if changed.active { "on" } else { "off" });
        transaction.commit().await?;
        Ok(Report::done(format!("{} has the rate {rate} and is {state} now.", changed.name)))
    })
    .await
}
