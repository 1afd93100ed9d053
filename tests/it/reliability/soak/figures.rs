//! What came of the requests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Formatter, Result as Written};
use std::ops::Add;

use mortise::operations::OPERATIONS;

use super::flaw;
use super::sending::Sent;
use crate::harness::Reply;

/// Violations that are kept word for word; the others are counted.
const SHOWN: usize = 20;

/// Counts by operation and status, and whatever shouldn't have been.
#[derive(Debug, Default)]
pub struct Figures {
    replies: BTreeMap<(&'static str, String), u64>,
    /// By operation: those that did or showed what was asked for.
    successes: BTreeMap<&'static str, u64>,
    errors: BTreeSet<String>,
    pub violations: Vec<String>,
}

impl Figures {
    pub fn count(&mut self, sent: &Sent, reply: &Result<Reply, String>) {
        let (status, flaw) = match reply {
            Ok(reply) => (status(reply), flaw(sent, reply)),
            Err(error) => ("none".to_owned(), Some(error.clone())),
        };
        *self.replies.entry((sent.operation, status)).or_default() += 1;
        if let Some(flaw) = flaw {
            let body = reply.as_ref().map(|reply| reply.body.chars().take(1000).collect::<String>());
            self.violations.push(format!("{flaw}: {sent:?} {body:?}"));
            self.violations.truncate(SHOWN);
        }
        let Ok(reply) = reply else { return };
        if reply.status != 200 || ["<error>", "<message>"].iter().any(|element| reply.body.contains(element)) {
            self.errors.insert(reply.body.clone());
        } else if !reply.body.is_empty() {
            *self.successes.entry(sent.operation).or_default() += 1;
        }
    }

    /// A soak in which nothing ever succeeds shows nothing.
    pub fn must_show_that_operations_worked(&self) {
        for operation in OPERATIONS {
            assert!(self.successes.contains_key(operation.name), "{} never succeeded\n{self}", operation.name);
        }
    }

    /// Each different one.
    pub fn error_replies(&self) -> String {
        self.errors.iter().map(String::as_str).collect()
    }
}

fn status(reply: &Reply) -> String {
    let replayed = if reply.headers.contains_key("idempotency-replayed") { " replayed" } else { "" };
    format!("{}{replayed}", reply.status.as_str())
}

impl Add for Figures {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        for (place, count) in other.replies {
            *self.replies.entry(place).or_default() += count;
        }
        for (operation, count) in other.successes {
            *self.successes.entry(operation).or_default() += count;
        }
        self.errors.extend(other.errors);
        self.violations.extend(other.violations);
        self
    }
}

impl Display for Figures {
    fn fmt(&self, f: &mut Formatter<'_>) -> Written {
        writeln!(f, "{} requests", self.replies.values().sum::<u64>())?;
        for ((operation, status), count) in &self.replies {
            writeln!(f, "{operation:24} {status:12} {count:>9}")?;
        }
        for (operation, count) in &self.successes {
            writeln!(f, "{operation:24} {:12} {count:>9}", "done")?;
        }
        write!(f, "{} different error replies, {} violations", self.errors.len(), self.violations.len())
    }
}
