//! The keys of other homeservers' QS, learnt once and kept: what is sealed to them has to be sealed while they cannot be
//! asked. They are learnt again with every connection, as they change while both run.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    base::{Cache, Domain, Timestamp},
    crypto::sha256,
    store::{Batch, EngineError, Key, KeyRange, Limit, Store, StoreError, Table, record},
    wire::{Decode, Encode, queuing::QueuingKeys},
};

const VERSION: u8 = 1;

/// Homeservers whose keys are kept in memory.
const CACHED: usize = 4_096;

/// Most bytes of one homeserver's keys, encoded: a few keys, of which one is used.
const MAX_KEYS_SIZE: usize = 4 << 10;

/// Rows looked at in one go.
const PAGE: usize = 1_000;

/// A row.
#[derive(Serialize, Deserialize)]
struct Stored {
    domain: String,
    /// An encoded [`QueuingKeys`].
    keys: ByteBuf,
    /// When they were learnt, in seconds.
    learnt: u64,
}

/// The keys that have been learnt.
pub struct Known {
    store: Store,
    cache: Mutex<Cache<Domain, Arc<QueuingKeys>>>,
}

impl Known {
    /// Those in the store.
    pub fn new(store: Store) -> Self {
        Self { store, cache: Mutex::new(Cache::new(CACHED)) }
    }

    /// The keys of the QS of `domain`, if they have been learnt.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn find(&self, domain: &Domain) -> Result<Option<Arc<QueuingKeys>>, StoreError> {
        if let Some(keys) = self.cache().get(domain) {
            return Ok(Some(keys.clone()));
        }
        let Some(row) = self.store.pending().get(Table::FedPeers, &row_key(domain)).await? else { return Ok(None) };
        let Stored { keys, .. } = record::decode(VERSION, &row).map_err(damaged)?;
        let keys = Arc::new(QueuingKeys::from_slice(&keys).map_err(damaged)?);
        self.cache().insert(domain.clone(), keys.clone());
        Ok(Some(keys))
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

    /// These are the keys now; durable when this returns. Those that are of no use change nothing.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn learn(&self, domain: &Domain, keys: QueuingKeys, now: Timestamp) -> Result<(), StoreError> {
        if !Self::are_of_use(&keys) || self.find(domain).await?.is_some_and(|known| *known == keys) {
            return Ok(());
        }
        let stored = Stored { domain: domain.to_string(), keys: keys.to_vec().into(), learnt: now.seconds() };
        let mut batch = Batch::new();
        batch.put(Table::FedPeers, row_key(domain), record::encode(VERSION, &stored).map_err(damaged)?);
        self.store.submit(batch)?.await?;
        self.cache().insert(domain.clone(), Arc::new(keys));
        Ok(())
    }

    fn cache(&self) -> MutexGuard<'_, Cache<Domain, Arc<QueuingKeys>>> {
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
