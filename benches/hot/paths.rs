//! The hot paths, each with what has to be there before and what is measured. Everything is what the homeserver does for an
//! application message of 1 KiB, on data that a homeserver in this process has made, and on one thread, so that counts of
//! instructions have all of it.

use std::{
    cell::Cell,
    pin::pin,
    rc::Rc,
    task::{self, Poll, Waker},
};

use bennu::{
    base::{Clock as _, Domain, GroupId, QsClientId, Refusal, SystemClock, limits::MAX_RESPONSE},
    crypto::{
        at_rest::StorageKey,
        hpke::HpkePrivateKey,
        proof::RequestContext,
        random, random_secret,
        ratchet::{Ratchet, entry_aad},
        signature::SigningKey,
        system_rng,
    },
    delivery::group::Group as Opened,
    dispatch::{Entropy, Service},
    node::system_entropy,
    service::{
        Class, Context, NoOthers, QueueId, Verified,
        policy::Policy,
        proof::{BoundKeys, Leaf, Presented},
        queue::{Queue as Stored, QueueLimits, read_entries},
        work::Workers,
    },
    store::{Batch, MemoryEngine, Options, Store},
    transport::{Connection, memory::Host},
    wire::{
        Authentication, Decode, Encode, Proof, Request, Response, SenderId,
        credential::SignaturePublicKey,
        delivery::{GroupAccess, SendMessage},
        envelope::LeafId,
        method::call,
        mls::PrivateMessage,
        queue::{EntryKind, FanOut, FanOutContent, QueueEntries, QueueEntry, QueueMessage},
    },
};
use bytes::Bytes;
use tokio::runtime::{self, Runtime};

use crate::support::{Group, Queue, homeserver_on};

/// Gives a macro the hot paths, each with a name for a function.
macro_rules! each_path {
    ($use:ident) => {
        $use! {
            decode: Decoding,
            dispatch: Dispatch,
            bound_proof: BoundProof,
            roster: Roster,
            ratchet_step: RatchetStep,
            queue_append: QueueAppend,
            frame_of_1: Frame<1>,
            frame_of_500: Frame<{ bennu::base::limits::MAX_DEQUEUE }>,
        }
    };
}
pub(crate) use each_path;

/// Something that is done for each message.
pub trait Path {
    /// What it is done with.
    type Input;
    /// What it gives.
    type Output;

    /// Sets up what is needed, which gives one input after the other.
    fn start() -> impl FnMut() -> Self::Input;

    /// Does it. What is left of the input is dropped by the caller, which is not measured.
    fn run(input: &mut Self::Input) -> Self::Output;
}

/// Octets in a message.
const CONTENT: usize = 1 << 10;

/// Groups of which a member's keys are bound to one connection.
const BOUND: usize = 100;

/// Members of the group whose head is opened.
const MEMBERS: usize = 100;

/// Messages after which a queue is emptied, or it would be full.
const KEPT: u64 = 10_000;

/// A homeserver in this process whose writes are made by whoever asks, and a group there in which a member can send.
struct Home {
    runtime: Runtime,
    /// Connections live as long as it does.
    _host: Host<Service>,
    store: Store,
    domain: Domain,
    group: Group,
    /// Of the other members.
    queues: Vec<Queue>,
}

fn store() -> Store {
    let options = Options { inline: true, ..Options::new(|error| panic!("{error}")) };
    Store::open(MemoryEngine::new(), options).expect("a store")
}

impl Home {
    /// With so many members.
    fn of(members: usize) -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let (store, domain) = (store(), "bench.test".parse::<Domain>().expect("a domain"));
        let (host, group, queues) = runtime.block_on(async {
            let host = homeserver_on(domain.clone(), store.clone()).await;
            let mut group = Group::create(host.connect()).await;
            let mut queues = Vec::new();
            for _ in 1..members {
                queues.push(Queue::create(&group.connection, &domain).await);
            }
            group.add(&queues.iter().map(|queue| queue.config.clone()).collect::<Vec<_>>()).await;
            group.bind().await;
            (host, group, queues)
        });
        Self { runtime, _host: host, store, domain, group, queues }
    }

    /// A request to send a message.
    fn request(&mut self) -> Bytes {
        let message = self.group.prepare_of(CONTENT);
        self.group.bound::<call::DsSendMessage>(&message)
    }
}

/// What the message is in a queue.
fn entry_content(home: &mut Home) -> Bytes {
    let content = FanOutContent::Application(home.group.prepare_of(CONTENT).message);
    QueueMessage::FanOut(FanOut { group: home.group.access.group.clone(), content }).to_vec().into()
}

