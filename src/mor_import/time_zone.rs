//! The time zone of MOR's local times, which are stored as UTC. PostgreSQL converts them: its zone tables are complete,
//! those of MySQL are usually empty.

use sqlx::PgConnection;

use crate::mor_import::error::ImportError;
use crate::mor_import::target::literal;

/// The time zone of MOR's `datetime` columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeZone {
    /// An IANA name, or an offset such as `+02:00`.
    pub name: String,
}

impl TimeZone {
    /// Checks the zone that the operator or MySQL names.
    ///
    /// # Errors
    ///
    /// If neither names a zone that PostgreSQL knows.
    pub async fn resolve(
        option: Option<&str>,
        server: Option<&str>,
        connection: &mut PgConnection,
    ) -> Result<Self, ImportError> {
        let name = option.or(server).ok_or_else(|| {
            ImportError::refused(
                "MySQL does not tell the time zone of MOR's times: name it with --time-zone, for example \
                 --time-zone Europe/Vilnius (on MOR's server: `timedatectl`)",
            )
        })?;
        let known = is_offset(name)
            || sqlx::query_scalar("select exists (select from pg_timezone_names where name = $1)")
                .bind(name)
                .fetch_one(connection)
                .await?;
        if known {
            return Ok(Self { name: name.to_owned() });
        }
        Err(ImportError::refused(format!("{name:?} is no time zone: use an IANA name such as Europe/Vilnius")))
    }

    /// The zone as PostgreSQL's operator `at time zone` takes it. A text with an offset would have the opposite sign.
    fn sql(&self) -> String {
        if is_offset(&self.name) { format!("interval {}", literal(&self.name)) } else { literal(&self.name) }
    }

    /// The SQL expression that converts a UTC time to a local one.
    pub fn to_local(&self, utc: &str) -> String {
        match self.name.as_str() {
            "UTC" | "+00:00" => utc.to_owned(),
            _ => format!("(({utc} at time zone 'UTC') at time zone {})", self.sql()),
        }
    }

    /// The SQL functions that convert local times: `mor_import.to_utc` and `mor_import.to_local`.
    pub fn functions(&self) -> String {
        let later = match self.name.as_str() {
            "UTC" | "+00:00" => "$1".to_owned(),
            _ => format!("(($1 at time zone {}) at time zone 'UTC')", self.sql()),
        };
        let local = self.to_local("$1");
        let [hour, half_hour] = ["1 hour", "30 minutes"].map(|shift| {
            format!(
                "when mor_import.to_local(mor_import.later_reading($1) - interval '{shift}') = $1
                     then mor_import.later_reading($1) - interval '{shift}'"
            )
        });
        // PostgreSQL reads an ambiguous time as the later one, and moves a skipped one forward.
        format!(
            "create function mor_import.to_local(timestamp) returns timestamp language sql immutable parallel safe return {local};
             create function mor_import.later_reading(timestamp) returns timestamp language sql immutable parallel safe return {later};
             create function mor_import.to_utc(timestamp) returns timestamp language sql immutable parallel safe
                 return case {hour} {half_hour} else mor_import.later_reading($1) end;"
        )
    }
}

/// Whether the text is an offset from UTC as MySQL writes it: `+02:00`.
fn is_offset(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 6
        && matches!(bytes[0], b'+' | b'-')
        && bytes[3] == b':'
        && [1, 2, 4, 5].iter().all(|index| bytes[*index].is_ascii_digit())
}
