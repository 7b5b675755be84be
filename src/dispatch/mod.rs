//! From bytes to a service and back: decodes a request, proves its sender, runs the one handler of its method, writes
//! what it decided as one durable batch, and answers. The transport calls [`Dispatcher`]; nothing calls the transport.

pub mod admin;
mod credit;
mod federation;
mod listen;
mod locks;
mod meters;
mod push;
mod queues;
mod rates;
mod room;
mod routes;
mod run;
mod session;
#[cfg(test)]
pub(crate) mod tests;
mod turns;
mod upkeep;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use prometheus_client::registry::Registry;

use crate::{
    authentication::Authentication,
    base::{Clock, Domain, Refusal, Status, limits},
    crypto::{Rng, at_rest::StorageKey},
    delivery::Delivery,
    federation::{
        Authorities, Federation, Foreign, Known, Outbox, Peers, outbox,
        peers::{self, Settings as PeerSettings},
    },
    push::{Limits, Pushes},
    queuing::Queuing,
    service::{
        Context, NoOthers, Others,
        policy::{InForce, Policy},
        queue::QueueLimits,
        store_failure,
        work::Workers,
    },
    store::{Batch, Store},
    transport::{Handler, MethodRules, PeerInfo, Reply},
    wire::{Encode, Method, Response, VERSION, method, queue::Incarnation, server},
};

pub use meters::{LATENCIES, Meters};
pub use session::Session;

use locks::Locks;
use queues::Queues;
use rates::Counters;
use room::Room;
use turns::Turns;

/// Where randomness comes from: the operating system, or a seed in simulations.
pub type Entropy = Arc<dyn Fn() -> Box<dyn Rng + Send + Sync> + Send + Sync>;

/// What a dispatcher is made of.
pub struct Parts {
    /// The home domain.
    pub domain: Domain,
    /// Where everything is kept.
    pub store: Store,
    /// Wraps secrets at rest.
    pub storage_key: StorageKey,
    /// Of the store.
    pub incarnation: Incarnation,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Entropy,
    /// Of every queue.
    pub queue_limits: QueueLimits,
    /// What the operator has decided.
    pub policy: InForce,
    /// Where heavy computations are done.
    pub workers: Workers,
    /// How long a request that changes a group may wait for its turn, if that does not pass.
    pub max_wait: Duration,
    /// Advertised.
    pub connection_limits: server::ConnectionLimits,
    /// The ways to other homeservers.
    pub federation: Federation,
    /// How much may wait for each of them.
    pub outbox_limits: outbox::Limits,
    /// How they are dealt with.
    pub peer_settings: PeerSettings,
}

/// Answers requests for one homeserver.
pub struct Dispatcher {
    parts: Parts,
    authentication: Authentication,
    queuing: Queuing,
    delivery: Delivery,
    queues: Queues,
    turns: Turns,
    pushes: Pushes,
    locks: Locks,
    counters: Counters,
    meters: Meters,
    /// How many there were, for their numbers in the log.
    requests: AtomicU64,
    foreign: Foreign,
    known: Arc<Known>,
    outbox: Arc<Outbox>,
    peers: Peers,
    authorities: Authorities,
    room: Room,
}

impl Dispatcher {
    /// Loads the services' keys, or makes them at first start.
    ///
    /// # Errors
    /// `internal` if they cannot be read or written.
    pub async fn start(parts: Parts) -> Result<Arc<Self>, Refusal> {
        let mut rng = (parts.entropy)();
        let known = Arc::new(Known::open(parts.store.clone(), parts.clock.now()).await.map_err(store_failure)?);
        let policy = parts.policy.get();
        let mut context = context(&parts, &policy, &NoOthers, rng.as_mut());
        let mut batch = Batch::new();
        let authentication = Authentication::start(&mut context, &mut batch).await?;
        let queuing = Queuing::start(&mut context, &mut batch).await?;
        let delivery = Delivery::start(&mut context, &mut batch).await?;
        drop(context);
        parts.store.submit(batch).map_err(store_failure)?.await.map_err(store_failure)?;
        let (queues, turns) = (Queues::new(parts.queue_limits), Turns::new(parts.max_wait));
        let pushes = Pushes::new(Limits::with_interval(Duration::from_secs(policy.push.min_interval)));
        let (locks, counters) = (Locks::new(), Counters::new(parts.policy.clone()));
        parts.federation.rules.load(&parts.store).await.map_err(store_failure)?;
        let foreign = Foreign::new(parts.domain.clone(), parts.federation.clone(), parts.clock.clone());
        let outbox = Arc::new(Outbox::new(parts.store.clone(), parts.outbox_limits));
        let peers = Peers::new(peers::Parts {
            source: parts.domain.clone(),
            incarnation: parts.incarnation,
            key: queuing.signing_key.clone(),
            outbox: outbox.clone(),
            known: known.clone(),
            federation: parts.federation.clone(),
            clock: parts.clock.clone(),
            settings: parts.peer_settings,
        });
        peers.resume().await.map_err(store_failure)?;
        let authorities = Authorities::default();
        Ok(Arc::new(Self {
            parts,
            authentication,
            queuing,
            delivery,
            queues,
            turns,
            pushes,
            locks,
            counters,
            meters: Meters::default(),
            requests: AtomicU64::default(),
            foreign,
            known,
            outbox,
            peers,
            authorities,
            room: Room::default(),
        }))
    }

