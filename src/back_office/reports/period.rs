//! The period of a report: whole days in a time zone.

use std::str::FromStr;

use serde::Serialize;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use crate::back_office::BackOfficeError;
use crate::store::pages::{BEGIN_READ_BY_INDEX, BEGIN_READ_ONLY};

/// The time zone of the days, unless another one is named: that of all times in the database.
pub const TIME_ZONE_DEFAULT: &str = "UTC";
/// A longer period is read from the whole tables if the planner expects that to be faster.
const SHORT_PERIOD_DAYS_MAX: i32 = 7;

/// A day as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Day {
    /// The day that it is now in the time zone.
    Today,
    /// The day before today.
    Yesterday,
    /// `YYYY-MM-DD`.
    Date(String),
}

impl FromStr for Day {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "today" => Ok(Self::Today),
            "yesterday" => Ok(Self::Yesterday),
            date if is_date(date) => Ok(Self::Date(date.to_owned())),
            _ => Err("a day is today, yesterday or a date such as 2026-11-30".to_owned()),
        }
    }
}

impl Day {
    /// Returns the text that the query reads.
    fn as_text(&self) -> &str {
        match self {
            Self::Today => "today",
            Self::Yesterday => "yesterday",
            Self::Date(date) => date,
        }
    }
}

/// A month as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Month {
    /// `YYYY-MM-01`.
    first_day: String,
}

impl FromStr for Month {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let first_day = format!("{text}-01");
        let is_month = is_date(&first_day);
        if is_month { Ok(Self { first_day }) } else { Err("a month has the form 2026-11".to_owned()) }
    }
}

/// Whether the text is an existing date of the form `YYYY-MM-DD`.
fn is_date(text: &str) -> bool {
    text.len() == 10 && humantime::parse_rfc3339(&format!("{text}T00:00:00Z")).is_ok()
}

/// The days that an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Days {
    /// The current month up to today.
    ThisMonth,
    /// The whole month before the current one.
    LastMonth,
    /// A whole month.
    Month(Month),
    /// This number of days up to today.
    Last(u16),
    /// From the first to the last day, both included.
    Range(Day, Day),
}

/// Whole days in a time zone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Period {
    /// The first day, `YYYY-MM-DD`.
    pub from: String,
    /// The last day, `YYYY-MM-DD`.
    pub to: String,
    /// The IANA name of the time zone.
    pub time_zone: String,
    /// The start of the first day in UTC, as `payments.date_added` has it.
    #[serde(skip)]
    pub starts_at: String,
    /// The end of the last day in UTC, exclusive.
    #[serde(skip)]
    pub ends_at: String,
    /// The number of days.
    #[serde(skip)]
    pub days: i32,
}

impl Period {
    /// Finds the time zone, and the start and the end of the days.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::Refused`] if PostgreSQL does not know the time zone, or if the first day is after the last.
    pub async fn resolve(connection: &mut PgConnection, days: &Days, time_zone: &str) -> Result<Self, BackOfficeError> {
        let (first, last) = match days {
            Days::ThisMonth => ("this month".to_owned(), "today"),
            Days::LastMonth => ("previous month".to_owned(), "end of the month"),
            Days::Month(month) => (month.first_day.clone(), "end of the month"),
            Days::Last(count) => (format!("last {count}"), "today"),
            Days::Range(first, last) => (first.as_text().to_owned(), last.as_text()),
        };
        // The table of names, because an offset such as +02 would have the opposite sign. It is not read for UTC:
        // PostgreSQL reads a file for each name.
        let period = sqlx::query_as!(
            Period,
            r#"with zone as (
                   select 'UTC' as name where lower($1) = 'utc'
                   union all (
                       select name from pg_timezone_names
                       where lower($1) <> 'utc' and lower(name) = lower($1) order by name limit 1)),
               today as (select name, (now() at time zone name)::date as today from zone),
               starting as (
                   select name, today, case
                       when $2 = 'this month' then date_trunc('month', today)::date
                       when $2 = 'previous month' then (date_trunc('month', today::timestamp) - interval '1 month')::date
                       when $2 = 'today' then today
                       when $2 = 'yesterday' then today - 1
                       when $2 like 'last %' then today - substr($2, 6)::integer + 1
                       else $2::text::date end as first
                   from today),
               days as (
                   select name, first, case $3
                       when 'end of the month' then (first + interval '1 month' - interval '1 day')::date
                       when 'today' then today
                       when 'yesterday' then today - 1
                       else $3::text::date end as last
                   from starting)
               select first::text as "from!", last::text as "to!", name as "time_zone!", last - first + 1 as "days!",
                   (first::timestamp at time zone name at time zone 'utc')::text as "starts_at!",
                   ((last + 1)::timestamp at time zone name at time zone 'utc')::text as "ends_at!"
               from days"#,
            time_zone,
            first,
            last
        );
        let period = period.fetch_optional(connection).await?.ok_or_else(|| {
            BackOfficeError::refused(format!("{time_zone:?} is no time zone: use an IANA name such as Europe/Vilnius"))
        })?;
        if period.days < 1 {
            let message = format!("the first day ({}) is after the last day ({})", period.from, period.to);
            return Err(BackOfficeError::Refused(message));
        }
        Ok(period)
    }

    /// Returns today, and the same hours up to now a week before: two periods in UTC.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn today_and_week_before(connection: &mut PgConnection) -> sqlx::Result<[Self; 2]> {
        let periods = sqlx::query_as!(
            Period,
            r#"select starts_at::date::text as "from!", starts_at::date::text as "to!", 'UTC' as "time_zone!", 1 as "days!",
                   starts_at::text as "starts_at!", ends_at::text as "ends_at!"
               from (
                   select date_trunc('day', now() at time zone 'utc') as starts_at,
                       date_trunc('day', now() at time zone 'utc') + interval '1 day' as ends_at
                   union all
                   select date_trunc('day', now() at time zone 'utc') - interval '7 days',
                       now() at time zone 'utc' - interval '7 days'
               ) periods
               order by starts_at desc"#
        );
        let periods = periods.fetch_all(connection).await?;
        // The statement returns two rows.
        periods.try_into().map_err(|_| sqlx::Error::RowNotFound)
    }

    /// Begins the transaction of a report. A short period is always read by the index of the dates.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn begin(&self, pool: &PgPool) -> sqlx::Result<Transaction<'static, Postgres>> {
        let is_short = self.days <= SHORT_PERIOD_DAYS_MAX;
        pool.begin_with(if is_short { BEGIN_READ_BY_INDEX } else { BEGIN_READ_ONLY }).await
    }
}
