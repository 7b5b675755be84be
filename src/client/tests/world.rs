//! Several homeservers in memory that reach each other, and clients that reach all of them, until a test cuts one off.

use std::{
    collections::{HashMap, HashSet},
    net::{Ipv4Addr, SocketAddr},
    sync::Weak,
};

use super::*;
use crate::{
    crypto::random,
    federation::{Dial, Federation, Mode, Rules},
    transport::DialError,
};

/// Where homeservers find each other by their domains.
pub struct World {
    /// Others than those that are started here are unreachable, or else must not be looked for at all.
    is_open: bool,
    places: Mutex<HashMap<Domain, Weak<Homeserver>>>,
    rules: Mutex<HashMap<Domain, Arc<Rules>>>,
    /// Nobody reaches them, and they reach nobody.
    down: Mutex<HashSet<Domain>>,
    /// They reach no other homeserver, but everybody reaches them.
    mute: Mutex<HashSet<Domain>>,
    /// Connections of homeservers to each other.
    links: Mutex<Vec<(Domain, Connection)>>,
    /// Whom clients have connected to, and in which role.
    dialled: Mutex<Vec<(Domain, Isolation)>>,
}

impl World {
    /// In which one homeserver is to be, and nothing else to be looked for.
    pub fn of_one() -> Arc<Self> {
        Arc::new(Self::new(false))
    }

    /// In which there may be any homeserver.
    pub fn of_many() -> Arc<Self> {
        Arc::new(Self::new(true))
    }

    fn new(is_open: bool) -> Self {
        let (places, rules, down) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self {
            is_open,
            places,
            rules,
            down,
            mute: Mutex::default(),
            links: Mutex::default(),
            dialled: Mutex::default(),
        }
    }

    /// Starts a homeserver.
    pub async fn start(
        self: &Arc<Self>,
        domain: &str,
        queue_limits: QueueLimits,
        policy: Policy,
        clock: Arc<dyn Clock>,
    ) -> Arc<Homeserver> {
        let domain: Domain = domain.parse().unwrap();
        let server = Homeserver::start_in(self.clone(), domain.clone(), queue_limits, policy, clock).await;
        self.places.lock().unwrap().insert(domain, Arc::downgrade(&server));
        server
    }

    /// Starts a homeserver on what is stored.
    #[cfg(feature = "rocksdb")]
    pub async fn resume(
        self: &Arc<Self>,
        domain: &Domain,
        engine: MemoryEngine,
        incarnation: Incarnation,
        clock: Arc<dyn Clock>,
    ) -> Arc<Homeserver> {
        let (limits, policy) = (QueueLimits::default(), Policy::default());
        let server = Homeserver::resume(self.clone(), domain.clone(), engine, incarnation, limits, policy, clock).await;
        self.places.lock().unwrap().insert(domain.clone(), Arc::downgrade(&server));
        server
    }

    /// Starts homeservers as they are by default.
    pub async fn start_all<const N: usize>(self: &Arc<Self>, domains: [&str; N]) -> [Arc<Homeserver>; N] {
        let mut servers = Vec::new();
        for domain in domains {
            let clock = Arc::new(SystemClock);
            servers.push(self.start(domain, QueueLimits::default(), Policy::default(), clock).await);
        }
        servers.try_into().unwrap_or_else(|_| unreachable!("there are as many as domains"))
    }

    /// Clients connect through this.
    pub fn connector(self: &Arc<Self>) -> Arc<dyn Connector> {
        Arc::new(InMemory(self.clone()))
    }

    /// The ways of a homeserver to the others. It deals with all until its rules say otherwise.
    pub fn federation(self: &Arc<Self>, home: &Domain) -> Federation {
        let dial = Arc::new(Between { world: self.clone(), home: home.clone() });
        Federation { dial, rules: self.rules(home) }
    }

    /// A homeserver that is not started yet deals with those only that it is told to.
    pub fn deals_with_named_ones_only(&self, home: &Domain) {
        self.rules.lock().unwrap().insert(home.clone(), Arc::new(Rules::new(Mode::Allowlist)));
    }

    /// With whom a homeserver deals.
    pub fn rules(&self, of: &Domain) -> Arc<Rules> {
        self.rules.lock().unwrap().entry(of.clone()).or_insert_with(|| Arc::new(Rules::new(Mode::Open))).clone()
    }

    /// Cuts a homeserver off from everybody, or ends that.
    pub fn set_down(&self, domain: &Domain, is_down: bool) {
        let mut down = self.down.lock().unwrap();
        if is_down {
            down.insert(domain.clone())
        } else {
            down.remove(domain)
        };
        drop(down);
        if !is_down {
            return;
        }
        if let Some(server) = self.find(domain) {
            server.handler.disconnect();
        }
        for (_, connection) in self.links.lock().unwrap().iter().filter(|(from, _)| from == domain) {
            connection.close();
        }
    }

    /// Keeps a homeserver from reaching others, which clients of all go on reaching, or ends that.
    pub fn set_mute(&self, domain: &Domain, is_mute: bool) {
        let mut mute = self.mute.lock().unwrap();
        if is_mute {
            mute.insert(domain.clone())
        } else {
            mute.remove(domain)
        };
        for (_, connection) in self.links.lock().unwrap().iter().filter(|(from, _)| from == domain) {
            connection.close();
        }
    }

    /// Whom clients have connected to since the last time, and in which role.
    pub fn dialled(&self) -> Vec<(Domain, Isolation)> {
        std::mem::take(&mut *self.dialled.lock().unwrap())
    }

    fn find(&self, domain: &Domain) -> Option<Arc<Homeserver>> {
        self.places.lock().unwrap().get(domain)?.upgrade()
    }

    fn reach(&self, domain: &Domain, from: Option<&Domain>) -> Option<Connection> {
        let down = self.down.lock().unwrap();
        let is_mute = from.is_some_and(|from| self.mute.lock().unwrap().contains(from));
        if is_mute || down.contains(domain) || from.is_some_and(|from| down.contains(from)) {
            return None;
        }
        let (server, domains) = (self.find(domain)?, from.cloned().into_iter().collect());
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let connection = server.host.connect_as(PeerInfo { remote, binding: random(&mut system_rng()), domains });
        server.handler.connections.lock().unwrap().push(connection.clone());
        if let Some(from) = from {
            self.links.lock().unwrap().push((from.clone(), connection.clone()));
        }
        Some(connection)
    }
}

struct InMemory(Arc<World>);

#[async_trait]
impl Connector for InMemory {
    async fn connect(&self, domain: &Domain, isolation: &Isolation) -> Result<Connection, ClientError> {
        assert!(self.0.is_open || self.0.find(domain).is_some(), "{domain} must not be looked for");
        self.0.dialled.lock().unwrap().push((domain.clone(), isolation.clone()));
        self.0.reach(domain, None).ok_or_else(|| ClientError::Unreachable(format!("no way to {domain}")))
    }
}

/// A homeserver on its way to others.
struct Between {
    world: Arc<World>,
    home: Domain,
}

#[async_trait]
impl Dial for Between {
    async fn dial(&self, domain: &Domain) -> Result<Connection, DialError> {
        self.world.reach(domain, Some(&self.home)).ok_or_else(|| DialError::NoAddress(domain.to_string()))
    }
}
