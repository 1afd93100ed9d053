//! `/users`: the list of API users, and new ones. `/users/ID` is in `user.rs`, `/users/hash` in `hash.rs`.

mod hash;
mod user;

use std::sync::Arc;

use axum::extract::{Query, State};
use minijinja::{Value, context};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use strum::VariantArray;

use super::{next_of, rows_to_read};
use crate::accounts::UserType;
use crate::back_office::resellers::{self, NewReseller};
use crate::back_office::rights::RightRow;
use crate::back_office::users::{self, ListedUser, NewUser, PasswordHashes, UserFilter};
use crate::back_office::{keys, rights};
use crate::console::Console;
use crate::console::access::Access;
use crate::console::error::ConsoleError;
use crate::console::form::{ConfirmedForm, Form};
use crate::console::render::{PageResult, to_value};
use crate::console::route::Route;
use crate::console::session::Session;
use crate::console::submission::Done;
use crate::input;

/// Users on a page.
const ROWS: usize = 100;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/users", Access::ADMIN, show),
        Route::post("/users", Access::ADMIN, add),
        Route::post("/users/resellers", Access::ADMIN, create_reseller),
        Route::get("/users/hash", Access::ADMIN, hash::show),
        Route::post("/users/hash", Access::ADMIN, hash::explain),
        Route::get("/users/{id}", Access::ADMIN, user::show),
        Route::post("/users/{id}/block", Access::ADMIN, user::block),
        Route::post("/users/{id}/unblock", Access::ADMIN, user::unblock),
        Route::post("/users/{id}/password", Access::ADMIN, user::set_password),
        Route::post("/users/{id}/rights", Access::ADMIN, user::give_rights),
        Route::post("/users/{id}/key", Access::ADMIN, user::rotate_key),
        Route::post("/users/{id}/key/end", Access::ADMIN, user::end_previous_key),
    ]
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct ListQuery {
    kind: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<i32>,
}

impl ListQuery {
    /// Returns the path of the page that begins after this user.
    fn path(&self, after: Option<i32>) -> Result<String, ConsoleError> {
        let query = Self { kind: self.kind.clone(), name: self.name.clone(), after };
        let query = serde_urlencoded::to_string(query).map_err(|error| ConsoleError::Failed(error.to_string()))?;
        Ok(format!("/users?{query}"))
    }
}

/// A user in the list.
#[derive(Debug, Serialize)]
struct UserEntry {
    #[serde(flatten)]
    user: ListedUser,
    is_hidden: bool,
    has_key: bool,
}

async fn show(State(console): State<Arc<Console>>, session: Session, Query(query): Query<ListQuery>) -> PageResult {
    let name = Some(query.name.trim()).filter(|name| !name.is_empty());
    let kind = UserType::VARIANTS.iter().copied().find(|kind| kind.name() == query.kind);
    let limit = Some(rows_to_read(ROWS));
    let mut users = users::list(&console.pool, &UserFilter { kind, name, after: query.after, limit }).await?;
    let next = next_of(&mut users, ROWS).map(|user| query.path(Some(user.id))).transpose()?;
    let first = query.after.map(|_| query.path(None)).transpose()?;
    let users: Vec<UserEntry> =
        users.into_iter().map(|user| UserEntry { is_hidden: user.is_hidden, has_key: user.has_key, user }).collect();
    let kinds: Vec<&str> = UserType::VARIANTS.iter().map(|kind| kind.name()).collect();
    let values = context! {
        users => to_value(users),
        next,
        first,
        query => to_value(&query),
        kinds => to_value(kinds),
        groups => group_names(&rights::list(&console.pool).await?, None),
        must_send_password => console.app.config.require_password,
    };
    console.render(&session, "users.html", values)
}

/// Returns the names of the permission groups, with their types; only those for a type of users, if one is given.
fn group_names(rights: &[RightRow], kind: Option<&str>) -> Value {
    let rows = rights.iter().filter(|row| kind.is_none_or(|kind| kind == row.r#type));
    let mut groups: Vec<(&str, &str)> = rows.map(|row| (row.group.as_str(), row.r#type.as_str())).collect();
    groups.dedup();
    to_value(groups)
}

#[derive(Debug, Deserialize)]
struct NewUserFields {
    name: String,
    kind: UserType,
    #[serde(default)]
    owner: String,
    #[serde(default)]
    group: String,
    password: SecretString,
    repeated: SecretString,
}

async fn add(State(console): State<Arc<Console>>, form: Form<NewUserFields>) -> PageResult {
    form.carry_out(&console, async |connection, author, _, fields| {
        let name = check_name(&fields.name)?;
        let hashes = PasswordHashes::of_argon2(console.hash_new_password(fields.password, &fields.repeated).await?);
        let optional = |text: &'_ str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let (owner, group) = (optional(&fields.owner), optional(&fields.group));
        let new = NewUser {
            name: &name,
            kind: fields.kind,
            owner: owner.as_deref(),
            permission_group: group.as_deref(),
            hashes: &hashes,
        };
        let id = users::add(connection, &new, author).await?;
        let message = format!("The {} {name} was added, with id {id}.", fields.kind.name());
        Ok(Done::new(format!("/users/{id}"), message))
    })
    .await
}

#[derive(Debug, Deserialize)]
struct NewResellerFields {
    name: String,
    #[serde(default)]
    group: String,
}

/// Creates a reseller that can sell at once, and shows its password and key once.
async fn create_reseller(
    State(console): State<Arc<Console>>,
    ConfirmedForm(form): ConfirmedForm<NewResellerFields>,
) -> PageResult {
    let result = form.carry_out_and_show(
        &console,
        async |connection, author, _, fields| {
            let name = check_name(&fields.name)?;
            let (password, key) = (keys::generate()?, keys::generate()?);
            let hash = console.hash_password(password.clone()).await?;
            let group = Some(fields.group.trim()).filter(|group| !group.is_empty());
            let new = NewReseller { name: &name, password_argon2: &hash, key: &key, permission_group: group };
            let created = resellers::create(connection, &new, author).await?;
            let message = format!(
                "The reseller {name} was created, with id {}, the rights of {}, the tariff {} and the LCR {}.",
                created.id, created.permission_group, created.tariff_id, created.lcr_id
            );
            let location = format!("/users/{}", created.id);
            let again = format!("{message} Password and key were shown once and are not shown again.");
            let secrets = Secrets { location: location.clone(), message, password: Some(password), key };
            Ok((Done::new(location, again), secrets))
        },
        |session, secrets| show_secrets(&console, session, &secrets),
    );
    result.await
}

/// What a page shows only once.
struct Secrets {
    /// The page of the user.
    location: String,
    message: String,
    password: Option<SecretString>,
    key: SecretString,
}

fn show_secrets(console: &Console, session: &Session, secrets: &Secrets) -> PageResult {
    let password = secrets.password.as_ref().map(|password| password.expose_secret().to_owned());
    let key = secrets.key.expose_secret();
    let (location, message) = (secrets.location.as_str(), secrets.message.as_str());
    console.render(session, "secrets.html", context! { location, message, password, key })
}

/// Checks the name of a new user, as the command does.
fn check_name(name: &str) -> Result<String, ConsoleError> {
    input::parse_user_name(name)
        .map_err(|message| ConsoleError::Refused(format!("The name cannot be used: {message}.")))
}
