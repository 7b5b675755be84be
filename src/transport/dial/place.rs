//! A place: host and port, as static entries of the configuration and of the command line name it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use crate::base::{id::MAX_DOMAIN, limits::DEFAULT_PORT};

/// A host, by name or address, and a UDP port on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) host: Host,
    pub(super) port: u16,
}

/// How a host is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Address(IpAddr),
    /// As it is written, so that the system's search list applies to a name that does not end in a dot.
    Name(String),
}

/// Not a host or `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host, nor host:port")]
pub struct InvalidPlace(String);

impl FromStr for Place {
    type Err = InvalidPlace;

    /// `host`, `host:port`, `address`, `v4-address:port` or `[v6-address]:port`; without a port it is the default one.
    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Self::new(Host::Address(address.ip()), address.port()).ok_or_else(|| InvalidPlace(text.into()));
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse() {
            return Ok(Self { host: Host::Address(address), port: DEFAULT_PORT });
        }
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, port.parse().ok()),
            None => (text, Some(DEFAULT_PORT)),
        };
        let host = is_name(name).then(|| Host::Name(name.to_owned()));
        host.zip(port).and_then(|(host, port)| Self::new(host, port)).ok_or_else(|| InvalidPlace(text.into()))
    }
}

impl Place {
    fn new(host: Host, port: u16) -> Option<Self> {
        (port != 0).then_some(Self { host, port })
    }
}

/// Whether it can be looked up.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= MAX_DOMAIN + 1 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Address(address.ip()), port: address.port() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(address) => SocketAddr::from((*address, self.port)).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_a_host_and_perhaps_a_port_and_nothing_else_is_one() {
        for (text, meant) in [
            ("127.0.0.1:4433", "127.0.0.1:4433"),
            ("127.0.0.1", "127.0.0.1:9420"),
            ("[::1]:4433", "[::1]:4433"),
            ("[::1]", "[::1]:9420"),
            ("::1", "[::1]:9420"),
            ("localhost", "localhost:9420"),
            ("Mail.example.org.:1", "Mail.example.org.:1"),
        ] {
            assert_eq!(text.parse::<Place>().map(|place| place.to_string()), Ok(meant.into()), "{text}");
        }
        let long = "a.".repeat(127) + "ab";
        for text in ["", ":1", "a:", "a:0", "127.0.0.1:0", "a:65536", "a:b", "a b", "a..b", "[::1", "a:1:2", "é", &long]
        {
            assert_eq!(text.parse::<Place>(), Err(InvalidPlace(text.into())));
        }
    }
}
