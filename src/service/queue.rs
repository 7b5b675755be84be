//! Encrypted queues as state machines without I/O: a head (where entries are added, with the ratchet) and a tail (where
//! they are deleted), each one row, and the entries between them (`wire-spec/queues.md`).
//!
//! Every transition changes the state and adds the rows to a batch; the caller holds the queue's lock until the batch is
//! submitted, and forgets the state if it is not.

mod depths;
mod entries;
mod overview;

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Class, Context, Origin, damaged, store_failure};
use crate::{
    base::{ClientId, QsClientId, Refusal, Secret},
    crypto::ratchet::{Ratchet, entry_aad},
    store::{Batch, Key, Table, View, record},
    wire::{
        Decode, Encode, Reader,
        credential::HpkePublicKey,
        queue::{CurrentHead, EntryKind, Incarnation, QueueEntry},
        queuing::BlockedGroup,
    },
};

pub use depths::{Depths, depths};
pub use entries::{Found, read_entries};
pub use overview::{Overview, Part, read};

use entries::StoredEntry;

const HEAD_VERSION: u8 = 2;
const TAIL_VERSION: u8 = 1;
const BLOCKLIST_VERSION: u8 = 1;

/// Lives of the store of which a queue may have entries, beside the current one. A queue that nobody has fetched from through so
/// many restored backups loses what it held.
const MAX_EARLIER: usize = 8;

/// Most bytes of entries in one dequeue response or listen frame.
pub const MAX_FRAME: usize = 1 << 20;

/// Names a queue. The kinds share no names, and nothing joins them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId {
    kind: u8,
    id: [u8; 16],
}

impl QueueId {
    const DIRECT: u8 = 1;
    const CLIENT: u8 = 2;
    const ALIAS: u8 = 3;

    /// The direct queue of a client at the AS.
    pub const fn direct(client: &ClientId) -> Self {
        Self { kind: Self::DIRECT, id: client.client }
    }

    /// The queue of a client at the QS.
    pub const fn client(client: QsClientId) -> Self {
        Self { kind: Self::CLIENT, id: client.0 }
    }

    /// The queue of an alias at the AS, by the name that stands for the alias in the database.
    pub const fn alias(name: [u8; 16]) -> Self {
        Self { kind: Self::ALIAS, id: name }
    }

    /// A number by which queues can be spread evenly: ids are random.
    pub const fn spread(&self) -> u8 {
        self.id[15]
    }

    fn key(&self) -> Key {
        Key::new().u8(self.kind).bytes(self.id)
    }

    fn head_key(&self) -> Key {
        self.key().u8(0)
    }

    fn tail_key(&self) -> Key {
        self.key().u8(1)
    }

    fn blocklist_key(&self) -> Key {
        self.key().u8(2)
    }

    fn entry_key(&self, sequence: u64) -> Key {
        self.key().u64(sequence)
    }

    fn place(&self) -> [u8; 17] {
        let mut place = [self.kind; 17];
        place[1..].copy_from_slice(&self.id);
        place
    }
}

/// How full queues may get, and when their ratchets get fresh randomness.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Entries up to which application messages are taken.
    pub entries: u64,
    /// Bytes up to which application messages are taken.
    pub bytes: u64,
    /// Entries of a direct queue or an alias's, into which anybody may put something.
    pub direct_entries: u64,
    /// Bytes of a direct queue or an alias's.
    pub direct_bytes: u64,
    /// How much further handshake messages may go, in percent of both.
    pub handshake_percent: u64,
    /// A key update after so many entries,
    pub update_entries: u32,
    /// or after so much time.
    pub update_after: Duration,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            entries: 200_000,
            bytes: 1 << 30,
            direct_entries: 1_000,
            direct_bytes: 16 << 20,
            handshake_percent: 25,
            update_entries: 1_000,
            update_after: Duration::from_secs(24 * 3_600),
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Head {
    incarnation: Incarnation,
    queue_key: Vec<u8>,
    /// Number of the next entry.
    next: u64,
    /// Bytes of all entries ever added.
    bytes: u64,
    /// The ratchet's secret and [`Freshness`]: on disk in clear, times would tell which queues belong together.
    wrapped: Vec<u8>,
    /// Whether an overflow entry was written since the queue was last below its limit.
    overflowed: bool,
    /// Earlier lives of the store whose entries may not have been fetched, the oldest first.
    earlier: Vec<Era>,
}

