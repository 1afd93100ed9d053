//! Makes the line breaks of all systems equal.

use std::io::{Read, Result};

/// Reads a source with each CRLF and each lone CR as LF, and with an LF at its end.
#[derive(Debug)]
pub(super) struct LineBreaks<Source> {
    source: Source,
    /// The last byte that the source has returned.
    last: Option<u8>,
    has_ended: bool,
}

impl<Source> LineBreaks<Source> {
    pub(super) fn new(source: Source) -> Self {
        Self { source, last: None, has_ended: false }
    }
}

impl<Source: Read> Read for LineBreaks<Source> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if buffer.is_empty() || self.has_ended {
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
                return Ok(written);
            }
        }
    }
}
