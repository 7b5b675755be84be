//! What a copy of the store opens, and what it does not: not what came before it, and not what comes after the next key
//! update. The copy is of everything, the key that wraps secrets included.

use super::*;
use crate::{
    base::{Domain, Timestamp},
    crypto::{at_rest::StorageKey, hpke::HpkePrivateKey, system_rng},
    service::{NoOthers, policy::Policy, work::Workers},
    store::{Limit, MemoryEngine, Options, Row, Store},
};

struct World {
    store: Store,
    domain: Domain,
    storage_key: StorageKey,
    policy: Policy,
    workers: Workers,
    now: Timestamp,
    id: QueueId,
    key: HpkePrivateKey,
    limits: QueueLimits,
}

const INCARNATION: Incarnation = [9; 16];

impl World {
    async fn start(limits: QueueLimits) -> Self {
        Self::over(QueueId::client(QsClientId([3; 16])), limits).await
    }

    async fn over(id: QueueId, limits: QueueLimits) -> Self {
        let mut world = Self {
            store: Store::open(MemoryEngine::new(), Options::new(|error| panic!("{error}"))).unwrap(),
            domain: "a.test".parse().unwrap(),
            storage_key: StorageKey::new(Secret::new([7; 32])),
            policy: Policy::default(),
            workers: Workers::for_this_machine(),
            now: Timestamp(1_790_000_000_000),
            id,
            key: HpkePrivateKey::generate(&mut system_rng()).unwrap(),
            limits,
        };
        let (id, key) = (world.id, world.key.public_key());
        world.change(async |context, batch| drop(Queue::create(id, &key, context, batch).unwrap())).await;
        world
    }

