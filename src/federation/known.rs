//! The keys of other homeservers' QS, learnt once and kept: what is sealed to them has to be sealed while they cannot be
//! asked. They are learnt again with every connection, as they change while both run.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::shares::Shares;
use crate::{
    base::{Cache, Domain, Timestamp},
    crypto::sha256,
    store::{Batch, EngineError, Key, KeyRange, Limit, Store, StoreError, Table, record},
    wire::{Decode, Encode, queuing::QueuingKeys},
};

const VERSION: u8 = 2;

/// Homeservers whose keys are kept in memory.
const CACHED: usize = 4_096;

/// Most bytes of one homeserver's keys, encoded: a few keys, of which one is used.
const MAX_KEYS_SIZE: usize = 4 << 10;

/// Rows looked at in one go.
const PAGE: usize = 1_000;

/// Most homeservers that are known, and of one registrable domain.
const MAX_KNOWN: usize = 100_000;
const MAX_KNOWN_OF_ONE: usize = 1_000;

/// How exact it is remembered when a homeserver was last dealt with.
const USED: Duration = Duration::from_secs(30 * 86_400);

/// How long a homeserver is remembered that there is nothing to do with: longer than any message waits (a year), and than
/// anything leads to it that was sealed to its keys.
const FORGOTTEN: Duration = Duration::from_secs(400 * 86_400);

/// A row.
#[derive(Serialize, Deserialize)]
struct Stored {
    domain: String,
    /// An encoded [`QueuingKeys`].
    keys: ByteBuf,
    /// When it was last dealt with, in seconds, 30 days more or less.
    used: u64,
}

/// What is known of a homeserver.
#[derive(Clone)]
struct Entry {
    keys: Arc<QueuingKeys>,
    used: u64,
}

/// The keys that have been learnt.
pub struct Known {
    store: Store,
    cache: Mutex<Cache<Domain, Entry>>,
    shares: Mutex<Shares>,
}

