//! Clients against a homeserver's real services, in memory: the same services over the same transport as over QUIC, with
//! replies that get lost when a test wants it.

mod account;
mod across;
mod aliases;
mod blocking;
mod federation;
#[cfg(feature = "rocksdb")]
mod fixtures;
mod flows;
mod forks;
mod groups;
mod growth;
mod hostile;
mod impostors;
mod interop;
mod isolation;
mod lifetimes;
mod model;
mod offers;
mod push;
mod quic;
mod records;
mod refusals;
mod restored;
mod rules;
mod stops;
mod tokens;
mod world;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::{Notify, watch};

use super::*;
use crate::{
    base::{Refusal, Secret},
    crypto::{Rng, at_rest::StorageKey, system_rng},
    dispatch::{Dispatcher, Parts, Service, Session, connection_limits},
    node::life,
    service::{policy::Policy, queue::QueueLimits, work::Workers},
    store::{Change, Engine as _, Faults, Key, MemoryEngine, Operation, Options as StoreOptions, Store, Table},
    transport::{Connection, Handler, MethodRules, PeerInfo, Reply, Settings, memory::Host},
    wire::{Decode, Encode as _, Method, Request, Response, queue::Incarnation},
};

use world::World;

const INCARNATION: Incarnation = [9; 16];

const PASSWORD: &str = "correct horse battery staple";

/// A homeserver that can lose replies.
struct Lossy {
    dispatcher: RwLock<Arc<Dispatcher>>,
    /// Held while an exchange is under way.
    alive: tokio::sync::RwLock<()>,
    /// Told when the homeserver is killed.
    killed: watch::Sender<()>,
    connections: Mutex<Vec<Connection>>,
    /// Replies to this method get lost, so many of them.
    lose: Mutex<Option<(Method, usize)>>,
    /// The exchange that is never answered, counted from now on.
    hang: Mutex<Option<Hang>>,
    /// Only exchanges of this method are counted for that.
    hang_at: Mutex<Option<Method>>,
    hung: Notify,
    fail: Mutex<Option<Failing>>,
    /// Nonces of tokens that were sent, and those that were sent again.
    tokens: Mutex<(HashSet<[u8; 32]>, usize)>,
}

/// A request to a method that is answered as if the homeserver had failed, after so many others to it.
#[derive(Clone, Copy)]
struct Failing {
    method: Method,
    after: usize,
    carried_out: bool,
}

/// An exchange that is never answered.
#[derive(Clone, Copy)]
struct Hang {
    after: usize,
    carried_out: bool,
}

#[async_trait]
impl Handler for Lossy {
    type Session = <Service as Handler>::Session;

    fn rules(&self, method: u16) -> MethodRules {
        self.service().rules(method)
    }

    fn open(&self, peer: PeerInfo) -> Arc<Self::Session> {
        self.service().open(peer)
    }

    fn unsupported(&self, version: u16) -> Option<Bytes> {
        self.service().unsupported(version)
    }

    fn too_large(&self, method: u16, limit: usize) -> Bytes {
        self.service().too_large(method, limit)
    }

    fn backlog(&self) -> Duration {
        self.service().backlog()
    }

    fn overloaded(&self) -> Bytes {
        self.service().overloaded()
    }

    fn malformed(&self) -> Bytes {
        self.service().malformed()
    }

    async fn exchange(&self, session: &Arc<Self::Session>, stream: u64, request: Bytes) -> Reply {
        let mut killed = self.killed.subscribe();
        {
            let _alive = self.alive.read().await;
            tokio::select! {
                biased;
                _ = killed.changed() => {}
                reply = self.answer(session, stream, request) => return reply,
            }
        }
        std::future::pending().await
    }
}

