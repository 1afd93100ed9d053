//! What happens, counted, for whoever watches (`watch/` shows it).

use std::time::Duration;

use foldhash::fast::RandomState;
use papaya::HashMap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// In seconds.
const DURATION_BUCKETS_SECONDS: [f64; 13] =
    [0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 2.5, 10.0];
/// The name under which a request is counted that no operation answered.
const NO_OPERATION: &str = "none";
/// Users whose refused hashes are counted for each of them; the others' go together.
const USER_LABELS_MAX: usize = 1_000;

/// Counters of what requests do.
#[derive(Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    request_duration: Family<OperationLabel, Histogram, DurationHistogram>,
    refused_hashes: Family<UserLabel, Counter>,
    /// By operation and outcome: families are locked when they are asked, and every request would ask.
    cached_request_metrics: HashMap<(&'static str, &'static str), (Counter, Histogram), RandomState>,
    /// By the user's id.
    cached_hash_counters: HashMap<i32, Counter, RandomState>,
    /// Cards that were sold.
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
        Histogram::new(DURATION_BUCKETS_SECONDS)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            request_duration: Family::new_with_constructor(DurationHistogram),
            refused_hashes: Family::default(),
            cached_request_metrics: HashMap::default(),
            cached_hash_counters: HashMap::default(),
            cards_sold: Counter::default(),
        }
    }
}

impl Metrics {
    /// A request was answered. `outcome` is `done`, or the name of what refused it.
    pub fn record_request(&self, operation: Option<&'static str>, outcome: &'static str, took: Duration) {
        let operation = operation.unwrap_or(NO_OPERATION);
        let answers = self.cached_request_metrics.pin();
        let (requests, seconds) = answers.get_or_insert_with((operation, outcome), || {
            let requests = self.requests.get_or_create_owned(&RequestLabels { operation, outcome });
            (requests, self.request_duration.get_or_create_owned(&OperationLabel { operation }))
        });
        requests.inc();
        seconds.observe(took.as_secs_f64());
    }

    /// A user's hash was wrong. The user exists: names that are made up don't come here.
    pub fn record_refused_hash(&self, user: i32) {
        let refused = self.cached_hash_counters.pin();
        let by = |user_id| self.refused_hashes.get_or_create_owned(&UserLabel { user_id });
        if let Some(known) = refused.get(&user) {
            known.inc();
        } else if refused.len() < USER_LABELS_MAX {
            refused.get_or_insert_with(user, || by(user.to_string())).inc();
        } else {
            by("other".to_owned()).inc();
        }
    }

    /// Names them for Prometheus.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("requests", "Requests answered, by operation and outcome", self.requests.clone());
        registry.register(
            "request_duration_seconds",
            "Time from a request's header to its reply",
            self.request_duration.clone(),
        );
        registry.register(
            "refused_hashes",
            "Wrong hashes, by the user that they were for",
            self.refused_hashes.clone(),
        );
        registry.register("cards_sold", "Cards sold by card_from_group_sell", self.cards_sold.clone());
    }
}
