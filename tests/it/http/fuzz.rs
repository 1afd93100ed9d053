//! Arbitrary requests: the server replies with well-formed XML, and changes nothing if it can't read the request.

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Uri, header};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use crate::harness::{Reply, Server, hash, server, xml};

const SALE_PATH: &str = "/billing/api/card_from_group_sell";
/// The data that the requests can change.
const STATE: &str = "select (select count(*) from payments), (select count(*) from cards where sold = 1),
    (select count(*) from actions), (select count(*) from cardgroups), (select count(*) from tariffs),
    (select sum(balance) from cards)::text as balance";

/// Sends a request for each case to one server. A request whose reply has an error status must not change the data.
fn check_all<C: std::fmt::Debug>(cases: impl Strategy<Value = C>, request: impl Fn(C) -> Option<Request<Body>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(server());
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() });
    let result = runner.run(&cases, |case| {
        let request = request(case).ok_or_else(|| TestCaseError::reject("not HTTP"))?;
        let is_head = request.method() == Method::HEAD;
        runtime.block_on(async {
            let before = server.rows(STATE).await;
            let reply = server.send(Ok(request)).await;
            assert_well_formed(&reply, is_head);
            if reply.status != 200 {
                assert_eq!(server.rows(STATE).await, before, "{reply:?}");
            }
        });
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

fn assert_well_formed(reply: &Reply, is_head: bool) {
    assert!([200, 400, 404, 405, 413].contains(&reply.status.as_u16()), "{reply:?}");
    for name in ["x-request-id", "cache-control", "x-content-type-options", "content-type"] {
        assert!(reply.headers.contains_key(name), "no {name}: {reply:?}");
    }
    if !is_head {
        xml::parse_leaves(&reply.body).unwrap_or_else(|error| panic!("{error}: {reply:?}"));
    }
}

/// A valid sale, as a form.
fn sale() -> String {
    format!("u=admin&id=6&hash={}", hash("6", "secret"))
}

fn post(content_type: &[u8], body: impl Into<Body>) -> Option<Request<Body>> {
    let content_type = HeaderValue::from_bytes(content_type).ok()?;
    Request::post(SALE_PATH).header(header::CONTENT_TYPE, content_type).body(body.into()).ok()
}

/// Parts of forms, and arbitrary bytes.
fn form() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "&", ";", "=", "%", "%00", "%ff", "%C3%A9", "+", "u", "id", "hash", "quantity", "[]", "6", "admin",
        ])
        .prop_map(|piece| piece.as_bytes().to_vec()),
        2 => vec(any::<u8>(), 0..6),
        1 => Just(sale().into_bytes()),
    ];
    vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

/// Replaces a range of the bytes by other bytes.
fn spliced(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (bytes, any::<prop::sample::Index>(), 0..40usize, vec(any::<u8>(), 0..6)).prop_map(
        |(mut bytes, index, removed, inserted)| {
            let start = index.index(bytes.len() + 1);
            let end = (start + removed).min(bytes.len());
            bytes.splice(start..end, inserted);
            bytes
        },
    )
}

#[test]
fn any_query_string() {
    check_all((form(), 0..3usize), |(query, method)| {
        let uri = Uri::try_from([SALE_PATH.as_bytes(), b"?", &query].concat()).ok().or_else(|| {
            // Bytes that a request line can't contain are percent-encoded.
            let query = percent_encoding::percent_encode(&query, percent_encoding::NON_ALPHANUMERIC);
            Uri::try_from(format!("{SALE_PATH}?{}", query.to_string().replace("%3D", "=").replace("%26", "&"))).ok()
        });
        Request::builder()
            .method([Method::GET, Method::POST, Method::HEAD][method].clone())
            .uri(uri?)
            .body(Body::empty())
            .ok()
    });
}

#[test]
fn any_form() {
    check_all(form(), |body| post(b"application/x-www-form-urlencoded", body));
}

#[test]
fn any_body_of_any_type() {
    let known_types = vec![
        "application/json",
        "multipart/form-data; boundary=X",
        "multipart/form-data",
        "",
        "text/plain",
        "application/x-www-form-urlencoded;",
    ];
    let content_type = prop_oneof![
        prop::sample::select(known_types).prop_map(|known| known.as_bytes().to_vec()),
        vec(any::<u8>(), 0..30)
    ];
    check_all((content_type, spliced(vec(any::<u8>(), 0..300))), |(content_type, body)| post(&content_type, body));
}

#[test]
fn any_multipart() {
    let boundary = prop_oneof![Just("X".to_owned()), "[-'()+_,./:=? a-zA-Z0-9]{0,80}", any::<String>()];
    let value = prop_oneof![Just("6".to_owned()), Just("\r\n--X\r\n".to_owned()), any::<String>()];
    let field = (prop_oneof![Just("id".to_owned()), any::<String>()], value, any::<bool>());
    check_all((boundary, spliced(vec(field, 0..6).prop_map(fields))), |(boundary, body)| {
        post(format!("multipart/form-data; boundary={boundary}").as_bytes(), body)
    });
}

