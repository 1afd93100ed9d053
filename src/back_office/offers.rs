//! What can be done with a card now, and why not: the rules of the changes, without making them.

use serde::Serialize;
use sqlx::PgConnection;

use super::details::CardRow;
use super::void::VoidTerms;
use super::{BackOfficeError, reissue, top_up, withhold};

/// A change that is possible, or the reason why it is not.
#[derive(Debug, Serialize)]
pub struct Offer {
    /// Why the change would be refused. `None`: it is possible.
    pub refused: Option<String>,
}

/// The changes of a card.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the names of the changes")]
pub struct CardOffers {
    pub top_up: Offer,
    pub void: VoidTerms,
    pub reissue: Offer,
    /// Blocking, or unblocking if the card is blocked.
    pub block: Offer,
    pub is_blocked: bool,
}

/// Returns what can be done with the card. The state can change until the card is locked.
///
/// # Errors
///
/// As [`VoidTerms::load`].
pub async fn load(connection: &mut PgConnection, card: &CardRow) -> Result<CardOffers, BackOfficeError> {
    let number = card.number.as_deref().unwrap_or_default();
    let mut reissue = reissue::refusal(number, &card.state, card.sold);
    if reissue.is_none() && !has_stock(&mut *connection, card.cardgroup_id).await? {
        reissue = Some(format!("the card group {} has no free card", card.cardgroup));
    }
    let in_use = !["retired", "quarantined", "deleted"].contains(&card.state.as_str());
    Ok(CardOffers {
        top_up: Offer { refused: top_up::refusal(number, &card.state, card.sold) },
        void: VoidTerms::load(connection, card.id).await?,
        reissue: Offer { refused: reissue },
        block: Offer { refused: withhold::refusal(in_use) },
        is_blocked: card.withheld.as_deref() == Some("blocked"),
    })
}

async fn has_stock(connection: &mut PgConnection, cardgroup_id: i32) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"select exists (select from card_stock where cardgroup_id = $1) as "exists!""#, cardgroup_id)
        .fetch_one(connection)
        .await
}
