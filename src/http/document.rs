//! The document of a request: a parameter that may be too large for the memory.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use crate::error::ApiError;
use crate::http::params::percent_decoded;
use crate::spool::{Spool, Spooled};

/// A received document, percent-decoded. It may be empty, and it may be no valid UTF-8.
#[derive(Debug)]
pub struct Document {
    /// The bytes.
    pub content: Spooled,
    /// The length in bytes.
    pub len: u64,
    /// The SHA-256 of the bytes.
    pub sha256: [u8; 32],
    /// The permit of the import, held as long as the document, its readers and the reply.
    pub permit: Option<Arc<OwnedSemaphorePermit>>,
}

/// Writes a document while it arrives.
#[derive(Debug)]
pub struct DocumentWriter {
    pub(super) spool: Spool,
    sha256: Sha256,
    len: u64,
}

impl DocumentWriter {
    /// Starts an empty document. Its file, if it needs one, is in the directory.
    pub fn new(directory: Arc<Path>) -> Self {
        Self { spool: Spool::new(directory), sha256: Sha256::new(), len: 0 }
    }

    /// Appends bytes, in memory.
    ///
    /// # Errors
    ///
    /// [`ApiError::BadRequest`] for a NUL, which no parameter may contain.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        if bytes.contains(&0) {
            return Err(ApiError::BadRequest("A NUL character is not allowed in parameters"));
        }
        self.sha256.update(bytes);
        self.len += bytes.len() as u64;
        // The spool writes to memory, which does not fail.
        _ = self.spool.write(bytes);
        Ok(())
    }

    /// Ends the document. Blocks the thread if it has a file.
    pub fn finish(self) -> std::io::Result<Document> {
        let content = self.spool.finish()?;
        Ok(Document { content, len: self.len, sha256: self.sha256.finalize().into(), permit: None })
    }
}

/// Splits a form into the value of one parameter, which is decoded, and the other pairs, which are left as they are.
#[derive(Debug)]
pub struct FormSplitter {
    name: &'static str,
    directory: Arc<Path>,
    /// The other pairs, and the beginning of the current one.
    pub others: Vec<u8>,
    pair_start: usize,
    /// Whether the current pair has its `=`.
    has_value: bool,
    /// The last document of this name.
    pub document: Option<DocumentWriter>,
    is_in_document: bool,
    /// The first characters of an escape that the next chunk continues.
    escape: Vec<u8>,
    decoded: Vec<u8>,
}

impl FormSplitter {
    /// Splits off the parameter with this name.
    pub fn new(name: &'static str, directory: Arc<Path>) -> Self {
        Self {
            name,
            directory,
            others: Vec::new(),
            pair_start: 0,
            has_value: false,
            document: None,
            is_in_document: false,
            escape: Vec::new(),
            decoded: Vec::new(),
        }
    }

    /// Adds the next bytes of the form.
    pub fn push(&mut self, mut chunk: &[u8]) -> Result<(), ApiError> {
        while !chunk.is_empty() {
            let end = chunk.iter().position(|byte| matches!(byte, b'&' | b';'));
            let part = &chunk[..end.unwrap_or(chunk.len())];
            match self.is_in_document {
                true => self.decode(part)?,
                false => self.push_outside(part)?,
            }
            let Some(end) = end else { break };
            self.end_pair()?;
            self.others.push(b'&');
            self.pair_start = self.others.len();
            chunk = &chunk[end + 1..];
        }
        Ok(())
    }

    /// Ends the form.
    pub fn finish(&mut self) -> Result<(), ApiError> {
        self.end_pair()
    }

    fn push_outside(&mut self, part: &[u8]) -> Result<(), ApiError> {
        if self.has_value {
            self.others.extend_from_slice(part);
            return Ok(());
        }
        match part.iter().position(|byte| *byte == b'=') {
            None => self.others.extend_from_slice(part),
            Some(equals) => {
                self.has_value = true;
                self.others.extend_from_slice(&part[..equals]);
                if self.is_document_name() {
                    self.start_document();
                    return self.decode(&part[equals + 1..]);
                }
                self.others.extend_from_slice(&part[equals..]);
            }
        }
        Ok(())
    }

    fn is_document_name(&self) -> bool {
        percent_decoded(&self.others[self.pair_start..]).is_ok_and(|name| name == self.name)
    }

    fn start_document(&mut self) {
        self.others.truncate(self.pair_start);
        self.document = Some(DocumentWriter::new(self.directory.clone()));
        self.is_in_document = true;
    }

    fn end_pair(&mut self) -> Result<(), ApiError> {
        // A name without a value.
        if !self.is_in_document && !self.has_value && self.is_document_name() {
            self.start_document();
        }
        self.is_in_document = false;
        self.has_value = false;
        if self.escape.is_empty() { Ok(()) } else { Err(MALFORMED_ESCAPE) }
    }

    /// Decodes `+` and `%xx` of the document.
    fn decode(&mut self, part: &[u8]) -> Result<(), ApiError> {
        self.decoded.clear();
        for byte in part {
            match byte {
                byte if !self.escape.is_empty() => {
                    self.escape.push(*byte);
                    if let [_, high, low] = self.escape[..] {
                        let digit =
                            |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                        let (high, low) = digit(high).zip(digit(low)).ok_or(MALFORMED_ESCAPE)?;
                        self.decoded.push(high << 4 | low);
                        self.escape.clear();
                    }
                }
                b'%' => self.escape.push(b'%'),
                b'+' => self.decoded.push(b' '),
                byte => self.decoded.push(*byte),
            }
        }
        match &mut self.document {
            Some(document) => document.push(&self.decoded),
            None => Ok(()),
        }
    }
}

const MALFORMED_ESCAPE: ApiError = ApiError::BadRequest("Parameters have a malformed % escape");
