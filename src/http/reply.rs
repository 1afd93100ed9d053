//! The HTTP response, as MOR sends it: XML with the content type HTML and the headers of a download (`http.md`,
//! "Reply").

use axum::body::Body;
use axum::http::header::{ALLOW, CONNECTION, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{Stream, TryStreamExt};

use crate::accounts::{Setting, Settings};
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::http::zip::stream_zip;
use crate::state::AppState;
use crate::xml::{FileReply, XmlReply};

/// A constant header value, validated at compile time.
macro_rules! header_value {
    ($text:literal) => {
        const { HeaderValue::from_static($text) }
    };
}

/// The parameters and settings that determine the reply's content type and disposition.
#[derive(Debug, Clone, Copy)]
pub struct ReplyFormat {
    /// The dialect, which decides the status and the words of errors.
    pub dialect: Dialect,
    /// The parameter `test` is 1: browsers show the reply instead of downloading it.
    pub test: bool,
    /// The setting `XML_API_Extension`.
    pub xml_extension: bool,
    /// The format from the path's suffix or the parameter `format`, in dialects where it sets the content type.
    pub format: Option<ContentFormat>,
}

/// A content type that a client can choose together with `test=1` (`x7.md`, "Requests").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub enum ContentFormat {
    Json,
    Xml,
    Csv,
}

impl ContentFormat {
    /// Parses a path suffix or the parameter `format`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            "xml" => Some(Self::Xml),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }
}

impl ReplyFormat {
    /// The format of a reply to a request whose parameters and settings are not known.
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, test: false, xml_extension: false, format: None }
    }

    /// Adds what the cached settings decide. A refusal that needs no database must not wait for it.
    pub async fn with_cached_settings(self, state: &AppState) -> Self {
        let settings = state.accounts.cached_settings(0).await;
        self.with_settings(settings.as_deref())
    }

    /// Adds what the settings of owner 0 decide.
    pub fn with_settings(self, settings: Option<&Settings>) -> Self {
        Self { xml_extension: settings.is_some_and(|settings| settings.is_enabled(Setting::XmlApiExtension)), ..self }
    }

    fn content_type(self) -> HeaderValue {
        match (self.test, self.xml_extension, self.format) {
            (false, false, _) => header_value!("text/html"),
            (false, true, _) => header_value!("text/xml"),
            (true, true, _) | (true, false, Some(ContentFormat::Xml)) => {
                header_value!("application/xml; charset=utf-8")
            }
            (true, false, Some(ContentFormat::Json)) => header_value!("application/json; charset=utf-8"),
            (true, false, Some(ContentFormat::Csv)) => header_value!("text/csv; charset=utf-8"),
            (true, false, None) => header_value!("text/html; charset=utf-8"),
        }
    }

    fn content_disposition(self) -> Option<HeaderValue> {
        match (self.test, self.xml_extension) {
            (true, _) => None,
            (false, false) => Some(header_value!("attachment; filename=\"mor_api_response.html\"")),
            (false, true) => Some(header_value!("attachment; filename=\"mor_api_response.xml\"")),
        }
    }
}

const CONTENT_TRANSFER_ENCODING: HeaderName = HeaderName::from_static("content-transfer-encoding");
/// `true`: the reply was stored for an earlier request with the same idempotency key.
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The metric label `outcome` of a request, in the extensions of its response.
#[derive(Debug, Clone, Copy)]
pub struct Outcome(pub &'static str);

/// The refusal of a request before its operation runs.
#[derive(Debug)]
pub struct Refusal {
    /// The reason.
    pub error: ApiError,
    /// The format of the reply.
    pub format: ReplyFormat,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        build_response(Err(self.error), self.format)
    }
}

/// Builds the HTTP response for the result of a request.
pub fn build_response(result: Result<XmlReply, ApiError>, format: ReplyFormat) -> Response {
    let outcome = match &result {
        Ok(XmlReply::Replayed(_) | XmlReply::ReplayedStream(_)) => "replayed",
        Ok(_) => "done",
        Err(error) => error.into(),
    };
    let mut response = render(result, format);
    response.extensions_mut().insert(Outcome(outcome));
    response
}

