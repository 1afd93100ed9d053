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

use crate::auth::signature::HashRule;
use crate::db::seed::DEMO_KEY;
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::http::context::Operation;
use crate::operations::spec::{ParamType, Parameter, Presence};
use crate::xml::{XML_DECLARATION, XmlReply};

/// Where it is served, behind the prefix and without it.
pub const PATH: &str = "/api/openapi.json";

const DESCRIPTION: &str = "The HTTP API of the MOR billing system for calling cards, as Mortise answers it. Every operation takes its parameters \
from the query string and the body, as a form or a flat JSON object, and is called by GET or POST (GET only where the setting \
`Allow_GET_API` is on). `/api/NAME` without the prefix answers as well.\n\nA request is signed: `hash` is the SHA-1, in hex, of the \
values of certain parameters and then the secret key, without anything between them. Which parameters, and in which order, each \
operation says, in words and in `x-mortise-hash`.\n\nWhatever an operation has to say it says with status 200, refusals too: look for \
`<error>`. The reply is XML that calls itself HTML, as MOR's does, or XML where the setting `XML_API_Extension` is on.";

/// What a reply calls itself, by settings and parameters; the bytes are the same.
const REPLY_CONTENT_TYPES: [&str; 3] = ["text/html", "text/xml", "application/xml"];

/// What a body may be.
const BODY_CONTENT_TYPES: [&str; 3] = ["application/x-www-form-urlencoded", "multipart/form-data", "application/json"];

/// What any request may hear before an operation has its say: status, reason, and such a refusal (of a panic, what is said of it).
const ERROR_RESPONSES: [(&str, &str, Option<ApiError>); 10] = [
    ("400", "The request can't be read.", Some(ApiError::BadRequest("Parameters are not valid UTF-8"))),
    ("405", "Neither GET, POST nor HEAD.", Some(ApiError::MethodNotAllowed)),
    ("408", "The body didn't come in time.", Some(ApiError::BodyTimeout)),
    ("409", "A request with the same idempotency key is being carried out.", Some(ApiError::RequestInProgress)),
    ("413", "The body is too large.", Some(ApiError::BodyTooLarge)),
    ("422", "The idempotency key came with other parameters before.", Some(ApiError::KeyReused)),
    ("429", "Too many wrong hashes, passwords or PINs from this address.", Some(ApiError::TooManyAttempts(60))),
    ("431", "Too many headers, or too large ones.", None),
    ("500", "A fault of the server's own.", Some(ApiError::TransactionFailed)),
    ("503", "The database is away, or there are too many requests at once.", Some(ApiError::Unavailable)),
];

/// The statuses that only a request with an idempotency key hears.
const IDEMPOTENCY_STATUSES: [&str; 2] = ["409", "422"];

/// The statuses that come with Retry-After.
const RETRY_AFTER_STATUSES: [&str; 3] = ["409", "429", "503"];

/// The document of these operations, served behind this prefix.
pub fn build_document(operations: &[Operation], prefix: &str) -> OpenApi {
    let mut paths = PathsBuilder::new().path(PATH, openapi_path_item());
    for operation in operations {
        for name in std::iter::once(&operation.name).chain(operation.aliases) {
            paths = paths.path(format!("/api/{name}"), path_item(operation, name));
        }
    }
    let licence = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build();
    let info = InfoBuilder::new().title("Mortise").version(env!("CARGO_PKG_VERSION")).description(Some(DESCRIPTION));
    OpenApiBuilder::new()
        .info(info.license(Some(licence)).build())
        .servers((!prefix.is_empty()).then(|| [Server::new(prefix)]))
        .paths(paths.build())
        .components(Some(components(operations)))
        .build()
}

/// The path of the document itself.
fn openapi_path_item() -> PathItem {
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
fn path_item(operation: &Operation, name: &str) -> PathItem {
    let described = |id: String| {
        let mut described = OperationBuilder::new()
            .operation_id(Some(id))
            .summary(Some(operation.spec.summary))
            .description(Some(description(operation, name)))
            .deprecated((name != operation.name).then_some(Deprecated::True))
            .extensions(Some(
                ExtensionsBuilder::new()
                    .add("x-mortise-hash", Value::from(hashed_param_names(operation, name)))
                    .build(),
            ));
        for header in request_headers(operation) {
            described = described.parameter(header);
        }
        for (status, answer) in responses(operation) {
            described = described.response(status, answer);
        }
        described
    };
    let mut get = described(format!("{name}_by_get"));
    for parameter in operation.spec.all_parameters() {
        get = get.parameter(
            ParameterBuilder::new()
                .name(parameter.name)
                .parameter_in(ParameterIn::Query)
                .required(if parameter.presence == Presence::Required { Required::True } else { Required::False })
                .description(Some(parameter.description))
                .schema(Some(param_schema(parameter)))
                .example(Some(example(operation, parameter))),
        );
    }
    let post = described(name.to_owned()).request_body(Some(request_body(operation)));
    PathItemBuilder::new().operation(HttpMethod::Get, get.build()).operation(HttpMethod::Post, post.build()).build()
}

/// The names that the hash covers, in order: a list for each way in which a request may be signed.
pub fn hashed_param_names(operation: &Operation, called: &str) -> Vec<Vec<&'static str>> {
    let names = || operation.spec.parameters().map(|parameter| parameter.name);
    operation.hash_rules.iter().filter_map(|rule| rule.hashed_names(names(), called)).collect()
}

