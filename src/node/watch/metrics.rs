//! Everything that is measured, in one place: for Prometheus as text, for the page and the terminal as JSON.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use prometheus_client::{encoding::text, registry::Registry};
use serde_json::{Value, json};

use super::{
    history::{History, Moment},
    process::{Disk, Process},
    sample::{Latest, Metric},
};
use crate::{
    base::{Clock, Domain, Refusal, Status},
    dispatch::Dispatcher,
    federation::peers::{Peer, State},
    service::queue::{self, Depths},
    store::Store,
    transport::Endpoint,
    wire::Method,
};

/// Peers that are shown: those for which most waits.
const MAX_PEERS: usize = 1_000;

/// How old the count of queues may be that is shown.
pub const COUNT_PERIOD: Duration = Duration::from_secs(300);

/// Whose figures are shown.
pub struct Subjects {
    /// The home domain.
    pub domain: Domain,
    /// The services.
    pub dispatcher: Arc<Dispatcher>,
    /// The database.
    pub store: Store,
    /// The network.
    pub endpoint: Endpoint,
    /// Where the database is.
    pub data: PathBuf,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// All figures of a homeserver.
pub struct Metrics {
    of: Subjects,
    registry: Registry,
    latest: Latest,
    started: Instant,
    history: Mutex<History>,
    depths: Mutex<Depths>,
}

impl Metrics {
    /// Of a homeserver that has just started.
    pub fn new(of: Subjects) -> Self {
        let (mut registry, latest) = (Registry::with_prefix("bennu"), Latest::default());
        of.dispatcher.register(&mut registry);
        of.store.meters().register(registry.sub_registry_with_prefix("store"));
        registry.register_collector(Box::new(latest.clone()));
        let history = Mutex::new(History::new());
        Self { of, registry, latest, started: Instant::now(), history, depths: Mutex::default() }
    }

    /// Everything, as Prometheus reads it (OpenMetrics 1.0).
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn text(&self) -> Result<String, Refusal> {
        let peers = self.peers().await?;
        self.latest.replace(self.now(&peers));
        let mut encoded = String::new();
        text::encode(&mut encoded, &self.registry).map_err(|error| Refusal::internal(error.to_string()))?;
        Ok(encoded)
    }

    /// The essentials, for people: now, and as they were.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn json(&self, condition: &str) -> Result<Value, Refusal> {
        let peers = self.peers().await?;
        let depths = *self.depths.lock().unwrap_or_else(PoisonError::into_inner);
        let requests = Method::ALL.iter().filter_map(|method| self.of_method(*method));
        Ok(json!({
            "domain": self.of.domain.as_str(),
            "version": env!("CARGO_PKG_VERSION"),
            "condition": condition,
            "uptime": self.started.elapsed().as_secs(),
            "history": self.history.lock().unwrap_or_else(PoisonError::into_inner).json(),
            "queues": depths.classes().map(|(class, count)| json!([class, count])).collect::<Vec<_>>(),
            "methods": requests.collect::<Vec<_>>(),
            "peers": peers.iter().map(peer_json).collect::<Vec<_>>(),
        }))
    }

