//! `/users/ID`: one API user, with its rights, its key and the last refusals.

use std::sync::Arc;

use axum::extract::{Path, State};
use minijinja::context;
use secrecy::SecretString;
use serde::Deserialize;

use super::{Secrets, group_names, show_secrets};
use crate::back_office::users::{self, PasswordHashes, UserRow};
use crate::back_office::{keys, refusals, rights};
use crate::console::Console;
use crate::console::error::{ConsoleError, sentence};
use crate::console::form::{ConfirmedForm, Form, NoFields};
use crate::console::render::{PageResult, to_value};
use crate::console::session::Session;
use crate::console::submission::Done;

pub(super) async fn show(State(console): State<Arc<Console>>, session: Session, Path(id): Path<i32>) -> PageResult {
    let user = users::load_details(&console.pool, id).await?;
    let user = user.ok_or_else(|| ConsoleError::NotFound(format!("There is no user with the id {id}.")))?;
    let rights = rights::list(&console.pool).await?;
    let group_rights: Vec<(&str, &str)> = rights
        .iter()
        .filter(|row| user.permission_group.as_ref() == Some(&row.group))
        .filter_map(|row| Some((row.right.as_deref()?, rights::describe_value(row.value))))
        .collect();
    let refusals = refusals::find(&console.pool, &user.username).await?;
    let values = context! {
        groups => group_names(&rights, Some(&user.usertype)),
        group_rights => to_value(group_rights),
        refusals => to_value(refusals),
        days => refusals::DAYS,
        own_key => user.settings_owner_id == user.id,
        ignores_blocked => !console.app.config.dialect.refuses_blocked_users(),
        must_send_password => console.app.config.require_password,
        user => to_value(user),
    };
    console.render(&session, "user.html", values)
}

pub(super) async fn block(
    State(console): State<Arc<Console>>,
    Path(id): Path<i32>,
    form: Form<NoFields>,
) -> PageResult {
    set_blocked(&console, id, true, form).await
}

pub(super) async fn unblock(
    State(console): State<Arc<Console>>,
    Path(id): Path<i32>,
    form: Form<NoFields>,
) -> PageResult {
    set_blocked(&console, id, false, form).await
}

async fn set_blocked(console: &Console, id: i32, blocked: bool, form: Form<NoFields>) -> PageResult {
    form.carry_out(console, async |connection, author, _, NoFields {}| {
        let user = users::lock(&mut *connection, id).await?;
        let dialect = console.app.config.dialect;
        let message = users::set_blocked(connection, &user, blocked, dialect, author).await?;
        Ok(Done::new(path(&user), message))
    })
    .await
}

#[derive(Debug, Deserialize)]
pub(super) struct PasswordFields {
    password: SecretString,
    repeated: SecretString,
}

pub(super) async fn set_password(
    State(console): State<Arc<Console>>,
    Path(id): Path<i32>,
    ConfirmedForm(form): ConfirmedForm<PasswordFields>,
) -> PageResult {
    form.carry_out(&console, async |connection, author, _, PasswordFields { password, repeated }| {
        let hashes = PasswordHashes::of_argon2(console.hash_new_password(password, &repeated).await?);
        let user = users::lock(&mut *connection, id).await?;
        users::set_password(connection, &user, &hashes, author).await?;
        Ok(Done::new(path(&user), format!("The password of {} was set.", user.username)))
    })
    .await
}

#[derive(Debug, Deserialize)]
pub(super) struct RightsFields {
    /// The name of the permission group. Empty: none.
    group: String,
}

pub(super) async fn give_rights(
    State(console): State<Arc<Console>>,
    Path(id): Path<i32>,
    form: Form<RightsFields>,
) -> PageResult {
    form.carry_out(&console, async |connection, author, _, RightsFields { group }| {
        let group = Some(group.as_str()).filter(|group| !group.is_empty());
        let user = users::lock(&mut *connection, id).await?;
        rights::give(connection, group, &user, author).await?;
        let message = match group {
            Some(group) => format!("{} has the rights of {group} now.", user.username),
            None => format!("{} has no permission group now.", user.username),
        };
        Ok(Done::new(path(&user), message))
    })
    .await
}

/// Replaces the key, and shows the new one once. The old one stays valid for some days, as with the command.
pub(super) async fn rotate_key(
    State(console): State<Arc<Console>>,
    Path(id): Path<i32>,
    ConfirmedForm(form): ConfirmedForm<NoFields>,
) -> PageResult {
    let result = form.carry_out_and_show(
        &console,
        async |connection, author, _, NoFields {}| {
            let user = users::lock(&mut *connection, id).await?;
            let owner = user.key_owner()?;
            let key = keys::generate()?;
            let until = keys::replace(connection, owner, &key, keys::KEEP_DEFAULT, author).await;
            let until = until.map_err(|error| match error {
                keys::ReplaceError::Database(error) => ConsoleError::Database(error),
                keys::ReplaceError::PreviousValid(_) => ConsoleError::Refused(format!(
                    "{} If no client uses it, end the previous key first.",
                    sentence(&error.to_string())
                )),
                error => ConsoleError::Refused(sentence(&error.to_string())),
            })?;
            let previous =
                until.map_or_else(String::new, |until| format!(" The previous key is valid until {until} UTC."));
            let message = format!("{} has a new secret key.{previous}", user.username);
            let location = path(&user);
            let again = format!("{message} The new key was shown once and is not shown again.");
            let secrets = Secrets { location: location.clone(), message, password: None, key };
            Ok((Done::new(location, again), secrets))
        },
        |session, secrets| show_secrets(&console, session, &secrets),
    );
    result.await
}

pub(super) async fn end_previous_key(
    State(console): State<Arc<Console>>,
    Path(id): Path<i32>,
    ConfirmedForm(form): ConfirmedForm<NoFields>,
) -> PageResult {
    form.carry_out(&console, async |connection, author, _, NoFields {}| {
        let user = users::lock(&mut *connection, id).await?;
        keys::end_previous(connection, user.key_owner()?, author).await?;
        Ok(Done::new(path(&user), "No previous key is valid."))
    })
    .await
}

fn path(user: &UserRow) -> String {
    format!("/users/{}", user.id)
}