/// What a queue has from one life of the store.
#[derive(Clone, Serialize, Deserialize)]
struct Era {
    incarnation: Incarnation,
    /// Number after the last entry.
    end: u64,
}

/// How fresh the randomness of a ratchet is.
#[derive(Clone, Copy)]
struct Freshness {
    /// When it was last updated, in milliseconds.
    updated: u64,
    /// Entries since then.
    entries: u32,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Tail {
    /// Number of the oldest entry.
    first: u64,
    /// Bytes of all entries ever deleted.
    bytes: u64,
}

/// The state of a queue.
#[derive(Clone)]
pub struct Queue {
    id: QueueId,
    head: Head,
    ratchet: Ratchet,
    freshness: Freshness,
    tail: Tail,
    /// Groups whose messages are dropped, in ascending order.
    blocked: Arc<[BlockedGroup]>,
}

impl Queue {
    /// A new queue: adds its head, its tail, and as its first entry the secret for the owner of `queue_key`.
    ///
    /// # Errors
    /// `malformed` if `queue_key` is no usable key.
    pub fn create(
        id: QueueId,
        queue_key: &HpkePublicKey,
        context: &mut Context<'_>,
        batch: &mut Batch,
    ) -> Result<Self, Refusal> {
        let head = Head {
            incarnation: context.incarnation,
            queue_key: queue_key.as_slice().to_vec(),
            next: 0,
            bytes: 0,
            wrapped: Vec::new(),
            overflowed: false,
            earlier: Vec::new(),
        };
        let mut queue = Self {
            id,
            head,
            // Replaced by the first entry, before anything is encrypted under it.
            ratchet: Ratchet::from_secret(Secret::new([0; 32])),
            freshness: Freshness { updated: 0, entries: 0 },
            tail: Tail::default(),
            blocked: Arc::default(),
        };
        batch.require_absent(Table::Queues, id.head_key());
        batch.put(Table::Queues, id.tail_key(), record::encode(TAIL_VERSION, &queue.tail).map_err(damaged)?);
        queue.begin(queue_key, context, batch)?;
        Ok(queue)
    }

    /// The stored state of a queue, if there is one.
    ///
    /// # Errors
    /// `internal` if it cannot be read.
    pub async fn load(id: QueueId, context: &Context<'_>) -> Result<Option<Self>, Refusal> {
        let Some(head) = context.record::<Head>(Table::Queues, &id.head_key(), HEAD_VERSION).await? else {
            return Ok(None);
        };
        let tail = context.record(Table::Queues, &id.tail_key(), TAIL_VERSION).await?;
        let tail = tail.ok_or_else(|| damaged("a queue without a tail"))?;
        let wrapped = context.storage_key.unwrap(&id.place(), &head.wrapped).map_err(damaged)?;
        let mut reader = Reader::new(wrapped);
        let secret = Secret::decode(&mut reader).map_err(damaged)?;
        let updated = u64::decode(&mut reader).map_err(damaged)?;
        let entries = u32::decode(&mut reader).map_err(damaged)?;
        reader.finish().map_err(damaged)?;
        let freshness = Freshness { updated, entries };
        let blocked = match id.kind {
            QueueId::CLIENT => context.record(Table::Queues, &id.blocklist_key(), BLOCKLIST_VERSION).await?,
            _ => None,
        };
        let blocked = blocked.map_or_else(Arc::default, Vec::<BlockedGroup>::into);
        Ok(Some(Self { id, head, ratchet: Ratchet::from_secret(secret), freshness, tail, blocked }))
    }

    /// Starts the ratchet anew if `queue_key` is another than before: adds a secret for its owner. What comes before that stays
    /// as it is.
    ///
    /// # Errors
    /// `malformed` if `queue_key` is no usable key, `quota_exceeded` for a queue that is full to its second limit.
    pub fn restart(
        &mut self,
        queue_key: &HpkePublicKey,
        limits: &QueueLimits,
        context: &mut Context<'_>,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        if self.head.queue_key == queue_key.as_slice() {
            return Ok(());
        }
        if self.fill_percent(limits) >= 100 + limits.handshake_percent {
            return Err(Refusal::quota_exceeded("the queue is full: fetch what it holds first"));
        }
        self.begin(queue_key, context, batch)
    }