    async fn change(&mut self, change: impl AsyncFnOnce(&mut Context<'_>, &mut Batch)) {
        let mut rng = system_rng();
        let mut context = Context {
            domain: &self.domain,
            now: self.now,
            view: self.store.pending(),
            storage_key: &self.storage_key,
            incarnation: INCARNATION,
            policy: &self.policy,
            workers: &self.workers,
            others: &NoOthers,
            rng: &mut rng,
        };
        let mut batch = Batch::new();
        change(&mut context, &mut batch).await;
        self.store.submit(batch).unwrap().await.unwrap();
    }

    async fn append(&mut self, content: &[u8]) {
        let (id, limits) = (self.id, self.limits);
        self.change(async |context, batch| {
            let mut queue = Queue::load(id, context).await.unwrap().unwrap();
            assert!(queue.append(content, Class::Application, &limits, context, batch).unwrap());
        })
        .await;
    }

    /// Whether a message is taken, by a queue that may be full.
    async fn offer(&mut self, class: Class) -> bool {
        let (id, limits, mut accepted) = (self.id, self.limits, false);
        self.change(async |context, batch| {
            let mut queue = Queue::load(id, context).await.unwrap().unwrap();
            accepted = queue.append(b"message", class, &limits, context, batch).unwrap();
        })
        .await;
        accepted
    }

    /// The owner has taken everything in.
    async fn empty(&mut self) {
        let id = self.id;
        self.change(async |context, batch| {
            let mut queue = Queue::load(id, context).await.unwrap().unwrap();
            let next = queue.head.next;
            queue.acknowledge(next, None, &context.view, batch).await.unwrap();
        })
        .await;
    }

    async fn kinds(&self) -> Vec<EntryKind> {
        self.entries().await.into_iter().map(|entry| entry.kind).collect()
    }

    async fn bytes(&self) -> u64 {
        self.entries().await.iter().map(|entry| entry.ciphertext.as_slice().len() as u64).sum()
    }

    async fn entries(&self) -> Vec<QueueEntry> {
        read(self.id, INCARNATION, 0, 1_000, &self.store.durable()).await.unwrap().unwrap().entries
    }

    /// The ratchet as whoever has the disk and the storage key finds it now.
    async fn stolen(&self) -> (u64, Ratchet) {
        let row = self.store.durable().get(Table::Queues, &self.id.head_key()).await.unwrap().unwrap();
        let head: Head = record::decode(HEAD_VERSION, &row).unwrap();
        let state = self.storage_key.unwrap(&self.id.place(), &head.wrapped).unwrap();
        (head.next, Ratchet::from_secret(Secret::new(state[..32].try_into().unwrap())))
    }

    async fn tables(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for table in Table::ALL {
            rows.extend(self.store.durable().scan(*table, Key::new().., Limit::rows(1_000)).await.unwrap());
        }
        rows
    }
}

fn opens(ratchet: &Ratchet, entry: &QueueEntry) -> Option<(Ratchet, Vec<u8>)> {
    let aad = entry_aad(INCARNATION, entry.sequence, entry.kind.clone());
    ratchet.open(&aad, &entry.ciphertext).ok().map(|(next, content)| (next, content.to_vec()))
}

#[tokio::test]
async fn a_copy_of_the_store_opens_no_earlier_entry_and_none_after_the_next_key_update() {
    let mut world = World::start(QueueLimits { update_entries: 6, ..QueueLimits::default() }).await;
    for number in 0..3 {
        world.append(format!("before {number}").as_bytes()).await;
    }
    let (next, stolen) = world.stolen().await;
    for entry in world.entries().await {
        assert!(opens(&stolen, &entry).is_none(), "forward secrecy: entry {}", entry.sequence);
    }
    for number in 0..6 {
        world.append(format!("after {number}").as_bytes()).await;
    }
    let entries = world.entries().await;
    let update = entries.iter().position(|entry| entry.kind == EntryKind::KeyUpdate).unwrap();
    // Until then the copy is as good as the server.
    let mut ratchet = stolen;
    for entry in &entries[usize::try_from(next).unwrap()..update] {
        let (following, content) = opens(&ratchet, entry).expect("before the update");
        assert!(content.starts_with(b"after"));
        ratchet = following;
    }
    assert!(update > usize::try_from(next).unwrap() && update + 1 < entries.len(), "entries on both sides");
    for entry in &entries[update..] {
        assert!(opens(&ratchet, entry).is_none(), "post-compromise security: entry {}", entry.sequence);
    }
    // The owner reads on.
    let mut own = Ratchet::accept(&world.key, &entry_aad(INCARNATION, 0, EntryKind::Secret), &entries[0].ciphertext);
    let mut read = 0;
    for entry in &entries[1..] {
        let ratchet = own.as_ref().unwrap();
        let aad = entry_aad(INCARNATION, entry.sequence, entry.kind.clone());
        own = match entry.kind {
            EntryKind::KeyUpdate => ratchet.accept_update(&world.key, &aad, &entry.ciphertext),
            _ => ratchet.open(&aad, &entry.ciphertext).map(|(next, _)| {
                read += 1;
                next
            }),
        };
    }
    assert!(own.is_ok());
    assert_eq!(read, 9);
}

#[tokio::test]
async fn time_alone_brings_a_key_update() {
    let mut world = World::start(QueueLimits::default()).await;
    world.append(b"one").await;
    world.now = world.now.after(QueueLimits::default().update_after);
    world.append(b"two").await;
    assert_eq!(world.kinds().await, [EntryKind::Secret, EntryKind::Message, EntryKind::KeyUpdate, EntryKind::Message]);
}

#[tokio::test]
async fn no_row_tells_what_was_said_how_long_it_was_or_when() {
    let mut world = World::start(QueueLimits::default()).await;
    world.append(b"needle").await;
    let longer = [b"needle needle needle ".as_slice(), &[b'x'; 150]].concat();
    world.append(&longer).await;
    let rows = world.tables().await;
    let (millis, seconds) = (world.now.0.to_be_bytes(), world.now.seconds().to_be_bytes());
    let secret = world.stolen().await.1.secret().expose().to_vec();
    for needle in [&b"needle"[..], &millis, &seconds, &secret] {
        let found = rows.iter().any(|row| row.value.windows(needle.len()).any(|window| window == needle));
        assert!(!found, "{needle:02x?}");
    }
    let lengths: Vec<_> = world.entries().await[1..].iter().map(|entry| entry.ciphertext.as_slice().len()).collect();
    assert_eq!(lengths[0], lengths[1], "one size class");
}

/// The limits of clients' queues, and of those into which anybody may put something; the other kind's are no limits then.
fn limited(id: QueueId, entries: u64, bytes: u64) -> QueueLimits {
    let limits = QueueLimits { handshake_percent: 50, ..QueueLimits::default() };
    match id.kind {
        QueueId::CLIENT => QueueLimits { entries, bytes, direct_entries: 1, direct_bytes: 1, ..limits },
        _ => QueueLimits { direct_entries: entries, direct_bytes: bytes, entries: 1, bytes: 1, ..limits },
    }
}

fn ids() -> [QueueId; 3] {
    let user = crate::base::UserId { uuid: [3; 16], domain: "a.test".parse().unwrap() };
    let direct = QueueId::direct(&ClientId { user, client: [4; 16] });
    [QueueId::client(QsClientId([3; 16])), direct, QueueId::alias([5; 16])]
}

#[tokio::test]
async fn a_queue_that_is_full_takes_one_overflow_entry_and_handshake_messages_up_to_the_second_limit() {
    use EntryKind::{Message, Overflow, Secret};
    for id in ids() {
        let mut world = World::over(id, limited(id, 4, 1 << 30)).await;
        for _ in 0..3 {
            assert!(world.offer(Class::Application).await);
        }
        for _ in 0..3 {
            assert!(!world.offer(Class::Application).await, "the first limit");
        }
        let full = [Secret, Message, Message, Message, Overflow];
        assert_eq!(world.kinds().await, full, "one overflow entry");
        assert!(world.offer(Class::Handshake).await);
        assert!(!world.offer(Class::Application).await, "what is taken beyond the limit makes no room");
        for _ in 0..3 {
            assert!(!world.offer(Class::Handshake).await, "the second limit: half as much again");
        }
        assert_eq!(world.kinds().await, [&full[..], &[Message]].concat());
        // It is over when the owner has made room, and the next gap is told of again.
        world.empty().await;
        for _ in 0..4 {
            assert!(world.offer(Class::Application).await);
        }
        assert!(!world.offer(Class::Application).await);
        assert_eq!(world.kinds().await, [Message, Message, Message, Message, Overflow]);
        // Handshake messages alone fill it to the second limit at once, and their gap is told of too.
        world.empty().await;
        for _ in 0..6 {
            assert!(world.offer(Class::Handshake).await);
        }
        for _ in 0..2 {
            assert!(!world.offer(Class::Handshake).await);
        }
        assert_eq!(world.kinds().await, [vec![Message; 6], vec![Overflow]].concat());
    }
}

#[tokio::test]
async fn bytes_fill_a_queue_as_entries_do() {
    for id in ids() {
        let mut world = World::over(id, limited(id, 1_000, 1 << 30)).await;
        let secret = world.bytes().await;
        assert!(world.offer(Class::Application).await);
        let message = world.bytes().await - secret;
        let first = secret + 6 * message;
        let mut world = World::over(id, limited(id, 1_000, first)).await;
        for _ in 0..6 {
            assert!(world.offer(Class::Application).await);
        }
        assert_eq!(world.bytes().await, first);
        for _ in 0..2 {
            assert!(!world.offer(Class::Application).await);
        }
        assert_eq!(world.kinds().await.last(), Some(&EntryKind::Overflow));
        assert_eq!(world.entries().await.len(), 8);
        let mut before = world.bytes().await;
        let mut taken = 0;
        while world.offer(Class::Handshake).await {
            assert!(before * 2 < first * 3, "beyond the second limit: {before} of {first}");
            (before, taken) = (world.bytes().await, taken + 1);
        }
        assert!(taken > 0 && before * 2 >= first * 3, "{taken} taken, {before} of {first}");
        assert!(!world.offer(Class::Application).await);
        assert_eq!(world.bytes().await, before, "nothing more than the one overflow entry");
        world.empty().await;
        assert!(world.offer(Class::Application).await);
    }
}
