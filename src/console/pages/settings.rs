//! `/settings`: MOR's settings in the database, which can be changed, and the server's own settings, which cannot.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use minijinja::context;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::back_office::settings::{self, SETTINGS, SettingInfo, SettingType, StoredSetting};
use crate::back_office::users::{self, ADMIN_ID};
use crate::console::Console;
use crate::console::access::Access;
use crate::console::error::ConsoleError;
use crate::console::form::Form;
use crate::console::render::{PageResult, to_value};
use crate::console::route::Route;
use crate::console::session::Session;
use crate::console::submission::Done;
use crate::{input, number};

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/settings", Access::ADMIN, show), Route::post("/settings/{name}", Access::ADMIN, change)]
}

/// The sections of the page, in order.
const SECTIONS: [(&str, &str); 4] =
    [("api", "API"), ("groups", "Card groups and tariffs"), ("email", "E-mail"), ("taxes", "Taxes")];

/// Returns the section of a setting.
fn section(name: &str) -> &'static str {
    match name {
        name if name.to_ascii_lowercase().contains("email") => "email",
        name if name.to_ascii_lowercase().contains("tax") => "taxes",
        name if name.contains("API") => "api",
        _ => "groups",
    }
}

/// A section of the page.
#[derive(Debug, Serialize)]
struct Section {
    id: &'static str,
    title: &'static str,
    settings: Vec<ShownSetting>,
}

/// A setting with its value.
#[derive(Debug, Serialize)]
struct ShownSetting {
    name: &'static str,
    kind: &'static str,
    default: &'static str,
    description: &'static str,
    /// `None`: not set.
    value: Option<String>,
    /// The second value, which some settings of MOR have.
    value2: Option<String>,
    is_switch: bool,
    is_on: bool,
    is_secret: bool,
    /// Whether the page changes it. Keys are changed on the page of their owner.
    is_key: bool,
}

impl ShownSetting {
    fn new(info: &SettingInfo, stored: &[StoredSetting]) -> Self {
        let stored = stored.iter().find(|stored| stored.name == info.name);
        let is_key = info.name.starts_with("API_Secret_Key");
        let value = stored.map(|stored| stored.value.clone());
        let is_on = value.as_deref().map_or(info.default == "on", |value| number::parse_integer(value) == 1);
        Self {
            name: info.name,
            kind: info.kind.name(),
            default: info.default,
            description: info.description,
            value,
            value2: stored.and_then(|stored| stored.value2.clone()).filter(|value2| !value2.is_empty()),
            is_switch: info.kind == SettingType::Switch,
            is_on,
            is_secret: settings::is_secret(info.name),
            is_key,
        }
    }
}

#[derive(Debug, Deserialize)]
struct OwnerQuery {
    /// The user whose settings are shown.
    #[serde(default)]
    owner: i32,
}

async fn show(
    State(console): State<Arc<Console>>,
    session: Session,
    Query(OwnerQuery { owner }): Query<OwnerQuery>,
) -> PageResult {
    let mut connection = console.pool.acquire().await?;
    let owner_name = check_owner(&mut connection, owner).await?;
    let stored = settings::load(&mut *connection, owner).await?;
    let sections = SECTIONS.map(|(id, title)| Section {
        id,
        title,
        settings: SETTINGS
            .iter()
            .filter(|info| section(info.name) == id)
            .map(|info| ShownSetting::new(info, &stored))
            .collect(),
    });
    let values = context! {
        owner,
        owner_name,
        is_system => owner == ADMIN_ID,
        sections => to_value(sections),
        server => to_value(&console.app.config.in_effect),
    };
    console.render(&session, "settings.html", values)
}

/// Returns the name of an owner of settings.
async fn check_owner(connection: &mut PgConnection, owner: i32) -> Result<String, ConsoleError> {
    let name =
        sqlx::query_scalar!("select username from users where id = $1 and ($1 = 0 or usertype = 'reseller')", owner);
    let name = name.fetch_optional(connection).await?;
    name.ok_or_else(|| ConsoleError::NotFound(format!("The user with the id {owner} has no settings.")))
}

/// Without `Debug`: the value can be a password.
#[derive(Deserialize)]
struct ChangeFields {
    owner: i32,
    value: String,
}

async fn change(State(console): State<Arc<Console>>, Path(name): Path<String>, form: Form<ChangeFields>) -> PageResult {
    form.carry_out(&console, async |connection, author, _, ChangeFields { owner, value }| {
        let info = settings::find(&name).filter(|info| !info.name.starts_with("API_Secret_Key"));
        let info = info.ok_or_else(|| ConsoleError::NotFound(format!("There is no setting {name:?} here.")))?;
        let owner_name = check_owner(&mut *connection, owner).await?;
        let value = check_value(info, &value)?;
        users::lock(&mut *connection, owner).await?;
        let changed = settings::set(connection, owner, info.name, &value, false, author).await?;
        let message = format!(
            "{} of {owner_name} is {:?} now (it was {:?}). Every server applies it within a second.",
            info.name, changed.after, changed.before
        );
        Ok(Done::new(format!("/settings?owner={owner}"), message))
    })
    .await
}

/// Checks a value as the command does, and returns it as it is stored.
fn check_value(info: &SettingInfo, value: &str) -> Result<String, ConsoleError> {
    let refused = |message: String| ConsoleError::Refused(format!("{message}."));
    input::parse_column_text(value).map_err(|message| refused(format!("{} cannot be used: {message}", info.name)))?;
    if settings::is_secret(info.name) && value.is_empty() {
        return Err(refused(format!("{} is empty: type the new one", info.name)));
    }
    settings::normalize(info.name, value).map_err(refused)
}
