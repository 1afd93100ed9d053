//! One connection: what it waits for, how long it may, and its end.

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
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// How long a client may take for what.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the settings' names")]
pub struct Timeouts {
    pub header: Duration,
    pub keep_alive: Duration,
    pub write: Duration,
}

impl Timeouts {
    /// `None` while the client waits for us. How long its body takes is seen to where the body is read.
    fn timeout_for(self, state: &ConnectionStatus) -> Option<Duration> {
        match state.stage {
            _ if state.stalled => Some(self.write),
            Stage::New | Stage::Header => Some(self.header),
            Stage::Busy => None,
            Stage::Idle => Some(self.keep_alive),
        }
    }
}

/// Where a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing has come yet.
    New,
    /// Some of a request has come.
    Header,
    /// From a request's header to the end of its reply.
    Busy,
    /// Answered, and nothing new.
    Idle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ConnectionStatus {
    stage: Stage,
    /// The client doesn't take what is sent.
    stalled: bool,
    /// Whether something has arrived is asked of the system itself.
    probe_socket: bool,
    change_count: u32,
}

impl ConnectionStatus {
    fn is_between_requests(&self) -> bool {
        !self.stalled && matches!(self.stage, Stage::New | Stage::Idle)
    }
}

/// What hyper keeps to itself about a connection: gathered from what it reads, asks and writes, for the task that attends to it.
#[derive(Debug)]
pub struct ConnectionState(Mutex<ConnectionStatus>);

impl Default for ConnectionState {
    fn default() -> Self {
        Self(Mutex::new(ConnectionStatus { stage: Stage::New, stalled: false, probe_socket: false, change_count: 0 }))
    }
}

impl ConnectionState {
    /// A request's header is here.
    pub fn mark_busy(&self) {
        self.update(|state| state.stage = Stage::Busy);
    }

    fn status(&self) -> ConnectionStatus {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut ConnectionStatus)) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *state;
        change(&mut state);
        if *state != before {
            state.change_count = state.change_count.wrapping_add(1);
        }
    }
}

/// Drives a connection to its end: the client's, that of our patience, or that of the server. An idle one is closed in either
/// case, but not before the system has said that no request has just come in.
pub async fn drive(
    connection: impl GracefulConnection,
    peer: SocketAddr,
    line: Arc<ConnectionState>,
    patience: Timeouts,
    mut stopping: watch::Receiver<bool>,
) {
    let mut connection = pin!(connection);
    let mut stop = pin!(stopping.wait_for(|stopping| *stopping));
    let mut clock = pin!(sleep(patience.header));
    let (mut changes, mut closing, mut closed) = (0, false, false);
    std::future::poll_fn(|cx| {
        loop {
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let state = line.status();
            let limit = patience.timeout_for(&state);
            if state.change_count != changes {
                changes = state.change_count;
                limit.inspect(|limit| clock.as_mut().reset(Instant::now() + *limit));
            }
            let over = limit.is_some() && clock.as_mut().poll(cx).is_ready();
            if over && (closed || !state.is_between_requests()) {
                if state.stalled {
                    tracing::warn!(client = %peer.ip(), "a client doesn't take its reply: its connection is closed");
                }
                return Poll::Ready(());
            }
            if !closing {
                closing = over || stop.as_mut().poll(cx).is_ready();
                if !closing {
                    return Poll::Pending;
                }
                line.update(|state| state.probe_socket = true);
            } else if closed || state.stage == Stage::Header {
                // A request that has begun to come is waited for: hyper would take an idle connection for one without.
                return Poll::Pending;
            } else {
                connection.as_mut().graceful_shutdown();
                closed = true;
            }
        }
    })
    .await;
}

/// The socket, as hyper reads and writes it.
#[derive(Debug)]
pub struct TrackedIo {
    io: TokioIo<TcpStream>,
    state: Arc<ConnectionState>,
}

impl TrackedIo {
    /// What is seen on it goes to `line`.
    pub fn new(stream: TcpStream, state: Arc<ConnectionState>) -> Self {
        Self { io: TokioIo::new(stream), state }
    }

    fn record_write(&self, result: Poll<std::io::Result<usize>>) -> Poll<std::io::Result<usize>> {
        self.state.update(|state| state.stalled = result.is_pending());
        result
    }
}

impl Read for TrackedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<std::io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        self.state.update(|state| {
            // The runtime may not have heard yet of bytes that are there.
            let arrived = || state.probe_socket && ioctl_fionread(self.io.inner()).is_ok_and(|bytes| bytes > 0);
            if state.is_between_requests() && (result.is_ready() || arrived()) {
                state.stage = Stage::Header;
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

/// A reply's body, whose end is the request's.
#[derive(Debug)]
pub struct TrackedBody {
    body: Body,
    state: Arc<ConnectionState>,
}

impl TrackedBody {
    /// Its end goes to `line`.
    pub fn new(body: Body, state: Arc<ConnectionState>) -> Self {
        Self { body, state }
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        self.state.update(|state| state.stage = Stage::Idle);
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
