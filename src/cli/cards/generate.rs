//! `mortise cards generate`: creates cards in bulk.

use bigdecimal::{BigDecimal, ToPrimitive};
use clap::Args;
use serde_json::json;
use sqlx::PgConnection;

use crate::cli::database::with_database;
use crate::cli::{CommandError, Report, author, progress_bar};
use crate::config::Config;
use crate::error::ApiError;
use crate::input;
use crate::money::AMOUNT_MAX_EXCLUSIVE;
use crate::number;
use crate::store::bulk_create::{self, CardRange, Group, NUMBER_LEN_MAX, PIN_LEN_MAX};
use crate::store::change_log::{Change, Target, What};

/// The cards to create.
#[derive(Debug, Args)]
pub struct Options {
    /// The id of the card group, as in `mortise group list`
    #[arg(long, value_name = "ID")]
    group: i32,
    /// The number of cards
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    quantity: u32,
    /// The first card number; numbers in use are skipped [default: the number after the group's highest]
    #[arg(long, value_name = "NUMBER")]
    from: Option<String>,
    /// The balance of a card, without tax, in the system's currency [default: the group's price]
    #[arg(long, value_name = "AMOUNT", value_parser = parse_amount)]
    balance: Option<BigDecimal>,
    /// The batch number of the cards
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = input::parse_name)]
    batch_number: String,
    /// The language of the cards' announcements
    #[arg(long, default_value = "en", value_parser = input::parse_name)]
    language: String,
}

fn parse_amount(text: &str) -> Result<BigDecimal, String> {
    let amount = number::parse_decimal(text);
    let fits = number::is_decimal(text) && amount >= 0 && amount < AMOUNT_MAX_EXCLUSIVE;
    if fits { Ok(amount) } else { Err("expected an amount of at least 0, such as 8.40".to_owned()) }
}

/// Runs the command, in one transaction.
pub(super) async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        // A million cards take longer than the timeout for requests.
        sqlx::query!("select set_config('statement_timeout', '1h', true)").fetch_one(&mut *transaction).await?;
        bulk_create::lock_bulk_create(&mut transaction).await?;
        let group = Group::find(&mut *transaction, options.group.into(), None).await?;
        let not_found = || format!("there is no card group {}: `mortise group list` shows all", options.group);
        let group = group.ok_or_else(|| CommandError::NotFound(not_found()))?;
        let created = group.create_cards(&mut transaction, options).await?;
        let after = json!({ "cards_created": options.quantity, "batch_number": options.batch_number });
        let change = Change {
            what: What::Card,
            target: Target::Cards { group: group.id, first: &created.first, last: &created.last },
            before: None,
            after: Some(after.to_string()),
        };
        change.record(&mut transaction, &author()).await?;
        transaction.commit().await?;
        let text = format!(
            "{} cards were created in group {}, with the numbers {} to {}.",
            options.quantity, group.id, created.first, created.last
        );
        let json =
            json!({ "group": group.id, "created": options.quantity, "first": created.first, "last": created.last });
        Ok(Report::new(text, json))
    })
    .await
}

/// The numbers of the first and the last card.
struct CreatedNumbers {
    first: String,
    last: String,
}

impl Group {
    /// Creates exactly `options.quantity` cards. Numbers in use are skipped: further ranges follow until the quantity
    /// is reached.
    async fn create_cards(
        &self,
        connection: &mut PgConnection,
        options: &Options,
    ) -> Result<CreatedNumbers, CommandError> {
        self.check_pin_capacity(connection, options.quantity).await?;
        let bar = progress_bar(options.quantity.into(), "creating cards");
        let end = BigDecimal::new(1.into(), -i64::from(self.number_length));
        let mut from = self.find_first_number(connection, options).await?;
        let last_id = max_card_id(connection).await?;
        let mut left = options.quantity;
        while left > 0 {
            let available = (&end - &from).to_u32().unwrap_or(u32::MAX);
            let range = self.range(options, from.clone(), left.min(available));
            if range.count == 0 {
                let message = format!("no more numbers of {} digits: start lower with --from", self.number_length);
                return Err(CommandError::Failed(message));
            }
            let done = u64::from(options.quantity - left);
            let created = range.create(connection, |count| bar.set_position(done + u64::from(count))).await?;
            left = left.saturating_sub(u32::try_from(created).unwrap_or(left));
            from += range.count;
        }
        bar.finish_and_clear();
        let created = sqlx::query_as!(
            CreatedNumbers,
            r#"select coalesce(min(number collate "C"), '') as "first!", coalesce(max(number collate "C"), '') as "last!"
               from cards where id > $1 and cardgroup_id = $2"#,
            last_id,
            self.id
        );
        Ok(created.fetch_one(connection).await?)
    }

    async fn check_pin_capacity(&self, connection: &mut PgConnection, quantity: u32) -> Result<(), CommandError> {
        let length = self.pin_length;
        let fits = length <= PIN_LEN_MAX && bulk_create::pin_capacity(length) >= quantity;
        let result = match fits {
            true => bulk_create::check_pin_capacity(connection, length, quantity).await,
            false => Err(ApiError::PinTooShort),
        };
        result.map_err(|error| match error {
            ApiError::PinTooShort => CommandError::Failed(format!(
                "{quantity} more cards would use more than a fifth of all PINs of {length} digits, \
                 and PINs could be guessed: create a card group with longer PINs"
            )),
            error => error.into(),
        })
    }

    /// Returns the number in `--from`, else the one after the group's highest. The first number of a group has no
    /// leading zero.
    async fn find_first_number(
        &self,
        connection: &mut PgConnection,
        options: &Options,
    ) -> Result<BigDecimal, CommandError> {
        let length = usize::try_from(self.number_length).unwrap_or(0);
        if let Some(from) = &options.from {
            let fits = from.len() == length && length <= NUMBER_LEN_MAX && number::is_digits(from);
            let number = Some(from).filter(|_| fits).and_then(|from| from.parse().ok());
            return number
                .ok_or_else(|| CommandError::Usage(format!("the numbers of this group have {length} digits")));
        }
        let highest = sqlx::query_scalar!(
            r#"select max(number collate "C") from cards
               where cardgroup_id = $1 and hidden = 0 and quarantined_at is null and length(number) = $2 and number ~ '^[0-9]+$'"#,
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