fn render(result: Result<XmlReply, ApiError>, format: ReplyFormat) -> Response {
    let dialect = format.dialect;
    match result {
        Ok(reply) => {
            let is_replayed = matches!(reply, XmlReply::Replayed(_) | XmlReply::ReplayedStream(_));
            let mut response = response_with_headers(StatusCode::OK, reply, format);
            if is_replayed {
                set_header(&mut response, IDEMPOTENCY_REPLAYED, header_value!("true"));
            }
            response
        }
        Err(error) => {
            let mut response = response_with_headers(error.status(dialect), error.to_reply(dialect), format);
            // The body was not read to its end: its remainder would be parsed as the next request.
            if matches!(error, ApiError::BodyTooLarge | ApiError::BodyTimeout | ApiError::MethodNotAllowed) {
                set_header(&mut response, CONNECTION, header_value!("close"));
            }
            match error {
                ApiError::MethodNotAllowed => set_header(&mut response, ALLOW, header_value!("GET, HEAD, POST")),
                ApiError::Overloaded
                | ApiError::Unavailable
                | ApiError::RequestInProgress
                | ApiError::CommitUnknownRetryable => {
                    set_header(&mut response, RETRY_AFTER, header_value!("1"));
                }
                ApiError::TooManyAttempts(seconds) => {
                    set_header(&mut response, RETRY_AFTER, seconds.into());
                }
                ApiError::Replayed(_) => set_header(&mut response, IDEMPOTENCY_REPLAYED, header_value!("true")),
                _ => {}
            }
            response
        }
    }
}

fn response_with_headers(status: StatusCode, reply: XmlReply, format: ReplyFormat) -> Response {
    let body = match reply {
        XmlReply::File(file) if !format.test => return zip_response(status, file),
        reply => build_body(reply),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    // Nearly all replies have six headers, including those that the layers add; otherwise the map would grow twice.
    response.headers_mut().reserve(6);
    set_header(&mut response, CONTENT_TYPE, format.content_type());
    if let Some(disposition) = format.content_disposition() {
        set_header(&mut response, CONTENT_DISPOSITION, disposition);
        set_header(&mut response, CONTENT_TRANSFER_ENCODING, header_value!("binary"));
    }
    response
}

/// The response with a zip file. `XML_API_Extension` does not matter.
fn zip_response(status: StatusCode, file: FileReply) -> Response {
    let disposition = format!("attachment; filename=\"{}.zip\"", file.name);
    let mut response = Response::new(stream_body(stream_zip(file.name, file.text)));
    *response.status_mut() = status;
    set_header(&mut response, CONTENT_TYPE, header_value!("application/zip"));
    if let Ok(disposition) = disposition.try_into() {
        set_header(&mut response, CONTENT_DISPOSITION, disposition);
    }
    set_header(&mut response, CONTENT_TRANSFER_ENCODING, header_value!("binary"));
    response
}

fn build_body(reply: XmlReply) -> Body {
    match reply {
        XmlReply::Buffered(text) | XmlReply::Replayed(text) => Body::from(text),
        XmlReply::Streamed(chunks) | XmlReply::ReplayedStream(chunks) => stream_body(chunks),
        XmlReply::File(file) => stream_body(file.text),
    }
}

/// The status has been sent, so an error can only abort the reply: the client receives an incomplete body. If the
/// client disconnects or the write times out, the body is dropped, and the stream with it.
fn stream_body(chunks: impl Stream<Item = sqlx::Result<Vec<u8>>> + Send + 'static) -> Body {
    Body::from_stream(chunks.inspect_err(|error| tracing::error!(%error, "streaming reply aborted")))
}

fn set_header(response: &mut Response, name: HeaderName, value: HeaderValue) {
    response.headers_mut().insert(name, value);
}
