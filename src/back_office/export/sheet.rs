//! The template of sheets to print. It is rendered once for each page.

use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};

use super::{ExportError, ExportedCard};
use crate::pin::Pin;

const NAME: &str = "card_sheet.html";
const BUILT_IN: &str = include_str!("../../../templates/card_sheet.html");
/// Maximum number of cards of a page.
const CARDS_PER_PAGE_MAX: usize = 1_000;
/// Decimal places of the variable `balance`.
const BALANCE_DECIMALS: usize = 2;

/// The template, validated.
#[derive(Debug)]
pub struct SheetTemplate {
    environment: Environment<'static>,
    cards_per_page: usize,
}

/// Returns a card as the template reads it.
pub(super) fn card_variables(group: &str, card: &ExportedCard) -> Value {
    let text = |text: &Option<String>| Value::from(text.as_deref().unwrap_or_default());
    Value::from_pairs([
        ("group", Value::from(group)),
        ("number", text(&card.number)),
        ("pin", Value::from(card.pin.as_ref().map_or("", Pin::expose))),
        ("balance", card.balance.to_fixed_string(BALANCE_DECIMALS).into()),
        ("exact_balance", card.balance.to_plain_string().into()),
        ("serial", text(&card.serial)),
        ("batch_number", text(&card.batch_number)),
        ("language", text(&card.language)),
        ("name", text(&card.name)),
    ])
}

impl SheetTemplate {
    /// Creates the template. `None`: the built-in one.
    pub(super) fn new(text: Option<String>) -> Result<Self, ExportError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        environment.add_template_owned(NAME, text.unwrap_or_else(|| BUILT_IN.to_owned()))?;
        // Without cards: a misspelt variable of a page is found before the first card is written.
        let rendered = environment.get_template(NAME)?.render_captured(page_variables(Vec::new(), 1, true))?;
        let cards_per_page = rendered.state().lookup("cards_per_page").and_then(|value| value.as_usize());
        let cards_per_page = cards_per_page.filter(|cards| (1..=CARDS_PER_PAGE_MAX).contains(cards));
        let cards_per_page = cards_per_page.ok_or(ExportError::NoCardsPerPage)?;
        drop(rendered);
        Ok(Self { environment, cards_per_page })
    }

    pub(super) fn cards_per_page(&self) -> usize {
        self.cards_per_page
    }

    /// Renders a page. Pages are counted from 1 on.
    pub(super) fn render(&self, cards: Vec<Value>, page: usize, is_last: bool) -> Result<String, minijinja::Error> {
        self.environment.get_template(NAME)?.render(page_variables(cards, page, is_last))
    }
}

fn page_variables(cards: Vec<Value>, page: usize, is_last: bool) -> Value {
    Value::from_pairs([
        ("cards", Value::from(cards)),
        ("page", page.into()),
        ("is_first", (page == 1).into()),
        ("is_last", is_last.into()),
    ])
}
