//! Imports the cards of a CSV file.

use std::sync::Arc;

use axum::extract::{Query, State};
use minijinja::context;
use serde::Deserialize;

use super::change::forget_counts;
use super::create::read_text;
use super::{GroupQuery, refuse_hidden};
use crate::back_office::import::{CardImport, ImportOutcome};
use crate::console::Console;
use crate::console::error::ConsoleError;
use crate::console::pages::groups::{GroupChoice, OwnGroup};
use crate::console::render::{PageResult, to_value};
use crate::console::session::Session;
use crate::console::submission::Done;
use crate::console::upload::{UPLOAD_BYTES_MAX, Upload};
use crate::dialect::TEXT_LEN_MAX;

/// Refused lines that the page shows.
const SHOWN_LINES_MAX: usize = 200;
/// As how many guesses of PINs a file of a reseller counts that has used numbers or PINs.
const GUESSES_OF_FILE: u32 = 10;

/// The fields beside the file.
#[derive(Debug, Deserialize)]
pub(super) struct ImportFields {
    group: i32,
    /// `import`; any other value: only check the lines.
    mode: String,
    /// The batch number of the lines without one. Empty: they get none.
    #[serde(default)]
    batch_number: String,
}

pub(super) async fn show(
    State(console): State<Arc<Console>>,
    session: Session,
    Query(query): Query<GroupQuery>,
) -> PageResult {
    let group = match query.group {
        Some(id) => Some(OwnGroup::find(&console.pool, &session, id).await?.id()),
        None => None,
    };
    let groups = to_value(GroupChoice::load(&console.pool, &session, false).await?);
    let values = context! { groups, group, upload_mib_max => UPLOAD_BYTES_MAX >> 20 };
    console.render(&session, "import.html", values)
}

/// Checks the file, and creates its cards if every line can be imported and the sender asks for it. The page with the
/// outcome asks for the file again: the console keeps none.
pub(super) async fn import(State(console): State<Arc<Console>>, upload: Upload<ImportFields>) -> PageResult {
    let Upload { form, file, .. } = upload;
    let (account, group) = (form.session.account.name.clone(), form.fields.group);
    // A reseller must not find out the numbers and PINs of other owners' cards.
    let hides_used = form.session.owner_id().is_some();
    let _guess = match hides_used {
        true => Some(console.attempts.begin_guess(&account).await?),
        false => None,
    };
    let lines_max = Some(console.app.config.max_new_cards.get());
    let page_console = console.clone();
    let imported = form.carry_out_and_show(
        &console,
        async |connection, author, session, ImportFields { group, mode, batch_number }| {
            let group = OwnGroup::find(&mut *connection, session, group).await?;
            refuse_hidden(&group)?;
            let batch_number = match batch_number.trim() {
                "" => String::new(),
                text => read_text("Batch number", text, TEXT_LEN_MAX).map_err(ConsoleError::Refused)?,
            };
            let _permit = console.begin_bulk_create()?;
            let (source, is_dry_run) = (file.reader(), mode != "import");
            let import = CardImport {
                source,
                group: group.id(),
                is_dry_run,
                batch_number: batch_number.clone(),
                lines_max,
                hides_used,
            };
            let outcome = import.run(connection, author, |_| {}).await?;
            if outcome.has_used && hides_used {
                console.attempts.record_guesses(&account, GUESSES_OF_FILE);
            }
            let done = Done::new(format!("/batches?group={}", group.id()), describe(&outcome));
            Ok((done, (group, batch_number, outcome)))
        },
        |session, (group, batch, outcome)| show_outcome(&page_console, session, &group, &batch, &outcome),
    );
    forget_counts(&console, group, imported.await)
}

fn describe(outcome: &ImportOutcome) -> String {
    match (outcome.is_accepted(), outcome.created) {
        (false, _) => "The file was refused. Nothing was written.".to_owned(),
        (true, 0) => "The file was checked. Nothing was written.".to_owned(),
        (true, created) => format!("{created} cards were imported."),
    }
}

fn show_outcome(
    console: &Console,
    session: &Session,
    group: &OwnGroup,
    batch_number: &str,
    outcome: &ImportOutcome,
) -> PageResult {
    let shown = outcome.refused.get(..SHOWN_LINES_MAX).unwrap_or(&outcome.refused);
    let values = context! {
        group => group.id(),
        group_name => group.name(),
        batch_number,
        is_accepted => outcome.is_accepted(),
        created => outcome.created,
        lines => outcome.lines,
        first => outcome.first.as_deref(),
        last => outcome.last.as_deref(),
        problem => outcome.problem.as_deref(),
        refused => to_value(shown),
        refused_count => outcome.refused_count,
        hides_used => outcome.has_used && session.owner_id().is_some(),
        more => outcome.refused_count.saturating_sub(shown.len() as u64),
        upload_mib_max => UPLOAD_BYTES_MAX >> 20,
    };
    console.render_form(session, "import_outcome.html", values, !outcome.is_accepted())
}
