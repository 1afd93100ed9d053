//! `mortise cards generate`.

use bigdecimal::{BigDecimal, ToPrimitive};
use clap::Args;
use serde_json::json;
use sqlx::PgConnection;

use super::progress_bar;
use crate::cli::database::with_database;
use crate::cli::{AuditEntry, CommandError, Report};
use crate::config::Config;
use crate::error::ApiError;
use crate::money::AMOUNT_MAX_EXCLUSIVE;
use crate::number;
use crate::store::bulk_create::{self, CardRange, Group, NUMBER_LEN_MAX, PIN_LEN_MAX};

/// Which cards.
#[derive(Debug, Args)]
pub struct Options {
    /// The card group's id, as `mortise group list` shows it
    #[arg(long, value_name = "ID")]
    group: i32,
    /// How many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    quantity: u32,
    /// The first number [default: the one behind the group's highest]; numbers in use are passed over
    #[arg(long, value_name = "NUMBER")]
    from: Option<String>,
    /// What a card is worth, without tax, in the system's currency [default: the group's price]
    #[arg(long, value_name = "AMOUNT", value_parser = parse_amount)]
    balance: Option<BigDecimal>,
    /// By which the cards are known as a delivery
    #[arg(long, value_name = "TEXT", default_value = "")]
    batch_number: String,
    /// The language that the cards speak
    #[arg(long, default_value = "en")]
    language: String,
}

fn parse_amount(text: &str) -> Result<BigDecimal, String> {
    let amount = number::parse_decimal(text);
    let fits = number::is_decimal(text) && amount >= 0 && amount < AMOUNT_MAX_EXCLUSIVE;
    if fits { Ok(amount) } else { Err("an amount looks like 8.40, and isn't less than 0".to_owned()) }
}

/// Makes them in one transaction.
pub(super) async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    with_database(config, async |pool| {
        let mut change = pool.begin().await?;
        // With an operator's patience: a million cards take longer than any request may.
        sqlx::query!("select set_config('statement_timeout', '1h', true)").fetch_one(&mut *change).await?;
        bulk_create::lock_bulk_create(&mut change).await?;
        let group = Group::find(&mut *change, options.group.into(), None).await?;
        let missing = || format!("there is no card group {}: `mortise group list` shows all", options.group);
        let group = group.ok_or_else(|| CommandError::NotFound(missing()))?;
        let made = group.create_cards(&mut change, options).await?;
        let quantity = options.quantity.to_string();
        let numbers = format!("{} to {}", made.first, made.last);
        let deed = AuditEntry {
            action: "cards_created",
            target_type: "Cardgroup",
            target_id: group.id.into(),
            data: &quantity,
            data2: &numbers,
            data3: &options.batch_number,
        };
        deed.record(&mut change).await?;
        change.commit().await?;
        let text = format!("{quantity} cards were made in group {}, with numbers from {numbers}.", group.id);
        let json = json!({ "group": group.id, "made": options.quantity, "first": made.first, "last": made.last });
        Ok(Report::new(text, json))
    })
    .await
}

/// Numbers of the first and the last card.
struct CreatedNumbers {
    first: String,
    last: String,
}

impl Group {
    /// As many cards as were asked for, through ranges until there are enough: a range may have numbers in use.
    async fn create_cards(
        &self,
        connection: &mut PgConnection,
        options: &Options,
    ) -> Result<CreatedNumbers, CommandError> {
        self.check_pin_capacity(connection, options.quantity).await?;
        let bar = progress_bar(options.quantity.into(), "making cards");
        let end = BigDecimal::new(1.into(), -i64::from(self.number_length));
        let mut from = self.find_first_number(connection, options).await?;
        let before = max_card_id(connection).await?;
        let mut left = options.quantity;
        while left > 0 {
            let room = (&end - &from).to_u32().unwrap_or(u32::MAX);
            let range = self.range(options, from.clone(), left.min(room));
            if range.count == 0 {
                let words =
                    format!("there are no more numbers of {} digits: begin lower with --from", self.number_length);
                return Err(CommandError::Failed(words));
            }
            let done = u64::from(options.quantity - left);
            let made = range.create(connection, |count| bar.set_position(done + u64::from(count))).await?;
            left = left.saturating_sub(u32::try_from(made).unwrap_or(left));
            from += range.count;
        }
        bar.finish_and_clear();
        let made = sqlx::query_as!(
            CreatedNumbers,
            r#"select coalesce(min(number collate "C"), '') as "first!", coalesce(max(number collate "C"), '') as "last!"
               from cards where id > $1 and cardgroup_id = $2"#,
            before,
            self.id
        );
        Ok(made.fetch_one(connection).await?)
    }

    async fn check_pin_capacity(&self, connection: &mut PgConnection, quantity: u32) -> Result<(), CommandError> {
        let length = self.pin_length;
        let enough = length <= PIN_LEN_MAX && bulk_create::pin_capacity(length) >= quantity;
        let enough = match enough {
            true => bulk_create::check_pin_capacity(connection, length, quantity).await,
            false => Err(ApiError::PinTooShort),
        };
        enough.map_err(|fault| match fault {
            ApiError::PinTooShort => CommandError::Failed(format!(
                "{quantity} cards more, and over a fifth of all PINs of {length} digits would be in use, where they can be guessed: \
                 make a card group with longer PINs"
            )),
            fault => fault.into(),
        })
    }

    /// Without --from, behind the group's highest number; the first of a group has no zero in front.
    async fn find_first_number(
        &self,
        connection: &mut PgConnection,
        options: &Options,
    ) -> Result<BigDecimal, CommandError> {
        let length = usize::try_from(self.number_length).unwrap_or(0);
        if let Some(from) = &options.from {
            let fits = from.len() == length && length <= NUMBER_LEN_MAX && number::is_digits(from);
            let number = Some(from).filter(|_| fits).and_then(|from| from.parse().ok());
            return number.ok_or_else(|| CommandError::Usage(format!("numbers of this group have {length} digits")));
        }
        let highest = sqlx::query_scalar!(
            r#"select max(number collate "C") from cards
               where cardgroup_id = $1 and length(number) = $2 and number ~ '^[0-9]+$'"#,
            self.id,
            self.number_length
        );
        let highest: Option<BigDecimal> = highest.fetch_one(connection).await?.and_then(|number| number.parse().ok());
        let lowest = BigDecimal::new(1.into(), 1 - i64::from(self.number_length));
        Ok(highest.map_or(lowest, |highest| highest + 1))
    }

    fn range<'a>(&'a self, options: &'a Options, from: BigDecimal, count: u32) -> CardRange<'a> {
        CardRange {
            group: self,
            first_number: from,
            count,
            owner_id: self.owner_id,
            distributor_id: -1,
            balance: options.balance.as_ref().unwrap_or(&self.price),
            min_balance: BigDecimal::from(0),
            batch_number: &options.batch_number,
            language: &options.language,
        }
    }
}

async fn max_card_id(connection: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"select coalesce(max(id), 0) as "id!" from cards"#).fetch_one(connection).await
}
