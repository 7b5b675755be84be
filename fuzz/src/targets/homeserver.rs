//! A whole homeserver over the in-memory engine: several callers send what it expects, the same again, the same changed, or
//! anything at all. After each step: nothing has panicked; a refusal has changed nothing; what was read was the reader's to
//! read; the numbers of queues have no gap and the epochs of groups do not go back.

#[path = "../../../benches/support/mod.rs"]
#[allow(dead_code, reason = "it is for benches, too")]
pub mod support;

use std::sync::Arc;

use bennu::{
    base::{AliasId, Domain, Secret, Status, SystemClock, limits::MAX_RESPONSE},
    crypto::{
        alias::Alias, at_rest::StorageKey, hpke::HpkePrivateKey, proof::RequestContext, signature::SigningKey,
        system_rng,
    },
    dispatch::{Dispatcher, Parts, Service, connection_limits},
    federation::Federation,
    service::{
        policy::{Policy, Tokens},
        queue::QueueLimits,
        work::Workers,
    },
    store::{MemoryEngine, Options, Store},
    transport::{Connection, Settings, memory},
    wire::{
        Authentication, Decode, Encode, Method, Proof, Request, Response, SenderId, VERSION,
        authentication::RegisterAlias,
        connection::{AliasPackage, DirectMessage},
        credential::{CIPHERSUITE, DayValidity, HpkeCiphertext},
        delivery::{ExternalCommitInfo, GetExternalCommitInfo},
        queue::{Dequeue, QueueEntries},
        queuing::{CreateQueuingUser, QueuingClient, QueuingUserCreated, UpdateBlocklist, UpdateQueuingClient},
    },
};
use bytes::Bytes;
use support::Group;

use super::input::Input;

/// Most of what there is of each kind, and steps.
const OWNERS: usize = 6;
const STEPS: usize = 48;
const CALLERS: usize = 3;

/// Somebody with a queue.
struct Owner {
    sender: SenderId,
    key: SigningKey,
    method: Method,
    /// The next number of its queue, as it was last told.
    head: u64,
}

/// What was sent once.
struct Sent {
    method: Method,
    body: Vec<u8>,
    /// Whose key proves it: an owner's, or the group's.
    by: Option<By>,
}

#[derive(Clone, Copy)]
enum By {
    Owner(usize),
    Member,
}

struct World {
    engine: MemoryEngine,
    callers: Vec<Connection>,
    owners: Vec<Owner>,
    sent: Vec<Sent>,
    group: Option<Group>,
    epoch: u64,
}

/// Octets as the steps of callers.
pub fn run(data: &[u8]) {
    super::block_on(async {
        let mut input = Input::new(data);
        let mut world = World::start().await;
        for _ in 0..STEPS {
            if input.is_over() {
                break;
            }
            world.step(&mut input).await;
        }
    });
}

fn domain() -> Domain {
    // Reason: a constant, which is a domain.
    "a.test".parse().expect("a domain")
}

async fn homeserver(engine: MemoryEngine) -> Vec<Connection> {
    let options = Options { inline: true, ..Options::new(|error| panic!("a write failed: {error}")) };
    let policy = Policy { tokens: Tokens { required: false, ..Tokens::default() }, ..Policy::default() };
    let dispatcher = Dispatcher::start(Parts {
        domain: domain(),
        store: Store::open(engine, options).expect("an engine in memory opens"),
        storage_key: StorageKey::new(Secret::new([7; 32])),
        incarnation: [1; 16],
        clock: Arc::new(SystemClock),
        entropy: Arc::new(|| Box::new(system_rng())),
        queue_limits: QueueLimits { entries: 12, direct_entries: 12, update_entries: 5, ..QueueLimits::default() },
        policy: policy.into(),
        workers: Workers::inline(),
        max_wait: std::time::Duration::MAX,
        connection_limits: connection_limits(&Settings::default()),
        federation: Federation::none(),
        outbox_limits: Default::default(),
        peer_settings: Default::default(),
    });
    let handler = Arc::new(Service(dispatcher.await.expect("it starts")));
    (0..CALLERS).map(|_| memory::connect(handler.clone())).collect()
}

