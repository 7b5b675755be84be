//! Delivery to other homeservers: a worker for each that something waits for. It keeps one connection with one long-lived
//! stream, has a window of messages under way, and deletes what the other has acknowledged. Whoever cannot be reached is
//! tried again, less and less often; nobody waits for anybody else.

use std::{
    collections::BTreeMap,
    fmt::Display,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand_core::RngCore;
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Federation, Known, accepted, ask,
    outbox::{Head, Outbox, Waiting},
    request,
    shares::Shares,
    window::{FRAME_BYTES, Life, Window},
};
use crate::{
    base::{Clock, Domain, Timestamp, limits::MAX_RESPONSE, time::jittered},
    crypto::{signature::CurrentKey, system_rng},
    store::{Limit, StoreError},
    transport::{Connection, Frames, Places},
    wire::{
        Authentication, Decode, Encode, Proof, SenderId,
        federation::{Deliver, Delivered, MAX_FRAME_MESSAGES, QsToQsFrame, QsToQsMessage, QsToQsTbs},
        label::SignatureLabel,
        method::call,
        queue::Incarnation,
        queuing::GetQueuingKeys,
    },
};

/// How other homeservers are dealt with.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Pause after the first failure; it doubles with each further one.
    pub first_pause: Duration,
    /// Longest pause.
    pub longest_pause: Duration,
    /// How long a message waits before it is dropped.
    pub retention: Duration,
    /// How long a connection is kept that nothing is sent on.
    pub idle: Duration,
    /// How long a homeserver may take to acknowledge something.
    pub patience: Duration,
    /// Most homeservers that something may wait for.
    pub max_peers: usize,
    /// The same of those whose domains are under one registrable domain. Those that the operator has allowed by name are not
    /// counted against it.
    pub max_peers_of_one: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(15 * 60),
            retention: Duration::from_secs(30 * 86_400),
            idle: Duration::from_secs(10 * 60),
            patience: Duration::from_secs(20),
            max_peers: 10_000,
            max_peers_of_one: 100,
        }
    }
}

/// How long a connection is kept that something is sent on: this homeserver may have another certificate by then.
const CONNECTION_LIFE: Duration = Duration::from_secs(23 * 3_600);

/// Homeservers that begin to be dialled at a time, and how long each of them keeps the next one waiting.
const DIALS: usize = 256;
const DIAL_PLACE: Duration = Duration::from_secs(1);

/// What a homeserver is in the eyes of its worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// There is nothing to do.
    Idle,
    /// It is being connected to.
    Connecting,
    /// It is connected.
    Connected,
    /// It is tried again, until that succeeds.
    Failing {
        /// Failures in a row.
        failures: u32,
        /// The last one.
        why: String,
        /// When the next attempt begins, or has begun.
        next: Timestamp,
    },
    /// This homeserver does not deal with it.
    Denied,
}

impl State {
    /// What it is called where people watch.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Failing { .. } => "failing",
            Self::Denied => "denied",
        }
    }
}

/// A homeserver that something was sent to.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its home domain.
    pub domain: Domain,
    /// What waits for it.
    pub head: Head,
    /// Since when the oldest of it has waited, in seconds.
    pub oldest: Option<u64>,
    /// What it is doing.
    pub state: State,
}

/// What the workers need.
pub struct Parts {
    /// The home domain.
    pub source: Domain,
    /// Of the store.
    pub incarnation: Incarnation,
    /// Signs what is sent.
    pub key: CurrentKey,
    /// What waits.
    pub outbox: Arc<Outbox>,
    /// The keys of others, learnt with every connection.
    pub known: Arc<Known>,
    /// The ways to others.
    pub federation: Federation,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How others are dealt with.
    pub settings: Settings,
}

/// All workers. Dropping it ends them.
pub struct Peers(Arc<Shared>);

struct Shared {
    parts: Parts,
    workers: Mutex<Workers>,
    /// Whether there are to be no workers any more.
    ended: AtomicBool,
    dials: Places,
}

#[derive(Default)]
struct Workers {
    by_domain: BTreeMap<Domain, Handle>,
    shares: Shares,
}

struct Handle {
    worker: Arc<Worker>,
    task: AbortHandle,
}

/// What the worker of a homeserver is told, and what it tells.
struct Worker {
    domain: Domain,
    /// Whether something new waits that it has not looked at.
    news: AtomicBool,
    /// Whether it is to deliver once although nothing waits, to show that this homeserver is there.
    shows: AtomicBool,
    wake: Notify,
    /// Told when a pause is to end.
    hurry: Notify,
    state: Mutex<State>,
}

