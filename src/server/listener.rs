//! The listener: accepts connections up to a limit, and closes them at shutdown. hyper handles HTTP on each connection;
//! [`connection`](crate::server::connection) handles its timeouts.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, UNLIMITED};
use crate::error::ApiError;
use crate::http::router::HttpService;
use crate::server::connection::{ConnectionState, Timeouts, TrackedBody, TrackedIo, drive};
use crate::server::limits::LogThrottle;
use crate::xml::XmlReply;

/// Buffer limit of a connection for a request or a reply, in bytes; larger if `max_header_bytes` is.
const BUFFER_BYTES: usize = 64 * 1024;
/// hyper's default limit of headers, which it parses without a heap allocation.
const HYPER_HEADERS_DEFAULT: usize = 100;
/// Number of open files that are neither client connections nor `database_connections`: listeners, log, other database
/// connections, files of PostgreSQL.
const RESERVED_FILES: u64 = 64;
/// How long `accept` pauses after an error, such as too many open files.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Serves connections until `stop` is cancelled. Then it accepts no more, closes idle connections, and finishes
/// requests that have arrived, for at most `shutdown_timeout_ms`. At most `connections_max` are open.
pub async fn serve<S>(
    listener: TcpListener,
    service: S,
    config: &Config,
    connections_max: usize,
    stop: CancellationToken,
) where
    S: HttpService<Future: Send>,
{
    let mut acceptor = Acceptor::new(service, config, connections_max, stop.clone());
    let accept_errors = LogThrottle::default();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = acceptor.connections.join_next() => {}
            (stream, peer) = next_connection(&listener, &accept_errors) => acceptor.accept(stream, peer),
        }
    }
    tracing::info!("shutting down, finishing requests in flight");
    acceptor.drain_backlog(listener);
    let drained =
        timeout(config.shutdown_timeout, async { while acceptor.connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(timeout = ?config.shutdown_timeout, "shutdown timeout, dropping unfinished requests");
    }
    acceptor.connections.shutdown().await;
}

/// Accepts or refuses connections, and owns their tasks.
struct Acceptor<S> {
    http: http1::Builder,
    service: TowerToHyperService<S>,
    timeouts: Timeouts,
    connections_max: usize,
    /// Sent to clients above the limit.
    overload_response: Vec<u8>,
    connections: JoinSet<()>,
    stop: CancellationToken,
    log_throttle: LogThrottle,
}

impl<S: HttpService<Future: Send>> Acceptor<S> {
    fn new(service: S, config: &Config, connections_max: usize, stop: CancellationToken) -> Self {
        let max_header_bytes = config.max_header_bytes.get();
        let mut http = http1::Builder::new();
        http.max_header_size(max_header_bytes).max_buf_size(max_header_bytes.max(BUFFER_BYTES));
        if config.max_headers.get() != HYPER_HEADERS_DEFAULT {
            http.max_headers(config.max_headers.get());
        }
        Self {
            http,
            service: TowerToHyperService::new(service),
            timeouts: Timeouts {
                header: config.header_timeout,
                keep_alive: config.keep_alive_timeout,
                write: config.write_timeout,
            },
            connections_max,
            overload_response: overload_response(config),
            connections: JoinSet::new(),
            stop,
            log_throttle: LogThrottle::default(),
        }
    }

    fn accept(&mut self, stream: TcpStream, peer: SocketAddr) {
        if self.connections.len() >= self.connections_max {
            return self.refuse(stream);
        }
        // A reply is usually one write: Nagle's algorithm would only delay it.
        let _ = stream.set_nodelay(true);
        let state = Arc::new(ConnectionState::default());
        let service = service_fn({
            let (service, state) = (self.service.clone(), state.clone());
            move |mut request: Request<Incoming>| {
                state.mark_busy();
                request.extensions_mut().insert(ConnectInfo(peer));
                let (response, state) = (service.call(request.map(Body::new)), state.clone());
                async move { response.await.map(|response| response.map(|body| TrackedBody::new(body, state))) }
            }
        });
        let io = TrackedIo::new(stream, state.clone());
        let connection = self.http.serve_connection(io, service);
        self.connections.spawn(drive(connection, peer, state, self.timeouts, self.stop.clone()));
    }

    /// Sends a prepared 503 and closes the connection, with three system calls. A request that has already arrived is
    /// read: closing a socket with unread data resets the connection, and the client could not read the reply.
    fn refuse(&self, stream: TcpStream) {
        if self.log_throttle.should_log() {
            tracing::warn!(
                limit = self.connections_max,
                "connection limit reached, refusing connections; see max_connections and the open files limit"
            );
        }
        if let Ok(mut stream) = stream.into_std() {
            let _ = stream.write(&self.overload_response);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(&mut [0; 4096]);
        }
    }

    /// Accepts the connections in the listen backlog: their requests may have arrived already.
    fn drain_backlog(&mut self, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else { return };
        while self.connections.len() < self.connections_max {
            let (stream, peer) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(_) => return,
            };
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                self.accept(stream, peer);
            }
        }
    }
}

/// Accepts the next connection. After an error it retries.
async fn next_connection(listener: &TcpListener, accept_errors: &LogThrottle) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if accept_errors.should_log() {
                    tracing::error!(%error, "accept failed, retrying");
                }
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Returns the number of connections to accept: `max_connections`, or fewer if the limit on open files is too low to
/// leave `reserved` files for other connections. Raises the soft limit on open files to the hard limit first.
pub fn connection_limit(config: &Config, reserved: usize) -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let open_files_limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let available = open_files_limit.saturating_sub(RESERVED_FILES + u64::from(config.database_connections));
    let available = usize::try_from(available).unwrap_or(usize::MAX).saturating_sub(reserved).max(1);
    if available < config.max_connections && config.max_connections != UNLIMITED {
        tracing::warn!(
            open_files_limit,
            max_connections = config.max_connections,
            effective_max_connections = available,
            "open files limit too low for max_connections"
        );
    }
    config.max_connections.min(available)
}

fn overload_response(config: &Config) -> Vec<u8> {
    let (XmlReply::Buffered(body) | XmlReply::Replayed(body)) = ApiError::Overloaded.to_reply(config.dialect) else {
        return Vec::new();
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/html\r\ncontent-length: {length}\r\nretry-after: 1\r\n\
         cache-control: no-store\r\nconnection: close\r\n\r\n"
    );
    [head.into_bytes(), body].concat()
}
