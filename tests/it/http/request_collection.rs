//! The request collection matches the descriptions of the operations. `scripts/collection` generates it.

use std::path::{Path, PathBuf};
use std::process::Command;

use mortise::http::context::Operation;
use mortise::http::openapi;
use mortise::operations::OPERATIONS;
use mortise::operations::spec::{Parameter, REQUEST_ID_PARAMETER, ReplyType};

use crate::harness::hash;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/requests")
}

#[test]
fn collection_matches_operations() {
    let mut files = vec![(folder().join("curl.sh"), curl())];
    for (position, operation) in OPERATIONS.iter().enumerate() {
        files.push((folder().join(format!("bruno/{}.bru", operation.name)), bruno(position + 1, operation)));
    }
    for (path, text) in &files {
        if std::env::var_os("COLLECTION").is_some_and(|mode| mode == "write") {
            std::fs::write(path, text).unwrap();
        }
        let current = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(current, *text, "{} does not match the operations: run scripts/collection", path.display());
    }
    let entries = std::fs::read_dir(folder().join("bruno")).unwrap().map(|entry| entry.unwrap().path());
    for request in entries.filter(|path| path.extension().is_some_and(|extension| extension == "bru")) {
        assert!(files.iter().any(|(path, _)| *path == request), "{} belongs to no operation", request.display());
    }
}

/// `curl.sh` signs the examples, and a request with other parameters, as the server expects.
#[test]
fn script_signs_its_requests() {
    let directory = tempfile::tempdir().unwrap();
    let curl = directory.path().join("curl");
    std::fs::write(&curl, "#!/bin/sh\nprintf '%s\\n' \"$@\"\n").unwrap();
    let curl_arguments = |arguments: &[&str]| {
        let mut script = Command::new("sh");
        script.arg(folder().join("curl.sh")).args(arguments).env("CURL", format!("sh {}", curl.display()));
        let script = script.env("KEY", "secret").env("API_USER", "admin").env("URL", "http://shop.test/api");
        let output = script.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for operation in OPERATIONS {
        for name in std::iter::once(&operation.name).chain(operation.aliases) {
            let output = curl_arguments(&[name]);
            assert!(output.contains(&format!("http://shop.test/api/{name}\n")), "{output}");
            let value = |name: &&str| {
                let parameter = operation.spec.parameters().find(|parameter| parameter.name == *name)?;
                Some(parameter.example).filter(|_| parameter.is_in_example())
            };
            let values: String = hashed_names(operation).iter().filter_map(value).collect();
            assert!(output.contains(&format!("hash={}\n", hash(&values, "secret"))), "{output}");
            for parameter in operation.spec.parameters().filter(|parameter| parameter.is_in_example()) {
                assert!(output.contains(&format!("--data-urlencode\n{}\n", pair(parameter))), "{output}");
            }
        }
    }
    let output = curl_arguments(&["card_from_group_sell", "quantity=3", "id=1 2", "email=a=b@shop.test", "curr=EUR"]);
    assert!(output.contains(&format!("hash={}\n", hash("a=b@shop.test1 23", "secret"))), "{output}");
    assert!(
        output
            .ends_with("--data-urlencode\nid=1 2\n--data-urlencode\nemail=a=b@shop.test\n--data-urlencode\ncurr=EUR\n"),
        "{output}"
    );
}

/// The parameters that the hash covers by the operation's first rule, which is valid for its name and its aliases.
fn hashed_names(operation: &Operation) -> Vec<&'static str> {
    openapi::hashed_param_names(operation, operation.name).remove(0)
}

fn pair(parameter: &Parameter) -> String {
    format!("{}={}", parameter.name, parameter.example)
}

fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The parameter that makes the reply a text.
fn test_parameter(operation: &Operation) -> Option<&'static str> {
    (operation.spec.reply_type == ReplyType::ZipOrXml).then_some("test=1")
}

fn curl() -> String {
    let cases: Vec<String> = OPERATIONS.iter().map(curl_case).collect();
    include_str!("../../../contrib/requests/curl.template").replace("    # The operations.\n", &cases.concat())
}

fn curl_case(operation: &Operation) -> String {
    let names: Vec<&str> = std::iter::once(operation.name).chain(operation.aliases.iter().copied()).collect();
    let example: Vec<String> = operation
        .spec
        .parameters()
        .filter(|parameter| parameter.is_in_example())
        .map(|parameter| shell_quoted(&pair(parameter)))
        .chain(test_parameter(operation).map(|pair| format!("'{pair}'")))
        .collect();
    let (names, hashed, example) = (names.join(" | "), hashed_names(operation).join(" "), example.join(" "));
    let summary = operation.spec.summary;
    format!(
        "    # {summary}.\n    {names})\n        hashed='{hashed}'\n        \
         [ $# -gt 0 ] || set -- {example}\n        ;;\n"
    )
}

fn bruno(position: usize, operation: &Operation) -> String {
    let fields: String = operation
        .spec
        .parameters()
        .map(|parameter| {
            let disabled = if parameter.is_in_example() { "" } else { "~" };
            format!("  {disabled}{}: {}\n", parameter.name, parameter.example)
        })
        .chain(test_parameter(operation).map(|pair| format!("  {}\n", pair.replace('=', ": "))))
        .collect();
    let descriptions: String = operation
        .spec
        .parameters()
        .map(|parameter| format!("  - `{}`: {}\n", parameter.name, parameter.description))
        .collect();
    let (name, summary, description) = (operation.name, operation.spec.summary, operation.spec.description);
    let hashed = serde_json::to_string(&hashed_names(operation)).unwrap();
    let key = REQUEST_ID_PARAMETER.example;
    let headers = if operation.spec.is_mutation {
        format!("headers {{\n  ~Idempotency-Key: {key}\n}}\n\n")
    } else {
        String::new()
    };
    format!(
        "meta {{\n  name: {name}\n  type: http\n  seq: {position}\n}}\n\n\
         post {{\n  url: {{{{url}}}}/{name}\n  body: formUrlEncoded\n  auth: none\n}}\n\n{headers}\
         body:form-urlencoded {{\n  u: {{{{user}}}}\n  hash: {{{{hash}}}}\n{fields}}}\n\n\
         script:pre-request {{\n  require(\"./sign.js\")(req, bru, {hashed});\n}}\n\n\
         docs {{\n  {summary}.\n\n  {description}\n\n{descriptions}}}\n"
    )
}
