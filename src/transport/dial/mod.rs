//! Discovery (`wire-spec/transport.md`, "Discovery"): at which addresses the homeserver of a domain is looked for. A
//! static entry goes first, then the SRV records of the domain, then the domain itself on the default port. The certificate
//! is for the home domain in every case. DNS is not to be trusted: what it says leads to the public internet only, unless
//! that is allowed, and all of it is bounded. Look-ups are no secret from whoever answers them: they are outside the
//! isolation of contexts, and all contexts of a client share what was found.

mod place;
mod resolver;
mod service;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand_core::OsRng;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use self::{
    resolver::{Lookup, Named, Resolver},
    service::{Service, order},
};
use super::{DialError, Places};
use crate::base::{Cache, Domain, limits::DEFAULT_PORT};

pub use self::place::{InvalidPlace, Place};

/// Hosts of one homeserver whose addresses are looked up.
const MAX_HOSTS: usize = 4;

/// Domains that are remembered; twice as many at most.
const REMEMBERED: usize = 4_096;

/// So long it may take to find the addresses of one homeserver, all look-ups together.
const DEADLINE: Duration = Duration::from_secs(10);

/// Homeservers that begin to be looked for at a time, and how long each of them keeps the next one waiting. Who waits does so
/// within [`DEADLINE`].
const SEARCHES: usize = 64;
const SEARCH_PLACE: Duration = Duration::from_secs(2);

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

/// To which domains DNS may give addresses that are not of the public internet. Static entries may have any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PrivateAddresses {
    /// To none.
    #[default]
    Refused,
    /// To this one: a client's own homeserver may stand in the same house.
    Of(Domain),
    /// To all.
    Allowed,
}

impl PrivateAddresses {
    fn allowed(&self, domain: &Domain) -> bool {
        match self {
            Self::Refused => false,
            Self::Of(allowed) => allowed == domain,
            Self::Allowed => true,
        }
    }
}

/// The way to other homeservers: static entries, and DNS for those without one. Clones share what DNS said.
#[derive(Clone)]
pub struct Routes {
    own: Option<Domain>,
    entries: HashMap<Domain, Place>,
    private: PrivateAddresses,
    resolver: Arc<Resolver>,
    found: Arc<Mutex<Cache<Domain, Remembered>>>,
    searches: Arc<Places>,
}

/// The hosts of a homeserver with their addresses.
type Hosts = Vec<Service<Vec<SocketAddr>>>;

/// What DNS said of a homeserver, and until when that holds.
struct Remembered {
    found: Result<Hosts, DialError>,
    until: Instant,
}

impl Default for Routes {
    fn default() -> Self {
        Self::new()
    }
}

impl Routes {
    /// No static entries, and the name servers that the system is configured with.
    pub fn new() -> Self {
        Self::asking(Vec::new())
    }

    /// No static entries, and these name servers (UDP); if there are none, those of the system. They are not spoken to
    /// before they are needed.
    pub fn asking(name_servers: Vec<SocketAddr>) -> Self {
        Self {
            own: None,
            entries: HashMap::new(),
            private: PrivateAddresses::default(),
            resolver: Arc::new(Resolver::new(name_servers)),
            found: Arc::new(Mutex::new(Cache::new(REMEMBERED))),
            searches: Arc::new(Places::new(SEARCHES, SEARCH_PLACE)),
        }
    }

    /// The ways of a homeserver, which never looks for itself.
    #[must_use]
    pub fn of(mut self, own: Domain) -> Self {
        self.own = Some(own);
        self
    }

    /// To which domains DNS may give addresses that are not public. To be said before anything is looked up.
    #[must_use]
    pub fn private_addresses(mut self, private: PrivateAddresses) -> Self {
        self.private = private;
        self
    }

    /// Homeserver `domain` is at `place`, whatever DNS says.
    pub fn insert(&mut self, domain: Domain, place: Place) {
        self.entries.insert(domain, place);
    }

