//! The client's address, also behind proxies.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// Returns the peer's address or, if the peer is a trusted proxy, the address from `X-Forwarded-For`.
///
/// The header is read from its right end, because each proxy appends the address of its own peer. The first address
/// that is not a trusted proxy is the client. Addresses to the left of it are ignored: any client can write them.
pub fn resolve(peer: IpAddr, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    let is_trusted = |address: &IpAddr| trusted_proxies.iter().any(|network| network.contains(address));
    if !is_trusted(&client) {
        return client;
    }
    let values = headers.get_all(FORWARDED_FOR).iter().rev();
    for entry in values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b',')) {
        // A trusted proxy wrote an entry that is not an address: the proxy is the last known address.
        let Some(address) = parse_forwarded_addr(entry) else { return client };
        client = address;
        if !is_trusted(&client) {
            return client;
        }
    }
    client
}

/// Returns the network that counts as one client: an IPv4 address, or the /64 network of an IPv6 address, which usually
/// belongs to one client.
pub fn client_network(client: IpAddr) -> IpNet {
    let prefix_len = if client.is_ipv6() { 64 } else { 32 };
    IpNet::new(client, prefix_len).map_or(client.into(), |network| network.trunc())
}

/// Parses an entry of `X-Forwarded-For`. Some proxies append the port, or put an IPv6 address without port in brackets.
fn parse_forwarded_addr(entry: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(entry).ok()?.trim();
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = text.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    Some(address.ok()?.to_canonical())
}