    /// Notes how things stand, for the charts.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn note(&self) -> Result<(), Refusal> {
        let heads = self.of.dispatcher.federation_heads().await?;
        let (meters, counted) = (self.of.dispatcher.meters(), self.of.endpoint.counted());
        let (writes, write_seconds) = self.of.store.meters().writes();
        let process = Process::now();
        let moment = Moment {
            seconds: self.of.clock.now().seconds(),
            requests: meters.requests(None, Status::Ok),
            overloaded: meters.requests(None, Status::Overloaded),
            limited: meters.requests(None, Status::RateLimited),
            internal: meters.requests(None, Status::Internal),
            messages: meters.requests(Some(Method::DsSendMessage), Status::Ok),
            spread: meters.spread(),
            connections: counted.connections,
            exchanges: counted.began - counted.ended,
            batches: self.of.store.meters().batches(),
            writes,
            write_seconds,
            queued: self.depths.lock().unwrap_or_else(PoisonError::into_inner).entries,
            relayed: heads.iter().map(|(_, head)| head.waiting()).sum(),
            memory: process.memory,
            cpu: process.cpu,
            disk_free: self.disk().map_or(0, |disk| disk.free),
        };
        self.history.lock().unwrap_or_else(PoisonError::into_inner).push(moment);
        Ok(())
    }

    /// Counts how full the queues are.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn count_queues(&self) -> Result<(), Refusal> {
        let depths = queue::depths(&self.of.store.durable()).await?;
        *self.depths.lock().unwrap_or_else(PoisonError::into_inner) = depths;
        Ok(())
    }

    /// Whether new connections are refused. How many there are.
    pub fn set_draining(&self, draining: bool) -> u64 {
        self.of.endpoint.set_closed(draining);
        self.of.endpoint.counted().connections
    }

    /// The disk that the data is on.
    pub fn disk(&self) -> Option<Disk> {
        Disk::of(&self.of.data)
    }

    async fn peers(&self) -> Result<Vec<Peer>, Refusal> {
        let mut peers = self.of.dispatcher.federation_peers().await?;
        peers.sort_by(|one, other| {
            other.head.waiting().cmp(&one.head.waiting()).then_with(|| one.domain.as_str().cmp(other.domain.as_str()))
        });
        peers.truncate(MAX_PEERS);
        Ok(peers)
    }

    fn of_method(&self, method: Method) -> Option<Value> {
        let meters = self.of.dispatcher.meters();
        let (count, seconds) = meters.time(method);
        let ok = meters.requests(Some(method), Status::Ok);
        (count > 0).then(|| json!([method.name(), count, count - ok.min(count), seconds * 1e3 / count as f64]))
    }

    /// What is looked at only now.
    fn now(&self, peers: &[Peer]) -> Vec<Metric> {
        let mut metrics = self.of_transport();
        metrics.extend(self.of_machine());
        metrics.extend(self.of_engine());
        metrics.extend(of_peers(peers));
        let depths = *self.depths.lock().unwrap_or_else(PoisonError::into_inner);
        let help = "Queues with so many entries, as counted in the last five minutes";
        let classes = depths.classes().map(|(class, count)| (class.to_owned(), count as f64));
        metrics.push(Metric::gauge("queues", help, 0.0).of_each("entries", classes));
        metrics.push(Metric::gauge("queue_entries", "Entries in all queues, as counted then", depths.entries as f64));
        let pushes = self.of.dispatcher.push_counts();
        let outcomes = [
            ("sent", pushes.sent()),
            ("failed", pushes.failed()),
            ("dropped", pushes.dropped()),
            ("gone", pushes.gone()),
        ];
        let outcomes = outcomes.map(|(outcome, count)| (outcome.to_owned(), count as f64));
        metrics.push(Metric::counter("pushes", "Pushes, by what became of them", 0).of_each("outcome", outcomes));
        metrics
    }

    fn of_transport(&self) -> Vec<Metric> {
        let counted = self.of.endpoint.counted();
        let attempts = [
            ("accepted", counted.accepted),
            ("failed", counted.failed),
            ("retried", counted.retried),
            ("ignored", counted.ignored),
            ("refused", counted.refused),
        ];
        let attempts = attempts.map(|(outcome, count)| (outcome.to_owned(), count as f64));
        vec![
            Metric::gauge("connections", "Open connections", counted.connections as f64),
            Metric::counter("handshakes", "Attempts to connect, by outcome", 0).of_each("outcome", attempts),
            Metric::counter("exchanges", "Exchanges that were begun, one for each stream", counted.began),
            Metric::gauge("exchanges_under_way", "Exchanges under way", (counted.began - counted.ended) as f64),
            Metric::counter("exchanges_overloaded", "Exchanges refused for want of time", counted.overloaded),
        ]
    }

    fn of_machine(&self) -> Vec<Metric> {
        let process = Process::now();
        let mut metrics = vec![
            Metric::gauge("memory_bytes", "Memory of the process", process.memory as f64),
            Metric::gauge("cpu_seconds", "Processor time of the process", process.cpu),
            Metric::gauge("file_descriptors", "Open files and sockets", process.descriptors as f64),
            Metric::gauge("threads", "Threads of the process", process.threads as f64),
            Metric::gauge("uptime_seconds", "Since the start", self.started.elapsed().as_secs_f64()),
            Metric::gauge(
                "store_backlog_seconds",
                "For how long the oldest of what is not durable has waited",
                self.of.store.backlog().as_secs_f64(),
            ),
        ];
        if let Some(disk) = self.disk() {
            metrics.push(Metric::gauge("disk_free_bytes", "What can still be written", disk.free as f64));
            metrics.push(Metric::gauge("disk_size_bytes", "The disk that the data is on", disk.size as f64));
        }
        metrics
    }

    fn of_engine(&self) -> Vec<Metric> {
        let figures = self.of.store.figures();
        let mut metrics: Vec<Metric> = Vec::new();
        let mut names: Vec<&'static str> = figures.iter().map(|figure| figure.name).collect();
        names.dedup();
        for name in names {
            let of_name = figures.iter().filter(|figure| figure.name == name);
            let help = "What the database says of itself";
            let value = of_name.clone().map(|figure| figure.value as f64).sum();
            let metric = Metric::gauge(name, help, value);
            let tables = of_name.filter_map(|figure| Some((figure.table?.name().to_owned(), figure.value as f64)));
            let tables: Vec<_> = tables.collect();
            metrics.push(if tables.is_empty() { metric } else { metric.of_each("table", tables) });
        }
        metrics
    }
}

/// How often in a row it was not reached, and why the last time.
fn failures(peer: &Peer) -> (u32, &str) {
    match &peer.state {
        State::Failing { failures, why, .. } => (*failures, why),
        _ => (0, ""),
    }
}

fn peer_json(peer: &Peer) -> Value {
    let (failures, why) = failures(peer);
    json!([peer.domain.as_str(), peer.state.name(), peer.head.waiting(), failures, peer.oldest, why])
}

/// What is told of each homeserver that something was sent to.
fn of_peers(peers: &[Peer]) -> [Metric; 4] {
    let each = |value: &dyn Fn(&Peer) -> f64| {
        peers.iter().map(|peer| (peer.domain.as_str().to_owned(), value(peer))).collect::<Vec<_>>()
    };
    let gauge = |name, help, value: &dyn Fn(&Peer) -> f64| Metric::gauge(name, help, 0.0).of_each("peer", each(value));
    [
        gauge("peer_messages_waiting", "Messages that wait for a homeserver", &|peer| peer.head.waiting() as f64),
        gauge("peer_messages_dropped", "Messages for it that were given up", &|peer| peer.head.expired as f64),
        gauge("peer_failures", "Attempts to deliver that failed in a row", &|peer| f64::from(failures(peer).0)),
        gauge("peer_connected", "Whether there is a connection for deliveries", &|peer| {
            f64::from(u8::from(matches!(peer.state, State::Connected)))
        }),
    ]
}
