//! One request at a time per thing it changes: striped locks, so that their number is bounded. Held from the first read
//! until the batch is submitted, not until it is durable.

use std::hash::{BuildHasher, Hash, RandomState};

use tokio::sync::{Mutex, MutexGuard};

const STRIPES: usize = 1024;

/// The locks of a node.
pub struct Locks {
    stripes: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Locks {
    /// None is held.
    pub fn new() -> Self {
        Self { stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(), hasher: RandomState::new() }
    }

    /// Waits for the lock of what `key` names. A request takes one lock at most.
    pub async fn lock(&self, key: impl Hash) -> MutexGuard<'_, ()> {
        let stripe = self.hasher.hash_one(key) as usize % STRIPES;
        self.stripes[stripe].lock().await
    }
}
