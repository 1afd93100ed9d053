//! Reads the XML document of an import as a stream, in memory of fixed size.

use std::io::BufRead;

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, escape};

use crate::http::params::sanitized;
use crate::operations::tariff::retail_import::syntax::{
    LimitedReader, check_tag, is_reserved_target, is_space, is_xml_text, referenced_char,
    skip_byte_order_mark_and_space,
};
use crate::spool::Spooled;

pub use crate::operations::tariff::retail_import::syntax::{Position, ReadError, ReadFault};

/// Levels of elements.
const DEPTH_MAX: usize = 16;
/// Bytes of one piece of markup or text, and of the text of one element.
const PIECE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of all texts of one destination, and of its name and type, repeated for each rate as in the reply.
const DESTINATION_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Rates of one destination. Each is compared with each, and all are in memory.
pub const DESTINATION_RATES_MAX: usize = 10_000;

/// The elements of `rates`, in the order of replies.
pub const RATE_FIELDS: [&str; 7] =
    ["rate_price", "rate_round_by", "rate_duration", "rate_type", "rate_start_time", "rate_end_time", "day_type"];

/// A destination of the document. The texts are as sent, except that characters that replies replace are replaced; a
/// missing element is an empty text.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Destination {
    /// `destination_group_name`
    pub group_name: String,
    /// `destination_group_type`
    pub group_type: String,
    /// The `rates`, at most [`DESTINATION_RATES_MAX`].
    pub rates: Vec<Rate>,
    /// The line in which the destination starts, from 1.
    pub line: u64,
}

impl Destination {
    /// Returns the number of bytes of all texts.
    pub fn text_len(&self) -> usize {
        let rates = self.rates.iter().flat_map(Rate::fields).map(str::len).sum::<usize>();
        self.group_name.len() + self.group_type.len() + rates
    }
}

/// A rate of the document: the texts of [`RATE_FIELDS`].
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "named like the elements")]
pub struct Rate {
    pub price: String,
    pub round_by: String,
    pub duration: String,
    pub rate_type: String,
    pub start_time: String,
    pub end_time: String,
    pub day_type: String,
    /// The line in which the rate starts, from 1.
    pub line: u64,
}

impl Rate {
    /// Returns the texts in the order of [`RATE_FIELDS`].
    pub fn fields(&self) -> [&str; 7] {
        [&self.price, &self.round_by, &self.duration, &self.rate_type, &self.start_time, &self.end_time, &self.day_type]
    }
}

/// What a document contains besides its destinations.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Head {
    /// The text of `id`.
    pub id: String,
    /// The text of `name`.
    pub name: String,
    /// The number of destinations.
    pub destinations: usize,
    /// The number of rates.
    pub rates: usize,
    /// The largest number of rates of one destination.
    pub destination_rates: usize,
}

/// A document that can be read several times.
pub trait Source: Clone + Send + 'static {
    /// Passes each destination to `receive`, in order. `receive` returns whether to continue. Blocks the thread.
    ///
    /// # Errors
    ///
    /// [`ReadError`]. `receive` may have got destinations before.
    fn read(&self, receive: impl FnMut(Destination) -> bool) -> Result<Head, ReadError>;
}

/// An XML document.
impl Source for Spooled {
    fn read(&self, receive: impl FnMut(Destination) -> bool) -> Result<Head, ReadError> {
        read(self.reader(), receive)
    }
}

/// Reads an XML document and passes each destination to `receive`, in order. `receive` returns whether to continue.
///
/// # Errors
///
/// [`ReadError`]. `receive` may have got destinations before.
pub fn read(source: impl BufRead, receive: impl FnMut(Destination) -> bool) -> Result<Head, ReadError> {
    let source = LimitedReader { source, remaining: PIECE_BYTES_MAX, position: Position::START };
    let mut reader = Reader::from_reader(source);
    if let Err(error) = skip_byte_order_mark_and_space(reader.get_mut()) {
        return Err(ReadError { fault: error.into(), position: Some(reader.get_ref().position) });
    }
    let config = reader.config_mut();
    config.check_comments = true;
    config.expand_empty_elements = true;
    let mut parser = Parser::new(receive);
    let mut buffer = Vec::new();
    let mut is_first = true;
    loop {
        reader.get_mut().remaining = PIECE_BYTES_MAX;
        buffer.clear();
        let mut position = reader.get_ref().position;
        let read = match reader.read_event_into(&mut buffer) {
            Ok(Event::Eof) => return parser.finish().map_err(|fault| ReadError { fault, position: Some(position) }),
            Ok(event) => {
                if let Event::Text(text) = &event {
                    // The fault is not in the space before it, which can be of other lines.
                    position.advance(&text.as_bytes()[..text.len() - text.trim_ascii_start().len()]);
                }
                parser.event(&event, is_first, reader.get_ref().position.line)
            }
            Err(error) => Err(error.into()),
        };
        read.map_err(|fault| ReadError { fault, position: Some(position) })?;
        is_first = false;
    }
}

