//! The parameters of a request, parsed from query string and body as MOR parses them (`http.md`, "Parameters").

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

/// The parameters, each name once. Values are sanitized, so they can be stored, logged and shown. The request hash and
/// the password are computed from the raw values.
#[derive(Clone, Default)]
pub struct Params {
    /// Names and values, concatenated: an allocation for each would cost more than the parsing.
    text: String,
    list: Vec<Param>,
}

/// The ranges of one parameter in `Params::text`.
#[derive(Clone)]
struct Param {
    name: Range<usize>,
    value: Range<usize>,
    /// The decoded value before sanitizing; the same range as `value` if no character was replaced.
    raw: Range<usize>,
}

/// Prints only the names: the values include passwords and PINs.
impl std::fmt::Debug for Params {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl Params {
    /// Reads the path's `id`, the query string, then the body according to its content type. An earlier source takes
    /// precedence: the body cannot replace a parameter of the query string. Within one source the last value of a name
    /// counts. More than `max_parameters` are refused.
    pub async fn read(
        path_id: Option<&str>,
        query: &str,
        headers: &HeaderMap,
        body: Bytes,
        max_parameters: usize,
    ) -> Result<Self, ApiError> {
        let mut params = Self { text: String::new(), list: Vec::with_capacity(INITIAL_CAPACITY) };
        if let Some(id) = path_id {
            params.add_text(0, "id", id)?;
        }
        params.add_pairs(query.as_bytes(), max_parameters)?;
        params.add_body(headers, body, max_parameters).await?;
        Ok(params)
    }

    /// Returns the value of a parameter, empty or not; `None` if it was not sent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.find(name).map(|param| &self.text[param.value.clone()])
    }

    /// Returns the decoded value with all its control characters: only for hashes and comparisons, not to be stored or
    /// shown.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.find(name).map(|param| &self.text[param.raw.clone()])
    }

    fn find(&self, name: &str) -> Option<&Param> {
        self.list.iter().find(|param| self.text[param.name.clone()] == *name)
    }

    /// Returns the value of a parameter; `None` if it was not sent or is blank.
    pub fn non_blank(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.trim().is_empty())
    }

    /// Returns the value parsed as an integer by [`number::parse_integer`]; 0 if the parameter was not sent.
    pub fn integer(&self, name: &str) -> i64 {
        self.get(name).map_or(0, number::parse_integer)
    }

    /// Iterates over the names, in the order of their first occurrence.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pairs().map(|(name, _)| name)
    }

    /// Iterates over names and values.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list.iter().map(|param| (&self.text[param.name.clone()], &self.text[param.value.clone()]))
    }

    /// Iterates over names, and decoded values with all their control characters.
    pub fn raw_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list.iter().map(|param| (&self.text[param.name.clone()], &self.text[param.raw.clone()]))
    }

    /// Adds a parameter. It replaces one with the same name, except among the first `earlier_count`, which come from
    /// earlier sources and take precedence.
    fn add(&mut self, earlier_count: usize, param: Param) {
        let name = &self.text[param.name.clone()];
        match self.list.iter().position(|other| self.text[other.name.clone()] == *name) {
            Some(position) if position < earlier_count => {}
            Some(position) => self.list[position] = param,
            None => self.list.push(param),
        }
    }

    fn add_text(&mut self, earlier_count: usize, name: &str, value: &str) -> Result<(), ApiError> {
        if [name, value].iter().any(|text| text.contains('\0')) {
            return Err(ApiError::BadRequest("A NUL character is not allowed in parameters"));
        }
        let name = self.push_text(sanitized(name).as_deref().unwrap_or(name));
        let raw = self.push_text(value);
        let value = sanitized(value).map_or_else(|| raw.clone(), |sanitized| self.push_text(&sanitized));
        self.add(earlier_count, Param { name, value, raw });
        Ok(())
    }

    fn push_text(&mut self, text: &str) -> Range<usize> {
        let start = self.text.len();
        self.text.push_str(text);
        start..self.text.len()
    }

    /// Adds form-encoded `name=value` pairs, separated by `&` or `;`. A repeated name counts each time against the
    /// limit, because it costs as much to parse.
    fn add_pairs(&mut self, text: &[u8], max_parameters: usize) -> Result<(), ApiError> {
        let earlier_count = self.list.len();
        // Most requests contain no escapes. Their text is copied once as a whole.
        let plain_start = as_plain_ascii(text).map(|plain| self.push_text(plain).start);
        if plain_start.is_none() {
            self.text.reserve(text.len());
        }
        for (index, (name, value)) in split_pairs(text).enumerate() {
            if earlier_count + index >= max_parameters {
                return Err(TOO_MANY_PARAMS);
            }
            match plain_start {
                Some(start) => {
                    let [name, value] = [name, value].map(|part| start + part.start..start + part.end);
                    self.add(earlier_count, Param { name, raw: value.clone(), value });
                }
                None => self.add_text(earlier_count, &form_decoded(&text[name])?, &form_decoded(&text[value])?)?,
            }
        }
        Ok(())
    }

    async fn add_body(&mut self, headers: &HeaderMap, body: Bytes, max_parameters: usize) -> Result<(), ApiError> {
        if body.is_empty() {
            return Ok(());
        }
        match BodyFormat::from_headers(headers) {
            Some(BodyFormat::Form) => self.add_pairs(&body, max_parameters),
            Some(BodyFormat::Multipart(content_type)) => {
                // Boxed: the future is large, and multipart requests are rare.
                self.add_fields(&Box::pin(parse_multipart(content_type, body, max_parameters)).await?, max_parameters)
            }
            Some(BodyFormat::Json) => self.add_fields(&parse_json(&body)?, max_parameters),
            None => Ok(()),
        }
    }

    fn add_fields(&mut self, fields: &[(String, String)], max_parameters: usize) -> Result<(), ApiError> {
        let earlier_count = self.list.len();
        if earlier_count + fields.len() > max_parameters {
            return Err(TOO_MANY_PARAMS);
        }
        fields.iter().try_for_each(|(name, value)| self.add_text(earlier_count, name, value))
    }
}

