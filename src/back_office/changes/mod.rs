//! The change log as people search it: who has changed what, from which value to which.

mod export;

use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

pub use self::export::Export;
use super::lookup::{self, CardKey};
use super::selection::is_canceled;
use super::{BackOfficeError, users};
use crate::store::change_log::What;

/// How many days are searched if neither a target nor a first day is given.
pub const DAYS_DEFAULT: i32 = 90;

/// Begins a statement that finds rows by indexes, planned for its values. It may sort what it has found.
const BEGIN_SEARCH: &str = "begin read only; set local plan_cache_mode = force_custom_plan;
    set local enable_bitmapscan = on; set local enable_sort = on";

/// The conditions of a search. A row must match all of them. An empty text is no condition.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangeFilter {
    /// The kind of data: `card_group`.
    pub what: String,
    /// A card's number, a name, or an id.
    pub target: String,
    /// A field that was changed: `price`.
    pub field: String,
    /// The name of an API user, of a console account or of a user of the operating system.
    pub who: String,
    /// A text in any column.
    pub text: String,
    /// The first day (UTC): `2026-01-31`.
    pub from: String,
    /// The last day (UTC).
    pub to: String,
}

/// A changed field, with the texts of its values before and after the change.
type FieldTexts = (String, Option<String>, Option<String>);

/// A row of the change log. The time is in UTC.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the column names of the table")]
pub struct FoundChange {
    pub id: i64,
    pub at: String,
    /// The time with its microseconds, to continue a search.
    #[serde(skip)]
    pub exact_at: String,
    pub who: String,
    pub user_id: Option<i32>,
    pub operator: Option<String>,
    pub what: String,
    pub target_id: Option<i64>,
    pub target_name: Option<String>,
    pub cardgroup_id: Option<i32>,
    pub request_id: Option<String>,
    /// The changed fields, in the order of their names. A value that is missing or null is `None`.
    pub fields: Json<Vec<FieldTexts>>,
}

/// Hides from a reseller, whose account is `account`, who made a change: neither users of the operating system nor
/// other accounts are named. API users are.
pub fn hide_author(who: &mut String, operator: &mut Option<String>, user_id: Option<i32>, account: &str) {
    *operator = None;
    if user_id.is_none() && who != account {
        "operator".clone_into(who);
    }
}

/// What the values `$1` to `$7` of the statements have. `of_target.sql` reads the fields by their names.
#[derive(Debug, Clone, Serialize)]
struct Matching {
    from: Option<String>,
    before_at: String,
    before_id: i64,
    kinds: Option<Vec<String>>,
    author: Option<String>,
    field: Option<String>,
    words: Option<String>,
}

/// The rows that the target of a search names.
#[derive(Debug, Clone, Default)]
struct Targets {
    kinds: Vec<String>,
    ids: Vec<i64>,
    /// The kinds of data whose names are compared.
    named_kinds: Vec<String>,
    name: Option<String>,
    card_groups: Vec<i32>,
}

/// A search, prepared for its statements.
#[derive(Debug, Clone)]
pub struct Search {
    matching: Matching,
    /// `None`: the rows of a range of time.
    targets: Option<Targets>,
}

