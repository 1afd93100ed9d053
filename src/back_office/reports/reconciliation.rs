//! The comparison of a payment provider's list with the payments that have a reference. Both are compared in the
//! database, in temporary tables: the memory that this needs does not depend on their sizes.

use std::io::{self, BufRead, BufReader, Read};

use bigdecimal::BigDecimal;
use futures_util::TryStreamExt;
use serde::Serialize;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use super::period::{Days, Period};
use crate::back_office::BackOfficeError;
use crate::money::{AMOUNT_MAX_EXCLUSIVE, Money};
use crate::number;

/// Payments are found by indexes, also if the statistics are missing or old. (Temporary tables cannot be created in a
/// read-only transaction.)
const BEGIN: &str = "begin; set local plan_cache_mode = force_custom_plan; set local enable_bitmapscan = on;
    set local enable_hashjoin = on; set local enable_mergejoin = on; set local enable_sort = on; set local work_mem = '64MB'; set local statement_timeout = '1h'";
/// In bytes. A larger part of the list is sent to the database.
const BUFFER_LEN: usize = 256 * 1024;
/// Maximum number of refused lines in an error.
const BAD_LINES_MAX: usize = 100;
/// Maximum length of a line of the list, in bytes. With a quotation mark that is not closed, all of the list could be
/// one line.
const LINE_LEN_MAX: usize = 64 * 1024;
/// Maximum length of a reference, in characters, as in `payments.reference`.
const REFERENCE_LEN_MAX: usize = 255;
/// Maximum number of decimals of a listed amount.
const DECIMALS_MAX: i64 = 15;

/// The result of a comparison.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// The references that agree.
    pub matched: i64,
    /// The references of the list that no payment has.
    pub missing_here: i64,
    /// The references of payments that the list does not have.
    pub missing_in_list: i64,
    /// The references with different amounts.
    pub different: i64,
}

impl Summary {
    /// Whether something was compared, and nothing differs.
    pub fn is_equal(&self, span: &Span) -> bool {
        self.missing_here + self.missing_in_list + self.different == 0 && !span.is_empty()
    }
}

/// A reference that differs.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// `missing_here`, `missing_in_list` or `different`.
    pub result: String,
    /// The reference.
    pub reference: String,
    /// The currency of the amounts.
    pub currency: String,
    /// The sum of the list's amounts. `None`: the list does not have the reference.
    pub listed: Option<Money>,
    /// The sum of our payments with tax, less the refunds. `None`: no payment has the reference.
    pub paid: Option<Money>,
    /// The first line of the list with the reference.
    pub line: Option<i64>,
}

/// The payments that must be in the list.
#[derive(Debug, Serialize)]
pub struct Span {
    /// The first day; or the time of the first payment that the list names. `None`: it names no payment.
    pub from: Option<String>,
    /// The last day; or the time of the last payment that the list names.
    pub to: Option<String>,
    /// The IANA name of the time zone of both.
    pub time_zone: String,
    /// Whether both are days that the operator names.
    #[serde(skip)]
    pub has_days: bool,
}

/// A list that is being compared. Dropping it leaves nothing in the database.
#[derive(Debug)]
pub struct Reconciliation {
    transaction: Transaction<'static, Postgres>,
    /// The payments that must be in the list.
    pub span: Span,
}

impl Span {
    /// Whether no payment must be in the list: it names none, and no days are given.
    pub fn is_empty(&self) -> bool {
        self.from.is_none()
    }
}

