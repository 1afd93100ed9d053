//! The card of a request.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use crate::console::Console;
use crate::console::error::ConsoleError;
use crate::console::session::Session;

/// A card that the account of the session may see: any card, or for a reseller one of its own. Handlers get the id from
/// here only, so that none can forget the check. A card of another owner is answered as one that does not exist.
#[derive(Debug)]
pub(super) struct OwnCard {
    /// The card's id.
    pub id: i64,
}

impl FromRequestParts<Arc<Console>> for OwnCard {
    type Rejection = ConsoleError;

    async fn from_request_parts(parts: &mut Parts, console: &Arc<Console>) -> Result<Self, ConsoleError> {
        let session = Session::from_request_parts(parts, console).await?;
        let parameters = Path::<HashMap<String, String>>::from_request_parts(parts, console).await;
        let id = parameters.ok().and_then(|Path(parameters)| parameters.get("id")?.parse::<i64>().ok());
        let found = sqlx::query_scalar!(
            "select id from cards where id = $1 and ($2::integer is null or coalesce(owner_id, 0) = $2)",
            id,
            session.owner_id()
        );
        let found = found.fetch_optional(&console.pool).await?;
        let id = found.ok_or_else(|| ConsoleError::NotFound("There is no such card.".to_owned()))?;
        Ok(Self { id })
    }
}