impl World {
    async fn start() -> Self {
        let engine = MemoryEngine::new();
        let callers = homeserver(engine.clone()).await;
        Self { engine, callers, owners: Vec::new(), sent: Vec::new(), group: None, epoch: 0 }
    }

    async fn step(&mut self, input: &mut Input<'_>) {
        let caller = input.below(CALLERS);
        match input.below(12) {
            0 => self.make_user(caller).await,
            1 => self.make_alias(caller, input).await,
            2 | 3 => self.read(caller, input).await,
            4 => self.put_into(caller, input).await,
            5 => self.change_client(caller, input).await,
            6 => self.block(caller, input).await,
            7 => self.use_group(caller, input).await,
            8 => self.again(caller, input, false).await,
            9 => self.again(caller, input, true).await,
            10 => self.anything(caller, input).await,
            _ => self.callers = homeserver(self.engine.clone()).await,
        }
        self.look_at_group().await;
    }

    /// Sends a request; the body of its response, if it is accepted. A refusal changes nothing.
    async fn send(&self, caller: usize, sent: &Sent) -> Option<Bytes> {
        let connection = &self.callers[caller];
        let exchange = connection.open().await.expect("an exchange in memory");
        let Sent { method, body, by } = sent;
        let context = RequestContext {
            method: *method as u16,
            token: None,
            body,
            binding: connection.binding(),
            stream: exchange.id(),
        };
        let auth = match by {
            None => Vec::new(),
            Some(By::Owner(at)) => vec![context.sign(self.owners[*at].sender.clone(), &self.owners[*at].key)],
            Some(By::Member) => self.group.as_ref().map(|group| group.proof(&context)).into_iter().collect(),
        };
        let request =
            Request { version: VERSION, method: *method as u16, auth, token: None, body: body.clone().into() };
        self.exchange(exchange, request.to_vec().into()).await
    }

    async fn exchange(&self, exchange: bennu::transport::Exchange, request: Bytes) -> Option<Bytes> {
        let before = self.engine.snapshot();
        let answer = exchange.request(request, MAX_RESPONSE).await.expect("it answers");
        let response = Response::from_bytes(answer).expect("with a response");
        match response.into_result() {
            Ok(body) => Some(body),
            Err(refusal) => {
                assert_ne!(refusal.status, Status::Internal, "{}", refusal.message);
                assert!(self.engine == before, "refused ({}), and something has changed", refusal.message);
                None
            }
        }
    }

    async fn make_user(&mut self, caller: usize) {
        if self.owners.len() >= OWNERS {
            return;
        }
        let (key, client) = queuing_client();
        let friendship_token = Secret::new([self.owners.len() as u8; 32]);
        let create = CreateQueuingUser { auth_key: key.verifying_key(), friendship_token, client };
        let sent = Sent { method: Method::QsCreateUser, body: create.to_vec(), by: None };
        if let Some(made) = self.send(caller, &sent).await {
            let made = QueuingUserCreated::from_bytes(made).expect("as it is specified");
            let (sender, method) = (SenderId::QsClient(made.client), Method::QsDequeue);
            self.owners.push(Owner { sender, key, method, head: 0 });
        }
        self.sent.push(sent);
    }

    async fn make_alias(&mut self, caller: usize, input: &mut Input<'_>) {
        if self.owners.len() >= OWNERS {
            return;
        }
        let name = ["deputy", "grocer", "vendor"][input.below(3)];
        // Reason: constants, which are aliases.
        let id: AliasId = Alias::parse(name).expect("an alias").id(&domain());
        let key = SigningKey::generate(&mut system_rng()).expect("a key");
        let today = bennu::base::Clock::now(&SystemClock).day().0;
        let packages = vec![AliasPackage {
            ciphersuite: CIPHERSUITE,
            encryption_key: hpke_key(),
            validity: DayValidity { not_before: today, not_after: today + 9 },
        }];
        let register = RegisterAlias { alias: name.into(), key: key.verifying_key(), queue_key: hpke_key(), packages };
        self.owners.push(Owner { sender: SenderId::AsAlias(id), key, method: Method::AsDequeueAlias, head: 0 });
        let by = Some(By::Owner(self.owners.len() - 1));
        let sent = Sent { method: Method::AsRegisterAlias, body: register.to_vec(), by };
        if self.send(caller, &sent).await.is_none() {
            self.owners.pop();
        } else {
            self.sent.push(sent);
        }
    }