/// Why a delivery ended.
pub enum Trouble {
    /// The operator does not want it.
    Denied,
    /// Anything else.
    Failed(String),
}

impl Trouble {
    /// Anything else than that the operator does not want it.
    pub fn failed(why: impl Display) -> Self {
        Self::Failed(why.to_string())
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::failed(error)
    }
}

impl Peers {
    /// No worker yet.
    pub fn new(parts: Parts) -> Self {
        let dials = Places::new(DIALS, DIAL_PLACE);
        Self(Arc::new(Shared { parts, workers: Mutex::default(), ended: AtomicBool::new(false), dials }))
    }

    /// Takes up what has waited since before the start, and shows all homeservers that are known that this one is there: what
    /// waits for it there need not wait any longer.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn resume(&self) -> Result<(), StoreError> {
        let heads = self.0.parts.outbox.heads().await?;
        self.wake(heads.into_iter().filter(|(_, head)| head.waiting() > 0).map(|(domain, _)| domain));
        for domain in self.0.parts.known.all().await? {
            if self.takes(&domain) {
                self.start(domain, true);
            }
        }
        Ok(())
    }

    /// Something new waits for these homeservers, and is durable.
    pub fn wake(&self, domains: impl IntoIterator<Item = Domain>) {
        domains.into_iter().for_each(|domain| self.start(domain, false));
    }

    /// Tells the worker of a homeserver that there is something to do, or makes one.
    fn start(&self, domain: Domain, shows: bool) {
        let mut workers = self.0.workers();
        if self.0.ended.load(Ordering::Acquire) {
            return;
        }
        let running = workers.by_domain.get(&domain).filter(|handle| !handle.task.is_finished());
        if let Some(Handle { worker, .. }) = running {
            worker.news.store(true, Ordering::Release);
            worker.wake.notify_one();
            return;
        }
        let worker = Arc::new(Worker {
            domain: domain.clone(),
            news: AtomicBool::new(true),
            shows: AtomicBool::new(shows),
            wake: Notify::new(),
            hurry: Notify::new(),
            state: Mutex::new(State::Connecting),
        });
        let task = tokio::spawn(run(Arc::downgrade(&self.0), worker.clone())).abort_handle();
        if workers.by_domain.insert(domain.clone(), Handle { worker, task }).is_none() {
            workers.shares.add(&domain);
        }
    }

    /// Whether messages for another homeserver can be taken on.
    pub fn takes(&self, domain: &Domain) -> bool {
        let (workers, Parts { settings, federation, .. }) = (self.0.workers(), &self.0.parts);
        let is_there = workers.by_domain.contains_key(domain);
        is_there
            || workers.shares.all() < settings.max_peers
                && (workers.shares.of(domain) < settings.max_peers_of_one || federation.rules.is_named(domain))
    }

    /// A homeserver has shown that it is there: what waits for it need not wait any longer.
    pub fn hurry(&self, domain: &Domain) {
        if let Some(Handle { worker, .. }) = self.0.workers().by_domain.get(domain) {
            worker.hurry.notify_one();
        }
    }

    /// All homeservers that something was ever sent to.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn all(&self) -> Result<Vec<Peer>, StoreError> {
        let outbox = &self.0.parts.outbox;
        let mut peers = Vec::new();
        for (domain, head) in outbox.heads().await? {
            let oldest = outbox.oldest(&domain).await?;
            let state =
                self.0.workers().by_domain.get(&domain).map_or(State::Idle, |handle| handle.worker.state().clone());
            peers.push(Peer { head, oldest, state, domain });
        }
        peers.sort_by(|one, other| one.domain.cmp(&other.domain));
        Ok(peers)
    }
}

