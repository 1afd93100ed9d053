//! Writes the XML of replies, byte for byte as MOR does (`http.md`, "Reply").

use std::borrow::Cow;
use std::mem;
use std::time::SystemTime;

use async_stream::try_stream;
use futures_util::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};

/// Minimum size of the chunks in which a list is sent, except the last one.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// A reply: the XML declaration, then one root element. Each element is on its own line, indented by two spaces per
/// level.
pub enum XmlReply {
    /// A complete reply.
    Buffered(Vec<u8>),
    /// A complete reply that was stored for an earlier request with the same idempotency key.
    Replayed(Vec<u8>),
    /// A list that is written while its rows arrive from the database, or a reply from a file.
    Streamed(BoxStream<'static, sqlx::Result<Vec<u8>>>),
    /// Like `Streamed`, for a reply that was stored for an earlier request with the same idempotency key.
    ReplayedStream(BoxStream<'static, sqlx::Result<Vec<u8>>>),
    /// A text in a form of its own, which is sent as a zip file unless the request has `test=1`.
    File(FileReply),
}

/// A reply that clients store as a file.
pub struct FileReply {
    /// The name of the XML file.
    pub name: String,
    /// The text, in chunks.
    pub text: BoxStream<'static, sqlx::Result<Vec<u8>>>,
}

impl FileReply {
    /// Creates the reply of `tariff_rates_get`. The name contains the current time, in seconds since 1970.
    pub fn of_tariff(text: impl Stream<Item = sqlx::Result<Vec<u8>>> + Send + 'static) -> Self {
        let seconds = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        Self { name: format!("get_tariff_{seconds}.xml"), text: text.boxed() }
    }
}

impl XmlReply {
    /// Writes a reply with the root element `name`, whose content `content` writes.
    pub fn new(name: &'static str, content: impl FnOnce(&mut Element<'_>)) -> Self {
        let mut writer = new_writer(512);
        let mut document = Element { writer: &mut writer };
        document.start_document();
        document.element(name, content);
        document.end_document();
        Self::Buffered(writer.into_inner())
    }

    /// Writes the reply with which most operations report success or failure: `<page><status><leaf>message`.
    pub fn status(leaf: &'static str, message: impl AsRef<str>) -> Self {
        Self::new("page", |page| page.element("status", |status| status.text(leaf, message)))
    }

    /// Marks a reply as replayed.
    pub fn into_replayed(self) -> Self {
        match self {
            Self::Buffered(text) => Self::Replayed(text),
            Self::Streamed(chunks) => Self::ReplayedStream(chunks),
            Self::Replayed(_) | Self::ReplayedStream(_) | Self::File(_) => self,
        }
    }

    /// Writes a list of any length in little memory. The root element `root` contains one element `list` for each run
    /// of consecutive rows with equal `key`, and `write` writes each row into it. `None` if there are no rows. A list
    /// that fits into one chunk becomes a buffered reply.
    ///
    /// # Errors
    ///
    /// Database errors before the second chunk is complete. A later error aborts the streamed reply.
    pub async fn stream_list<Row: Send + 'static, Key: PartialEq + Send + 'static>(
        root: &'static str,
        list: &'static str,
        rows: impl Stream<Item = sqlx::Result<Row>> + Send + 'static,
        key: fn(&Row) -> Key,
        write: impl Fn(&mut Element<'_>, &Row) + Send + Sync + 'static,
    ) -> sqlx::Result<Option<Self>> {
        // One row more than a chunk fits without a second allocation.
        const CAPACITY: usize = CHUNK_BYTES + CHUNK_BYTES / 8;
        let mut chunks = try_stream! {
            let mut rows = Box::pin(rows);
            let mut writer = new_writer(CAPACITY);
            let mut open_key = None;
            while let Some(row) = rows.try_next().await? {
                let mut document = Element { writer: &mut writer };
                let row_key = Some(key(&row));
                if open_key != row_key {
                    match open_key {
                        None => {
                            document.start_document();
                            document.start(root);
                        }
                        Some(_) => document.end(list),
                    }
                    document.start(list);
                    open_key = row_key;
                }
                write(&mut document, &row);
                if writer.get_mut().len() >= CHUNK_BYTES {
                    yield mem::replace(writer.get_mut(), Vec::with_capacity(CAPACITY));
                }
            }
            if open_key.is_some() {
                let mut document = Element { writer: &mut writer };
                document.end(list);
                document.end(root);
                document.end_document();
                yield writer.into_inner();
            }
        }
        .boxed();
        let Some(first) = chunks.try_next().await? else { return Ok(None) };
        Ok(Some(match chunks.try_next().await? {
            None => Self::Buffered(first),
            Some(second) => Self::Streamed(stream::iter([Ok(first), Ok(second)]).chain(chunks).boxed()),
        }))
    }
}

impl std::fmt::Debug for XmlReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Buffered(text) => write!(f, "Buffered({} bytes)", text.len()),
            Self::Replayed(text) => write!(f, "Replayed({} bytes)", text.len()),
            Self::Streamed(_) | Self::ReplayedStream(_) => f.write_str("Streamed"),
            Self::File(file) => write!(f, "File({})", file.name),
        }
    }
}