    /// Somebody reads a queue, with the key of whom it may be or of somebody else.
    async fn read(&mut self, caller: usize, input: &mut Input<'_>) {
        if self.owners.is_empty() {
            return;
        }
        let (whose, by) = (input.below(self.owners.len()), input.below(self.owners.len()));
        let incarnation = if input.below(4) == 0 { [9; 16] } else { [1; 16] };
        let dequeue = Dequeue { incarnation, start: input.below(16) as u64, max: input.below(9) as u32 };
        let (owner, reader) = (&self.owners[whose], &self.owners[by]);
        let connection = &self.callers[caller];
        let exchange = connection.open().await.expect("an exchange in memory");
        let (body, method) = (dequeue.to_vec(), owner.method as u16);
        let context =
            RequestContext { method, token: None, body: &body, binding: connection.binding(), stream: exchange.id() };
        // The key of one, in the name of the other.
        let auth = match input.below(8) {
            0 => vec![Authentication { sender: owner.sender.clone(), proof: Proof::Bound }],
            _ => vec![context.sign(owner.sender.clone(), &reader.key)],
        };
        let may =
            reader.key.verifying_key() == owner.key.verifying_key() && matches!(auth[0].proof, Proof::Signature(_));
        let request = Request { version: VERSION, method, auth, token: None, body: body.into() };
        let Some(found) = self.exchange(exchange, request.to_vec().into()).await else { return };
        assert!(may, "somebody reads another's queue");
        let QueueEntries { incarnation, first, head, entries } =
            QueueEntries::from_bytes(found).expect("as it is specified");
        assert_eq!(incarnation, [1; 16]);
        let from = entries.first().map_or(head, |entry| entry.sequence);
        assert!(first <= from && from <= head && head >= owner.head, "{first} {from} {head} {}", owner.head);
        assert!(entries.iter().zip(from..head).all(|(entry, number)| entry.sequence == number), "a gap");
        assert!(entries.len() as u64 <= head - from && entries.len() <= dequeue.max as usize);
        assert!(entries.is_empty() || dequeue.incarnation == incarnation && from == dequeue.start.max(first));
        self.owners[whose].head = head;
    }

    async fn put_into(&mut self, caller: usize, input: &mut Input<'_>) {
        let aliases = self.owners.iter().filter_map(|owner| match owner.sender {
            SenderId::AsAlias(alias) => Some(alias),
            _ => None,
        });
        let Some(alias) = aliases.last() else { return };
        let sealed = HpkeCiphertext { kem_output: vec![1; 32].into(), ciphertext: input.octets(40).into() };
        let message = DirectMessage { key_hash: [1; 32], sealed };
        let body = bennu::wire::authentication::EnqueueAlias { alias, message }.to_vec();
        let sent = Sent { method: Method::AsEnqueueAlias, body, by: None };
        self.send(caller, &sent).await;
        self.sent.push(sent);
    }

    /// A client of the QS takes another key.
    async fn change_client(&mut self, caller: usize, input: &mut Input<'_>) {
        let Some(at) = self.some_client(input) else { return };
        let (key, client) = queuing_client();
        let body = UpdateQueuingClient { client }.to_vec();
        let sent = Sent { method: Method::QsUpdateClient, body, by: Some(By::Owner(at)) };
        if self.send(caller, &sent).await.is_some() {
            self.owners[at].key = key;
        }
    }

    async fn block(&mut self, caller: usize, input: &mut Input<'_>) {
        let Some(at) = self.some_client(input) else { return };
        let blocked = (0..input.below(4)).map(|_| [input.octet(); 32]).collect();
        let body = UpdateBlocklist { blocked }.to_vec();
        let sent = Sent { method: Method::QsUpdateBlocklist, body, by: Some(By::Owner(at)) };
        self.send(caller, &sent).await;
        self.sent.push(sent);
    }

