//! The OpenAPI document says what the operations are, and nothing else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use mortise::auth::signature::HashRule;
use mortise::db::seed;
use mortise::dialect::Dialect;
use mortise::error::ApiError;
use mortise::operations::OPERATIONS;
use mortise::operations::spec::{COMMON_PARAMETERS, REQUEST_ID_PARAMETER};
use serde_json::Value;

use crate::harness::{Server, postgres, server_on_database, server_with_settings};

async fn document(server: &Server) -> Value {
    let reply = server.get("/billing/api/openapi.json").await;
    assert_eq!((reply.status, reply.header("content-type")), (StatusCode::OK, Some("application/json")));
    serde_json::from_str(&reply.body).unwrap()
}

#[tokio::test]
async fn it_stands_beside_the_operations_whatever_the_prefix() {
    for (prefix, servers) in [("/billing", Some("/billing")), ("/a/b", Some("/a/b")), ("", None)] {
        let server = server_with_settings(&[("prefix", prefix)]).await;
        let first = server.get(&format!("{prefix}/api/openapi.json")).await;
        let second = server.get("/api/openapi.json").await;
        assert_eq!((first.status, &first.body), (StatusCode::OK, &second.body), "{prefix}");
        let document: Value = serde_json::from_str(&first.body).unwrap();
        assert_eq!(document["servers"][0]["url"].as_str(), servers);
        assert_eq!(document["openapi"], "3.1.0");
    }
}

#[tokio::test]
async fn every_operation_is_there_by_all_its_names() {
    let document = document(&server_with_settings(&[]).await).await;
    let paths: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = BTreeSet::from(["/api/openapi.json".to_owned()]);
    let mut ids = BTreeSet::new();
    for operation in OPERATIONS {
        for name in std::iter::once(&operation.name).chain(operation.aliases) {
            let path = &document["paths"][format!("/api/{name}")];
            for method in ["get", "post"] {
                let deprecated = path[method]["deprecated"] == true;
                assert_eq!(deprecated, *name != operation.name, "{method} {name}");
                assert!(ids.insert(path[method]["operationId"].as_str().unwrap().to_owned()), "{method} {name}");
            }
            expected.insert(format!("/api/{name}"));
        }
    }
    assert_eq!(paths, expected.iter().map(String::as_str).collect());
}

/// What a document must be that no schema of documents says: each reference leads somewhere, each example fits.
#[tokio::test]
async fn it_holds_together() {
    let document = document(&server_with_settings(&[]).await).await;
    let mut references = 0;
    each(&document, &mut |object| {
        if let Some(reference) = object["$ref"].as_str() {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference} leads nowhere");
            references += 1;
        }
    });
    assert!(references > 100, "{references}");
    for operation in OPERATIONS {
        let form = &document["components"]["schemas"][operation.name];
        let properties = form["properties"].as_object().unwrap();
        for required in form["required"].as_array().unwrap() {
            assert!(properties.contains_key(required.as_str().unwrap()), "{required}");
        }
        let get = document["paths"][format!("/api/{}", operation.name)]["get"]["parameters"].as_array().unwrap();
        let queried: Vec<&Value> = get.iter().filter(|parameter| parameter["in"] == "query").collect();
        assert_eq!(queried.len(), properties.len());
        for parameter in queried {
            let name = parameter["name"].as_str().unwrap();
            let fits = match properties[name]["type"].as_str().unwrap() {
                "integer" => parameter["example"].is_i64(),
                "string" => parameter["example"].is_string(),
                other => panic!("{name} is {other}"),
            };
            assert!(fits, "{} {name}: {}", operation.name, parameter["example"]);
            let words = &properties[name]["enum"];
            assert!(words.is_null() || words.as_array().unwrap().contains(&parameter["example"]), "{name}");
        }
    }
}

fn each(value: &Value, look: &mut impl FnMut(&Value)) {
    match value {
        Value::Object(object) => {
            look(value);
            object.values().for_each(|value| each(value, look));
        }
        Value::Array(array) => array.iter().for_each(|value| each(value, look)),
        _ => {}
    }
}

