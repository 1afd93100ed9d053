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
const ANSWERS: [f64; 13] = [0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 2.5, 10.0];
/// The name under which a request is counted that no operation answered.
const NO_OPERATION: &str = "none";
/// Users whose refused hashes are counted for each of them; the others' go together.
const MOST_USERS: usize = 1_000;

/// Counters of what requests do.
#[derive(Debug)]
pub struct Figures {
    requests: Family<Request, Counter>,
    seconds: Family<Named, Histogram, Buckets>,
    refused_hashes: Family<By, Counter>,
    /// By operation and outcome: families are locked when they are asked, and every request would ask.
    answers: HashMap<(&'static str, &'static str), (Counter, Histogram), RandomState>,
    /// By the user's id.
    refused: HashMap<i32, Counter, RandomState>,
    /// Cards that were sold.
    pub cards_sold: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct By {
    user_id: String,
}

#[derive(Debug, Clone)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(ANSWERS)
    }
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(Buckets),
            refused_hashes: Family::default(),
            answers: HashMap::default(),
            refused: HashMap::default(),
            cards_sold: Counter::default(),
        }
    }
}

impl Figures {
    /// A request was answered. `outcome` is `done`, or the name of what refused it.
    pub fn answered(&self, operation: Option<&'static str>, outcome: &'static str, took: Duration) {
        let operation = operation.unwrap_or(NO_OPERATION);
        let answers = self.answers.pin();
        let (requests, seconds) = answers.get_or_insert_with((operation, outcome), || {
            let requests = self.requests.get_or_create_owned(&Request { operation, outcome });
            (requests, self.seconds.get_or_create_owned(&Named { operation }))
        });
        requests.inc();
        seconds.observe(took.as_secs_f64());
    }

    /// A user's hash was wrong. The user exists: names that are made up don't come here.
    pub fn refused_hash(&self, user: i32) {
        let refused = self.refused.pin();
        let by = |user_id| self.refused_hashes.get_or_create_owned(&By { user_id });
        if let Some(known) = refused.get(&user) {
            known.inc();
        } else if refused.len() < MOST_USERS {
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
            self.seconds.clone(),
        );
        registry.register(
            "refused_hashes",
            "Wrong hashes, by the user that they were for",
            self.refused_hashes.clone(),
        );
        registry.register("cards_sold", "Cards sold by card_from_group_sell", self.cards_sold.clone());
    }
}
