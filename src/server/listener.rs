//! Connections: let in, watched over, and closed in good order. hyper speaks HTTP on them; here is how many there may be, how
//! long each may keep us waiting, and what a stop does to them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::pin::pin;
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
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::config::{Config, UNLIMITED};
use crate::error::ApiError;
use crate::http::router::HttpService;
use crate::server::connection::{ConnectionState, Timeouts, TrackedBody, TrackedIo, drive};
use crate::server::limits::LogThrottle;
use crate::xml::XmlReply;

/// What a connection may hold of a request or a reply, unless headers need more.
const BUFFER_BYTES: usize = 64 * 1024;
/// As many headers hyper reads without asking the allocator.
const HYPER_HEADERS_DEFAULT: usize = 100;
/// Open files that aren't connections: the database's, the log, PostgreSQL's own.
const RESERVED_FILES: u64 = 64;
/// How long nobody is let in when the system has no room for a connection.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Serves what comes until it is told to stop. Then nobody is let in any more, idle connections are closed, and requests that had
/// arrived are answered, for as long as `shutdown_timeout_ms` says.
pub async fn serve<S>(listener: TcpListener, service: S, config: &Config, stop: impl Future<Output = ()>)
where
    S: HttpService<Future: Send>,
{
    let mut door = Acceptor::new(service, config);
    let mut stop = pin!(stop);
    let refused = LogThrottle::default();
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(_) = door.connections.join_next() => {}
            (stream, peer) = next_connection(&listener, &refused) => door.accept(stream, peer),
        }
    }
    tracing::info!("stopping: finishing the requests that are being answered");
    door.stopping.send_replace(true);
    door.drain_backlog(listener);
    let finished =
        timeout(config.shutdown_timeout, async { while door.connections.join_next().await.is_some() {} }).await;
    if finished.is_err() {
        tracing::warn!("requests still being answered after {:?} are dropped", config.shutdown_timeout);
    }
    door.connections.shutdown().await;
}

/// Who is let in, and how.
struct Acceptor<S> {
    http: http1::Builder,
    service: TowerToHyperService<S>,
    timeouts: Timeouts,
    connections_max: usize,
    /// What those hear who come when there are so many.
    overload_response: Vec<u8>,
    connections: JoinSet<()>,
    stopping: watch::Sender<bool>,
    log_throttle: LogThrottle,
}

impl<S: HttpService<Future: Send>> Acceptor<S> {
    fn new(service: S, config: &Config) -> Self {
        let max_header = config.max_header.get();
        let mut http = http1::Builder::new();
        http.max_header_size(max_header).max_buf_size(max_header.max(BUFFER_BYTES));
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
            connections_max: connection_limit(config),
            overload_response: overload_response(config),
            connections: JoinSet::new(),
            stopping: watch::Sender::new(false),
            log_throttle: LogThrottle::default(),
        }
    }

    fn accept(&mut self, stream: TcpStream, peer: SocketAddr) {
        if self.connections.len() >= self.connections_max {
            return self.refuse(stream);
        }
        // Replies are small and whole; waiting to fill a packet only delays them.
        let _ = stream.set_nodelay(true);
        let line = Arc::new(ConnectionState::default());
        let service = service_fn({
            let (service, line) = (self.service.clone(), line.clone());
            move |mut request: Request<Incoming>| {
                line.mark_busy();
                request.extensions_mut().insert(ConnectInfo(peer));
                let (answer, line) = (service.call(request.map(Body::new)), line.clone());
                async move { answer.await.map(|response| response.map(|body| TrackedBody::new(body, line))) }
            }
        });
        let wire = TrackedIo::new(stream, line.clone());
        let connection = self.http.serve_connection(wire, service);
        self.connections.spawn(drive(connection, peer, line, self.timeouts, self.stopping.subscribe()));
    }

    /// At the price of three system calls. Who has sent a request already may read the answer, as it has been taken.
    fn refuse(&self, stream: TcpStream) {
        if self.log_throttle.should_log() {
            tracing::warn!(
                "connections are refused: there are {} already (max_connections, open files)",
                self.connections_max
            );
        }
        if let Ok(mut stream) = stream.into_std() {
            let _ = stream.write(&self.overload_response);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(&mut [0; 4096]);
        }
    }

    /// Those whom the system has accepted in our name: their requests may be here already.
    fn drain_backlog(&mut self, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else { return };
        while self.connections.len() < self.connections_max {
            let (stream, peer) = match listener.accept() {
                Ok(client) => client,
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

/// The next client. Whatever goes wrong with one, or with the system, the server goes on.
async fn next_connection(listener: &TcpListener, refused: &LogThrottle) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(client) => return client,
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if refused.should_log() {
                    tracing::error!(%error, "the system lets nobody in");
                }
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// How many connections there may be: what the setting says, if open files allow it. Of these we take all that we may have.
fn connection_limit(config: &Config) -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let free = files.saturating_sub(RESERVED_FILES + u64::from(config.database_connections));
    let free = usize::try_from(free).unwrap_or(usize::MAX).max(1);
    if free < config.max_connections && config.max_connections != UNLIMITED {
        tracing::warn!("open files are limited to {files}: no more than {free} connections are let in");
    }
    config.max_connections.min(free)
}

fn overload_response(config: &Config) -> Vec<u8> {
    let (XmlReply::Buffered(body) | XmlReply::Replayed(body)) = ApiError::Overloaded.to_reply(config.dialect) else {
        return Vec::new();
    };
    let length = body.len();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/html\r\ncontent-length: {length}\r\nretry-after: 1\r\n\
         cache-control: no-store\r\nconnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}