impl Peers {
    /// Ends all workers. What waits is delivered after the next start.
    pub fn end(&self) {
        let workers = self.0.workers();
        self.0.ended.store(true, Ordering::Release);
        workers.by_domain.values().for_each(|handle| handle.task.abort());
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn workers(&self) -> MutexGuard<'_, Workers> {
        // The map is whole between any two of its operations.
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    fn state(&self) -> MutexGuard<'_, State> {
        // A state is replaced as a whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker, until nothing waits for its homeserver and nothing has for a while.
async fn run(shared: std::sync::Weak<Shared>, worker: Arc<Worker>) {
    let mut failures = 0;
    loop {
        let Some(shared) = shared.upgrade() else { return };
        let mut rules = shared.parts.federation.rules.watch();
        let outcome = Delivery { shared: &shared, worker: &worker }.run(&mut failures).await;
        match outcome {
            Ok(()) => {
                let mut workers = shared.workers();
                // Whoever has news tells of them under this lock.
                if !worker.news.load(Ordering::Acquire) {
                    if workers.by_domain.remove(&worker.domain).is_some() {
                        workers.shares.remove(&worker.domain);
                    }
                    return;
                }
            }
            Err(Trouble::Denied) => {
                *worker.state() = State::Denied;
                // What waits expires all the same.
                pause(&shared, &worker, &mut rules, shared.parts.settings.longest_pause, true).await;
            }
            Err(Trouble::Failed(why)) => {
                failures = u32::saturating_add(failures, 1);
                tracing::debug!(peer = %worker.domain, failures, %why, "delivery to another homeserver failed");
                let Settings { first_pause, longest_pause, .. } = shared.parts.settings;
                let longest = first_pause.saturating_mul(1 << (failures - 1).min(20)).min(longest_pause);
                let wait = jittered(longest, system_rng().next_u32());
                let next = shared.parts.clock.now().after(wait);
                *worker.state() = State::Failing { failures, why, next };
                pause(&shared, &worker, &mut rules, wait, false).await;
            }
        }
    }
}

/// Waits before the next attempt: until a homeserver that is `denied` is not any more, or the other way round, or until it
/// shows that it is there. The first pause is made in any case: two that hurry each other in vain do so at that pace.
async fn pause(shared: &Shared, worker: &Worker, rules: &mut watch::Receiver<()>, longest: Duration, denied: bool) {
    let (begin, Settings { first_pause, .. }) = (Instant::now(), shared.parts.settings);
    let (soonest, end) = (begin + first_pause.min(longest), begin + longest);
    while shared.parts.federation.rules.permits(&worker.domain) != denied {
        tokio::select! {
            () = sleep_until(end) => return,
            () = worker.hurry.notified() => return sleep_until(soonest).await,
            changed = rules.changed() => if changed.is_err() { return },
        }
    }
}

/// One attempt at delivering.
struct Delivery<'a> {
    shared: &'a Shared,
    worker: &'a Worker,
}

impl Delivery<'_> {
    /// Delivers until there has been nothing to deliver for a while.
    async fn run(&self, failures: &mut u32) -> Result<(), Trouble> {
        let Parts { federation, outbox, .. } = &self.shared.parts;
        let domain = &self.worker.domain;
        self.drop_expired().await?;
        // Who has news tells of them when they are in the outbox already.
        self.worker.news.store(false, Ordering::Release);
        let shows = self.worker.shows.swap(false, Ordering::AcqRel);
        if outbox.head(domain).await?.waiting() == 0 && !shows {
            return Ok(());
        }
        let mut rules = federation.rules.watch();
        self.check_rules()?;
        {
            let mut state = self.worker.state();
            if !matches!(*state, State::Failing { .. }) {
                *state = State::Connecting;
            }
        }
        let dial = async { self.shared.dials.run(federation.dial.dial(domain)).await.map_err(Trouble::failed) };
        let connection = self.unless_denied(&mut rules, dial).await?;
        let outcome = self.unless_denied(&mut rules, self.deliver(&connection, failures)).await;
        connection.close();
        outcome
    }

    /// Ends what is under way as soon as the operator does not want it any more.
    async fn unless_denied<T>(
        &self,
        rules: &mut watch::Receiver<()>,
        work: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        let denied = async { while rules.changed().await.is_ok() && self.check_rules().is_ok() {} };
        tokio::select! {
            done = work => done,
            () = denied => Err(Trouble::Denied),
        }
    }

    fn check_rules(&self) -> Result<(), Trouble> {
        let rules = &self.shared.parts.federation.rules;
        if rules.permits(&self.worker.domain) { Ok(()) } else { Err(Trouble::Denied) }
    }

    /// Drops what has waited for too long.
    async fn drop_expired(&self) -> Result<(), StoreError> {
        let Parts { outbox, clock, settings, .. } = &self.shared.parts;
        let domain = &self.worker.domain;
        let oldest = clock.now().seconds().saturating_sub(settings.retention.as_secs());
        let mut first = outbox.head(domain).await?.first;
        loop {
            let rows = outbox.read(domain, first, Limit::rows(MAX_FRAME_MESSAGES).bytes(FRAME_BYTES)).await?;
            let expired: Vec<_> = rows.iter().take_while(|message| message.added < oldest).collect();
            let Some(last) = expired.last() else { return Ok(()) };
            tracing::warn!(peer = %domain, messages = expired.len(), "messages for another homeserver were dropped: it did not take them for too long");
            first = last.sequence + 1;
            outbox.expire(domain, first).await?;
        }
    }

