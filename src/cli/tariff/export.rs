//! `mortise tariff export`: writes the rates of a tariff to a file.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use futures_util::{Stream, TryStreamExt};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use super::export_xml::export_xml;
use super::{RETAIL_HEADINGS, Tariff, WHOLESALE_HEADINGS, price_bar};
use crate::cli::database::{begin_read_only, with_database};
use crate::cli::output_file::{OutputFile, csv_to_io_error};
use crate::cli::{CommandError, Report};
use crate::config::Config;
use crate::money::Money;

/// The tariff to export, and the file.
#[derive(Debug, Args)]
pub struct Options {
    /// The id of the tariff, as in `mortise tariff list`
    #[arg(value_name = "ID")]
    tariff: i64,
    /// The file to create, readable only by you
    file: PathBuf,
    /// CSV, as for `mortise tariff import`, or the XML of tariff_rates_get
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
}

/// The form of the file.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Csv,
    Xml,
}

/// Runs the command. Prices are streamed: the memory used does not depend on their number.
pub(super) async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let output = OutputFile::create(&options.file)?;
    let exported = with_database(config, async |pool| {
        if matches!(options.format, Format::Xml) {
            let prices = export_xml(pool, options.tariff, config, output.file()).await?;
            return Ok(Exported { prices, rates_left_out: 0 });
        }
        let mut transaction = begin_read_only(pool).await?;
        // The prices that are written are those that were counted and checked.
        sqlx::raw_sql("set transaction isolation level repeatable read").execute(&mut *transaction).await?;
        let tariff = Tariff::find(&mut *transaction, options.tariff).await?;
        match tariff.is_retail() {
            true => export_retail(&mut transaction, &tariff, output.file()).await,
            false => export_wholesale(&mut transaction, &tariff, output.file()).await,
        }
    });
    let Exported { prices, rates_left_out } = exported.await?;
    output.finish()?;
    let file = options.file.display();
    let mut text = format!("{prices} prices of the tariff {} were written to {file}.", options.tariff);
    if rates_left_out > 0 {
        text += &format!(
            "\nRates left out because their destination or destination group does not exist: {rates_left_out}."
        );
    }
    let json = json!({ "tariff": options.tariff, "prices": prices, "rates_left_out": rates_left_out,
        "output": options.file });
    Ok(Report::new(text, json))
}

/// What was written.
struct Exported {
    prices: u64,
    /// Rates whose destination or destination group does not exist.
    rates_left_out: i64,
}

/// A wholesale price as a CSV record.
#[derive(Debug, Serialize)]
struct WholesalePrice {
    prefix: String,
    rate: Money,
    connection_fee: Money,
    increment: i32,
    min_time: i32,
    effective_from: Option<String>,
}

/// Writes the rates whose destination exists.
async fn export_wholesale(
    connection: &mut PgConnection,
    tariff: &Tariff,
    output: impl Write,
) -> Result<Exported, CommandError> {
    let counted = sqlx::query!(
        r#"with listed as (
               select r.id, row_number() over (partition by r.destination_id, r.effective_from order by r.id) > 1 as is_repeated
               from rates r join destinations d on d.id = r.destination_id where r.tariff_id = $1
           ),
           priced as (
               select is_repeated or count(p.id) <> 1
                   or bool_or(p.start_time <> '00:00:00' or p.end_time <> '23:59:59' or p.daytype <> '') as does_not_fit
               from listed left join ratedetails p on p.rate_id = listed.id group by listed.id, is_repeated
           )
           select count(*) as "rates!", count(*) filter (where does_not_fit) as "unfit!",
               (select count(*) from rates r where r.tariff_id = $1
                   and not exists (select from destinations d where d.id = r.destination_id)) as "left_out!"
           from priced"#,
        tariff.id
    );
    let counted = counted.fetch_one(&mut *connection).await?;
    if counted.unfit > 0 {
        return Err(CommandError::Failed(format!(
            "a CSV file cannot hold {} of the {} rates of the tariff {}: each needs exactly one price, for the whole day \
             and all days, and a start of its own",
            counted.unfit, counted.rates, tariff.id
        )));
    }
    let prices = sqlx::query_as!(
        WholesalePrice,
        r#"select d.prefix, coalesce(p.rate, 0) as "rate!: Money", coalesce(p.connection_fee, 0) as "connection_fee!: Money",
               p.increment_s as increment, p.min_time, to_char(r.effective_from, 'YYYY-MM-DD HH24:MI:SS') as effective_from
           from rates r join destinations d on d.id = r.destination_id join ratedetails p on p.rate_id = r.id
           where r.tariff_id = $1
           order by d.prefix, r.effective_from nulls first, r.id"#,
        tariff.id
    );
    let prices = write_csv(WHOLESALE_HEADINGS, prices.fetch(connection), &price_bar(counted.rates), output).await?;
    Ok(Exported { prices, rates_left_out: counted.left_out })
}

