//! The question before a command changes many rows.

use std::io::{self, BufRead, Write};

use super::CommandError;

/// Prints what will be changed, and reads the answer from standard input. With `yes` it only prints. The future can be
/// dropped while it waits for the answer: a signal ends the command.
///
/// # Errors
///
/// [`CommandError::Failed`] unless the answer is y or yes.
pub async fn confirm(question: &str, yes: bool) -> Result<(), CommandError> {
    if yes {
        // A closed standard error is no reason to change nothing.
        _ = writeln!(io::stderr(), "{question} yes");
        return Ok(());
    }
    write!(io::stderr(), "{question} [y/N] ").and_then(|()| io::stderr().flush())?;
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).map(|_| answer)
    });
    match answer.await.map_err(io::Error::from)??.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(CommandError::Failed("nothing was changed: answer y, or use --yes".to_owned())),
    }
}
