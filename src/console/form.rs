//! Forms: every change is a POST with the token of the session and an id of its own. [`submission`](super::submission)
//! makes the change.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Console;
use super::error::ConsoleError;
use super::session::Session;

/// The fields that every form has.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Envelope {
    #[serde(default)]
    token: SecretString,
    /// The form's id: 32 hexadecimal digits.
    #[serde(default)]
    once: String,
    /// The password, or the code of the second factor.
    #[serde(default)]
    confirm: SecretString,
}

/// A form of the session, with its fields.
#[derive(Debug)]
pub struct Form<T> {
    /// The fields.
    pub fields: T,
    /// Who sends it.
    pub session: Session,
    pub(super) once: String,
    /// A code of the second factor, or the password.
    pub(super) confirm: SecretString,
    pub(super) demanded: Demanded,
}

/// What the sender must enter again before a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demanded {
    Nothing,
    /// The password, also with a second factor.
    Password,
    /// A code of the second factor, or else the password.
    Factor,
    /// The first code of a new second factor.
    NewFactor,
}

/// A form whose sender enters a code of the second factor again, or the password without one. The methods of [`Form`]
/// check it.
#[derive(Debug)]
pub struct ConfirmedForm<T>(pub Form<T>);

/// The fields of a form without any.
#[derive(Debug, Deserialize)]
pub struct NoFields {}

impl<T: DeserializeOwned> FromRequest<Arc<Console>> for Form<T> {
    type Rejection = ConsoleError;

    async fn from_request(request: Request, console: &Arc<Console>) -> Result<Self, ConsoleError> {
        let (mut parts, body) = request.into_parts();
        let session = Session::from_request_parts(&mut parts, console).await?;
        Self::read(session, &read_body(Request::from_parts(parts, body), console).await?)
    }
}

/// The fields of a form that is sent without a session, such as the login.
#[derive(Debug)]
pub struct PublicForm<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<Console>> for PublicForm<T> {
    type Rejection = ConsoleError;

    async fn from_request(request: Request, console: &Arc<Console>) -> Result<Self, ConsoleError> {
        let fields = serde_urlencoded::from_bytes(&read_body(request, console).await?);
        fields.map(Self).map_err(|error| ConsoleError::Malformed(error.to_string()))
    }
}

/// Returns the body, which `router::receive_form` has received.
async fn read_body(request: Request, console: &Arc<Console>) -> Result<Bytes, ConsoleError> {
    let body = Bytes::from_request(request, console).await;
    body.map_err(|error| ConsoleError::Malformed(error.body_text()))
}

impl<T: DeserializeOwned> FromRequest<Arc<Console>> for ConfirmedForm<T> {
    type Rejection = ConsoleError;

    async fn from_request(request: Request, console: &Arc<Console>) -> Result<Self, ConsoleError> {
        let mut form = Form::<T>::from_request(request, console).await?;
        form.demanded = Demanded::Factor;
        Ok(Self(form))
    }
}

/// Reads fields in the form `name=value&…`.
fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, ConsoleError> {
    // PostgreSQL has no text with this character.
    if body.contains(&0) || body.windows(3).any(|bytes| bytes == b"%00") {
        return Err(ConsoleError::Malformed("a field has a null character".to_owned()));
    }
    serde_urlencoded::from_bytes(body).map_err(|error| ConsoleError::Malformed(error.to_string()))
}

impl<T: DeserializeOwned> Form<T> {
    /// Reads a form. The token is checked first: a form of another site or session learns nothing about the fields.
    pub(super) fn read(session: Session, body: &Bytes) -> Result<Self, ConsoleError> {
        Ok(Form::new(session, parse(body)?, ())?.with_fields(parse(body)?))
    }
}

impl<T> Form<T> {
    /// Checks the token and the id.
    pub(super) fn new(session: Session, envelope: Envelope, fields: T) -> Result<Self, ConsoleError> {
        let Envelope { token, once, confirm } = envelope;
        let [sent, own] = [&token, &session.form_token].map(|token| token.expose_secret().as_bytes());
        let is_own: bool = subtle::ConstantTimeEq::ct_eq(sent, own).into();
        let is_id = once.len() == 32 && once.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_own || !is_id {
            return Err(ConsoleError::ForeignForm);
        }
        Ok(Self { fields, session, once, confirm, demanded: Demanded::Nothing })
    }

    fn with_fields<U>(self, fields: U) -> Form<U> {
        let Self { session, once, confirm, demanded, .. } = self;
        Form { fields, session, once, confirm, demanded }
    }

    /// Demands that this is the account's password, also if the account has a second factor.
    pub fn demand_password(mut self, password: SecretString) -> Self {
        self.confirm = password;
        self.demanded = Demanded::Password;
        self
    }

    /// Demands that this is the first code of the second factor that the session sets up.
    pub fn demand_first_code(mut self, code: SecretString) -> Self {
        self.confirm = code;
        self.demanded = Demanded::NewFactor;
        self
    }
}
