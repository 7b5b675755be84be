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

    /// The lock of what `key` names.
    pub fn name(&self, key: impl Hash) -> usize {
        self.hasher.hash_one(key) as usize % STRIPES
    }

    /// Waits for the locks of these names, in one order whoever asks, so that no two requests wait for each other. A
    /// request calls this once.
    pub async fn lock(&self, names: &[usize]) -> Vec<MutexGuard<'_, ()>> {
        let mut names = names.to_vec();
        names.sort_unstable();
        names.dedup();
        let mut guards = Vec::with_capacity(names.len());
        for name in names {
            guards.push(self.stripes[name].lock().await);
        }
        guards
    }
}
