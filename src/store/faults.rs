//! Faults for tests and simulations: around any engine, writes can be made to fail before or after they took effect,
//! can be held back, and can be cut off for good, as by a crash.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{Engine, EngineError, KeyRange, Limit, Operation, Page, Read, Table};

/// An engine whose writes obey [`Faults`].
pub struct Faulty<E> {
    engine: E,
    faults: Faults,
}

/// Decides what becomes of writes. Clones decide together.
#[derive(Clone, Default)]
pub struct Faults(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Told when a write comes.
    arrived: Notify,
}

#[derive(Default)]
struct State {
    writes: u64,
    failing: BTreeMap<u64, Fault>,
    held: bool,
    /// Held writes that may go on all the same.
    passes: u64,
    /// Writes that are being held back.
    waiting: u64,
    crashed: bool,
}

/// How a write fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing of it took effect.
    Before,
    /// All of it took effect, but the writer does not learn so.
    After,
}

impl Faults {
    /// No faults yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts an engine under these faults.
    pub fn around<E: Engine>(&self, engine: E) -> Faulty<E> {
        Faulty { engine, faults: self.clone() }
    }

    /// Makes a write fail: the next one for 0, the one after it for 1, and so on.
    pub fn fail_write(&self, skip: u64, fault: Fault) {
        let mut state = self.lock();
        let number = state.writes + skip;
        state.failing.insert(number, fault);
    }

    /// Holds writes back until [`Faults::release`]. Not for a store that commits inline.
    pub fn hold(&self) {
        self.lock().held = true;
    }

    /// Waits until a write is being held back.
    pub async fn wait_until_held(&self) {
        loop {
            let arrived = self.0.arrived.notified();
            if self.lock().waiting > 0 {
                return;
            }
            arrived.await;
        }
    }

    /// Lets one write go on and holds the next ones back.
    pub fn release_one(&self) {
        self.lock().passes += 1;
        self.0.changed.notify_all();
    }

    /// Lets writes go on.
    pub fn release(&self) {
        self.lock().held = false;
        self.0.changed.notify_all();
    }

    /// The machine stops: this and all later writes fail and have no effect, also those that are held back. What was
    /// written stays in the engine.
    pub fn crash(&self) {
        self.lock().crashed = true;
        self.0.changed.notify_all();
    }

    /// How many writes there were, failed ones included.
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    /// Waits as long as writes are held; the fault of this write, or an error after a crash.
    fn admit(&self) -> Result<Option<Fault>, EngineError> {
        let mut state = self.lock();
        state.waiting += 1;
        self.0.arrived.notify_waiters();
        while state.held && state.passes == 0 && !state.crashed {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        state.passes = state.passes.saturating_sub(1);
        if state.crashed {
            return Err(EngineError::Io("the machine has stopped".into()));
        }
        let number = state.writes;
        state.writes += 1;
        Ok(state.failing.remove(&number))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock means a panic elsewhere, which is what has to be reported; the state stays usable.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Engine> Engine for Faulty<E> {
    fn get_now(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get_now(table, key)
    }

    fn get(&self, table: Table, key: &[u8]) -> Read<'_, Option<Bytes>> {
        self.engine.get(table, key)
    }

    fn scan(&self, table: Table, range: KeyRange, limit: Limit) -> Read<'_, Page> {
        self.engine.scan(table, range, limit)
    }

    fn write(&self, operations: &[Operation]) -> Result<(), EngineError> {
        let fault = self.faults.admit()?;
        if fault != Some(Fault::Before) {
            self.engine.write(operations)?;
        }
        if fault.is_some() { Err(EngineError::Io("a fault was injected".into())) } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.engine.flush()
    }

    fn snapshot(&self, into: &Path) -> Result<(), EngineError> {
        self.engine.snapshot(into)
    }

    fn purge(&self, table: Table) -> Result<(), EngineError> {
        self.engine.purge(table)
    }

    fn close(&self) -> Result<(), EngineError> {
        self.engine.close()
    }
}
