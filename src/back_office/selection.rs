//! Selects many cards: a batch, a card group, a range of numbers.

use std::time::Duration;

use serde::Serialize;
use sqlx::PgConnection;

use super::BackOfficeError;
use crate::number;
use crate::store::change_log::{Author, Change, Target, What};

/// Settings for a statement that reads or changes many cards: it is planned for its values, may read whole tables, and
/// may take longer than a request.
const SETTINGS: &str = "set local plan_cache_mode = force_custom_plan; set local enable_seqscan = on;
    set local enable_bitmapscan = on; set local enable_hashjoin = on; set local enable_sort = on;
    set local work_mem = '64MB'; set local statement_timeout = '1h'";

/// SQLSTATE `query_canceled`: also after `statement_timeout`.
const QUERY_CANCELED: &str = "57014";

/// Cards that have all given properties. Deleted and quarantined cards are never selected.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CardSelection {
    /// The id of the card group.
    pub group: Option<i32>,
    /// The batch number.
    pub batch_number: Option<String>,
    /// The first and the last number, of the same length.
    pub numbers: Option<(String, String)>,
}

/// The selected cards of one group; the changed cards of one group whose numbers have the same length.
#[derive(Debug, Clone, Serialize)]
pub struct SelectedCards {
    /// The id of the card group.
    pub group: i32,
    /// The name of the card group.
    pub name: String,
    /// How many.
    pub cards: i64,
    /// The lowest number. `None`: no card has a number.
    pub first: Option<String>,
    /// The highest number.
    pub last: Option<String>,
}

/// How many of the selected cards have a state.
#[derive(Debug, Serialize)]
pub struct StateCount {
    /// As the SQL function `card_state` returns it.
    pub state: String,
    /// How many cards.
    pub cards: i64,
    /// The lowest number. `None`: no card has a number.
    #[serde(skip)]
    pub first: Option<String>,
    /// The highest number.
    #[serde(skip)]
    pub last: Option<String>,
}

impl CardSelection {
    /// Creates a selection; at least one property is given.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::Refused`] if the numbers are no range, or nothing is given.
    pub fn new(
        group: Option<i32>,
        batch_number: Option<String>,
        numbers: Option<(String, String)>,
    ) -> Result<Self, BackOfficeError> {
        if let Some((first, last)) = &numbers {
            if !number::is_digits(first) || !number::is_digits(last) || first.len() != last.len() {
                let message = format!("{first} to {last} is no range of numbers: both have the same number of digits");
                return Err(BackOfficeError::Refused(message));
            }
            if first > last {
                let message = format!("{first} to {last} is no range of numbers: the first is greater than the last");
                return Err(BackOfficeError::Refused(message));
            }
        }
        if group.is_none() && batch_number.is_none() && numbers.is_none() {
            return Err(BackOfficeError::refused("name a batch, a card group, or a range of numbers"));
        }
        Ok(Self { group, batch_number, numbers })
    }

