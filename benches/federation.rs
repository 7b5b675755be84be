//! What federation costs: two homeservers over QUIC on this machine, a message from one to the other against the same
//! message within one of them, one at a time and many at once; then 1,000 homeservers that do not answer, and what they
//! cost the one that has messages for them, and its messages to one that does answer (`cargo bench --bench federation`).
//! Storage is the in-memory engine, or RocksDB if it is built and `BENCH_ROCKSDB` is set.

mod support;

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bennu::{
    base::{Clock as _, Domain, SystemClock, Timestamp},
    crypto::{
        hpke::HpkePrivateKey,
        signature::{CurrentKey, SigningKey},
        system_rng,
    },
    federation::{
        Dial, Federation, Known, Mode, Outbox, Peers, Rules,
        peers::{self, State},
    },
    node::{
        Config, Node,
        setup::{Setup, create},
    },
    store::{Batch, Key, KeyRange, Limit, MemoryEngine, Options, Store, Table},
    transport::{Connection, Context, DialError, Route, Settings, tls},
    wire::{
        delivery::SendMessage,
        federation::SealedForward,
        queuing::{ClientQueueConfig, QueuingHpkeKey, QueuingKeys},
    },
};
use support::{Group, Listener, Queue, median};
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{interval, timeout},
};

/// Messages sent one at a time.
const ROUNDS: usize = 300;

/// Groups, and connections, that send at a time.
const SENDERS: usize = 64;

/// Homeservers that do not answer, and messages that wait for each of them.
const DEAD: usize = 1_000;
const WAITING: usize = 10;

/// So long they are watched.
const WATCH: Duration = Duration::from_secs(60);

/// A homeserver.
struct Home {
    config: Config,
    authority: String,
    engine: MemoryEngine,
    /// Keeps the port until it is used.
    reserved: Option<UdpSocket>,
    _directory: TempDir,
}

impl Home {
    fn new(domain: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let reserved = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (domain, listen) = (domain.parse().unwrap(), reserved.local_addr().unwrap());
        let created = create(directory.path(), &Setup::new(domain, listen)).unwrap();
        let mut config = Config::load(&created.config).unwrap();
        config.policy.tokens.required = false;
        config.policy.rates.messages_per_peer = u32::MAX;
        config.policy.rates.peer_messages_per_config = u32::MAX;
        config.policy.rates.peer_messages_per_queue = u32::MAX;
        let authority = fs::read_to_string(created.authority.unwrap()).unwrap();
        let (engine, reserved) = (MemoryEngine::new(), Some(reserved));
        Self { config, authority, engine, reserved, _directory: directory }
    }

    fn finds(&mut self, domain: &Domain, at: SocketAddr) {
        self.config.federation.peers.insert(domain.clone(), at.to_string().parse().unwrap());
    }

    fn store(&self) -> Store {
        let options = Options::new(|error| panic!("{error}"));
        #[cfg(feature = "rocksdb")]
        if on_disk() {
            let settings = bennu::store::RocksOptions { create: true, ..Default::default() };
            return Store::open(bennu::store::RocksEngine::open(&self.config.data, &settings).unwrap(), options)
                .unwrap();
        }
        Store::open(self.engine.clone(), options).unwrap()
    }

    /// Starts it, to run until the end.
    async fn start(&mut self) {
        self.reserved = None;
        let node = self.node().await;
        tokio::spawn(node.run(std::future::pending()));
    }

    async fn node(&self) -> Node {
        #[cfg(feature = "rocksdb")]
        if on_disk() {
            return Node::start(&self.config).await.unwrap();
        }
        Node::start_on(&self.config, self.engine.clone(), Arc::new(SystemClock)).await.unwrap()
    }

    async fn connect(&self, context: &Context) -> Connection {
        context.connect(&self.config.domain, &Route::from(self.config.listen)).await.unwrap()
    }

    /// Bytes of everything that it has stored for other homeservers.
    async fn stored(&self) -> (usize, usize) {
        let (store, mut range, mut rows, mut bytes) = (self.store(), KeyRange::from(Key::new()..), 0, 0);
        loop {
            let page = store.durable().scan(Table::FedOutbox, range, Limit::rows(1_000)).await.unwrap();
            let Some(last) = page.last() else { return (rows, bytes) };
            range = KeyRange::from(last.key.successor()..);
            rows += page.len();
            bytes += page.iter().map(|row| row.key.as_bytes().len() + row.value.len()).sum::<usize>();
        }
    }
}

