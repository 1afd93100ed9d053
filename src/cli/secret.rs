//! Passwords and keys. They are typed without echo, or read from standard input. They are never arguments: every user
//! of the machine can read those.

use std::io::{self, IsTerminal};

use super::CommandError;
use crate::input;

/// Reads the password or key that `label` names: typed twice on a terminal, else the first line of standard input.
pub fn read(label: &str) -> Result<String, CommandError> {
    let secret = if io::stdin().is_terminal() { prompt_twice(label)? } else { read_stdin_line(label)? };
    if secret.trim().is_empty() {
        return Err(CommandError::Usage(format!("the {label} is empty: type it, or send it on standard input")));
    }
    if let Some(invisible) = input::find_invisible(&secret) {
        return Err(CommandError::Usage(format!("the {label} has {invisible}: clients could send it incorrectly")));
    }
    Ok(secret)
}

fn prompt_twice(label: &str) -> Result<String, CommandError> {
    let first = rpassword::prompt_password(format!("New {label}: "))?;
    let second = rpassword::prompt_password(format!("Repeat the {label}: "))?;
    if first == second { Ok(first) } else { Err(CommandError::Usage(format!("the two inputs of the {label} differ"))) }
}

fn read_stdin_line(label: &str) -> Result<String, CommandError> {
    input::read_stdin_line()
        .map_err(|error| CommandError::Usage(format!("cannot read the {label} from standard input: {error}")))
}

/// Reads a password that exists already: typed once on a terminal, else the first line of standard input. It may be
/// empty.
pub fn read_existing(label: &str) -> Result<String, CommandError> {
    if io::stdin().is_terminal() {
        Ok(rpassword::prompt_password(format!("{label}: "))?)
    } else {
        read_stdin_line(label)
    }
}
