//! `mortise card show`: everything about one card.

use clap::Args;
use serde_json::json;

use crate::back_office::details::{self, CardDetails};
use crate::back_office::lookup::{CardKey, FoundCards, find_cards};
use crate::cli::database::with_database;
use crate::cli::{CommandError, Report, author, secret};
use crate::config::Config;
use crate::pin::Pin;

/// What is known about the card.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    key: KeyOptions,
    /// Show the PIN too, and write a row to the change log
    #[arg(long)]
    show_pin: bool,
}

/// The options that name the card.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct KeyOptions {
    /// The card number
    number: Option<String>,
    /// The card with a PIN; type it, or send it on standard input
    #[arg(long)]
    pin: bool,
    /// The card with this caller id
    #[arg(long, value_name = "TEXT")]
    callerid: Option<String>,
    /// The cards that were sent to this e-mail address
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// The cards that were paid with this payment reference
    #[arg(long, value_name = "TEXT")]
    reference: Option<String>,
    /// The card with this serial number
    #[arg(long, value_name = "TEXT")]
    serial: Option<String>,
    /// The card with this id
    #[arg(long, value_name = "ID")]
    id: Option<i64>,
}

impl KeyOptions {
    fn read(&self) -> Result<CardKey, CommandError> {
        let Self { number, pin, callerid, email, reference, serial, id } = self;
        let texts = [
            callerid.clone().map(CardKey::CallerId),
            email.clone().map(CardKey::Email),
            reference.clone().map(CardKey::Reference),
            serial.clone().map(CardKey::Serial),
            id.map(CardKey::Id),
            number.clone().map(CardKey::Number),
        ];
        match texts.into_iter().flatten().next() {
            Some(key) => Ok(key),
            None if *pin => Ok(CardKey::Pin(secret::read_existing("PIN")?.into())),
            None => Err(CommandError::Usage("name the card".to_owned())),
        }
    }
}

/// Runs the command.
pub(super) async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let key = options.key.read()?;
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        let found = find_cards(&mut transaction, &key).await?;
        let [card] = found.cards.as_slice() else { return Ok(list(&found)) };
        let details = details::load(&mut transaction, card.id).await?;
        let pin = match options.show_pin {
            true => details::reveal_pin(&mut transaction, card.id, &author()).await?.pin,
            false => None,
        };
        transaction.commit().await?;
        let mut json = json!(details);
        if let Some(pin) = &pin {
            json["card"]["pin"] = json!(pin);
        }
        Ok(Report::new(format_details(&details, pin.as_ref()), json))
    })
    .await
}

fn list(found: &FoundCards) -> Report {
    let report = Report::table(["ID", "NUMBER", "STATE", "GROUP", "OWNER"], &found.cards, |card| {
        [
            card.id.to_string(),
            card.number.clone().unwrap_or_default(),
            card.state.clone(),
            format!("{} {}", card.cardgroup_id, card.cardgroup),
            card.owner.clone().unwrap_or_default(),
        ]
    });
    match found.has_more {
        true => report.with_note(format!("There are more cards: only {} are listed.", found.cards.len())),
        false => report,
    }
}

fn format_details(details: &CardDetails, shown_pin: Option<&Pin>) -> String {
    let CardDetails { verdict, card, payments, mails, history, void_and_exchange: _ } = details;
    let masked_pin = card.pin_length.map(|length| "*".repeat(usize::try_from(length).unwrap_or(0)));
    let group = format!("{} {}", card.cardgroup_id, card.cardgroup);
    let validity = match (&card.valid_from, &card.valid_till) {
        (None, None) => None,
        (from, till) => Some(format!("{} to {}", from.as_deref().unwrap_or("-"), till.as_deref().unwrap_or("-"))),
    };
    let fields = [
        ("number", card.number.clone()),
        ("state", Some(verdict.clone())),
        ("balance", Some(card.balance.to_plain_string())),
        ("PIN", shown_pin.map(|pin| pin.expose().to_owned()).or(masked_pin)),
        ("id", Some(card.id.to_string())),
        ("group", Some(group)),
        ("owner", card.owner.clone()),
        ("distributor", card.distributor.clone()),
        ("batch", card.batch_number.clone()),
        ("serial", card.serial.clone()),
        ("caller id", card.callerid.clone()),
        ("name", card.name.clone()),
        ("language", card.language.clone()),
        ("first use", card.first_use.clone()),
        ("valid", validity),
        ("daily charge", card.daily_charge_paid_till.as_ref().map(|till| format!("paid till {till}"))),
    ];
    let mut lines: Vec<String> = fields
        .into_iter()
        .filter_map(|(name, value)| {
            value.filter(|value| !value.is_empty()).map(|value| format!("{name:13} {}", sanitize(&value)))
        })
        .collect();
    let mut section = |name: &str, rows: Vec<String>| {
        if !rows.is_empty() {
            lines.push(format!("\n{name}:"));
            lines.extend(rows.into_iter().map(|row| format!("  {}", sanitize(row.trim_end()))));
        }
    };
    section("payments (UTC)", payments.iter().map(format_payment).collect());
    section(
        "e-mails (UTC)",
        mails
            .iter()
            .map(|mail| {
                let texts = [&mail.mail, &mail.mailed_at, &mail.error].map(|text| text.as_deref().unwrap_or_default());
                format!("{}  {}  {}", mail.ordered_at.as_deref().unwrap_or("-"), mail.address, texts.join(" "))
            })
            .collect(),
    );
    section(
        "history (UTC)",
        history
            .iter()
            .map(|row| format!("{}  {}  {}  {}", row.at, row.user.as_deref().unwrap_or("-"), row.what, row.details))
            .collect(),
    );
    lines.join("\n")
}

/// Replaces control characters: a terminal could execute them.
fn sanitize(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

fn format_payment(payment: &details::PaymentOfCard) -> String {
    let mut text = format!(
        "{}  {} {}: {} {}, tax {}",
        payment.at.as_deref().unwrap_or("-"),
        payment.id,
        payment.kind.as_deref().unwrap_or("from MOR"),
        payment.amount.to_plain_string(),
        payment.currency,
        payment.tax.to_plain_string()
    );
    for (label, value) in [
        ("by", payment.user.clone()),
        ("reference", payment.reference.clone()),
        ("of payment", payment.reverses.map(|id| id.to_string())),
        ("instead of card", payment.replaced_number.clone()),
        ("description", payment.description.clone()),
    ] {
        if let Some(value) = value {
            text += &format!(", {label} {value}");
        }
    }
    text
}
