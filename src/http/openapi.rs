//! The OpenAPI document, built from the specs of the operations. A server with demo data answers its examples as shown.

use serde_json::{Map, Value};
use sha1::{Digest, Sha1};
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn, PathItem, PathItemBuilder, PathsBuilder};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{Components, ComponentsBuilder, Object, ObjectBuilder, SchemaFormat, SchemaType, Type};
use utoipa::openapi::{
    Content, ContentBuilder, Deprecated, HttpMethod, InfoBuilder, KnownFormat, LicenseBuilder, OpenApi, OpenApiBuilder,
    Ref, RefOr, Required, Server,
};

use crate::auth::signature::HashRule;
use crate::db::seed::DEMO_KEY;
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::http::context::Operation;
use crate::http::path;
use crate::operations::spec::{ParamType, Parameter, Presence, ReplyType};
use crate::xml::XmlReply;

/// The path of the document, below the prefix and below the root.
pub const PATH: &str = path::OPENAPI;
/// The route of the document below `/api`.
pub const ROUTE: &str = "/openapi.json";

const DESCRIPTION: &str = "The HTTP API of the MOR billing system for calling cards, implemented by Mortise. Every \
operation reads its parameters from the query string and from the body, which is a form or a flat JSON object. It is \
called by GET or POST (GET only if the setting `Allow_GET_API` is on). `/api/NAME` without the prefix works as well.\
\n\nEach request is signed: `hash` is the SHA-1, in hex, of the values of certain parameters followed by the secret \
key, without separators. The description of each operation and its `x-mortise-hash` list these parameters in their \
order.\n\nEvery reply of an operation has status 200, refusals included: look for `<error>`. The reply is XML with the \
content type `text/html`, as in MOR, or `text/xml` if the setting `XML_API_Extension` is on.";

/// The content types of a reply, depending on settings and parameters. The bytes are the same.
const REPLY_CONTENT_TYPES: [&str; 3] = ["text/html", "text/xml", "application/xml"];

/// The content types of a request body.
const BODY_CONTENT_TYPES: [&str; 3] = ["application/x-www-form-urlencoded", "multipart/form-data", "application/json"];

/// The responses to requests that are refused outside of an operation: status, reason, example (for 500: the reply
/// after a panic).
const ERROR_RESPONSES: [(&str, &str, Option<ApiError>); 11] = [
    (
        "400",
        "The request cannot be parsed, or a parameter is no text.",
        Some(ApiError::BadRequest("Parameters are not valid UTF-8")),
    ),
    ("405", "The method is not GET, POST or HEAD.", Some(ApiError::MethodNotAllowed)),
    ("408", "The body did not arrive in time.", Some(ApiError::BodyTimeout)),
    ("409", "A request with the same idempotency key is in progress.", Some(ApiError::RequestInProgress)),
    ("413", "The body is too large.", Some(ApiError::BodyTooLarge)),
    ("415", "The body has a Content-Encoding.", Some(ApiError::UnsupportedEncoding)),
    ("422", "The idempotency key was sent before with other parameters.", Some(ApiError::KeyReused)),
    ("429", "Too many wrong hashes, passwords or PINs from this address.", Some(ApiError::TooManyAttempts(60))),
    ("431", "Too many headers, or the headers are too large.", None),
    ("500", "Internal server error.", Some(ApiError::TransactionFailed)),
    ("503", "The database failed, or too many requests run at the same time.", Some(ApiError::Unavailable)),
];

/// The statuses that only requests with an idempotency key can get.
const IDEMPOTENCY_STATUSES: [&str; 2] = ["409", "422"];

/// The statuses with the header `Retry-After`.
const RETRY_AFTER_STATUSES: [&str; 3] = ["409", "429", "503"];

/// Builds the document for these operations, served below this prefix.
pub fn build_document(operations: &[Operation], prefix: &str) -> OpenApi {
    let mut paths = PathsBuilder::new().path(PATH, openapi_path_item());
    for operation in operations {
        for name in std::iter::once(&operation.name).chain(operation.aliases) {
            paths = paths.path(format!("/api/{name}"), path_item(operation, name));
        }
    }
    let license = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build();
    let info = InfoBuilder::new().title("Mortise").version(env!("CARGO_PKG_VERSION")).description(Some(DESCRIPTION));
    OpenApiBuilder::new()
        .info(info.license(Some(license)).build())
        .servers((!prefix.is_empty()).then(|| [Server::new(prefix)]))
        .paths(paths.build())
        .components(Some(components(operations)))
        .build()
}