    /// Returns the selection in words.
    pub fn describe(&self) -> String {
        let parts = [
            self.batch_number.as_ref().map(|batch| format!("batch {batch}")),
            self.group.map(|group| format!("group {group}")),
            self.numbers.as_ref().map(|(first, last)| format!("numbers {first} to {last}")),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    pub(super) fn first_number(&self) -> Option<&str> {
        self.numbers.as_ref().map(|(first, _)| first.as_str())
    }

    pub(super) fn last_number(&self) -> Option<&str> {
        self.numbers.as_ref().map(|(_, last)| last.as_str())
    }

    /// Counts the cards by their state.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::NotFound`] if the selection has no card.
    pub async fn count(&self, connection: &mut PgConnection) -> Result<Vec<StateCount>, BackOfficeError> {
        allow_many_cards(&mut *connection).await?;
        self.count_states(connection).await
    }

    /// Counts the cards by their state, unless that takes longer than `timeout`: `None`. The transaction is of no use
    /// then.
    ///
    /// # Errors
    ///
    /// As for [`count`](Self::count).
    pub async fn count_within(
        &self,
        connection: &mut PgConnection,
        timeout: Duration,
    ) -> Result<Option<Vec<StateCount>>, BackOfficeError> {
        allow_many_cards(&mut *connection).await?;
        let timeout = format!("{}ms", timeout.as_millis());
        sqlx::query!("select set_config('statement_timeout', $1, true)", timeout).fetch_one(&mut *connection).await?;
        match self.count_states(connection).await {
            Err(BackOfficeError::Database(error)) if is_canceled(&error) => Ok(None),
            counts => counts.map(Some),
        }
    }

    async fn count_states(&self, connection: &mut PgConnection) -> Result<Vec<StateCount>, BackOfficeError> {
        let counts = sqlx::query_as!(
            StateCount,
            r#"select card_state(c) as "state!", count(*) as "cards!", min(number collate "C") as first,
                   max(number collate "C") as last
               from cards c
               where is_selected(c, $1, $2, $3, $4)
               group by 1 order by 1"#,
            self.group,
            self.batch_number,
            self.first_number(),
            self.last_number()
        );
        let counts = counts.fetch_all(connection).await?;
        if counts.is_empty() { Err(self.not_found()) } else { Ok(counts) }
    }

    /// Returns the selected cards of each group, in the order of the groups' ids. A group that is named without other
    /// properties may be empty.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::NotFound`] if the selection has no card, or the named group does not exist.
    pub async fn groups(&self, connection: &mut PgConnection) -> Result<Vec<SelectedCards>, BackOfficeError> {
        allow_many_cards(&mut *connection).await?;
        let groups = sqlx::query_as!(
            SelectedCards,
            r#"select c.cardgroup_id as "group!", g.name, c.cards as "cards!", c.first, c.last
               from (
                   select cardgroup_id, count(*) as cards, min(number) as first, max(number) as last
                   from cards c
                   where is_selected(c, $1, $2, $3, $4)
                   group by cardgroup_id
               ) c join cardgroups g on g.id = c.cardgroup_id
               order by c.cardgroup_id"#,
            self.group,
            self.batch_number,
            self.first_number(),
            self.last_number()
        );
        let groups = groups.fetch_all(&mut *connection).await?;
        match (groups.is_empty(), self) {
            (true, Self { group: Some(id), batch_number: None, numbers: None }) => {
                let name = sqlx::query_scalar!("select name from cardgroups where id = $1", id);
                let name = name.fetch_optional(connection).await?.ok_or_else(|| group_not_found(*id))?;
                Ok(vec![SelectedCards { group: *id, name, cards: 0, first: None, last: None }])
            }
            (true, _) => Err(self.not_found()),
            (false, _) => Ok(groups),
        }
    }

    fn not_found(&self) -> BackOfficeError {
        BackOfficeError::NotFound(format!("there is no card in {}", self.describe()))
    }
}

/// The error of a card group that does not exist.
pub fn group_not_found(id: i32) -> BackOfficeError {
    BackOfficeError::NotFound(format!("there is no card group {id}, or it is hidden: `mortise group list` shows all"))
}

/// Whether a statement was canceled, for example because it has reached its time limit.
pub(super) fn is_canceled(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == QUERY_CANCELED)
}

/// Changes the settings of the transaction for statements on many cards.
pub(super) async fn allow_many_cards(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::raw_sql(SETTINGS).execute(connection).await.map(drop)
}

/// Writes a row of the change log for the changed cards of each group and length of numbers: a row has a range of
/// numbers of one length.
pub(super) async fn record_changes(
    connection: &mut PgConnection,
    changed: &[SelectedCards],
    change: &serde_json::Value,
    author: &Author,
) -> sqlx::Result<()> {
    for cards in changed {
        let target = match (&cards.first, &cards.last) {
            (Some(first), Some(last)) => Target::Cards { group: cards.group, first, last },
            _ => Target::Named("cards without a number"),
        };
        let mut after = change.clone();
        after["cards"] = cards.cards.into();
        Change { what: What::Card, target, before: None, after: Some(after.to_string()) }
            .record(&mut *connection, author)
            .await?;
    }
    Ok(())
}
