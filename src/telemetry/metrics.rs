//! Counters and histograms of requests and sales. `http::monitoring` exports them.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

const DURATION_BUCKETS_S: [f64; 13] = [0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 2.5, 10.0];
/// The value of the label `operation` for requests that name no known operation.
const NO_OPERATION: &str = "none";
/// Maximum number of users with a label of their own in `refused_hashes`. Further users share the label `other`.
const USER_LABELS_MAX: usize = 1_000;

/// Counters and histograms that requests update.
#[derive(Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    request_duration: Family<OperationLabel, Histogram, DurationHistogram>,
    refused_hashes: Family<UserLabel, Counter>,
    /// The ids of the users with a label of their own.
    labelled_users: Mutex<HashSet<i32>>,
    /// Cards sold by `card_from_group_sell`.
    pub cards_sold: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UserLabel {
    user_id: String,
}

#[derive(Debug, Clone)]
struct DurationHistogram;

impl MetricConstructor<Histogram> for DurationHistogram {
    fn new_metric(&self) -> Histogram {
        Histogram::new(DURATION_BUCKETS_S)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            request_duration: Family::new_with_constructor(DurationHistogram),
            refused_hashes: Family::default(),
            labelled_users: Mutex::default(),
            cards_sold: Counter::default(),
        }
    }
}

impl Metrics {
    /// Records a completed request. `outcome` is `done`, `replayed`, `panic`, or an `ApiError` variant in snake case.
    pub fn record_request(&self, operation: Option<&'static str>, outcome: &'static str, duration: Duration) {
        let operation = operation.unwrap_or(NO_OPERATION);
        self.requests.get_or_create(&RequestLabels { operation, outcome }).inc();
        self.request_duration.get_or_create(&OperationLabel { operation }).observe(duration.as_secs_f64());
    }

    /// Records a wrong hash for an existing user. Unknown user names are not counted: clients can invent any number of
    /// them.
    pub fn record_refused_hash(&self, user: i32) {
        let has_label = {
            let mut labelled = self.labelled_users.lock().unwrap_or_else(PoisonError::into_inner);
            labelled.contains(&user) || labelled.len() < USER_LABELS_MAX && labelled.insert(user)
        };
        let user_id = if has_label { user.to_string() } else { "other".to_owned() };
        self.refused_hashes.get_or_create(&UserLabel { user_id }).inc();
    }

    /// Registers the metrics with their names and help texts.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("requests", "Requests, by operation and outcome", self.requests.clone());
        registry.register(
            "request_duration_seconds",
            "Time from the request's header to the start of the reply",
            self.request_duration.clone(),
        );
        registry.register(
            "refused_hashes",
            "Wrong hashes, by the user named in the request",
            self.refused_hashes.clone(),
        );
        registry.register("cards_sold", "Cards sold by card_from_group_sell", self.cards_sold.clone());
    }
}
