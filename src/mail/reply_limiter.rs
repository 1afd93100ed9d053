//! A bound on what a mail server sends. The SMTP library reads each line of a reply into memory, however long it is.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// In bytes. The longest replies, to EHLO, have a few hundred bytes; a TLS handshake has several thousand.
const REPLY_LEN_MAX: usize = 64 * 1024;

/// A stream from which at most [`REPLY_LEN_MAX`] bytes can be read after each write. Then each read fails.
#[derive(Debug)]
pub(super) struct ReplyLimiter<S> {
    stream: S,
    peer: SocketAddr,
    received: usize,
}

impl<S> ReplyLimiter<S> {
    pub fn new(stream: S, peer: SocketAddr) -> Self {
        Self { stream, peer, received: 0 }
    }

    fn is_exceeded(&self) -> bool {
        self.received > REPLY_LEN_MAX
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReplyLimiter<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let len_before = buf.filled().len();
        if !self.is_exceeded() {
            ready!(Pin::new(&mut self.stream).poll_read(context, buf))?;
            self.received += buf.filled().len() - len_before;
        }
        if self.is_exceeded() {
            buf.set_filled(len_before);
            let message = format!("the mail server's reply is longer than {REPLY_LEN_MAX} bytes");
            return Poll::Ready(Err(io::Error::other(message)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReplyLimiter<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // After an error the library still sends QUIT, which must not allow more bytes.
        if !self.is_exceeded() {
            self.received = 0;
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin + std::fmt::Debug> AsyncTokioStream for ReplyLimiter<S> {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}
