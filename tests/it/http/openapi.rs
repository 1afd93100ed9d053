//! The OpenAPI document matches the operations and their code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use mortise::auth::signature::HashRule;
use mortise::db::seed;
use mortise::dialect::Dialect;
use mortise::error::ApiError;
use mortise::operations::OPERATIONS;
use mortise::operations::spec::{COMMON_PARAMETERS, PAYMENT_REFERENCE_PARAMETER, REQUEST_ID_PARAMETER, ReplyType};
use serde_json::Value;

use crate::harness::{Server, postgres, server_on_database, server_with_settings};

async fn get_document(server: &Server) -> Value {
    let reply = server.get("/billing/api/openapi.json").await;
    assert_eq!((reply.status, reply.header("content-type")), (StatusCode::OK, Some("application/json")));
    serde_json::from_str(&reply.body).unwrap()
}

#[tokio::test]
async fn document_is_served_under_every_prefix() {
    for (prefix, server_url) in [("/billing", Some("/billing")), ("/a/b", Some("/a/b")), ("", None)] {
        let server = server_with_settings(&[("prefix", prefix)]).await;
        let first = server.get(&format!("{prefix}/api/openapi.json")).await;
        let second = server.get("/api/openapi.json").await;
        assert_eq!((first.status, &first.body), (StatusCode::OK, &second.body), "{prefix}");
        let document: Value = serde_json::from_str(&first.body).unwrap();
        assert_eq!(document["servers"][0]["url"].as_str(), server_url);
        assert_eq!(document["openapi"], "3.1.0");
    }
}

