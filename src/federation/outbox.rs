//! What waits for other homeservers, by number, sealed to them: appended in the batch that it belongs to, read when it is
//! durable, deleted when they have it. One head for each homeserver says from where to where; heads are cached, and locked
//! while they change until the batch is submitted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tokio::sync::{Mutex, MutexGuard};

use super::known::{damaged, row_key};
use crate::{
    base::{Cache, Domain, Timestamp},
    store::{Batch, Key, KeyRange, Limit, Row, Store, StoreError, Table, record},
    wire::{federation::SealedForward, queue::Incarnation, queuing::HpkeKeyId},
};

const HEAD_VERSION: u8 = 3;
const ROW_VERSION: u8 = 1;

/// Row of [`Table::Meta`]: see [`Outbox::unused`].
const UNUSED: &str = "outbox numbers";

const SHARDS: usize = 16;

/// Heads kept per shard, at least.
const HEADS_PER_SHARD: usize = 256;

/// Lives of the store of which something may wait, beside the current one.
const MAX_EARLIER: usize = 8;

/// Heads looked at in one go.
const PAGE: usize = 1_000;

/// How much may wait for one homeserver.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages up to which application messages are taken.
    pub messages: u64,
    /// Bytes up to which application messages are taken.
    pub bytes: u64,
    /// How much further handshake messages may go, in percent of both.
    pub handshake_percent: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { messages: 1_000_000, bytes: 4 << 30, handshake_percent: 25 }
    }
}

/// What waits for a homeserver, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of the oldest message.
    pub first: u64,
    /// Number of the next one.
    pub next: u64,
    /// Bytes of all messages ever added.
    added: u64,
    /// Bytes of all messages ever deleted.
    removed: u64,
    /// Messages that were dropped because they waited for too long.
    pub expired: u64,
    /// Messages that the homeserver has acknowledged.
    pub delivered: u64,
    /// Lives of the store from before it was restored of which something waits, each with the number after its last message, the
    /// oldest first. The homeserver may have it already: it goes out under the incarnation that it had.
    earlier: Vec<(Incarnation, u64)>,
}

impl Head {
    /// Of a homeserver that nothing was ever sent to, or that was forgotten since.
    const fn new(first: u64) -> Self {
        Self { first, next: first, added: 0, removed: 0, expired: 0, delivered: 0, earlier: Vec::new() }
    }

    /// How many wait.
    pub const fn waiting(&self) -> u64 {
        self.next - self.first
    }

    /// Their bytes.
    pub const fn bytes(&self) -> u64 {
        self.added - self.removed
    }

    /// The incarnation under which the oldest message goes out, and the number after the last one that does; none if that is the
    /// store's, to whose messages there is no end.
    pub fn earliest(&self) -> Option<(Incarnation, u64)> {
        self.earlier.iter().find(|(_, end)| self.first < *end).copied()
    }

    fn takes(&self, limits: &Limits, is_handshake: bool) -> bool {
        let percent = 100 + if is_handshake { limits.handshake_percent } else { 0 };
        let below = |is: u64, most: u64| u128::from(is) * 100 < u128::from(most) * u128::from(percent);
        below(self.waiting(), limits.messages) && below(self.bytes(), limits.bytes)
    }
}

/// A head with whose it is, as stored.
#[derive(Serialize, Deserialize)]
struct StoredHead {
    domain: String,
    head: Head,
}

fn decode(row: &[u8]) -> Result<StoredHead, StoreError> {
    record::decode(HEAD_VERSION, row).map_err(damaged)
}

/// A message, as stored.
#[derive(Serialize, Deserialize)]
struct StoredMessage {
    /// When it was added, in seconds.
    added: u64,
    /// Bytes of all messages ever added, this one included.
    total: u64,
    key_id: HpkeKeyId,
    kem_output: ByteBuf,
    ciphertext: ByteBuf,
}

/// A message that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its number.
    pub sequence: u64,
    /// When it was added, in seconds.
    pub added: u64,
    /// What the homeserver is given.
    pub payload: SealedForward,
}

type Heads = Cache<Domain, Head>;

