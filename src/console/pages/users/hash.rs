//! `/users/hash`: why the hash of a request was refused. The request is in the body of the form, so that no log and no
//! history of the browser has it, and it is not stored.

use std::sync::Arc;

use axum::extract::State;
use minijinja::context;
use serde::Deserialize;

use crate::back_office::hash_explanation::{self, SentRequest};
use crate::console::Console;
use crate::console::form::Form;
use crate::console::render::{PageResult, to_value};
use crate::console::session::Session;

pub(super) async fn show(State(console): State<Arc<Console>>, session: Session) -> PageResult {
    console.render(&session, "hash.html", context! { explanation => None::<()> })
}

/// Without `Debug`: the request can have a password and PINs.
#[derive(Deserialize)]
pub(super) struct RequestFields {
    /// The URL, or its path and query.
    url: String,
    /// The body of a POST. Empty: a GET.
    #[serde(default)]
    body: String,
}

pub(super) async fn explain(State(console): State<Arc<Console>>, form: Form<RequestFields>) -> PageResult {
    let RequestFields { url, body } = &form.fields;
    let body = Some(body.trim()).filter(|body| !body.is_empty());
    let sent = SentRequest { url: url.trim(), body };
    let app = &console.app;
    let explanation = hash_explanation::explain(sent, &console.pool, &app.accounts, &app.config).await?;
    console.render(&form.session, "hash.html", context! { explanation => to_value(explanation) })
}