#[tokio::test]
async fn document_has_all_operations_and_aliases() {
    let document = get_document(&server_with_settings(&[]).await).await;
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

/// Checks what the schema of OpenAPI documents does not: references have a target, examples match their type.
#[tokio::test]
async fn references_and_examples_are_valid() {
    let document = get_document(&server_with_settings(&[]).await).await;
    let mut references = 0;
    for_each_object(&document, &mut |object| {
        if let Some(reference) = object["$ref"].as_str() {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference} has no target");
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
        let query_parameters: Vec<&Value> = get.iter().filter(|parameter| parameter["in"] == "query").collect();
        assert_eq!(query_parameters.len(), properties.len());
        for parameter in query_parameters {
            let name = parameter["name"].as_str().unwrap();
            let has_type = match properties[name]["type"].as_str().unwrap() {
                "integer" => parameter["example"].is_i64(),
                "string" => parameter["example"].is_string(),
                other => panic!("{name} is {other}"),
            };
            assert!(has_type, "{} {name}: {}", operation.name, parameter["example"]);
            let values = &properties[name]["enum"];
            assert!(values.is_null() || values.as_array().unwrap().contains(&parameter["example"]), "{name}");
        }
    }
}

fn for_each_object(value: &Value, visit: &mut impl FnMut(&Value)) {
    match value {
        Value::Object(object) => {
            visit(value);
            object.values().for_each(|value| for_each_object(value, visit));
        }
        Value::Array(array) => array.iter().for_each(|value| for_each_object(value, visit)),
        _ => {}
    }
}

/// Errors with a status other than 200 are in the document, with their message.
#[tokio::test]
async fn error_statuses_are_documented() {
    let document = get_document(&server_with_settings(&[]).await).await;
    let errors = [
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
    for error in errors {
        let status = error.status(Dialect::Documented).as_u16().to_string();
        let mortise::xml::XmlReply::Buffered(body) = error.to_reply(Dialect::Documented) else { panic!() };
        assert_eq!(responses[&status]["content"]["text/html"]["example"], str::from_utf8(&body).unwrap(), "{status}");
    }
    for operation in OPERATIONS {
        let documented =
            document["paths"][format!("/api/{}", operation.name)]["post"]["responses"].as_object().unwrap();
        for status in responses.as_object().unwrap().keys() {
            let needs_idempotency_key = ["409", "422"].contains(&status.as_str());
            assert_eq!(
                documented.contains_key(status),
                operation.spec.is_mutation || !needs_idempotency_key,
                "{status}"
            );
        }
    }
}

/// With the demo data, the reply to each example has the elements of the documented reply.
#[tokio::test]
async fn examples_return_the_documented_reply() {
    let server = server_on_database(&postgres::create_database("").await, &[]).await;
    seed::seed_if_empty(&server.pool, true, async |_| Ok(())).await.unwrap();
    let document = get_document(&server).await;
    for operation in OPERATIONS {
        let example = &document["components"]["schemas"][operation.name]["examples"][0];
        let request =
            Request::post(format!("/billing/api/{}", operation.name)).header("content-type", "application/json");
        let reply = server.send(request.body(Body::from(example.to_string()))).await;
        assert_eq!(elements(&reply.body), elements(operation.spec.example_reply), "{example}\n{}", reply.body);
        let documented = &document["paths"][format!("/api/{}", operation.name)]["post"]["responses"]["200"]["content"];
        assert_eq!(
            documented["text/html"]["example"],
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}{}",
                operation.spec.example_reply,
                if operation.spec.reply_type == ReplyType::Xml { "\n" } else { "" }
            )
        );
    }
}

/// The element names of an XML text, without duplicates.
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

/// Every parameter that a hash rule names is one of the operation.
#[test]
fn hashed_parameters_are_documented() {
    for operation in OPERATIONS {
        let documented: Vec<&str> = operation.spec.parameters().map(|parameter| parameter.name).collect();
        for rule in operation.hash_rules {
            if let HashRule::Exactly(names) | HashRule::Legacy(_, names) = rule {
                assert!(names.iter().all(|name| documented.contains(name)), "{} {names:?}", operation.name);
            }
            if let HashRule::AnyOrder(names) = rule {
                assert!(names.iter().all(|name| documented.contains(name)), "{} {names:?}", operation.name);
            }
        }
        let names: BTreeSet<_> = operation.spec.all_parameters().map(|parameter| parameter.name).collect();
        assert_eq!(
            names.len(),
            operation.spec.all_parameters().count(),
            "{} has a duplicate parameter",
            operation.name
        );
    }
}

/// The parameters that an operation's code reads are the documented ones.
#[test]
fn parameters_in_the_code_are_documented() {
    for operation in OPERATIONS {
        let code = operation_code(operation.name);
        let mut read = parameter_names(&code);
        let mut documented: BTreeSet<String> =
            operation.spec.parameters().map(|parameter| parameter.name.to_owned()).collect();
        for rule in operation.hash_rules {
            // The legacy rules hash parameters that the operation does not read.
            if let HashRule::Legacy(_, names) = rule {
                documented.retain(|name| !names.contains(&name.as_str()) || read.contains(name));
            }
        }
        // `cc_group_create` and `cc_group_update` share their code, but these parameters are only for one of them.
        if operation.name == "cc_group_update" {
            read.retain(|name| !["pin_length", "number_length"].contains(&name.as_str()));
        }
        if operation.name == "cc_group_create" {
            read.remove("cc_group_id");
        }
        // `idempotency/key.rs` reads it for all operations that have it.
        if code.contains("idempotency.reference()") {
            read.insert(PAYMENT_REFERENCE_PARAMETER.name.to_owned());
        }
        // The other names in its code are elements of the document and columns.
        if operation.spec.document_parameter().is_some() {
            read.retain(|name| documented.contains(name));
        }
        assert_eq!(read, documented, "{}: left: read by the code, right: documented", operation.name);
        assert_eq!(code.contains("Idempotency::new("), operation.spec.is_mutation, "{}", operation.name);
    }
}

/// The parameters that the server reads for every operation are in `COMMON_PARAMETERS`.
#[test]
fn common_parameters_in_the_code_are_documented() {
    let mut common: BTreeSet<&str> =
        COMMON_PARAMETERS.iter().chain([&REQUEST_ID_PARAMETER]).map(|parameter| parameter.name).collect();
    // A parameter of one operation, which admission reads in the dialect x7.
    common.insert("cardgroup_id");
    let code = ["auth/admission", "http/request", "http/router", "idempotency/key"]
        .map(|file| source(Path::new(&format!("src/{file}.rs"))))
        .concat();
    let getters = ["get", "integer", "non_blank", "raw"].map(|method| format!("params.{method}("));
    let mut read: BTreeSet<String> = literals(&code)
        .into_iter()
        .filter(|(before, _)| getters.iter().any(|getter| before.ends_with(getter)))
        .map(|(_, name)| name)
        .collect();
    assert!(code.contains("const KEY_PARAM: &str = \"request_id\""));
    read.insert("request_id".into());
    assert_eq!(read.iter().map(String::as_str).collect::<BTreeSet<_>>(), common);
}

fn source(path: &Path) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The code of an operation without its description: its file or folder, and the modules that it shares with others.
fn operation_code(operation: &str) -> String {
    let mut folders = vec![PathBuf::from("src/operations")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if path.extension().is_some() { files.push(path) } else { folders.push(path) }
        }
    }
    let named = format!("    name: \"{operation}\",\n");
    let own_file = files.iter().find(|file| source(file).contains(&named)).unwrap();
    let text = source(own_file);
    let (before, rest) = text.split_once("pub const OPERATION: Operation").unwrap();
    let mut code = format!("{before}{}", rest.split_once("\n};\n").unwrap().1);
    let has_folder = own_file.ends_with("mod.rs");
    for sibling in files.iter().filter(|file| file.parent() == own_file.parent() && *file != own_file) {
        let name = sibling.file_stem().unwrap().to_str().unwrap();
        // Names in SQL are columns.
        let is_rust = sibling.extension().is_some_and(|extension| extension == "rs");
        if has_folder && is_rust || name == "request" && code.contains("use super::request::") {
            code += &source(sibling);
        }
    }
    // The rules of card groups, which the console has too.
    if code.contains("group_request(") {
        for file in ["input", "lookups", "mod"] {
            code += &source(Path::new(&format!("src/store/card_group/{file}.rs")));
        }
    }
    code
}

