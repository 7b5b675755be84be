//! Homeservers that deliver to each other: everything arrives once and in order, whoever stops in between; nobody waits for
//! anybody else; and a peer that lies gets nowhere.

use std::{
    collections::{HashMap, HashSet},
    sync::Mutex,
    time::Duration,
};

use rand_core::RngCore as _;
use tokio::time::timeout;

mod broken;
mod shares;
mod stubborn;

use super::{
    queuing::{Days, Owner, START, World, contents},
    *,
};
use crate::{
    base::GroupId,
    crypto::hpke::HpkePrivateKey,
    federation::{
        Dial, Mode, Rule, Rules,
        outbox::Limits as OutboxLimits,
        peers::{Settings as PeerSettings, State},
    },
    store::{Key, Limit, Table},
    transport::{DialError, Frames, StreamError, Streaming, codes, memory::Host},
    wire::{
        Authentication, Proof,
        federation::{Deliver, Delivered, Forward, ForwardedFanOut, QsToQsFrame, QsToQsMessage, QsToQsTbs},
        label::SignatureLabel,
        queue::{FanOut, FanOutContent, QueueMessage},
        queuing::{ClientQueueConfig, DeleteQueuingUser, GetQueuingKeys, QueuingKeys},
    },
};

type Reach = Arc<dyn Fn(PeerInfo) -> Connection + Send + Sync>;

/// Homeservers that can reach each other, unless a test cuts one off.
#[derive(Clone, Default)]
struct Land(Arc<Mutex<Map>>);

#[derive(Default)]
struct Map {
    hosts: HashMap<Domain, Reach>,
    cut_off: HashSet<Domain>,
    /// Who does not answer whoever dials, and does not refuse either.
    silent: HashSet<Domain>,
    connections: Vec<(Domain, Connection)>,
    dials: usize,
}

impl Land {
    fn map(&self) -> std::sync::MutexGuard<'_, Map> {
        self.0.lock().unwrap()
    }

    fn host<H: Handler>(&self, domain: &str, handler: Arc<H>) {
        self.host_with(domain, handler, Settings::default());
    }

    fn host_with<H: Handler>(&self, domain: &str, handler: Arc<H>, settings: Settings) {
        let host = Host::new(handler, settings);
        self.map().hosts.insert(domain.parse().unwrap(), Arc::new(move |peer| host.connect_as(peer)));
    }

    /// Nobody reaches it, and connections to it break.
    fn cut_off(&self, domain: &str) {
        let mut map = self.map();
        let domain: Domain = domain.parse().unwrap();
        map.connections.retain(|(to, connection)| {
            if *to == domain {
                connection.close();
            }
            *to != domain
        });
        map.cut_off.insert(domain);
    }

    fn mend(&self, domain: &str) {
        self.map().cut_off.remove(&domain.parse().unwrap());
    }

    /// A connection to a homeserver by whoever can prove to be these.
    fn connect(&self, to: &str, domains: &[&str]) -> Connection {
        let mut binding = [0; 32];
        system_rng().fill_bytes(&mut binding);
        let domains = domains.iter().map(|domain| domain.parse().unwrap()).collect();
        let reach = self.map().hosts[&to.parse::<Domain>().unwrap()].clone();
        reach(PeerInfo { remote: "127.0.0.1:1".parse().unwrap(), binding, domains })
    }
}

struct From(Land, String);

#[async_trait]
impl Dial for From {
    async fn dial(&self, domain: &Domain) -> Result<Connection, DialError> {
        let Self(land, home) = self;
        land.map().dials += 1;
        let is_silent = land.map().silent.contains(domain);
        if is_silent {
            std::future::pending::<()>().await;
        }
        let reachable = |map: &Map| map.hosts.contains_key(domain) && !map.cut_off.contains(domain);
        if !reachable(&land.map()) {
            return Err(DialError::NoAddress(domain.to_string()));
        }
        let connection = land.connect(domain.as_str(), &[home]);
        land.map().connections.push((domain.clone(), connection.clone()));
        Ok(connection)
    }
}

/// How fast a test wants it.
fn hasty() -> PeerSettings {
    let pause = Duration::from_millis(20);
    PeerSettings { first_pause: pause, longest_pause: pause * 4, ..PeerSettings::default() }
}

impl World {
    async fn of_land(land: &Land, domain: &str) -> Self {
        Self::of_land_over(land, domain, MemoryEngine::new(), Days::at(START)).await
    }

    async fn of_land_over(land: &Land, domain: &str, engine: MemoryEngine, clock: Days) -> Self {
        Self::of_land_made(land, domain, engine, clock, |_| ()).await
    }