    async fn deliver(&self, connection: &Connection, failures: &mut u32) -> Result<(), Trouble> {
        let Parts { source, incarnation, outbox, known, federation, clock, settings, .. } = &self.shared.parts;
        let domain = &self.worker.domain;
        let life = Life::of(&outbox.head(domain).await?, *incarnation);
        let keys = timeout(settings.patience, ask::<call::QsGetKeys>(connection, &GetQueuingKeys {})).await;
        let keys = keys.map_err(Trouble::failed)?.map_err(Trouble::Failed)?;
        known.learn(domain, keys, federation.rules.is_named(domain), clock.now()).await?;

        let exchange = connection.open().await.map_err(Trouble::failed)?;
        let deliver = Deliver { source: source.clone(), destination: domain.clone(), incarnation: life.incarnation };
        let sender = SenderId::Homeserver(source.clone());
        let auth = vec![Authentication { sender, proof: Proof::Bound }];
        let request = request::<call::FedDeliver>(auth, &deliver);
        let (answer, frames) = exchange.streaming(request, MAX_RESPONSE).await.map_err(Trouble::failed)?;
        let Delivered { next } = accepted(answer).map_err(Trouble::Failed)?;
        // Of an earlier life it may have more than was left when the store was restored.
        let (next, head) = (next.min(life.end), outbox.head(domain).await?);
        // Nothing may ever have been sent, or it was forgotten by now.
        if life.is_current() && next > head.next && head != Head::default() {
            return Err(Trouble::failed("it says that it has what was never sent"));
        }
        if next > head.first {
            *failures = 0;
            outbox.acknowledge(domain, next).await?;
        }
        *self.worker.state() = State::Connected;
        if head.waiting() == 0 {
            // Nobody keeps a connection for nothing.
            return Ok(());
        }
        let pump = self.pump(frames, Window::new(life, head.first.max(next)), failures);
        timeout(CONNECTION_LIFE, pump).await.unwrap_or_else(|_| {
            // What waits goes on another connection.
            self.worker.news.store(true, Ordering::Release);
            Ok(())
        })
    }

    /// Sends and takes acknowledgements.
    async fn pump(&self, mut frames: Box<dyn Frames>, mut window: Window, failures: &mut u32) -> Result<(), Trouble> {
        let Settings { patience, idle, .. } = self.shared.parts.settings;
        loop {
            self.worker.news.store(false, Ordering::Release);
            if window.is_over() {
                // What comes after it is of another life, and goes on another stream.
                self.worker.news.store(true, Ordering::Release);
                return Ok(());
            }
            self.send(&mut *frames, &mut window).await?;
            let is_idle = window.under_way.is_empty();
            let end = window.moved + if is_idle { idle } else { patience };
            tokio::select! {
                frame = frames.next() => {
                    let frame = frame.map_err(Trouble::failed)?.ok_or_else(|| Trouble::failed("it has ended the delivery"))?;
                    let Delivered { next } = Delivered::from_bytes(frame)
                        .map_err(|error| Trouble::failed(format_args!("its acknowledgement does not decode: {error}")))?;
                    if window.acknowledge(next)? {
                        // Who only answers, and takes nothing, is tried less and less often.
                        *failures = 0;
                        self.shared.parts.outbox.acknowledge(&self.worker.domain, next).await?;
                    }
                }
                () = self.worker.wake.notified() => {}
                () = sleep_until(end) => match is_idle {
                    true => return Ok(()),
                    false => return Err(Trouble::failed("it acknowledges nothing")),
                },
            }
        }
    }

    /// Sends as much as the window has room for.
    async fn send(&self, frames: &mut dyn Frames, window: &mut Window) -> Result<(), Trouble> {
        let Parts { outbox, key, .. } = &self.shared.parts;
        while let Some(room) = window.room() {
            let mut waiting = outbox.read(&self.worker.domain, window.next, room).await?;
            waiting.retain(|message| message.sequence < window.life.end);
            if waiting.is_empty() {
                return Ok(());
            }
            let messages: Vec<_> =
                waiting.into_iter().map(|message| self.message(window.life.incarnation, message)).collect();
            messages.iter().for_each(|message| window.add(message));
            let tbs = QsToQsTbs { messages };
            let signature = key.get().sign(SignatureLabel::QsToQs, &tbs);
            let frame = QsToQsFrame { messages: tbs.messages, signature };
            frames.send(frame.to_vec().into()).await.map_err(Trouble::failed)?;
        }
        Ok(())
    }

    fn message(&self, incarnation: Incarnation, Waiting { sequence, payload, .. }: Waiting) -> QsToQsMessage {
        let (source, destination) = (self.shared.parts.source.clone(), self.worker.domain.clone());
        QsToQsMessage { source, destination, incarnation, sequence, payload }
    }
}
