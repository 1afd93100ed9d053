//! The origin of the console: the values of `Host` that are allowed, and whether cookies are for TLS only.

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};

/// Where users see the console.
#[derive(Debug)]
pub(super) struct Origin {
    /// `None`: on loopback, without a reverse proxy.
    url: Option<(String, Authority)>,
}

impl Origin {
    /// Reads the setting `console_url`.
    pub fn new(url: Option<&Uri>) -> Self {
        let url = url.and_then(|url| {
            // As browsers write it: in lower case, without the port that the scheme implies.
            let authority = url.authority()?.as_str().to_ascii_lowercase();
            let authority: Authority = authority.strip_suffix(":443").unwrap_or(&authority).parse().ok()?;
            Some((format!("{}://{authority}", url.scheme_str()?), authority))
        });
        Self { url }
    }

    /// The origin to trust, `https://console.example.com`. `None`: the request's own.
    pub fn url(&self) -> Option<&str> {
        self.url.as_ref().map(|(url, _)| url.as_str())
    }

    /// Whether browsers must send the cookie over TLS only.
    pub fn is_secure(&self) -> bool {
        self.url.is_some()
    }

    /// Whether a request with these headers was meant for the console. A browser sends another name in `Host` if an
    /// attacker's name points to the server's address.
    pub fn allows(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (host, None) = (hosts.next(), hosts.next()) else { return false };
        let host = host.and_then(|host| host.to_str().ok()).and_then(|host| host.parse::<Authority>().ok());
        let host = host.filter(|host| !host.as_str().contains('@'));
        let Some(host) = host.filter(|host| uri.authority().is_none_or(|authority| authority == host)) else {
            return false;
        };
        match &self.url {
            Some((_, authority)) => *authority == host,
            None => ["localhost", "127.0.0.1", "[::1]"].contains(&host.host()),
        }
    }
}
