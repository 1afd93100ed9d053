//! A request's parameters, read from the query string and the body as the original reads them (`http.md`, "Parameters").

use std::borrow::Cow;
use std::convert::Infallible;
use std::iter;
use std::ops::Range;

use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use futures_util::stream;
use memchr::{memchr, memchr2_iter};
use percent_encoding::percent_decode;

use crate::error::ApiError;
use crate::number;

/// The parameters: each name once, text that may go anywhere. The hash and the password are of what was sent.
#[derive(Clone, Default)]
pub struct Params {
    /// Names and values, one behind the other: a piece of memory for each would cost more than reading them.
    text: String,
    list: Vec<Param>,
}

/// Where the parts of one stand in the text.
#[derive(Clone)]
struct Param {
    name: Range<usize>,
    value: Range<usize>,
    /// As it came, where characters had to be replaced; else the same.
    raw: Range<usize>,
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
        path_id: Option<&str>,
        query: &str,
        headers: &HeaderMap,
        body: Bytes,
        most: usize,
    ) -> Result<Self, ApiError> {
        let mut params = Self { text: String::new(), list: Vec::with_capacity(INITIAL_CAPACITY) };
        if let Some(id) = path_id {
            params.add_text(0, "id", id)?;
        }
        params.add_pairs(query.as_bytes(), most)?;
        params.add_body(headers, body, most).await?;
        Ok(params)
    }

    /// The value of a parameter that was sent, be it empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.find(name).map(|param| &self.text[param.value.clone()])
    }

    /// The same with all the control characters that came with it: to be compared, not to be kept or shown.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.find(name).map(|param| &self.text[param.raw.clone()])
    }

    fn find(&self, name: &str) -> Option<&Param> {
        self.list.iter().find(|param| self.text[param.name.clone()] == *name)
    }

    /// The value of a parameter that was sent and isn't blank.
    pub fn non_blank(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.trim().is_empty())
    }

    /// The whole number that a parameter reads as; 0 where it wasn't sent.
    pub fn integer(&self, name: &str) -> i64 {
        self.get(name).map_or(0, number::parse_integer)
    }

    /// The names, in the order in which they were sent.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pairs().map(|(name, _)| name)
    }

    /// All of them.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list.iter().map(|param| (&self.text[param.name.clone()], &self.text[param.value.clone()]))
    }

    /// The same with all the control characters that came with the values.
    pub fn raw_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list.iter().map(|param| (&self.text[param.name.clone()], &self.text[param.raw.clone()]))
    }

    /// Adds one. The first `earlier` go before it, from the others of its name it takes over.
    fn add(&mut self, earlier: usize, param: Param) {
        let name = &self.text[param.name.clone()];
        match self.list.iter().position(|known| self.text[known.name.clone()] == *name) {
            Some(place) if place < earlier => {}
            Some(place) => self.list[place] = param,
            None => self.list.push(param),
        }
    }

    fn add_text(&mut self, earlier: usize, name: &str, value: &str) -> Result<(), ApiError> {
        if [name, value].iter().any(|text| text.contains('\0')) {
            return Err(ApiError::BadRequest("A NUL character is not allowed in parameters"));
        }
        let name = self.push_text(sanitized(name).as_deref().unwrap_or(name));
        let sent = self.push_text(value);
        let value = sanitized(value).map_or_else(|| sent.clone(), |harmless| self.push_text(&harmless));
        self.add(earlier, Param { name, value, raw: sent });
        Ok(())
    }

    fn push_text(&mut self, text: &str) -> Range<usize> {
        let start = self.text.len();
        self.text.push_str(text);
        start..self.text.len()
    }

    /// Adds `name=value` pairs between `&` or `;`, with `+` and `%xx`. What comes twice counts twice against the limit, since it
    /// costs as much.
    fn add_pairs(&mut self, text: &[u8], most: usize) -> Result<(), ApiError> {
        let earlier = self.list.len();
        // Most requests are as they look: then their text is taken as a whole.
        let whole = as_plain_ascii(text).map(|plain| self.push_text(plain).start);
        if whole.is_none() {
            self.text.reserve(text.len());
        }
        for (number, (name, value)) in split_pairs(text).enumerate() {
            if earlier + number >= most {
                return Err(TOO_MANY_PARAMS);
            }
            match whole {
                Some(start) => {
                    let [name, value] = [name, value].map(|part| start + part.start..start + part.end);
                    self.add(earlier, Param { name, raw: value.clone(), value });
                }
                None => self.add_text(earlier, &form_decoded(&text[name])?, &form_decoded(&text[value])?)?,
            }
        }
        Ok(())
    }

    async fn add_body(&mut self, headers: &HeaderMap, body: Bytes, most: usize) -> Result<(), ApiError> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        if body.is_empty() {
            Ok(())
        } else if essence.is_empty() || is("application/x-www-form-urlencoded") {
            // Like MOR's framework, take a body without a type for a form.
            self.add_pairs(&body, most)
        } else if is("multipart/form-data") {
            // In a box: it is large, and few requests come so.
            self.add_fields(&Box::pin(parse_multipart(content_type, body, most)).await?, most)
        } else if is("application/json") {
            self.add_fields(&parse_json(&body)?, most)
        } else {
            Ok(())
        }
    }

    fn add_fields(&mut self, fields: &[(String, String)], most: usize) -> Result<(), ApiError> {
        let earlier = self.list.len();
        if earlier + fields.len() > most {
            return Err(TOO_MANY_PARAMS);
        }
        fields.iter().try_for_each(|(name, value)| self.add_text(earlier, name, value))
    }
}

