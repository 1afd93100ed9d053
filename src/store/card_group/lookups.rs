//! Database lookups for requests that create or change a card group.

use serde::Serialize;
use sqlx::PgExecutor;
use sqlx::types::Json;

use super::GroupRequest;
use crate::error::ApiError;
use crate::number;

/// The group to change, with its current values.
#[derive(Debug)]
pub(super) struct ExistingGroup {
    pub(super) id: i32,
    pub(super) tax_id: i32,
    /// Seconds since 1970.
    pub(super) valid_from: Option<i64>,
    /// Seconds since 1970.
    pub(super) valid_till: Option<i64>,
}

/// The results of all lookups for a request. One query loads them before the parameters are checked in order.
#[derive(Debug)]
pub(super) struct Lookups {
    /// The database's clock, in seconds since 1970.
    pub(super) now: i64,
    /// Seconds from the start of this year to the start of today.
    pub(super) year_to_date_s: i64,
    /// The id of the requested tariff, or of the first tariff that the caller may use.
    pub(super) tariff: Option<i32>,
    /// The id of the requested LCR, or of the first LCR that the caller may use.
    pub(super) lcr: Option<i32>,
    /// The id of the requested location, or of the default location.
    pub(super) location: Option<i32>,
    /// The id of the requested tax row.
    pub(super) tax: Option<i32>,
    /// Another group has the requested name.
    pub(super) name_taken: bool,
}

/// What the request names. `lookups.sql` reads the serialized fields by name.
#[derive(Debug, Serialize)]
struct Requested {
    tariff: Option<i64>,
    lcr: Option<i64>,
    location: Option<i64>,
    tax: Option<i64>,
    name: Option<String>,
}

impl Lookups {
    /// Loads all lookups. `default_location`: the location of a new group if none is requested; `existing`: the group
    /// to change.
    pub(super) async fn load(
        database: impl PgExecutor<'_>,
        request: &GroupRequest<'_>,
        default_location: Option<i64>,
        existing: Option<&ExistingGroup>,
    ) -> Result<Self, ApiError> {
        let requested_id = |name| request.params.non_blank(name).map(number::parse_integer);
        let requested = Requested {
            tariff: requested_id("tariff_id"),
            lcr: requested_id("lcr_id"),
            location: requested_id("location_id").or(default_location),
            tax: requested_id("tax_id"),
            // No group has a name that is too long.
            name: request.params.non_blank("name").and_then(|name| request.fit_text(name, "").ok()),
        };
        let lookups = sqlx::query_file_as!(
            Lookups,
            "src/store/card_group/lookups.sql",
            Json(requested) as _,
            request.is_reseller,
            request.user_id,
            request.dialect.has_fixed_defaults(),
            existing.map(|group| group.id)
        )
        .fetch_one(database)
        .await?;
        Ok(lookups)
    }
}
