//! Data that may be too large for the memory: its beginning in memory, all of it in a temporary file when it grows.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use axum::body::Bytes;

/// Bytes that stay in memory.
const MEMORY_MAX: usize = 1024 * 1024;
const READ_BUFFER: usize = 64 * 1024;

/// Collects data. `write` never blocks; the owner calls [`spill`](Self::spill) when [`is_full`](Self::is_full).
#[derive(Debug)]
pub struct Spool {
    directory: Arc<Path>,
    memory: Vec<u8>,
    file: Option<File>,
}

impl Spool {
    /// Creates an empty spool, whose file would be in the directory.
    pub fn new(directory: Arc<Path>) -> Self {
        Self { directory, memory: Vec::new(), file: None }
    }

    /// Whether more data is in memory than should be.
    pub fn is_full(&self) -> bool {
        self.memory.len() >= MEMORY_MAX
    }

    /// Returns the number of bytes in memory.
    pub fn memory_len(&self) -> usize {
        self.memory.len()
    }

    /// Moves the data from memory to the file. The file has no name: nothing of it remains when the program ends.
    /// Blocks the thread.
    pub fn spill(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(tempfile::tempfile_in(&self.directory)?),
        };
        file.write_all(&self.memory)?;
        self.memory.clear();
        Ok(())
    }

    /// Ends the collection. Blocks the thread if the spool has a file.
    pub fn finish(mut self) -> io::Result<Spooled> {
        if self.file.is_some() {
            self.spill()?;
        }
        Ok(match self.file {
            Some(file) => Spooled::File(Arc::new(file)),
            None => Spooled::Memory(self.memory.into()),
        })
    }
}

impl Write for Spool {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.memory.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Collected data, which can be read several times.
#[derive(Debug, Clone)]
pub enum Spooled {
    /// All of it is in memory.
    Memory(Bytes),
    /// All of it is in a file.
    File(Arc<File>),
}

impl From<File> for Spooled {
    fn from(file: File) -> Self {
        Self::File(Arc::new(file))
    }
}

impl Spooled {
    /// Reads from the start. The reads block the thread if the data is in a file.
    pub fn reader(&self) -> Box<dyn BufRead + Send> {
        match self {
            Self::Memory(data) => Box::new(Cursor::new(data.clone())),
            Self::File(file) => {
                Box::new(BufReader::with_capacity(READ_BUFFER, FileReader { file: file.clone(), offset: 0 }))
            }
        }
    }

    /// Moves data from memory to a file in the directory, if it is more than should be in memory. Blocks the thread.
    pub fn into_spooled(self, directory: &Path) -> io::Result<Self> {
        match &self {
            Self::Memory(data) if data.len() > MEMORY_MAX => {
                let mut file = tempfile::tempfile_in(directory)?;
                file.write_all(data)?;
                Ok(file.into())
            }
            _ => Ok(self),
        }
    }

    /// Returns the length in bytes.
    pub fn byte_count(&self) -> io::Result<u64> {
        match self {
            Self::Memory(data) => Ok(data.len() as u64),
            Self::File(file) => Ok(file.metadata()?.len()),
        }
    }

    /// Returns the data if it is in memory.
    pub fn in_memory(&self) -> Option<&Bytes> {
        match self {
            Self::Memory(data) => Some(data),
            Self::File(_) => None,
        }
    }
}

/// Reads a file from its start, whatever the position of other readers.
struct FileReader {
    file: Arc<File>,
    offset: u64,
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(buffer, self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}

/// Runs work that may wait for the disk on a thread of its own.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    // The work does not panic, and the runtime lives as long as the request.
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Creates and writes a temporary file in the directory, to find out at the start whether that is possible.
pub fn check_directory(directory: &Path) -> io::Result<()> {
    tempfile::tempfile_in(directory)?.write_all(b"mortise")
}