fn new_writer(capacity: usize) -> Writer<Vec<u8>> {
    Writer::new_with_indent(Vec::with_capacity(capacity), b' ', 2)
}

/// An element that is being written. It is closed after the closure that writes its content, so elements are always
/// balanced.
pub struct Element<'a> {
    writer: &'a mut Writer<Vec<u8>>,
}

impl Element<'_> {
    /// Writes an element that contains elements.
    pub fn element(&mut self, name: &'static str, content: impl FnOnce(&mut Element<'_>)) {
        self.start(name);
        content(self);
        self.end(name);
    }

    /// Writes an element that contains text. Only `&`, `<` and `>` are escaped; characters that XML forbids become
    /// U+FFFD.
    pub fn text(&mut self, name: &'static str, value: impl AsRef<str>) {
        self.start(name);
        self.write(Event::Text(BytesText::from_escaped(escaped(value.as_ref()))));
        self.end(name);
    }

    /// Writes an element that contains text, or `<name/>` without a value.
    pub fn optional_text(&mut self, name: &'static str, value: Option<&str>) {
        match value {
            Some(value) => self.text(name, value),
            None => self.write(Event::Empty(BytesStart::new(name))),
        }
    }

    /// Writes one element with this name for each text.
    pub fn texts(&mut self, name: &'static str, values: &[impl AsRef<str>]) {
        values.iter().for_each(|value| self.text(name, value));
    }

    fn start_document(&mut self) {
        self.write(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)));
    }

    fn start(&mut self, name: &'static str) {
        self.write(Event::Start(BytesStart::new(name)));
    }

    fn end(&mut self, name: &'static str) {
        self.write(Event::End(BytesEnd::new(name)));
    }

    fn end_document(&mut self) {
        self.writer.get_mut().push(b'\n');
    }

    fn write(&mut self, event: Event<'_>) {
        // A write to a vector does not fail.
        let _ = self.writer.write_event(event);
    }
}

/// Escapes a text as MOR does. `BytesText::new` would also escape a carriage return, which MOR sends as it is, although
/// parsers read it as a line feed.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'&' | b'<' | b'>')) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            _ if is_xml_char(char) => escaped.push(char),
            _ => escaped.push('\u{fffd}'),
        }
    }
    Cow::Owned(escaped)
}

/// Appends a text to a document that escapes quotation marks too, as MOR does in the texts of [`XmlReply::File`].
pub fn push_fully_escaped(document: &mut String, text: &str) {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'&' | b'<' | b'>' | b'"' | b'\'')) {
        document.push_str(text);
        return;
    }
    for char in text.chars() {
        match char {
            '&' => document.push_str("&amp;"),
            '<' => document.push_str("&lt;"),
            '>' => document.push_str("&gt;"),
            '"' => document.push_str("&quot;"),
            '\'' => document.push_str("&#39;"),
            _ if is_xml_char(char) => document.push(char),
            _ => document.push('\u{fffd}'),
        }
    }
}

/// Whether XML 1.0 allows the character in a document.
pub fn is_xml_char(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}