/// What handlers of a homeserver are given.
pub struct Surroundings {
    store: Store,
    domain: Domain,
    storage_key: StorageKey,
    policy: Policy,
    workers: Workers,
    entropy: Entropy,
}

impl Surroundings {
    fn new(store: Store, domain: Domain) -> Self {
        Self {
            store,
            domain,
            storage_key: StorageKey::new(random_secret(&mut system_rng())),
            policy: Policy::default(),
            workers: Workers::inline(),
            entropy: system_entropy(),
        }
    }

    fn with<T>(&self, handle: impl FnOnce(&mut Context<'_>) -> T) -> T {
        handle(&mut Context {
            domain: &self.domain,
            now: SystemClock.now(),
            view: self.store.pending(),
            storage_key: &self.storage_key,
            incarnation: [1; 16],
            policy: &self.policy,
            workers: &self.workers,
            others: &NoOthers,
            rng: (self.entropy)().as_mut(),
        })
    }
}

/// What a future gives that has nothing to wait for: memory is read at once.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut task::Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("it is all in memory"),
    }
}

/// From the octets of a request to what the DS looks at: envelope, body, and the header of the MLS message.
pub struct Decoding;

impl Path for Decoding {
    type Input = Bytes;
    type Output = (Request, SendMessage, PrivateMessage);

    fn start() -> impl FnMut() -> Bytes {
        let request = Home::of(2).request();
        // Each has octets of its own, as they come from a stream.
        move || Bytes::copy_from_slice(&request)
    }

    fn run(input: &mut Bytes) -> Self::Output {
        let request = Request::from_bytes(std::mem::take(input)).expect("a request");
        let body = SendMessage::from_bytes(request.body.0.clone()).expect("a body");
        let message = PrivateMessage::from_bytes(body.message.0.clone()).expect("a message");
        (request, body, message)
    }
}

/// A message in a group of two from its request to the answer, by a member whose key is bound, over connection and storage in
/// memory; nobody listens.
pub struct Dispatch;

/// A request to be made.
pub struct Asking {
    home: Rc<Home>,
    accepted: Rc<Cell<u64>>,
    request: Bytes,
}

impl Path for Dispatch {
    type Input = Asking;
    type Output = Bytes;

    fn start() -> impl FnMut() -> Asking {
        let mut home = Home::of(2);
        let mut message = home.group.prepare_of(CONTENT);
        let (home, accepted, mut emptied) = (Rc::new(home), Rc::new(Cell::new(0)), 0);
        move || {
            if accepted.get() - emptied >= KEPT {
                emptied = accepted.get();
                // What comes before the first that is wanted is deleted.
                drop(home.runtime.block_on(home.queues[0].listen(emptied)));
            }
            message.idempotency_key = random(&mut system_rng());
            let request = home.group.bound::<call::DsSendMessage>(&message);
            Asking { home: home.clone(), accepted: accepted.clone(), request }
        }
    }

    fn run(Asking { home, accepted, request }: &mut Asking) -> Bytes {
        let connection: &Connection = &home.group.connection;
        let response = home.runtime.block_on(async {
            let exchange = connection.open().await.expect("a stream");
            exchange.request(std::mem::take(request), MAX_RESPONSE).await.expect("an answer")
        });
        accepted.set(accepted.get() + 1);
        Response::from_bytes(response).expect("a response").into_result().expect("it is accepted")
    }
}

/// Whether the key of a leaf is bound to the connection: one of a hundred, used in turn, so that it is always the one that was
/// not used for longest.
pub struct BoundProof;

/// Somebody who claims to send, and whose key it is.
pub struct Claim {
    bound: Rc<BoundKeys>,
    group: GroupId,
    auth: Vec<Authentication>,
    key: SignaturePublicKey,
}

impl Path for BoundProof {
    type Input = Claim;
    type Output = Result<Verified<Leaf>, Refusal>;

    fn start() -> impl FnMut() -> Claim {
        let key = |_| SigningKey::generate(&mut system_rng()).expect("a key").verifying_key();
        let keys: Vec<_> = (0..BOUND).map(key).collect();
        let bound = Rc::new(BoundKeys::default());
        keys.iter().for_each(|key| bound.insert(key.clone()));
        let group = GroupId { domain: "bench.test".parse().expect("a domain"), uuid: random(&mut system_rng()) };
        let mut keys = keys.into_iter().cycle();
        move || {
            let sender = SenderId::DsLeaf(LeafId { group: group.clone(), leaf: 0 });
            let auth = vec![Authentication { sender, proof: Proof::Bound }];
            Claim { bound: bound.clone(), group: group.clone(), auth, key: keys.next().expect("it has no end") }
        }
    }

