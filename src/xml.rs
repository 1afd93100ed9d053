//! Writes the XML of replies, byte for byte as MOR does (`http.md`, "Reply").

use async_stream::try_stream;
use futures_util::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};

/// The first line of every reply.
pub const XML_DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
/// Minimum size of the chunks in which a list is sent, except the last one.
const CHUNK_BYTES: usize = 64 * 1024;

/// A reply: the XML declaration, then one root element. Each element is on its own line, indented by two spaces per
/// level.
pub enum XmlReply {
    /// A complete reply.
    Buffered(String),
    /// A complete reply that was stored for an earlier request with the same idempotency key.
    Replayed(String),
    /// A list that is written while its rows arrive from the database.
    Streamed(BoxStream<'static, sqlx::Result<String>>),
}

impl XmlReply {
    /// Writes a reply with the root element `name`, whose content `content` writes.
    pub fn new(name: &'static str, content: impl FnOnce(&mut Element<'_>)) -> Self {
        let mut text = String::with_capacity(512);
        text.push_str(XML_DECLARATION);
        Element { text: &mut text, depth: 0 }.element(name, content);
        Self::Buffered(text)
    }

    /// Writes the reply with which most operations report success or failure: `<page><status><leaf>message`.
    pub fn status(leaf: &'static str, message: impl AsRef<str>) -> Self {
        Self::new("page", |page| page.element("status", |status| status.text(leaf, message)))
    }

    /// Marks a buffered reply as replayed.
    pub fn into_replayed(self) -> Self {
        match self {
            Self::Buffered(text) => Self::Replayed(text),
            other => other,
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
        let mut chunks = try_stream! {
            let mut rows = Box::pin(rows);
            let mut text = String::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8);
            let mut open_key = None;
            while let Some(row) = rows.try_next().await? {
                let row_key = Some(key(&row));
                if open_key != row_key {
                    match open_key {
                        None => {
                            text.push_str(XML_DECLARATION);
                            Element { text: &mut text, depth: 0 }.open(root);
                        }
                        Some(_) => Element { text: &mut text, depth: 1 }.close(list),
                    }
                    Element { text: &mut text, depth: 1 }.open(list);
                    open_key = row_key;
                }
                write(&mut Element { text: &mut text, depth: 2 }, &row);
                if text.len() >= CHUNK_BYTES {
                    yield std::mem::replace(&mut text, String::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8));
                }
            }
            if open_key.is_some() {
                Element { text: &mut text, depth: 1 }.close(list);
                Element { text: &mut text, depth: 0 }.close(root);
                yield text;
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
            Self::Streamed(_) => f.write_str("Streamed"),
        }
    }
}

/// An element that is being written. It is closed after the closure that writes its content, so elements are always
/// balanced.
#[derive(Debug)]
pub struct Element<'a> {
    text: &'a mut String,
    depth: usize,
}

impl Element<'_> {
    /// Writes an element that contains elements.
    pub fn element(&mut self, name: &'static str, content: impl FnOnce(&mut Element<'_>)) {
        self.open(name);
        content(&mut Element { text: self.text, depth: self.depth + 1 });
        self.close(name);
    }

    /// Writes an element that contains text. Only `&`, `<` and `>` are escaped; characters that XML forbids become
    /// U+FFFD.
    pub fn text(&mut self, name: &'static str, value: impl AsRef<str>) {
        self.indent();
        self.write_tag("<", name);
        let value = value.as_ref();
        if value.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'&' | b'<' | b'>')) {
            self.text.push_str(value);
        } else {
            self.write_escaped(value);
        }
        self.write_tag("</", name);
        self.text.push('\n');
    }

    fn write_escaped(&mut self, value: &str) {
        for char in value.chars() {
            match char {
                '&' => self.text.push_str("&amp;"),
                '<' => self.text.push_str("&lt;"),
                '>' => self.text.push_str("&gt;"),
                _ if is_xml_char(char) => self.text.push(char),
                _ => self.text.push('\u{fffd}'),
            }
        }
    }

    /// Writes an element that contains text, or `<name/>` without a value.
    pub fn optional_text(&mut self, name: &'static str, value: Option<&str>) {
        match value {
            Some(value) => self.text(name, value),
            None => {
                self.indent();
                self.write_tag("<", name);
                // Turns `<name>` into `<name/>`.
                self.text.insert(self.text.len() - 1, '/');
                self.text.push('\n');
            }
        }
    }

    /// Writes one element with this name for each text.
    pub fn texts(&mut self, name: &'static str, values: &[impl AsRef<str>]) {
        values.iter().for_each(|value| self.text(name, value));
    }

    fn open(&mut self, name: &str) {
        self.indent();
        self.write_tag("<", name);
        self.text.push('\n');
    }

    fn close(&mut self, name: &str) {
        self.indent();
        self.write_tag("</", name);
        self.text.push('\n');
    }

    fn indent(&mut self) {
        for _ in 0..self.depth {
            self.text.push_str("  ");
        }
    }

    fn write_tag(&mut self, open: &str, name: &str) {
        self.text.push_str(open);
        self.text.push_str(name);
        self.text.push('>');
    }
}

/// Whether XML 1.0 allows the character in a document. A bare carriage return is allowed and not escaped, because MOR
/// sends it so, although parsers read it as a line feed. XML libraries escape it: this is why this module does not use
/// one.
fn is_xml_char(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}