    /// Where to look for the homeserver of `domain`.
    ///
    /// # Errors
    /// [`DialError::Own`], [`DialError::Unavailable`], [`DialError::NoAddress`] and [`DialError::PrivateAddress`] say what is
    /// so, [`DialError::Lookup`] that it could not be found out within the time there is.
    pub async fn find(&self, domain: &Domain) -> Result<Route, DialError> {
        if self.own.as_ref() == Some(domain) {
            return Err(DialError::Own(domain.to_string()));
        }
        let late = |_| DialError::Lookup { name: domain.to_string(), reason: "it takes too long".into() };
        if let Some(place) = self.entries.get(domain) {
            let addresses = timeout(DEADLINE, self.resolver.place(place)).await.map_err(late)??;
            return Ok(Route { addresses });
        }
        let found = match self.remembered(domain) {
            Some(found) => found?,
            None => timeout(DEADLINE, self.search(domain)).await.map_err(late)??,
        };
        // Drawn each time, so that those who ask are spread by weight.
        Ok(Route { addresses: order(found, &mut OsRng).into_iter().flat_map(|service| service.at).collect() })
    }

    fn remembered(&self, domain: &Domain) -> Option<Result<Hosts, DialError>> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let known = found.get(domain)?;
        if known.until <= Instant::now() {
            found.remove(domain);
            return None;
        }
        Some(known.found.clone())
    }

    /// Asks DNS, and remembers what it says for as long as that holds.
    async fn search(&self, domain: &Domain) -> Result<Hosts, DialError> {
        let Lookup { found, holds } = self.searches.run(self.ask(domain)).await?;
        if !holds.is_zero() {
            let known = Remembered { found: found.clone(), until: Instant::now() + holds };
            self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(domain.clone(), known);
        }
        found
    }

    /// The hosts that SRV names, else the domain itself, with their addresses. The outer error is for what may be different in
    /// a moment, the inner one is what DNS says.
    async fn ask(&self, domain: &Domain) -> Result<Lookup<Hosts>, DialError> {
        let Lookup { found: services, holds } = self.resolver.services(domain).await?;
        let services = match services {
            Ok(Some(services)) => services,
            Ok(None) => {
                vec![Service { priority: 0, weight: 0, at: Named { name: format!("{domain}."), port: DEFAULT_PORT } }]
            }
            Err(error) => return Ok(Lookup { found: Err(error), holds }),
        };
        let mut chosen = order(services, &mut OsRng);
        chosen.truncate(MAX_HOSTS);
        let mut lookups = JoinSet::new();
        for service in chosen {
            let (resolver, private) = (self.resolver.clone(), self.private.allowed(domain));
            lookups.spawn(async move {
                let Service { priority, weight, at } = service;
                Service { priority, weight, at: resolver.addresses(&at, private).await }
            });
        }
        collect(domain, holds, lookups.join_all().await)
    }
}

/// What came of looking up the addresses of a host.
type LookedUp = Result<Lookup<Vec<SocketAddr>>, DialError>;

/// What the look-ups of several hosts say of the homeserver that they serve.
fn collect(domain: &Domain, mut holds: Duration, hosts: Vec<Service<LookedUp>>) -> Result<Lookup<Hosts>, DialError> {
    let (mut found, mut said, mut unknown) = (Vec::new(), None, None);
    for Service { priority, weight, at } in hosts {
        match at {
            Ok(lookup) => {
                holds = holds.min(lookup.holds);
                match lookup.found {
                    Ok(at) => found.push(Service { priority, weight, at }),
                    Err(error) => said = Some(error),
                }
            }
            Err(error) => unknown = Some(error),
        }
    }
    match (found.is_empty(), unknown) {
        (true, Some(error)) => Err(error),
        (true, None) => {
            Ok(Lookup { found: Err(said.unwrap_or_else(|| DialError::NoAddress(domain.to_string()))), holds })
        }
        (false, None) => Ok(Lookup { found: Ok(found), holds }),
        // The others are asked for again the next time.
        (false, Some(_)) => Ok(Lookup { found: Ok(found), holds: Duration::ZERO }),
    }
}
