//! The API as an OpenAPI document, made of what each operation says of itself. Its examples work to the letter in the demo's world.

use serde_json::{Map, Value};
use sha1::{Digest, Sha1};
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn, PathItem, PathItemBuilder, PathsBuilder};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{Components, ComponentsBuilder, Object, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{
    Content, ContentBuilder, Deprecated, HttpMethod, InfoBuilder, KnownFormat, LicenseBuilder, OpenApi, OpenApiBuilder,
    Ref, RefOr, Required, Server,
};

use crate::auth::signature::Rule;
use crate::db::seed::DEMO_KEY;
use crate::dialect::Dialect;
use crate::error::Fault;
use crate::http::context::Operation;
use crate::operations::spec::{Kind, Need, Parameter};
use crate::xml::{DECLARATION, Document};

/// Where it is served, behind the prefix and without it.
pub const PATH: &str = "/api/openapi.json";

const ABOUT: &str = "The HTTP API of the MOR billing system for calling cards, as Mortise answers it. Every operation takes its parameters \
from the query string and the body, as a form or a flat JSON object, and is called by GET or POST (GET only where the setting \
`Allow_GET_API` is on). `/api/NAME` without the prefix answers as well.\n\nA request is signed: `hash` is the SHA-1, in hex, of the \
values of certain parameters and then the secret key, without anything between them. Which parameters, and in which order, each \
operation says, in words and in `x-mortise-hash`.\n\nWhatever an operation has to say it says with status 200, refusals too: look for \
`<error>`. The reply is XML that calls itself HTML, as MOR's does, or XML where the setting `XML_API_Extension` is on.";

/// What a reply calls itself, by settings and parameters; the bytes are the same.
const REPLIES: [&str; 3] = ["text/html", "text/xml", "application/xml"];

/// What a body may be.
const BODIES: [&str; 3] = ["application/x-www-form-urlencoded", "multipart/form-data", "application/json"];

/// What any request may hear before an operation has its say: status, reason, and such a refusal (of a panic, what is said of it).
const REFUSALS: [(&str, &str, Option<Fault>); 10] = [
    ("400", "The request can't be read.", Some(Fault::BadRequest("Parameters are not valid UTF-8"))),
    ("405", "Neither GET, POST nor HEAD.", Some(Fault::MethodNotAllowed)),
    ("408", "The body didn't come in time.", Some(Fault::BodyTooSlow)),
    ("409", "A request with the same idempotency key is being carried out.", Some(Fault::StillRunning)),
    ("413", "The body is too large.", Some(Fault::BodyTooLarge)),
    ("422", "The idempotency key came with other parameters before.", Some(Fault::KeyOfAnotherRequest)),
    ("429", "Too many wrong hashes, passwords or PINs from this address.", Some(Fault::TooManyGuesses(60))),
    ("431", "Too many headers, or too large ones.", None),
    ("500", "A fault of the server's own.", Some(Fault::TransactionFailed)),
    ("503", "The database is away, or there are too many requests at once.", Some(Fault::Unavailable)),
];

/// The statuses that only a request with an idempotency key hears.
const OF_KEYS: [&str; 2] = ["409", "422"];

/// The statuses that come with Retry-After.
const TO_RETRY: [&str; 3] = ["409", "429", "503"];

/// The document of these operations, served behind this prefix.
pub fn document(operations: &[Operation], prefix: &str) -> OpenApi {
    let mut paths = PathsBuilder::new().path(PATH, own_path());
    for operation in operations {
        for name in std::iter::once(&operation.name).chain(operation.aliases) {
            paths = paths.path(format!("/api/{name}"), path(operation, name));
        }
    }
    let licence = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build();
    let info = InfoBuilder::new().title("Mortise").version(env!("CARGO_PKG_VERSION")).description(Some(ABOUT));
    OpenApiBuilder::new()
        .info(info.license(Some(licence)).build())
        .servers((!prefix.is_empty()).then(|| [Server::new(prefix)]))
        .paths(paths.build())
        .components(Some(components(operations)))
        .build()
}

/// The path of the document itself.
fn own_path() -> PathItem {
    let content = ContentBuilder::new().schema(Some(ObjectBuilder::new())).build();
    let operation = OperationBuilder::new()
        .operation_id(Some("openapi"))
        .summary(Some("This document"))
        .description(Some("For everybody: it needs neither user nor hash."))
        .response(
            "200",
            ResponseBuilder::new().description("The document.").content("application/json", content).build(),
        );
    PathItem::new(HttpMethod::Get, operation.build())
}

/// An operation under one of its names.
fn path(operation: &Operation, name: &str) -> PathItem {
    let described = |id: String| {
        let mut described = OperationBuilder::new()
            .operation_id(Some(id))
            .summary(Some(operation.page.summary))
            .description(Some(description(operation, name)))
            .deprecated((name != operation.name).then_some(Deprecated::True))
            .extensions(Some(
                ExtensionsBuilder::new().add("x-mortise-hash", Value::from(hashed(operation, name))).build(),
            ));
        for header in request_headers(operation) {
            described = described.parameter(header);
        }
        for (status, answer) in answers(operation) {
            described = described.response(status, answer);
        }
        described
    };
    let mut get = described(format!("{name}_by_get"));
    for parameter in operation.page.all_parameters() {
        get = get.parameter(
            ParameterBuilder::new()
                .name(parameter.name)
                .parameter_in(ParameterIn::Query)
                .required(if parameter.need == Need::Required { Required::True } else { Required::False })
                .description(Some(parameter.meaning))
                .schema(Some(schema(parameter)))
                .example(Some(example(operation, parameter))),
        );
    }
    let post = described(name.to_owned()).request_body(Some(body(operation)));
    PathItemBuilder::new().operation(HttpMethod::Get, get.build()).operation(HttpMethod::Post, post.build()).build()
}

/// The names that the hash covers, in order: a list for each way in which a request may be signed.
pub fn hashed(operation: &Operation, called: &str) -> Vec<Vec<&'static str>> {
    let names = || operation.page.parameters().map(|parameter| parameter.name);
    operation.hashed.iter().filter_map(|rule| rule.names(names(), called)).collect()
}

