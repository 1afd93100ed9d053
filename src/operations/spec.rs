//! Descriptions of operations for client developers. The OpenAPI document and the request collection are generated from
//! them.

/// The description of an operation.
#[derive(Debug, Clone, Copy)]
pub struct OperationSpec {
    /// The effect in one line.
    pub summary: &'static str,
    /// The effect in one paragraph.
    pub description: &'static str,
    /// The parameters besides [`COMMON_PARAMETERS`], in lists that operations may share.
    pub parameters: &'static [&'static [Parameter]],
    /// Whether the operation changes data. Such an operation accepts an idempotency key.
    pub is_mutation: bool,
    /// The form of the reply.
    pub reply_type: ReplyType,
    /// The reply to the example request, without the XML declaration.
    pub example_reply: &'static str,
}

impl OperationSpec {
    /// Iterates over the parameters of this operation, without the common ones.
    pub fn parameters(&self) -> impl Iterator<Item = &'static Parameter> {
        self.parameters.iter().copied().flatten()
    }

    /// Returns the name of the parameter of the type [`ParamType::Document`], if there is one.
    pub fn document_parameter(&self) -> Option<&'static str> {
        self.parameters().find(|parameter| parameter.param_type == ParamType::Document).map(|parameter| parameter.name)
    }

    /// Iterates over all parameters that the operation reads.
    pub fn all_parameters(&self) -> impl Iterator<Item = &'static Parameter> {
        let request_id = self.is_mutation.then_some(&REQUEST_ID_PARAMETER);
        self.parameters().chain(COMMON_PARAMETERS).chain(request_id)
    }

    /// Whether the example contains the parameter.
    pub fn is_in_example(&self, parameter: &Parameter) -> bool {
        parameter.presence != Presence::Optional
            || self.reply_type == ReplyType::ZipOrXml && parameter.name == TEST_PARAMETER
    }
}

/// The form of an operation's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyType {
    /// XML.
    Xml,
    /// A zip file with an XML file; with `test=1` the text of this XML file. The example has `test=1`.
    ZipOrXml,
}

/// A parameter of the query string or the body.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// The name on the wire.
    pub name: &'static str,
    /// The type of the value.
    pub param_type: ParamType,
    /// The meaning, in one sentence.
    pub description: &'static str,
    /// A value that is valid with the demo data.
    pub example: &'static str,
    /// Whether clients must send it.
    pub presence: Presence,
}

/// The type of a parameter's value, as clients should send it. The server also reads malformed values as far as
/// possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamType {
    /// Any text.
    Text,
    /// A text of up to `max_import_body` bytes, which the server does not keep in memory.
    Document,
    /// A text that must be kept secret.
    Secret,
    /// A whole number.
    Integer,
    /// An exact decimal number in digits, never a binary float.
    Decimal,
    /// 0 or 1.
    Flag,
    /// Seconds since 1970 (UTC).
    UnixTime,
    /// One of these values.
    Choice(&'static [&'static str]),
}

/// Whether clients must send a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It must be sent: the operation cannot run without it.
    Required,
    /// It may be left out; the example contains it.
    InExample,
    /// It may be left out; the example does not contain it.
    Optional,
}

impl Parameter {
    /// Creates an optional parameter that the example does not contain.
    pub const fn new(
        name: &'static str,
        param_type: ParamType,
        description: &'static str,
        example: &'static str,
    ) -> Self {
        Self { name, param_type, description, example, presence: Presence::Optional }
    }

    /// Returns the parameter as a required one.
    pub const fn required(self) -> Self {
        Self { presence: Presence::Required, ..self }
    }

    /// Returns the parameter as one that the example contains.
    pub const fn in_example(self) -> Self {
        Self { presence: Presence::InExample, ..self }
    }

    /// Whether each example contains the parameter.
    pub fn is_in_example(&self) -> bool {
        self.presence != Presence::Optional
    }
}

const TEST_PARAMETER: &str = "test";

/// The parameters of every operation.
pub const COMMON_PARAMETERS: &[Parameter] = &[
    Parameter::new("u", ParamType::Text, "The caller's user name; letter case is ignored.", "username").required(),
    Parameter::new(
        "hash",
        ParamType::Text,
        "The request hash: SHA-1, in hex, of the values that the operation hashes, followed by the secret key.",
        "37086d860581fabc278413cd1a417d5c079f6eba",
    )
    .required(),
    Parameter::new(
        "p",
        ParamType::Secret,
        "The user's password; required if the setting require_password is on.",
        "user1",
    ),
    Parameter::new(TEST_PARAMETER, ParamType::Flag, "1: a browser shows the reply instead of downloading it.", "1"),
    Parameter::new(
        "format",
        ParamType::Choice(&["xml", "json", "csv"]),
        "With test=1, in the dialect x7: the content type of the reply. The body is always XML.",
        "xml",
    ),
];

/// The parameter of operations that write payments.
pub const PAYMENT_REFERENCE_PARAMETER: Parameter = Parameter::new(
    "payment_ref",
    ParamType::Text,
    "The client's own reference of the payment, 1 to 255 characters. It is stored with each payment of the request.",
    "invoice-4711",
);

/// The additional parameter of operations that change data.
pub const REQUEST_ID_PARAMETER: Parameter = Parameter::new(
    "request_id",
    ParamType::Text,
    "The idempotency key, for clients that cannot set the header Idempotency-Key.",
    "order-4711",
);