    fn run(Claim { bound, group, auth, key }: &mut Claim) -> Self::Output {
        let context = RequestContext { method: 0, token: None, body: &[], binding: &[7; 32], stream: 0 };
        let presented = Presented { context, auth, bound };
        let leaf = presented.leaf(group)?;
        presented.prove(leaf, key)
    }
}

/// The stored head of a group of a hundred: read, decrypted and decoded.
pub struct Roster;

impl Path for Roster {
    type Input = (Rc<Surroundings>, GroupAccess);
    type Output = Opened;

    fn start() -> impl FnMut() -> Self::Input {
        let Home { store, domain, group, .. } = Home::of(MEMBERS);
        let (surroundings, access) = (Rc::new(Surroundings::new(store, domain)), group.access);
        move || (surroundings.clone(), access.clone())
    }

    fn run((surroundings, access): &mut Self::Input) -> Opened {
        let group = surroundings.with(|context| ready(Opened::open(context, access)));
        group.unwrap_or_else(|_| panic!("the group is here"))
    }
}

/// The step of a queue's ratchet, with the encryption of the entry that it is made for.
pub struct RatchetStep;

impl Path for RatchetStep {
    type Input = (Ratchet, Bytes);
    type Output = QueueEntry;

    fn start() -> impl FnMut() -> Self::Input {
        let content = entry_content(&mut Home::of(2));
        let ratchet = Ratchet::from_secret(random_secret(&mut system_rng()));
        move || (ratchet.clone(), content.clone())
    }

    fn run((ratchet, content): &mut Self::Input) -> QueueEntry {
        ratchet.seal(&entry_aad([1; 16], 7, EntryKind::Message), content)
    }
}

/// An entry added to a queue whose head is in memory: the ratchet's step, the entry, the head sealed anew.
pub struct QueueAppend;

/// A queue, and what is added to it.
pub struct Adding {
    surroundings: Rc<Surroundings>,
    queue: Stored,
    content: Bytes,
}

impl Adding {
    /// For a new queue, whose first rows are in the batch.
    fn to_new(batch: &mut Batch) -> (Self, QueueId) {
        let content = entry_content(&mut Home::of(2));
        let surroundings = Rc::new(Surroundings::new(store(), "bench.test".parse().expect("a domain")));
        let id = QueueId::client(QsClientId(random(&mut system_rng())));
        let key = HpkePrivateKey::generate(&mut system_rng()).expect("a key").public_key();
        let queue = surroundings.with(|context| Stored::create(id, &key, context, batch)).expect("a queue");
        (Self { surroundings, queue, content }, id)
    }

    fn add(&mut self, batch: &mut Batch) {
        let Self { surroundings, queue, content } = self;
        let limits = QueueLimits::default();
        let added = surroundings.with(|context| queue.append(content, Class::Application, &limits, context, batch));
        assert!(added.expect("it is added"));
    }
}

impl Path for QueueAppend {
    type Input = Adding;
    type Output = Batch;

    fn start() -> impl FnMut() -> Adding {
        let (Adding { surroundings, queue, content }, _) = Adding::to_new(&mut Batch::new());
        move || Adding { surroundings: surroundings.clone(), queue: queue.clone(), content: content.clone() }
    }

    fn run(adding: &mut Adding) -> Batch {
        let mut batch = Batch::new();
        adding.add(&mut batch);
        batch
    }
}

/// So many entries of a queue, read and put into a frame for whoever listens.
pub struct Frame<const ENTRIES: u32>;

impl<const ENTRIES: u32> Path for Frame<ENTRIES> {
    type Input = (Store, QueueId);
    type Output = Vec<u8>;

    fn start() -> impl FnMut() -> Self::Input {
        let mut batch = Batch::new();
        let (mut adding, id) = Adding::to_new(&mut batch);
        (0..ENTRIES).for_each(|_| adding.add(&mut batch));
        let store = adding.surroundings.store.clone();
        ready(store.submit(batch).expect("it is taken")).expect("it is written");
        move || (store.clone(), id)
    }

    fn run((store, id): &mut Self::Input) -> Vec<u8> {
        let head = 1 + u64::from(ENTRIES);
        let found = ready(read_entries(*id, 1..head, ENTRIES, &store.durable())).expect("it is read").expect("no gap");
        QueueEntries { incarnation: [1; 16], first: 1, head, entries: found.entries }.to_vec()
    }
}