fn description(operation: &Operation, name: &str) -> String {
    let mut text = operation.page.description.to_owned();
    if name != operation.name {
        text += &format!("\n\nAn older name of `{}`.", operation.name);
    }
    for (rule, names) in operation.hashed.iter().zip(hashed(operation, name)) {
        let names = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        text += &match rule {
            _ if names.is_empty() => "\n\nThe hash is of the secret key alone.".to_owned(),
            Rule::Listed(_) | Rule::Exactly(_) => {
                format!("\n\nThe hash covers {names}: what is sent of them, in this order, then the secret key.")
            }
            Rule::AnyOrder(_) => format!("\n\nIt may cover {names} in whichever order."),
            Rule::Legacy(..) => format!(
                "\n\nUnder this name it may cover {names} instead, which leaves the rest unsigned; the setting `legacy_hashes` says whether."
            ),
        };
    }
    text
}

fn request_headers(operation: &Operation) -> Vec<ParameterBuilder> {
    let header = |name: &str, meaning: &str, longest| {
        let schema = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(longest));
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(meaning))
            .schema(Some(schema))
    };
    let mut headers =
        vec![header("X-Request-Id", "What the request is called in the log; else the server names it.", 128)];
    if operation.page.changes {
        let meaning =
            "The request is carried out once, however often it is sent with this key, and answered as the first time.";
        headers.push(header("Idempotency-Key", meaning, 255));
    }
    headers
}

fn body(operation: &Operation) -> RequestBody {
    let mut body = RequestBodyBuilder::new().required(Some(Required::True));
    for kind in BODIES {
        body = body.content(kind, ContentBuilder::new().schema(Some(Ref::from_schema_name(operation.name))).build());
    }
    body.build()
}

fn answers(operation: &Operation) -> Vec<(&'static str, RefOr<Response>)> {
    let said = format!("{DECLARATION}{}\n", operation.page.reply);
    let mut answer = with_id(ResponseBuilder::new().description("What the operation has to say, be it a refusal."));
    for (kind, content) in replies(&said) {
        answer = answer.content(kind, content);
    }
    if operation.page.changes {
        let meaning = "true: an earlier answer to a request with the same idempotency key.";
        answer = answer.header("Idempotency-Replayed", header(Type::Boolean, meaning));
    }
    let refusals = REFUSALS.iter().filter(|(status, ..)| operation.page.changes || !OF_KEYS.contains(status));
    let refusals = refusals.map(|(status, ..)| (*status, Ref::from_response_name(*status).into()));
    std::iter::once(("200", answer.build().into())).chain(refusals).collect()
}