fn description(operation: &Operation, name: &str) -> String {
    let mut text = operation.spec.description.to_owned();
    if name != operation.name {
        text += &format!("\n\nAn older name of `{}`.", operation.name);
    }
    for (rule, names) in operation.hash_rules.iter().zip(hashed_param_names(operation, name)) {
        let names = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        text += &match rule {
            _ if names.is_empty() => "\n\nThe hash is of the secret key alone.".to_owned(),
            HashRule::ParamOrder(_) | HashRule::Exactly(_) => {
                format!("\n\nThe hash covers {names}: what is sent of them, in this order, then the secret key.")
            }
            HashRule::AnyOrder(_) => format!("\n\nIt may cover {names} in whichever order."),
            HashRule::Legacy(..) => format!(
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
    if operation.spec.is_mutation {
        let meaning =
            "The request is carried out once, however often it is sent with this key, and answered as the first time.";
        headers.push(header("Idempotency-Key", meaning, 255));
    }
    headers
}

fn request_body(operation: &Operation) -> RequestBody {
    let mut body = RequestBodyBuilder::new().required(Some(Required::True));
    for kind in BODY_CONTENT_TYPES {
        body = body.content(kind, ContentBuilder::new().schema(Some(Ref::from_schema_name(operation.name))).build());
    }
    body.build()
}

fn responses(operation: &Operation) -> Vec<(&'static str, RefOr<Response>)> {
    let said = format!("{XML_DECLARATION}{}\n", operation.spec.example_reply);
    let mut answer =
        with_request_id(ResponseBuilder::new().description("What the operation has to say, be it a refusal."));
    for (kind, content) in reply_contents(&said) {
        answer = answer.content(kind, content);
    }
    if operation.spec.is_mutation {
        let meaning = "true: an earlier answer to a request with the same idempotency key.";
        answer = answer.header("Idempotency-Replayed", header(Type::Boolean, meaning));
    }
    let refusals = ERROR_RESPONSES
        .iter()
        .filter(|(status, ..)| operation.spec.is_mutation || !IDEMPOTENCY_STATUSES.contains(status));
    let refusals = refusals.map(|(status, ..)| (*status, Ref::from_response_name(*status).into()));
    std::iter::once(("200", answer.build().into())).chain(refusals).collect()
}

/// A reply under each of its content types.
fn reply_contents(said: &str) -> impl Iterator<Item = (&'static str, Content)> {
    let schema = ObjectBuilder::new().schema_type(Type::String);
    let content = ContentBuilder::new().schema(Some(schema)).example(Some(said.into())).build();
    REPLY_CONTENT_TYPES.into_iter().map(move |kind| (kind, content.clone()))
}

fn with_request_id(answer: ResponseBuilder) -> ResponseBuilder {
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
    for (status, reason, fault) in ERROR_RESPONSES {
        let mut refusal = ResponseBuilder::new().description(reason);
        if let Some(XmlReply::Buffered(said)) = fault.map(|fault| fault.to_reply(Dialect::Documented)) {
            refusal = with_request_id(refusal);
            for (kind, content) in reply_contents(&said) {
                refusal = refusal.content(kind, content);
            }
        }
        if RETRY_AFTER_STATUSES.contains(&status) {
            refusal =
                refusal.header("Retry-After", header(Type::Integer, "After so many seconds it may be sent again."));
        }
        components = components.response(status, refusal.build());
    }
    operations
        .iter()
        .fold(components, |components, operation| components.schema(operation.name, params_schema(operation)))
        .build()
}

/// The parameters of an operation in a body.
fn params_schema(operation: &Operation) -> Object {
    let mut form = ObjectBuilder::new();
    let mut usual = Map::new();
    for parameter in operation.spec.all_parameters() {
        form = form.property(parameter.name, param_schema(parameter).description(Some(parameter.description)));
        if parameter.presence == Presence::Required {
            form = form.required(parameter.name);
        }
        if parameter.is_in_example() {
            usual.insert(parameter.name.to_owned(), example(operation, parameter));
        }
    }
    form.examples([Value::Object(usual)]).build()
}

fn param_schema(parameter: &Parameter) -> ObjectBuilder {
    let kind = |kind| ObjectBuilder::new().schema_type(kind);
    let known = |format| Some(SchemaFormat::KnownFormat(format));
    match parameter.param_type {
        ParamType::Text => kind(Type::String),
        ParamType::Secret => kind(Type::String).format(known(KnownFormat::Password)),
        ParamType::Integer | ParamType::UnixTime => kind(Type::Integer).format(known(KnownFormat::Int64)),
        ParamType::Decimal => kind(Type::String)
            .format(Some(SchemaFormat::Custom("decimal".into())))
            .pattern(Some(r"^-?[0-9]+(\.[0-9]+)?$")),
        ParamType::Flag => kind(Type::Integer).enum_values(Some([0, 1])),
        ParamType::Choice(words) => kind(Type::String).enum_values(Some(words.iter().copied())),
    }
}

fn example(operation: &Operation, parameter: &Parameter) -> Value {
    let text = parameter.example;
    match parameter.param_type {
        _ if parameter.name == "hash" => example_hash(operation).into(),
        ParamType::Integer | ParamType::UnixTime | ParamType::Flag => {
            text.parse::<i64>().map_or(Value::Null, Value::from)
        }
        ParamType::Text | ParamType::Secret | ParamType::Decimal | ParamType::Choice(_) => text.into(),
    }
}

/// The hash of the example, with the demo's key.
fn example_hash(operation: &Operation) -> String {
    let mut sha1 = Sha1::new();
    for name in hashed_param_names(operation, operation.name).first().into_iter().flatten() {
        let sent = |parameter: &&Parameter| parameter.name == *name && parameter.is_in_example();
        sha1.update(operation.spec.parameters().find(sent).map_or("", |parameter| parameter.example));
    }
    sha1.update(DEMO_KEY);
    hex::encode(sha1.finalize())
}
