//! The e-mail templates (the operator's, or else the built-in ones) and the messages that are rendered with them.

use std::path::Path;
use std::time::{Duration, SystemTime};

use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::{Address, Message};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};

use super::outbox::{ClaimedMail, MailedCard};
use crate::input;

const SUBJECT: &str = "cards_sold.subject";
const TEXT: &str = "cards_sold.txt";
const HTML: &str = "cards_sold.html";
const BUILT_IN_TEMPLATES: [(&str, &str); 3] = [
    (SUBJECT, include_str!("../../templates/cards_sold.subject")),
    (TEXT, include_str!("../../templates/cards_sold.txt")),
    (HTML, include_str!("../../templates/cards_sold.html")),
];

/// The reason for which the operator's templates are unusable.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "described by the error messages")]
pub enum TemplateError {
    #[error("mail_templates ({0}) has none of cards_sold.subject, cards_sold.txt and cards_sold.html")]
    NoFiles(String),
    #[error("cannot read the template {0}: {1}")]
    Unreadable(String, std::io::Error),
    #[error("the template {0} is invalid: {1}")]
    Invalid(String, minijinja::Error),
    #[error("the template {name} uses the unknown variable {variable}; the variables are {}", VARIABLES.join(", "))]
    UnknownVariable { name: String, variable: String },
}

/// The templates, validated.
#[derive(Debug)]
pub(super) struct Templates(Environment<'static>);

/// The variables of the templates. Each of `cards` has [`CARD_VARIABLES`].
const VARIABLES: [&str; 3] = ["address", "currency", "cards"];
const CARD_VARIABLES: [&str; 5] = ["group", "number", "pin", "balance", "exact_balance"];

/// The parts of an e-mail.
struct RenderedMail {
    subject: String,
    text: String,
    html: String,
}

impl Templates {
    /// Loads the templates in `directory`; a built-in template replaces each missing file. An empty path means no
    /// directory.
    pub fn load(directory: &Path) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|name| match name {
            HTML => AutoEscape::Html,
            _ => AutoEscape::None,
        });
        let mut built_in_count = 0;
        for (name, built_in) in BUILT_IN_TEMPLATES {
            let text = match read_custom_template(directory, name)? {
                Some(text) => text,
                None => {
                    built_in_count += 1;
                    built_in.to_owned()
                }
            };
            environment.add_template_owned(name, text).map_err(|error| TemplateError::Invalid(name.into(), error))?;
        }
        if built_in_count == BUILT_IN_TEMPLATES.len() && !directory.as_os_str().is_empty() {
            return Err(TemplateError::NoFiles(directory.display().to_string()));
        }
        let templates = Self(environment);
        templates.validate()?;
        Ok(templates)
    }

    /// Renders each template with sample data, so that a misspelt variable is found at startup.
    fn validate(&self) -> Result<(), TemplateError> {
        let card = || build_card_variables(["Group", "1", "1", "1.00", "1.0"]);
        let sample = build_variables("buyer@example.com", "USD", vec![card(), card()]);
        for (name, template) in self.0.templates() {
            let is_known = |variable: &String| {
                VARIABLES.contains(&variable.as_str()) || self.0.globals().any(|(global, _)| global == variable)
            };
            if let Some(variable) =
                template.undeclared_variables(false).into_iter().find(|variable| !is_known(variable))
            {
                return Err(TemplateError::UnknownVariable { name: name.to_owned(), variable });
            }
            template.render(sample.clone()).map_err(|error| TemplateError::Invalid(name.to_owned(), error))?;
        }
        Ok(())
    }

    fn render(&self, variables: &Value) -> Result<RenderedMail, minijinja::Error> {
        let render_part = |name| self.0.get_template(name)?.render(variables.clone());
        let subject = to_single_line(&render_part(SUBJECT)?);
        Ok(RenderedMail { subject, text: render_part(TEXT)?, html: render_part(HTML)? })
    }

    /// Builds the message for a buyer. Its Message-ID and its date are those of the sale: each attempt sends the same
    /// message.
    pub fn build_message(
        &self,
        claimed: &ClaimedMail,
        cards: &[MailedCard],
        digits: usize,
        from: &Mailbox,
        to: Address,
    ) -> Result<Message, String> {
        let card_variables = |card: &MailedCard| {
            let (balance, exact) = (card.balance.to_fixed_string(digits), card.balance.to_plain_string());
            build_card_variables([&card.group, &card.number, card.pin.expose(), &balance, &exact])
        };
        let cards = cards.iter().map(card_variables).collect();
        let variables = build_variables(claimed.address.trim(), &claimed.currency, cards);
        let RenderedMail { subject, text, html } = self.render(&variables).map_err(|error| error.to_string())?;
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(claimed.sold_at).unwrap_or_default());
        let auto_submitted = HeaderName::new_from_ascii_str("Auto-Submitted");
        let message = Message::builder()
            .from(from.clone())
            .to(Mailbox::new(None, to))
            .subject(subject)
            .date(date)
            .message_id(Some(format!("<{}>", claimed.message_id)))
            // Suppresses automatic replies, such as absence notices (RFC 3834).
            .raw_header(HeaderValue::new(auto_submitted, "auto-generated".to_owned()));
        let message = match html.trim().is_empty() {
            true => message.singlepart(SinglePart::plain(text)),
            false => message.multipart(MultiPart::alternative_plain_html(text, html)),
        };
        message.map_err(|error| error.to_string())
    }
}

fn build_variables(address: &str, currency: &str, cards: Vec<Value>) -> Value {
    Value::from_pairs(VARIABLES.into_iter().zip([
        address.into(),
        currency.into(),
        cards.into_iter().collect::<Value>(),
    ]))
}

fn build_card_variables(values: [&str; 5]) -> Value {
    Value::from_pairs(CARD_VARIABLES.into_iter().zip(values))
}

fn read_custom_template(directory: &Path, name: &str) -> Result<Option<String>, TemplateError> {
    if directory.as_os_str().is_empty() {
        return Ok(None);
    }
    let path = directory.join(name);
    match input::read_file(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TemplateError::Unreadable(path.display().to_string(), error)),
    }
}

/// Joins the words with single spaces. A line break, for example in a card group's name, would end the header.
fn to_single_line(text: &str) -> String {
    text.split(|char: char| char.is_control() || char.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}
