//! The fields of a rate: day types, times, and the rules of step 4.

use std::fmt;

use crate::number::is_digits;
use crate::operations::tariff::retail_import::document::Rate;

/// The days on which a rate applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub enum DayType {
    EveryDay,
    WorkingDays,
    FreeDays,
}

impl DayType {
    /// Parses the text of the document and of the database.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" => Some(Self::EveryDay),
            "WD" => Some(Self::WorkingDays),
            "FD" => Some(Self::FreeDays),
            _ => None,
        }
    }

    /// Returns the text of the database.
    pub fn as_text(self) -> &'static str {
        match self {
            Self::EveryDay => "",
            Self::WorkingDays => "WD",
            Self::FreeDays => "FD",
        }
    }
}

/// A text of the form `NN:NN:NN`, as the number of its six digits. Two of them compare as their texts do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time(u32);

impl Time {
    /// `24:00:00`, the latest time of day.
    const MAX: Self = Self(240_000);

    /// Parses a text of the form, whether it is a time of day or not.
    pub fn parse(text: &str) -> Option<Self> {
        let [a, b, b':', c, d, b':', e, f] = text.as_bytes() else { return None };
        let digits = [a, b, c, d, e, f].map(|byte| *byte);
        let value = digits.iter().fold(0, |value, byte| value * 10 + u32::from(byte.wrapping_sub(b'0')));
        digits.iter().all(u8::is_ascii_digit).then_some(Self(value))
    }

    /// Returns the time of a number of seconds after midnight.
    pub fn from_seconds(seconds: i32) -> Option<Self> {
        let seconds = u32::try_from(seconds).ok().filter(|seconds| *seconds <= 86_400)?;
        Some(Self(seconds / 3600 * 10_000 + seconds / 60 % 60 * 100 + seconds % 60))
    }

    fn is_time_of_day(self) -> bool {
        self == Self::MAX || self < Self::MAX && self.0 / 100 % 100 < 60 && self.0 % 100 < 60
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}:{:02}", self.0 / 10_000, self.0 / 100 % 100, self.0 % 100)
    }
}

/// Two times, both included. The start may be after the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct TimeRange {
    pub start: Time,
    pub end: Time,
}

impl TimeRange {
    /// Parses the two times of a rate; `None`: one of them does not have the form.
    pub fn of_rate(rate: &Rate) -> Option<Self> {
        Some(Self { start: Time::parse(&rate.start_time)?, end: Time::parse(&rate.end_time)? })
    }

    /// Whether the two differ, and one begins within the other.
    pub fn collides_with(self, other: Self) -> bool {
        let contains = |range: Self, time| range.start <= time && time <= range.end;
        self != other && (contains(self, other.start) || contains(other, self.start))
    }

    /// Extends the range to the earlier start and the later end of the two.
    pub fn extend_to(&mut self, other: Self) {
        self.start = self.start.min(other.start);
        self.end = self.end.max(other.end);
    }
}

/// A rate that meets all rules of step 4.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "named like the columns of aratedetails")]
pub struct ValidRate {
    /// An exact decimal number with at most 16 decimals, which the database rounds to 15.
    pub price: String,
    pub round: i32,
    pub duration: i32,
    pub is_minute: bool,
    pub range: TimeRange,
    pub day_type: DayType,
}

/// What is wrong with a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing but the duration, which is a number. A later rate cannot follow this one.
    Duration {
        /// The range of its chain.
        range: TimeRange,
        /// The day type of its chain.
        day_type: DayType,
    },
    /// The element with this name, or another one too.
    Field(&'static str),
}

impl ValidRate {
    /// Checks a rate by the rules of step 4.
    pub fn check(rate: &Rate) -> Result<Self, Fault> {
        let is_minute = match rate.rate_type.as_str() {
            "minute" => true,
            "event" => false,
            _ => return Err(Fault::Field("rate_type")),
        };
        let price = parse_price(&rate.price).ok_or(Fault::Field("rate_price"))?;
        let round = parse_round(&rate.round_by).ok_or(Fault::Field("rate_round_by"))?;
        let time = |text: &str| Time::parse(text).filter(|time| time.is_time_of_day());
        let start = time(&rate.start_time).ok_or(Fault::Field("rate_start_time"))?;
        let end = time(&rate.end_time).filter(|end| start <= *end).ok_or(Fault::Field("rate_end_time"))?;
        let range = TimeRange { start, end };
        let day_type = DayType::parse(&rate.day_type).ok_or(Fault::Field("day_type"))?;
        let least = if is_minute { round.max(1) } else { 0 };
        match parse_duration(&rate.duration) {
            Some(duration) if duration == ENDLESS || duration >= least => {
                Ok(Self { price, round, duration, is_minute, range, day_type })
            }
            _ if is_number(&rate.duration) => Err(Fault::Duration { range, day_type }),
            _ => Err(Fault::Field("rate_duration")),
        }
    }
}

/// The duration of an endless rate.
pub const ENDLESS: i32 = -1;

/// Returns an optional sign, 1 to 15 digits, and optionally a point and digits, as PostgreSQL reads it. Digits that
/// cannot change the rounding are left out: PostgreSQL refuses more than 16,383.
fn parse_price(text: &str) -> Option<String> {
    const INTEGER_DIGITS_MAX: usize = 15;
    const DECIMALS: usize = 15;
    let (integer, fraction) = match split_sign(text).1.split_once('.') {
        Some((integer, fraction)) if is_digits(fraction) => (integer, fraction),
        Some(_) => return None,
        None => (split_sign(text).1, "0"),
    };
    if !is_digits(integer) || integer.len() > INTEGER_DIGITS_MAX {
        return None;
    }
    let fraction = &fraction[..fraction.len().min(DECIMALS + 1)];
    // Rounded, it would have 16 digits before the point, more than the column.
    let is_rounded_up = fraction.len() > DECIMALS && fraction.as_bytes()[DECIMALS] >= b'5';
    let overflows = is_rounded_up
        && integer.len() == INTEGER_DIGITS_MAX
        && [integer, &fraction[..DECIMALS]].iter().all(|digits| digits.bytes().all(|digit| digit == b'9'));
    (!overflows).then(|| format!("{}{integer}.{fraction}", split_sign(text).0))
}

/// Returns 1 to 9 digits as a number.
fn parse_round(text: &str) -> Option<i32> {
    text.parse().ok().filter(|_| is_digits(text) && text.len() <= 9)
}

/// Returns `-1`, or digits as a number; `None`: anything else, or more than the column can store.
fn parse_duration(text: &str) -> Option<i32> {
    text.parse().ok().filter(|_| text == "-1" || is_digits(text))
}

/// Whether the text is a decimal number: an optional sign, digits, and optionally a point and digits.
fn is_number(text: &str) -> bool {
    let digits = split_sign(text).1;
    let (integer, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    is_digits(integer) && is_digits(fraction)
}

/// Splits a sign from the text. A plus sign becomes an empty text.
fn split_sign(text: &str) -> (&'static str, &str) {
    match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    }
}