    fn some_client(&self, input: &mut Input<'_>) -> Option<usize> {
        let clients = self.owners.iter().enumerate().filter(|(_, owner)| owner.method == Method::QsDequeue);
        let clients: Vec<_> = clients.map(|(at, _)| at).collect();
        (!clients.is_empty()).then(|| clients[input.below(clients.len())])
    }

    /// A group of one: made, sent to, and changed.
    async fn use_group(&mut self, caller: usize, input: &mut Input<'_>) {
        let Some(group) = &mut self.group else {
            self.group = Some(Group::create(self.callers[caller].clone()).await);
            return;
        };
        group.connection = self.callers[caller].clone();
        let (method, body, is_commit) = match input.below(3) {
            0 => (Method::DsSendMessage, group.prepare().to_vec(), false),
            _ => {
                let commit = group.commit(Vec::new(), Vec::new(), true).0;
                let update = bennu::wire::delivery::UpdateClient { commit, queue_config: None };
                (Method::DsUpdateClient, update.to_vec(), true)
            }
        };
        let sent = Sent { method, body, by: Some(By::Member) };
        let is_accepted = self.send(caller, &sent).await.is_some();
        if let Some(group) = self.group.as_mut().filter(|_| is_commit) {
            if is_accepted {
                group.merge();
            } else {
                group.drop_commit();
            }
        }
        self.sent.push(sent);
    }

    /// Something that was sent before, perhaps changed.
    async fn again(&mut self, caller: usize, input: &mut Input<'_>, is_changed: bool) {
        if self.sent.is_empty() {
            return;
        }
        let Sent { method, body, by } = &self.sent[input.below(self.sent.len())];
        let mut body = body.clone();
        if is_changed && !body.is_empty() {
            for _ in 0..=input.below(3) {
                let at = (input.below(256) << 8 | input.below(256)) % body.len();
                body[at] ^= input.octet().max(1);
            }
        }
        // A member's key may have changed since; whoever was an owner may be none.
        let by = by.filter(|by| !matches!(by, By::Owner(at) if *at >= self.owners.len()));
        let sent = Sent { method: *method, body, by };
        // What registers or creates by a changed request belongs to nobody here.
        self.send(caller, &sent).await;
    }

    /// Any octets as a request to any method, or as a whole request.
    async fn anything(&mut self, caller: usize, input: &mut Input<'_>) {
        let exchange = self.callers[caller].open().await.expect("an exchange in memory");
        let method = Method::ALL[input.below(Method::ALL.len())];
        if method.shape() == bennu::wire::method::Shape::Streaming {
            return;
        }
        let body = input.octets(64);
        let request =
            Request { version: VERSION, method: method as u16, auth: Vec::new(), token: None, body: body.into() };
        self.exchange(exchange, request.to_vec().into()).await;
    }

    /// The group's epoch does not go back, whatever was sent.
    async fn look_at_group(&mut self) {
        let Some(group) = &self.group else { return };
        let body = GetExternalCommitInfo { access: group.access.clone() }.to_vec();
        let sent = Sent { method: Method::DsExternalCommitInfo, body, by: Some(By::Member) };
        let Some(info) = self.send(0, &sent).await else { return };
        let info = ExternalCommitInfo::from_bytes(info).expect("as it is specified");
        let epoch = support::epoch_of(info.group_info.as_slice());
        assert!(epoch >= self.epoch && epoch <= self.epoch + 1, "from epoch {} to {epoch}", self.epoch);
        self.epoch = epoch;
    }
}

fn queuing_client() -> (SigningKey, QueuingClient) {
    let key = SigningKey::generate(&mut system_rng()).expect("a key");
    let client = QueuingClient { auth_key: key.verifying_key(), queue_key: hpke_key(), push_token: None };
    (key, client)
}

fn hpke_key() -> bennu::wire::credential::HpkePublicKey {
    HpkePrivateKey::generate(&mut system_rng()).expect("a key").public_key()
}
