//! Passwords and keys: typed where nobody sees them, or read from standard input; never an argument, which everybody on the
//! machine could read.

use std::io::{self, BufRead, IsTerminal};

use super::Failure;

/// A password or key, asked for by `what`; on a terminal twice. Without a terminal it is the first line of standard input.
pub fn read(what: &str) -> Result<String, Failure> {
    let given = if io::stdin().is_terminal() { typed(what)? } else { first_line()? };
    if given.trim().is_empty() {
        return Err(Failure::Usage(format!("the {what} is empty: type it, or send it on standard input")));
    }
    if given.trim() != given || given.contains(char::is_control) {
        return Err(Failure::Usage(format!(
            "the {what} begins or ends with a space, or has control characters in it: clients would get it wrong"
        )));
    }
    Ok(given)
}

fn typed(what: &str) -> Result<String, Failure> {
    let first = rpassword::prompt_password(format!("The new {what}: "))?;
    let second = rpassword::prompt_password("Once more: ")?;
    if first == second { Ok(first) } else { Err(Failure::Usage(format!("that was not the same {what} twice"))) }
}

fn first_line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
