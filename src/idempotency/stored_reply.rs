//! Stored replies, and their JSON text.

use std::io::{self, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{ApiError, ErrorBody};

/// In bytes. Longer texts, those of large imports, are written and read on threads of their own: other requests would
/// wait for them.
const SHORT_LEN_MAX: usize = 64 * 1024;

/// The content of a stored reply. It is rendered again for each replay. `sell_one.sql` and `sell_batch.sql` write the
/// same JSON for sales, with the fields of the reply and of `SoldCard`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum StoredReply<T> {
    Done(T),
    Refused(ErrorBody),
}

/// Returns the text of a reply, and the reply.
pub(super) async fn to_text<T: Serialize + Send + 'static>(
    reply: StoredReply<T>,
) -> Result<(String, StoredReply<T>), ApiError> {
    let mut short = ShortText(Vec::new());
    match serde_json::to_writer(&mut short, &reply) {
        Ok(()) => Ok((String::from_utf8(short.0).map_err(serialization_failed)?, reply)),
        // The text is too long.
        Err(error) if error.is_io() => {
            drop(short);
            let write = move || (serde_json::to_string(&reply), reply);
            let (text, reply) = tokio::task::spawn_blocking(write).await.map_err(serialization_failed)?;
            Ok((text.map_err(serialization_failed)?, reply))
        }
        Err(error) => Err(serialization_failed(error)),
    }
}

fn serialization_failed(error: impl std::fmt::Display) -> ApiError {
    tracing::error!(%error, "idempotent reply serialization failed");
    ApiError::TransactionFailed
}

/// Returns the reply of a text.
pub(super) async fn from_text<T: DeserializeOwned + Send + 'static>(
    text: String,
) -> serde_json::Result<StoredReply<T>> {
    if text.len() <= SHORT_LEN_MAX {
        return serde_json::from_str(&text);
    }
    let read = tokio::task::spawn_blocking(move || serde_json::from_str(&text));
    read.await.map_err(|error| serde_json::Error::io(io::Error::other(error)))?
}

/// A text that cannot be longer than [`SHORT_LEN_MAX`].
struct ShortText(Vec<u8>);

impl Write for ShortText {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.0.len() + data.len() > SHORT_LEN_MAX {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