/// What waits for all homeservers.
pub struct Outbox {
    store: Store,
    limits: Limits,
    shards: Vec<Mutex<Heads>>,
}

/// The heads of some homeservers, locked until a batch is submitted.
pub struct Opened<'a> {
    outbox: &'a Outbox,
    guards: BTreeMap<usize, MutexGuard<'a, Heads>>,
    /// As they are once the batch is submitted; the cache learns of them then.
    changed: BTreeMap<Domain, Head>,
}

impl Outbox {
    /// What waits in a store.
    pub fn new(store: Store, limits: Limits) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(Cache::new(HEADS_PER_SHARD))).collect();
        Self { store, limits, shards }
    }

    /// Locks the heads of these homeservers.
    pub async fn open(&self, domains: impl Iterator<Item = &Domain> + Send) -> Opened<'_> {
        let mut shards: Vec<_> = domains.map(shard).collect();
        shards.sort_unstable();
        shards.dedup();
        let mut guards = BTreeMap::new();
        for shard in shards {
            // In ascending order, everywhere: no two requests wait for each other.
            guards.insert(shard, self.shards[shard].lock().await);
        }
        Opened { outbox: self, guards, changed: BTreeMap::new() }
    }

    /// What waits for a homeserver, in numbers.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn head(&self, domain: &Domain) -> Result<Head, StoreError> {
        let mut opened = self.open(std::iter::once(domain)).await;
        opened.head(domain).await
    }

    /// A number that no message to a homeserver had that was forgotten, and none after it. Whoever was forgotten may remember, and
    /// would take a number that it has had for something that it has.
    async fn unused(&self) -> Result<u64, StoreError> {
        let row = self.store.pending().get(Table::Meta, &Key::new().bytes(UNUSED)).await?;
        let Some(row) = row else { return Ok(0) };
        row[..].try_into().map(u64::from_be_bytes).map_err(|_| damaged("a number is not of eight bytes"))
    }

    /// When the oldest message that waits for a homeserver was added, in seconds; none if nothing waits.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn oldest(&self, domain: &Domain) -> Result<Option<u64>, StoreError> {
        let head = self.head(domain).await?;
        if head.waiting() == 0 {
            return Ok(None);
        }
        let range = KeyRange { from: message_key(domain, head.first), to: row_key(domain).prefix().to };
        let rows = self.store.pending().scan(Table::FedOutbox, range, Limit::rows(1)).await?;
        Ok(rows.into_iter().next().map(waiting).transpose()?.map(|oldest| oldest.added))
    }

    /// The homeservers that something was ever sent to, and what waits for each.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn heads(&self) -> Result<Vec<(Domain, Head)>, StoreError> {
        let (mut range, mut heads) = (KeyRange::from(Key::new()..), Vec::new());
        loop {
            let rows = self.store.pending().scan(Table::FedHeads, range, Limit::rows(PAGE)).await?;
            let Some(last) = rows.last() else { return Ok(heads) };
            range = KeyRange::from(last.key.successor()..);
            for row in rows {
                let StoredHead { domain, head } = decode(&row.value)?;
                heads.push((domain.parse().map_err(|_| damaged("a domain is none"))?, head));
            }
        }
    }

    /// The store goes on in another life than this one: what waits goes out as what it was.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn end_life(&self, incarnation: Incarnation) -> Result<(), StoreError> {
        for (domain, mut head) in self.heads().await? {
            if head.waiting() == 0 {
                continue;
            }
            if head.earlier.len() >= MAX_EARLIER {
                // It may arrive twice, which is better than not at all.
                head.earlier.remove(0);
            }
            head.earlier.push((incarnation, head.next));
            let (mut batch, mut opened) = (Batch::new(), self.open(std::iter::once(&domain)).await);
            opened.put(&domain, head, &mut batch)?;
            self.store.submit(batch)?.await?;
            opened.submitted();
        }
        Ok(())
    }

    /// Durable messages for a homeserver in order, from a number on, up to the limit.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn read(&self, domain: &Domain, from: u64, limit: Limit) -> Result<Vec<Waiting>, StoreError> {
        let range = KeyRange { from: message_key(domain, from), to: row_key(domain).prefix().to };
        self.store.durable().scan(Table::FedOutbox, range, limit).await?.into_iter().map(waiting).collect()
    }

    /// The homeserver has everything before `next`: that is deleted. Durable at some time, as doing it again does no harm.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn acknowledge(&self, domain: &Domain, next: u64) -> Result<(), StoreError> {
        self.forget(domain, next, false).await
    }

    /// Everything before `next` has waited for too long: that is deleted, and counted.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn expire(&self, domain: &Domain, next: u64) -> Result<(), StoreError> {
        self.forget(domain, next, true).await
    }

    async fn forget(&self, domain: &Domain, next: u64, is_loss: bool) -> Result<(), StoreError> {
        let mut opened = self.open(std::iter::once(domain)).await;
        let head = opened.head(domain).await?;
        let next = next.min(head.next);
        if next <= head.first {
            return Ok(());
        }
        let last = self.store.pending().get(Table::FedOutbox, &message_key(domain, next - 1)).await?;
        let last = last.ok_or_else(|| damaged("an outbox has a gap"))?;
        let last: StoredMessage = record::decode(ROW_VERSION, &last).map_err(damaged)?;
        let (gone, mut left) = (next - head.first, Head { first: next, removed: last.total, ..head });
        left.earlier.retain(|(_, end)| *end > next);
        *(if is_loss { &mut left.expired } else { &mut left.delivered }) += gone;
        let mut batch = Batch::new();
        batch.delete_range(Table::FedOutbox, message_key(domain, head.first), message_key(domain, next));
        opened.put(domain, left, &mut batch)?;
        // Whoever waits for nothing is not told of it; the store reports a failure by itself.
        drop(self.store.submit(batch)?);
        opened.submitted();
        Ok(())
    }
}

