//! The reply as MOR's clients know it: XML that calls itself HTML, with the headers of a download (`http.md`, "Reply").

use axum::body::{Body, HttpBody};
use axum::http::header::{
    ALLOW, CONNECTION, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, RETRY_AFTER,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use futures_util::stream::TryStreamExt;

use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::xml::XmlReply;

/// A header's value that stands in the program: looked through when it is compiled, not for each reply.
macro_rules! header_value {
    ($text:literal) => {
        const { HeaderValue::from_static($text) }
    };
}

/// How the client and the operator want the reply to look.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReplyFormat {
    /// The parameter `test` is 1: shown in a browser instead of downloaded.
    pub test: bool,
    /// The setting `XML_API_Extension`.
    pub xml_extension: bool,
    /// The format that a suffix or the parameter `format` names, where it chooses the type.
    pub format: Option<ContentFormat>,
}

/// A content type that a client can choose together with `test=1` (`x7.md`, "Requests").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ContentFormat {
    Json,
    Xml,
    Csv,
}

impl ContentFormat {
    /// By its name in a suffix.
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
/// Says that the reply is an earlier one, to a request with the same idempotency key.
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The response to what came of a request.
pub fn build_response(result: Result<XmlReply, ApiError>, presentation: ReplyFormat, dialect: Dialect) -> Response {
    match result {
        Ok(document) => {
            let repeated = matches!(document, XmlReply::Replayed(_));
            let mut response = response_with_headers(StatusCode::OK, document, presentation);
            if repeated {
                set_header(&mut response, IDEMPOTENCY_REPLAYED, header_value!("true"));
            }
            response
        }
        Err(fault) => {
            let mut response = response_with_headers(fault.status(dialect), fault.to_reply(dialect), presentation);
            // What is still to come of the body would be taken for the next request.
            if matches!(fault, ApiError::BodyTooLarge | ApiError::BodyTimeout | ApiError::MethodNotAllowed) {
                set_header(&mut response, CONNECTION, header_value!("close"));
            }
            match fault {
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

fn response_with_headers(status: StatusCode, document: XmlReply, presentation: ReplyFormat) -> Response {
    let mut response = Response::new(build_body(document));
    *response.status_mut() = status;
    // As many as nearly all replies have, with those that are added on the way out; else the map would grow twice.
    response.headers_mut().reserve(6);
    set_header(&mut response, CONTENT_TYPE, presentation.content_type());
    if let Some(disposition) = presentation.content_disposition() {
        set_header(&mut response, CONTENT_DISPOSITION, disposition);
        set_header(&mut response, CONTENT_TRANSFER_ENCODING, header_value!("binary"));
    }
    response
}

fn build_body(document: XmlReply) -> Body {
    match document {
        XmlReply::Buffered(text) | XmlReply::Replayed(text) => Body::from(text),
        // The reply has begun: when something goes wrong all that is left is to break it off, which the client sees as an
        // incomplete answer. A client that goes, or doesn't take it, takes the stream along.
        XmlReply::Streamed(chunks) => {
            Body::from_stream(chunks.inspect_err(|error| tracing::error!(%error, "a list broke off")))
        }
    }
}

/// The same without its body, and with its length, which only the body says otherwise.
pub fn into_head_response(mut response: Response) -> Response {
    if let Some(length) = response.body().size_hint().exact() {
        set_header(&mut response, CONTENT_LENGTH, length.into());
    }
    response.map(|_| Body::empty())
}

fn set_header(response: &mut Response, name: HeaderName, value: HeaderValue) {
    response.headers_mut().insert(name, value);
}