impl Lossy {
    async fn answer(&self, session: &Arc<Session>, stream: u64, request: Bytes) -> Reply {
        let method = u16::from_be_bytes([request[2], request[3]]);
        if let Some(token) = Request::from_bytes(request.clone()).unwrap().token {
            let mut tokens = self.tokens.lock().unwrap();
            let is_new = tokens.0.insert(token.nonce);
            tokens.1 += usize::from(!is_new);
        }
        let hang = {
            let mut hang = self.hang.lock().unwrap();
            let counts = self.hang_at.lock().unwrap().is_none_or(|only| only as u16 == method);
            match &mut *hang {
                _ if !counts => None,
                Some(Hang { after: 0, .. }) => hang.take(),
                Some(Hang { after, .. }) => {
                    *after -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some(Hang { carried_out, .. }) = hang {
            if carried_out {
                self.service().exchange(session, stream, request).await;
            }
            self.hung.notify_one();
            return std::future::pending().await;
        }
        if let Some(Failing { carried_out, .. }) = self.failing(method) {
            if carried_out {
                self.service().exchange(session, stream, request).await;
            }
            return Reply::Once(Response::refused(&Refusal::internal("the store failed")).to_vec().into());
        }
        let reply = self.service().exchange(session, stream, request).await;
        let mut lose = self.lose.lock().unwrap();
        if let Some((wanted, left)) = &mut *lose
            && *wanted as u16 == method
            && *left > 0
        {
            *left -= 1;
            self.disconnect();
        }
        reply
    }

    fn service(&self) -> Service {
        Service(self.dispatcher.read().unwrap().clone())
    }

    /// Whether the request to this method is to fail.
    fn failing(&self, method: u16) -> Option<Failing> {
        let mut fail = self.fail.lock().unwrap();
        let next = fail.as_mut().filter(|fail| fail.method as u16 == method)?;
        if next.after == 0 {
            return fail.take();
        }
        next.after -= 1;
        None
    }

    fn disconnect(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            connection.close();
        }
    }
}

/// A homeserver in memory.
struct Homeserver {
    domain: Domain,
    world: Arc<World>,
    engine: MemoryEngine,
    life: Mutex<Life>,
    handler: Arc<Lossy>,
    host: Host<Lossy>,
    clock: Arc<dyn Clock>,
    incarnation: Mutex<Incarnation>,
}

/// From a start to a stop or a crash.
struct Life {
    store: Store,
    faults: Faults,
}

impl Life {
    fn begin(engine: &MemoryEngine) -> Self {
        let faults = Faults::new();
        let store = Store::open(faults.around(engine.clone()), StoreOptions::new(|_| ())).unwrap();
        Self { store, faults }
    }
}

impl Homeserver {
    async fn start() -> Arc<Self> {
        Self::start_with(QueueLimits::default()).await
    }

    async fn start_with(queue_limits: QueueLimits) -> Arc<Self> {
        Self::start_under(queue_limits, Policy::default(), Arc::new(SystemClock)).await
    }

    async fn start_under(queue_limits: QueueLimits, policy: Policy, clock: Arc<dyn Clock>) -> Arc<Self> {
        World::of_one().start("a.test", queue_limits, policy, clock).await
    }

    async fn start_in(
        world: Arc<World>,
        domain: Domain,
        queue_limits: QueueLimits,
        policy: Policy,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        Self::resume(world, domain, MemoryEngine::new(), INCARNATION, queue_limits, policy, clock).await
    }

    /// Starts on what is stored.
    async fn resume(
        world: Arc<World>,
        domain: Domain,
        engine: MemoryEngine,
        incarnation: Incarnation,
        queue_limits: QueueLimits,
        policy: Policy,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let life = Life::begin(&engine);
        let parts = Self::parts(&world, &domain, &life.store, queue_limits, policy, &clock);
        let parts = Parts { incarnation, ..parts };
        let dispatcher = Dispatcher::start(parts).await.unwrap();
        let handler = Arc::new(Lossy {
            dispatcher: RwLock::new(dispatcher),
            alive: tokio::sync::RwLock::default(),
            killed: watch::Sender::default(),
            connections: Mutex::default(),
            lose: Mutex::default(),
            hang: Mutex::default(),
            hang_at: Mutex::default(),
            hung: Notify::new(),
            fail: Mutex::default(),
            tokens: Mutex::default(),
        });
        let (life, host) = (Mutex::new(life), Host::new(handler.clone(), Settings::default()));
        let incarnation = Mutex::new(incarnation);
        Arc::new(Self { domain, world, engine, life, host, handler, clock, incarnation })
    }

    fn store(&self) -> Store {
        self.life.lock().unwrap().store.clone()
    }

    /// Starts anew on what is stored: nothing is left of what was in memory, connections included.
    async fn restart(&self) {
        self.restart_as(self.incarnation()).await;
    }

    /// The same, as after a restored backup if the incarnation is another.
    async fn restart_as(&self, incarnation: Incarnation) {
        *self.incarnation.lock().unwrap() = incarnation;
        self.end_exchanges(|| async move { self.parts_now() }).await;
    }

    /// Kills it: requests under way are never answered, and what is not durable is lost. Another starts on what is left.
    async fn kill(&self) {
        self.end_exchanges(|| async {
            self.life.lock().unwrap().faults.crash();
            // Whatever is being written now is written, or not.
            let _ = self.store().barrier().await;
            *self.life.lock().unwrap() = Life::begin(&self.engine);
            self.parts_now()
        })
        .await;
    }

    /// Nothing waits for other homeservers any more.
    async fn delivered(&self) {
        while self.dispatcher().federation_peers().await.unwrap().iter().any(|peer| peer.head.waiting() > 0) {
            tokio::task::yield_now().await;
        }
    }

    /// Nothing waits for this one any more.
    async fn delivered_to(&self, domain: &Domain) {
        let waits = |peer: &crate::federation::peers::Peer| peer.domain == *domain && peer.head.waiting() > 0;
        while self.dispatcher().federation_peers().await.unwrap().iter().any(waits) {
            tokio::task::yield_now().await;
        }
    }

    /// New users are certified by another intermediate, or by one of another root.
    async fn rotate(&self, root: bool) {
        let now = self.clock.now();
        let dispatcher = self.dispatcher();
        let change = dispatcher.change_keyring(|keys, context| match root {
            true => keys.rotate_root(context.domain, now, context.rng),
            false => keys.rotate_intermediate(now, context.rng),
        });
        change.await.unwrap();
    }

    /// Everything that is durable now.
    fn backup(&self) -> MemoryEngine {
        let backup = self.engine.snapshot();
        let row = |key: &str, value: Vec<u8>| Operation {
            table: Table::Meta,
            key: Key::new().bytes(key),
            change: Change::Put(value.into()),
        };
        let domain = self.domain.as_str().as_bytes().to_vec();
        backup.write(&[row("domain", domain), row("incarnation", self.incarnation().to_vec())]).unwrap();
        backup
    }

    fn incarnation(&self) -> Incarnation {
        *self.incarnation.lock().unwrap()
    }

    /// Destroys it, and restores a backup.
    async fn restore(&self, backup: &MemoryEngine) {
        self.end_exchanges(|| async {
            self.life.lock().unwrap().faults.crash();
            let _ = self.store().barrier().await;
            self.engine.go_back_to(backup);
            *self.life.lock().unwrap() = Life::begin(&self.engine);
            life::begin_another(&self.store()).await.unwrap();
            let (_, incarnation) = life::identity(&self.store()).await.unwrap().unwrap();
            *self.incarnation.lock().unwrap() = incarnation;
            self.parts_now()
        })
        .await;
    }

    /// Starts anew while no exchange is under way.
    async fn end_exchanges<F: Future<Output = Parts>>(&self, parts: impl FnOnce() -> F) {
        self.handler.killed.send_replace(());
        let _stopped = self.handler.alive.write().await;
        let dispatcher = Dispatcher::start(parts().await).await.unwrap();
        *self.handler.dispatcher.write().unwrap() = dispatcher;
        self.handler.disconnect();
    }

    fn parts_now(&self) -> Parts {
        let (limits, policy) = (QueueLimits::default(), Policy::default());
        let parts = Self::parts(&self.world, &self.domain, &self.store(), limits, policy, &self.clock);
        Parts { incarnation: self.incarnation(), ..parts }
    }

    fn parts(
        world: &Arc<World>,
        domain: &Domain,
        store: &Store,
        queue_limits: QueueLimits,
        policy: Policy,
        clock: &Arc<dyn Clock>,
    ) -> Parts {
        Parts {
            domain: domain.clone(),
            store: store.clone(),
            storage_key: StorageKey::new(Secret::new([7; 32])),
            incarnation: INCARNATION,
            clock: clock.clone(),
            entropy: Arc::new(|| Box::new(system_rng()) as Box<dyn Rng + Send + Sync>),
            queue_limits,
            policy: policy.into(),
            workers: Workers::for_this_machine(),
            max_wait: std::time::Duration::MAX,
            connection_limits: connection_limits(&Settings::default()),
            federation: world.federation(domain),
            outbox_limits: Default::default(),
            peer_settings: Default::default(),
        }
    }

    fn dispatcher(&self) -> Arc<Dispatcher> {
        self.handler.dispatcher.read().unwrap().clone()
    }

    fn lose(&self, method: Method, times: usize) {
        *self.handler.lose.lock().unwrap() = Some((method, times));
    }

    fn fail(&self, method: Method, after: usize, carried_out: bool) {
        *self.handler.fail.lock().unwrap() = Some(Failing { method, after, carried_out });
    }

    fn has_failed(&self) -> bool {
        self.handler.fail.lock().unwrap().is_none()
    }

    fn lost_all(&self) -> bool {
        self.handler.lose.lock().unwrap().as_ref().is_some_and(|(_, left)| *left == 0)
    }

    async fn register(self: &Arc<Self>, name: &str) -> User {
        let home = tempfile::tempdir().unwrap();
        let options = RegisterOptions {
            domain: self.domain.clone(),
            at: None,
            places: Vec::new(),
            ca: None,
            name: name.into(),
            password: PASSWORD.into(),
            invitation: None,
        };
        let client = Client::register_over(home.path(), options, self.connector(), self.options()).await.unwrap();
        User { home, client, server: self.clone() }
    }

    fn options(&self) -> Options {
        Options { clock: self.clock.clone(), ..patience() }
    }

    fn connector(&self) -> Arc<dyn Connector> {
        self.world.connector()
    }
}

fn patience() -> Options {
    Options { patience: Duration::from_secs(20), ..Options::default() }
}

/// A user with its client's home.
struct User {
    home: TempDir,
    client: Client,
    server: Arc<Homeserver>,
}

impl User {
    /// The process stops when the request `after` so many others has been sent, or carried out, and not been answered;
    /// another one then finds what it left. Whether it came so far.
    async fn stopped<F: Future<Output = ()> + Send + 'static>(
        self,
        hang: Hang,
        work: impl FnOnce(Client) -> F,
    ) -> (Self, bool) {
        *self.server.handler.hang.lock().unwrap() = Some(hang);
        let task = tokio::spawn(work(self.client.clone()));
        let abort = task.abort_handle();
        let stopped = tokio::select! {
            () = self.server.handler.hung.notified() => true,
            _ = task => false,
        };
        abort.abort();
        *self.server.handler.hang.lock().unwrap() = None;
        (self.reopen().await, stopped)
    }

    fn id(&self) -> UserId {
        self.client.whoami().0
    }

    /// The client as another process would find it.
    async fn reopen(self) -> Self {
        let Self { home, client, server } = self;
        drop(client);
        let client = Client::open_over(home.path(), server.connector(), server.options()).await.unwrap();
        Self { home, client, server }
    }

    /// The home as it is now, closed, as a backup would be; and the client that goes on with it.
    async fn copied(self) -> (Self, TempDir) {
        let Self { home, client, server } = self;
        drop(client);
        let copy = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(home.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        let client = Client::open_over(home.path(), server.connector(), server.options()).await.unwrap();
        (Self { home, client, server }, copy)
    }

    /// The client as it was when its home was copied.
    async fn restored(self, copy: TempDir) -> Self {
        let Self { client, server, .. } = self;
        drop(client);
        let client = Client::open_over(copy.path(), server.connector(), server.options()).await.unwrap();
        Self { home: copy, client, server }
    }

    async fn say(&self, chat: &GroupId, text: &str) {
        let receipt = self.client.send(chat, Content::Text(text.into())).await.unwrap();
        assert_eq!(receipt.unreached, 0);
    }

    /// Syncs, and takes all unread messages: who said what.
    async fn hear(&self) -> Vec<(String, String)> {
        self.client.sync().await.unwrap();
        self.read().await
    }

    async fn read(&self) -> Vec<(String, String)> {
        let unread = self.client.unread(10_000).await.unwrap();
        let numbers: Vec<_> = unread.iter().map(|message| message.id).collect();
        self.client.mark_read(&numbers).await.unwrap();
        let text = |content| match content {
            Content::Text(text) => text.0,
            Content::File(file) => file.name.0,
            Content::Friendship(_) => panic!("it is not for people"),
        };
        unread.into_iter().map(|message| (message.name, text(message.content))).collect()
    }

    async fn no_problems(&self) {
        assert_eq!(self.client.problems().await.unwrap(), Vec::new());
        assert_eq!(self.server.handler.tokens.lock().unwrap().1, 0, "tokens that were sent twice");
    }

    async fn state(&self, chat: &GroupId) -> ChatState {
        let chats = self.client.chats().await.unwrap();
        chats.into_iter().find(|view| view.chat == *chat).unwrap().state
    }
}

/// Makes two users contacts; returns their chat.
async fn befriend(a: &User, b: &User) -> GroupId {
    let chat = a.client.connect(&b.id()).await.unwrap();
    b.client.sync().await.unwrap();
    let requests = b.client.requests().await.unwrap();
    let request = requests.iter().find(|request| request.from == a.id()).unwrap();
    assert_eq!(b.client.accept(&request.id).await.unwrap(), chat);
    a.client.sync().await.unwrap();
    assert_eq!((a.state(&chat).await, b.state(&chat).await), (ChatState::Active, ChatState::Active));
    chat
}

fn said(who: &str, what: &str) -> (String, String) {
    (who.into(), what.into())
}
