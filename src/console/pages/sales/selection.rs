//! The fields that select payments: days, card group, user, currency and kind.

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use strum::VariantArray;

use crate::back_office::reports::filter::{PaymentFilter, PaymentKind};
use crate::back_office::reports::payments::Position;
use crate::back_office::reports::period::{Day, Days, Period, TIME_ZONE_DEFAULT};
use crate::console::Console;
use crate::console::error::ConsoleError;
use crate::console::pages::groups::{GroupChoice, OwnGroup};
use crate::console::session::Session;

/// The days of the list, unless others are named.
const DAYS_DEFAULT: Days = Days::Last(7);
/// Maximum number of names that a field offers.
const CHOICES_MAX: i64 = 500;

/// The fields of a period.
#[derive(Debug, Default, Clone, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct DayFields {
    from: String,
    to: String,
    time_zone: String,
    /// The days of a link: `today`, `yesterday`, `this_month` or `last_month`. They replace the two days.
    #[serde(skip_serializing)]
    days: String,
}

impl DayFields {
    /// Returns the days that the fields name. `None`: they name none.
    pub(super) fn parse(&self) -> Result<Option<Days>, ConsoleError> {
        match self.days.as_str() {
            "" => parse_days(&self.from, &self.to),
            "today" => Ok(Some(Days::Range(Day::Today, Day::Today))),
            "yesterday" => Ok(Some(Days::Range(Day::Yesterday, Day::Yesterday))),
            "this_month" => Ok(Some(Days::ThisMonth)),
            "last_month" => Ok(Some(Days::LastMonth)),
            _ => Err(ConsoleError::Malformed("the parameter days has an unknown value".to_owned())),
        }
    }

    /// Returns the name of the time zone.
    pub(super) fn time_zone(&self) -> Result<&str, ConsoleError> {
        match self.time_zone.trim() {
            "" => Ok(TIME_ZONE_DEFAULT),
            name => check_text(name),
        }
    }

    /// Finds the period, that of `default` if the fields name no days. The days of a link become those of the fields.
    pub(super) async fn resolve(
        &mut self,
        connection: &mut PgConnection,
        default: Days,
    ) -> Result<Period, ConsoleError> {
        let days = self.parse()?.unwrap_or(default);
        let period = Period::resolve(connection, &days, self.time_zone()?).await?;
        if !self.days.is_empty() {
            (self.from, self.to) = (period.from.clone(), period.to.clone());
        }
        Ok(period)
    }
}

/// The fields as the page sends them. An empty field selects all.
#[derive(Debug, Default, Clone, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Fields {
    #[serde(flatten)]
    days: DayFields,
    group: String,
    /// A name.
    user: String,
    currency: String,
    kind: String,
}

/// Fields of a page of the list.
#[derive(Serialize)]
struct PageFields<'a> {
    #[serde(flatten)]
    fields: &'a Fields,
    before: &'a str,
    before_id: i64,
}

impl Fields {
    /// Returns the query string with these fields.
    pub(super) fn query(&self) -> String {
        serde_urlencoded::to_string(self).unwrap_or_default()
    }

    /// As [`query`](Self::query), without days.
    pub(super) fn query_without_days(&self) -> String {
        let time_zone = self.days.time_zone.clone();
        Self { days: DayFields { time_zone, ..DayFields::default() }, ..self.clone() }.query()
    }

    /// As [`query`](Self::query), for the page that starts at a position.
    pub(super) fn query_with(&self, start: &Position) -> String {
        let fields = PageFields { fields: self, before: start.date(), before_id: start.id() };
        serde_urlencoded::to_string(fields).unwrap_or_default()
    }
}

/// Reads days as the fields name them. `None`: they name none.
fn parse_days(from: &str, to: &str) -> Result<Option<Days>, ConsoleError> {
    let parse = |text: &str| text.parse::<Day>().map_err(|error| ConsoleError::Refused(format!("{text:?}: {error}.")));
    match (from.trim(), to.trim()) {
        ("", "") => Ok(None),
        ("", _) => Err(ConsoleError::Refused("Enter the first day too.".to_owned())),
        (from, "") => Ok(Some(Days::Range(parse(from)?, Day::Today))),
        (from, to) => Ok(Some(Days::Range(parse(from)?, parse(to)?))),
    }
}

