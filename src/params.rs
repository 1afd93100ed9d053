//! A request's parameters, read from the query string and the body as the original reads them (`http.md`, "Parameters").

use std::convert::Infallible;

use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use futures_util::stream;
use percent_encoding::percent_decode;

use crate::fault::Fault;
use crate::number;

/// The parameters: each name once, text that may go anywhere. The hash and the password are of what was sent.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Params(Vec<Param>);

#[derive(Clone, PartialEq, Eq)]
struct Param {
    name: String,
    value: String,
    /// As it came, where characters had to be replaced.
    sent: Option<String>,
}

/// The names alone: passwords and PINs are among the values.
impl std::fmt::Debug for Params {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl Params {
    /// Reads the query string, then the body by its content type; the path's `id` goes before any other. What the query
    /// string names, the body can't change; in one place the last one counts.
    pub async fn read(
        path_id: Option<String>,
        query: &str,
        headers: &HeaderMap,
        body: Bytes,
        most: usize,
    ) -> Result<Self, Fault> {
        let mut params = Self::default();
        params.take_all(path_id.map(|id| ("id".to_owned(), id)).into_iter().collect(), most)?;
        params.take_all(pairs(query.as_bytes(), most)?, most)?;
        params.take_all(from_body(headers, body, most).await?, most)?;
        Ok(params)
    }

    /// The value of a parameter that was sent, be it empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.find(name).map(|param| param.value.as_str())
    }

    /// The same with all the control characters that came with it: to be compared, not to be kept or shown.
    pub fn as_sent(&self, name: &str) -> Option<&str> {
        self.find(name).map(|param| param.sent.as_ref().unwrap_or(&param.value).as_str())
    }

    fn find(&self, name: &str) -> Option<&Param> {
        self.0.iter().find(|param| param.name == name)
    }

    /// The value of a parameter that was sent and isn't blank.
    pub fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.trim().is_empty())
    }

    /// The whole number that a parameter reads as; 0 where it wasn't sent.
    pub fn integer(&self, name: &str) -> i64 {
        self.get(name).map_or(0, number::integer)
    }

    /// The names, in the order in which they were sent.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|param| param.name.as_str())
    }

    /// All of them.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|param| (param.name.as_str(), param.value.as_str()))
    }

    /// Adds what one place of the request says; places read before it go first.
    fn take_all(&mut self, place: Vec<(String, String)>, most: usize) -> Result<(), Fault> {
        if self.0.len() + place.len() > most {
            return Err(TOO_MANY);
        }
        let earlier = self.0.len();
        for (name, value) in place {
            if name.contains('\0') || value.contains('\0') {
                return Err(Fault::BadRequest("A NUL character is not allowed in parameters"));
            }
            let param = Param::new(name, value);
            match self.0.iter().position(|known| known.name == param.name) {
                Some(place) if place < earlier => {}
                Some(place) => self.0[place] = param,
                None => self.0.push(param),
            }
        }
        Ok(())
    }
}

impl Param {
    fn new(name: String, value: String) -> Self {
        let name = harmless(&name).unwrap_or(name);
        match harmless(&value) {
            Some(harmless) => Self { name, value: harmless, sent: Some(value) },
            None => Self { name, value, sent: None },
        }
    }
}

/// The text with U+FFFD, as replies have it, for each character that terminals, logs or XML may choke on; `None` where there
/// is none. Tabs and line ends belong to text.
pub fn harmless(text: &str) -> Option<String> {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return None;
    }
    let harmful = |char: char| {
        char.is_control() && !matches!(char, '\t' | '\n' | '\r') || matches!(char, '\u{fffe}' | '\u{ffff}')
    };
    text.contains(harmful).then(|| text.replace(harmful, "\u{fffd}"))
}

async fn from_body(headers: &HeaderMap, body: Bytes, most: usize) -> Result<Vec<(String, String)>, Fault> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        _ if body.is_empty() => Ok(Vec::new()),
        // Like MOR's framework, take a body without a type for a form.
        "" | "application/x-www-form-urlencoded" => pairs(&body, most),
        // In a box: it is large, and few requests come so.
        "multipart/form-data" => Box::pin(multipart(content_type, body, most)).await,
        "application/json" => json(&body),
        _ => Ok(Vec::new()),
    }
}

const TOO_MANY: Fault = Fault::BadRequest("Too many parameters");

/// `name=value` pairs between `&` or `;`, with `+` and `%xx`. What comes twice counts twice against the limit, since it costs
/// as much.
fn pairs(text: &[u8], most: usize) -> Result<Vec<(String, String)>, Fault> {
    let pairs = || text.split(|byte| matches!(byte, b'&' | b';')).filter(|pair| !pair.is_empty());
    let separators = text.iter().filter(|byte| matches!(byte, b'&' | b';')).count();
    if separators >= most && pairs().take(most + 1).count() > most {
        return Err(TOO_MANY);
    }
    pairs()
        .map(|pair| {
            let split = pair.iter().position(|byte| *byte == b'=');
            let (name, value) = split.map_or((pair, &b""[..]), |at| (&pair[..at], &pair[at + 1..]));
            Ok((decoded(name)?, decoded(value)?))
        })
        .collect()
}

fn decoded(text: &[u8]) -> Result<String, Fault> {
    if !text.contains(&b'+') {
        return unescaped(text);
    }
    let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    unescaped(&spaced)
}

/// Text with its `%xx` resolved.
pub fn unescaped(text: &[u8]) -> Result<String, Fault> {
    let mut escapes = text.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    if !escapes.all(|(at, _)| text.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))) {
        return Err(Fault::BadRequest("Parameters have a malformed % escape"));
    }
    let bytes = if text.contains(&b'%') { percent_decode(text).collect() } else { text.to_vec() };
    String::from_utf8(bytes).map_err(|_| Fault::BadRequest("Parameters are not valid UTF-8"))
}

/// The text fields of a form; files are passed over.
async fn multipart(content_type: &str, body: Bytes, most: usize) -> Result<Vec<(String, String)>, Fault> {
    const MALFORMED: Fault = Fault::BadRequest("Multipart body is malformed");
    let boundary = multer::parse_boundary(content_type).map_err(|_| MALFORMED)?;
    let mut form = multer::Multipart::new(stream::iter([Ok::<_, Infallible>(body)]), boundary);
    let mut fields = Vec::new();
    while let Some(field) = form.next_field().await.map_err(|_| MALFORMED)? {
        let name = field.name().filter(|_| field.file_name().is_none()).map(str::to_owned);
        let bytes = field.bytes().await.map_err(|_| MALFORMED)?;
        if let Some(name) = name {
            let text =
                String::from_utf8(bytes.into()).map_err(|_| Fault::BadRequest("Parameters are not valid UTF-8"))?;
            fields.push((name, text));
        }
        if fields.len() > most {
            break;
        }
    }
    Ok(fields)
}

/// A flat object. Numbers and truth values count as their text; null, lists and objects as absent.
fn json(body: &[u8]) -> Result<Vec<(String, String)>, Fault> {
    use serde_json::Value;
    let Ok(Value::Object(object)) = serde_json::from_slice(body) else {
        return Err(Fault::BadRequest("JSON body is malformed: it must be an object"));
    };
    let text = |value| match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    Ok(object.into_iter().filter_map(|(name, value)| Some((name, text(value)?))).collect())
}
