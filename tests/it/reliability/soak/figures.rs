//! What came of the requests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Formatter, Result as Written};
use std::ops::Add;

use mortise::operations::OPERATIONS;

use super::reply_violation;
use super::sending::EncodedRequest;
use crate::harness::Reply;

/// Violations that are kept word for word; the others are counted.
const VIOLATIONS_SHOWN_MAX: usize = 20;

/// Counts by operation and status, and whatever shouldn't have been.
#[derive(Debug, Default)]
pub struct SoakStats {
    reply_counts: BTreeMap<(&'static str, String), u64>,
    /// By operation: those that did or showed what was asked for.
    success_counts: BTreeMap<&'static str, u64>,
    error_bodies: BTreeSet<String>,
    pub violations: Vec<String>,
}

impl SoakStats {
    pub fn record(&mut self, sent: &EncodedRequest, reply: &Result<Reply, String>) {
        let (status, flaw) = match reply {
            Ok(reply) => (status_label(reply), reply_violation(sent, reply)),
            Err(error) => ("none".to_owned(), Some(error.clone())),
        };
        *self.reply_counts.entry((sent.operation, status)).or_default() += 1;
        if let Some(flaw) = flaw {
            let body = reply.as_ref().map(|reply| reply.body.chars().take(1000).collect::<String>());
            self.violations.push(format!("{flaw}: {sent:?} {body:?}"));
            self.violations.truncate(VIOLATIONS_SHOWN_MAX);
        }
        let Ok(reply) = reply else { return };
        if reply.status != 200 || ["<error>", "<message>"].iter().any(|element| reply.body.contains(element)) {
            self.error_bodies.insert(reply.body.clone());
        } else if !reply.body.is_empty() {
            *self.success_counts.entry(sent.operation).or_default() += 1;
        }
    }

    /// A soak in which nothing ever succeeds shows nothing.
    pub fn assert_every_operation_succeeded(&self) {
        for operation in OPERATIONS {
            assert!(self.success_counts.contains_key(operation.name), "{} never succeeded\n{self}", operation.name);
        }
    }

    /// Each different one.
    pub fn error_replies(&self) -> String {
        self.error_bodies.iter().map(String::as_str).collect()
    }
}

fn status_label(reply: &Reply) -> String {
    let replayed = if reply.headers.contains_key("idempotency-replayed") { " replayed" } else { "" };
    format!("{}{replayed}", reply.status.as_str())
}

impl Add for SoakStats {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        for (place, count) in other.reply_counts {
            *self.reply_counts.entry(place).or_default() += count;
        }
        for (operation, count) in other.success_counts {
            *self.success_counts.entry(operation).or_default() += count;
        }
        self.error_bodies.extend(other.error_bodies);
        self.violations.extend(other.violations);
        self
    }
}

impl Display for SoakStats {
    fn fmt(&self, f: &mut Formatter<'_>) -> Written {
        writeln!(f, "{} requests", self.reply_counts.values().sum::<u64>())?;
        for ((operation, status), count) in &self.reply_counts {
            writeln!(f, "{operation:24} {status:12} {count:>9}")?;
        }
        for (operation, count) in &self.success_counts {
            writeln!(f, "{operation:24} {:12} {count:>9}", "done")?;
        }
        write!(f, "{} different error replies, {} violations", self.error_bodies.len(), self.violations.len())
    }
}
