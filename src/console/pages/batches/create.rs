//! Generates a batch.

use std::sync::Arc;

use axum::extract::{Query, State};
use bigdecimal::BigDecimal;
use minijinja::context;
use serde::{Deserialize, Serialize};

use super::change::forget_counts;
use super::{GroupQuery, batch_path, refuse_hidden};
use crate::back_office::generate::{CardGeneration, GenerationError, parse_amount};
use crate::console::Console;
use crate::console::error::ConsoleError;
use crate::console::form::Form;
use crate::console::pages::groups::{GroupChoice, OwnGroup};
use crate::console::render::{PageResult, to_value};
use crate::console::session::Session;
use crate::console::submission::Done;
use crate::dialect::TEXT_LEN_MAX;
use crate::error::ApiError;
use crate::input;

/// Characters in MOR's column `cards.language`.
const LANGUAGE_LEN_MAX: usize = 10;

/// The cards to create, as they are entered.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub(super) struct GenerateFields {
    group: String,
    quantity: String,
    batch_number: String,
    from: String,
    balance: String,
    language: String,
}

pub(super) async fn show(
    State(console): State<Arc<Console>>,
    session: Session,
    Query(query): Query<GroupQuery>,
) -> PageResult {
    let group = match query.group {
        Some(id) => OwnGroup::find(&console.pool, &session, id).await?.id().to_string(),
        None => String::new(),
    };
    let fields = GenerateFields { group, language: "en".to_owned(), ..GenerateFields::default() };
    show_form(&console, &session, fields, None).await
}

/// Shows the form, with the reason if the cards cannot be created.
async fn show_form(
    console: &Console,
    session: &Session,
    fields: GenerateFields,
    message: Option<String>,
) -> PageResult {
    let groups = to_value(GroupChoice::load(&console.pool, session, false).await?);
    let currency = console.system_currency().await?;
    let quantity_max = console.app.config.max_new_cards.get();
    let is_refused = message.is_some();
    let values = context! { groups, currency, quantity_max, message, fields => to_value(fields) };
    console.render_form(session, "generate.html", values, is_refused)
}

pub(super) async fn generate(State(console): State<Arc<Console>>, form: Form<GenerateFields>) -> PageResult {
    let (session, entered) = (form.session.clone(), form.fields.clone());
    let quantity_max = console.app.config.max_new_cards.get();
    let generated = form.carry_out(&console, async |connection, author, session, fields| {
        let id = fields.group.parse().map_err(|_| ConsoleError::Refused("Group: choose one.".to_owned()))?;
        let group = OwnGroup::find(&mut *connection, session, id).await?;
        refuse_hidden(&group)?;
        let generation = fields.read(&group, quantity_max).map_err(ConsoleError::Refused)?;
        let _permit = console.begin_bulk_create()?;
        let created = generation.run(connection, author, |_| {}).await.map_err(explain)?;
        let message = format!(
            "{} cards were created, with the numbers {} to {}.",
            generation.quantity, created.first, created.last
        );
        Ok(Done::new(batch_path("/batches/batch", &group, &generation.batch_number), message))
    });
    let group = entered.group.parse().unwrap_or_default();
    match forget_counts(&console, group, generated.await) {
        Err(ConsoleError::Refused(message)) => show_form(&console, &session, entered, Some(message)).await,
        result => result,
    }
}

impl GenerateFields {
    /// Checks the fields, and says in words which one is wrong.
    fn read(&self, group: &OwnGroup, quantity_max: u32) -> Result<CardGeneration, String> {
        let quantity = self.quantity.trim().parse().ok().filter(|quantity| (1..=quantity_max).contains(quantity));
        let quantity = quantity.ok_or_else(|| {
            format!("Number of cards: from 1 to {quantity_max}. For more, use mortise cards generate on the server.")
        })?;
        let batch_number = read_text("Batch number", &self.batch_number, TEXT_LEN_MAX)?;
        let language = read_text("Language", &self.language, LANGUAGE_LEN_MAX)?;
        let filled = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let balance: Option<BigDecimal> = filled(&self.balance)
            .map(|balance| parse_amount(&balance).map_err(|message| format!("Balance: {message}.")))
            .transpose()?;
        Ok(CardGeneration { group: group.id(), quantity, from: filled(&self.from), balance, batch_number, language })
    }
}

pub(super) fn read_text(label: &str, text: &str, len_max: usize) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > len_max {
        return Err(format!("{label}: 1 to {len_max} characters."));
    }
    input::parse_column_text(text).map_err(|message| format!("{label}: {message}."))
}

fn explain(error: GenerationError) -> ConsoleError {
    match error {
        GenerationError::FirstNumber(length) => {
            ConsoleError::Refused(format!("First number: the numbers of this group have {length} digits."))
        }
        GenerationError::NumbersUsedUp(length) => ConsoleError::Refused(format!(
            "There are not enough numbers of {length} digits above the first one. Enter a lower first number."
        )),
        GenerationError::BackOffice(error) => error.into(),
        GenerationError::Api(ApiError::Unavailable) => ConsoleError::database_busy(),
        GenerationError::Api(_) => ConsoleError::Failed(error.to_string()),
    }
}