/// Whether storage is RocksDB.
fn on_disk() -> bool {
    cfg!(feature = "rocksdb") && std::env::var_os("BENCH_ROCKSDB").is_some()
}

/// Messages of a group with one other member, who listens.
struct Conversation {
    group: Group,
    listener: Listener,
    next: u64,
}

impl Conversation {
    async fn start(group: Connection, queue: &Connection, domain: &Domain) -> Self {
        let mut group = Group::create(group).await;
        let queue = Queue::create(queue, domain).await;
        group.add(std::slice::from_ref(&queue.config)).await;
        let mut listener = queue.listen(0).await;
        // The secret of the queue, and the welcome.
        listener.reach(1).await;
        Self { group, listener, next: 2 }
    }

    /// Sends one message: when it is acknowledged, and when it has arrived, in microseconds.
    async fn say(&mut self) -> [u128; 2] {
        let (message, started) = (self.group.prepare(), Instant::now());
        let arrives = async {
            self.listener.reach(self.next).await;
            started.elapsed().as_micros()
        };
        let (acknowledged, arrived) = tokio::join!(self.group.send(&message), arrives);
        self.next += 1;
        [acknowledged, arrived]
    }
}

/// Medians of both, and bytes on the loopback interface, which carries what clients send and get as well.
async fn one_at_a_time(conversation: &mut Conversation, rounds: usize) -> ([u128; 2], u64) {
    let (mut acknowledged, mut arrived) = (Vec::new(), Vec::new());
    for _ in 0..rounds / 10 {
        conversation.say().await;
    }
    let before = loopback_bytes();
    for _ in 0..rounds {
        let [one, other] = conversation.say().await;
        acknowledged.push(one);
        arrived.push(other);
    }
    let bytes = (loopback_bytes() - before) / rounds as u64;
    ([median(acknowledged), median(arrived)], bytes)
}

/// Messages per second of many groups with so many other members each, acknowledged and arrived.
async fn many_at_once(context: &Context, ds: &Home, qs: &Home, members: usize, messages: usize) -> [u128; 2] {
    let to = qs.connect(context).await;
    let mut shared = Vec::new();
    if members > 1 {
        for _ in 0..members {
            shared.push(Queue::create(&to, &qs.config.domain).await);
        }
    }
    let (mut groups, mut listeners) = (Vec::new(), Vec::new());
    for _ in 0..SENDERS {
        let mut group = Group::create(ds.connect(context).await).await;
        if members == 1 {
            // A connection has room for a few who listen.
            let queue = Queue::create(&qs.connect(context).await, &qs.config.domain).await;
            group.add(std::slice::from_ref(&queue.config)).await;
            let mut listener = queue.listen(0).await;
            listener.reach(1).await;
            listeners.push((listener, 1 + messages as u64));
        } else {
            let configs: Vec<_> = shared.iter().map(|queue| queue.config.clone()).collect();
            group.add(&configs).await;
        }
        let ready: Vec<SendMessage> = (0..messages).map(|_| group.prepare()).collect();
        groups.push((group, ready));
    }
    if let Some(queue) = shared.last() {
        let mut listener = queue.listen(0).await;
        listener.reach(SENDERS as u64).await;
        listeners.push((listener, (SENDERS + SENDERS * messages) as u64));
    }
    let (started, total) = (Instant::now(), (SENDERS * messages) as u128);
    let (mut sending, mut arriving) = (JoinSet::new(), JoinSet::new());
    for (mut listener, last) in listeners {
        arriving.spawn(async move { listener.reach(last).await });
    }
    for (group, ready) in groups {
        sending.spawn(async move {
            for message in &ready {
                group.send(message).await;
            }
        });
    }
    sending.join_all().await;
    let acknowledged = started.elapsed();
    arriving.join_all().await;
    [acknowledged, started.elapsed()].map(|time| total * 1_000_000 / time.as_micros())
}