/// The text with U+FFFD, as replies have it, for each character that terminals, logs or XML may choke on; `None` where there
/// is none. Tabs and line ends belong to text.
pub fn sanitized(text: &str) -> Option<String> {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return None;
    }
    let harmful = |char: char| {
        char.is_control() && !matches!(char, '\t' | '\n' | '\r') || matches!(char, '\u{fffe}' | '\u{ffff}')
    };
    text.contains(harmful).then(|| text.replace(harmful, "\u{fffd}"))
}

/// More parameters than most requests have.
const INITIAL_CAPACITY: usize = 12;
const TOO_MANY_PARAMS: ApiError = ApiError::BadRequest("Too many parameters");

/// Where names and values stand.
fn split_pairs(text: &[u8]) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let ends = memchr2_iter(b'&', b';', text).chain(iter::once(text.len()));
    let mut next = 0;
    ends.filter_map(move |end| {
        let start = std::mem::replace(&mut next, end + 1);
        let split = memchr(b'=', &text[start..end]).map_or(end, |at| start + at);
        (start < end).then(|| (start..split, end.min(split + 1)..end))
    })
}

/// Text in which nothing stands for something else, and nothing has to be replaced.
fn as_plain_ascii(text: &[u8]) -> Option<&str> {
    let is_plain = |byte: u8| byte.is_ascii() & !byte.is_ascii_control() & (byte != b'+') & (byte != b'%');
    // Without a look at where it ends, so that many are looked at together.
    let plain = text.iter().fold(true, |plain, byte| plain & is_plain(*byte));
    plain.then(|| str::from_utf8(text).ok()).flatten()
}

fn form_decoded(text: &[u8]) -> Result<Cow<'_, str>, ApiError> {
    if !text.contains(&b'+') {
        return percent_decoded(text);
    }
    let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    Ok(percent_decoded(&spaced)?.into_owned().into())
}

/// Text with its `%xx` resolved.
pub fn percent_decoded(text: &[u8]) -> Result<Cow<'_, str>, ApiError> {
    const NOT_UTF8: ApiError = ApiError::BadRequest("Parameters are not valid UTF-8");
    if !text.contains(&b'%') {
        return str::from_utf8(text).map(Cow::Borrowed).map_err(|_| NOT_UTF8);
    }
    let mut escapes = text.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    if !escapes.all(|(at, _)| text.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))) {
        return Err(ApiError::BadRequest("Parameters have a malformed % escape"));
    }
    String::from_utf8(percent_decode(text).collect()).map(Cow::Owned).map_err(|_| NOT_UTF8)
}

/// The text fields of a form; files are passed over.
async fn parse_multipart(content_type: &str, body: Bytes, most: usize) -> Result<Vec<(String, String)>, ApiError> {
    const MALFORMED: ApiError = ApiError::BadRequest("Multipart body is malformed");
    let boundary = multer::parse_boundary(content_type).map_err(|_| MALFORMED)?;
    let mut form = multer::Multipart::new(stream::iter([Ok::<_, Infallible>(body)]), boundary);
    let mut fields = Vec::new();
    while let Some(field) = form.next_field().await.map_err(|_| MALFORMED)? {
        let name = field.name().filter(|_| field.file_name().is_none()).map(str::to_owned);
        let bytes = field.bytes().await.map_err(|_| MALFORMED)?;
        if let Some(name) = name {
            let text =
                String::from_utf8(bytes.into()).map_err(|_| ApiError::BadRequest("Parameters are not valid UTF-8"))?;
            fields.push((name, text));
        }
        if fields.len() > most {
            break;
        }
    }
    Ok(fields)
}

/// A flat object. Numbers and truth values count as their text; null, lists and objects as absent.
fn parse_json(body: &[u8]) -> Result<Vec<(String, String)>, ApiError> {
    use serde_json::Value;
    let Ok(Value::Object(object)) = serde_json::from_slice(body) else {
        return Err(ApiError::BadRequest("JSON body is malformed: it must be an object"));
    };
    let text = |value| match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    Ok(object.into_iter().filter_map(|(name, value)| Some((name, text(value)?))).collect())
}