/// Returns the path of the document itself.
fn openapi_path_item() -> PathItem {
    let content = ContentBuilder::new().schema(Some(ObjectBuilder::new())).build();
    let operation = OperationBuilder::new()
        .operation_id(Some("openapi"))
        .summary(Some("This document"))
        .description(Some("Public: it needs neither a user nor a hash."))
        .response(
            "200",
            ResponseBuilder::new().description("The OpenAPI document.").content("application/json", content).build(),
        );
    PathItem::new(HttpMethod::Get, operation.build())
}

/// Returns the path of an operation under one of its names.
fn path_item(operation: &Operation, name: &str) -> PathItem {
    let builder = |id: String| {
        let mut builder = OperationBuilder::new()
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
            builder = builder.parameter(header);
        }
        for (status, response) in responses(operation) {
            builder = builder.response(status, response);
        }
        builder
    };
    let mut get = builder(format!("{name}_by_get"));
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
    let post = builder(name.to_owned()).request_body(Some(request_body(operation)));
    PathItemBuilder::new().operation(HttpMethod::Get, get.build()).operation(HttpMethod::Post, post.build()).build()
}

/// Returns the names of the hashed parameters, in order: one list for each hash rule that applies to `alias`.
pub fn hashed_param_names(operation: &Operation, alias: &str) -> Vec<Vec<&'static str>> {
    let names = || operation.spec.parameters().map(|parameter| parameter.name);
    operation.hash_rules.iter().filter_map(|rule| rule.hashed_names(names(), alias)).collect()
}

fn description(operation: &Operation, name: &str) -> String {
    let mut text = operation.spec.description.to_owned();
    if name != operation.name {
        text += &format!("\n\nAn older name of `{}`.", operation.name);
    }
    for (rule, names) in operation.hash_rules.iter().zip(hashed_param_names(operation, name)) {
        let names = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        text += &match rule {
            _ if names.is_empty() => "\n\nThe hash covers only the secret key.".to_owned(),
            HashRule::ParamOrder(_) | HashRule::Exactly(_) => {
                format!("\n\nThe hash covers {names}: the values that are sent, in this order, then the secret key.")
            }
            HashRule::AnyOrder(_) => format!("\n\nThe hash may cover {names} in any order."),
            HashRule::Legacy(..) => format!(
                "\n\nUnder this name the hash may cover {names} instead, if the setting `legacy_hashes` is on. \
                 The other parameters are then unsigned."
            ),
        };
    }
    text
}

fn request_headers(operation: &Operation) -> Vec<ParameterBuilder> {
    let header_param = |name: &str, description: &str, len_max| {
        let schema = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(len_max));
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(description))
            .schema(Some(schema))
    };
    let mut headers = vec![header_param(
        "X-Request-Id",
        "The request's id in the server's log. Default: the server generates one.",
        128,
    )];
    if operation.spec.is_mutation {
        let description = "The request is carried out once, however often it is sent with this key. Each repetition \
                           gets the first reply.";
        headers.push(header_param("Idempotency-Key", description, 255));
    }
    headers
}

fn request_body(operation: &Operation) -> RequestBody {
    let mut body = RequestBodyBuilder::new().required(Some(Required::True));
    for content_type in BODY_CONTENT_TYPES {
        let schema = Ref::from_schema_name(operation.name);
        body = body.content(content_type, ContentBuilder::new().schema(Some(schema)).build());
    }
    body.build()
}

fn responses(operation: &Operation) -> Vec<(&'static str, RefOr<Response>)> {
    let end = if operation.spec.reply_type == ReplyType::Xml { "\n" } else { "" };
    let example = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}{end}", operation.spec.example_reply);
    let mut response =
        with_request_id(ResponseBuilder::new().description("The reply of the operation, refusals included."));
    for (content_type, content) in reply_contents(&example) {
        response = response.content(content_type, content);
    }
    if operation.spec.reply_type == ReplyType::ZipOrXml {
        // A schema without a type stands for binary content.
        let content =
            ContentBuilder::new().schema(Some(ObjectBuilder::new().schema_type(SchemaType::AnyValue))).build();
        response = response.content("application/zip", content);
    }
    if operation.spec.is_mutation {
        let description = "true: the stored reply to an earlier request with the same idempotency key.";
        response = response.header("Idempotency-Replayed", header(Type::Boolean, description));
    }
    let error_responses = ERROR_RESPONSES
        .iter()
        .filter(|(status, ..)| operation.spec.is_mutation || !IDEMPOTENCY_STATUSES.contains(status))
        .map(|(status, ..)| (*status, Ref::from_response_name(*status).into()));
    std::iter::once(("200", response.build().into())).chain(error_responses).collect()
}