/// The string literals that can be parameter names: lower case, and not an argument of a function for other names.
fn parameter_names(code: &str) -> BTreeSet<String> {
    const OTHER_FUNCTIONS: [&str; 10] = [
        ".text(",
        ".optional_text(",
        ".element(",
        ".line(",
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
    // A literal after another one is a further argument of the same function.
    let mut is_other = false;
    let texts = literals(&without(code, "map_constraint(", "]")).into_iter().filter(|(before, _)| {
        is_other = OTHER_FUNCTIONS.iter().any(|function| before.ends_with(function)) || is_other && before == ", ";
        !is_other
    });
    texts.map(|(_, text)| text).filter(|text| is_name(text)).collect()
}

/// The string literals in the code, each after the code between it and the previous one.
fn literals(code: &str) -> Vec<(String, String)> {
    let code = without(&without(code, "//", "\n"), "r#\"", "\"#");
    let code = code.replace("'\"'", "");
    let mut literals = Vec::new();
    let mut rest = code.as_str();
    while let Some((outside, inside)) = rest.split_once('"') {
        let mut end = 0;
        while !inside[end..].starts_with('"') {
            end += if inside[end..].starts_with('\\') { 2 } else { inside[end..].chars().next().unwrap().len_utf8() };
        }
        literals.push((outside.to_owned(), inside[..end].to_owned()));
        rest = &inside[end + 1..];
    }
    literals
}

/// Removes the ranges from `open` to `close`.
fn without(text: &str, open: &str, close: &str) -> String {
    let mut parts = text.split(open);
    let first = parts.next().unwrap().to_owned();
    first + &parts.map(|part| part.split_once(close).map_or("", |(_, rest)| rest)).collect::<Vec<_>>().join("\n")
}