    /// One of which something is special.
    async fn of_land_with(land: &Land, domain: &str, change: impl FnOnce(&mut Parts)) -> Self {
        Self::of_land_made(land, domain, MemoryEngine::new(), Days::at(START), change).await
    }

    async fn of_land_made(
        land: &Land,
        domain: &str,
        engine: MemoryEngine,
        clock: Days,
        change: impl FnOnce(&mut Parts),
    ) -> Self {
        let store = Store::open(engine.clone(), Options::new(|_| ())).unwrap();
        let mut parts = Parts {
            domain: domain.parse().unwrap(),
            clock: Arc::new(clock.clone()),
            federation: Federation {
                dial: Arc::new(From(land.clone(), domain.into())),
                rules: Arc::new(Rules::new(Mode::Open)),
            },
            peer_settings: hasty(),
            ..parts(store)
        };
        change(&mut parts);
        let world = Self::of(parts, engine, clock).await;
        land.host(domain, Arc::new(Service(world.dispatcher.clone())));
        world
    }

    /// Another process on the same store.
    async fn again(self, land: &Land) -> Self {
        let domain = self.dispatcher.parts.domain.clone();
        self.dispatcher.parts.store.barrier().await.unwrap();
        let (engine, clock) = (self.engine.clone(), self.clock.clone());
        land.cut_off(domain.as_str());
        drop(self);
        land.mend(domain.as_str());
        Self::of_land_over(land, domain.as_str(), engine, clock).await
    }

    /// Sends a message with this number, in a group of this homeserver.
    pub async fn number(&self, config: &ClientQueueConfig, number: u32) -> u32 {
        self.tell(config, numbered(&self.dispatcher.parts.domain, number), false).await
    }

    /// Waits until the queue of an owner has so many messages; their numbers.
    pub async fn numbers(&self, owner: &Owner, many: usize) -> Vec<u32> {
        let arrived = async {
            let mut frames = self.listen(owner, 0).await;
            let mut seen = 0;
            // The first entry is the queue's secret.
            while seen < many + 1 {
                seen += crate::wire::queue::QueueEntries::from_bytes(frames.next().await.unwrap().unwrap())
                    .unwrap()
                    .entries
                    .len();
            }
        };
        timeout(Duration::from_secs(60), arrived).await.expect("all messages arrive");
        self.found(owner).await
    }

    /// The numbers of the messages that are in the queue of an owner.
    pub async fn found(&self, owner: &Owner) -> Vec<u32> {
        let found = self.entries(owner, self.dispatcher.parts.incarnation, 0).await;
        contents(owner, &found).iter().map(number_of).collect()
    }

