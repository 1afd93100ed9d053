//! The reply to an import: five lists, collected in compressed form while the import runs.

use std::array;
use std::cell::Cell;
use std::fmt;
use std::io::{self, BufRead, Cursor, Read, Write};
use std::iter::Zip;
use std::path::Path;
use std::sync::Arc;

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use futures_util::stream::{self, StreamExt};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::dialect::Dialect;
use crate::operations::tariff::retail_import::document::{Destination, RATE_FIELDS};
use crate::operations::tariff::retail_import::refusals::{Counts, Imported, Refusals};
use crate::operations::tariff::retail_import::rules::Decision;
use crate::spool::{self, Spool, Spooled};
use crate::store::pages::LIST_DURATION_MAX;
use crate::xml::{XmlReply, escaped};

/// The lists, in the order of the reply.
const LISTS: [&str; 5] = [
    "bad_destinations",
    "destination_with_day_type_collision",
    "destination_with_bad_rates",
    "destination_with_time_collisions_in_xml",
    "destination_with_time_collisions_in_db",
];
const BAD_DESTINATIONS: usize = 0;
const DAY_TYPE_COLLISIONS: usize = 1;
const BAD_RATES: usize = 2;
const DOCUMENT_COLLISIONS: usize = 3;
const ROW_COLLISIONS: usize = 4;

/// Bytes of the pieces in which a large reply is sent.
const CHUNK_BYTES: u64 = 64 * 1024;
/// Bytes of the compressed lists that can be stored for an idempotency key. They are in memory several times.
const STORED_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Collects the lists while the import runs.
pub struct Report {
    dialect: Dialect,
    lists: [DeflateEncoder<Spool>; 5],
}

impl Report {
    /// Starts with empty lists. A list that becomes large has a file in the directory.
    pub fn new(dialect: Dialect, directory: &Arc<Path>) -> Self {
        let list = || DeflateEncoder::new(Spool::new(directory.clone()), Compression::fast());
        Self { dialect, lists: std::array::from_fn(|_| list()) }
    }

    fn group_elements<'a>(&self, destination: &'a Destination) -> Vec<(&'static str, &'a str)> {
        let mut elements = vec![("destination_group_name", destination.group_name.as_str())];
        if !self.dialect.wraps_import_entries() && !destination.group_type.is_empty() {
            elements.push(("destination_group_type", &destination.group_type));
        }
        elements
    }

    fn write_entry(&mut self, list: usize, elements: &[(&'static str, &str)]) -> io::Result<()> {
        let (list, is_wrapped) = (&mut self.lists[list], self.dialect.wraps_import_entries());
        let indent = if is_wrapped { "      " } else { "    " };
        if is_wrapped {
            list.write_all(b"    <destination>\n")?;
        }
        for (name, value) in elements {
            writeln!(list, "{indent}<{name}>{}</{name}>", escaped(value))?;
        }
        if is_wrapped {
            list.write_all(b"    </destination>\n")?;
        }
        if list.get_ref().is_full() { list.get_mut().spill() } else { Ok(()) }
    }

    fn finish(self) -> io::Result<[Packed; 5]> {
        let mut lists = Vec::with_capacity(LISTS.len());
        for list in self.lists {
            lists.push(Packed(list.finish()?.finish()?));
        }
        lists.try_into().map_err(|_| io::ErrorKind::Other.into())
    }
}

impl Refusals for Report {
    fn add_unknown(&mut self, destination: &Destination) -> io::Result<()> {
        self.write_entry(BAD_DESTINATIONS, &self.group_elements(destination))
    }

    fn add(&mut self, destination: &Destination, decision: &Decision) -> io::Result<()> {
        let name = &destination.group_name;
        for _ in 0..decision.day_type_collisions {
            self.write_entry(DAY_TYPE_COLLISIONS, &self.group_elements(destination))?;
        }
        for index in &decision.bad_rates {
            let mut elements = self.group_elements(destination);
            elements.extend(RATE_FIELDS.into_iter().zip(destination.rates[*index].fields()));
            self.write_entry(BAD_RATES, &elements)?;
        }
        for range in &decision.document_collisions {
            let text = format!("{name} COLLISION IN {} AND {} TIME RANGE ", range.start, range.end);
            self.write_entry(DOCUMENT_COLLISIONS, &[("collision_in_time_range", &text)])?;
        }
        for range in &decision.row_collisions {
            let (start, end) = (range.start, range.end);
            let text = format!("{name} COLLISION WITH EXISTING RATES IN {start} AND {end} TIME RANGE");
            self.write_entry(ROW_COLLISIONS, &[("collision_in_time_range", &text)])?;
        }
        Ok(())
    }
}

/// The result of an import, from which its reply is rendered, also again for its idempotency key.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The tariff's id.
    pub tariff_id: i64,
    /// The tariff's name.
    pub tariff_name: String,
    /// What was written and refused.
    pub counts: Counts,
    /// The lists; `None`: the document has no destinations.
    pub lists: Option<[Packed; 5]>,
}

impl Outcome {
    /// Ends the lists of a finished import. Blocks the thread if one has a file.
    ///
    /// # Errors
    ///
    /// Those of a file.
    pub fn new(imported: Imported<Report>) -> io::Result<Self> {
        let Imported { tariff_id, tariff_name, counts, refusals } = imported;
        let lists = (counts.destinations > 0).then(|| refusals.finish()).transpose()?;
        Ok(Self { tariff_id, tariff_name, counts, lists })
    }