    /// Whether there is room on the disk: whoever looks at that tells it.
    pub const fn room(&self) -> &Room {
        &self.room
    }

    /// What it has measured.
    pub const fn meters(&self) -> &Meters {
        &self.meters
    }

    /// Shows what it measures to whoever collects.
    pub fn register(&self, registry: &mut Registry) {
        self.meters.register(registry);
        self.counters.register(registry);
    }

    fn server_info(&self) -> server::ServerInfo {
        let method_limit = |method: &Method| server::MethodLimit {
            method: *method as u16,
            max_request: u32::try_from(method.max_request()).unwrap_or(u32::MAX),
        };
        server::ServerInfo {
            domain: self.parts.domain.clone(),
            versions: vec![crate::wire::VERSION],
            ciphersuites: vec![crate::wire::credential::CIPHERSUITE],
            method_limits: Method::ALL.iter().map(method_limit).collect(),
            connection_limits: self.parts.connection_limits.clone(),
            token_policy: self.token_policy(),
            registration_policy: self.parts.policy.get().registration.clone(),
        }
    }

    fn token_policy(&self) -> server::TokenPolicy {
        let tokens = &self.parts.policy.get().tokens;
        let price = |method: &Method| server::MethodPrice { method: *method as u16, credit: tokens.price(*method) };
        let prices = Method::ALL.iter().map(price).filter(|price| price.credit > 0).collect();
        server::TokenPolicy {
            required: tokens.required,
            credit_per_token: tokens.credit_per_token,
            allowance: tokens.allowance,
            period: u32::try_from(tokens.period.as_secs()).unwrap_or(u32::MAX),
            prices,
        }
    }
}

fn context<'a>(
    parts: &'a Parts,
    policy: &'a Policy,
    others: &'a dyn Others,
    rng: &'a mut (dyn Rng + Send + Sync),
) -> Context<'a> {
    Context {
        domain: &parts.domain,
        now: parts.clock.now(),
        view: parts.store.pending(),
        storage_key: &parts.storage_key,
        incarnation: parts.incarnation,
        policy,
        workers: &parts.workers,
        others,
        rng,
    }
}

fn encode(result: Result<Vec<u8>, Refusal>) -> Bytes {
    let response = match result {
        Ok(body) => Response { status: Status::Ok as u16, body: body.into() },
        Err(refusal) => Response::refused(&refusal),
    };
    response.to_vec().into()
}

/// The dispatcher as the transport's handler.
pub struct Service(pub Arc<Dispatcher>);

impl Service {
    /// The answer to what is not read any further.
    fn refused(&self, refusal: &Refusal) -> Bytes {
        self.0.meters.refused(refusal.status);
        Response::refused(refusal).to_vec().into()
    }
}

#[async_trait]
impl Handler for Service {
    type Session = Session;

    fn rules(&self, method: u16) -> MethodRules {
        MethodRules { max_request: method::max_request(method), streaming: method::is_streaming(method) }
    }

    fn open(&self, peer: PeerInfo) -> Arc<Session> {
        Arc::new(Session::new(peer))
    }

    fn unsupported(&self, version: u16) -> Option<Bytes> {
        let refused = || Refusal::new(Status::UnsupportedVersion, "this server speaks version 1 of the protocol");
        (version != VERSION).then(|| self.refused(&refused()))
    }

    fn too_large(&self, _method: u16, limit: usize) -> Bytes {
        let limit = format!("requests of this method have at most {limit} bytes");
        self.refused(&Refusal::new(Status::TooLarge, limit))
    }

    fn backlog(&self) -> Duration {
        self.0.turns.wait() + self.0.parts.store.backlog()
    }

    fn overloaded(&self) -> Bytes {
        self.refused(&turns::too_much())
    }

    fn malformed(&self) -> Bytes {
        self.refused(&Refusal::malformed("the stream ended before the request was complete"))
    }

    async fn exchange(&self, session: &Arc<Session>, stream: u64, request: Bytes) -> Reply {
        self.0.clone().answer(session, stream, request).await
    }
}

/// Limits of a connection as ServerInfo advertises them.
pub fn connection_limits(settings: &crate::transport::Settings) -> server::ConnectionLimits {
    server::ConnectionLimits {
        max_streams: settings.max_streams,
        idle_timeout_ms: u32::try_from(settings.idle_timeout.as_millis()).unwrap_or(u32::MAX),
        max_bound_keys: limits::MAX_BOUND_KEYS as u32,
    }
}
