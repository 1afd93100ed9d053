//! The reply as MOR's clients know it: XML that calls itself HTML, with the headers of a download (`http.md`, "Reply").

use std::time::Duration;

use async_stream::try_stream;
use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use futures_util::stream::{BoxStream, Stream, StreamExt};
use tokio::sync::mpsc;

use crate::dialect::Dialect;
use crate::document::Document;
use crate::fault::Fault;

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
    fn content_type(self) -> &'static str {
        match (self.test, self.xml_extension, self.format) {
            (false, false, _) => "text/html",
            (false, true, _) => "text/xml",
            (true, true, _) | (true, false, Some(Format::Xml)) => "application/xml; charset=utf-8",
            (true, false, Some(Format::Json)) => "application/json; charset=utf-8",
            (true, false, Some(Format::Csv)) => "text/csv; charset=utf-8",
            (true, false, None) => "text/html; charset=utf-8",
        }
    }

    fn disposition(self) -> Option<&'static str> {
        match (self.test, self.xml_extension) {
            (true, _) => None,
            (false, false) => Some("attachment; filename=\"mor_api_response.html\""),
            (false, true) => Some("attachment; filename=\"mor_api_response.xml\""),
        }
    }
}

/// Says that the reply is an earlier one, to a request with the same idempotency key.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The response to what came of a request.
pub fn response(result: Result<Document, Fault>, presentation: Presentation, dialect: Dialect) -> Response {
    match result {
        Ok(document) => {
            let repeated = matches!(document, Document::Repeated(_));
            let mut response = with_headers(StatusCode::OK, document, presentation);
            if repeated {
                put(&mut response, REPLAYED, "true");
            }
            response
        }
        Err(fault) => {
            let mut response = with_headers(fault.status(dialect), fault.document(dialect), presentation);
            match fault {
                Fault::MethodNotAllowed => put(&mut response, ALLOW, "GET, HEAD, POST"),
                Fault::Unavailable | Fault::StillRunning | Fault::OutcomeToAskFor => {
                    put(&mut response, RETRY_AFTER, "1");
                }
                Fault::Repeated(_) => put(&mut response, REPLAYED, "true"),
                _ => {}
            }
            response
        }
    }
}

fn with_headers(status: StatusCode, document: Document, presentation: Presentation) -> Response {
    let mut response = Response::new(body(document));
    *response.status_mut() = status;
    put(&mut response, CONTENT_TYPE, presentation.content_type());
    if let Some(disposition) = presentation.disposition() {
        put(&mut response, CONTENT_DISPOSITION, disposition);
        put(&mut response, HeaderName::from_static("content-transfer-encoding"), "binary");
    }
    response
}

fn body(document: Document) -> Body {
    match document {
        Document::Whole(text) | Document::Repeated(text) => Body::from(text),
        Document::Long(chunks) => Body::from_stream(paced(chunks)),
    }
}

/// How long a client may keep a list waiting, and with it a database connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// The chunks, as long as somebody takes them. The reply has begun: when something goes wrong all that is left is to break it
/// off, which the client sees as an incomplete answer.
fn paced(mut chunks: BoxStream<'static, sqlx::Result<String>>) -> impl Stream<Item = Result<String, BrokenOff>> {
    let (sender, mut receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let chunk = match chunks.next().await {
                Some(Ok(chunk)) => Some(chunk),
                Some(Err(error)) => return tracing::error!(%error, "a list broke off"),
                None => None,
            };
            let is_last = chunk.is_none();
            match tokio::time::timeout(PATIENCE, sender.send(chunk)).await {
                Ok(Ok(())) if !is_last => {}
                Ok(_) => return,
                Err(_) => return tracing::warn!("a client doesn't read the list that it asked for: it is broken off"),
            }
        }
    });
    try_stream! {
        while let Some(chunk) = receiver.recv().await.ok_or(BrokenOff)? {
            yield chunk;
        }
    }
}

/// A reply that ended before its end.
#[derive(Debug, thiserror::Error)]
#[error("the list was broken off")]
struct BrokenOff;

fn put(response: &mut Response, name: HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}