    /// Whether the reply can be stored for an idempotency key.
    ///
    /// # Errors
    ///
    /// Those of a file.
    pub fn is_storable(&self) -> io::Result<bool> {
        let lengths = self.lists.iter().flatten().map(|list| list.0.byte_count());
        Ok(lengths.sum::<io::Result<u64>>()? <= STORED_BYTES_MAX)
    }

    /// Moves the large lists of a stored reply from memory to files in the directory. Blocks the thread.
    ///
    /// # Errors
    ///
    /// Those of a file.
    pub fn into_spooled(mut self, directory: &Path) -> io::Result<Self> {
        for list in self.lists.iter_mut().flatten() {
            list.0 = list.0.clone().into_spooled(directory)?;
        }
        Ok(self)
    }

    /// Renders the reply. A large one is streamed, and holds the permit of the import: clients that read slowly use the
    /// memory and files of as many replies as there are permits.
    pub fn into_reply(self, permit: Option<Arc<OwnedSemaphorePermit>>) -> XmlReply {
        let Some(lists) = self.lists else {
            return XmlReply::new("response", |response| {
                response.text("error", "No destinations!");
                response.text("tariff_id", self.tariff_id.to_string());
                response.text("tariff_name", &self.tariff_name);
            });
        };
        let in_memory = lists.iter().all(|list| list.0.in_memory().is_some());
        let head = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<response>\n  <tariff_id>{}</tariff_id>\n  \
             <tariff_name>{}</tariff_name>\n",
            self.tariff_id,
            escaped(&self.tariff_name)
        );
        let mut text = ReplyText {
            current: Box::new(Cursor::new(head)),
            lists: LISTS.into_iter().zip(lists),
            is_closed: false,
            _permit: permit,
        };
        let mut first = Vec::new();
        // The data is in memory: reading it takes no time worth a thread.
        if in_memory
            && (&mut text).take(CHUNK_BYTES).read_to_end(&mut first).is_ok()
            && (first.len() as u64) < CHUNK_BYTES
        {
            return XmlReply::Buffered(first);
        }
        let started_at = Instant::now();
        let rest = stream::try_unfold(text, move |mut text| async move {
            if started_at.elapsed() >= LIST_DURATION_MAX {
                let message = "the client took longer than an hour for the reply to an import";
                return Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, message)));
            }
            let read = move || {
                let mut chunk = Vec::new();
                (&mut text).take(CHUNK_BYTES).read_to_end(&mut chunk)?;
                Ok((chunk, text))
            };
            let (chunk, text) = spool::blocking(read).await.map_err(sqlx::Error::Io)?;
            Ok::<_, sqlx::Error>((!chunk.is_empty()).then_some((chunk, text)))
        });
        XmlReply::Streamed(stream::iter((!first.is_empty()).then_some(Ok(first))).chain(rest).boxed())
    }
}

/// Reads the text of a reply, one list after the other: a client that reads slowly occupies the memory of one.
struct ReplyText {
    current: Box<dyn Read + Send>,
    lists: Zip<array::IntoIter<&'static str, 5>, array::IntoIter<Packed, 5>>,
    is_closed: bool,
    _permit: Option<Arc<OwnedSemaphorePermit>>,
}

impl Read for ReplyText {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.current.read(buffer)?;
            if length > 0 || self.is_closed || buffer.is_empty() {
                return Ok(length);
            }
            self.current = match self.lists.next() {
                Some((name, list)) => {
                    let [open, close] = [format!("  <{name}>\n"), format!("  </{name}>\n")].map(Cursor::new);
                    Box::new(open.chain(DeflateDecoder::new(list.0.reader())).chain(close))
                }
                None => {
                    self.is_closed = true;
                    Box::new(Cursor::new("</response>\n"))
                }
            };
        }
    }
}

/// A list, compressed.
#[derive(Debug)]
pub struct Packed(Spooled);

/// In hexadecimal: the stored reply is JSON text.
impl Serialize for Packed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = HexText { list: &self.0, error: Cell::default() };
        let written = serializer.collect_str(&text)?;
        text.error.take().map_or(Ok(written), |error| Err(ser::Error::custom(error)))
    }
}

/// The bytes of a list in hexadecimal, written in parts. It ends early at an error of the file: a serializer expects
/// that a text has no errors of its own.
struct HexText<'a> {
    list: &'a Spooled,
    error: Cell<Option<io::Error>>,
}

impl fmt::Display for HexText<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const PART_BYTES: usize = 16 * 1024;
        let mut reader = self.list.reader();
        loop {
            let part = match reader.fill_buf() {
                Ok(part) => &part[..part.len().min(PART_BYTES)],
                Err(error) => {
                    self.error.set(Some(error));
                    return Ok(());
                }
            };
            if part.is_empty() {
                return Ok(());
            }
            formatter.write_str(&hex::encode(part))?;
            let length = part.len();
            reader.consume(length);
        }
    }
}

impl<'de> Deserialize<'de> for Packed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Self(Spooled::Memory(hex::decode(text).map_err(de::Error::custom)?.into())))
    }
}