    /// A queue from an earlier life of the store goes on in this one, with a new secret, so that no key and no number is used
    /// twice. What it held can be fetched under the incarnation in which it was added.
    ///
    /// # Errors
    /// `internal` if the state cannot be written.
    pub fn revive(&mut self, context: &mut Context<'_>, batch: &mut Batch) -> Result<(), Refusal> {
        if self.head.incarnation == context.incarnation {
            return Ok(());
        }
        let (first, next) = (self.tail.first, self.head.next);
        let earlier = std::mem::replace(&mut self.head.incarnation, context.incarnation);
        if self.head.earlier.len() < MAX_EARLIER {
            self.head.earlier.push(Era { incarnation: earlier, end: next });
        } else {
            batch.delete_range(Table::QueueEntries, self.id.entry_key(first), self.id.entry_key(next));
            self.head.earlier.clear();
            self.tail = Tail { first: next, bytes: self.head.bytes };
            batch.put(Table::Queues, self.id.tail_key(), record::encode(TAIL_VERSION, &self.tail).map_err(damaged)?);
        }
        self.head.overflowed = false;
        let queue_key = HpkePublicKey::from(&self.head.queue_key[..]);
        self.begin(&queue_key, context, batch)
    }

    /// The next entry is a new secret.
    fn begin(
        &mut self,
        queue_key: &HpkePublicKey,
        context: &mut Context<'_>,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        let aad = entry_aad(self.head.incarnation, self.head.next, EntryKind::Secret);
        let (ratchet, entry) = Ratchet::start(queue_key, &aad, context.rng)
            .map_err(|_| Refusal::malformed("the queue encryption key is not usable"))?;
        self.ratchet = ratchet;
        self.head.queue_key = queue_key.as_slice().to_vec();
        self.push(entry, batch);
        self.freshness = Freshness { updated: context.now.0, entries: 0 };
        self.persist(context, batch)
    }

    /// Replaces the blocklist, which is in ascending order.
    ///
    /// # Errors
    /// `internal` if it cannot be encoded.
    pub fn block(&mut self, blocked: Vec<BlockedGroup>, batch: &mut Batch) -> Result<(), Refusal> {
        if blocked.is_empty() {
            batch.delete(Table::Queues, self.id.blocklist_key());
        } else {
            let record = record::encode(BLOCKLIST_VERSION, &blocked).map_err(damaged)?;
            batch.put(Table::Queues, self.id.blocklist_key(), record);
        }
        self.blocked = blocked.into();
        Ok(())
    }

    /// Whether the owner does not want what comes from there.
    pub fn blocks(&self, origin: Option<&Origin>) -> bool {
        !self.blocked.is_empty() && origin.is_some_and(|origin| self.blocked.binary_search(&origin.name()).is_ok())
    }

    /// Adds a message, where the limits leave room for it: `false` if they do not. The first one refused leaves an
    /// overflow entry, so that the owner learns of the gap.
    ///
    /// # Errors
    /// `internal` if the state cannot be written.
    pub fn append(
        &mut self,
        content: &[u8],
        class: Class,
        limits: &QueueLimits,
        context: &mut Context<'_>,
        batch: &mut Batch,
    ) -> Result<bool, Refusal> {
        let full = self.fill_percent(limits);
        let accepted = match class {
            Class::Application => full < 100,
            Class::Handshake => full < 100 + limits.handshake_percent,
        };
        if !accepted && self.head.overflowed {
            return Ok(false);
        }
        self.refresh(limits, context, batch)?;
        if accepted {
            self.head.overflowed &= full >= 100;
            self.push_sealed(EntryKind::Message, content, batch);
        } else {
            self.head.overflowed = true;
            self.push_sealed(EntryKind::Overflow, &[], batch);
        }
        self.persist(context, batch)?;
        Ok(accepted)
    }

    /// Adds the end of a queue to the batch: its head, its tail and its entries.
    pub fn delete(id: QueueId, batch: &mut Batch) {
        for key in [id.head_key(), id.tail_key(), id.blocklist_key()] {
            batch.delete(Table::Queues, key);
        }
        let entries = id.key().prefix();
        batch.delete_range(Table::QueueEntries, entries.from, entries.to.unwrap_or_default());
    }

