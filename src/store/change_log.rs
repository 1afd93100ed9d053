//! The change log (`ledger.md`): a row for each change of data by an operation, a command or the console, written in
//! the transaction of the change. Sales, top-ups and transfers have payments and rows of `actions` instead.

use serde_json::{Map, Value};
use sqlx::PgConnection;
use strum::{IntoStaticStr, VariantNames};

/// Who changes data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Author {
    /// An API user.
    User {
        /// The user's id.
        id: i32,
        /// The value of `X-Request-Id`.
        request_id: Option<String>,
    },
    /// A command that this user of the operating system runs.
    Command {
        /// The user's name.
        operator: String,
    },
    /// An account of the console.
    Console {
        /// The account's name.
        account: String,
    },
}

impl Author {
    /// Returns the id of the API user. `None`: a command or the console.
    pub fn user_id(&self) -> Option<i32> {
        match self {
            Self::User { id, .. } => Some(*id),
            Self::Command { .. } | Self::Console { .. } => None,
        }
    }
}

/// The kind of data that is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
#[expect(missing_docs, reason = "self-explanatory names")]
pub enum What {
    CardGroup,
    Card,
    User,
    Right,
    Setting,
    Key,
    Currency,
    Tariff,
    Mail,
    Import,
    ConsoleAccount,
}

impl What {
    /// The names of all kinds, as in `change_log.what`.
    pub const NAMES: &[&str] = Self::VARIANTS;
}

/// What a change is about.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// One row.
    Row {
        /// Its id. For settings and keys: the id of the user who owns them.
        id: i64,
        /// The name that people know: a card's number, a group's or user's name.
        name: &'a str,
    },
    /// Several rows, or none, by a name.
    Named(&'a str),
    /// All cards of a group whose numbers are in a range. The change is found for each of these cards.
    Cards {
        /// The card group.
        group: i32,
        /// The first number.
        first: &'a str,
        /// The last number.
        last: &'a str,
    },
}

/// A change of data.
#[derive(Debug)]
pub struct Change<'a> {
    /// The kind of data.
    pub what: What,
    /// What the change is about.
    pub target: Target<'a>,
    /// JSON object: the row, or some of its fields, before the change; `None`: the row is new. The log gets only the
    /// fields that the change has changed, with PINs and passwords hidden. It must contain no key.
    pub before: Option<String>,
    /// The same after the change; `None`: the row is deleted.
    pub after: Option<String>,
}

impl Change<'_> {
    /// Writes the row, in the transaction of the change. A change that has changed no field writes none.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn record(&self, connection: &mut PgConnection, author: &Author) -> sqlx::Result<()> {
        let (user_id, operator, account, request_id) = match author {
            Author::User { id, request_id } => (Some(*id), None, None, request_id.as_deref()),
            Author::Command { operator } => (None, Some(operator.as_str()), None, None),
            Author::Console { account } => (None, None, Some(account.as_str()), None),
        };
        let (target_id, name, range) = match self.target {
            Target::Row { id, name } => (Some(id), name.to_owned(), None),
            Target::Named(name) => (None, name.to_owned(), None),
            Target::Cards { group, first, last } => (None, format!("{first} - {last}"), Some((group, first, last))),
        };
        let what: &str = self.what.into();
        let texts = [
            Some(what),
            operator,
            request_id,
            Some(&name),
            range.map(|(_, first, _)| first),
            range.map(|(_, _, last)| last),
            account,
        ];
        sqlx::query_file!(
            "src/store/change_log.sql",
            user_id,
            target_id,
            range.map(|(group, ..)| group),
            &texts as &[Option<&str>],
            self.before,
            self.after
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// The change of a card, a card group, a user, a currency or a tariff. It reads the row before and after the change.
#[derive(Debug)]
pub struct RowChange {
    what: What,
    id: i64,
    before: Option<String>,
}

impl RowChange {
    /// Reads the row before the change. The caller has locked it.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn begin(connection: &mut PgConnection, what: What, id: impl Into<i64>) -> sqlx::Result<Self> {
        let id = id.into();
        let before = load_row(connection, what, id).await?.map(|row| row.json);
        Ok(Self { what, id, before })
    }

    /// The change that has created the row.
    pub fn created(what: What, id: impl Into<i64>) -> Self {
        Self { what, id: id.into(), before: None }
    }

    /// Reads the row after the change and writes the row of the change log, unless nothing has changed.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn record(self, connection: &mut PgConnection, author: &Author) -> sqlx::Result<()> {
        self.record_with(connection, author, Map::new()).await
    }

    /// Like [`record`](Self::record), with `details` of the change that the row does not have: they are added to the
    /// fields after the change.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn record_with(
        self,
        connection: &mut PgConnection,
        author: &Author,
        details: Map<String, Value>,
    ) -> sqlx::Result<()> {
        let Self { what, id, before } = self;
        let Some(row) = load_row(&mut *connection, what, id).await? else { return Ok(()) };
        let target = Target::Row { id, name: row.name.as_deref().unwrap_or_default() };
        let mut after = row.json;
        if !details.is_empty() {
            let fields: Map<String, Value> =
                serde_json::from_str(&after).map_err(|error| sqlx::Error::Decode(error.into()))?;
            after = Value::Object(fields.into_iter().chain(details).collect()).to_string();
        }
        Change { what, target, before, after: Some(after) }.record(connection, author).await
    }
}

/// A row of a table.
#[derive(Debug)]
struct Row {
    name: Option<String>,
    /// The row as a JSON object.
    json: String,
}

/// Reads a row. A card group's row includes its taxes.
async fn load_row(connection: &mut PgConnection, what: What, id: i64) -> sqlx::Result<Option<Row>> {
    match what {
        What::Card => {
            let card = sqlx::query_as!(
                Row,
                r#"select number as name, to_jsonb(cards)::text as "json!" from cards where id = $1"#,
                id
            );
            card.fetch_optional(connection).await
        }
        What::CardGroup => {
            let group = sqlx::query_as!(
                Row,
                r#"select g.name, (coalesce(to_jsonb(t), '{}') || to_jsonb(g))::text as "json!"
                   from cardgroups g left join taxes t on t.id = g.tax_id where g.id = $1::bigint"#,
                id
            );
            group.fetch_optional(connection).await
        }
        What::User => {
            let user = sqlx::query_as!(
                Row,
                r#"select username as name, to_jsonb(users)::text as "json!" from users where id = $1::bigint"#,
                id
            );
            user.fetch_optional(connection).await
        }
        What::Currency => {
            let currency = sqlx::query_as!(
                Row,
                r#"select name, to_jsonb(currencies)::text as "json!" from currencies where id = $1::bigint"#,
                id
            );
            currency.fetch_optional(connection).await
        }
        What::Tariff => {
            let tariff = sqlx::query_as!(
                Row,
                r#"select name, to_jsonb(tariffs)::text as "json!" from tariffs where id = $1"#,
                id
            );
            tariff.fetch_optional(connection).await
        }
        What::Right | What::Setting | What::Key | What::Mail | What::Import | What::ConsoleAccount => Ok(None),
    }
}
