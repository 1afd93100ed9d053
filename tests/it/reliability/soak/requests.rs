//! Random requests made from the contract: sensible ones, ones at the boundaries, hostile ones. The same seed, the same
//! requests.

use axum::body::Bytes;
use axum::http::HeaderMap;
use futures_util::FutureExt;
use mortise::http::context::Operation;
use mortise::http::params::Params;
use mortise::operations::OPERATIONS;
use proptest::prelude::RngExt;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::pools::{ADMINS_KEY, Kind, Pools, RESELLERS_KEY, USERS, parameters};
use super::sending::{Form, Sent};

type Pairs = Vec<(String, String)>;

/// Requests from a seed, one after the other.
pub struct Requests {
    rng: TestRng,
    pools: Pools,
    last: Option<Sent>,
}

impl Requests {
    pub fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self { rng: TestRng::from_seed(RngAlgorithm::ChaCha, &bytes), pools: Pools::default(), last: None }
    }

    /// The next one; now and then the last one again, as a client sends it that has heard nothing.
    pub fn next(&mut self) -> Sent {
        if let Some(last) = self.last.take().filter(|_| self.in_a_hundred(4)) {
            return last;
        }
        let sent = self.made();
        self.last = Some(sent.clone());
        sent
    }

    fn made(&mut self) -> Sent {
        let operation = self.one_of(OPERATIONS);
        let names = [&[operation.name], operation.aliases].concat();
        let called = *self.one_of(&names);
        let (user, key) = self.user();
        let mut params: Pairs = user.map(|user| ("u".to_owned(), user)).into_iter().collect();
        // Most clients know what they do, and send little.
        self.pools.careful = self.in_a_hundred(70);
        let odds = *self.one_of(&[0, 10, 25, 60]);
        for (name, kind) in parameters(operation.name) {
            if kind.is_needed() || self.in_a_hundred(odds) {
                params.push(((*name).to_owned(), self.value(*kind)));
            }
        }
        if !self.pools.careful {
            self.spoil(&mut params);
        }
        self.add(&mut params);
        let path_id =
            (!params.iter().any(|(name, _)| name == "id") && self.in_a_hundred(2)).then(|| self.value(Kind::Group));
        self.sign(&mut params, path_id.as_deref(), operation, called, key);
        let path = self.path(called, path_id.as_deref());
        Form { operation: operation.name, path, params }.sent(&mut self.rng)
    }

    fn spoil(&mut self, params: &mut Pairs) {
        if self.in_a_hundred(15) && !params.is_empty() {
            params.remove(self.rng.random_range(0..params.len()));
        }
        if self.in_a_hundred(10) && !params.is_empty() {
            let (name, _) = self.one_of(params).clone();
            // Only a PIN's own parameters hold PINs.
            let kind = if name == "pin" { Kind::Pin } else { Kind::Text };
            params.push((name, self.value(kind)));
        }
    }

    /// What any request may carry besides.
    fn add(&mut self, params: &mut Pairs) {
        if self.in_a_hundred(8) {
            let password = if self.in_a_hundred(80) { super::PASSWORD } else { super::WRONG_PASSWORD };
            params.push(("p".to_owned(), password.to_owned()));
        }
        if self.in_a_hundred(5) {
            let key = if self.in_a_hundred(90) {
                format!("by parameter {}", self.rng.random_range(0..40))
            } else {
                self.value(Kind::Text)
            };
            params.push(("request_id".to_owned(), key));
        }
        for (name, odds) in [("test", 5), ("format", 2), ("unknown", 3), ("user_id", 2), ("tariff_id", 2), ("u[]", 1)] {
            if self.in_a_hundred(odds) {
                params.push((name.to_owned(), self.value(Kind::Count)));
            }
        }
    }

    fn user(&mut self) -> (Option<String>, &'static str) {
        let (name, key) = match self.rng.random_range(0..100) {
            0..65 => ("admin", ADMINS_KEY),
            65..80 => ("reseller", RESELLERS_KEY),
            _ => (*self.one_of(USERS), ADMINS_KEY),
        };
        match self.rng.random_range(0..100) {
            0..2 => (None, key),
            2..4 => (Some(self.value(Kind::Text)), key),
            4..6 => (Some(name.to_uppercase() + " "), key),
            _ => (Some(name.to_owned()), key),
        }
    }

    fn sign(&mut self, params: &mut Pairs, path_id: Option<&str>, operation: &Operation, called: &str, key: &str) {
        let right = self.right_hash(params, path_id, operation, called, key);
        let hash = match self.rng.random_range(0..100) {
            0..2 => return,
            2..4 => "0".repeat(40),
            4..6 => right[..39].to_owned(),
            6..8 => self.value(Kind::Text),
            8..10 => right.to_uppercase(),
            _ => right,
        };
        params.push(("hash".to_owned(), hash));
    }

    fn right_hash(
        &mut self,
        params: &Pairs,
        path_id: Option<&str>,
        operation: &Operation,
        called: &str,
        key: &str,
    ) -> String {
        let query = super::sending::form(params);
        let headers = HeaderMap::new();
        let read = Params::read(path_id, &query, &headers, Bytes::new(), 1000);
        // What the server refuses to read can't be signed either.
        let read = read.now_or_never().unwrap().unwrap_or_default();
        let ways: Vec<_> = operation.hashed.iter().flat_map(|rule| rule.of(&read, called)).collect();
        hex::encode(self.one_of(&ways).digest(key))
    }

    fn path(&mut self, called: &str, id: Option<&str>) -> String {
        let root = if self.in_a_hundred(50) { "/billing/api" } else { "/api" };
        let id = id.map(|id| format!("/{}", super::sending::escaped(id))).unwrap_or_default();
        let end = *self.one_of(&["", "", "", "", "", "", "", "", ".xml", ".json", ".csv", ".html", "/"]);
        match self.rng.random_range(0..200) {
            0 => "/".to_owned(),
            1 => format!("{root}/{}{id}", called.to_uppercase()),
            2 => format!("{root}/{called}/1/2"),
            _ => format!("{root}/{called}{id}{end}"),
        }
    }

    fn value(&mut self, kind: Kind) -> String {
        self.pools.value(kind, &mut self.rng)
    }

    fn one_of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.rng.random_range(0..list.len())]
    }

    fn in_a_hundred(&mut self, odds: u32) -> bool {
        self.rng.random_ratio(odds, 100)
    }
}

/// The same seed makes the same requests, so that a run can be repeated; another one makes others.
#[test]
fn a_seed_stands_for_its_requests() {
    let requests = |seed| {
        let mut requests = Requests::new(seed);
        (0..200).map(|_| requests.next()).collect::<Vec<_>>()
    };
    assert_eq!(requests(7), requests(7));
    assert_ne!(requests(7), requests(8));
}