    /// Deletes what the owner no longer wants: everything before `next`, up to where there were `bytes` of all entries ever
    /// added, if that is known ([`Found::bytes`]).
    ///
    /// # Errors
    /// `malformed` beyond the head, with the head as detail; `internal` if the state cannot be read or written.
    pub async fn acknowledge(
        &mut self,
        next: u64,
        bytes: Option<u64>,
        view: &View,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        if next > self.head.next {
            let beyond = Refusal::malformed("the start lies beyond the head of the queue");
            return Err(beyond.with_detail(CurrentHead { head: self.head.next }.to_vec()));
        }
        if next <= self.tail.first {
            return Ok(());
        }
        let bytes = match bytes {
            Some(bytes) => bytes,
            None => {
                let last = view.get(Table::QueueEntries, &self.id.entry_key(next - 1)).await.map_err(store_failure)?;
                StoredEntry::decode(&last.ok_or_else(|| damaged("a queue with a gap"))?)?.bytes
            }
        };
        let first = std::mem::replace(&mut self.tail, Tail { first: next, bytes }).first;
        batch.put(Table::Queues, self.id.tail_key(), record::encode(TAIL_VERSION, &self.tail).map_err(damaged)?);
        // A few rows are cheaper to delete one by one than to cover with a range.
        if next - first <= 64 {
            for sequence in first..next {
                batch.delete(Table::QueueEntries, self.id.entry_key(sequence));
            }
        } else {
            batch.delete_range(Table::QueueEntries, self.id.entry_key(first), self.id.entry_key(next));
        }
        Ok(())
    }

    /// The number that the next entry will get.
    pub const fn next(&self) -> u64 {
        self.head.next
    }

    /// The queue's incarnation.
    pub const fn incarnation(&self) -> Incarnation {
        self.head.incarnation
    }

    fn fill_percent(&self, limits: &QueueLimits) -> u64 {
        let percent = |used: u64, limit: u64| used.saturating_mul(100) / limit.max(1);
        let (entries, bytes) = match self.id.kind {
            QueueId::DIRECT | QueueId::ALIAS => (limits.direct_entries, limits.direct_bytes),
            _ => (limits.entries, limits.bytes),
        };
        percent(self.head.next - self.tail.first, entries)
            .max(percent(self.head.bytes.saturating_sub(self.tail.bytes), bytes))
    }

    /// Mixes fresh randomness into the ratchet when it is time.
    fn refresh(&mut self, limits: &QueueLimits, context: &mut Context<'_>, batch: &mut Batch) -> Result<(), Refusal> {
        let age = Duration::from_millis(context.now.0.saturating_sub(self.freshness.updated));
        if self.freshness.entries < limits.update_entries && age < limits.update_after {
            return Ok(());
        }
        let aad = entry_aad(self.head.incarnation, self.head.next, EntryKind::KeyUpdate);
        let key = HpkePublicKey::from(&self.head.queue_key[..]);
        let entry = self.ratchet.update(&key, &aad, context.rng).map_err(damaged)?;
        self.push(entry, batch);
        self.freshness = Freshness { updated: context.now.0, entries: 0 };
        Ok(())
    }

    fn push_sealed(&mut self, kind: EntryKind, content: &[u8], batch: &mut Batch) {
        let aad = entry_aad(self.head.incarnation, self.head.next, kind);
        let entry = self.ratchet.seal(&aad, content);
        self.push(entry, batch);
    }

    fn push(&mut self, entry: QueueEntry, batch: &mut Batch) {
        self.head.bytes += entry.ciphertext.as_slice().len() as u64;
        let stored = StoredEntry { bytes: self.head.bytes, kind: entry.kind, ciphertext: entry.ciphertext };
        batch.put(Table::QueueEntries, self.id.entry_key(self.head.next), stored.encode());
        self.head.next += 1;
        self.freshness.entries = self.freshness.entries.saturating_add(1);
    }

    fn persist(&mut self, context: &mut Context<'_>, batch: &mut Batch) -> Result<(), Refusal> {
        let mut state = zeroize::Zeroizing::new(self.ratchet.secret().to_vec());
        self.freshness.updated.encode(&mut state);
        self.freshness.entries.encode(&mut state);
        self.head.wrapped = context.storage_key.wrap(&self.id.place(), &state, context.rng);
        // One that ends where the oldest entry is may be the one that the owner knows.
        self.head.earlier.retain(|era| era.end >= self.tail.first);
        batch.put(Table::Queues, self.id.head_key(), record::encode(HEAD_VERSION, &self.head).map_err(damaged)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