impl Reconciliation {
    /// Reads the list, and compares it with the payments.
    ///
    /// `list`: CSV in UTF-8 with a header line. Of its columns, `reference`, `amount` and `currency` are read.
    ///
    /// `days`: the payments of these days must be in the list. `None`: those between the first and the last payment
    /// that the list names. A reference of the list may belong to a payment of any time.
    ///
    /// `user_id`: only the payments by this API user must be in the list. `None`: those of all.
    ///
    /// `owner_id`: payments for cards and users of other owners are ignored. `None`: none are.
    ///
    /// # Errors
    ///
    /// As [`Period::resolve`]; [`BackOfficeError::Refused`] with the bad lines of the list, or a line that is too long.
    pub async fn run(
        pool: &PgPool,
        list: impl Read,
        days: Option<&Days>,
        time_zone: &str,
        user_id: Option<i32>,
        owner_id: Option<i32>,
    ) -> Result<Self, BackOfficeError> {
        // Without days, only the time zone counts.
        let this_month = Days::ThisMonth;
        let period = Period::resolve(&mut *pool.acquire().await?, days.unwrap_or(&this_month), time_zone).await?;
        let mut transaction = pool.begin_with(BEGIN).await?;
        load(&mut transaction, list).await?;
        sqlx::raw_sql(include_str!("reconciliation_tables.sql")).execute(&mut *transaction).await?;
        let Period { from, to, time_zone, starts_at, ends_at, .. } = period;
        let (starts_at, ends_at, from, to) = match days {
            Some(_) => (Some(starts_at), Some(ends_at), Some(from), Some(to)),
            None => {
                let times = sqlx::query_as(include_str!("reconciliation_times.sql"));
                times.bind(&time_zone).bind(user_id).bind(owner_id).fetch_one(&mut *transaction).await?
            }
        };
        sqlx::query(include_str!("reconciliation.sql"))
            .bind(starts_at)
            .bind(ends_at)
            .bind(user_id)
            .bind(owner_id)
            .execute(&mut *transaction)
            .await?;
        let span = Span { from, to, time_zone, has_days: days.is_some() };
        Ok(Self { transaction, span })
    }

    /// Counts the results.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn summarize(&mut self) -> sqlx::Result<Summary> {
        let counts = sqlx::query_as::<_, (String, i64)>("select result, count(*) from compared group by result")
            .fetch_all(&mut *self.transaction)
            .await?;
        let mut summary = Summary::default();
        for (result, count) in counts {
            match result.as_str() {
                "matched" => summary.matched = count,
                "missing_here" => summary.missing_here = count,
                "missing_in_list" => summary.missing_in_list = count,
                _ => summary.different = count,
            }
        }
        Ok(summary)
    }

    /// Passes each difference to `on_difference`, in the order of the references.
    ///
    /// # Errors
    ///
    /// Those of `on_difference`, and database errors.
    pub async fn for_each_difference<Error: From<sqlx::Error>>(
        &mut self,
        mut on_difference: impl FnMut(Difference) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut rows = sqlx::query_as::<_, (String, String, String, Option<Money>, Option<Money>, Option<i64>)>(
            "select result, reference, currency, listed, paid, line from compared
             where result <> 'matched' order by reference, currency",
        )
        .fetch(&mut *self.transaction);
        while let Some((result, reference, currency, listed, paid, line)) = rows.try_next().await? {
            on_difference(Difference { result, reference, currency, listed, paid, line })?;
        }
        Ok(())
    }
}

/// The positions of the columns.
struct Columns {
    reference: usize,
    amount: usize,
    currency: usize,
}

impl Columns {
    fn find(header: &csv::StringRecord) -> Result<Self, BackOfficeError> {
        let find = |name: &str| {
            header.iter().position(|column| column.trim().eq_ignore_ascii_case(name)).ok_or_else(|| {
                let message =
                    format!("the first line of the list must name the column {name}: reference,amount,currency");
                BackOfficeError::Refused(message)
            })
        };
        Ok(Self { reference: find("reference")?, amount: find("amount")?, currency: find("currency")? })
    }

    /// Returns the values of a line, or the reason for which the line is bad.
    fn read<'a>(&self, record: &'a csv::StringRecord) -> Result<(&'a str, BigDecimal, String), &'static str> {
        let cell = |index| record.get(index).map(str::trim).unwrap_or_default();
        let (reference, amount, currency) = (cell(self.reference), cell(self.amount), cell(self.currency));
        if reference.is_empty() {
            return Err("it has no reference");
        }
        if reference.chars().count() > REFERENCE_LEN_MAX {
            return Err("the reference has more than 255 characters");
        }
        if !(1..=5).contains(&currency.chars().count()) {
            return Err("the currency is missing or has more than 5 letters");
        }
        let value = number::parse_decimal(amount);
        if !number::is_decimal(amount)
            || value.abs() >= AMOUNT_MAX_EXCLUSIVE
            || value.fractional_digit_count() > DECIMALS_MAX
        {
            return Err("the amount is not a decimal number such as 10.50");
        }
        Ok((reference, value, currency.to_uppercase()))
    }
}

