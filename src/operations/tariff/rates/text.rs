//! The text of a list of rates, byte for byte as MOR writes it: it has its own spaces and line ends.

use std::mem;
use std::ops::DerefMut;
use std::time::Duration;

use async_stream::try_stream;
use futures_util::{Stream, TryStreamExt};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::RateList;
use crate::money::Money;
use crate::xml::{CHUNK_BYTES, push_fully_escaped};

/// How the text shows amounts and dates.
#[derive(Debug, Clone, Copy)]
pub struct RateTextFormat {
    /// The decimals of wholesale prices.
    pub nice_digits: usize,
    /// Whether wholesale rates have the element `effective_from`.
    pub shows_effective_from: bool,
}

/// Writes the list in chunks of at least 64 KiB, except the head, which comes before the statement runs, and the end.
/// One read-only statement reads all rates. `timeout`: the statement timeout in the database; zero: none.
///
/// # Errors
///
/// Database errors, also after the first chunk.
pub fn text_chunks<C: DerefMut<Target = PgConnection> + Send>(
    mut connection: C,
    list: RateList,
    format: RateTextFormat,
    timeout: Duration,
) -> impl Stream<Item = sqlx::Result<Vec<u8>>> + Send {
    // The statement reads and sorts a whole tariff, so it needs a plan for its size and all kinds of scans and joins.
    let begin = format!(
        "begin read only; set local plan_cache_mode = force_custom_plan; set local enable_seqscan = on;
         set local enable_bitmapscan = on; set local enable_hashjoin = on; set local enable_mergejoin = on;
         set local enable_sort = on; set local statement_timeout = {}",
        timeout.as_millis().min(i32::MAX as u128)
    );
    try_stream! {
        let mut text = Text::default();
        let mut transaction = connection.begin_with(AssertSqlSafe(begin)).await?;
        if list.is_retail {
            let custom_user = list.custom_rates.as_ref().map(|custom| custom.user_id);
            let mut writer = RetailWriter::begin(&mut text, &list);
            yield text.take_chunk();
            let mut rows = sqlx::query_file_as!(
                RetailRow, "src/operations/tariff/rates/retail.sql", list.tariff_id, custom_user
            )
            .fetch(&mut *transaction);
            while let Some(row) = rows.try_next().await? {
                writer.write(&mut text, &list, &row);
                if text.is_full() {
                    yield text.take_chunk();
                }
            }
            writer.end(&mut text, &list);
        } else {
            begin_wholesale(&mut text, &list);
            yield text.take_chunk();
            let mut rows =
                sqlx::query_file_as!(WholesaleRow, "src/operations/tariff/rates/wholesale.sql", list.tariff_id)
                    .fetch(&mut *transaction);
            while let Some(row) = rows.try_next().await? {
                write_wholesale(&mut text, &row, format);
                if text.is_full() {
                    yield text.take_chunk();
                }
            }
            text.push("</rates></page>");
        }
        transaction.commit().await?;
        yield text.take_chunk();
    }
}

/// The text that was not yet sent.
#[derive(Debug, Default)]
struct Text(String);

impl Text {
    fn push(&mut self, text: &str) {
        self.0.push_str(text);
    }

    fn is_full(&self) -> bool {
        self.0.len() >= CHUNK_BYTES
    }

    fn take_chunk(&mut self) -> Vec<u8> {
        // One rate more than a chunk fits without a second allocation.
        mem::replace(&mut self.0, String::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8)).into_bytes()
    }

    /// Begins a line.
    fn indent(&mut self, indent: usize) {
        const SPACES: &str = "                                        ";
        self.0.push('\n');
        self.push(&SPACES[..indent]);
    }

    /// Writes an element on a line of its own.
    fn line(&mut self, name: &str, indent: usize, value: Option<&str>) {
        self.indent(indent);
        self.element(name, value);
    }

    fn element(&mut self, name: &str, value: Option<&str>) {
        for part in ["<", name, ">"] {
            self.push(part);
        }
        push_fully_escaped(&mut self.0, value.unwrap_or_default());
        for part in ["</", name, ">"] {
            self.push(part);
        }
    }

    /// Begins the description of a tariff, or of a user's custom rates.
    fn tariff(&mut self, indent: usize, name: &str, purpose: &str, currency: Option<&str>) {
        self.line("tariff_name", indent, Some(name));
        self.line("purpose", indent, Some(purpose));
        self.line("currency", indent, currency);
    }
}

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>";

/// A price of a wholesale rate. All columns of a price are `None` for a rate without prices.
#[derive(Debug)]
struct WholesaleRow {
    direction: Option<String>,
    destination: Option<String>,
    prefix: String,
    code: Option<String>,
    rate: Option<f64>,
    connection_fee: Option<f64>,
    increment_s: Option<i32>,
    min_time: Option<i32>,
    start_time: Option<String>,
    end_time: Option<String>,
    daytype: Option<String>,
    effective_from: Option<String>,
}

