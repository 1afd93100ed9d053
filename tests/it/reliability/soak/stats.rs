//! The results of a soak: counts of replies, and violations.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::ops::Add;

use mortise::operations::OPERATIONS;

use super::encoding::EncodedRequest;
use super::reply_violation;
use crate::harness::Reply;

/// Further violations are dropped.
const VIOLATIONS_SHOWN_MAX: usize = 20;

/// Counts, the error replies and the violations.
#[derive(Debug, Default)]
pub struct SoakStats {
    /// By operation and status.
    reply_counts: BTreeMap<(&'static str, String), u64>,
    /// Replies without an error, by operation.
    success_counts: BTreeMap<&'static str, u64>,
    error_bodies: BTreeSet<String>,
    pub violations: Vec<String>,
}

impl SoakStats {
    pub fn record(&mut self, request: &EncodedRequest, reply: &Result<Reply, String>) {
        let (status, violation) = match reply {
            Ok(reply) => (status_label(reply), reply_violation(request, reply)),
            Err(error) => ("none".to_owned(), Some(error.clone())),
        };
        *self.reply_counts.entry((request.operation, status)).or_default() += 1;
        if let Some(violation) = violation {
            let body = reply.as_ref().map(|reply| reply.body.chars().take(1000).collect::<String>());
            self.violations.push(format!("{violation}: {request:?} {body:?}"));
            self.violations.truncate(VIOLATIONS_SHOWN_MAX);
        }
        let Ok(reply) = reply else { return };
        // In the dialect x7 it stands in the place of one card, beside cards that were sold, with their PINs.
        let body = reply.body.replace("<error>Card error</error>", "");
        if reply.status != 200 || ["<error>", "<message>"].iter().any(|element| body.contains(element)) {
            self.error_bodies.insert(reply.body.clone());
        } else if !reply.body.is_empty() {
            *self.success_counts.entry(request.operation).or_default() += 1;
        }
    }

    /// Without successful requests a soak tests only the error replies.
    pub fn assert_every_operation_succeeded(&self) {
        for operation in OPERATIONS {
            assert!(self.success_counts.contains_key(operation.name), "{} never succeeded\n{self}", operation.name);
        }
    }

    /// The text of all different error replies.
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
        for (operation_and_status, count) in other.reply_counts {
            *self.reply_counts.entry(operation_and_status).or_default() += count;
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
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
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
