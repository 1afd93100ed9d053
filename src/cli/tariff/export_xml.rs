//! `mortise tariff export --format xml`: the text of `tariff_rates_get`.

use std::io::Write;
use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::PgPool;

use super::{Tariff, price_bar};
use crate::accounts::AccountCache;
use crate::cli::CommandError;
use crate::cli::database::begin_read_only;
use crate::config::{Config, OnOff};
use crate::operations::tariff::rates::{self, RateTextFormat, text_chunks};

/// Writes the list of rates that the admin gets from the API. Returns the number of prices.
pub(super) async fn export_xml(
    pool: &PgPool,
    tariff_id: i64,
    config: &Config,
    mut output: impl Write,
) -> Result<u64, CommandError> {
    let settings = AccountCache::new(pool.clone().into(), OnOff::Off).settings(0).await?;
    let format = RateTextFormat {
        nice_digits: settings.nice_digits(),
        shows_effective_from: config.dialect.shows_effective_from(),
    };
    let mut transaction = begin_read_only(pool).await?;
    let tariff = Tariff::find(&mut *transaction, tariff_id).await?;
    let prices = sqlx::query_scalar!(
        r#"select count(*) as "prices!" from rates r
           left join aratedetails a on a.rate_id = r.id and $2
           left join ratedetails p on p.rate_id = r.id and not $2
           where r.tariff_id = $1"#,
        tariff_id,
        tariff.is_retail()
    );
    let bar = price_bar(prices.fetch_one(&mut *transaction).await?);
    transaction.rollback().await?;
    let mut connection = pool.acquire().await?;
    let list = rates::find(&mut connection, tariff_id).await?.ok_or(sqlx::Error::RowNotFound)?;
    let mut text = pin!(text_chunks(&mut *connection, list, format, Duration::ZERO));
    let mut written = 0;
    while let Some(chunk) = text.try_next().await? {
        output.write_all(&chunk)?;
        // A chunk ends between two prices.
        written += String::from_utf8_lossy(&chunk).matches("</rate>").count() as u64;
        bar.set_position(written);
    }
    bar.finish_and_clear();
    Ok(written)
}
