//! Passwords and keys: typed where nobody sees them, or read from standard input; never an argument, which everybody on the
//! machine could read.

use std::io::{self, BufRead, IsTerminal};

use super::CommandError;

/// A password or key, asked for by `what`; on a terminal twice. Without a terminal it is the first line of standard input.
pub fn read(what: &str) -> Result<String, CommandError> {
    let given = if io::stdin().is_terminal() { prompt_twice(what)? } else { read_first_line()? };
    if given.trim().is_empty() {
        return Err(CommandError::Usage(format!("the {what} is empty: type it, or send it on standard input")));
    }
    if given.trim() != given || given.contains(char::is_control) {
        return Err(CommandError::Usage(format!(
            "the {what} begins or ends with a space, or has control characters in it: clients would get it wrong"
        )));
    }
    Ok(given)
}

fn prompt_twice(what: &str) -> Result<String, CommandError> {
    let first = rpassword::prompt_password(format!("The new {what}: "))?;
    let second = rpassword::prompt_password("Once more: ")?;
    if first == second { Ok(first) } else { Err(CommandError::Usage(format!("that was not the same {what} twice"))) }
}

fn read_first_line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