/// Copies the list into the temporary table `listed`. A bad line ends the comparison after the whole list is read.
async fn load(connection: &mut PgConnection, list: impl Read) -> Result<(), BackOfficeError> {
    sqlx::raw_sql(
        "create temporary table listed (line bigint, reference text, amount numeric, currency text)
         on commit drop",
    )
    .execute(&mut *connection)
    .await?;
    let mut list = BufReader::new(list);
    let delimiter = find_delimiter(&mut list).map_err(|error| read_error(error.into(), 1))?;
    let list = LineLimit { list, left: LINE_LEN_MAX };
    let mut csv = csv::ReaderBuilder::new().flexible(true).delimiter(delimiter).from_reader(list);
    let columns = Columns::find(csv.headers().map_err(|error| read_error(error, 1))?)?;
    let mut copy = connection.copy_in_raw("copy listed from stdin with (format csv)").await?;
    let mut buffer = csv::Writer::from_writer(Vec::with_capacity(BUFFER_LEN));
    let (mut bad_lines, mut bad_count) = (Vec::new(), 0_u64);
    let mut record = csv::StringRecord::new();
    loop {
        let line = csv.position().line();
        csv.get_mut().left = LINE_LEN_MAX;
        let result = match csv.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) => columns.read(&record),
            Err(error) if matches!(error.kind(), csv::ErrorKind::Utf8 { .. }) => Err("it is not UTF-8"),
            Err(error) => return Err(read_error(error, line)),
        };
        let line = record.position().map_or(line, csv::Position::line);
        match result {
            Ok((reference, amount, currency)) => buffer
                .write_record([line.to_string().as_str(), reference, &amount.to_plain_string(), &currency])
                .map_err(|error| read_error(error, line))?,
            Err(reason) => {
                bad_count += 1;
                if bad_lines.len() < BAD_LINES_MAX {
                    bad_lines.push(format!("line {line}: {reason}"));
                }
            }
        }
        if buffer.get_ref().len() > BUFFER_LEN {
            buffer.flush().map_err(|error| read_error(error.into(), line))?;
            copy.send(buffer.get_ref().as_slice()).await?;
            buffer = csv::Writer::from_writer(Vec::with_capacity(BUFFER_LEN));
        }
    }
    let rest = buffer.into_inner().map_err(|error| BackOfficeError::refused(error.to_string()))?;
    copy.send(rest.as_slice()).await?;
    copy.finish().await?;
    if bad_count == 0 {
        return Ok(());
    }
    let more = bad_count.saturating_sub(BAD_LINES_MAX as u64);
    let more = if more == 0 { String::new() } else { format!("\nand {more} more") };
    Err(BackOfficeError::refused(format!("the list has bad lines:\n{}{more}", bad_lines.join("\n"))))
}

/// Returns the separator of the columns in the first line: programs in some countries write a semicolon.
fn find_delimiter(list: &mut impl BufRead) -> io::Result<u8> {
    let start = list.fill_buf()?;
    let header = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(if header.contains(&b';') && !header.contains(&b',') { b';' } else { b',' })
}

/// The list. Reading fails when a line is longer than [`LINE_LEN_MAX`], with what the reader has in memory.
struct LineLimit<List> {
    list: List,
    /// How many bytes may be read until the end of the line.
    left: usize,
}

impl<List: Read> Read for LineLimit<List> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let length = self.list.read(buffer)?;
        self.left = self.left.saturating_sub(length);
        Ok(length)
    }
}

/// `line`: the line that was read.
fn read_error(error: csv::Error, line: u64) -> BackOfficeError {
    match error.kind() {
        csv::ErrorKind::Io(io) if io.kind() == io::ErrorKind::FileTooLarge => {
            let limit = LINE_LEN_MAX / 1024;
            BackOfficeError::refused(format!(
                "line {line} of the list is longer than {limit} KiB: is a quotation mark missing?"
            ))
        }
        _ => BackOfficeError::refused(format!("cannot read the list: {error}")),
    }
}
