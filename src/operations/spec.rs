//! What an operation says of itself to those who write clients. The OpenAPI document and the request collection are made of it.

/// An operation in words.
#[derive(Debug, Clone, Copy)]
pub struct OperationSpec {
    /// What it does, in a line.
    pub summary: &'static str,
    /// The same in a paragraph.
    pub description: &'static str,
    /// What it reads besides [`COMMON`], in lists that operations may share.
    pub parameters: &'static [&'static [Parameter]],
    /// Whether it changes something: then it may be sent again with an idempotency key.
    pub is_mutation: bool,
    /// What it answers to its example, without the XML declaration.
    pub example_reply: &'static str,
}

impl OperationSpec {
    /// The parameters of its own.
    pub fn parameters(&self) -> impl Iterator<Item = &'static Parameter> {
        self.parameters.iter().copied().flatten()
    }

    /// All that it reads.
    pub fn all_parameters(&self) -> impl Iterator<Item = &'static Parameter> {
        let repeated = self.is_mutation.then_some(&REQUEST_ID_PARAMETER);
        self.parameters().chain(COMMON_PARAMETERS).chain(repeated)
    }
}

/// A parameter, be it in the query string or the body.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// As clients spell it.
    pub name: &'static str,
    /// What its text stands for.
    pub param_type: ParamType,
    /// What it means, in a sentence.
    pub description: &'static str,
    /// A value that means something in the demo's world.
    pub example: &'static str,
    /// Who sends it.
    pub presence: Presence,
}

/// What the text of a parameter stands for. The server reads what it can; this is what clients should send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamType {
    /// Any text.
    Text,
    /// A text that nobody else should see.
    Secret,
    /// A whole number.
    Integer,
    /// An exact decimal number, in digits: never a binary float.
    Decimal,
    /// 0 or 1.
    Flag,
    /// Seconds since 1970, UTC.
    UnixTime,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// Who sends a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Everybody: without it the operation has nothing to do.
    Required,
    /// Most; it stands in the example.
    InExample,
    /// Whoever wants to.
    Optional,
}

impl Parameter {
    /// A parameter that may be left out.
    pub const fn new(
        name: &'static str,
        param_type: ParamType,
        description: &'static str,
        example: &'static str,
    ) -> Self {
        Self { name, param_type, description, example, presence: Presence::Optional }
    }

    /// The same, when it must be sent.
    pub const fn required(self) -> Self {
        Self { presence: Presence::Required, ..self }
    }

    /// The same, when it stands in the example.
    pub const fn in_example(self) -> Self {
        Self { presence: Presence::InExample, ..self }
    }

    /// Whether it stands in the example.
    pub fn is_in_example(&self) -> bool {
        self.presence != Presence::Optional
    }
}

/// What every operation reads.
pub const COMMON_PARAMETERS: &[Parameter] = &[
    Parameter::new("u", ParamType::Text, "The user who asks, by user name; letter case doesn't matter.", "username")
        .required(),
    Parameter::new(
        "hash",
        ParamType::Text,
        "The request hash: SHA-1, in hex, of the values that the operation hashes and then the secret key.",
        "37086d860581fabc278413cd1a417d5c079f6eba",
    )
    .required(),
    Parameter::new(
        "p",
        ParamType::Secret,
        "The user's password; needed where the setting require_password is on.",
        "user1",
    ),
    Parameter::new("test", ParamType::Flag, "1: the reply is shown in a browser instead of downloaded.", "1"),
    Parameter::new(
        "format",
        ParamType::Choice(&["xml", "json", "csv"]),
        "With test=1, in the dialect x7: the content type by which the reply goes. It stays XML.",
        "xml",
    ),
];

/// What operations that change something read besides.
pub const REQUEST_ID_PARAMETER: Parameter = Parameter::new(
    "request_id",
    ParamType::Text,
    "The idempotency key, for clients that can't set the header Idempotency-Key.",
    "order-4711",
);
