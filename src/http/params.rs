//! The parameters of a request, parsed from query string and body as MOR parses them (`http.md`, "Parameters").

use std::borrow::Cow;
use std::convert::Infallible;

use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use futures_util::stream;
use percent_encoding::percent_decode;

use crate::error::ApiError;
use crate::number;

/// The parameters, each name once. Values are sanitized, so they can be stored, logged and shown. The request hash and
/// the password are computed from the raw values.
#[derive(Clone, Default)]
pub struct Params(Vec<Param>);

#[derive(Clone)]
struct Param {
    name: String,
    /// The decoded value.
    raw: String,
    /// The sanitized value. `None`: the same as `raw`.
    sanitized: Option<String>,
}

impl Param {
    fn value(&self) -> &str {
        self.sanitized.as_deref().unwrap_or(&self.raw)
    }
}

/// Prints only the names: the values include passwords and PINs.
impl std::fmt::Debug for Params {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl Params {
    /// Takes fields that are read already.
    ///
    /// # Errors
    ///
    /// [`ApiError::BadRequest`] if one has a NUL character.
    pub fn from_fields(fields: Vec<(String, String)>) -> Result<Self, ApiError> {
        let mut params = Self::default();
        params.add_fields(fields, usize::MAX)?;
        Ok(params)
    }

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
        let mut params = Self(Vec::with_capacity(INITIAL_CAPACITY));
        if let Some(id) = path_id {
            params.add(0, "id", id.into())?;
        }
        params.add_pairs(query.as_bytes(), max_parameters)?;
        params.add_body(headers, body, max_parameters).await?;
        Ok(params)
    }

    /// Returns the value of a parameter, empty or not; `None` if it was not sent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.find(name).map(Param::value)
    }

    /// Returns the decoded value with all its control characters: only for hashes and comparisons, not to be stored or
    /// shown.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.find(name).map(|param| param.raw.as_str())
    }

    fn find(&self, name: &str) -> Option<&Param> {
        self.0.iter().find(|param| param.name == name)
    }

    /// Returns the value of a parameter; `None` if it was not sent or is blank.
    pub fn non_blank(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.trim().is_empty())
    }

    /// Removes a parameter, and returns its decoded value with all its control characters.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let position = self.0.iter().position(|param| param.name == name)?;
        Some(self.0.remove(position).raw)
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
        self.0.iter().map(|param| (param.name.as_str(), param.value()))
    }

    /// Iterates over names, and decoded values with all their control characters.
    pub fn raw_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|param| (param.name.as_str(), param.raw.as_str()))
    }

    /// Adds a parameter. It replaces one with the same name, except among the first `earlier_count`, which come from
    /// earlier sources and take precedence.
    fn add(&mut self, earlier_count: usize, name: &str, raw: Cow<'_, str>) -> Result<(), ApiError> {
        if [name, &raw].iter().any(|text| text.contains('\0')) {
            return Err(ApiError::BadRequest("A NUL character is not allowed in parameters"));
        }
        let name = sanitized(name).unwrap_or_else(|| name.to_owned());
        let param = Param { sanitized: sanitized(&raw), raw: raw.into_owned(), name };
        match self.0.iter().position(|other| other.name == param.name) {
            Some(position) if position < earlier_count => {}
            Some(position) => self.0[position] = param,
            None => self.0.push(param),
        }
        Ok(())
    }

    /// Adds form-encoded `name=value` pairs, separated by `&` or `;`. A repeated name counts each time against the
    /// limit, because it costs as much to parse.
    pub(super) fn add_pairs(&mut self, text: &[u8], max_parameters: usize) -> Result<(), ApiError> {
        let earlier_count = self.0.len();
        let pairs = text.split(|byte| matches!(byte, b'&' | b';')).filter(|pair| !pair.is_empty());
        for (index, pair) in pairs.enumerate() {
            if earlier_count + index >= max_parameters {
                return Err(TOO_MANY_PARAMS);
            }
            let mut parts = pair.splitn(2, |byte| *byte == b'=').map(form_decoded);
            let (name, value) = (parts.next().transpose()?, parts.next().transpose()?);
            self.add(earlier_count, &name.unwrap_or_default(), value.unwrap_or_default())?;
        }
        Ok(())
    }

    /// Adds the parameters of a body according to its content type.
    pub(super) async fn add_body(
        &mut self,
        headers: &HeaderMap,
        body: Bytes,
        max_parameters: usize,
    ) -> Result<(), ApiError> {
        if body.is_empty() {
            return Ok(());
        }
        match BodyFormat::from_headers(headers) {
            Some(BodyFormat::Form) => self.add_pairs(&body, max_parameters),
            Some(BodyFormat::Multipart(content_type)) => {
                // Boxed: the future is large, and multipart requests are rare.
                self.add_fields(Box::pin(parse_multipart(content_type, body, max_parameters)).await?, max_parameters)
            }
            Some(BodyFormat::Json) => self.add_fields(parse_json(&body)?, max_parameters),
            None => Ok(()),
        }
    }

    /// Adds names and values.
    pub(super) fn add_fields(&mut self, fields: Vec<(String, String)>, max_parameters: usize) -> Result<(), ApiError> {
        let earlier_count = self.0.len();
        if earlier_count + fields.len() > max_parameters {
            return Err(TOO_MANY_PARAMS);
        }
        fields.into_iter().try_for_each(|(name, value)| self.add(earlier_count, &name, value.into()))
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

/// The name of a parameter whose value is no text: an array, an object or a file. A form sends an array by this name.
pub(super) fn unreadable(name: &str) -> String {
    format!("{name}[]")
}

/// Returns the text fields of a multipart form. A file counts as a parameter with another name, [`unreadable`].
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
        let (name, is_file) = (field.name().map(str::to_owned), field.file_name().is_some());
        let bytes = field.bytes().await.map_err(|_| MALFORMED)?;
        match name {
            Some(name) if is_file => fields.push((unreadable(&name), String::new())),
            Some(name) => {
                let text = String::from_utf8(bytes.into());
                fields.push((name, text.map_err(|_| ApiError::BadRequest("Parameters are not valid UTF-8"))?));
            }
            None => {}
        }
        if fields.len() > max_parameters {
            break;
        }
    }
    Ok(fields)
}

/// Returns the members of a JSON object. Numbers and booleans become text; null is skipped. An array or an object
/// counts as a parameter with another name, [`unreadable`].
fn parse_json(body: &[u8]) -> Result<Vec<(String, String)>, ApiError> {
    use serde_json::Value;
    let Ok(Value::Object(object)) = serde_json::from_slice(body) else {
        return Err(ApiError::BadRequest("JSON body is malformed: it must be an object"));
    };
    let field = |(name, value): (String, Value)| match value {
        Value::String(text) => Some((name, text)),
        Value::Number(number) => Some((name, number.to_string())),
        Value::Bool(boolean) => Some((name, boolean.to_string())),
        Value::Array(_) | Value::Object(_) => Some((unreadable(&name), String::new())),
        Value::Null => None,
    };
    Ok(object.into_iter().filter_map(field).collect())
}