impl Known {
    /// Those in the store.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn open(store: Store, now: Timestamp) -> Result<Self, StoreError> {
        let known = Self { store, cache: Mutex::new(Cache::new(CACHED)), shares: Mutex::default() };
        known.date_rows(now).await?;
        for domain in known.all().await? {
            known.shares().add(&domain);
        }
        Ok(known)
    }

    /// Rows of version 1 say when the keys were learnt, and not when there was something to do with their homeserver: for all
    /// that is known that is now.
    async fn date_rows(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut range = KeyRange::from(Key::new()..);
        loop {
            let rows = self.store.pending().scan(Table::FedPeers, range, Limit::rows(PAGE)).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            range = KeyRange::from(last.key.successor()..);
            let mut batch = Batch::new();
            for row in rows {
                if record::version(&row.value).map_err(damaged)? == 1 {
                    let stored: Stored = record::decode(1, &row.value).map_err(damaged)?;
                    let dated = Stored { used: now.seconds(), ..stored };
                    batch.put(Table::FedPeers, row.key, record::encode(VERSION, &dated).map_err(damaged)?);
                }
            }
            self.store.submit(batch)?.await?;
        }
    }

    /// The keys of the QS of `domain`, if they have been learnt.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn find(&self, domain: &Domain) -> Result<Option<Arc<QueuingKeys>>, StoreError> {
        Ok(self.entry(domain).await?.map(|entry| entry.keys))
    }

    async fn entry(&self, domain: &Domain) -> Result<Option<Entry>, StoreError> {
        if let Some(entry) = self.cache().get(domain) {
            return Ok(Some(entry.clone()));
        }
        let Some(row) = self.store.pending().get(Table::FedPeers, &row_key(domain)).await? else { return Ok(None) };
        let Stored { keys, used, .. } = record::decode(VERSION, &row).map_err(damaged)?;
        let entry = Entry { keys: Arc::new(QueuingKeys::from_slice(&keys).map_err(damaged)?), used };
        self.cache().insert(domain.clone(), entry.clone());
        Ok(Some(entry))
    }

    /// Whether these are keys that can be kept and sealed to.
    pub fn are_of_use(keys: &QueuingKeys) -> bool {
        !keys.hpke_keys.is_empty() && keys.encoded_len() <= MAX_KEYS_SIZE
    }

    /// All homeservers whose keys have been learnt.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn all(&self) -> Result<Vec<Domain>, StoreError> {
        let (mut range, mut all) = (KeyRange::from(Key::new()..), Vec::new());
        loop {
            let rows = self.store.pending().scan(Table::FedPeers, range, Limit::rows(PAGE)).await?;
            let Some(last) = rows.last() else { return Ok(all) };
            range = KeyRange::from(last.key.successor()..);
            for row in rows {
                let Stored { domain, .. } = record::decode(VERSION, &row.value).map_err(damaged)?;
                all.push(domain.parse().map_err(|_| damaged("a domain is none"))?);
            }
        }
    }

    /// These are the keys now; durable when this returns. Those that are of no use change nothing. `false` if too many
    /// homeservers are known already, in all or, but for one that `is_named` by the operator, of its registrable domain.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn learn(
        &self,
        domain: &Domain,
        keys: QueuingKeys,
        is_named: bool,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let known = self.entry(domain).await?;
        if !Self::are_of_use(&keys) {
            return Ok(known.is_some());
        }
        if known.is_none() {
            let mut shares = self.shares();
            if shares.all() >= MAX_KNOWN || (shares.of(domain) >= MAX_KNOWN_OF_ONE && !is_named) {
                return Ok(false);
            }
            // Two may learn of it at once, and it counts twice until the next start: that is of no consequence.
            shares.add(domain);
        }
        match known {
            Some(known) if *known.keys == keys => self.touch(domain, now).await?,
            _ => self.put(domain, Entry { keys: Arc::new(keys), used: now.seconds() }).await?,
        }
        Ok(true)
    }

    /// There is something to do with a homeserver.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn touch(&self, domain: &Domain, now: Timestamp) -> Result<(), StoreError> {
        match self.entry(domain).await? {
            Some(known) if known.used + USED.as_secs() <= now.seconds() => {
                self.put(domain, Entry { used: now.seconds(), ..known }).await
            }
            _ => Ok(()),
        }
    }

    async fn put(&self, domain: &Domain, entry: Entry) -> Result<(), StoreError> {
        let stored = Stored { domain: domain.to_string(), keys: entry.keys.to_vec().into(), used: entry.used };
        let mut batch = Batch::new();
        batch.put(Table::FedPeers, row_key(domain), record::encode(VERSION, &stored).map_err(damaged)?);
        self.store.submit(batch)?.await?;
        self.cache().insert(domain.clone(), entry);
        Ok(())
    }

    /// The homeservers that there has been nothing to do with for 400 days.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn silent(&self, now: Timestamp) -> Result<Vec<Domain>, StoreError> {
        let mut silent = Vec::new();
        for domain in self.all().await? {
            let used = self.entry(&domain).await?.map_or(0, |known| known.used);
            if used + FORGOTTEN.as_secs() <= now.seconds() {
                silent.push(domain);
            }
        }
        Ok(silent)
    }

    /// Adds to a batch that a homeserver is not known any more.
    pub fn forget(&self, domain: &Domain, batch: &mut Batch) {
        batch.delete(Table::FedPeers, row_key(domain));
        self.cache().remove(domain);
        self.shares().remove(domain);
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        // Counters.
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache(&self) -> MutexGuard<'_, Cache<Domain, Entry>> {
        // The cache is whole between any two of its operations.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name of fixed length for a domain, by which its rows are found.
pub fn row_key(domain: &Domain) -> Key {
    Key::new().bytes(&sha256(domain.as_str().as_bytes())[..16])
}

/// A row that does not decode.
pub fn damaged(error: impl std::fmt::Display) -> StoreError {
    EngineError::Damaged(error.to_string()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryEngine, Options};

    #[tokio::test]
    async fn a_homeserver_that_was_learnt_long_ago_is_not_silent_for_that() {
        let store = Store::open(MemoryEngine::new(), Options::new(|_| {})).unwrap();
        let domain: Domain = "b.test".parse().unwrap();
        let keys = QueuingKeys { hpke_keys: Vec::new(), verifying_key: vec![1; 32][..].into(), push_key: None };
        // As version 1 has it: the last number is when the keys were learnt.
        let row = ("b.test", ByteBuf::from(keys.to_vec()), 1_u64);
        let mut batch = Batch::new();
        batch.put(Table::FedPeers, row_key(&domain), record::encode(1, &row).unwrap());
        store.submit(batch).unwrap().await.unwrap();
        let day = |day: u64| Timestamp(day * 86_400_000);
        for _ in 0..2 {
            let known = Known::open(store.clone(), day(10_000)).await.unwrap();
            assert_eq!(known.find(&domain).await.unwrap().as_deref(), Some(&keys));
            assert!(known.silent(day(10_399)).await.unwrap().is_empty());
        }
        let known = Known::open(store, day(10_400)).await.unwrap();
        assert_eq!(known.silent(day(10_400)).await.unwrap(), [domain]);
    }
}
