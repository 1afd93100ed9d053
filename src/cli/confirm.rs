//! The question before a command changes many rows.

use std::io::{self, BufRead, Write};

use super::CommandError;

/// Prints what will be changed, and reads the answer from standard input. With `yes` it only prints.
///
/// # Errors
///
/// [`CommandError::Failed`] unless the answer is y or yes.
pub fn confirm(question: &str, yes: bool) -> Result<(), CommandError> {
    let mut stderr = io::stderr().lock();
    if yes {
        // A closed standard error is no reason to change nothing.
        _ = writeln!(stderr, "{question} yes");
        return Ok(());
    }
    write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush())?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(CommandError::Failed("nothing was changed: answer y, or use --yes".to_owned())),
    }
}
