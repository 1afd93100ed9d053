//! The XML that clients read, written byte for byte as MOR writes it (`http.md`, "Reply").

use async_stream::try_stream;
use futures_util::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};

/// The first line of every reply.
pub const XML_DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
/// How much of a long list is gathered before it is sent, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// A reply: the declaration, then one root element; two spaces a level, each element on its own line.
pub enum XmlReply {
    /// All of it.
    Buffered(String),
    /// All of it, and as it was said before, to a request with the same idempotency key.
    Replayed(String),
    /// A list that is written while its rows come.
    Streamed(BoxStream<'static, sqlx::Result<String>>),
}

impl XmlReply {
    /// Writes the document whose root element is `name`, with what `content` puts inside it.
    pub fn new(name: &'static str, content: impl FnOnce(&mut Element<'_>)) -> Self {
        let mut text = String::with_capacity(512);
        text.push_str(XML_DECLARATION);
        Element { text: &mut text, depth: 0 }.element(name, content);
        Self::Buffered(text)
    }

    /// What most operations say when all went well, or nothing did: `<page><status>`, and in it the words.
    pub fn status(leaf: &'static str, words: impl AsRef<str>) -> Self {
        Self::new("page", |page| page.element("status", |status| status.text(leaf, words)))
    }

    /// The same, as an answer that was given before.
    pub fn into_replayed(self) -> Self {
        match self {
            Self::Buffered(text) => Self::Replayed(text),
            other => other,
        }
    }

    /// A list of any length in little memory: in the root element `root` a `list` for each run of rows that have one `key`, and
    /// in it what `write` makes of each row. `None` where there is no row.
    ///
    /// # Errors
    ///
    /// What goes wrong before the first chunk is full; later it breaks off the reply, which has begun by then.
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
            let mut open = None;
            while let Some(row) = rows.try_next().await? {
                let own = Some(key(&row));
                if open != own {
                    match open {
                        None => {
                            text.push_str(XML_DECLARATION);
                            Element { text: &mut text, depth: 0 }.open(root);
                        }
                        Some(_) => Element { text: &mut text, depth: 1 }.close(list),
                    }
                    Element { text: &mut text, depth: 1 }.open(list);
                    open = own;
                }
                write(&mut Element { text: &mut text, depth: 2 }, &row);
                if text.len() >= CHUNK_BYTES {
                    yield std::mem::replace(&mut text, String::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8));
                }
            }
            if open.is_some() {
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
            Self::Buffered(text) | Self::Replayed(text) => write!(f, "a document of {} bytes", text.len()),
            Self::Streamed(_) => f.write_str("a long document"),
        }
    }
}

/// An element that is being written. It is closed when the closure that fills it ends, so a document is always balanced.
#[derive(Debug)]
pub struct Element<'a> {
    text: &'a mut String,
    depth: usize,
}

impl Element<'_> {
    /// An element that holds elements.
    pub fn element(&mut self, name: &'static str, content: impl FnOnce(&mut Element<'_>)) {
        self.open(name);
        content(&mut Element { text: self.text, depth: self.depth + 1 });
        self.close(name);
    }

    /// An element that holds text. Only `&`, `<` and `>` are escaped; characters that XML forbids become U+FFFD.
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

    /// An element that holds text, or none at all: `<name/>`.
    pub fn optional_text(&mut self, name: &'static str, value: Option<&str>) {
        match value {
            Some(value) => self.text(name, value),
            None => {
                self.indent();
                self.write_tag("<", name);
                // The bracket just written closes the element as well.
                self.text.insert(self.text.len() - 1, '/');
                self.text.push('\n');
            }
        }
    }

    /// An element of that name for each text.
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

/// Whether XML 1.0 lets a document contain the character. (A parser reads a bare carriage return back as a line feed; MOR
/// sends it as it is, so it isn't escaped: the reason why the escaping is our own and not a library's.)
fn is_xml_char(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}
