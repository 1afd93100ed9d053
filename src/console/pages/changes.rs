//! `/changes`: the change log, searchable, with the values before and after each change.

use std::sync::Arc;

use axum::extract::{Query, State};
use minijinja::context;
use serde::{Deserialize, Serialize};

use super::{next_of, rows_to_read};
use crate::back_office::changes::{ChangeFilter, DAYS_DEFAULT, Export, FoundChange, Search, hide_author};
use crate::console::Console;
use crate::console::access::{Access, Role};
use crate::console::download::send_file;
use crate::console::error::ConsoleError;
use crate::console::form::ConfirmedForm;
use crate::console::render::{PageResult, to_value};
use crate::console::route::Route;
use crate::console::session::Session;
use crate::store::change_log::What;

/// Changes on a page.
const ROWS: usize = 50;

/// Fields with an amount of money, in the system's currency: kind of data and name.
const AMOUNTS: [(&str, &str); 5] = [
    ("card_group", "price"),
    ("card_group", "setup_fee"),
    ("card_group", "daily_charge"),
    ("card", "balance"),
    ("user", "balance"),
];

/// Kinds of data whose pages are for admins only.
const OF_ADMINS: [&str; 5] = ["user", "right", "setting", "key", "console_account"];

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/changes", Access::CHANGES, show), Route::post("/changes/export", Access::ADMIN, export)]
}

#[derive(Debug, Deserialize)]
struct Position {
    /// The id of the last row of the previous page.
    before: Option<i64>,
}

/// A change on the page.
#[derive(Debug, Serialize)]
pub(super) struct ShownChange {
    #[serde(flatten)]
    change: FoundChange,
    /// The kind of data in words.
    kind: String,
    /// The page of the target, if there is one.
    path: Option<String>,
    /// The page with all changes of the target.
    history: Option<String>,
    shown_fields: Vec<ShownField>,
}

/// A changed field.
#[derive(Debug, Serialize)]
struct ShownField {
    name: String,
    /// What an amount is.
    unit: Option<String>,
    before: Option<String>,
    after: Option<String>,
}

async fn show(
    State(console): State<Arc<Console>>,
    session: Session,
    Query(mut filter): Query<ChangeFilter>,
    Query(Position { before }): Query<Position>,
) -> PageResult {
    let given_from = filter.from.clone();
    let is_admin = session.account.role == Role::Admin;
    let is_visible = |kind: &str| is_admin || !OF_ADMINS.contains(&kind);
    let mut search = Search::prepare(&console.pool, &mut filter, before).await?;
    if !is_admin {
        search = search.limit_kinds(is_visible);
    }
    let ChangePage { changes, next } = ChangePage::read(&console, &session, &search, ROWS).await?;
    let query = serde_urlencoded::to_string(&filter).map_err(|error| ConsoleError::Failed(error.to_string()))?;
    let next = next.map(|last| format!("/changes?{query}&before={last}"));
    let first = before.map(|_| format!("/changes?{query}"));
    let values = context! {
        changes => to_value(changes),
        next,
        first,
        is_limited => filter.from != given_from,
        days => DAYS_DEFAULT,
        kinds => What::NAMES.iter().copied().filter(|kind| is_visible(kind)).collect::<Vec<_>>(),
        filter => to_value(&filter),
    };
    console.render(&session, "changes.html", values)
}

/// A page of changes, as `change_table.html` shows them.
#[derive(Debug)]
pub(super) struct ChangePage {
    pub(super) changes: Vec<ShownChange>,
    /// The id of the last change, if there are earlier ones.
    pub(super) next: Option<i64>,
}

impl ChangePage {
    /// Reads the next changes of a search.
    pub(super) async fn read(
        console: &Console,
        session: &Session,
        search: &Search,
        rows_max: usize,
    ) -> Result<Self, ConsoleError> {
        let mut changes = search.read_page(&console.pool, rows_to_read(rows_max)).await?;
        let next = next_of(&mut changes, rows_max).map(|last| last.id);
        let currency = console.system_currency().await?;
        let is_net = console.app.config.dialect.stores_net_prices();
        let changes = changes.into_iter().map(|change| ShownChange::new(change, &currency, is_net, session));
        Ok(Self { changes: changes.collect(), next })
    }
}

impl ShownChange {
    fn new(mut change: FoundChange, currency: &str, is_net: bool, session: &Session) -> Self {
        let role = session.account.role;
        let is_admin = role == Role::Admin;
        if role == Role::Reseller {
            hide_author(&mut change.who, &mut change.operator, change.user_id, &session.account.name);
        }
        let what = change.what.as_str();
        let unit = |name: &str| {
            let is_net_price = is_net && name == "price";
            let note = if is_net_price { ", without taxes" } else { "" };
            AMOUNTS.contains(&(what, name)).then(|| format!("{currency}{note}"))
        };
        let shown_fields = change.fields.iter().map(|(name, before, after)| ShownField {
            name: name.clone(),
            unit: unit(name),
            before: before.as_deref().map(trim_zeros),
            after: after.as_deref().map(trim_zeros),
        });
        let shown_fields = shown_fields.collect();
        let id = change.target_id;
        let path = match (what, id) {
            ("card", Some(id)) => Some(format!("/cards/{id}")),
            ("card_group", Some(id)) => Some(format!("/groups/{id}")),
            ("user" | "key", Some(id)) if is_admin => Some(format!("/users/{id}")),
            ("setting", Some(id)) if is_admin => Some(format!("/settings?owner={id}")),
            ("mail", _) => Some("/mail".to_owned()),
            _ => None,
        };
        let history = id.filter(|_| Access::CHANGES.allows(role)).map(|id| format!("/changes?what={what}&target={id}"));
        Self { kind: what.replace('_', " "), path, history, shown_fields, change }
    }
}

/// Removes the zeros at the end of a decimal: the database prints fifteen decimals.
fn trim_zeros(value: &str) -> String {
    let is_decimal = value.contains('.') && value.chars().all(|char| char.is_ascii_digit() || "-.".contains(char));
    match is_decimal {
        true => value.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => value.to_owned(),
    }
}

/// Sends all changes that a search finds, as CSV.
async fn export(State(console): State<Arc<Console>>, ConfirmedForm(form): ConfirmedForm<ChangeFilter>) -> PageResult {
    let mut filter = form.fields.clone();
    let search = Search::prepare(&console.pool, &mut filter, None).await?;
    form.confirm(&console).await?;
    let chunks = Export::new(console.pool.clone(), search).into_stream();
    Ok(send_file("mortise-changes.csv", "text/csv; charset=utf-8", chunks))
}
