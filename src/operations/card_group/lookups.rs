//! Database lookups for requests that create or change a card group.

use sqlx::PgExecutor;

use crate::accounts::UserType;
use crate::auth::caller::Caller;
use crate::error::ApiError;
use crate::http::context::CallContext;
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

impl Lookups {
    /// Loads all lookups. `default_location`: the location of a new group if none is requested; `existing`: the group
    /// to change.
    pub(super) async fn load(
        database: impl PgExecutor<'_>,
        call: &CallContext,
        caller: &Caller,
        default_location: Option<i64>,
        existing: Option<&ExistingGroup>,
    ) -> Result<Self, ApiError> {
        let requested_id = |name| call.params.non_blank(name).map(number::parse_integer);
        let is_reseller = caller.usertype() == UserType::Reseller;
        // No group has a name that is too long.
        let name = call.params.non_blank("name").and_then(|name| call.fit_text(name, "").ok());
        let lookups = sqlx::query_as!(
            Lookups,
            r#"select floor(extract(epoch from now()))::bigint as "now!",
                   extract(epoch from date_trunc('day', now()) - date_trunc('year', now()))::bigint as "year_to_date_s!",
                   (select id::integer from tariffs where case
                        when $1::bigint is not null then id = $1 and not ($5 and owner_id = 0)
                        when $7 then id = 1
                        else not $5 or owner_id = $6
                    end order by id limit 1) as tariff,
                   (select id::integer from lcrs where case
                        when $2::bigint is not null then id = $2 and not ($5 and user_id = 0)
                        when $7 then id = 1
                        else not $5 or user_id = $6
                    end order by id limit 1) as lcr,
                   case when $3::bigint is null then 1
                        else (select id from locations where id = $3 and not ($5 and user_id = 0)) end as location,
                   (select id from taxes where id = $4::bigint) as tax,
                   exists (select from cardgroups where name = $8 and id is distinct from $9) as "name_taken!""#,
            requested_id("tariff_id"),
            requested_id("lcr_id"),
            requested_id("location_id").or(default_location),
            requested_id("tax_id"),
            is_reseller,
            caller.id(),
            call.dialect().has_fixed_defaults(),
            name,
            existing.map(|group| group.id)
        )
        .fetch_one(database)
        .await?;
        Ok(lookups)
    }
}
