//! DNS through hickory: the two questions that discovery asks, with what an answer may lead to and how long it holds.
//! hickory's own cache counts answers, whatever their size, and goes by the system's clock: it is not used, and what was
//! found is remembered by [`super::Routes`].

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::rr::{RData, RecordType},
};
use tokio::task::spawn_blocking;

use super::{
    DialError, Service,
    place::{Host, Place},
};
use crate::base::{Domain, address::is_public};

/// Addresses of one host that are tried.
pub(super) const MAX_ADDRESSES: usize = 4;

/// SRV records of a domain that are looked at, lowest priority first.
pub(super) const MAX_RECORDS: usize = 32;

/// Aliases that are followed from a domain to SRV records.
const MAX_ALIASES: usize = 4;

/// So long one name server has for an answer, and so often it is asked again.
const PATIENCE: Duration = Duration::from_secs(2);
const RETRIES: usize = 1;

/// No answer is believed for longer: a homeserver that has moved is found again.
const MAX_AGE: Duration = Duration::from_secs(86_400);

/// That there is nothing is not believed for longer: a homeserver may have been set up.
const MAX_NEGATIVE_AGE: Duration = Duration::from_secs(900);

/// What DNS says, be it that there is nothing, and how long that holds.
pub(super) struct Lookup<T> {
    pub(super) found: Result<T, DialError>,
    pub(super) holds: Duration,
}

/// A host as DNS names it, fully qualified, and the port on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) port: u16,
}

/// Asks name servers.
pub(super) struct Resolver {
    /// If none, those that the system is configured with.
    name_servers: Vec<SocketAddr>,
    /// Made when it is needed, and again when nobody answers: the machine may have come to another network.
    current: Mutex<Option<TokioResolver>>,
}

impl Resolver {
    pub(super) fn new(name_servers: Vec<SocketAddr>) -> Self {
        Self { name_servers, current: Mutex::new(None) }
    }

