//! The reply as MOR's clients know it: XML that calls itself HTML, with the headers of a download (`http.md`, "Reply").

use axum::body::{Body, HttpBody};
use axum::http::header::{
    ALLOW, CONNECTION, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, RETRY_AFTER,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use futures_util::stream::TryStreamExt;

use crate::dialect::Dialect;
use crate::error::Fault;
use crate::xml::Document;

/// A header's value that stands in the program: looked through when it is compiled, not for each reply.
macro_rules! value {
    ($text:literal) => {
        const { HeaderValue::from_static($text) }
    };
}

/// How the client and the operator want the reply to look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Presentation {
    /// The parameter `test` is 1: shown in a browser instead of downloaded.
    pub test: bool,
    /// The setting `XML_API_Extension`.
    pub xml_extension: bool,
    /// The format that a suffix or the parameter `format` names, where it chooses the type.
    pub format: Option<Format>,
}

/// A content type that a client can choose together with `test=1` (`x7.md`, "Requests").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Format {
    Json,
    Xml,
    Csv,
}

impl Format {
    /// By its name in a suffix.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            "xml" => Some(Self::Xml),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }
}

impl Presentation {
    fn content_type(self) -> HeaderValue {
        match (self.test, self.xml_extension, self.format) {
            (false, false, _) => value!("text/html"),
            (false, true, _) => value!("text/xml"),
            (true, true, _) | (true, false, Some(Format::Xml)) => value!("application/xml; charset=utf-8"),
            (true, false, Some(Format::Json)) => value!("application/json; charset=utf-8"),
            (true, false, Some(Format::Csv)) => value!("text/csv; charset=utf-8"),
            (true, false, None) => value!("text/html; charset=utf-8"),
        }
    }

    fn disposition(self) -> Option<HeaderValue> {
        match (self.test, self.xml_extension) {
            (true, _) => None,
            (false, false) => Some(value!("attachment; filename=\"mor_api_response.html\"")),
            (false, true) => Some(value!("attachment; filename=\"mor_api_response.xml\"")),
        }
    }
}

const TRANSFER_ENCODING: HeaderName = HeaderName::from_static("content-transfer-encoding");
/// Says that the reply is an earlier one, to a request with the same idempotency key.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The response to what came of a request.
pub fn response(result: Result<Document, Fault>, presentation: Presentation, dialect: Dialect) -> Response {
    match result {
        Ok(document) => {
            let repeated = matches!(document, Document::Repeated(_));
            let mut response = with_headers(StatusCode::OK, document, presentation);
            if repeated {
                put(&mut response, REPLAYED, value!("true"));
            }
            response
        }
        Err(fault) => {
            let mut response = with_headers(fault.status(dialect), fault.document(dialect), presentation);
            // What is still to come of the body would be taken for the next request.
            if matches!(fault, Fault::BodyTooLarge | Fault::BodyTooSlow | Fault::MethodNotAllowed) {
                put(&mut response, CONNECTION, value!("close"));
            }
            match fault {
                Fault::MethodNotAllowed => put(&mut response, ALLOW, value!("GET, HEAD, POST")),
                Fault::Busy | Fault::Unavailable | Fault::StillRunning | Fault::OutcomeToAskFor => {
                    put(&mut response, RETRY_AFTER, value!("1"));
                }
                Fault::TooManyGuesses(seconds) => {
                    put(&mut response, RETRY_AFTER, seconds.into());
                }
                Fault::Repeated(_) => put(&mut response, REPLAYED, value!("true")),
                _ => {}
            }
            response
        }
    }
}

fn with_headers(status: StatusCode, document: Document, presentation: Presentation) -> Response {
    let mut response = Response::new(body(document));
    *response.status_mut() = status;
    // As many as nearly all replies have, with those that are added on the way out; else the map would grow twice.
    response.headers_mut().reserve(6);
    put(&mut response, CONTENT_TYPE, presentation.content_type());
    if let Some(disposition) = presentation.disposition() {
        put(&mut response, CONTENT_DISPOSITION, disposition);
        put(&mut response, TRANSFER_ENCODING, value!("binary"));
    }
    response
}

fn body(document: Document) -> Body {
    match document {
        Document::Whole(text) | Document::Repeated(text) => Body::from(text),
        // The reply has begun: when something goes wrong all that is left is to break it off, which the client sees as an
        // incomplete answer. A client that goes, or doesn't take it, takes the stream along.
        Document::Long(chunks) => {
            Body::from_stream(chunks.inspect_err(|error| tracing::error!(%error, "a list broke off")))
        }
    }
}

/// The same without its body, and with its length, which only the body says otherwise.
pub fn head(mut response: Response) -> Response {
    if let Some(length) = response.body().size_hint().exact() {
        put(&mut response, CONTENT_LENGTH, length.into());
    }
    response.map(|_| Body::empty())
}

fn put(response: &mut Response, name: HeaderName, value: HeaderValue) {
    response.headers_mut().insert(name, value);
}
