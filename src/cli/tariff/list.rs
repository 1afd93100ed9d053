//! `mortise tariff list`: shows all tariffs.

use serde::Serialize;

use crate::cli::database::{begin_read_only, with_database};
use crate::cli::{CommandError, Report};
use crate::config::Config;

/// A row of `mortise tariff list`.
#[derive(Debug, Serialize)]
struct TariffRow {
    id: i64,
    name: String,
    owner: Option<String>,
    purpose: String,
    currency: Option<String>,
    rates: i64,
}

/// Runs the command.
pub(super) async fn run(config: &Config) -> Result<Report, CommandError> {
    let tariffs = with_database(config, async |pool| {
        let mut transaction = begin_read_only(pool).await?;
        let tariffs = sqlx::query_as!(
            TariffRow,
            r#"with counted as materialized (select tariff_id, count(*) as rates from rates group by tariff_id)
               select t.id, t.name, u.username as "owner?", t.purpose, t.currency, coalesce(counted.rates, 0) as "rates!"
               from tariffs t left join users u on u.id = t.owner_id left join counted on counted.tariff_id = t.id
               order by t.id"#
        );
        Ok(tariffs.fetch_all(&mut *transaction).await?)
    })
    .await?;
    let headings = ["ID", "NAME", "OWNER", "PURPOSE", "CURRENCY", "RATES"];
    Ok(Report::table(headings, &tariffs, |tariff| {
        [
            tariff.id.to_string(),
            tariff.name.clone(),
            tariff.owner.clone().unwrap_or_default(),
            tariff.purpose.clone(),
            tariff.currency.clone().unwrap_or_default(),
            tariff.rates.to_string(),
        ]
    }))
}
