//! `mortise explain-hash`: explains why the hash of a request is refused, and which input the client hashed instead.

use clap::Args;

use super::database::with_database;
use super::{CommandError, Report};
use crate::accounts::AccountCache;
use crate::back_office::hash_explanation::{self, SentRequest};
use crate::config::{Config, OnOff};

/// The request to explain.
#[derive(Debug, Args)]
pub struct Options {
    /// The URL that the client sent, or its path and query
    url: String,
    /// The body of a POST: 'u=..&id=..&hash=..', or JSON
    #[arg(long, value_name = "BODY")]
    data: Option<String>,
}

/// Runs the command.
pub async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let sent = SentRequest { url: &options.url, body: options.data.as_deref() };
    let explanation = with_database(config, async |pool| {
        let accounts = AccountCache::new(pool.clone().into(), OnOff::Off);
        Ok(hash_explanation::explain(sent, pool, &accounts, config).await?)
    })
    .await?;
    let (text, is_valid) = (explanation.text(), explanation.valid);
    Ok(Report::new(text, explanation).fail_unless(is_valid))
}
