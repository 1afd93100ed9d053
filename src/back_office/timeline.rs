//! What has happened to a card, in words: one list of its payments, actions, changes and e-mails, the latest first.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::PgConnection;
use sqlx::types::Json;

use super::changes::hide_author;
use super::details::CardRow;

/// Number of entries of a page of the list.
pub const ENTRIES_MAX: usize = 50;
/// The times of the database, in microseconds since 1970: years 1 to 9999.
const MICROSECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;

/// A page of the list.
#[derive(Debug, Serialize)]
pub struct Timeline {
    /// The entries, the latest first.
    pub entries: Vec<TimelineEntry>,
    /// The position of the last entry, if there are earlier ones.
    pub earlier: Option<String>,
}

/// An entry of the list.
#[derive(Debug, Serialize)]
pub struct TimelineEntry {
    /// UTC.
    pub at: String,
    /// `payment`, `action`, `change` or `mail`.
    pub kind: &'static str,
    /// What has happened, in words. No PIN.
    pub text: String,
    /// The API user, the account of the console, or `command` with the name of the operating system's user.
    pub author: Option<String>,
}

/// A position in the list: that of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    microseconds: i64,
    part: i32,
    id: i64,
}

impl Position {
    /// Reads a position. `None`: it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('_').map(str::parse::<i64>);
        let mut next = || parts.next()?.ok();
        let (microseconds, part, id) = (next()?, next()?, next()?);
        let part = i32::try_from(part).ok()?;
        (parts.next().is_none() && MICROSECONDS.contains(&microseconds)).then_some(Self { microseconds, part, id })
    }
}

struct Row {
    at: String,
    microseconds: i64,
    part: i32,
    id: i64,
    author: Option<String>,
    event: Json<Event>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    Payment(Payment),
    Action {
        action: String,
        details: String,
    },
    Change {
        before: Option<Map<String, Value>>,
        after: Option<Map<String, Value>>,
        user_id: Option<i32>,
        operator: Option<String>,
    },
    Mail {
        id: Option<i64>,
        address: String,
        error: Option<String>,
        state: Option<String>,
    },
}

#[derive(Debug, Deserialize)]
struct Payment {
    id: i64,
    kind: Option<String>,
    amount: String,
    tax: String,
    currency: String,
    tax_included: bool,
    reverses: Option<i64>,
    replaced: Option<String>,
    reference: Option<String>,
    description: Option<String>,
    balance_change: Option<String>,
}

/// Reads a page of the list: the entries before a position, or the latest. A reseller, whose account is `reseller`,
/// sees neither the names of operators nor those of other accounts.
///
/// # Errors
///
/// Database errors.
pub async fn load(
    connection: &mut PgConnection,
    card: &CardRow,
    before: Option<Position>,
    reseller: Option<&str>,
) -> sqlx::Result<Timeline> {
    let rows = sqlx::query_file_as!(
        Row,
        "src/back_office/card_timeline.sql",
        card.id,
        card.cardgroup_id,
        card.number,
        i64::try_from(ENTRIES_MAX + 1).unwrap_or(i64::MAX),
        before.map(|position| position.microseconds),
        before.map(|position| position.part),
        before.map(|position| position.id),
        reseller.is_some()
    );
    let mut rows = rows.fetch_all(connection).await?;
    let has_earlier = rows.len() > ENTRIES_MAX;
    rows.truncate(ENTRIES_MAX);
    let last = rows.last().filter(|_| has_earlier);
    let earlier = last.map(|row| format!("{}_{}_{}", row.microseconds, row.part, row.id));
    let entries = rows.into_iter().map(|Row { at, mut author, event: Json(mut event), .. }| {
        if let (Event::Change { user_id, operator, .. }, Some(who)) = (&mut event, &mut author) {
            if let Some(account) = reseller {
                hide_author(who, operator, *user_id, account);
            }
            who.extend(operator.iter().map(|operator| format!(" ({operator})")));
        }
        let (kind, text) = event.describe();
        TimelineEntry { at, kind, text, author }
    });
    Ok(Timeline { entries: entries.collect(), earlier })
}

impl Event {
    fn describe(&self) -> (&'static str, String) {
        match self {
            Self::Payment(payment) => ("payment", payment.describe()),
            Self::Action { action, details } => ("action", describe_action(action, details)),
            Self::Change { before, after, .. } => {
                let [before, after] = [before, after].map(|fields| fields.clone().unwrap_or_default());
                ("change", describe_change(&before, &after))
            }
            Self::Mail { id, address, error, state } => {
                let name = id.map_or_else(|| "E-mail".to_owned(), |id| format!("E-mail {id}"));
                let error = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
                let text = match state.as_deref() {
                    Some("sent") => format!("{name} to {address} was sent"),
                    Some("failed") => format!("{name} to {address} failed{error}"),
                    Some("waiting") => format!("{name} to {address} waits{error}"),
                    _ => format!("Ordered for {address}; no e-mail is stored"),
                };
                ("mail", text)
            }
        }
    }
}

