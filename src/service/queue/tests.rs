//! What a copy of the store opens, and what it does not: not what came before it, and not what comes after the next key
//! update. The copy is of everything, the key that wraps secrets included.

use super::*;
use crate::{
    base::{Domain, Timestamp},
    crypto::{at_rest::StorageKey, hpke::HpkePrivateKey, system_rng},
    service::{policy::Policy, work::Workers},
    store::{MemoryEngine, Options, Row, Store},
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
        let mut world = Self {
            store: Store::open(MemoryEngine::new(), Options::new(|error| panic!("{error}"))).unwrap(),
            domain: "a.test".parse().unwrap(),
            storage_key: StorageKey::new(Secret::new([7; 32])),
            policy: Policy::default(),
            workers: Workers::for_this_machine(),
            now: Timestamp(1_790_000_000_000),
            id: QueueId::client(QsClientId([3; 16])),
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

    async fn entries(&self) -> Vec<QueueEntry> {
        read(self.id, 0, 1_000, &self.store.durable()).await.unwrap().unwrap().entries
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
    let kinds: Vec<_> = world.entries().await.into_iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [EntryKind::Secret, EntryKind::Message, EntryKind::KeyUpdate, EntryKind::Message]);
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
