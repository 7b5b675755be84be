//! Discovery: at which addresses the homeserver of a domain is looked for. A static entry goes first, then the domain
//! itself on the default port. The certificate is for the home domain in every case.

use std::{collections::HashMap, net::SocketAddr};

use super::DialError;
use crate::base::{Domain, limits::DEFAULT_PORT};

/// Most addresses of one homeserver that are tried.
const MAX_ADDRESSES: usize = 8;

/// Where a homeserver may be, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Addresses to try.
    pub addresses: Vec<SocketAddr>,
}

impl From<SocketAddr> for Route {
    fn from(address: SocketAddr) -> Self {
        Self { addresses: vec![address] }
    }
}

/// The static entries, and what to do without one.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    entries: HashMap<Domain, String>,
}

impl Routes {
    /// No static entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Homeserver `domain` is at `place`: host and port, or host alone.
    pub fn insert(&mut self, domain: Domain, place: String) {
        self.entries.insert(domain, place);
    }

    /// Where to look for the homeserver of `domain`.
    pub async fn find(&self, domain: &Domain) -> Result<Route, DialError> {
        match self.entries.get(domain) {
            Some(place) => lookup(place).await,
            None => lookup(domain.as_str()).await,
        }
    }
}

async fn lookup(place: &str) -> Result<Route, DialError> {
    let found = match place.rsplit_once(':') {
        // `::1` is a host alone, `[::1]:9420` is not.
        Some((host, _)) if !host.contains(':') || host.ends_with(']') => resolve(tokio::net::lookup_host(place).await),
        _ => {
            let host = place.trim_start_matches('[').trim_end_matches(']');
            resolve(tokio::net::lookup_host((host, DEFAULT_PORT)).await)
        }
    };
    let addresses = found.map_err(|reason| DialError::Lookup { name: place.into(), reason })?;
    if addresses.is_empty() { Err(DialError::NoAddress(place.into())) } else { Ok(Route { addresses }) }
}

fn resolve(found: std::io::Result<impl Iterator<Item = SocketAddr>>) -> Result<Vec<SocketAddr>, String> {
    match found {
        Ok(addresses) => Ok(addresses.take(MAX_ADDRESSES).collect()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_static_entry_goes_before_the_domain_and_its_port_is_optional() {
        let domain: Domain = "a.test".parse().unwrap();
        let mut routes = Routes::new();
        for (place, address) in [
            ("127.0.0.1:4433", "127.0.0.1:4433"),
            ("127.0.0.1", "127.0.0.1:9420"),
            ("[::1]:4433", "[::1]:4433"),
            ("[::1]", "[::1]:9420"),
            ("::1", "[::1]:9420"),
        ] {
            routes.insert(domain.clone(), place.into());
            assert_eq!(routes.find(&domain).await, Ok(Route::from(address.parse::<SocketAddr>().unwrap())), "{place}");
        }
    }
}