/// Refusals with a status of their own are in it, with these words.
#[tokio::test]
async fn every_status_is_there() {
    let document = document(&server_with_settings(&[]).await).await;
    let faults = [
        ApiError::MethodNotAllowed,
        ApiError::BadRequest("Parameters are not valid UTF-8"),
        ApiError::BodyTooLarge,
        ApiError::BodyTimeout,
        ApiError::TooManyAttempts(1),
        ApiError::Unavailable,
        ApiError::RequestInProgress,
        ApiError::KeyReused,
    ];
    let responses = &document["components"]["responses"];
    for fault in faults {
        let status = fault.status(Dialect::Documented).as_u16().to_string();
        let mortise::xml::XmlReply::Buffered(words) = fault.to_reply(Dialect::Documented) else { panic!() };
        assert_eq!(responses[&status]["content"]["text/html"]["example"], words, "{status}");
    }
    for operation in OPERATIONS {
        let answers = document["paths"][format!("/api/{}", operation.name)]["post"]["responses"].as_object().unwrap();
        for status in responses.as_object().unwrap().keys() {
            let only_with_key = ["409", "422"].contains(&status.as_str());
            assert_eq!(answers.contains_key(status), operation.spec.is_mutation || !only_with_key, "{status}");
        }
    }
}

/// In the demo's world each example is answered as its page says: the same elements, whatever is in them.
#[tokio::test]
async fn examples_work_to_the_letter() {
    let server = server_on_database(&postgres::create_database("").await, &[]).await;
    seed::seed_if_empty(&server.pool, true, |_| Ok(())).await.unwrap();
    let document = document(&server).await;
    for operation in OPERATIONS {
        let example = &document["components"]["schemas"][operation.name]["examples"][0];
        let request =
            Request::post(format!("/billing/api/{}", operation.name)).header("content-type", "application/json");
        let reply = server.send(request.body(Body::from(example.to_string()))).await;
        assert_eq!(elements(&reply.body), elements(operation.spec.example_reply), "{example}\n{}", reply.body);
        let said = &document["paths"][format!("/api/{}", operation.name)]["post"]["responses"]["200"]["content"];
        assert_eq!(
            said["text/html"]["example"],
            format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}\n", operation.spec.example_reply)
        );
    }
}