/// The format of a body whose parameters are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFormat<'a> {
    /// `name=value` pairs.
    Form,
    /// The parts of a multipart form; the content type has their boundary.
    Multipart(&'a str),
    /// The members of an object.
    Json,
}

impl<'a> BodyFormat<'a> {
    /// The format that the content type names. `None`: a body of this type is ignored.
    pub fn from_headers(headers: &'a HeaderMap) -> Option<Self> {
        let content_type = headers.get(header::CONTENT_TYPE);
        let bytes = content_type.map(|value| value.as_bytes()).unwrap_or_default();
        let essence = bytes.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let is = |name: &str| essence.eq_ignore_ascii_case(name.as_bytes());
        // Like MOR's framework, treat a body without a content type as a form.
        if essence.is_empty() || is("application/x-www-form-urlencoded") {
            Some(Self::Form)
        } else if is("multipart/form-data") {
            Some(Self::Multipart(content_type.and_then(|value| value.to_str().ok()).unwrap_or_default()))
        } else {
            is("application/json").then_some(Self::Json)
        }
    }
}

/// Replaces characters that are unsafe in terminals, logs or XML by U+FFFD, as replies do; `None` if there are none.
/// Tabs and line breaks are kept.
pub fn sanitized(text: &str) -> Option<String> {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return None;
    }
    let is_unsafe = |char: char| {
        char.is_control() && !matches!(char, '\t' | '\n' | '\r') || matches!(char, '\u{fffe}' | '\u{ffff}')
    };
    text.contains(is_unsafe).then(|| text.replace(is_unsafe, "\u{fffd}"))
}

/// Initial capacity of the list. Most requests have fewer parameters.
const INITIAL_CAPACITY: usize = 12;
const TOO_MANY_PARAMS: ApiError = ApiError::BadRequest("Too many parameters");

/// Returns the ranges of names and values in form-encoded text.
fn split_pairs(text: &[u8]) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let ends = memchr2_iter(b'&', b';', text).chain(iter::once(text.len()));
    let mut next = 0;
    ends.filter_map(move |end| {
        let start = std::mem::replace(&mut next, end + 1);
        let split = memchr(b'=', &text[start..end]).map_or(end, |offset| start + offset);
        (start < end).then(|| (start..split, end.min(split + 1)..end))
    })
}

/// Returns the text if it needs neither decoding nor sanitizing: visible ASCII and spaces, without `+` and `%`.
fn as_plain_ascii(text: &[u8]) -> Option<&str> {
    let is_plain = |byte: u8| byte.is_ascii() & !byte.is_ascii_control() & (byte != b'+') & (byte != b'%');
    // `fold` without an early exit, so that the compiler can vectorize it.
    let all_plain = text.iter().fold(true, |all_plain, byte| all_plain & is_plain(*byte));
    all_plain.then(|| str::from_utf8(text).ok()).flatten()
}

/// Decodes `+` and `%xx`.
fn form_decoded(text: &[u8]) -> Result<Cow<'_, str>, ApiError> {
    if !text.contains(&b'+') {
        return percent_decoded(text);
    }
    let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    Ok(percent_decoded(&spaced)?.into_owned().into())
}

/// Decodes `%xx`. A `%` without two hex digits and invalid UTF-8 are errors.
pub fn percent_decoded(text: &[u8]) -> Result<Cow<'_, str>, ApiError> {
    const NOT_UTF8: ApiError = ApiError::BadRequest("Parameters are not valid UTF-8");
    if !text.contains(&b'%') {
        return str::from_utf8(text).map(Cow::Borrowed).map_err(|_| NOT_UTF8);
    }
    let mut escapes = text.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    if !escapes
        .all(|(index, _)| text.get(index + 1..index + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)))
    {
        return Err(ApiError::BadRequest("Parameters have a malformed % escape"));
    }
    String::from_utf8(percent_decode(text).collect()).map(Cow::Owned).map_err(|_| NOT_UTF8)
}

/// Returns the text fields of a multipart form. Files are skipped.
async fn parse_multipart(
    content_type: &str,
    body: Bytes,
    max_parameters: usize,
) -> Result<Vec<(String, String)>, ApiError> {
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
        if fields.len() > max_parameters {
            break;
        }
    }
    Ok(fields)
}

/// Returns the members of a JSON object. Numbers and booleans become text; null, arrays and objects are skipped.
fn parse_json(body: &[u8]) -> Result<Vec<(String, String)>, ApiError> {
    use serde_json::Value;
    let Ok(Value::Object(object)) = serde_json::from_slice(body) else {
        return Err(ApiError::BadRequest("JSON body is malformed: it must be an object"));
    };
    let text = |value| match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(boolean) => Some(boolean.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    Ok(object.into_iter().filter_map(|(name, value)| Some((name, text(value)?))).collect())
}
