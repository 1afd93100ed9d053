//! The ways in which a client may send parameters, and the ways in which it shouldn't.

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::RngExt;
use proptest::test_runner::TestRng;

type Pairs = [(String, String)];

/// A request before it is decided how it travels.
pub struct Form {
    pub operation: &'static str,
    pub path: String,
    pub params: Vec<(String, String)>,
}

/// A request as it travels.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    pub operation: &'static str,
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

const FORM: &str = "application/x-www-form-urlencoded";

impl Form {
    pub fn sent(self, rng: &mut TestRng) -> Sent {
        let Self { operation, path, params } = self;
        let mut headers = HeaderMap::new();
        let split = rng.random_range(0..=params.len());
        let (method, query, content_type, body) = match rng.random_range(0..100) {
            0..50 => (Method::POST, String::new(), FORM, form(&params).into_bytes()),
            50..70 => (Method::GET, form(&params), "", Vec::new()),
            70..72 => (Method::HEAD, form(&params), "", Vec::new()),
            72..80 => (Method::POST, String::new(), "application/json", json(&params)),
            80..88 => (Method::POST, String::new(), "multipart/form-data; boundary=X", multipart(&params)),
            88..92 => (Method::POST, form(&params[..split]), FORM, form(&params[split..]).into_bytes()),
            92..93 => (Method::PUT, form(&params), "", Vec::new()),
            93..94 => (Method::DELETE, form(&params), "", Vec::new()),
            _ => {
                let (content_type, body) = mistaken(&params, rng);
                (Method::POST, form(&params[..split]), content_type, body)
            }
        };
        if !content_type.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        more_headers(&mut headers, rng);
        // Query strings are for what fits into one: a longer one is for the limits' own tests.
        let question = if query.is_empty() || query.len() > 20_000 { String::new() } else { format!("?{query}") };
        Sent { operation, method, target: path + &question, headers, body: body.into() }
    }
}

fn more_headers(headers: &mut HeaderMap, rng: &mut TestRng) {
    let key = match rng.random_range(0..100) {
        0..20 => format!("by header {}", rng.random_range(0..400)).into_bytes(),
        20 => vec![b'k'; 300],
        21 => "schlüssel".into(),
        22 => vec![0xff, 0xfe],
        _ => Vec::new(),
    };
    if !key.is_empty() {
        headers.insert("idempotency-key", HeaderValue::from_bytes(&key).unwrap());
    }
    for (name, value) in [
        ("x-request-id", "shop-17\t<&"),
        ("x-forwarded-for", "192.0.2.1, x"),
        ("accept-language", "de"),
        ("cookie", "a=b"),
    ] {
        if rng.random_ratio(1, 20) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

pub fn escaped(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// As `application/x-www-form-urlencoded`.
pub fn form(params: &Pairs) -> String {
    params.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value))).collect::<Vec<_>>().join("&")
}

fn json(params: &Pairs) -> Vec<u8> {
    let object = params.iter().map(|(name, value)| (name.clone(), serde_json::Value::from(value.clone())));
    serde_json::to_vec(&object.collect::<serde_json::Map<_, _>>()).unwrap()
}

pub fn multipart(params: &Pairs) -> Vec<u8> {
    let field = |(name, value): &(String, String)| {
        format!("--X\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    (params.iter().map(field).collect::<String>() + "--X--\r\n").into_bytes()
}

/// A body that isn't what it says, or can't be read.
fn mistaken(params: &Pairs, rng: &mut TestRng) -> (&'static str, Vec<u8>) {
    let cut = |mut body: Vec<u8>, rng: &mut TestRng| {
        body.truncate(rng.random_range(0..=body.len()));
        body
    };
    match rng.random_range(0..60) {
        0..8 => ("multipart/form-data; boundary=X", cut(multipart(params), rng)),
        8..12 => ("multipart/form-data; boundary=Y", multipart(params)),
        12..14 => ("multipart/form-data", multipart(params)),
        14..20 => ("application/json", cut(json(params), rng)),
        20..22 => ("application/json", [b"[".repeat(3000), b"]".repeat(3000)].concat()),
        22..24 => ("application/json", b"{\"a\":".repeat(3000)),
        24..26 => (
            "application/json",
            format!("{{\"id\": 1{}, \"quantity\": -1e{}}}", "0".repeat(999), "9".repeat(99)).into(),
        ),
        26..32 => (FORM, (0..rng.random_range(0..200)).map(|_| rng.random()).collect()),
        32..36 => (FORM, b"u=admin&x=%".to_vec()),
        36..38 => (FORM, b"x=%00".to_vec()),
        38..40 => (FORM, b"&x=".repeat(1001)),
        40..46 => ("text/plain", form(params).into()),
        46..52 => ("application/xml", b"<x/>".to_vec()),
        52..58 => ("nonsense;;=", form(params).into()),
        58 => (FORM, vec![b'x'; 1_048_577]),
        _ => (FORM, vec![b'&'; 1_048_576]),
    }
}