/// The element whose content is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Tariff,
    Destinations,
    Destination,
    Rates,
    Text(Field),
    /// An unknown element.
    Ignored,
}

/// An element whose text counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Id,
    Name,
    GroupName,
    GroupType,
    /// The index in [`RATE_FIELDS`].
    Rate(usize),
}

struct Parser<Receive> {
    receive: Receive,
    open: Vec<Node>,
    has_root: bool,
    has_doctype: bool,
    has_destinations: bool,
    id: Option<String>,
    name: Option<String>,
    group_name: Option<String>,
    group_type: Option<String>,
    rate: [Option<String>; 7],
    rates: Vec<Rate>,
    /// The lines in which the destination and the rate start.
    destination_line: u64,
    rate_line: u64,
    /// The number of rates of the destination, and the bytes of its texts.
    rate_count: usize,
    text_bytes: usize,
    head: Head,
}

impl<Receive: FnMut(Destination) -> bool> Parser<Receive> {
    fn new(receive: Receive) -> Self {
        Self {
            receive,
            open: Vec::with_capacity(DEPTH_MAX),
            has_root: false,
            has_doctype: false,
            has_destinations: false,
            id: None,
            name: None,
            group_name: None,
            group_type: None,
            rate: Default::default(),
            rates: Vec::new(),
            destination_line: 0,
            rate_line: 0,
            rate_count: 0,
            text_bytes: 0,
            head: Head::default(),
        }
    }

    /// Adds the next piece of the document, which ends in this line.
    fn event(&mut self, event: &Event<'_>, is_first: bool, line: u64) -> Result<(), ReadFault> {
        match event {
            Event::Start(element) => self.start(element, line),
            Event::End(_) => self.end(),
            Event::Text(text) if text.contains("]]>") => Err(ReadFault::Malformed),
            Event::Text(text) => self.text(text, false),
            Event::CData(text) => self.text(text, true),
            Event::GeneralRef(name) => self.reference(name),
            Event::Decl(_) if is_first => Ok(()),
            Event::DocType(_) if !self.has_root && !self.has_doctype => {
                self.has_doctype = true;
                Ok(())
            }
            Event::PI(instruction) if is_xml_text(instruction) && !is_reserved_target(instruction.target()) => Ok(()),
            Event::Comment(text) if is_xml_text(text) => Ok(()),
            // The end of the document does not come here.
            Event::Decl(_) | Event::DocType(_) | Event::Empty(_) | Event::PI(_) | Event::Comment(_) | Event::Eof => {
                Err(ReadFault::Malformed)
            }
        }
    }

    fn start(&mut self, element: &BytesStart<'_>, line: u64) -> Result<(), ReadFault> {
        check_tag(element)?;
        if self.open.len() == DEPTH_MAX {
            return Err(ReadFault::Malformed);
        }
        let name = element.name();
        let name = name.as_ref();
        let node = match self.open.last() {
            None if self.has_root || name != "tariff" => return Err(ReadFault::Malformed),
            None => Node::Tariff,
            Some(Node::Tariff) => match name {
                "id" => Node::Text(Field::Id),
                "name" => Node::Text(Field::Name),
                "destinations" if self.has_destinations => return Err(ReadFault::Malformed),
                "destinations" => Node::Destinations,
                _ => Node::Ignored,
            },
            Some(Node::Destinations) if name == "destination" => Node::Destination,
            Some(Node::Destination) => match name {
                "destination_group_name" => Node::Text(Field::GroupName),
                "destination_group_type" => Node::Text(Field::GroupType),
                "rates" => Node::Rates,
                _ => Node::Ignored,
            },
            Some(Node::Rates) => match RATE_FIELDS.iter().position(|field| *field == name) {
                Some(field) => Node::Text(Field::Rate(field)),
                None => Node::Ignored,
            },
            Some(Node::Destinations | Node::Text(_) | Node::Ignored) => Node::Ignored,
        };
        match node {
            Node::Destination => self.destination_line = line,
            Node::Rates => self.rate_line = line,
            _ => {}
        }
        self.has_root = true;
        self.has_destinations |= node == Node::Destinations;
        // A second element for the same text is an error.
        if let Node::Text(field) = node
            && self.slot(field).replace(String::new()).is_some()
        {
            return Err(ReadFault::Malformed);
        }
        self.open.push(node);
        Ok(())
    }

