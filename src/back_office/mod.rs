//! The rules of the back office (`back-office.md`): what operators do, one function each, for the commands and the
//! console. Each change is one transaction, with a row of the change log.

pub mod backup;
pub mod batches;
pub mod changes;
pub mod details;
pub mod doctor;
pub mod export;
pub mod generate;
pub mod hash_explanation;
pub mod import;
pub mod keys;
pub mod ledger;
pub mod lookup;
pub mod mails;
pub mod offers;
mod outbox;
pub mod overview;
mod payments;
mod pin_capacity;
pub mod refusals;
pub mod reissue;
pub mod reports;
pub mod resellers;
pub mod rights;
pub mod selection;
pub mod settings;
pub mod settle;
pub mod timeline;
pub mod top_up;
pub mod users;
pub mod void;
pub mod void_and_exchange;
pub mod withhold;

use sqlx::PgConnection;

/// Why a function of the back office fails. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum BackOfficeError {
    /// The named card, user, card group… does not exist.
    #[error("{0}")]
    NotFound(String),
    /// A rule does not allow the change, or the input is invalid.
    #[error("{0}")]
    Refused(String),
    /// The database failed.
    #[error("database error: {0}")]
    Database(#[from] sqlx::Error),
}

impl BackOfficeError {
    /// Creates the error of a change that a rule does not allow.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::Refused(message.into())
    }

    /// Creates the error of a card that does not exist.
    pub(crate) fn no_card(id: i64) -> Self {
        Self::NotFound(format!("there is no card with the id {id}"))
    }
}

/// Maximum number of characters of a reason: it is shown in lists and on pages.
const REASON_LEN_MAX: usize = 1_000;

/// Reads the text that says why a change is made.
///
/// # Errors
///
/// If it is blank or too long, or has invisible characters.
pub fn parse_reason(text: &str) -> Result<String, String> {
    if text.chars().count() > REASON_LEN_MAX {
        return Err(format!("it has more than {REASON_LEN_MAX} characters"));
    }
    let text = crate::input::parse_name(text)?;
    if text.trim().is_empty() { Err("say why".to_owned()) } else { Ok(text) }
}

/// Returns the ids of a card and of the cards that it replaces, the newest first.
pub(crate) async fn replaced_cards(connection: &mut PgConnection, card_id: i64) -> sqlx::Result<Vec<i64>> {
    sqlx::query_scalar!(
        r#"with recursive chain (id) as (
               select $1::bigint
               union all
               select replaces_card
               from chain, lateral (
                   select replaces_card from payments where user_id = chain.id and kind in ('sale', 'reissue') offset 0
               ) payment
               where replaces_card is not null
           )
           select id as "id!" from chain"#,
        card_id
    )
    .fetch_all(connection)
    .await
}
