//! `/cards/ID`: everything about one card, and what can be done with it now.

mod actions;
mod limit;
mod own_card;

use std::sync::Arc;

use axum::extract::{Query, State};
use bigdecimal::BigDecimal;
use minijinja::context;
use serde::Deserialize;

use self::own_card::OwnCard;
use crate::back_office::timeline::{self, Position};
use crate::back_office::{details, offers, top_up};
use crate::console::Console;
use crate::console::access::{Access, Role};
use crate::console::error::ConsoleError;
use crate::console::render::{PageResult, to_value};
use crate::console::route::Route;
use crate::console::session::Session;
use crate::money::Money;

/// Every handler takes the card as [`OwnCard`], which checks its owner.
pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/cards/{id}", Access::ALL, show),
        Route::post("/cards/{id}/top-up", Access::WRITERS, actions::top_up),
        Route::post("/cards/{id}/void", Access::WRITERS, actions::void),
        Route::post("/cards/{id}/reissue", Access::WRITERS, actions::reissue),
        Route::post("/cards/{id}/block", Access::WRITERS, actions::block),
        Route::post("/cards/{id}/unblock", Access::WRITERS, actions::unblock),
        Route::post("/cards/{id}/send", Access::WRITERS, actions::send_again),
        Route::post("/cards/{id}/pin", Access::WRITERS, actions::reveal_pin),
    ]
}

#[derive(Debug, Deserialize)]
struct ShowParameters {
    /// The position in the timeline of the page before this one.
    #[serde(default)]
    before: Option<String>,
}

async fn show(
    State(console): State<Arc<Console>>,
    session: Session,
    OwnCard { id }: OwnCard,
    Query(parameters): Query<ShowParameters>,
) -> PageResult {
    let before = match &parameters.before {
        Some(text) => Some(Position::parse(text).ok_or_else(|| ConsoleError::Malformed("before".to_owned()))?),
        None => None,
    };
    let currency = console.system_currency().await?;
    let mut connection = console.pool.acquire().await?;
    let details = details::load_without_history(&mut connection, id).await?;
    let offers = offers::load(&mut connection, &details.card).await?;
    let reseller = session.owner_id().map(|_| session.account.name.as_str());
    let timeline = timeline::load(&mut connection, &details.card, before, reseller).await?;
    let tax_percent = load_tax_percent(&mut connection, details.card.cardgroup_id).await?;
    let left_today = match session.account.role {
        Role::Support => Some(limit::load_left(&console, &mut connection, id).await?),
        Role::Admin | Role::Reseller | Role::ReadOnly => None,
    };
    let values = context! {
        currency, tax_percent,
        pin_length => details.card.pin_length,
        sees_groups => Access::GROUPS.allows(session.account.role),
        left_today => left_today.map(|left| Money::from(left.max(BigDecimal::from(0))).to_plain_string()),
        is_first_page => before.is_none(),
        description_chars_max => top_up::DESCRIPTION_CHARS_MAX,
        exchange => to_value(&details.void_and_exchange),
        details => to_value(details),
        offers => to_value(offers),
        timeline => to_value(timeline),
    };
    console.render(&session, "card.html", values)
}

/// Returns the taxes of a card group in percent, as text.
async fn load_tax_percent(connection: &mut sqlx::PgConnection, cardgroup_id: i32) -> sqlx::Result<String> {
    sqlx::query_scalar!(
        r#"select plain_text(round(100 * effective_tax_rate(tax_id, owner_id), 4)) as "percent!" from cardgroups where id = $1"#,
        cardgroup_id
    )
    .fetch_one(connection)
    .await
}
