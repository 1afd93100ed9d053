//! What the reader of a document checks besides quick-xml, which accepts some documents that are not well-formed.

use std::io::{self, BufRead, Read};

use quick_xml::events::BytesStart;
use quick_xml::{Error, XmlVersion};

use crate::xml::is_xml_char;

/// Attributes of an element. They are ignored, but compared with each other.
const ATTRIBUTES_MAX: usize = 256;

/// A place in a document: line and column, both from 1. A column is a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: u64,
    /// The column.
    pub column: u64,
}

impl Position {
    /// The beginning of a document.
    pub(super) const START: Self = Self { line: 1, column: 1 };

    /// Moves behind these bytes of UTF-8.
    pub(super) fn advance(&mut self, bytes: &[u8]) {
        let is_char_start = |byte: &&u8| **byte & 0xc0 != 0x80;
        let last_line = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => {
                self.line += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
                self.column = 1;
                &bytes[end + 1..]
            }
            None => bytes,
        };
        self.column += last_line.iter().filter(is_char_start).count() as u64;
    }
}

/// The reason why a document was not read to its end, and where.
#[derive(Debug)]
pub struct ReadError {
    /// The reason.
    pub fault: ReadFault,
    /// Where the piece of the document starts that cannot be read. `None`: the reason is not in an XML document.
    pub position: Option<Position>,
}

impl From<ReadFault> for ReadError {
    fn from(fault: ReadFault) -> Self {
        Self { fault, position: None }
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        ReadFault::from(error).into()
    }
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(Position { line, column }) = self.position {
            write!(formatter, "line {line}, column {column}: ")?;
        }
        write!(formatter, "{}", self.fault)
    }
}

/// The reason why a document was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadFault {
    /// Not a document as the contract describes it.
    #[error("the XML document is malformed")]
    Malformed,
    /// The bytes are not UTF-8.
    #[error("the XML document is not valid UTF-8")]
    NotUtf8,
    /// The file with the document cannot be read.
    #[error(transparent)]
    Io(io::Error),
    /// The receiver of the destinations needs no more.
    #[error("stopped")]
    Stopped,
}

impl From<io::Error> for ReadFault {
    fn from(error: io::Error) -> Self {
        // From `LimitedReader`.
        if error.kind() == io::ErrorKind::FileTooLarge { Self::Malformed } else { Self::Io(error) }
    }
}

impl From<Error> for ReadFault {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(error) => io::Error::from(error.kind()).into(),
            Error::Encoding(_) => Self::NotUtf8,
            _ => Self::Malformed,
        }
    }
}

/// Checks what quick-xml leaves to its caller: the name and the attributes.
pub(super) fn check_tag(element: &BytesStart<'_>) -> Result<(), ReadFault> {
    if !is_name(element.name().as_ref()) {
        return Err(ReadFault::Malformed);
    }
    for (index, attribute) in element.attributes().enumerate() {
        let attribute = attribute.map_err(|_| ReadFault::Malformed)?;
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|_| ReadFault::Malformed)?;
        let is_valid = is_name(attribute.key.as_ref()) && !attribute.value.contains('<') && is_xml_text(&value);
        if index >= ATTRIBUTES_MAX || !is_valid {
            return Err(ReadFault::Malformed);
        }
    }
    Ok(())
}

/// Whether XML allows the name. Of the characters beyond ASCII all are allowed.
fn is_name(name: &str) -> bool {
    let is_start = |byte: u8| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b':') || !byte.is_ascii();
    let is_inner = |byte: u8| is_start(byte) || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    name.bytes().next().is_some_and(is_start) && name.bytes().all(is_inner)
}

/// `xml` is the declaration, which must be first.
pub(super) fn is_reserved_target(target: &str) -> bool {
    !is_name(target) || target.eq_ignore_ascii_case("xml")
}

pub(super) fn is_xml_text(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~')) || text.chars().all(is_xml_char)
}

pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Returns the character of a reference, such as `65` or `x41`.
pub(super) fn referenced_char(number: &str) -> Option<char> {
    let (digits, radix) = match number.strip_prefix('x') {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    // `from_str_radix` would accept a sign.
    let is_number = digits.chars().all(|digit| digit.is_digit(radix));
    let code = u32::from_str_radix(digits, radix).ok().filter(|_| is_number)?;
    char::from_u32(code).filter(|char| is_xml_char(*char))
}

pub(super) fn skip_byte_order_mark_and_space(source: &mut LimitedReader<impl BufRead>) -> io::Result<()> {
    const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
    for expected in BYTE_ORDER_MARK {
        match source.fill_buf()?.first() {
            Some(byte) if byte == expected => source.consume(1),
            _ => break,
        }
    }
    source.position = Position::START;
    while source.fill_buf()?.first().is_some_and(|byte| is_space(*byte)) {
        source.consume(1);
    }
    Ok(())
}

/// Fails when more than `remaining` bytes are read: quick-xml keeps a whole piece of markup or text in memory.
pub(super) struct LimitedReader<Source> {
    pub(super) source: Source,
    pub(super) remaining: usize,
    /// Of the next byte.
    pub(super) position: Position,
}

impl<Source: BufRead> Read for LimitedReader<Source> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl<Source: BufRead> BufRead for LimitedReader<Source> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.remaining == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        // A source in memory returns all of its rest at once.
        let available = self.source.fill_buf()?;
        Ok(&available[..available.len().min(self.remaining)])
    }

    fn consume(&mut self, length: usize) {
        self.remaining = self.remaining.saturating_sub(length);
        // The bytes are in the buffer, from which they are consumed.
        let consumed = self.source.fill_buf().unwrap_or_default();
        self.position.advance(&consumed[..consumed.len().min(length)]);
        self.source.consume(length);
    }
}
