//! The XML that clients read, written byte for byte as MOR writes it (`http.md`, "Reply").

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// A whole reply: the declaration, then one root element; two spaces a level, each element on its own line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document(String);

impl Document {
    /// Writes the document whose root element is `name`, with what `content` puts inside it.
    pub fn new(name: &'static str, content: impl FnOnce(&mut Element<'_>)) -> Self {
        let mut text = String::with_capacity(512);
        text.push_str(DECLARATION);
        Element { text: &mut text, depth: 0 }.element(name, content);
        Self(text)
    }

    /// The bytes to send.
    pub fn into_string(self) -> String {
        self.0
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
        self.indent();
        self.tag("<", name);
        self.text.push('\n');
        content(&mut Element { text: self.text, depth: self.depth + 1 });
        self.indent();
        self.tag("</", name);
        self.text.push('\n');
    }

    /// An element that holds text. Only `&`, `<` and `>` are escaped; characters that XML forbids become U+FFFD.
    pub fn text(&mut self, name: &'static str, value: impl AsRef<str>) {
        self.indent();
        self.tag("<", name);
        for char in value.as_ref().chars() {
            match char {
                '&' => self.text.push_str("&amp;"),
                '<' => self.text.push_str("&lt;"),
                '>' => self.text.push_str("&gt;"),
                _ if is_xml(char) => self.text.push(char),
                _ => self.text.push('\u{fffd}'),
            }
        }
        self.tag("</", name);
        self.text.push('\n');
    }

    /// An element that holds text, or none at all: `<name/>`.
    pub fn value(&mut self, name: &'static str, value: Option<&str>) {
        match value {
            Some(value) => self.text(name, value),
            None => {
                self.indent();
                self.tag("<", name);
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

    fn indent(&mut self) {
        for _ in 0..self.depth {
            self.text.push_str("  ");
        }
    }

    fn tag(&mut self, open: &str, name: &str) {
        self.text.push_str(open);
        self.text.push_str(name);
        self.text.push('>');
    }
}

/// Whether XML 1.0 lets a document contain the character. (A parser reads a bare carriage return back as a line feed; MOR
/// sends it as it is, so it isn't escaped: the reason why the escaping is our own and not a library's.)
fn is_xml(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}
