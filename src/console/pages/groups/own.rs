//! The card group that a request names, if the account sees it.

use serde::{Deserialize, Serialize};
use sqlx::PgExecutor;

use crate::back_office::selection::CardSelection;
use crate::console::error::ConsoleError;
use crate::console::session::Session;

/// Maximum number of groups in a list of choices.
const CHOICES_MAX: i64 = 1000;

/// The first and the last number of cards. Both empty: all.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::console::pages) struct NumberFields {
    from: String,
    till: String,
}

/// A card group in a list of choices.
#[derive(Debug, Serialize)]
pub(in crate::console::pages) struct GroupChoice {
    id: i32,
    name: String,
}

impl GroupChoice {
    /// Loads the groups that the account sees, by name.
    pub(in crate::console::pages) async fn load(
        database: impl PgExecutor<'_>,
        session: &Session,
        with_hidden: bool,
    ) -> sqlx::Result<Vec<Self>> {
        let groups = sqlx::query_as!(
            Self,
            "select id, name from cardgroups
             where (hidden = 0 or $2) and ($1::integer is null or owner_id = $1) order by name, id limit $3",
            session.owner_id(),
            with_hidden,
            CHOICES_MAX
        );
        groups.fetch_all(database).await
    }
}

/// A card group that the account sees. Only [`find`](Self::find) creates one, so it proves the check of the owner.
#[derive(Debug)]
pub(in crate::console::pages) struct OwnGroup {
    id: i32,
    name: String,
    owner_id: i32,
    is_hidden: bool,
}

impl OwnGroup {
    /// Finds the group. A reseller does not learn whether a group of another owner exists.
    pub(in crate::console::pages) async fn find(
        database: impl PgExecutor<'_>,
        session: &Session,
        id: i32,
    ) -> Result<Self, ConsoleError> {
        let group = sqlx::query_as!(
            Self,
            r#"select id, name, coalesce(owner_id, 0) as "owner_id!", hidden <> 0 as "is_hidden!"
               from cardgroups where id = $1 and ($2::integer is null or owner_id = $2)"#,
            id,
            session.owner_id()
        );
        let group = group.fetch_optional(database).await?;
        group.ok_or_else(|| ConsoleError::NotFound(format!("There is no card group {id}.")))
    }

    pub(in crate::console::pages) fn id(&self) -> i32 {
        self.id
    }

    pub(in crate::console::pages) fn name(&self) -> &str {
        &self.name
    }

    pub(in crate::console::pages) fn owner_id(&self) -> i32 {
        self.owner_id
    }

    pub(in crate::console::pages) fn is_hidden(&self) -> bool {
        self.is_hidden
    }

    /// Selects the cards of a batch.
    pub(in crate::console::pages) fn select_batch(
        &self,
        batch_number: &str,
        numbers: &NumberFields,
    ) -> Result<CardSelection, ConsoleError> {
        match batch_number {
            "" => Err(ConsoleError::Refused("Enter a batch number.".to_owned())),
            batch_number => self.select(batch_number, numbers),
        }
    }

    /// Selects the cards of a batch (empty: all of the group).
    pub(in crate::console::pages) fn select(
        &self,
        batch_number: &str,
        numbers: &NumberFields,
    ) -> Result<CardSelection, ConsoleError> {
        let numbers = match (numbers.from.trim(), numbers.till.trim()) {
            ("", "") => None,
            ("", _) | (_, "") => {
                return Err(ConsoleError::Refused("Enter both numbers, or none: none means all cards.".to_owned()));
            }
            (from, till) => Some((from.to_owned(), till.to_owned())),
        };
        let batch_number = Some(batch_number.to_owned()).filter(|number| !number.is_empty());
        Ok(CardSelection::new(Some(self.id), batch_number, numbers)?)
    }
}
