//! Makes the line breaks of all systems equal, and limits the length of a line.

use std::io::{Error, ErrorKind, Read, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Maximum length of a line with its quoted line breaks, in bytes. The longest line with valid fields is far shorter.
pub(super) const LINE_BYTES_MAX: usize = 64 * 1024;

/// The bytes that were read since the last line was complete.
#[derive(Debug, Clone, Default)]
pub(super) struct UnfinishedLine(Arc<AtomicUsize>);

impl UnfinishedLine {
    /// A line is complete.
    pub(super) fn finish(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Reads a source with each CRLF and each lone CR as LF, and with an LF at its end. Fails with
/// [`ErrorKind::FileTooLarge`] at a line that is too long: a quotation mark that is missing would make a whole file one
/// line, which the reader of the CSV file keeps in memory.
#[derive(Debug)]
pub(super) struct LineBreaks<Source> {
    source: Source,
    unfinished: UnfinishedLine,
    /// The last byte that the source has returned.
    last: Option<u8>,
    has_ended: bool,
    /// Whether the reader has also asked for more than the LF that was added.
    is_exhausted: bool,
}

impl<Source> LineBreaks<Source> {
    pub(super) fn new(source: Source, unfinished: UnfinishedLine) -> Self {
        Self { source, unfinished, last: None, has_ended: false, is_exhausted: false }
    }

    /// Whether the reader has asked for more than there is.
    pub(super) fn is_exhausted(&self) -> bool {
        self.is_exhausted
    }
}

impl<Source: Read> Read for LineBreaks<Source> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if buffer.is_empty() || self.has_ended {
            self.is_exhausted = self.has_ended;
            return Ok(0);
        }
        loop {
            let read = self.source.read(buffer)?;
            if read == 0 {
                self.has_ended = true;
                let is_missing = !matches!(self.last, None | Some(b'\r' | b'\n'));
                if is_missing {
                    buffer[0] = b'\n';
                }
                self.is_exhausted = !is_missing;
                return Ok(usize::from(is_missing));
            }
            let mut written = 0;
            for index in 0..read {
                let byte = buffer[index];
                let ends_crlf = byte == b'\n' && self.last == Some(b'\r');
                if !ends_crlf {
                    buffer[written] = if byte == b'\r' { b'\n' } else { byte };
                    written += 1;
                }
                self.last = Some(byte);
            }
            // A lone LF after a CR was dropped: 0 would mean the end.
            if written > 0 {
                let unfinished = self.unfinished.0.fetch_add(written, Ordering::Relaxed);
                // Complete lines that follow in the same buffer count too, until the reader has returned them.
                if unfinished > LINE_BYTES_MAX {
                    return Err(Error::new(ErrorKind::FileTooLarge, "a line is too long"));
                }
                return Ok(written);
            }
        }
    }
}