/// Keys that nobody has.
fn keys() -> QueuingKeys {
    let public_key = HpkePrivateKey::generate(&mut system_rng()).unwrap().public_key();
    QueuingKeys {
        hpke_keys: vec![QueuingHpkeKey { key_id: [1; 8], public_key }],
        verifying_key: SigningKey::generate(&mut system_rng()).unwrap().verifying_key(),
        push_key: None,
    }
}

fn dead(count: usize) -> Vec<Domain> {
    (0..count).map(|number| format!("dead{number}.test").parse().unwrap()).collect()
}

/// What the process uses.
struct Usage {
    memory: i64,
    cpu: i64,
    tasks: usize,
}

impl Usage {
    fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let memory = line.trim().trim_end_matches(" kB").parse().unwrap();
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // Hundredths of a second in user mode and in the kernel (proc(5)).
        let cpu = fields[11].parse::<i64>().unwrap() + fields[12].parse::<i64>().unwrap();
        Self { memory, cpu: cpu * 10, tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks() }
    }

    fn show_since(&self, before: &Self, what: &str) {
        let (memory, tasks) = (self.memory - before.memory, self.tasks as i64 - before.tasks as i64);
        println!("{what:<58} {memory:>8} kB {tasks:>7} tasks {:>7} ms of CPU", self.cpu - before.cpu);
    }
}