    fn end(&mut self) -> Result<(), ReadFault> {
        match self.open.pop() {
            Some(Node::Rates) => {
                let [price, round_by, duration, rate_type, start_time, end_time, day_type] =
                    std::mem::take(&mut self.rate).map(finished_text);
                self.rate_count += 1;
                if self.rates.len() < DESTINATION_RATES_MAX {
                    let line = self.rate_line;
                    let rate = Rate { price, round_by, duration, rate_type, start_time, end_time, day_type, line };
                    self.rates.push(rate);
                }
            }
            Some(Node::Destination) => {
                self.head.destinations += 1;
                self.head.rates += self.rate_count;
                self.head.destination_rates = self.head.destination_rates.max(self.rate_count);
                (self.rate_count, self.text_bytes) = (0, 0);
                let destination = Destination {
                    group_name: finished_text(self.group_name.take()),
                    group_type: finished_text(self.group_type.take()),
                    rates: std::mem::take(&mut self.rates),
                    line: self.destination_line,
                };
                let repeated_len = destination.group_name.len() + destination.group_type.len();
                if repeated_len * destination.rates.len() > DESTINATION_BYTES_MAX {
                    return Err(ReadFault::Malformed);
                }
                if !(self.receive)(destination) {
                    return Err(ReadFault::Stopped);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn text(&mut self, text: &str, is_cdata: bool) -> Result<(), ReadFault> {
        if !is_xml_text(text) {
            return Err(ReadFault::Malformed);
        }
        match self.open.last() {
            None if is_cdata || !text.bytes().all(is_space) => Err(ReadFault::Malformed),
            Some(Node::Text(field)) => self.append(*field, text),
            _ => Ok(()),
        }
    }

    /// A character reference or one of the five entities of XML.
    fn reference(&mut self, name: &str) -> Result<(), ReadFault> {
        let mut character = [0; 4];
        let text = match name.strip_prefix('#') {
            None => escape::resolve_predefined_entity(name),
            Some(number) => referenced_char(number).map(|char| &*char.encode_utf8(&mut character)),
        };
        match (text, self.open.last()) {
            (None, _) | (_, None) => Err(ReadFault::Malformed),
            (Some(text), Some(Node::Text(field))) => self.append(*field, text),
            (Some(_), Some(_)) => Ok(()),
        }
    }

    fn append(&mut self, field: Field, text: &str) -> Result<(), ReadFault> {
        self.text_bytes += text.len();
        let is_of_destination = !matches!(field, Field::Id | Field::Name);
        if is_of_destination && self.text_bytes > DESTINATION_BYTES_MAX {
            return Err(ReadFault::Malformed);
        }
        let value = self.slot(field).get_or_insert_default();
        if value.len() + text.len() > PIECE_BYTES_MAX {
            return Err(ReadFault::Malformed);
        }
        value.push_str(text);
        Ok(())
    }

    fn slot(&mut self, field: Field) -> &mut Option<String> {
        match field {
            Field::Id => &mut self.id,
            Field::Name => &mut self.name,
            Field::GroupName => &mut self.group_name,
            Field::GroupType => &mut self.group_type,
            Field::Rate(index) => &mut self.rate[index],
        }
    }

    fn finish(self) -> Result<Head, ReadFault> {
        if !self.has_root || !self.open.is_empty() {
            return Err(ReadFault::Malformed);
        }
        Ok(Head { id: finished_text(self.id), name: finished_text(self.name), ..self.head })
    }
}

/// Replaces the characters that must reach neither the database nor a terminal.
fn finished_text(text: Option<String>) -> String {
    let text = text.unwrap_or_default();
    sanitized(&text).unwrap_or(text)
}