/// A retail price as a CSV record.
#[derive(Debug, Serialize)]
struct RetailPrice {
    destination_group: String,
    price: Money,
    round_by: i32,
    duration: i32,
    #[serde(rename = "type")]
    artype: String,
    start_time: String,
    end_time: String,
    day_type: String,
}

/// Writes the prices whose destination group exists.
async fn export_retail(
    connection: &mut PgConnection,
    tariff: &Tariff,
    output: impl Write,
) -> Result<Exported, CommandError> {
    // The CSV file has no second from which a price applies: an import continues the prices of the same times and days.
    let counted = sqlx::query!(
        r#"with priced as (
               select p.*, g.name, r.effective_from,
                   g.id = (select min(id) from destinationgroups where fold_case(rtrim(name)) = fold_case(rtrim(g.name)))
                       as is_found_by_name,
                   max(p."from" + greatest(p.duration, 0)) over (
                       partition by g.id, coalesce(p.daytype, ''), p.start_time, p.end_time order by p."from", p.id
                       rows between unbounded preceding and 1 preceding) as next_from
               from rates r join destinationgroups g on g.id = r.destinationgroup_id
               left join aratedetails p on p.rate_id = r.id where r.tariff_id = $1
           )
           select count(*) as "prices!",
               count(*) filter (where num_nulls(name, "from", duration, artype, round, price, start_time, end_time) > 0
                   or effective_from is not null or not is_found_by_name
                   or greatest("from", 1) <> greatest(next_from, 1)) as "unfit!",
               (select count(*) from rates r where r.tariff_id = $1
                   and not exists (select from destinationgroups g where g.id = r.destinationgroup_id)) as "left_out!"
           from priced"#,
        tariff.id
    );
    let counted = counted.fetch_one(&mut *connection).await?;
    if counted.unfit > 0 {
        return Err(CommandError::Failed(format!(
            "a CSV file cannot hold {} of the {} prices of the tariff {}: a field is missing, the rate has a \
             start (effective_from), a destination group of the same name is found first, or the price does not follow that of the seconds before",
            counted.unfit, counted.prices, tariff.id
        )));
    }
    let prices = sqlx::query_as!(
        RetailPrice,
        r#"select g.name as "destination_group!", p.price as "price!: Money", p.round as "round_by!", p.duration as "duration!",
               p.artype as "artype!", p.start_time::text as "start_time!", p.end_time::text as "end_time!",
               coalesce(p.daytype, '') as "day_type!"
           from rates r join destinationgroups g on g.id = r.destinationgroup_id
           join aratedetails p on p.rate_id = r.id
           where r.tariff_id = $1
           order by fold_case(g.name) collate "C", g.id, coalesce(p.daytype, '') collate "C", p.start_time, p.end_time,
               p."from", p.id"#,
        tariff.id
    );
    let prices = write_csv(RETAIL_HEADINGS, prices.fetch(connection), &price_bar(counted.prices), output).await?;
    Ok(Exported { prices, rates_left_out: counted.left_out })
}

/// Writes the records as they come. Returns their number.
async fn write_csv<const N: usize>(
    headings: [&str; N],
    records: impl Stream<Item = sqlx::Result<impl Serialize>>,
    bar: &ProgressBar,
    output: impl Write,
) -> Result<u64, CommandError> {
    let mut csv = csv::WriterBuilder::new().has_headers(false).from_writer(BufWriter::new(output));
    csv.write_record(headings).map_err(csv_to_io_error)?;
    let mut records = std::pin::pin!(records);
    let mut written = 0;
    while let Some(record) = records.try_next().await? {
        csv.serialize(record).map_err(csv_to_io_error)?;
        written += 1;
        bar.inc(1);
    }
    csv.flush()?;
    bar.finish_and_clear();
    Ok(written)
}
