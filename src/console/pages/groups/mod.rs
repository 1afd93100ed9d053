//! `/groups`: the card groups, with their stock, prices and changes.

mod edit;
mod fields;
mod own;

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use minijinja::context;
use serde::{Deserialize, Serialize};

use self::fields::{Choices, load_values};
pub(super) use self::own::{GroupChoice, NumberFields, OwnGroup};
use super::changes::ChangePage;
use super::{next_of, rows_to_read};
use crate::back_office::changes::Search;
use crate::console::Console;
use crate::console::access::Access;
use crate::console::form::{Form, NoFields};
use crate::console::render::{PageResult, to_value};
use crate::console::route::Route;
use crate::console::session::Session;
use crate::console::submission::Done;
use crate::money::Money;
use crate::store::card_group;
use crate::store::change_log::What;

/// Groups on a page.
const GROUPS_MAX: usize = 25;
/// Changes on a page.
const CHANGES_MAX: usize = 20;
/// Free cards of a group that a page counts.
const COUNTED_CARDS_MAX: i64 = 10_000;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/groups", Access::GROUPS, list),
        Route::get("/groups/new", Access::GROUPS, edit::show_new),
        Route::post("/groups/new", Access::ADMIN_RESELLER, edit::create),
        Route::get("/groups/{id}", Access::GROUPS, show),
        Route::get("/groups/{id}/edit", Access::GROUPS, edit::show_existing),
        Route::post("/groups/{id}/edit", Access::ADMIN_RESELLER, edit::change),
        Route::post("/groups/{id}/hide", Access::ADMIN_RESELLER, hide),
        Route::post("/groups/{id}/restore", Access::ADMIN_RESELLER, restore),
    ]
}

/// What to list.
#[derive(Debug, Deserialize, Serialize)]
struct ListQuery {
    /// A part of the name.
    #[serde(default)]
    q: String,
    /// 1: hidden groups too.
    #[serde(default)]
    hidden: String,
    /// The groups that follow the one with this id.
    before: Option<i32>,
}

/// A group in the list.
#[derive(Debug, Serialize)]
struct GroupRow {
    id: i32,
    name: String,
    owner: Option<String>,
    price: Money,
    price_with_tax: Money,
    tax_percent: String,
    valid_from: Option<String>,
    valid_till: Option<String>,
    has_expired: bool,
    is_hidden: bool,
    /// Free cards, at most [`COUNTED_CARDS_MAX`].
    stock: i64,
}

/// Lists the groups, the newest first.
async fn list(State(console): State<Arc<Console>>, session: Session, Query(query): Query<ListQuery>) -> PageResult {
    let with_hidden = query.hidden == "1";
    let mut groups = load_groups(&console, &session, &query, None).await?;
    let next = next_of(&mut groups, GROUPS_MAX).map(|group| group.id);
    let currency = console.system_currency().await?;
    let groups = to_value(groups);
    let values = context! { groups, next, currency, with_hidden, q => query.q, counted_max => COUNTED_CARDS_MAX };
    console.render(&session, "groups.html", values)
}

/// Loads a page of groups and one more, or the only group.
async fn load_groups(
    console: &Console,
    session: &Session,
    query: &ListQuery,
    only: Option<i32>,
) -> sqlx::Result<Vec<GroupRow>> {
    let groups = sqlx::query_file_as!(
        GroupRow,
        "src/console/pages/groups/list.sql",
        session.owner_id(),
        query.hidden == "1",
        query.before,
        query.q.trim(),
        only,
        COUNTED_CARDS_MAX,
        rows_to_read(GROUPS_MAX)
    );
    groups.fetch_all(&console.pool).await
}

/// Which changes of a group to show.
#[derive(Debug, Deserialize)]
struct HistoryQuery {
    /// The changes that precede the one with this id.
    before: Option<i64>,
}

/// Shows a group with its changes.
async fn show(
    State(console): State<Arc<Console>>,
    session: Session,
    Path(id): Path<i32>,
    Query(history): Query<HistoryQuery>,
) -> PageResult {
    let own = OwnGroup::find(&console.pool, &session, id).await?;
    let all = ListQuery { q: String::new(), hidden: "1".to_owned(), before: None };
    let group = load_groups(&console, &session, &all, Some(own.id())).await?.pop();
    let search = Search::of_row(&console.pool, What::CardGroup, own.id().into(), history.before).await?;
    let ChangePage { changes, next } = ChangePage::read(&console, &session, &search, CHANGES_MAX).await?;
    let currency = console.system_currency().await?;
    let mut connection = console.pool.acquire().await?;
    let values = load_values(&mut connection, &own).await?;
    let fields = Choices::load(&mut connection, &session).await?.fields(&values, &values, true);
    let (group, changes, fields) = (to_value(group), to_value(changes), to_value(fields));
    let values = context! { group, changes, fields, next, currency, counted_max => COUNTED_CARDS_MAX };
    console.render(&session, "group.html", values)
}

async fn hide(State(console): State<Arc<Console>>, Path(id): Path<i32>, form: Form<NoFields>) -> PageResult {
    set_hidden(&console, id, true, form).await
}

async fn restore(State(console): State<Arc<Console>>, Path(id): Path<i32>, form: Form<NoFields>) -> PageResult {
    set_hidden(&console, id, false, form).await
}

async fn set_hidden(console: &Console, id: i32, is_hidden: bool, form: Form<NoFields>) -> PageResult {
    form.carry_out(console, async |connection, author, session, NoFields {}| {
        let group = OwnGroup::find(&mut *connection, session, id).await?;
        card_group::set_hidden(connection, group.id(), is_hidden, author).await?;
        let message = match is_hidden {
            true => "The group is hidden. It sells nothing.",
            false => "The group is restored. It sells again.",
        };
        Ok(Done::new(format!("/groups/{id}"), message))
    })
    .await
}