impl Search {
    /// Prepares a search, for the rows before the one with the id `before`. Fills in the first day if the search must
    /// be limited to a range of time.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::Refused`] if a day or the kind of data is invalid.
    pub async fn prepare(
        pool: &PgPool,
        filter: &mut ChangeFilter,
        before: Option<i64>,
    ) -> Result<Self, BackOfficeError> {
        let text = |text: &str| Some(text.trim()).filter(|text| !text.is_empty()).map(str::to_owned);
        let (kind, target, field) = (text(&filter.what), text(&filter.target), text(&filter.field));
        if let Some(kind) = kind.as_deref().filter(|kind| !What::NAMES.contains(kind)) {
            return Err(BackOfficeError::Refused(format!("There is no kind of data {kind:?}.")));
        }
        for day in [&filter.from, &filter.to] {
            check_day(day)?;
        }
        let (author, words) = (text(&filter.who), text(&filter.text));
        let mut transaction = pool.begin_with(BEGIN_SEARCH).await?;
        let targets = match (target, &kind, &field) {
            (Some(target), ..) => Some(Targets::resolve(&mut transaction, target, kind.as_deref()).await?),
            // Few rows are of other kinds than cards and e-mails, and each has a target.
            (None, Some(kind), Some(_)) if !["card", "mail"].contains(&kind.as_str()) => {
                Some(Targets { named_kinds: vec![kind.clone()], ..Targets::default() })
            }
            _ => None,
        };
        let is_filtered = [&kind, &field, &author, &words].into_iter().any(Option::is_some);
        if targets.is_none() && is_filtered && filter.from.is_empty() {
            filter.from = load_first_day(&mut transaction).await?;
        }
        let (before_at, before_id) = match before {
            Some(id) => (load_time(&mut transaction, id).await?, id),
            None if filter.to.is_empty() => ("infinity".to_owned(), 0),
            None => (load_next_day(&mut transaction, &filter.to).await?, 0),
        };
        let kinds = kind.map(|kind| vec![kind]);
        let matching = Matching { from: text(&filter.from), before_at, before_id, kinds, author, field, words };
        Ok(Self { matching, targets })
    }

    /// Prepares the search for all changes of one row: its kind of data and its id.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn of_row(pool: &PgPool, what: What, id: i64, before: Option<i64>) -> sqlx::Result<Self> {
        let (before_at, before_id) = match before {
            Some(id) => (load_time(&mut *pool.acquire().await?, id).await?, id),
            None => ("infinity".to_owned(), 0),
        };
        let matching =
            Matching { from: None, before_at, before_id, kinds: None, author: None, field: None, words: None };
        let kind: &str = what.into();
        let targets = Targets { kinds: vec![kind.to_owned()], ids: vec![id], ..Targets::default() };
        Ok(Self { matching, targets: Some(targets) })
    }

    /// Limits the search to kinds of data for which `is_visible` is true.
    #[must_use]
    pub fn limit_kinds(mut self, is_visible: impl Fn(&str) -> bool) -> Self {
        let all = || What::NAMES.iter().map(|kind| (*kind).to_owned()).collect();
        let kinds = self.matching.kinds.unwrap_or_else(all);
        self.matching.kinds = Some(kinds.into_iter().filter(|kind| is_visible(kind)).collect());
        self
    }

    /// Reads the next rows, the latest first. That can take minutes: the log can be long, and few rows match.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn read(&self, pool: &PgPool, limit: i64) -> sqlx::Result<Vec<FoundChange>> {
        let mut transaction = pool.begin_with(BEGIN_SEARCH).await?;
        sqlx::raw_sql("set local statement_timeout = '10min'").execute(&mut *transaction).await?;
        self.read_in(&mut transaction, limit).await
    }

    /// As [`read`](Self::read), with a limit of time.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::Refused`] if it takes longer than 5 seconds, database errors.
    pub async fn read_page(&self, pool: &PgPool, limit: i64) -> Result<Vec<FoundChange>, BackOfficeError> {
        let mut transaction = pool.begin_with(BEGIN_SEARCH).await?;
        sqlx::raw_sql("set local statement_timeout = '5s'").execute(&mut *transaction).await?;
        match self.read_in(&mut transaction, limit).await {
            Err(error) if is_canceled(&error) => Err(BackOfficeError::refused(
                "The search takes more than 5 seconds. Set From to a later day, or enter a card number, a name or an id.",
            )),
            changes => Ok(changes?),
        }
    }

    async fn read_in(&self, connection: &mut PgConnection, limit: i64) -> sqlx::Result<Vec<FoundChange>> {
        let matching = &self.matching;
        let Some(targets) = &self.targets else {
            return sqlx::query_file_as!(
                FoundChange,
                "src/back_office/changes/in_time.sql",
                matching.from,
                matching.before_at,
                matching.before_id,
                matching.kinds.as_deref(),
                matching.author,
                matching.field,
                matching.words,
                limit
            )
            .fetch_all(connection)
            .await;
        };
        sqlx::query_file_as!(
            FoundChange,
            "src/back_office/changes/of_target.sql",
            &targets.kinds,
            &targets.ids,
            &targets.named_kinds,
            targets.name,
            &targets.card_groups,
            Json(matching) as _,
            limit
        )
        .fetch_all(connection)
        .await
    }

    /// Continues the search before this row.
    fn continue_before(&mut self, last: &FoundChange) {
        self.matching.before_at.clone_from(&last.exact_at);
        self.matching.before_id = last.id;
    }
}

