//! Passwords and keys. They are typed without echo, or read from standard input. They are never arguments: every user
//! of the machine can read those.

use std::io::{self, IsTerminal};

use super::CommandError;
use crate::auth::passwords;
use crate::input;

/// Reads a new password of a user: typed twice on a terminal, else the first line of standard input.
pub fn read_password() -> Result<String, CommandError> {
    let password = read("password")?;
    check_password(&password)?;
    Ok(password)
}

/// Refuses a password that can be guessed, or that clients could send incorrectly.
pub fn check_password(password: &str) -> Result<(), CommandError> {
    check("password", password)?;
    passwords::check_new(password).map_err(CommandError::Usage)
}

/// Reads the password or key that `label` names: typed twice on a terminal, else the first line of standard input.
pub fn read(label: &str) -> Result<String, CommandError> {
    let secret = if io::stdin().is_terminal() { prompt_twice(label)? } else { read_stdin_line(label)? };
    check(label, &secret)?;
    Ok(secret)
}

fn check(label: &str, secret: &str) -> Result<(), CommandError> {
    if secret.trim().is_empty() {
        return Err(CommandError::Usage(format!("the {label} is empty: type it, or send it on standard input")));
    }
    if let Some(invisible) = input::find_invisible(secret) {
        return Err(CommandError::Usage(format!("the {label} has {invisible}: clients could send it incorrectly")));
    }
    Ok(())
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