impl Opened<'_> {
    async fn head(&mut self, domain: &Domain) -> Result<Head, StoreError> {
        if let Some(head) = self.changed.get(domain) {
            return Ok(head.clone());
        }
        let heads = self.guards.get_mut(&shard(domain)).ok_or_else(|| damaged("a head is not locked"))?;
        if let Some(head) = heads.get(domain) {
            return Ok(head.clone());
        }
        let row = self.outbox.store.pending().get(Table::FedHeads, &row_key(domain)).await?;
        let stored = row.map(|row| decode(&row)).transpose()?;
        let head = stored.map(|stored| stored.head).unwrap_or_default();
        heads.insert(domain.clone(), head.clone());
        Ok(head)
    }

    fn put(&mut self, domain: &Domain, head: Head, batch: &mut Batch) -> Result<(), StoreError> {
        let stored = StoredHead { domain: domain.to_string(), head };
        batch.put(Table::FedHeads, row_key(domain), record::encode(HEAD_VERSION, &stored).map_err(damaged)?);
        self.changed.insert(domain.clone(), stored.head);
        Ok(())
    }

    /// Adds a message to the batch; `false` if too much waits already.
    ///
    /// # Errors
    /// [`StoreError`] if the head cannot be read.
    pub async fn append(
        &mut self,
        domain: &Domain,
        payload: SealedForward,
        is_handshake: bool,
        now: Timestamp,
        batch: &mut Batch,
    ) -> Result<bool, StoreError> {
        let limits = self.outbox.limits;
        let head = self.head(domain).await?;
        let head = if head == Head::default() { Head::new(self.outbox.unused().await?) } else { head };
        if !head.takes(&limits, is_handshake) {
            return Ok(false);
        }
        let SealedForward { key_id, kem_output, ciphertext } = payload;
        let total = head.added + ciphertext.as_slice().len() as u64;
        let message = StoredMessage {
            added: now.seconds(),
            total,
            key_id,
            kem_output: ByteBuf::from(kem_output.as_slice()),
            ciphertext: ByteBuf::from(ciphertext.as_slice()),
        };
        let row = record::encode(ROW_VERSION, &message).map_err(damaged)?;
        batch.put(Table::FedOutbox, message_key(domain, head.next), row);
        self.put(domain, Head { next: head.next + 1, added: total, ..head }, batch)?;
        Ok(true)
    }

    /// Adds to a batch that a homeserver is not known any more; `false` if something waits for it. One at a time.
    ///
    /// # Errors
    /// [`StoreError`] if the head cannot be read.
    pub async fn forget(&mut self, domain: &Domain, batch: &mut Batch) -> Result<bool, StoreError> {
        let head = self.head(domain).await?;
        if head.waiting() > 0 {
            return Ok(false);
        }
        let unused = self.outbox.unused().await?.max(head.next);
        batch.put(Table::Meta, Key::new().bytes(UNUSED), unused.to_be_bytes().to_vec());
        batch.delete(Table::FedHeads, row_key(domain));
        if let Some(heads) = self.guards.get_mut(&shard(domain)) {
            heads.remove(domain);
        }
        Ok(true)
    }

    /// The batch was submitted: gives the homeservers that there is something for when it is durable.
    pub fn submitted(mut self) -> Vec<Domain> {
        let changed = std::mem::take(&mut self.changed);
        for (domain, head) in &changed {
            if let Some(heads) = self.guards.get_mut(&shard(domain)) {
                heads.insert(domain.clone(), head.clone());
            }
        }
        changed.into_keys().collect()
    }
}