/// Refuses a character that PostgreSQL does not accept.
fn check_text(text: &str) -> Result<&str, ConsoleError> {
    if text.contains('\0') { Err(ConsoleError::Malformed("a field has a null character".to_owned())) } else { Ok(text) }
}

/// The payments that the fields select, among those that the session may see.
#[derive(Debug, Clone)]
pub(in crate::console::pages) struct Selection {
    pub(in crate::console::pages) period: Period,
    pub(in crate::console::pages) filter: PaymentFilter,
}

impl Selection {
    /// Finds what the fields name. Groups and users of other owners do not exist for a reseller.
    pub(super) async fn find(console: &Console, session: &Session, fields: &mut Fields) -> Result<Self, ConsoleError> {
        let owner = session.owner_id();
        let mut connection = console.pool.acquire().await?;
        let period = fields.days.resolve(&mut connection, DAYS_DEFAULT).await?;
        let group = match fields.group.trim() {
            "" => None,
            text => {
                let id = text.parse();
                let id = id.map_err(|_| ConsoleError::NotFound(format!("There is no card group {text}.")))?;
                Some(OwnGroup::find(&mut *connection, session, id).await?.id())
            }
        };
        let user = match fields.user.trim() {
            "" => None,
            name => Some(find_user(&mut connection, check_text(name)?, owner).await?),
        };
        let currency = match fields.currency.as_str() {
            "" => None,
            name => Some(check_text(name)?.to_owned()),
        };
        let kind = match fields.kind.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|_| ConsoleError::Malformed("there is no such kind".to_owned()))?),
        };
        Ok(Self { period, filter: PaymentFilter { owner, group, user, currency, kind } })
    }
}

/// Finds a user by the name: for a reseller the reseller and the reseller's users.
pub(super) async fn find_user(
    connection: &mut PgConnection,
    name: &str,
    owner: Option<i32>,
) -> Result<i32, ConsoleError> {
    let user = sqlx::query_scalar!(
        "select id from users
         where fold_case(rtrim(username)) = fold_case(rtrim($1)) and ($2::integer is null or id = $2 or owner_id = $2)
         order by id limit 1",
        name,
        owner
    );
    let user = user.fetch_optional(connection).await?;
    user.ok_or_else(|| ConsoleError::NotFound(format!("There is no user {name:?}.")))
}

/// What the fields offer.
#[derive(Debug, Serialize)]
pub(super) struct Choices {
    groups: Vec<GroupChoice>,
    users: Vec<String>,
    currencies: Vec<String>,
    kinds: Vec<&'static str>,
}

impl Choices {
    /// Loads the names that the account sees.
    pub(super) async fn load(pool: &PgPool, session: &Session) -> sqlx::Result<Self> {
        let (mut connection, owner) = (pool.acquire().await?, session.owner_id());
        let groups = GroupChoice::load(&mut *connection, session, true).await?;
        let users = load_user_names(&mut connection, owner).await?;
        let currencies = sqlx::query_scalar!(
            "select name from currencies where name is not null order by name limit $1",
            CHOICES_MAX
        );
        let currencies = currencies.fetch_all(&mut *connection).await?;
        let kinds = PaymentKind::VARIANTS.iter().map(Into::into).collect();
        Ok(Self { groups, users, currencies, kinds })
    }
}

/// Returns names of users that may have sold: of an owner those of the owner's users.
pub(super) async fn load_user_names(connection: &mut PgConnection, owner: Option<i32>) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        "select username from users where $1::integer is null or id = $1 or owner_id = $1 order by id limit $2",
        owner,
        CHOICES_MAX
    )
    .fetch_all(connection)
    .await
}