impl Targets {
    /// Finds what a text names: a card by its number, a card group or a user by its name, and anything by its id.
    async fn resolve(
        connection: &mut PgConnection,
        target: String,
        kind: Option<&str>,
    ) -> Result<Self, BackOfficeError> {
        let is_searched = |name: &str| kind.is_none_or(|kind| kind == name);
        let mut targets = Self::default();
        let mut add = |kind: &str, id: i64| {
            if is_searched(kind) {
                targets.kinds.push(kind.to_owned());
                targets.ids.push(id);
            }
        };
        if let Ok(id) = target.parse::<i64>() {
            What::NAMES.iter().for_each(|kind| add(kind, id));
        }
        let groups = sqlx::query_scalar!("select id from cardgroups where fold_case(name) = fold_case($1)", target);
        for group in groups.fetch_all(&mut *connection).await? {
            add("card_group", group.into());
        }
        match users::find(&mut *connection, &target).await {
            Ok(user) => ["user", "key", "setting"].iter().for_each(|kind| add(kind, user.id.into())),
            Err(BackOfficeError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        if is_searched("card") {
            match lookup::find_cards(&mut *connection, &CardKey::Number(target.clone())).await {
                Ok(found) => {
                    found.cards.iter().for_each(|card| add("card", card.id));
                    targets.card_groups = found.cards.iter().map(|card| card.cardgroup_id).collect();
                }
                Err(BackOfficeError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        // Names of cards are their numbers: they are found above.
        let named = What::NAMES.iter().filter(|name| **name != "card" && is_searched(name));
        targets.named_kinds = named.map(|name| (*name).to_owned()).collect();
        targets.name = Some(target);
        Ok(targets)
    }
}

/// Refuses a text that is no day. An empty text is no condition.
fn check_day(day: &str) -> Result<(), BackOfficeError> {
    let is_day = || day.len() == 10 && humantime::parse_rfc3339_weak(&format!("{day} 00:00:00")).is_ok();
    match day.is_empty() || is_day() {
        true => Ok(()),
        false => Err(BackOfficeError::Refused(format!("{day:?} is not a day, such as 2026-01-31."))),
    }
}

/// Returns the first day of a search over [`DAYS_DEFAULT`].
async fn load_first_day(connection: &mut PgConnection) -> sqlx::Result<String> {
    let day = sqlx::query_scalar!(
        r#"select to_char(now() at time zone 'utc' - make_interval(days => $1), 'YYYY-MM-DD') as "day!""#,
        DAYS_DEFAULT
    );
    day.fetch_one(connection).await
}

async fn load_next_day(connection: &mut PgConnection, day: &str) -> sqlx::Result<String> {
    sqlx::query_scalar!(r#"select ($1::text::date + 1)::text as "day!""#, day).fetch_one(connection).await
}

/// Returns the time of a row, exactly. An unknown row is after all others.
async fn load_time(connection: &mut PgConnection, id: i64) -> sqlx::Result<String> {
    let time = sqlx::query_scalar!(r#"select at::text as "at!" from change_log where id = $1"#, id);
    Ok(time.fetch_optional(connection).await?.unwrap_or_else(|| "infinity".to_owned()))
}