    /// The services of a domain by its SRV records, unordered; nothing if there is none. `.` as the only target says that
    /// there is decidedly no homeserver (RFC 2782).
    pub(super) async fn services(&self, domain: &Domain) -> Result<Lookup<Option<Vec<Service<Named>>>>, DialError> {
        let mut name = format!("_bennu._udp.{domain}.");
        let mut holds = MAX_AGE;
        let mut aliases = 0;
        let answer = loop {
            let nothing = match self.resolver(&name).await?.srv_lookup(name.as_str()).await {
                Ok(answer) => break answer,
                Err(error) => self.nothing(&name, &error)?,
            };
            // hickory follows an alias to addresses, but not to SRV records.
            aliases += 1;
            match self.alias(&name).await? {
                Some((target, age)) if aliases <= MAX_ALIASES => (name, holds) = (target, holds.min(age)),
                _ => return Ok(Lookup { found: Ok(None), holds: holds.min(nothing) }),
            }
        };
        let records = answer.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(srv),
            _ => None,
        });
        let mut services: Vec<_> = records
            .map(|srv| {
                let at = Named { name: srv.target.to_ascii(), port: srv.port };
                Service { priority: srv.priority, weight: srv.weight, at }
            })
            .collect();
        let any = !services.is_empty();
        services.retain(|service| service.at.name != "." && service.at.port != 0);
        services.sort_by_key(|service| service.priority);
        services.truncate(MAX_RECORDS);
        let found = match (any, services.is_empty()) {
            (true, true) => Err(DialError::Unavailable(domain.to_string())),
            (false, _) => Ok(None),
            (true, false) => Ok(Some(services)),
        };
        Ok(Lookup { found, holds: holds.min(remaining(answer.valid_until())) })
    }

    /// What a name is another name for, and how long that holds.
    async fn alias(&self, name: &str) -> Result<Option<(String, Duration)>, DialError> {
        let answer = match self.resolver(name).await?.lookup(name, RecordType::CNAME).await {
            Ok(answer) => answer,
            Err(error) => return self.nothing(name, &error).map(|_| None),
        };
        let target = answer.answers().iter().find_map(|record| match &record.data {
            RData::CNAME(target) => Some(target.to_ascii()),
            _ => None,
        });
        Ok(target.map(|target| (target, remaining(answer.valid_until()))))
    }

    /// The addresses of a host, the families in turn (RFC 8305 section 4). Those that are not public are left out, unless
    /// they are allowed.
    pub(super) async fn addresses(
        &self,
        host: &Named,
        private_allowed: bool,
    ) -> Result<Lookup<Vec<SocketAddr>>, DialError> {
        let Named { name, port } = host;
        let shown = || name.trim_end_matches('.').to_owned();
        let answer = match self.resolver(name).await?.lookup_ip(name.as_str()).await {
            Ok(answer) => answer,
            Err(error) => {
                let holds = self.nothing(name, &error)?;
                return Ok(Lookup { found: Err(DialError::NoAddress(shown())), holds });
            }
        };
        let (allowed, refused): (Vec<_>, Vec<_>) =
            answer.iter().partition(|address| private_allowed || is_public(*address));
        let found = match (allowed.is_empty(), refused.is_empty()) {
            (true, true) => Err(DialError::NoAddress(shown())),
            (true, false) => Err(DialError::PrivateAddress(shown())),
            (false, _) => Ok(in_turn(&allowed, *port)),
        };
        Ok(Lookup { found, holds: remaining(answer.valid_until()) })
    }

    /// The addresses of a static entry, which may be any.
    pub(super) async fn place(&self, place: &Place) -> Result<Vec<SocketAddr>, DialError> {
        let name = match &place.host {
            Host::Address(address) => return Ok(vec![SocketAddr::from((*address, place.port))]),
            Host::Name(name) => name.clone(),
        };
        self.addresses(&Named { name, port: place.port }, true).await?.found
    }

    /// How long it holds that there is nothing under a name, if that is what the error says (RFC 2308 section 5).
    fn nothing(&self, name: &str, error: &NetError) -> Result<Duration, DialError> {
        if let NetError::Dns(DnsError::NoRecordsFound(nothing)) = error {
            let holds = Duration::from_secs(nothing.negative_ttl.unwrap_or(0).into());
            return Ok(holds.min(MAX_NEGATIVE_AGE));
        }
        if !matches!(error, NetError::Dns(_)) {
            *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Err(DialError::Lookup { name: name.trim_end_matches('.').into(), reason: error.to_string() })
    }

    async fn resolver(&self, name: &str) -> Result<TokioResolver, DialError> {
        if let Some(current) = &*self.current.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(current.clone());
        }
        let failed = |reason: String| DialError::Lookup { name: name.trim_end_matches('.').into(), reason };
        let name_servers = self.name_servers.clone();
        // Reads files.
        let made = spawn_blocking(move || make(&name_servers)).await.map_err(|error| failed(error.to_string()))?;
        let made = made.map_err(|error| failed(error.to_string()))?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(made.clone());
        Ok(made)
    }
}

fn make(name_servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = if name_servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = name_servers.iter().map(|address| {
            let mut connection = ConnectionConfig::udp();
            connection.port = address.port();
            NameServerConfig::new(address.ip(), true, vec![connection])
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        let mut options = ResolverOpts::default();
        options.use_hosts_file = ResolveHosts::Never;
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options)
    };
    let options = builder.options_mut();
    options.timeout = PATIENCE;
    options.attempts = RETRIES;
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    builder.build()
}

/// How long an answer holds, which hickory says on the system's clock.
fn remaining(until: std::time::Instant) -> Duration {
    until.saturating_duration_since(std::time::Instant::now()).min(MAX_AGE)
}

/// One family and the other in turn, version 6 first, up to [`MAX_ADDRESSES`].
fn in_turn(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    let (six, four): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|address| address.is_ipv6());
    let pairs = (0..six.len().max(four.len())).flat_map(|at| [six.get(at), four.get(at)]);
    pairs.flatten().take(MAX_ADDRESSES).map(|address| SocketAddr::from((*address, port))).collect()
}
