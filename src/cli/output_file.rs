//! The file that a command creates for its result.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::CommandError;

/// A new file, readable only by the operator. It has a temporary name until it is complete: an incomplete file must
/// not look complete. Dropping an unfinished file removes it.
pub struct OutputFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl OutputFile {
    /// Creates the file.
    ///
    /// # Errors
    ///
    /// [`CommandError::Failed`], also if a file of that name exists: it can be an earlier result that is still needed.
    pub fn create(path: &Path) -> Result<Self, CommandError> {
        if path.symlink_metadata().is_ok() {
            return Err(create_error(path, &rustix::io::Errno::EXIST.into()));
        }
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::Builder::new().prefix(".mortise-").tempfile_in(directory);
        Ok(Self { file: file.map_err(|error| create_error(path, &error))?, path: path.to_owned() })
    }

    /// The file to write to.
    pub fn file(&self) -> &File {
        self.file.as_file()
    }

    /// Stores the complete file under its name.
    ///
    /// # Errors
    ///
    /// [`CommandError`] if it cannot be stored, or if a file of that name exists now.
    pub fn finish(self) -> Result<(), CommandError> {
        self.file.as_file().sync_all()?;
        self.file.persist_noclobber(&self.path).map_err(|error| create_error(&self.path, &error.error))?;
        Ok(())
    }
}

fn create_error(path: &Path, error: &io::Error) -> CommandError {
    CommandError::Failed(format!("cannot create {}: {error}", path.display()))
}

/// Returns the error of the file that a CSV writer reports.
pub fn csv_to_io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        _ => io::Error::other("cannot write a record as CSV"),
    }
}