    pub async fn state_of(&self, peer: &str, wanted: impl Fn(&State) -> bool) {
        let peer: Domain = peer.parse().unwrap();
        let mut last = None;
        let reached = async {
            loop {
                let peers = self.dispatcher.federation_peers().await.unwrap();
                last = peers.into_iter().find(|of| of.domain == peer).map(|of| of.state);
                if last.as_ref().is_some_and(&wanted) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let reached = timeout(Duration::from_secs(60), reached).await;
        assert!(reached.is_ok(), "the peer does not come into that state; the last was {last:?}");
    }

    /// Waits until nothing waits for a peer; how many have expired.
    pub async fn delivered(&self, peer: &str) -> u64 {
        let peer: Domain = peer.parse().unwrap();
        let done = async {
            loop {
                let head = self.dispatcher.outbox.head(&peer).await.unwrap();
                if head.waiting() == 0 {
                    return head.expired;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), done).await.expect("everything is delivered")
    }

    pub async fn learns(&self, domain: &str) {
        self.dispatcher.learn(&domain.parse().unwrap()).await.unwrap();
    }

    /// It has learnt the keys of a homeserver at some time.
    pub async fn knows(&self, domain: &str) {
        let (keys, now) = (Peer::new().keys.lock().unwrap().clone(), self.dispatcher.parts.clock.now());
        assert!(self.dispatcher.known.learn(&domain.parse().unwrap(), keys, false, now).await.unwrap());
    }
}

pub(crate) fn numbered(domain: &Domain, number: u32) -> FanOut {
    let group = GroupId { uuid: [1; 16], domain: domain.clone() };
    FanOut { group, content: FanOutContent::Application(number.to_be_bytes().to_vec().into()) }
}

fn number_of(content: &Bytes) -> u32 {
    let QueueMessage::FanOut(FanOut { content: FanOutContent::Application(message), .. }) =
        QueueMessage::from_bytes(content.clone()).unwrap()
    else {
        panic!("another message")
    };
    u32::from_be_bytes(message.as_slice().try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_arrives_once_and_in_order_whoever_stops_in_between() {
    let land = Land::default();
    let (mut a, mut b) = (World::of_land(&land, "a.test").await, World::of_land(&land, "b.test").await);
    let owner = b.create().await;
    let config = b.seal(&owner).await;
    a.learns("b.test").await;
    for number in 0..60 {
        assert_eq!(a.number(&config, number).await, 0);
        match number {
            // What is signed with it does not verify before the receiver has asked again.
            10 | 40 => a.dispatcher.rotate_queuing_key().await.unwrap(),
            15 | 45 => land.cut_off("b.test"),
            20 => b = b.again(&land).await,
            25 | 50 => land.mend("b.test"),
            30 => a = a.again(&land).await,
            35 => b = b.again(&land).await,
            47 => a = a.again(&land).await,
            _ => {}
        }
    }
    land.mend("b.test");
    assert_eq!(b.numbers(&owner, 60).await, (0..60).collect::<Vec<_>>());
    assert_eq!(a.delivered("b.test").await, 0);
    assert_eq!(b.found(&owner).await.len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_homeserver_keeps_nobody_else_waiting() {
    let land = Land::default();
    let (a, b) = (World::of_land(&land, "a.test").await, World::of_land(&land, "b.test").await);
    let dead = World::of_land(&land, "dead.test").await;
    let (alive, lost) = (b.create().await, dead.create().await);
    let (to_alive, to_lost) = (b.seal(&alive).await, dead.seal(&lost).await);
    a.learns("b.test").await;
    a.learns("dead.test").await;
    land.cut_off("dead.test");
    for number in 0..50 {
        assert_eq!(a.number(&to_lost, number).await, 0);
        assert_eq!(a.number(&to_alive, number).await, 0);
    }
    assert_eq!(b.numbers(&alive, 50).await.len(), 50);
    a.state_of("dead.test", |state| matches!(state, State::Failing { .. })).await;
    a.state_of("b.test", |state| *state == State::Connected).await;
    land.mend("dead.test");
    assert_eq!(dead.numbers(&lost, 50).await, (0..50).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_reaches_members_of_many_homeservers_and_says_how_many_it_does_not() {
    let land = Land::default();
    let a = World::of_land(&land, "a.test").await;
    let (mut others, mut configs) = (Vec::new(), Vec::new());
    for number in 0..8 {
        let domain = format!("b{number}.test");
        let other = World::of_land(&land, &domain).await;
        let owner = other.create().await;
        configs.extend([other.seal(&owner).await, other.seal(&owner).await]);
        if number != 3 {
            a.learns(&domain).await;
        }
        others.push((domain, other, owner));
    }
    let blocked = others[5].0.parse().unwrap();
    a.dispatcher.set_federation_rule(blocked, Some(Rule::Blocked)).await.unwrap();
    let domain = a.dispatcher.parts.domain.clone();
    assert_eq!(a.tell_all(&configs, numbered(&domain, 7), false).await, 4, "one is not known, one is blocked");
    for (at, (domain, other, owner)) in others.iter().enumerate() {
        let reached = !matches!(at, 3 | 5);
        if reached {
            a.delivered(domain).await;
        }
        let expected: &[u32] = if reached { &[7] } else { &[] };
        assert_eq!(other.found(owner).await, expected, "{domain}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_is_back_shows_itself_and_gets_what_waits_at_once() {
    let land = Land::default();
    let (a, b) = (World::of_land(&land, "a.test").await, World::of_land(&land, "b.test").await);
    let owner = b.create().await;
    let config = b.seal(&owner).await;
    a.learns("b.test").await;
    assert_eq!(a.number(&config, 1).await, 0);
    assert_eq!(b.numbers(&owner, 1).await, [1]);
    let dials = land.map().dials;
    // Nothing waits for anybody: it is dialled because it starts.
    let b = b.again(&land).await;
    let shown = async {
        while land.map().dials == dials {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(60), shown).await.expect("it shows itself");
    assert_eq!(b.found(&owner).await, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_too_long_is_dropped_and_counted_and_the_rest_arrives() {
    let land = Land::default();
    let (a, b) = (World::of_land(&land, "a.test").await, World::of_land(&land, "b.test").await);
    let owner = b.create().await;
    let config = b.seal(&owner).await;
    a.learns("b.test").await;
    land.cut_off("b.test");
    assert_eq!(a.number(&config, 1).await, 0);
    assert_eq!(a.number(&config, 2).await, 0);
    a.clock.pass(31);
    assert_eq!(a.number(&config, 3).await, 0);
    a.state_of("b.test", |state| matches!(state, State::Failing { .. })).await;
    land.mend("b.test");
    assert_eq!(b.numbers(&owner, 1).await, [3]);
    assert_eq!(a.delivered("b.test").await, 2);
    let rows = a.dispatcher.parts.store.pending().scan(Table::FedOutbox, Key::new().., Limit::rows(10)).await;
    assert!(rows.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_may_wait_is_refused_and_told_to_the_sender() {
    let land = Land::default();
    let limits = OutboxLimits { messages: 4, handshake_percent: 50, ..OutboxLimits::default() };
    let a = World::of_land_with(&land, "a.test", |parts| parts.outbox_limits = limits).await;
    let b = World::of_land(&land, "b.test").await;
    let owner = b.create().await;
    let config = b.seal(&owner).await;
    a.learns("b.test").await;
    land.cut_off("b.test");
    for number in 0..4 {
        assert_eq!(a.number(&config, number).await, 0);
    }
    assert_eq!(a.number(&config, 4).await, 1, "full for application messages");
    land.mend("b.test");
    assert_eq!(b.numbers(&owner, 4).await, [0, 1, 2, 3]);
    a.delivered("b.test").await;
    assert_eq!(a.number(&config, 5).await, 0);
    assert_eq!(b.numbers(&owner, 5).await, [0, 1, 2, 3, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_to_a_homeserver_that_is_blocked_or_comes_from_it() {
    let land = Land::default();
    let (a, b) = (World::of_land(&land, "a.test").await, World::of_land(&land, "b.test").await);
    let owner = b.create().await;
    let config = b.seal(&owner).await;
    a.learns("b.test").await;
    assert_eq!(a.number(&config, 1).await, 0);
    assert_eq!(b.numbers(&owner, 1).await, [1]);
    // The receiver does not want it any more: what is under way is ended, and waits.
    let (rules, source): (_, Domain) = (&b.dispatcher.parts.federation.rules, "a.test".parse().unwrap());
    rules.set(source.clone(), Some(Rule::Blocked));
    a.state_of("b.test", |state| matches!(state, State::Failing { .. })).await;
    assert_eq!(a.number(&config, 2).await, 0);
    let refused = open_delivery(&land.connect("b.test", &["a.test"]), "a.test").await.err().unwrap();
    assert_eq!(refused.status, Status::FederationDenied);
    assert_eq!(b.found(&owner).await, [1]);
    rules.set(source, None);
    assert_eq!(b.numbers(&owner, 2).await, [1, 2]);
    // The sender does not want to: nothing new is taken for it, and what waits stays.
    let rules = &a.dispatcher.parts.federation.rules;
    rules.set("b.test".parse().unwrap(), Some(Rule::Blocked));
    assert_eq!(a.number(&config, 3).await, 1);
    rules.set("b.test".parse().unwrap(), None);
    assert_eq!(a.number(&config, 4).await, 0);
    assert_eq!(b.numbers(&owner, 3).await, [1, 2, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_allowlist_nobody_is_dealt_with_until_both_have_allowed_it() {
    let land = Land::default();
    let allowlist = |parts: &mut Parts| parts.federation.rules = Arc::new(Rules::new(Mode::Allowlist));
    let (a, b) =
        (World::of_land_with(&land, "a.test", allowlist).await, World::of_land_with(&land, "b.test", allowlist).await);
    let (at_a, at_b) = (a.create().await, b.create().await);
    let (to_a, to_b) = (a.seal(&at_a).await, b.seal(&at_b).await);
    let (domain_a, domain_b): (Domain, Domain) = ("a.test".parse().unwrap(), "b.test".parse().unwrap());
    let refused = async |source: &str| {
        open_delivery(&land.connect("b.test", &[source]), source).await.err().map(|refusal| refusal.status)
    };
    // Nobody asks the other, nothing is taken for it, and nothing by it.
    assert_eq!(a.dispatcher.learn(&domain_b).await.unwrap_err().status, Status::FederationDenied);
    assert_eq!((a.number(&to_b, 1).await, b.number(&to_a, 1).await), (1, 1));
    assert_eq!(refused("a.test").await, Some(Status::FederationDenied));
    assert_eq!(land.map().dials, 0);
    // One of them alone gets no further than to the other's door, where its messages wait.
    a.dispatcher.set_federation_rule(domain_b.clone(), Some(Rule::Allowed)).await.unwrap();
    a.learns("b.test").await;
    assert_eq!(a.number(&to_b, 2).await, 0);
    a.state_of("b.test", |state| matches!(state, State::Failing { failures: 2.., .. })).await;
    assert_eq!(b.dispatcher.learn(&domain_a).await.unwrap_err().status, Status::FederationDenied);
    assert_eq!((b.number(&to_a, 2).await, b.found(&at_b).await), (1, Vec::new()));
    // Both: everything goes both ways, and still nothing to others or by them.
    b.dispatcher.set_federation_rule(domain_a, Some(Rule::Allowed)).await.unwrap();
    b.learns("a.test").await;
    assert_eq!(b.number(&to_a, 3).await, 0);
    assert_eq!((b.numbers(&at_b, 1).await, a.numbers(&at_a, 1).await), (vec![2], vec![3]));
    assert_eq!(refused("c.test").await, Some(Status::FederationDenied));
    // And no more when the decision is taken back.
    a.dispatcher.set_federation_rule(domain_b, None).await.unwrap();
    assert_eq!(a.number(&to_b, 4).await, 1);
    assert_eq!(b.number(&to_a, 4).await, 0);
    b.state_of("a.test", |state| matches!(state, State::Failing { .. })).await;
    assert_eq!((b.found(&at_b).await, a.found(&at_a).await), (vec![2], vec![3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_gone_is_reported_to_the_group_and_to_no_other() {
    let land = Land::default();
    let (a, b) = (World::of_land(&land, "a.test").await, World::of_land(&land, "b.test").await);
    let owner = b.create().await;
    let config = b.seal(&owner).await;
    a.learns("b.test").await;
    b.ask::<call::QsDeleteUser>(owner.as_user(), &DeleteQueuingUser {}).await.unwrap();
    assert_eq!(a.number(&config, 1).await, 0);
    a.delivered("b.test").await;
    b.delivered("a.test").await;
    let rows = async || a.dispatcher.parts.store.pending().scan(Table::DsReports, Key::new().., Limit::rows(10)).await;
    assert!(rows().await.unwrap().is_empty(), "there is no such group");
}

// What a peer can do that is not what it says, or not what it should be.

/// Begins to deliver as `source`.
async fn open_delivery(connection: &Connection, source: &str) -> Result<(u64, Box<dyn Frames>), Refusal> {
    open_delivery_in(connection, source, [1; 16]).await
}

async fn open_delivery_in(
    connection: &Connection,
    source: &str,
    incarnation: [u8; 16],
) -> Result<(u64, Box<dyn Frames>), Refusal> {
    open_delivery_to(connection, source, "b.test", incarnation).await
}

async fn open_delivery_to(
    connection: &Connection,
    source: &str,
    destination: &str,
    incarnation: [u8; 16],
) -> Result<(u64, Box<dyn Frames>), Refusal> {
    let deliver = Deliver { source: source.parse().unwrap(), destination: destination.parse().unwrap(), incarnation };
    let auth = vec![Authentication { sender: SenderId::Homeserver(deliver.source.clone()), proof: Proof::Bound }];
    let method = call::FedDeliver::METHOD as u16;
    let request = Request { version: VERSION, method, auth, token: None, body: deliver.to_vec().into() };
    let (answer, frames) = connection.open().await.unwrap().streaming(request.to_vec().into(), 1 << 20).await.unwrap();
    let body = Response::from_bytes(answer).unwrap().into_result()?;
    Ok((Delivered::from_bytes(body).unwrap().next, frames))
}

/// A homeserver that answers for its keys and is otherwise what a test makes of it.
struct Peer {
    key: SigningKey,
    keys: Mutex<QueuingKeys>,
    /// How many messages it acknowledges to whoever delivers to it.
    says: Mutex<u64>,
    /// How it goes on with a delivery that has begun.
    manner: Mutex<Manner>,
}

/// What a homeserver does with a delivery.
#[derive(Clone, Copy, Default)]
enum Manner {
    /// It acknowledges each frame, with what it says.
    #[default]
    Acknowledges,
    /// It takes frames, and says nothing.
    Silent,
    /// It ends the delivery with the first frame.
    Ends,
    /// It answers frames with what is no acknowledgement.
    Garbage,
    /// It acknowledges the first message, and then nothing.
    TakesBack,
    /// It wants no delivery.
    Refuses,
    /// It gives no keys.
    Keyless,
}

impl Peer {
    fn new() -> Arc<Self> {
        let key = SigningKey::generate(&mut system_rng()).unwrap();
        let hpke = HpkePrivateKey::generate(&mut system_rng()).unwrap();
        let public_key = hpke.public_key();
        let keys = QueuingKeys {
            hpke_keys: vec![crate::wire::queuing::QueuingHpkeKey { key_id: [1; 8], public_key }],
            verifying_key: key.verifying_key(),
            push_key: None,
        };
        Arc::new(Self { key, keys: Mutex::new(keys), says: Mutex::new(0), manner: Mutex::default() })
    }

    /// A frame with these messages, signed as they are.
    fn frame(&self, messages: Vec<QsToQsMessage>) -> Bytes {
        let tbs = QsToQsTbs { messages };
        let signature = self.key.sign(SignatureLabel::QsToQs, &tbs);
        QsToQsFrame { messages: tbs.messages, signature }.to_vec().into()
    }
}

/// A config that only looks like one, for a homeserver that does not look at it.
pub(crate) fn config_at(domain: &str) -> ClientQueueConfig {
    ClientQueueConfig {
        domain: domain.parse().unwrap(),
        key_id: [1; 8],
        kem_output: vec![1; 32].into(),
        ciphertext: vec![1; 300].into(),
    }
}

struct Says(u64, Manner);

#[async_trait]
impl Streaming for Says {
    async fn run(self: Box<Self>, frames: &mut dyn Frames) -> crate::transport::Code {
        let Self(next, manner) = *self;
        while let Ok(Some(_)) = frames.next().await {
            match manner {
                Manner::Acknowledges => {
                    if frames.send(Delivered { next }.to_vec().into()).await.is_err() {
                        break;
                    }
                }
                Manner::Silent => {}
                Manner::Garbage => drop(frames.send(Bytes::from_static(b"garbage")).await),
                Manner::TakesBack => {
                    for next in [1, 0] {
                        drop(frames.send(Delivered { next }.to_vec().into()).await);
                    }
                }
                Manner::Ends | Manner::Refuses | Manner::Keyless => return codes::INTERNAL,
            }
        }
        codes::DONE
    }
}

#[async_trait]
impl Handler for Peer {
    type Session = ();

    fn rules(&self, method: u16) -> MethodRules {
        MethodRules { max_request: method::max_request(method), streaming: method::is_streaming(method) }
    }

    fn open(&self, _: PeerInfo) -> Arc<()> {
        Arc::new(())
    }

    fn unsupported(&self, _: u16) -> Option<Bytes> {
        None
    }

    fn too_large(&self, _: u16, _: usize) -> Bytes {
        Bytes::new()
    }

    fn backlog(&self) -> Duration {
        Duration::ZERO
    }

    fn overloaded(&self) -> Bytes {
        Bytes::new()
    }

    fn malformed(&self) -> Bytes {
        Bytes::new()
    }

    async fn exchange(&self, _: &Arc<()>, _: u64, request: Bytes) -> Reply {
        let method = u16::from_be_bytes([request[2], request[3]]);
        let (manner, asks_for_keys) = (*self.manner.lock().unwrap(), method == call::QsGetKeys::METHOD as u16);
        if matches!((manner, asks_for_keys), (Manner::Keyless, true) | (Manner::Refuses, false)) {
            return Reply::Once(Response::refused(&Refusal::forbidden("not today")).to_vec().into());
        }
        if asks_for_keys {
            return Reply::Once(Response::ok(&*self.keys.lock().unwrap()).to_vec().into());
        }
        let says = *self.says.lock().unwrap();
        let header = Response::ok(&Delivered { next: says }).to_vec();
        Reply::Stream(header.into(), Box::new(Says(says, manner)))
    }
}

/// A message to `b.test` by whoever it says, for an owner there.
async fn message(b: &World, source: &str, sequence: u64, fan_out: FanOut, config: &ClientQueueConfig) -> QsToQsMessage {
    let keys = ask::<call::QsGetKeys>(&b.connection, &GetQueuingKeys {}).await.unwrap();
    let (source, destination): (Domain, Domain) = (source.parse().unwrap(), "b.test".parse().unwrap());
    let aad = crate::wire::federation::ForwardAad { source: source.clone(), destination: destination.clone() }.to_vec();
    let forward =
        Forward::FanOut(ForwardedFanOut { message: fan_out, no_push: false, recipients: vec![config.clone()] });
    let padded = crate::wire::padding::pad_value(&forward, crate::wire::padding::MESSAGE_FLOOR);
    let (to, label) = (&keys.hpke_keys[0], crate::wire::label::HpkeLabel::Forward);
    let sealed = crate::crypto::hpke::seal(&to.public_key, label, &[], &aad, &padded, &mut system_rng()).unwrap();
    let payload = crate::wire::federation::SealedForward {
        key_id: to.key_id,
        kem_output: sealed.kem_output,
        ciphertext: sealed.ciphertext,
    };
    QsToQsMessage { source, destination, incarnation: [1; 16], sequence, payload }
}

async fn acknowledged(frames: &mut Box<dyn Frames>) -> Result<u64, StreamError> {
    let frame = timeout(Duration::from_secs(60), frames.next()).await.expect("an answer")?;
    Ok(Delivered::from_bytes(frame.ok_or(StreamError::Truncated)?).unwrap().next)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_delivers_only_as_itself_what_is_its_own_and_once() {
    let land = Land::default();
    let b = World::of_land(&land, "b.test").await;
    let peer = Peer::new();
    land.host("c.test", peer.clone());
    land.host("d.test", Peer::new());
    let owner = b.create().await;
    let config = b.seal(&owner).await;
    let c = || "c.test".parse::<Domain>().unwrap();
    // As somebody whom its certificate does not prove.
    for domains in [&[][..], &["d.test"]] {
        let refused = open_delivery(&land.connect("b.test", domains), "c.test").await.err().unwrap();
        assert_eq!(refused.status, Status::Unauthenticated);
    }
    let refused = open_delivery(&land.connect("b.test", &["b.test"]), "b.test").await.err().unwrap();
    assert_eq!(refused.status, Status::Unauthenticated, "as the homeserver itself");
    let connection = land.connect("b.test", &["c.test"]);
    let refused = open_delivery_to(&connection, "c.test", "d.test", [1; 16]).await.err().unwrap();
    assert_eq!(refused.status, Status::NotFound, "for another homeserver");
    let begin = async || open_delivery(&connection, "c.test").await.unwrap();

    let (next, mut frames) = begin().await;
    assert_eq!(next, 0);
    let first = message(&b, "c.test", 0, numbered(&c(), 1), &config).await;
    let frame = peer.frame(vec![first.clone()]);
    frames.send(frame.clone()).await.unwrap();
    assert_eq!(acknowledged(&mut frames).await, Ok(1));
    // The same again is acknowledged, and nothing else; so is what comes before it.
    frames.send(frame).await.unwrap();
    assert_eq!(acknowledged(&mut frames).await, Ok(1));
    // There may be gaps, but nothing comes after what follows it.
    let later = message(&b, "c.test", 9, numbered(&c(), 2), &config).await;
    frames.send(peer.frame(vec![later.clone()])).await.unwrap();
    assert_eq!(acknowledged(&mut frames).await, Ok(10));
    let earlier = message(&b, "c.test", 5, numbered(&c(), 3), &config).await;
    frames.send(peer.frame(vec![earlier.clone()])).await.unwrap();
    assert_eq!(acknowledged(&mut frames).await, Ok(10));
    assert_eq!(b.numbers(&owner, 2).await, [1, 2]);
    // Another group's, a third homeserver's, and what does not open, is acknowledged and dropped.
    let of_b = message(&b, "c.test", 10, numbered(&"b.test".parse().unwrap(), 4), &config).await;
    let elsewhere = ClientQueueConfig { domain: "d.test".parse().unwrap(), ..config.clone() };
    let passed_on = message(&b, "c.test", 11, numbered(&c(), 5), &elsewhere).await;
    let mut garbled = message(&b, "c.test", 12, numbered(&c(), 6), &config).await;
    garbled.payload.ciphertext = vec![7; 300].into();
    let stolen = QsToQsMessage { sequence: 13, ..message(&b, "d.test", 13, numbered(&c(), 7), &config).await };
    let stolen = QsToQsMessage { source: c(), ..stolen };
    frames.send(peer.frame(vec![of_b, passed_on, garbled, stolen])).await.unwrap();
    assert_eq!(acknowledged(&mut frames).await, Ok(14));
    assert_eq!(b.found(&owner).await, [1, 2]);
    // What breaks the rules ends the stream.
    let good = message(&b, "c.test", 14, numbered(&c(), 8), &config).await;
    let with = |change: fn(&mut QsToQsMessage)| {
        let mut message = good.clone();
        change(&mut message);
        peer.frame(vec![message])
    };
    let broken = [
        (with(|message| message.source = "d.test".parse().unwrap()), codes::MALFORMED),
        (with(|message| message.destination = "d.test".parse().unwrap()), codes::MALFORMED),
        (with(|message| message.incarnation = [2; 16]), codes::MALFORMED),
        (with(|message| message.sequence = u64::MAX), codes::MALFORMED),
        (peer.frame(vec![good.clone(), good.clone()]), codes::MALFORMED),
        (peer.frame(vec![good.clone(); 257]), codes::MALFORMED),
        (peer.frame(Vec::new()), codes::MALFORMED),
        (Bytes::from_static(b"garbage"), codes::MALFORMED),
        (Peer::new().frame(vec![good.clone()]), codes::UNPROVEN),
    ];
    for (frame, code) in broken {
        let (next, mut frames) = begin().await;
        assert_eq!(next, 14);
        frames.send(frame).await.unwrap();
        assert_eq!(acknowledged(&mut frames).await, Err(StreamError::Reset(code)));
    }
    assert_eq!(b.found(&owner).await, [1, 2]);
    // And it can still go on in order.
    let (_, mut frames) = begin().await;
    frames.send(peer.frame(vec![good])).await.unwrap();
    assert_eq!(acknowledged(&mut frames).await, Ok(15));
    assert_eq!(b.numbers(&owner, 3).await, [1, 2, 8]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_has_new_keys_is_asked_for_them() {
    let land = Land::default();
    let b = World::of_land(&land, "b.test").await;
    let (peer, renewed) = (Peer::new(), Peer::new());
    land.host("c.test", peer.clone());
    let owner = b.create().await;
    let config = b.seal(&owner).await;
    b.learns("c.test").await;
    let domain: Domain = "c.test".parse().unwrap();
    *peer.keys.lock().unwrap() = renewed.keys.lock().unwrap().clone();
    let (_, mut frames) = open_delivery(&land.connect("b.test", &["c.test"]), "c.test").await.unwrap();
    let first = message(&b, "c.test", 0, numbered(&domain, 1), &config).await;
    frames.send(renewed.frame(vec![first])).await.unwrap();
    assert_eq!(acknowledged(&mut frames).await, Ok(1));
    let second = message(&b, "c.test", 1, numbered(&domain, 2), &config).await;
    frames.send(peer.frame(vec![second])).await.unwrap();
    assert_eq!(acknowledged(&mut frames).await, Err(StreamError::Reset(codes::UNPROVEN)), "the old ones are over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_acknowledges_what_was_not_sent_is_not_believed() {
    let land = Land::default();
    let a = World::of_land(&land, "a.test").await;
    let peer = Peer::new();
    land.host("c.test", peer.clone());
    a.learns("c.test").await;
    let config = config_at("c.test");
    for says in [100, 0] {
        *peer.says.lock().unwrap() = says;
        assert_eq!(a.number(&config, 1).await, 0);
        if says > 0 {
            a.state_of("c.test", |state| matches!(state, State::Failing { why, .. } if why.contains("never sent")))
                .await;
        }
        let waiting = a.dispatcher.outbox.head(&"c.test".parse().unwrap()).await.unwrap().waiting();
        assert_eq!(waiting, if says > 0 { 1 } else { 2 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_store_was_restored_begins_anew_and_repeats_nothing_before() {
    let land = Land::default();
    let b = World::of_land(&land, "b.test").await;
    let peer = Peer::new();
    land.host("c.test", peer.clone());
    let owner = b.create().await;
    let config = b.seal(&owner).await;
    let domain: Domain = "c.test".parse().unwrap();
    let connection = land.connect("b.test", &["c.test"]);
    let (_, mut frames) = open_delivery(&connection, "c.test").await.unwrap();
    frames.send(peer.frame(vec![message(&b, "c.test", 7, numbered(&domain, 1), &config).await])).await.unwrap();
    assert_eq!(acknowledged(&mut frames).await, Ok(8));
    let (next, mut frames) = open_delivery_in(&connection, "c.test", [2; 16]).await.unwrap();
    assert_eq!(next, 0);
    let again = QsToQsMessage { incarnation: [2; 16], ..message(&b, "c.test", 0, numbered(&domain, 2), &config).await };
    frames.send(peer.frame(vec![again])).await.unwrap();
    assert_eq!(acknowledged(&mut frames).await, Ok(1));
    assert_eq!(b.numbers(&owner, 2).await, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_answer_is_asked_once_in_a_while_only() {
    let land = Land::default();
    let a = World::of_land(&land, "a.test").await;
    for _ in 0..5 {
        let refused = a.dispatcher.learn(&"nowhere.test".parse().unwrap()).await.unwrap_err();
        assert_eq!(refused.status, Status::RemoteUnreachable);
        assert_eq!(Domain::from_slice(&refused.detail).unwrap().as_str(), "nowhere.test");
    }
    assert_eq!(land.map().dials, 1);
    a.dispatcher.learn(&"a.test".parse().unwrap()).await.expect_err("it asks not itself");
    a.clock.pass(1);
    a.dispatcher.learn(&"nowhere.test".parse().unwrap()).await.unwrap_err();
    assert_eq!(land.map().dials, 2);
}