fn waiting(row: Row) -> Result<Waiting, StoreError> {
    let sequence = row.key.as_bytes().last_chunk().map(|number| u64::from_be_bytes(*number));
    let stored: StoredMessage = record::decode(ROW_VERSION, &row.value).map_err(damaged)?;
    let StoredMessage { added, key_id, kem_output, ciphertext, .. } = stored;
    let payload =
        SealedForward { key_id, kem_output: kem_output.into_vec().into(), ciphertext: ciphertext.into_vec().into() };
    Ok(Waiting { sequence: sequence.ok_or_else(|| damaged("a key is too short"))?, added, payload })
}

fn message_key(domain: &Domain, sequence: u64) -> Key {
    row_key(domain).u64(sequence)
}

fn shard(domain: &Domain) -> usize {
    row_key(domain).as_bytes().first().map_or(0, |first| usize::from(*first) % SHARDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryEngine, Options};

    #[tokio::test]
    async fn one_batch_may_have_something_for_more_homeservers_than_are_remembered() {
        let store = Store::open(MemoryEngine::new(), Options::new(|_| {})).unwrap();
        let outbox = Outbox::new(store.clone(), Limits::default());
        let payload = || SealedForward { key_id: [1; 8], kem_output: vec![1].into(), ciphertext: vec![1; 9].into() };
        let all = (0u32..).map(|number| format!("a{number}.test").parse::<Domain>().unwrap());
        let of_one_shard: Vec<_> = all.filter(|domain| shard(domain) == 0).take(3 * HEADS_PER_SHARD).collect();
        let (mut batch, mut opened) = (Batch::new(), outbox.open(of_one_shard.iter()).await);
        for _ in 0..2 {
            for domain in &of_one_shard {
                assert!(opened.append(domain, payload(), false, Timestamp(0), &mut batch).await.unwrap());
            }
        }
        store.submit(batch).unwrap().await.unwrap();
        assert_eq!(opened.submitted().len(), of_one_shard.len());
        for domain in &of_one_shard {
            let sequences = outbox.read(domain, 0, Limit::rows(9)).await.unwrap().into_iter().map(|row| row.sequence);
            assert_eq!((sequences.collect::<Vec<_>>(), outbox.head(domain).await.unwrap().waiting()), (vec![0, 1], 2));
        }
    }

    #[tokio::test]
    async fn what_is_not_submitted_leaves_no_trace() {
        let store = Store::open(MemoryEngine::new(), Options::new(|_| {})).unwrap();
        let (outbox, domain) = (Outbox::new(store, Limits::default()), "a.test".parse::<Domain>().unwrap());
        let payload = SealedForward { key_id: [1; 8], kem_output: vec![1].into(), ciphertext: vec![1; 9].into() };
        let (mut batch, mut opened) = (Batch::new(), outbox.open(std::iter::once(&domain)).await);
        assert!(opened.append(&domain, payload, false, Timestamp(0), &mut batch).await.unwrap());
        drop(opened);
        assert_eq!(outbox.head(&domain).await.unwrap(), Head::default());
    }
}