/// The multipart form of a valid sale, followed by these fields: name, value, and whether it is a file.
fn fields(additional: Vec<(String, String, bool)>) -> Vec<u8> {
    let sale = [("u", "admin"), ("id", "6"), ("hash", &hash("6", "secret"))]
        .map(|(name, value)| (name.to_owned(), value.to_owned(), false));
    let part = |(name, value, is_file): (String, String, bool)| {
        let file = if is_file { "; filename=\"f\"" } else { "" };
        format!("--X\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{value}\r\n")
    };
    (sale.into_iter().chain(additional).map(part).collect::<String>() + "--X--\r\n").into_bytes()
}

#[test]
fn any_json() {
    let leaf = prop_oneof![
        any::<String>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<bool>().prop_map(serde_json::Value::from),
        "-?[1-9][0-9]{0,200}(\\.[0-9]{1,200})?([eE][-+]?[0-9]{1,30})?"
            .prop_map(|number| serde_json::from_str(&number).unwrap()),
        Just(serde_json::Value::Null),
    ];
    let name = prop_oneof![
        prop::sample::select(vec!["u", "id", "hash", "quantity", "number", "test"]).prop_map(str::to_owned),
        any::<String>()
    ];
    let tree = leaf.prop_recursive(6, 40, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
            vec((name.clone(), inner), 0..8)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    });
    let deep = (1..4000usize, prop::sample::select(vec!["[", "{\"id\":"]))
        .prop_map(|(depth, open)| open.repeat(depth).into_bytes());
    let json = prop_oneof![
        4 => tree.clone().prop_map(|tree| tree.to_string().into_bytes()),
        2 => spliced(tree.prop_map(|tree| tree.to_string().into_bytes())),
        1 => deep,
    ];
    check_all(json, |body| post(b"application/json; charset=utf-8", body));
}

#[test]
fn any_headers() {
    let names = vec![
        "content-type",
        "idempotency-key",
        "x-request-id",
        "host",
        "x-forwarded-for",
        "content-length",
        "accept",
        "expect",
        "cookie",
    ];
    // `HeaderValue` refuses other bytes.
    let byte = prop_oneof![b' '..=b'~', 128..=255u8, Just(b'\t')];
    let headers = vec((prop::sample::select(names), vec(byte, 0..40)), 0..8);
    check_all(headers, |headers| {
        let mut request = Request::post(SALE_PATH).body(Body::from(sale())).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(name, HeaderValue::from_bytes(&value).ok()?);
        }
        Some(request)
    });
}

#[test]
fn any_path_and_method() {
    let pieces = vec![
        "/",
        "//",
        "api",
        "billing",
        "card_from_group_sell",
        "cc_by_cli",
        "card_group_get",
        ".xml",
        ".",
        "..",
        "%2e",
        "%00",
        "%ff",
        "%",
        "6",
        "ä",
        "~",
        "*",
    ];
    let methods = vec!["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "BREW", "get"];
    let path = (any::<bool>(), vec(prop::sample::select(pieces), 0..9)).prop_map(|(api, rest)| {
        let root = if api { "/billing/api/" } else { "/" };
        root.to_owned() + &rest.concat()
    });
    check_all((path, prop::sample::select(methods)), |(path, method)| {
        let uri = Uri::try_from(format!("{path}?{}", sale())).ok()?;
        // The root is an HTML page.
        if uri.path().trim_matches('/').is_empty() {
            return None;
        }
        Request::builder().method(method).uri(uri).body(Body::empty()).ok()
    });
}

/// A client's XML parser reads the stored text from the reply, except for characters that XML forbids.
#[test]
fn any_stored_text_is_returned_unchanged() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server: Server = runtime.block_on(server());
    let character = prop_oneof![
        any::<char>(),
        (1..32u8).prop_map(char::from),
        prop::sample::select(vec!['&', '<', '>', '"', '\'', '\u{fffe}', ']'])
    ];
    let text = vec(character, 1..30)
        .prop_map(String::from_iter)
        .prop_filter("PostgreSQL does not store NUL", |text| !text.contains('\0'));
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() });
    let result = runner.run(&(text.clone(), text), |(name, description)| {
        runtime.block_on(async {
            let update = sqlx::query("update cardgroups set name = $1, description = $2 where id = 11");
            update.bind(&name).bind(&description).execute(&server.pool).await.unwrap();
            let reply = server.post_signed("card_group_get", "u=admin&id=11", "11").await;
            let leaves = xml::parse_leaves(&reply.body).unwrap();
            let text = |element: &str| leaves.iter().find(|(name, _)| name == element).unwrap().1.clone();
            assert_eq!(
                (text("name"), text("description")),
                (xml::replace_disallowed_chars(&name), xml::replace_disallowed_chars(&description))
            );
        });
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
