//! `mortise healthcheck`: checks whether the server with the same settings is ready. Containers and monitors run it
//! often: it opens no database connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{CommandError, Report};
use crate::config::Config;

/// Timeout from the connection to the end of the reply.
const TIMEOUT: Duration = Duration::from_secs(5);
/// In bytes; larger than any reply to `/readyz`.
const REPLY_LEN_MAX: u64 = 8 * 1024;

/// Requests `/readyz` and reports the result.
pub async fn run(config: &Config) -> Result<Report, CommandError> {
    let address = loopback_if_unspecified(config.listen);
    let timeout_error = |_| io::Error::new(io::ErrorKind::TimedOut, "timeout");
    let reply = tokio::time::timeout(TIMEOUT, fetch_readyz(address)).await.map_err(timeout_error).flatten();
    let reply =
        reply.map_err(|error| CommandError::Failed(format!("no answer from http://{address}/readyz: {error}")))?;
    let status = reply.split(' ').nth(1).unwrap_or_default();
    let body = reply.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim();
    let is_ready = status == "200";
    let text = if is_ready { "ready".to_owned() } else { format!("not ready: {status} {body}") };
    Ok(Report::new(text, json!({ "ready": is_ready, "status": status, "body": body })).fail_unless(is_ready))
}

/// Returns the address to connect to: the loopback address if the server listens on all addresses.
pub(super) fn loopback_if_unspecified(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    SocketAddr::new(address, listen.port())
}

async fn fetch_readyz(address: SocketAddr) -> io::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut reply = Vec::new();
    connection.take(REPLY_LEN_MAX).read_to_end(&mut reply).await?;
    let reply = String::from_utf8_lossy(&reply).into_owned();
    if reply.starts_with("HTTP/1.1 ") {
        Ok(reply)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "the reply is not HTTP"))
    }
}
