//! Zip files that are written while their content arrives.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use async_stream::try_stream;
use futures_util::stream::BoxStream;
use futures_util::{Stream, TryStreamExt};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// Fast: the texts consist mostly of spaces and equal tags, and shrink to a fiftieth.
const COMPRESSION_LEVEL: i64 = 1;

/// Streams a zip file with one deflated entry. Size and checksum follow the data, in the ZIP64 form, because they are
/// not known before.
///
/// # Errors
///
/// The errors of `content`. The file is then incomplete.
pub fn stream_zip(
    entry_name: String,
    mut content: BoxStream<'static, sqlx::Result<Vec<u8>>>,
) -> impl Stream<Item = sqlx::Result<Vec<u8>>> + Send {
    try_stream! {
        let output = Output::default();
        let mut zip = ZipWriter::new_stream(output.clone());
        let options = SimpleFileOptions::default().compression_level(Some(COMPRESSION_LEVEL)).large_file(true);
        zip.start_file(entry_name, options).map_err(io::Error::from)?;
        // The client learns at once that its request was accepted.
        yield output.take();
        while let Some(chunk) = content.try_next().await? {
            zip.write_all(&chunk)?;
            let compressed = output.take();
            if !compressed.is_empty() {
                yield compressed;
            }
        }
        zip.finish().map_err(io::Error::from)?;
        yield output.take();
    }
}

/// What the zip writer has written and the client was not yet sent.
#[derive(Debug, Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn take(&self) -> Vec<u8> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
