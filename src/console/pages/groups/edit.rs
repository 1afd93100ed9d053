//! The form of a card group.

use std::sync::Arc;

use axum::extract::{Path, State};
use minijinja::context;
use sqlx::PgConnection;

use super::OwnGroup;
use super::fields::{Choices, Values, explain, load_values};
use crate::accounts::SYSTEM_CURRENCY_ID;
use crate::console::Console;
use crate::console::error::ConsoleError;
use crate::console::form::Form;
use crate::console::render::{PageResult, to_value};
use crate::console::session::Session;
use crate::console::submission::Done;
use crate::dialect::Dialect;
use crate::http::params::Params;
use crate::store::card_group::GroupRequest;

/// Values that cannot be saved, and the reason.
struct Problem {
    message: String,
    entered: Values,
}

pub(super) async fn show_new(State(console): State<Arc<Console>>, session: Session) -> PageResult {
    show_form(&console, &session, None, None).await
}

pub(super) async fn show_existing(
    State(console): State<Arc<Console>>,
    session: Session,
    Path(id): Path<i32>,
) -> PageResult {
    show_form(&console, &session, Some(id), None).await
}

pub(super) async fn create(State(console): State<Arc<Console>>, form: Form<Values>) -> PageResult {
    let (session, entered) = (form.session.clone(), form.fields.clone());
    // Before the transaction: it comes from another pool.
    let currencies = console.app.accounts.currencies().await?;
    let created = form.carry_out(&console, async |connection, author, session, entered| {
        let params = Choices::load(&mut *connection, session).await?.to_params(&entered, None)?;
        let request = group_request(session, &params);
        let id = request.create(connection, &currencies, None, author).await.map_err(explain)?;
        Ok(Done::new(format!("/groups/{id}"), "The group was created. Generate or import its cards."))
    });
    match created.await {
        Err(ConsoleError::Refused(message)) => {
            show_form(&console, &session, None, Some(Problem { message, entered })).await
        }
        result => result,
    }
}

pub(super) async fn change(State(console): State<Arc<Console>>, Path(id): Path<i32>, form: Form<Values>) -> PageResult {
    let (session, entered) = (form.session.clone(), form.fields.clone());
    let currencies = console.app.accounts.currencies().await?;
    let changed = form.carry_out(&console, async |connection, author, session, entered| {
        let group = OwnGroup::find(&mut *connection, session, id).await?;
        let params = Choices::load(&mut *connection, session).await?.to_params(&entered, Some(&group))?;
        group_request(session, &params).update(connection, &currencies, author).await.map_err(explain)?;
        Ok(Done::new(format!("/groups/{id}"), "The changes are saved."))
    });
    match changed.await {
        Err(ConsoleError::Refused(message)) => {
            show_form(&console, &session, Some(id), Some(Problem { message, entered })).await
        }
        result => result,
    }
}

/// Returns the request of the account, as the API gets it from the admin or from the reseller. The documented dialect
/// checks each value, and stores prices without taxes, as the table of MOR has them.
fn group_request<'a>(session: &Session, params: &'a Params) -> GroupRequest<'a> {
    let owner_scope = session.owner_id();
    GroupRequest {
        params,
        dialect: Dialect::Documented,
        user_id: owner_scope.unwrap_or(0),
        is_reseller: owner_scope.is_some(),
        owner_id: owner_scope.unwrap_or(0),
        owner_scope,
        currency_id: Some(SYSTEM_CURRENCY_ID),
    }
}

/// Returns the last day that the form of a new group proposes.
async fn load_day_in_a_year(connection: &mut PgConnection) -> sqlx::Result<String> {
    let day = sqlx::query_scalar!(r#"select ((now() at time zone 'utc')::date + 365)::text as "day!""#);
    day.fetch_one(connection).await
}

/// Shows the form of a group, or of a new one, with the entered values if they cannot be saved.
async fn show_form(console: &Console, session: &Session, id: Option<i32>, problem: Option<Problem>) -> PageResult {
    let currency = console.system_currency().await?;
    let mut connection = console.pool.acquire().await?;
    let group = match id {
        Some(id) => Some(OwnGroup::find(&mut *connection, session, id).await?),
        None => None,
    };
    let shown = match &group {
        Some(group) => load_values(&mut connection, group).await?,
        None => Values::from([("date_till".to_owned(), load_day_in_a_year(&mut connection).await?)]),
    };
    let choices = Choices::load(&mut connection, session).await?;
    let (message, entered) = problem.map(|problem| (problem.message, problem.entered)).unzip();
    let fields = to_value(choices.fields(entered.as_ref().unwrap_or(&shown), &shown, group.is_none()));
    let is_refused = message.is_some();
    let values = context! {
        fields, currency, message,
        id, name => group.as_ref().map(OwnGroup::name),
        is_hidden => group.as_ref().is_some_and(OwnGroup::is_hidden),
    };
    console.render_form(session, "group_form.html", values, is_refused)
}
