//! Random requests generated from the contract, with sensible, boundary and hostile values. The same seed generates the
//! same requests.

use axum::body::Bytes;
use axum::http::HeaderMap;
use futures_util::FutureExt;
use mortise::http::context::Operation;
use mortise::http::params::Params;
use mortise::operations::OPERATIONS;
use proptest::prelude::RngExt;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::encoding::{self, EncodedRequest, RequestDraft};
use super::values::{ADMIN_KEY, RESELLER_KEY, USERS, ValueGenerator, ValueKind, parameters};

type ParamVec = Vec<(String, String)>;

/// Generates the requests of a seed.
pub struct RequestGenerator {
    rng: TestRng,
    values: ValueGenerator,
    last: Option<EncodedRequest>,
}

impl RequestGenerator {
    pub fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self { rng: TestRng::from_seed(RngAlgorithm::ChaCha, &bytes), values: ValueGenerator::default(), last: None }
    }

    /// Returns the next request: sometimes the last one again, as from a client that retries without a reply.
    pub fn next(&mut self) -> EncodedRequest {
        if let Some(last) = self.last.take().filter(|_| self.percent_chance(4)) {
            return last;
        }
        let request = self.generate();
        self.last = Some(request.clone());
        request
    }

    fn generate(&mut self) -> EncodedRequest {
        let operation = self.pick(OPERATIONS);
        let names = [&[operation.name], operation.aliases].concat();
        let alias = *self.pick(&names);
        let (user, key) = self.pick_user();
        let mut params: ParamVec = user.map(|user| ("u".to_owned(), user)).into_iter().collect();
        // Most requests are sensible and have few parameters.
        self.values.sensible_only = self.percent_chance(70);
        let percent = *self.pick(&[0, 10, 25, 60]);
        for (param, kind) in parameters(operation.name) {
            if kind.is_required() || self.percent_chance(percent) {
                params.push(((*param).to_owned(), self.generate_value(*kind)));
            }
        }
        if !self.values.sensible_only {
            self.corrupt_params(&mut params);
        }
        self.add_optional_params(&mut params);
        let path_id = (!params.iter().any(|(name, _)| name == "id") && self.percent_chance(2))
            .then(|| self.generate_value(ValueKind::Group));
        self.sign(&mut params, path_id.as_deref(), operation, alias, key);
        let path = self.build_path(alias, path_id.as_deref());
        RequestDraft { operation: operation.name, path, params }.encode(&mut self.rng)
    }

    fn corrupt_params(&mut self, params: &mut ParamVec) {
        if self.percent_chance(15) && !params.is_empty() {
            params.remove(self.rng.random_range(0..params.len()));
        }
        if self.percent_chance(10) && !params.is_empty() {
            let (name, _) = self.pick(params).clone();
            // Only `pin` gets PINs: the audit reports each PIN that it finds in a log or in an audit row.
            let kind = if name == "pin" { ValueKind::Pin } else { ValueKind::Text };
            params.push((name, self.generate_value(kind)));
        }
    }

    /// Adds parameters that any request can have.
    fn add_optional_params(&mut self, params: &mut ParamVec) {
        if self.percent_chance(8) {
            let password = if self.percent_chance(80) { super::PASSWORD } else { super::WRONG_PASSWORD };
            params.push(("p".to_owned(), password.to_owned()));
        }
        if self.percent_chance(5) {
            let key = if self.percent_chance(90) {
                format!("by parameter {}", self.rng.random_range(0..40))
            } else {
                self.generate_value(ValueKind::Text)
            };
            params.push(("request_id".to_owned(), key));
        }
        for (name, percent) in
            [("test", 5), ("format", 2), ("unknown", 3), ("user_id", 2), ("tariff_id", 2), ("u[]", 1)]
        {
            if self.percent_chance(percent) {
                params.push((name.to_owned(), self.generate_value(ValueKind::Count)));
            }
        }
    }

    fn pick_user(&mut self) -> (Option<String>, &'static str) {
        let (name, key) = match self.rng.random_range(0..100) {
            0..65 => ("admin", ADMIN_KEY),
            65..80 => ("reseller", RESELLER_KEY),
            _ => (*self.pick(USERS), ADMIN_KEY),
        };
        match self.rng.random_range(0..100) {
            0..2 => (None, key),
            2..4 => (Some(self.generate_value(ValueKind::Text)), key),
            4..6 => (Some(name.to_uppercase() + " "), key),
            _ => (Some(name.to_owned()), key),
        }
    }

    fn sign(&mut self, params: &mut ParamVec, path_id: Option<&str>, operation: &Operation, alias: &str, key: &str) {
        let valid = self.valid_hash(params, path_id, operation, alias, key);
        let hash = match self.rng.random_range(0..100) {
            0..2 => return,
            2..4 => "0".repeat(40),
            4..6 => valid[..39].to_owned(),
            6..8 => self.generate_value(ValueKind::Text),
            8..10 => valid.to_uppercase(),
            _ => valid,
        };
        params.push(("hash".to_owned(), hash));
    }

    fn valid_hash(
        &mut self,
        params: &ParamVec,
        path_id: Option<&str>,
        operation: &Operation,
        alias: &str,
        key: &str,
    ) -> String {
        let query = encoding::encode_form(params);
        let headers = HeaderMap::new();
        let parsed = Params::read(path_id, &query, &headers, Bytes::new(), 1000);
        // Parameters that the server refuses to parse get the hash of an empty request.
        let parsed = parsed.now_or_never().unwrap().unwrap_or_default();
        let accepted: Vec<_> =
            operation.hash_rules.iter().flat_map(|rule| rule.signed_params(&parsed, alias)).collect();
        hex::encode(self.pick(&accepted).digest(key))
    }

    fn build_path(&mut self, alias: &str, id: Option<&str>) -> String {
        let root = if self.percent_chance(50) { "/billing/api" } else { "/api" };
        let id = id.map(|id| format!("/{}", encoding::percent_encode(id))).unwrap_or_default();
        let suffix = *self.pick(&["", "", "", "", "", "", "", "", ".xml", ".json", ".csv", ".html", "/"]);
        match self.rng.random_range(0..200) {
            0 => "/api".to_owned(),
            1 => format!("{root}/{}{id}", alias.to_uppercase()),
            2 => format!("{root}/{alias}/1/2"),
            _ => format!("{root}/{alias}{id}{suffix}"),
        }
    }

    fn generate_value(&mut self, kind: ValueKind) -> String {
        self.values.generate(kind, &mut self.rng)
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.rng.random_range(0..list.len())]
    }

    fn percent_chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent, 100)
    }
}

/// A run can be repeated with its seed.
#[test]
fn seed_determines_the_requests() {
    let requests = |seed| {
        let mut generator = RequestGenerator::new(seed);
        (0..200).map(|_| generator.next()).collect::<Vec<_>>()
    };
    assert_eq!(requests(7), requests(7));
    assert_ne!(requests(7), requests(8));
}