/// A reply under each of its content types.
fn replies(said: &str) -> impl Iterator<Item = (&'static str, Content)> {
    let schema = ObjectBuilder::new().schema_type(Type::String);
    let content = ContentBuilder::new().schema(Some(schema)).example(Some(said.into())).build();
    REPLIES.into_iter().map(move |kind| (kind, content.clone()))
}

fn with_id(answer: ResponseBuilder) -> ResponseBuilder {
    answer.header(
        "X-Request-Id",
        header(Type::String, "The request's name in the log: the client's own or the server's."),
    )
}

fn header(kind: Type, meaning: &str) -> Header {
    HeaderBuilder::new().schema(Some(ObjectBuilder::new().schema_type(kind))).description(Some(meaning)).build()
}

fn components(operations: &[Operation]) -> Components {
    let mut components = ComponentsBuilder::new();
    for (status, reason, fault) in REFUSALS {
        let mut refusal = ResponseBuilder::new().description(reason);
        if let Some(Document::Whole(said)) = fault.map(|fault| fault.document(Dialect::Documented)) {
            refusal = with_id(refusal);
            for (kind, content) in replies(&said) {
                refusal = refusal.content(kind, content);
            }
        }
        if TO_RETRY.contains(&status) {
            refusal =
                refusal.header("Retry-After", header(Type::Integer, "After so many seconds it may be sent again."));
        }
        components = components.response(status, refusal.build());
    }
    operations
        .iter()
        .fold(components, |components, operation| components.schema(operation.name, form(operation)))
        .build()
}

/// The parameters of an operation in a body.
fn form(operation: &Operation) -> Object {
    let mut form = ObjectBuilder::new();
    let mut usual = Map::new();
    for parameter in operation.page.all_parameters() {
        form = form.property(parameter.name, schema(parameter).description(Some(parameter.meaning)));
        if parameter.need == Need::Required {
            form = form.required(parameter.name);
        }
        if parameter.is_in_example() {
            usual.insert(parameter.name.to_owned(), example(operation, parameter));
        }
    }
    form.examples([Value::Object(usual)]).build()
}

fn schema(parameter: &Parameter) -> ObjectBuilder {
    let kind = |kind| ObjectBuilder::new().schema_type(kind);
    let known = |format| Some(SchemaFormat::KnownFormat(format));
    match parameter.kind {
        Kind::Text => kind(Type::String),
        Kind::Secret => kind(Type::String).format(known(KnownFormat::Password)),
        Kind::Integer | Kind::Moment => kind(Type::Integer).format(known(KnownFormat::Int64)),
        Kind::Decimal => kind(Type::String)
            .format(Some(SchemaFormat::Custom("decimal".into())))
            .pattern(Some(r"^-?[0-9]+(\.[0-9]+)?$")),
        Kind::Switch => kind(Type::Integer).enum_values(Some([0, 1])),
        Kind::Choice(words) => kind(Type::String).enum_values(Some(words.iter().copied())),
    }
}

fn example(operation: &Operation, parameter: &Parameter) -> Value {
    let text = parameter.example;
    match parameter.kind {
        _ if parameter.name == "hash" => example_hash(operation).into(),
        Kind::Integer | Kind::Moment | Kind::Switch => text.parse::<i64>().map_or(Value::Null, Value::from),
        Kind::Text | Kind::Secret | Kind::Decimal | Kind::Choice(_) => text.into(),
    }
}

/// The hash of the example, with the demo's key.
fn example_hash(operation: &Operation) -> String {
    let mut sha1 = Sha1::new();
    for name in hashed(operation, operation.name).first().into_iter().flatten() {
        let sent = |parameter: &&Parameter| parameter.name == *name && parameter.is_in_example();
        sha1.update(operation.page.parameters().find(sent).map_or("", |parameter| parameter.example));
    }
    sha1.update(DEMO_KEY);
    hex::encode(sha1.finalize())
}
