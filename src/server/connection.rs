//! One client connection: its state, its timeouts and its end.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulConnection;
use rustix::io::ioctl_fionread;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// The timeouts of a connection.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "named after the settings")]
pub struct Timeouts {
    pub header: Duration,
    pub keep_alive: Duration,
    pub write: Duration,
}

impl Timeouts {
    /// Returns the timeout that applies to this status; `None` while the client waits for the server. `http::request`
    /// enforces the body timeout.
    fn timeout_for(self, status: &ConnectionStatus) -> Option<Duration> {
        match status.stage {
            _ if status.stalled => Some(self.write),
            Stage::New | Stage::Header => Some(self.header),
            Stage::Busy => None,
            Stage::Idle => Some(self.keep_alive),
        }
    }
}

/// The stage of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No byte has arrived yet.
    New,
    /// Part of a request header has arrived.
    Header,
    /// From a complete request header to the end of its reply.
    Busy,
    /// The last reply is complete, and no byte of a new request has arrived.
    Idle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ConnectionStatus {
    stage: Stage,
    /// The last write is pending: the client doesn't read its reply.
    stalled: bool,
    /// Whether each read asks the operating system for unread bytes (`FIONREAD`).
    probe_socket: bool,
    /// Wraps around; detects changes between two polls.
    change_count: u32,
}

impl ConnectionStatus {
    fn is_between_requests(&self) -> bool {
        !self.stalled && matches!(self.stage, Stage::New | Stage::Idle)
    }
}

/// The state of a connection, which hyper does not report: derived from its reads, writes and service calls, and read
/// by [`drive`].
#[derive(Debug)]
pub struct ConnectionState(Mutex<ConnectionStatus>);

impl Default for ConnectionState {
    fn default() -> Self {
        Self(Mutex::new(ConnectionStatus { stage: Stage::New, stalled: false, probe_socket: false, change_count: 0 }))
    }
}

impl ConnectionState {
    /// Records that a request header is complete.
    pub fn mark_busy(&self) {
        self.update(|status| status.stage = Stage::Busy);
    }

    fn status(&self) -> ConnectionStatus {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut ConnectionStatus)) {
        let mut status = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *status;
        change(&mut status);
        if *status != before {
            status.change_count = status.change_count.wrapping_add(1);
        }
    }
}

/// Drives a connection until the client closes it, a timeout expires, or the server shuts down. Before an idle
/// connection is closed, the operating system is asked whether part of a request has just arrived.
pub async fn drive(
    connection: impl GracefulConnection,
    peer: SocketAddr,
    state: Arc<ConnectionState>,
    timeouts: Timeouts,
    stop: CancellationToken,
) {
    let mut connection = pin!(connection);
    let mut stop = pin!(stop.cancelled());
    let mut timer = pin!(sleep(timeouts.header));
    let (mut change_count, mut should_close, mut shutdown_started) = (0, false, false);
    std::future::poll_fn(|cx| {
        loop {
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let status = state.status();
            let timeout = timeouts.timeout_for(&status);
            if status.change_count != change_count {
                change_count = status.change_count;
                timeout.inspect(|timeout| timer.as_mut().reset(Instant::now() + *timeout));
            }
            let is_timed_out = timeout.is_some() && timer.as_mut().poll(cx).is_ready();
            if is_timed_out && (shutdown_started || !status.is_between_requests()) {
                if status.stalled {
                    tracing::warn!(client = %peer.ip(), timeout = ?timeouts.write, "write timeout, closing connection");
                }
                return Poll::Ready(());
            }
            if !should_close {
                should_close = is_timed_out || stop.as_mut().poll(cx).is_ready();
                if !should_close {
                    return Poll::Pending;
                }
                state.update(|status| status.probe_socket = true);
            } else if shutdown_started || status.stage == Stage::Header {
                // Wait for a request that has partly arrived: hyper would treat the connection as idle and close it.
                return Poll::Pending;
            } else {
                connection.as_mut().graceful_shutdown();
                shutdown_started = true;
            }
        }
    })
    .await;
}

/// The socket of a connection; records hyper's reads and writes in its [`ConnectionState`].
#[derive(Debug)]
pub struct TrackedIo {
    io: TokioIo<TcpStream>,
    state: Arc<ConnectionState>,
}

impl TrackedIo {
    /// Wraps a socket whose reads and writes are recorded in `state`.
    pub fn new(stream: TcpStream, state: Arc<ConnectionState>) -> Self {
        Self { io: TokioIo::new(stream), state }
    }

    fn record_write(&self, result: Poll<std::io::Result<usize>>) -> Poll<std::io::Result<usize>> {
        self.state.update(|status| status.stalled = result.is_pending());
        result
    }
}

impl Read for TrackedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<std::io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        self.state.update(|status| {
            // Bytes may have arrived without a readiness event in the runtime yet.
            let has_unread = || status.probe_socket && ioctl_fionread(self.io.inner()).is_ok_and(|bytes| bytes > 0);
            if status.is_between_requests() && (result.is_ready() || has_unread()) {
                status.stage = Stage::Header;
            }
        });
        result
    }
}

impl Write for TrackedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.record_write(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.record_write(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The body of a reply. The request is complete when the body is dropped.
#[derive(Debug)]
pub struct TrackedBody {
    body: Body,
    state: Arc<ConnectionState>,
}

impl TrackedBody {
    /// Wraps a body whose end is recorded in `state`.
    pub fn new(body: Body, state: Arc<ConnectionState>) -> Self {
        Self { body, state }
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        self.state.update(|status| status.stage = Stage::Idle);
    }
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
