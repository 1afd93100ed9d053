//! Renders pages from the templates: the operator's, or else the built-in ones.

use std::path::Path;

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value, context};
use secrecy::ExposeSecret;
use serde::Serialize;

use super::Console;
use super::access::{Access, Role};
use super::assets::asset_path;
use super::error::{ConsoleError, sentence};
use super::session::Session;
use crate::input;
use crate::managed_postgres::data_directory::random_hex;

/// The result of a handler: a page, a redirection, a download or an error.
pub type PageResult = Result<Response, ConsoleError>;

/// The built-in templates.
pub const TEMPLATES: &[(&str, &str)] = &[
    ("layout.html", include_str!("../../templates/console/layout.html")),
    ("macros.html", include_str!("../../templates/console/macros.html")),
    ("error.html", include_str!("../../templates/console/error.html")),
    ("login.html", include_str!("../../templates/console/login.html")),
    ("demo.html", include_str!("../../templates/console/demo.html")),
    ("account.html", include_str!("../../templates/console/account.html")),
    ("enroll.html", include_str!("../../templates/console/enroll.html")),
    ("card.html", include_str!("../../templates/console/card.html")),
    ("card_pin.html", include_str!("../../templates/console/card_pin.html")),
    ("codes.html", include_str!("../../templates/console/codes.html")),
    ("batch.html", include_str!("../../templates/console/batch.html")),
    ("batches.html", include_str!("../../templates/console/batches.html")),
    ("export.html", include_str!("../../templates/console/export.html")),
    ("generate.html", include_str!("../../templates/console/generate.html")),
    ("group.html", include_str!("../../templates/console/group.html")),
    ("group_form.html", include_str!("../../templates/console/group_form.html")),
    ("groups.html", include_str!("../../templates/console/groups.html")),
    ("import.html", include_str!("../../templates/console/import.html")),
    ("import_outcome.html", include_str!("../../templates/console/import_outcome.html")),
    ("dashboard.html", include_str!("../../templates/console/dashboard.html")),
    ("reports.html", include_str!("../../templates/console/reports.html")),
    ("sales.html", include_str!("../../templates/console/sales.html")),
    ("sales_reconciliation.html", include_str!("../../templates/console/sales_reconciliation.html")),
    ("sales_statement.html", include_str!("../../templates/console/sales_statement.html")),
    ("sales_tax.html", include_str!("../../templates/console/sales_tax.html")),
    ("change_table.html", include_str!("../../templates/console/change_table.html")),
    ("changes.html", include_str!("../../templates/console/changes.html")),
    ("hash.html", include_str!("../../templates/console/hash.html")),
    ("mail.html", include_str!("../../templates/console/mail.html")),
    ("secrets.html", include_str!("../../templates/console/secrets.html")),
    ("settings.html", include_str!("../../templates/console/settings.html")),
    ("user.html", include_str!("../../templates/console/user.html")),
    ("users.html", include_str!("../../templates/console/users.html")),
    ("search.html", include_str!("../../templates/console/search.html")),
];

/// The reason for which the operator's templates are unusable.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "described by the error messages")]
pub enum TemplateError {
    #[error("cannot read the template {0}: {1}")]
    Unreadable(String, std::io::Error),
    #[error("the template {0} is invalid: {1}")]
    Invalid(String, minijinja::Error),
}

/// Loads the templates. A file of the directory replaces the built-in template of its name. An empty path means no
/// directory.
pub(super) fn load_templates(directory: &Path) -> Result<Environment<'static>, TemplateError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_filter("amount", format_amount);
    environment.add_filter("sentence", |text: &str| sentence(text));
    environment.add_function("asset", |name: &str| asset_path(name));
    environment.add_function("once", || {
        let id = random_hex().map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string()))?;
        Ok::<_, minijinja::Error>(id.get(..32).unwrap_or_default().to_owned())
    });
    for (name, built_in) in TEMPLATES {
        let path = directory.join(name);
        let is_replaced = !directory.as_os_str().is_empty() && path.exists();
        let text = match is_replaced {
            true => input::read_file(&path).map_err(|error| TemplateError::Unreadable((*name).into(), error))?,
            false => (*built_in).to_owned(),
        };
        environment.add_template_owned(*name, text).map_err(|error| TemplateError::Invalid((*name).into(), error))?;
    }
    Ok(environment)
}

/// Returns data as a template reads it.
pub fn to_value(data: impl Serialize) -> Value {
    Serde(data).into()
}

/// The filter `amount`: a decimal with at least two digits after the point, as people read it. Digits beyond the sixth
/// are cut; the page shows the exact amount elsewhere.
fn format_amount(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let fraction: String = fraction.chars().take(6).collect();
    let fraction = fraction.trim_end_matches('0');
    format!("{whole}.{fraction:0<2}")
}

/// An entry of the navigation.
#[derive(Debug, Serialize)]
struct NavigationEntry {
    path: &'static str,
    label: &'static str,
    is_current: bool,
}

/// The pages in the navigation, in order.
const NAVIGATION: [(&str, &str, Access); 10] = [
    ("/dashboard", "Dashboard", Access::ALL),
    ("/search", "Search", Access::ALL),
    ("/groups", "Groups", Access::GROUPS),
    ("/batches", "Batches", Access::GROUPS),
    ("/sales", "Sales", Access::ALL),
    ("/mail", "Mail", Access::MAIL),
    ("/users", "API users", Access::ADMIN),
    ("/changes", "Change log", Access::CHANGES),
    ("/settings", "Settings", Access::ADMIN),
    ("/account", "Account", Access::ALL),
];

impl Console {
    /// Renders a page of the session. The template gets the values, and `page`: what the layout shows.
    ///
    /// # Errors
    ///
    /// [`ConsoleError::Template`].
    pub fn render(&self, session: &Session, template: &str, values: Value) -> PageResult {
        let account = &session.account;
        let navigation: Vec<NavigationEntry> = NAVIGATION
            .into_iter()
            .filter(|(.., access)| access.allows(account.role) && !session.must_enroll())
            .map(|(path, label, _)| NavigationEntry { path, label, is_current: session.path.starts_with(path) })
            .collect();
        let page = context! {
            account => account.name.as_str(),
            role => account.role.name(),
            is_admin => account.role == Role::Admin,
            can_reveal_pins => session.may_reveal_pins(),
            is_read_only => account.role == Role::ReadOnly,
            has_second_factor => account.totp_secret.is_some(),
            form_token => session.form_token.expose_secret(),
            message => session.message.as_deref(),
            navigation => to_value(navigation),
        };
        self.render_public(template, context! { page, ..values })
    }

    /// Renders the page of a form. If the form was refused, the page says why and has what was entered.
    ///
    /// # Errors
    ///
    /// [`ConsoleError::Template`].
    pub fn render_form(&self, session: &Session, template: &str, values: Value, is_refused: bool) -> PageResult {
        let mut page = self.render(session, template, values)?;
        if is_refused {
            *page.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
        }
        Ok(page)
    }

    /// Renders a page without a session.
    ///
    /// # Errors
    ///
    /// [`ConsoleError::Template`].
    pub fn render_public(&self, template: &str, values: Value) -> PageResult {
        let text = self.templates.get_template(template)?.render(values)?;
        Ok(([(CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response())
    }
}
