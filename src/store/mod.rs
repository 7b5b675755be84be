//! The store: ordered tables with atomic, durable batches. Handlers read through a [`View`], submit one [`Batch`] and
//! wait for its [`Commit`]; one committer merges what is waiting into one synced write. Databases sit behind [`Engine`],
//! the only seam: RocksDB for a real server, memory for tests and simulations.
//!
//! Order of submission is the order on disk. A row of a submitted batch is visible in [`Store::pending`] at once and in
//! [`Store::durable`] when it would survive a crash. A reply that rests on pending rows waits for [`Store::barrier`].

mod batch;
mod catalogue;
mod committer;
mod engine;
mod faults;
mod key;
mod memory;
mod meters;
#[cfg(any(feature = "rocksdb", test))]
mod migration;
mod overlay;
pub mod record;
#[cfg(feature = "rocksdb")]
mod rocks;
#[cfg(test)]
mod tests;
mod timed;
mod view;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

pub use batch::{Batch, Change, Operation};
pub use catalogue::{Shape, Table};
pub use committer::Commit;
pub use engine::{Engine, EngineError, Figure, Limit, Page, Read, Row};
pub use faults::{Fault, Faults, Faulty};
pub use key::{Key, KeyError, KeyRange, KeyReader};
pub use memory::MemoryEngine;
pub use meters::Meters;
#[cfg(feature = "rocksdb")]
pub use rocks::{OpenError, RESTORING, RocksEngine, RocksOptions, is_of_database};
pub use timed::Timed;
pub use view::View;

use committer::Committer;

/// How a store commits.
pub struct Options {
    /// Commit inside `submit` instead of on a thread, for simulations on virtual time. Batches are durable at once.
    pub inline: bool,
    /// Batches that may be submitted and not yet durable.
    pub max_outstanding_batches: usize,
    /// Their size in bytes. One batch alone may exceed it.
    pub max_outstanding_bytes: usize,
    /// Called once when a write has failed, before anybody who waits is answered. A node ends its process here.
    pub on_failure: Box<dyn Fn(&EngineError) + Send + Sync>,
}

impl Options {
    /// The defaults, with what to do when a write has failed.
    pub fn new(on_failure: impl Fn(&EngineError) + Send + Sync + 'static) -> Self {
        Self {
            inline: false,
            max_outstanding_batches: 16 << 10,
            max_outstanding_bytes: 128 << 20,
            on_failure: Box::new(on_failure),
        }
    }
}

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A precondition of the batch does not hold; nothing was submitted.
    #[error("a precondition of the batch does not hold")]
    Conflict,
    /// Too much is waiting for the disk; nothing was submitted.
    #[error("too much is waiting to be written")]
    Overloaded,
    /// A write has failed, this one or an earlier one; whether this one is on disk is not known.
    #[error("the store has failed")]
    Failed,
    /// The store is being closed; nothing was submitted.
    #[error("the store is closed")]
    Closed,
    /// The engine could not read.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A handle on the database. Cheap to clone. Dropping the last one writes what was submitted; [`Store::close`] does the
/// same without blocking and tells how it went.
#[derive(Clone)]
pub struct Store(Arc<Committer>);

impl Store {
    /// Puts a store on an engine.
    pub fn open(engine: impl Engine, options: Options) -> Result<Self, StoreError> {
        Ok(Self(Arc::new(Committer::start(Arc::new(engine), options)?)))
    }

    /// Submits a batch: checks its preconditions against everything submitted before, makes it visible in
    /// [`Store::pending`] and queues it for the disk. On an error nothing was submitted.
    ///
    /// Never waits for the disk (except with [`Options::inline`]), so locks may be held around it.
    pub fn submit(&self, batch: Batch) -> Result<Commit, StoreError> {
        self.0.submit(batch)
    }

    /// Resolves when everything submitted so far is durable; at once if nothing is outstanding.
    pub fn barrier(&self) -> Commit {
        self.0.barrier()
    }

    /// For how long the oldest of what was submitted and is not durable has waited: about as long as what is submitted now will.
    pub fn backlog(&self) -> Duration {
        self.0.backlog()
    }

    /// What it has measured of itself.
    pub fn meters(&self) -> &Meters {
        self.0.meters()
    }

    /// What the engine says of itself (see [`Engine::figures`]).
    pub fn figures(&self) -> Vec<Figure> {
        self.0.engine().figures()
    }

    /// Reads everything submitted so far.
    pub fn pending(&self) -> View {
        View::pending(self.0.clone())
    }

    /// Reads what is durable only.
    pub fn durable(&self) -> View {
        View::durable(self.0.clone())
    }

    /// Lets the write-ahead log go (see [`Engine::flush`]). Blocks; a background job calls it on a blocking thread.
    pub fn flush(&self) -> Result<(), StoreError> {
        Ok(self.0.engine().flush()?)
    }

    /// Leaves nothing of what was overwritten or deleted in a table (see [`Engine::purge`]).
    ///
    /// # Errors
    /// [`StoreError`] if the engine fails.
    pub async fn purge(&self, table: Table) -> Result<(), StoreError> {
        let store = self.clone();
        let purged = tokio::task::spawn_blocking(move || store.0.engine().purge(table)).await;
        let unfinished = |error| EngineError::Io(format!("a purge did not finish: {error}"));
        Ok(purged.unwrap_or_else(|error| Err(unfinished(error)))?)
    }

    /// Makes a directory with the files of the database as of one moment (see [`Engine::snapshot`]): whatever is durable when this
    /// is called is in it.
    ///
    /// # Errors
    /// [`StoreError`] if the engine fails.
    pub async fn snapshot(&self, into: PathBuf) -> Result<(), StoreError> {
        let store = self.clone();
        let made = tokio::task::spawn_blocking(move || store.0.engine().snapshot(&into)).await;
        let unfinished = |error| EngineError::Io(format!("a snapshot did not finish: {error}"));
        Ok(made.unwrap_or_else(|error| Err(unfinished(error)))?)
    }

    /// Refuses further batches, waits until what was submitted is durable, and ends the committer. Views stay readable.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.0.close().await?;
        self.0.join();
        Ok(self.0.engine().close()?)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}
