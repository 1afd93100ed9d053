//! The rows of an import in the database: the tariff, the destination groups, the rates.

use std::borrow::Cow;
use std::collections::HashMap;

use futures_util::TryStreamExt;
use sqlx::PgConnection;

use crate::error::ApiError;
use crate::operations::tariff::retail_import::document::DESTINATION_RATES_MAX;
use crate::operations::tariff::retail_import::fields::{DayType, Time, TimeRange};
use crate::operations::tariff::retail_import::rules::{NewRow, RowChain};

/// Chains of one rate, as many as rates of one destination: each rate of the document is compared with each chain.
const RATE_CHAINS_MAX: usize = DESTINATION_RATES_MAX;
/// Chains of the rates of a batch. All are in memory.
const CHAINS_MAX: usize = 500_000;

/// A tariff, locked until the end of the transaction.
#[derive(Debug)]
#[expect(missing_docs, reason = "named like the columns")]
pub struct Tariff {
    pub id: i64,
    pub name: String,
    pub owner_id: Option<i32>,
    pub purpose: String,
}

/// Locks the tariff with this id. Waits up to `lock_timeout` for it, and so do the statements that follow.
pub async fn lock_tariff(
    connection: &mut PgConnection,
    id: i64,
    lock_timeout: &str,
) -> Result<Option<Tariff>, ApiError> {
    sqlx::query!("select set_config('lock_timeout', $1, true)", lock_timeout).fetch_one(&mut *connection).await?;
    let tariff =
        sqlx::query_as!(Tariff, "select id, name, owner_id, purpose from tariffs where id = $1 for update", id)
            .fetch_optional(connection)
            .await?;
    Ok(tariff)
}

/// Creates a retail tariff, and returns its id.
///
/// # Errors
///
/// [`ApiError::ImportRefused`] if the owner has a tariff of this name, also one that another request creates now.
pub async fn create_tariff(
    connection: &mut PgConnection,
    name: &str,
    owner_id: i32,
    currency: Option<&str>,
) -> Result<i64, ApiError> {
    let created = sqlx::query_scalar!(
        "insert into tariffs (name, purpose, owner_id, currency, code_deck_id, last_update_date)
         values ($1, 'user', $2, $3, 1, now() at time zone 'utc')
         on conflict on constraint tariffs_owner_name do nothing returning id",
        name,
        owner_id,
        currency
    )
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(id) = created {
        return Ok(id);
    }
    let id = sqlx::query_scalar!("select id from tariffs where owner_id = $1 and name = $2", owner_id, name)
        .fetch_optional(connection)
        .await?
        // It was deleted or renamed in between.
        .ok_or(ApiError::TransactionFailed)?;
    let message = format!("TARIFF with same name exists, ID:{id}!!! CHANGE NAME OR ID");
    Err(ApiError::ImportRefused(Cow::Owned(message)))
}

/// Returns the rate of each destination group that the tariff has one for. Read once: for each batch, a plan made
/// before the tariff had rates would read all of them again.
pub async fn load_rates(connection: &mut PgConnection, tariff_id: i64) -> sqlx::Result<HashMap<i32, i64>> {
    let mut rows = sqlx::query!(
        r#"select destinationgroup_id as "group_id!", min(id) as "rate_id!" from rates
           where tariff_id = $1 and destinationgroup_id is not null group by destinationgroup_id"#,
        tariff_id
    )
    .fetch(connection);
    let mut rates = HashMap::new();
    while let Some(row) = rows.try_next().await? {
        rates.insert(row.group_id, row.rate_id);
    }
    Ok(rates)
}

/// Returns the ids of the destination groups with these names, in their order.
pub async fn find_groups(connection: &mut PgConnection, names: &[String]) -> sqlx::Result<Vec<Option<i32>>> {
    sqlx::query_file_scalar!("src/operations/tariff/retail_import/find_groups.sql", names).fetch_all(connection).await
}

/// Returns the chains of the rows of rates, each with the id of its rate.
///
/// # Errors
///
/// [`ApiError::ImportRefused`] if a rate has more than `RATE_CHAINS_MAX`, or all together `CHAINS_MAX`; those of
/// the database.
pub async fn load_chains(connection: &mut PgConnection, rate_ids: &[i64]) -> Result<Vec<(i64, RowChain)>, ApiError> {
    let mut rows = sqlx::query_file!("src/operations/tariff/retail_import/load_chains.sql", rate_ids).fetch(connection);
    let (mut loaded, mut of_rate) = (Vec::new(), HashMap::new());
    while let Some(row) = rows.try_next().await? {
        let count = of_rate.entry(row.rate_id).or_insert(0);
        *count += 1;
        if *count > RATE_CHAINS_MAX || loaded.len() == CHAINS_MAX {
            return Err(ApiError::ImportRefused(Cow::Borrowed("Too many rates")));
        }
        let times = row.start_s.and_then(Time::from_seconds).zip(row.end_s.and_then(Time::from_seconds));
        let chain = RowChain {
            // A check of the table allows no other texts.
            day_type: DayType::parse(&row.day_type).unwrap_or(DayType::EveryDay),
            range: times.map(|(start, end)| TimeRange { start, end }),
            next_from: row.next_from,
            is_endless: row.is_endless,
        };
        loaded.push((row.rate_id, chain));
    }
    Ok(loaded)
}

/// Creates rates for destination groups, and returns the ids of group and rate.
pub async fn insert_rates(
    connection: &mut PgConnection,
    tariff_id: i64,
    groups: &[i32],
) -> sqlx::Result<Vec<(i32, i64)>> {
    let rates = sqlx::query!(
        r#"insert into rates (tariff_id, destination_id, destinationgroup_id, ghost_min_perc)
           select $1, 0, id, 0 from unnest($2::integer[]) with ordinality as sent (id, position) order by position
           returning destinationgroup_id as "group_id!", id"#,
        tariff_id,
        groups
    )
    .fetch_all(connection)
    .await?;
    Ok(rates.into_iter().map(|rate| (rate.group_id, rate.id)).collect())
}

/// Creates rows of rates, in this order.
pub async fn insert_rows(connection: &mut PgConnection, rows: &[(i64, NewRow)]) -> sqlx::Result<()> {
    let rates = || rows.iter().map(|(_, row)| &row.rate);
    let rate_ids: Vec<i64> = rows.iter().map(|(rate_id, _)| *rate_id).collect();
    let froms: Vec<i32> = rows.iter().map(|(_, row)| row.from).collect();
    let durations: Vec<i32> = rates().map(|rate| rate.duration).collect();
    let are_minutes: Vec<bool> = rates().map(|rate| rate.is_minute).collect();
    let rounds: Vec<i32> = rates().map(|rate| rate.round).collect();
    let prices: Vec<String> = rates().map(|rate| rate.price.clone()).collect();
    let ranges: Vec<String> = rates().map(|rate| format!("{}-{}", rate.range.start, rate.range.end)).collect();
    let day_types: Vec<String> = rates().map(|rate| rate.day_type.as_text().to_owned()).collect();
    sqlx::query_file!(
        "src/operations/tariff/retail_import/insert_rows.sql",
        &rate_ids,
        &froms,
        &durations,
        &are_minutes,
        &rounds,
        &prices,
        &ranges,
        &day_types
    )
    .execute(connection)
    .await?;
    Ok(())
}
