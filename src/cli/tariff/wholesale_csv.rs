//! The lines of a CSV file with wholesale rates.

use bigdecimal::BigDecimal;
use csv::StringRecord;

use super::WHOLESALE_HEADINGS;
use crate::money::AMOUNT_MAX_EXCLUSIVE;
use crate::number;

/// The fields of a line.
pub(super) struct WholesaleLine {
    pub(super) prefix: String,
    /// The price of a minute in the tariff's currency, without tax; -1 blocks the prefix.
    pub(super) rate: BigDecimal,
    pub(super) connection_fee: BigDecimal,
    /// Seconds.
    pub(super) increment: i32,
    /// Seconds.
    pub(super) min_time: i32,
    /// `2026-11-29` or `2026-11-29 08:00:00`; empty: in force before all others.
    pub(super) effective_from: String,
}

impl WholesaleLine {
    /// Reads a line.
    ///
    /// # Errors
    ///
    /// The reason why the line is refused, for the operator.
    pub(super) fn read(record: &StringRecord) -> Result<Self, String> {
        let fields: Vec<&str> = record.iter().map(str::trim).collect();
        let [prefix, rate, connection_fee, increment, min_time, effective_from] = fields[..] else {
            return Err(format!("the line has {} fields, not {}", fields.len(), WHOLESALE_HEADINGS.len()));
        };
        if prefix.is_empty() {
            return Err("prefix: missing".to_owned());
        }
        if !is_timestamp_or_empty(effective_from) {
            return Err(format!("effective_from: {effective_from:?} is no date such as 2026-11-29 08:00:00"));
        }
        let seconds = |name: &str, text: &str, min: i32| {
            let seconds = Some(text).filter(|text| number::is_digits(text)).and_then(|text| text.parse().ok());
            seconds
                .filter(|&seconds: &i32| seconds >= min)
                .ok_or_else(|| format!("{name}: {text:?} is no number of seconds from {min}"))
        };
        Ok(Self {
            prefix: prefix.to_owned(),
            rate: parse_amount(rate).ok_or_else(|| format!("rate: {rate:?} is no amount such as 0.015"))?,
            connection_fee: parse_amount(connection_fee)
                .filter(|fee| *fee >= 0)
                .ok_or_else(|| format!("connection_fee: {connection_fee:?} is no amount of at least 0"))?,
            increment: seconds("increment", increment, 1)?,
            min_time: seconds("min_time", min_time, 0)?,
            effective_from: effective_from.to_owned(),
        })
    }

    /// Returns the first moment of the rate with a time of day, or an empty text.
    pub(super) fn start(&self) -> String {
        let is_date = self.effective_from.len() == "2026-11-29".len();
        if is_date { format!("{} 00:00:00", self.effective_from) } else { self.effective_from.clone() }
    }
}

fn parse_amount(text: &str) -> Option<BigDecimal> {
    number::parse_whole_decimal(text).filter(|amount| amount.abs() < AMOUNT_MAX_EXCLUSIVE)
}

/// Whether the text is empty, a date, or a date and a time of day, as PostgreSQL reads them.
fn is_timestamp_or_empty(text: &str) -> bool {
    let (date, time) = text.split_once(' ').unwrap_or((text, "00:00:00"));
    text.is_empty() || (is_date(date) && is_time(time))
}

fn is_date(text: &str) -> bool {
    let Some([year, month, day]) = parse_groups(text, '-', [4, 2, 2]) else { return false };
    let is_leap_year = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u32::from(is_leap_year),
        _ => 0,
    };
    year > 0 && (1..=days).contains(&day)
}

fn is_time(text: &str) -> bool {
    parse_groups(text, ':', [2, 2, 2]).is_some_and(|[hour, minute, second]| hour < 24 && minute < 60 && second < 60)
}

/// Parses three groups of digits of these lengths.
fn parse_groups(text: &str, separator: char, lengths: [usize; 3]) -> Option<[u32; 3]> {
    let groups: Vec<&str> = text.split(separator).collect();
    let groups: [&str; 3] = groups.try_into().ok()?;
    let fits = groups.iter().zip(lengths).all(|(group, length)| group.len() == length && number::is_digits(group));
    let [first, second, third] = groups.map(|group| group.parse().ok());
    if fits { Some([first?, second?, third?]) } else { None }
}