/// The names of a document's elements, each once.
fn elements(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for part in text.split('<').skip(1).filter(|part| !part.starts_with(['/', '?'])) {
        let name = part.split(['>', '/']).next().unwrap();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// What the hash covers can be sent.
#[test]
fn what_is_hashed_is_read() {
    for operation in OPERATIONS {
        let read: Vec<&str> = operation.spec.parameters().map(|parameter| parameter.name).collect();
        for rule in operation.hash_rules {
            if let HashRule::Exactly(names) | HashRule::Legacy(_, names) = rule {
                assert!(names.iter().all(|name| read.contains(name)), "{} {names:?}", operation.name);
            }
            if let HashRule::AnyOrder(names) = rule {
                assert!(names.iter().all(|name| read.contains(name)), "{} {names:?}", operation.name);
            }
        }
        let names: BTreeSet<_> = operation.spec.all_parameters().map(|parameter| parameter.name).collect();
        assert_eq!(names.len(), operation.spec.all_parameters().count(), "{} names one twice", operation.name);
    }
}

/// What a room's code asks a request for stands on its page, and nothing else does.
#[test]
fn what_a_room_reads_stands_on_its_page() {
    for operation in OPERATIONS {
        let code = room(operation.name);
        let mut read = names(&code);
        let mut page: BTreeSet<String> =
            operation.spec.parameters().map(|parameter| parameter.name.to_owned()).collect();
        for rule in operation.hash_rules {
            // Sent, hashed, and looked at by nobody.
            if let HashRule::Legacy(_, names) = rule {
                page.retain(|name| !names.contains(&name.as_str()) || read.contains(name));
            }
        }
        // The rules of card groups serve both, but these are for new ones only.
        if operation.name == "cc_group_update" {
            read.retain(|name| !["pin_length", "number_length"].contains(&name.as_str()));
        }
        assert_eq!(read, page, "{}: left what its code reads, right what its page says", operation.name);
        assert_eq!(code.contains("Idempotency::new("), operation.spec.is_mutation, "{}", operation.name);
    }
}

/// So do the parameters that every operation reads.
#[test]
fn what_every_operation_reads_is_known() {
    let mut common: BTreeSet<&str> =
        COMMON_PARAMETERS.iter().chain([&REQUEST_ID_PARAMETER]).map(|parameter| parameter.name).collect();
    // Of one operation, looked at before the others by the dialect x7.
    common.insert("cardgroup_id");
    let code = ["auth/admission", "http/request", "http/router", "idempotency"]
        .map(|file| source(Path::new(&format!("src/{file}.rs"))))
        .concat();
    let asked = ["get", "integer", "non_blank", "raw"].map(|call| format!("params.{call}("));
    let mut read: BTreeSet<String> = literals(&code)
        .into_iter()
        .filter(|(before, _)| asked.iter().any(|call| before.ends_with(call)))
        .map(|(_, name)| name)
        .collect();
    assert!(code.contains("const KEY_PARAM: &str = \"request_id\""));
    read.insert("request_id".into());
    assert_eq!(read.iter().map(String::as_str).collect::<BTreeSet<_>>(), common);
}

fn source(path: &Path) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The code of an operation, without its page: its file or folder, and what it shares with its neighbours.
fn room(operation: &str) -> String {
    let mut folders = vec![PathBuf::from("src/operations")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if path.extension().is_some() { files.push(path) } else { folders.push(path) }
        }
    }
    let named = format!("    name: \"{operation}\",\n");
    let own = files.iter().find(|file| source(file).contains(&named)).unwrap();
    let text = source(own);
    let (before, rest) = text.split_once("pub const OPERATION: Operation").unwrap();
    let mut code = format!("{before}{}", rest.split_once("\n};\n").unwrap().1);
    let inner = own.ends_with("mod.rs");
    for neighbour in files.iter().filter(|file| file.parent() == own.parent() && *file != own) {
        let name = neighbour.file_stem().unwrap().to_str().unwrap();
        if inner || ["lookups", "input"].contains(&name) && code.contains(&format!("use super::{name}::")) {
            code += &source(neighbour);
        }
    }
    code
}

/// The texts in the code that can be names of parameters: small letters, and nothing that writes or asks for something else.
fn names(code: &str) -> BTreeSet<String> {
    const OTHERS: [&str; 9] = [
        ".text(",
        ".optional_text(",
        ".element(",
        ".right(",
        "XmlReply::new(",
        "XmlReply::status(",
        "XmlReply::stream_list(",
        "unwrap_or(",
        "Some(",
    ];
    let is_name = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    // What stands beside another's, as its second argument, is another's too.
    let mut is_others = false;
    let texts = literals(&without(code, "map_constraint(", "]")).into_iter().filter(|(before, _)| {
        is_others = OTHERS.iter().any(|other| before.ends_with(other)) || is_others && before == ", ";
        !is_others
    });
    texts.map(|(_, text)| text).filter(|text| is_name(text)).collect()
}

/// Each text in the code, after what stands before it.
fn literals(code: &str) -> Vec<(String, String)> {
    let code = without(&without(code, "//", "\n"), "r#\"", "\"#");
    let code = code.replace("'\"'", "");
    let mut found = Vec::new();
    let mut rest = code.as_str();
    while let Some((outside, inside)) = rest.split_once('"') {
        let mut end = 0;
        while !inside[end..].starts_with('"') {
            end += if inside[end..].starts_with('\\') { 2 } else { inside[end..].chars().next().unwrap().len_utf8() };
        }
        found.push((outside.to_owned(), inside[..end].to_owned()));
        rest = &inside[end + 1..];
    }
    found
}

fn without(text: &str, open: &str, close: &str) -> String {
    let mut parts = text.split(open);
    let first = parts.next().unwrap().to_owned();
    first + &parts.map(|part| part.split_once(close).map_or("", |(_, rest)| rest)).collect::<Vec<_>>().join("\n")
}
