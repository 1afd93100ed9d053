//! `mortise cards generate`: creates cards in bulk.

use bigdecimal::BigDecimal;
use clap::Args;
use serde_json::json;

use crate::back_office::generate::{CardGeneration, GenerationError, parse_amount};
use crate::cli::database::with_database;
use crate::cli::{CommandError, Report, author, progress_bar};
use crate::config::Config;
use crate::input;

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
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = input::parse_column_text)]
    batch_number: String,
    /// The language of the cards' announcements
    #[arg(long, default_value = "en", value_parser = input::parse_column_text)]
    language: String,
}

impl From<GenerationError> for CommandError {
    fn from(error: GenerationError) -> Self {
        match error {
            GenerationError::FirstNumber(_) => Self::Usage(error.to_string()),
            GenerationError::NumbersUsedUp(_) => Self::Failed(error.to_string()),
            GenerationError::BackOffice(error) => error.into(),
            GenerationError::Api(error) => error.into(),
        }
    }
}

/// Runs the command, in one transaction.
pub(super) async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let Options { group, quantity, from, balance, batch_number, language } = options;
    let generation = CardGeneration {
        group: *group,
        quantity: *quantity,
        from: from.clone(),
        balance: balance.clone(),
        batch_number: batch_number.clone(),
        language: language.clone(),
    };
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        let bar = progress_bar((*quantity).into(), "creating cards");
        let created = generation.run(&mut transaction, &author(), |cards| bar.set_position(cards)).await?;
        transaction.commit().await?;
        bar.finish_and_clear();
        let (first, last) = (created.first, created.last);
        let text = format!("{quantity} cards were created in group {group}, with the numbers {first} to {last}.");
        Ok(Report::new(text, json!({ "group": group, "created": quantity, "first": first, "last": last })))
    })
    .await
}
