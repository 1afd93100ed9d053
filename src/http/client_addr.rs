//! Where a request comes from, also behind proxies.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The address of whoever is connected to us; where that is a trusted proxy, of whoever is connected to it, and so on. Anybody
/// can write the header: it is believed from its right end, where our proxies write, and only as far as they are trusted.
pub fn resolve(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(&client) {
        return client;
    }
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    for named in lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')) {
        // What a trusted proxy wrote and nobody can read: it is the proxy itself that is known.
        let Some(address) = parse_forwarded_addr(named) else { return client };
        client = address;
        if !is_trusted(&client) {
            return client;
        }
    }
    client
}

/// An address; some proxies write its port as well, or brackets as if there were one.
fn parse_forwarded_addr(named: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(named).ok()?.trim();
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = text.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    Some(address.ok()?.to_canonical())
}