fn loopback_bytes() -> u64 {
    let devices = fs::read_to_string("/proc/net/dev").unwrap();
    let line = devices.lines().find_map(|line| line.trim().strip_prefix("lo:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Reaches nobody, and never says so.
struct Never;

#[async_trait]
impl Dial for Never {
    async fn dial(&self, _: &Domain) -> Result<Connection, DialError> {
        std::future::pending().await
    }
}

/// What workers cost by themselves, without anything of QUIC.
async fn workers_alone(count: usize) {
    let store = Store::open(MemoryEngine::new(), Options::new(|error| panic!("{error}"))).unwrap();
    let (outbox, domains) = (Arc::new(Outbox::new(store.clone(), Default::default())), dead(count));
    let mut batch = Batch::new();
    let mut opened = outbox.open(domains.iter()).await;
    for domain in &domains {
        let payload =
            SealedForward { key_id: [1; 8], kem_output: vec![1; 32].into(), ciphertext: vec![1; 1_000].into() };
        assert!(opened.append(domain, payload, false, Timestamp(0), &mut batch).await.unwrap());
    }
    store.submit(batch).unwrap().await.unwrap();
    opened.submitted();
    let parts = peers::Parts {
        source: "a.test".parse().unwrap(),
        incarnation: [1; 16],
        key: CurrentKey::new(SigningKey::generate(&mut system_rng()).unwrap()),
        outbox,
        known: Arc::new(Known::open(store, SystemClock.now()).await.unwrap()),
        federation: Federation { dial: Arc::new(Never), rules: Arc::new(Rules::new(Mode::Open)) },
        // Or everything would have expired.
        clock: Arc::new(Past),
        settings: Default::default(),
    };
    let (peers, before) = (Peers::new(parts), Usage::now());
    peers.wake(domains);
    let mut ticks = interval(Duration::from_millis(100));
    while peers.all().await.unwrap().iter().any(|peer| peer.state != State::Connecting) {
        ticks.tick().await;
    }
    Usage::now().show_since(&before, &format!("{count} workers that dial, without QUIC"));
}

/// The year 1970.
struct Past;

impl bennu::base::Clock for Past {
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

fn show(what: &str, local: u128, federated: u128, unit: &str) {
    println!("{what:<58} {local:>8} {federated:>10} {unit:<4} {:>6.2}", federated as f64 / local as f64);
}

/// Local against federated.
async fn compare(context: &Context, a: &Home, b: &Home) {
    let (on_a, on_b) = (a.connect(context).await, b.connect(context).await);
    let mut local = Conversation::start(on_a.clone(), &on_a, &a.config.domain).await;
    let mut federated = Conversation::start(on_a, &on_b, &b.config.domain).await;
    println!("{:<58} {:>8} {:>10} {:<4} {:>6}", "", "local", "federated", "", "ratio");
    let ([local_ack, local_seen], local_bytes) = one_at_a_time(&mut local, ROUNDS).await;
    let ([ack, seen], bytes) = one_at_a_time(&mut federated, ROUNDS).await;
    show("one at a time, until it is acknowledged", local_ack, ack, "us");
    show("one at a time, until a listener has it", local_seen, seen, "us");
    show("bytes on the wire, all hops", local_bytes.into(), bytes.into(), "B");
    for (members, messages, what) in [(1, 100, "two members"), (100, 10, "100 others")] {
        let [local_sent, local_seen] = many_at_once(context, a, a, members, messages).await;
        let [sent, seen] = many_at_once(context, a, b, members, messages).await;
        show(&format!("{SENDERS} groups of {what}, messages acknowledged"), local_sent, sent, "/s");
        show(&format!("{SENDERS} groups of {what}, messages arrived"), local_seen, seen, "/s");
    }
}

/// Homeservers that do not answer, beside one that does.
async fn with_dead_peers(context: &Context, a: &Home, b: &Home) {
    let (on_a, on_b) = (a.connect(context).await, b.connect(context).await);
    let mut live = Conversation::start(on_a.clone(), &on_b, &b.config.domain).await;
    let (alone, _) = one_at_a_time(&mut live, ROUNDS).await;
    let mut group = Group::create(on_a).await;
    let fake = |domain| ClientQueueConfig {
        domain,
        key_id: [1; 8],
        kem_output: vec![1; 32].into(),
        ciphertext: vec![1; 320].into(),
    };
    let configs: Vec<_> = dead(DEAD).into_iter().map(fake).collect();
    let before = Usage::now();
    group.add(&configs).await;
    let mut times = Vec::new();
    // The welcome is the first.
    for _ in 1..WAITING {
        let message = group.prepare();
        times.push(group.send(&message).await);
    }
    println!("\nA message to {DEAD} homeservers is acknowledged in {} us.", median(times));
    let storm = timeout(WATCH, one_at_a_time(&mut live, ROUNDS)).await;
    let ([ack, seen], _) = storm.expect("a live peer is not kept waiting");
    show("beside dead peers that are all dialled, acknowledged", alone[0], ack, "us");
    show("beside dead peers that are all dialled, arrived", alone[1], seen, "us");
    let watched = Usage::now();
    watched.show_since(&before, &format!("{DEAD} dead peers, {WAITING} messages for each"));
    let mut minute = interval(WATCH);
    minute.tick().await;
    minute.tick().await;
    Usage::now().show_since(&watched, &format!("the next {} s, in which nothing else happens", WATCH.as_secs()));
    let ([ack, seen], _) = one_at_a_time(&mut live, ROUNDS).await;
    show("beside dead peers that are tried now and then, acknowledged", alone[0], ack, "us");
    show("beside dead peers that are tried now and then, arrived", alone[1], seen, "us");
    if on_disk() {
        let size = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().metadata().unwrap().len();
        println!("{} bytes on disk", fs::read_dir(&a.config.data).unwrap().map(size).sum::<u64>());
    } else {
        let (rows, bytes) = a.stored().await;
        println!("{rows} rows wait, {bytes} bytes: {} bytes for each message", bytes / rows);
    }
}

#[tokio::main]
async fn main() {
    let (mut a, mut b) = (Home::new("a.test"), Home::new("b.test"));
    let authorities = [a.authority.as_str(), b.authority.as_str()].concat();
    for home in [&a, &b] {
        fs::write(home.config.authority.as_ref().unwrap(), &authorities).unwrap();
    }
    let (at_a, at_b) = (a.config.listen, b.config.listen);
    a.finds(&"b.test".parse().unwrap(), at_b);
    b.finds(&"a.test".parse().unwrap(), at_a);
    // Takes packets and answers none.
    let silence = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (store, keys) = (a.store(), keys());
    let known = Known::open(store.clone(), SystemClock.now()).await.unwrap();
    for domain in dead(DEAD) {
        a.finds(&domain, silence.local_addr().unwrap());
        known.learn(&domain, keys.clone(), true, SystemClock.now()).await.unwrap();
    }
    store.close().await.unwrap();
    drop((known, store));
    a.start().await;
    b.start().await;
    let roots = tls::roots(&tls::certificates(authorities.as_bytes()).unwrap()).unwrap();
    let context = Context::new(roots, Settings::default()).unwrap();
    compare(&context, &a, &b).await;
    with_dead_peers(&context, &a, &b).await;
    workers_alone(DEAD * 10).await;
}
