//! `/search`: finds cards by whatever text the customer has. The text can be a PIN, so that it is in no address and on
//! no page: the form is a POST.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Redirect};
use minijinja::context;
use serde::{Deserialize, Serialize};

use crate::back_office::lookup::{self, CardKey, FoundCard};
use crate::console::Console;
use crate::console::access::Access;
use crate::console::form::Form;
use crate::console::render::{PageResult, to_value};
use crate::console::route::Route;
use crate::console::session::Session;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/search", Access::ALL, show), Route::post("/search", Access::ALL, search)]
}

async fn show(State(console): State<Arc<Console>>, session: Session) -> PageResult {
    console.render(&session, "search.html", context! {})
}

/// Without `Debug`: the text can be a PIN.
#[derive(Deserialize)]
struct SearchFields {
    #[serde(default)]
    q: String,
}

/// A card in the list.
#[derive(Debug, Serialize)]
struct FoundRow {
    #[serde(flatten)]
    card: FoundCard,
    /// What the text is of the card, in words.
    found_by: String,
}

/// Shows the only card, or a list. A search that is sent twice is done twice. Searches for PINs that find nothing are
/// limited: they could try all PINs.
async fn search(State(console): State<Arc<Console>>, Form { fields, session, .. }: Form<SearchFields>) -> PageResult {
    let keys = CardKey::candidates(&fields.q);
    if keys.is_empty() {
        return console.render(&session, "search.html", context! {});
    }
    let is_guess = keys.iter().any(|key| matches!(key, CardKey::Pin(_)));
    let _guess = match is_guess {
        true => Some(console.attempts.begin_guess(&session.account.name).await?),
        false => None,
    };
    let mut connection = console.pool.acquire().await?;
    let found = lookup::search(&mut connection, &keys, session.owner_id()).await?;
    if is_guess && found.cards.is_empty() {
        console.attempts.record_guesses(&session.account.name, 1);
    }
    if !session.may_reveal_pins() {
        lookup::record_found_pins(&mut connection, &found.cards, &session.author()).await?;
    }
    if let ([card], false) = (found.cards.as_slice(), found.has_more) {
        return Ok(Redirect::to(&format!("/cards/{}", card.id)).into_response());
    }
    let mut searched_for: Vec<&str> = keys.iter().map(CardKey::kind).collect();
    searched_for.sort_unstable();
    searched_for.dedup();
    let rows = found.cards.into_iter().map(|card| FoundRow { found_by: card.found_by.join(", "), card });
    let (cards, has_more) = (to_value(rows.collect::<Vec<_>>()), found.has_more);
    console.render(&session, "search.html", context! { cards, has_more, searched_for => searched_for.join(", ") })
}
