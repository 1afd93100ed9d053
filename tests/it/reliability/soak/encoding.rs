//! The encodings in which a client can send parameters, correct and malformed.

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::RngExt;
use proptest::test_runner::TestRng;

type ParamSlice = [(String, String)];

/// A request before it is encoded.
pub struct RequestDraft {
    pub operation: &'static str,
    pub path: String,
    pub params: Vec<(String, String)>,
}

/// An encoded HTTP request.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedRequest {
    pub operation: &'static str,
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

const FORM_CONTENT_TYPE: &str = "application/x-www-form-urlencoded";

impl RequestDraft {
    pub fn encode(self, rng: &mut TestRng) -> EncodedRequest {
        let Self { operation, path, params } = self;
        let mut headers = HeaderMap::new();
        let split = rng.random_range(0..=params.len());
        let (method, query, content_type, body) = match rng.random_range(0..100) {
            0..50 => (Method::POST, String::new(), FORM_CONTENT_TYPE, encode_form(&params).into_bytes()),
            50..70 => (Method::GET, encode_form(&params), "", Vec::new()),
            70..72 => (Method::HEAD, encode_form(&params), "", Vec::new()),
            72..80 => (Method::POST, String::new(), "application/json", encode_json(&params)),
            80..88 => (Method::POST, String::new(), "multipart/form-data; boundary=X", encode_multipart(&params)),
            88..92 => (
                Method::POST,
                encode_form(&params[..split]),
                FORM_CONTENT_TYPE,
                encode_form(&params[split..]).into_bytes(),
            ),
            92..93 => (Method::PUT, encode_form(&params), "", Vec::new()),
            93..94 => (Method::DELETE, encode_form(&params), "", Vec::new()),
            _ => {
                let (content_type, body) = malformed_body(&params, rng);
                (Method::POST, encode_form(&params[..split]), content_type, body)
            }
        };
        if !content_type.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        add_random_headers(&mut headers, rng);
        // Long query strings are dropped: other tests check the limits.
        let query = if query.is_empty() || query.len() > 20_000 { String::new() } else { format!("?{query}") };
        EncodedRequest { operation, method, target: path + &query, headers, body: body.into() }
    }
}

fn add_random_headers(headers: &mut HeaderMap, rng: &mut TestRng) {
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

pub fn percent_encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// As `application/x-www-form-urlencoded`.
pub fn encode_form(params: &ParamSlice) -> String {
    params
        .iter()
        .map(|(name, value)| format!("{}={}", percent_encode(name), percent_encode(value)))
        .collect::<Vec<_>>()
        .join("&")
}

fn encode_json(params: &ParamSlice) -> Vec<u8> {
    let object = params.iter().map(|(name, value)| (name.clone(), serde_json::Value::from(value.clone())));
    serde_json::to_vec(&object.collect::<serde_json::Map<_, _>>()).unwrap()
}

pub fn encode_multipart(params: &ParamSlice) -> Vec<u8> {
    let field = |(name, value): &(String, String)| {
        format!("--X\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    (params.iter().map(field).collect::<String>() + "--X--\r\n").into_bytes()
}

/// A body that does not match its content type, or is malformed.
fn malformed_body(params: &ParamSlice, rng: &mut TestRng) -> (&'static str, Vec<u8>) {
    let truncated = |mut body: Vec<u8>, rng: &mut TestRng| {
        body.truncate(rng.random_range(0..=body.len()));
        body
    };
    match rng.random_range(0..60) {
        0..8 => ("multipart/form-data; boundary=X", truncated(encode_multipart(params), rng)),
        8..12 => ("multipart/form-data; boundary=Y", encode_multipart(params)),
        12..14 => ("multipart/form-data", encode_multipart(params)),
        14..20 => ("application/json", truncated(encode_json(params), rng)),
        20..22 => ("application/json", [b"[".repeat(3000), b"]".repeat(3000)].concat()),
        22..24 => ("application/json", b"{\"a\":".repeat(3000)),
        24..26 => (
            "application/json",
            format!("{{\"id\": 1{}, \"quantity\": -1e{}}}", "0".repeat(999), "9".repeat(99)).into(),
        ),
        26..32 => (FORM_CONTENT_TYPE, (0..rng.random_range(0..200)).map(|_| rng.random()).collect()),
        32..36 => (FORM_CONTENT_TYPE, b"u=admin&x=%".to_vec()),
        36..38 => (FORM_CONTENT_TYPE, b"x=%00".to_vec()),
        38..40 => (FORM_CONTENT_TYPE, b"&x=".repeat(1001)),
        40..46 => ("text/plain", encode_form(params).into()),
        46..52 => ("application/xml", b"<x/>".to_vec()),
        52..58 => ("nonsense;;=", encode_form(params).into()),
        58 => (FORM_CONTENT_TYPE, vec![b'x'; 1_048_577]),
        _ => (FORM_CONTENT_TYPE, vec![b'&'; 1_048_576]),
    }
}
