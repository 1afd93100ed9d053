//! What the database has to say about a request to make or change a card group.

use sqlx::PgExecutor;

use crate::accounts::UserType;
use crate::auth::admission::Caller;
use crate::error::ApiError;
use crate::http::context::CallContext;
use crate::number;

/// The group that is changed, as it stands.
#[derive(Debug)]
pub(super) struct ExistingGroup {
    pub(super) id: i32,
    pub(super) tax_id: i32,
    /// Seconds since 1970.
    pub(super) valid_from: Option<i64>,
    /// Likewise.
    pub(super) valid_till: Option<i64>,
}

/// What the database has to say about a request, asked at once before its parameters are gone through in order.
#[derive(Debug)]
pub(super) struct Lookups {
    /// Seconds since 1970.
    pub(super) now: i64,
    /// Seconds from the beginning of this year to the beginning of this day.
    pub(super) year_to_date_s: i64,
    /// The tariff asked for, or the first that the caller may use; so are the next two.
    pub(super) tariff: Option<i32>,
    pub(super) lcr: Option<i32>,
    pub(super) location: Option<i32>,
    pub(super) tax: Option<i32>,
    pub(super) name_taken: bool,
}

impl Lookups {
    /// `usual_location`: the one of a new group whose location isn't said; `standing`: the group that is changed.
    pub(super) async fn load(
        database: impl PgExecutor<'_>,
        call: &CallContext,
        caller: &Caller,
        usual_location: Option<i64>,
        standing: Option<&ExistingGroup>,
    ) -> Result<Self, ApiError> {
        let wanted = |name| call.params.non_blank(name).map(number::parse_integer);
        let reseller = caller.usertype() == UserType::Reseller;
        // One that is too long is nobody's.
        let name = call.params.non_blank("name").and_then(|name| call.fit_text(name, "").ok());
        let facts = sqlx::query_as!(
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
            wanted("tariff_id"),
            wanted("lcr_id"),
            wanted("location_id").or(usual_location),
            wanted("tax_id"),
            reseller,
            caller.id(),
            call.dialect().has_fixed_defaults(),
            name,
            standing.map(|standing| standing.id)
        )
        .fetch_one(database)
        .await?;
        Ok(facts)
    }
}
