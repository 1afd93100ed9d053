//! The options of commands that select many cards.

use clap::Args;

use crate::back_office::selection::{CardSelection, SelectedCards, StateCount};
use crate::cli::CommandError;

/// The cards: those that have all given properties.
#[derive(Debug, Args)]
pub struct SelectionOptions {
    /// The cards with this batch number
    #[arg(long, value_name = "TEXT", visible_alias = "batch-number")]
    batch: Option<String>,
    /// The cards of this card group, as in `mortise group list`
    #[arg(long, value_name = "ID")]
    group: Option<i32>,
    /// The cards from this number on
    #[arg(long, value_name = "NUMBER", requires = "till")]
    from: Option<String>,
    /// The cards up to this number
    #[arg(long, value_name = "NUMBER", requires = "from")]
    till: Option<String>,
}

impl SelectionOptions {
    /// Returns the selection.
    ///
    /// # Errors
    ///
    /// [`CommandError::Usage`] if nothing is given, or the numbers are no range.
    pub fn read(&self) -> Result<CardSelection, CommandError> {
        let numbers = self.from.clone().zip(self.till.clone());
        CardSelection::new(self.group, self.batch.clone(), numbers)
            .map_err(|error| CommandError::Usage(error.to_string()))
    }
}

/// Describes how many cards have which state: `180 free, 320 sold`.
pub fn describe_counts(counts: &[StateCount]) -> String {
    counts.iter().map(|count| format!("{} {}", count.cards, count.state)).collect::<Vec<_>>().join(", ")
}

/// Describes the changed cards of each group, one line for each.
pub fn describe_changed(verb: &str, changed: &[SelectedCards]) -> String {
    let total: i64 = changed.iter().map(|cards| cards.cards).sum();
    let mut lines = vec![format!("Cards {verb}: {total}.")];
    lines.extend(changed.iter().map(|cards| {
        let numbers = match (&cards.first, &cards.last) {
            (Some(first), Some(last)) => format!(", from {first} to {last}"),
            _ => String::new(),
        };
        format!("group {} {}: {}{numbers}", cards.group, cards.name, cards.cards)
    }));
    lines.join("\n").replace(|char: char| char.is_control() && char != '\n', "\u{fffd}")
}
