//! Sends the text of a list of rates while its statement runs.

use std::io;
use std::pin::pin;
use std::time::Duration;

use async_stream::try_stream;
use futures_util::{Stream, TryStreamExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::RateList;
use super::text::{RateTextFormat, text_chunks};
use crate::db::pool::Connection;
use crate::locks::StreamPermit;

/// Streams the text. A task runs the statement, and holds its snapshot, at most for `duration_max`, however slowly the
/// client reads. If the stream is dropped before its end, the task closes the connection, which ends the statement.
///
/// # Errors
///
/// Database errors, and [`io::ErrorKind::TimedOut`] after `duration_max`.
pub fn stream_text(
    mut connection: Connection,
    permit: StreamPermit,
    list: RateList,
    format: RateTextFormat,
    duration_max: Duration,
) -> impl Stream<Item = sqlx::Result<Vec<u8>>> + Send {
    // A place for one chunk: the statement does not run ahead of the client.
    let (sender, mut chunks) = mpsc::channel(1);
    tokio::spawn(async move {
        connection.close_on_drop();
        let send_all = async {
            let mut text = pin!(text_chunks(&mut *connection, list, format, duration_max));
            while let Some(chunk) = text.try_next().await? {
                if sender.send(Ok(Some(chunk))).await.is_err() {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let outcome = tokio::select! {
            outcome = timeout(duration_max, send_all) => outcome,
            () = sender.closed() => return,
        };
        let outcome = match outcome {
            Ok(Ok(true)) => {
                connection.release_clean();
                Ok(None)
            }
            // The client has disconnected.
            Ok(Ok(false)) => return,
            Ok(Err(error)) => {
                drop(connection);
                Err(error)
            }
            Err(_) => {
                drop(connection);
                let message = format!("the client took longer than {} ms for the list", duration_max.as_millis());
                Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, message)))
            }
        };
        drop(permit);
        // This fails if the client has disconnected.
        let _ = sender.send(outcome).await;
    });
    try_stream! {
        // The task has sent the end of the list, unless it panicked.
        while let Some(chunk) = chunks.recv().await.unwrap_or(Err(sqlx::Error::WorkerCrashed))? {
            yield chunk;
        }
    }
}