fn begin_wholesale(text: &mut Text, list: &RateList) {
    text.push(DECLARATION);
    text.indent(17);
    text.push("<page>           <pagename>Tariff</pagename>");
    text.tariff(37, &list.name, &list.purpose, list.currency.as_deref());
    text.indent(36);
    text.push("<rates>");
}

fn write_wholesale(text: &mut Text, row: &WholesaleRow, format: RateTextFormat) {
    let nice = |amount: Option<f64>| amount.map(|amount| format!("{amount:.*}", format.nice_digits));
    text.push("<rate>");
    text.line("direction", 39, row.direction.as_deref());
    text.line("destination", 39, row.destination.as_deref());
    text.line("prefix", 39, Some(&row.prefix));
    text.line("code", 39, row.code.as_deref());
    text.line("tariff_rate", 39, nice(row.rate).as_deref());
    text.line("con_fee", 39, nice(row.connection_fee).as_deref());
    text.line("increment", 39, integer(row.increment_s).as_deref());
    text.line("min_time", 39, integer(row.min_time).as_deref());
    text.line("start_time", 39, row.start_time.as_deref());
    text.line("end_time", 39, row.end_time.as_deref());
    text.line("daytype", 39, row.daytype.as_deref());
    if format.shows_effective_from {
        text.line("effective_from", 39, row.effective_from.as_deref());
    }
    text.indent(39);
    text.push("</rate>");
}

fn integer(value: Option<i32>) -> Option<String> {
    value.map(|value| value.to_string())
}

/// A price of a retail rate, or of a custom rate. All columns of a price are `None` for a rate without prices.
#[derive(Debug)]
struct RetailRow {
    is_custom: bool,
    rate_id: i64,
    group_name: Option<String>,
    from_second: Option<i32>,
    duration: Option<i32>,
    artype: Option<String>,
    round: Option<i32>,
    price: Option<Money>,
    start_time: Option<String>,
    end_time: Option<String>,
    daytype: Option<String>,
}

/// Writes the custom rates, if there are any, and then the rates of the tariff.
#[derive(Debug)]
struct RetailWriter {
    in_custom_part: bool,
    /// The rate whose `<destination>` is open.
    open_rate: Option<i64>,
}

impl RetailWriter {
    fn begin(text: &mut Text, list: &RateList) -> Self {
        text.push(DECLARATION);
        text.indent(17);
        text.push("<page>");
        match &list.custom_rates {
            Some(custom) => {
                text.line("pagename", 18, Some("Tariff"));
                text.tariff(18, "Custom Rates", &list.purpose, custom.currency.as_deref());
                text.push("\n\t          <rates>");
            }
            None => begin_retail_tariff(text, list),
        }
        Self { in_custom_part: list.custom_rates.is_some(), open_rate: None }
    }

    fn write(&mut self, text: &mut Text, list: &RateList, row: &RetailRow) {
        if self.in_custom_part && !row.is_custom {
            self.end_custom_part(text, list);
        }
        if self.open_rate != Some(row.rate_id) {
            self.end_rate(text);
            text.push(" <destination> ");
            text.element("destination_group_name", row.group_name.as_deref());
            self.open_rate = Some(row.rate_id);
        }
        let duration = match row.duration {
            Some(-1) => Some("Infinity".to_owned()),
            seconds => integer(seconds),
        };
        let (space, indent) = if row.is_custom { ("", 20) } else { (" ", 18) };
        text.push("<rate>");
        text.push(space);
        text.element("duration", duration.as_deref());
        text.push(space);
        text.element("type", row.artype.as_deref());
        text.line("round_by", indent, integer(row.round).as_deref());
        text.line("tariff_rate", indent, row.price.as_ref().map(Money::to_plain_string).as_deref());
        text.line("start_time", indent, row.start_time.as_deref());
        text.line("end_time", indent, row.end_time.as_deref());
        text.line("daytype", indent, row.daytype.as_deref());
        text.line("from", indent, integer(row.from_second).as_deref());
        text.indent(indent);
        text.push("</rate>");
    }

    fn end_rate(&mut self, text: &mut Text) {
        if self.open_rate.take().is_some() {
            text.push(if self.in_custom_part { "</destination>" } else { " </destination>" });
        }
    }

    fn end_custom_part(&mut self, text: &mut Text, list: &RateList) {
        self.end_rate(text);
        text.push("</rates>");
        self.in_custom_part = false;
        begin_retail_tariff(text, list);
    }

    fn end(mut self, text: &mut Text, list: &RateList) {
        if self.in_custom_part {
            self.end_custom_part(text, list);
        }
        self.end_rate(text);
        text.push("</rates></page>");
    }
}

fn begin_retail_tariff(text: &mut Text, list: &RateList) {
    text.line("pagename", 28, Some("Tariff"));
    text.tariff(28, &list.name, &list.purpose, list.currency.as_deref());
    text.indent(28);
    text.push("<rates>");
}