/// Returns the example reply under each content type.
fn reply_contents(example: &str) -> impl Iterator<Item = (&'static str, Content)> {
    let schema = ObjectBuilder::new().schema_type(Type::String);
    let content = ContentBuilder::new().schema(Some(schema)).example(Some(example.into())).build();
    REPLY_CONTENT_TYPES.into_iter().map(move |content_type| (content_type, content.clone()))
}

fn with_request_id(response: ResponseBuilder) -> ResponseBuilder {
    response.header(
        "X-Request-Id",
        header(Type::String, "The request's id in the server's log: the client's, or one that the server generated."),
    )
}

fn header(schema_type: Type, description: &str) -> Header {
    let schema = ObjectBuilder::new().schema_type(schema_type);
    HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
}

fn components(operations: &[Operation]) -> Components {
    let mut components = ComponentsBuilder::new();
    for (status, reason, error) in ERROR_RESPONSES {
        let mut response = ResponseBuilder::new().description(reason);
        if let Some(XmlReply::Buffered(example)) = error.map(|error| error.to_reply(Dialect::Documented)) {
            response = with_request_id(response);
            for (content_type, content) in reply_contents(&String::from_utf8_lossy(&example)) {
                response = response.content(content_type, content);
            }
        }
        if RETRY_AFTER_STATUSES.contains(&status) {
            let description = "The request may be sent again after this number of seconds.";
            response = response.header("Retry-After", header(Type::Integer, description));
        }
        components = components.response(status, response.build());
    }
    operations
        .iter()
        .fold(components, |components, operation| components.schema(operation.name, params_schema(operation)))
        .build()
}

/// Returns the schema of a body with the parameters of an operation.
fn params_schema(operation: &Operation) -> Object {
    let mut schema = ObjectBuilder::new();
    let mut example_params = Map::new();
    for parameter in operation.spec.all_parameters() {
        schema = schema.property(parameter.name, param_schema(parameter).description(Some(parameter.description)));
        if parameter.presence == Presence::Required {
            schema = schema.required(parameter.name);
        }
        if operation.spec.is_in_example(parameter) {
            example_params.insert(parameter.name.to_owned(), example(operation, parameter));
        }
    }
    schema.examples([Value::Object(example_params)]).build()
}

fn param_schema(parameter: &Parameter) -> ObjectBuilder {
    let schema = |schema_type| ObjectBuilder::new().schema_type(schema_type);
    let format = |format| Some(SchemaFormat::KnownFormat(format));
    match parameter.param_type {
        ParamType::Text | ParamType::Document => schema(Type::String),
        ParamType::Secret => schema(Type::String).format(format(KnownFormat::Password)),
        ParamType::Integer | ParamType::UnixTime => schema(Type::Integer).format(format(KnownFormat::Int64)),
        ParamType::Decimal => schema(Type::String)
            .format(Some(SchemaFormat::Custom("decimal".into())))
            .pattern(Some(r"^-?[0-9]+(\.[0-9]+)?$")),
        ParamType::Flag => schema(Type::Integer).enum_values(Some([0, 1])),
        ParamType::Choice(values) => schema(Type::String).enum_values(Some(values.iter().copied())),
    }
}

fn example(operation: &Operation, parameter: &Parameter) -> Value {
    let text = parameter.example;
    match parameter.param_type {
        _ if parameter.name == "hash" => example_hash(operation).into(),
        ParamType::Integer | ParamType::UnixTime | ParamType::Flag => {
            text.parse::<i64>().map_or(Value::Null, Value::from)
        }
        ParamType::Text | ParamType::Document | ParamType::Secret | ParamType::Decimal | ParamType::Choice(_) => {
            text.into()
        }
    }
}

/// Returns the hash of the example with the demo key.
fn example_hash(operation: &Operation) -> String {
    let mut sha1 = Sha1::new();
    for name in hashed_param_names(operation, operation.name).first().into_iter().flatten() {
        let is_sent = |parameter: &&Parameter| parameter.name == *name && parameter.is_in_example();
        sha1.update(operation.spec.parameters().find(is_sent).map_or("", |parameter| parameter.example));
    }
    sha1.update(DEMO_KEY);
    hex::encode(sha1.finalize())
}