impl Payment {
    fn describe(&self) -> String {
        let Self { id, amount, tax, currency, .. } = self;
        let money = match self.tax_included {
            true => format!("{amount} {currency}, tax included"),
            false => format!("{amount} {currency}, tax {tax}"),
        };
        let mut text = match self.kind.as_deref() {
            Some("sale") => format!("Sold for {money}"),
            Some("top_up") => format!("Topped up: {money}"),
            Some("refill") => format!("Refilled: {money}"),
            Some("transfer") => format!("Balance moved: {money}"),
            Some("refund") => {
                let reverses = self.reverses.map(|id| format!(" of payment {id}")).unwrap_or_default();
                format!("Refund{reverses}: {money}")
            }
            Some("reissue") => {
                format!("Replaces the card {}", self.replaced.as_deref().unwrap_or_default())
            }
            Some("write_off") => "Balance removed".to_owned(),
            Some(kind) => format!("{kind}: {money}"),
            None => format!("Payment in MOR: {money}"),
        };
        let changes_balance = !matches!(self.kind.as_deref(), Some("reissue" | "sale") | None);
        let balance_change = self.balance_change.as_deref().filter(|_| changes_balance);
        for (label, value) in [
            ("balance", balance_change.map(with_sign)),
            ("reference", self.reference.clone()),
            ("description", self.description.clone()),
            ("payment", Some(id.to_string())),
        ] {
            if let Some(value) = value {
                text += &format!(", {label} {value}");
            }
        }
        text
    }
}

fn with_sign(amount: &str) -> String {
    if amount.starts_with('-') { amount.to_owned() } else { format!("+{amount}") }
}

fn describe_action(action: &str, details: &str) -> String {
    let text = match action {
        "card_sell_over_api" => "Sold over the API",
        "Added to cards balance" => "Balance changed by a transfer from or to another card or user",
        "Disable_Voucher_when_Card_is_used" => "Its voucher was redeemed",
        // MOR's documentation does not list all actions.
        other => &format!("\"{}\" in MOR", other.replace('_', " ")),
    };
    if details.is_empty() { text.to_owned() } else { format!("{text}: {details}") }
}

/// Describes a row of the change log about a card.
fn describe_change(before: &Map<String, Value>, after: &Map<String, Value>) -> String {
    let text_of = |name: &str| after.get(name).map(format_value);
    let reason = text_of("reason").map(|reason| format!(": {reason}")).unwrap_or_default();
    if let Some(reason) = text_of("voided") {
        return format!("Voided: {reason}");
    }
    if let Some(number) = text_of("replaced_by") {
        return format!("Replaced by the card {number}{reason}");
    }
    if let Some(number) = text_of("replaces") {
        return format!("Replaces the card {number}{reason}");
    }
    if let Some(decision) = text_of("settled") {
        return format!("Quarantine decided: {decision}{reason}");
    }
    if after.contains_key("pin_shown") {
        return "The PIN was shown".to_owned();
    }
    if after.contains_key("found_by") {
        return "Found by its PIN".to_owned();
    }
    if let Some(Value::Object(top_up)) = after.get("topped_up") {
        let [amount, currency, payment] =
            ["amount", "currency", "payment"].map(|name| top_up.get(name).map(format_value).unwrap_or_default());
        return format!("Topped up: {amount} {currency}, payment {payment}");
    }
    if let Some(withheld) = text_of("withheld") {
        return match (withheld.as_str(), before.get("withheld").and_then(Value::as_str)) {
            ("blocked", _) => format!("Blocked{reason}"),
            (_, Some("blocked")) | ("unblocked", _) => format!("Unblocked{reason}"),
            ("assigned", _) => format!("Assigned to a distributor{reason}"),
            _ => format!("Withheld: {withheld}{reason}"),
        };
    }
    let changes = after.iter().map(|(name, value)| match before.get(name) {
        Some(earlier) => format!("{name}: {} → {}", format_value(earlier), format_value(value)),
        None => format!("{name}: {}", format_value(value)),
    });
    let changes: Vec<String> = changes.collect();
    match (before.is_empty(), changes.is_empty()) {
        (_, true) => "Changed".to_owned(),
        (true, _) => format!("Set: {}", changes.join("; ")),
        (false, _) => format!("Changed: {}", changes.join("; ")),
    }
}

/// Returns a value of the change log as text: a text without quotes, no value as a dash.
fn format_value(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_and_others_are_not() {
        let position = Position { microseconds: 1_793_000_000_000_001, part: 2, id: 77 };
        assert_eq!(Position::parse("1793000000000001_2_77"), Some(position));
        for text in ["", "1_2", "1_2_3_4", "x_2_3", "1_99999999999_3", "9223372036854775807_1_1"] {
            assert_eq!(Position::parse(text), None, "{text}");
        }
    }
}
