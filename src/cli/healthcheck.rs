//! `mortise healthcheck`: whether the server that runs with the same settings can serve. For containers and monitors, so it
//! needs nothing but the server.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;

use super::{Failure, Report};
use crate::config::Config;

const PATIENCE: Duration = Duration::from_secs(5);
/// More than any answer to `/readyz` has.
const LONGEST: u64 = 64 * 1024;

/// Asks `/readyz`.
pub fn run(config: &Config) -> Result<Report, Failure> {
    let address = reachable(config.listen);
    let reply =
        ask(address).map_err(|error| Failure::Refused(format!("no answer from http://{address}/readyz: {error}")))?;
    let status = reply.split(' ').nth(1).unwrap_or_default();
    let body = reply.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim();
    let is_ready = status == "200";
    let text = if is_ready { "ready".to_owned() } else { format!("not ready: {status} {body}") };
    Ok(Report::of(text, json!({ "ready": is_ready, "status": status, "body": body })).bad_unless(is_ready))
}

/// Who listens on every address is asked at this machine's own.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    SocketAddr::new(address, listen.port())
}

fn ask(address: SocketAddr) -> io::Result<String> {
    let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    write!(connection, "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut reply = Vec::new();
    connection.take(LONGEST).read_to_end(&mut reply)?;
    Ok(String::from_utf8_lossy(&reply).into_owned())
}
