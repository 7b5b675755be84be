//! Tests of the store: one suite that every engine must pass, and what is particular to RocksDB. Random tests print
//! their seed; `BENNU_SEED=<seed>` runs that one again.

mod model;
#[cfg(feature = "rocksdb")]
mod rocks;
mod suite;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::*;

/// An engine that can be opened again after its store was dropped.
trait Fixture {
    type Engine: Engine;
    fn new() -> Self;
    fn engine(&self) -> Self::Engine;
}

struct InMemory(MemoryEngine);

impl Fixture for InMemory {
    type Engine = MemoryEngine;

    fn new() -> Self {
        Self(MemoryEngine::new())
    }

    fn engine(&self) -> MemoryEngine {
        self.0.clone()
    }
}

#[cfg(feature = "rocksdb")]
struct InRocks(tempfile::TempDir);

#[cfg(feature = "rocksdb")]
impl Fixture for InRocks {
    type Engine = RocksEngine;

    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn engine(&self) -> RocksEngine {
        RocksEngine::open(self.0.path(), &RocksOptions { create: true, ..RocksOptions::default() }).unwrap()
    }
}

/// Names the tests that every engine must pass.
macro_rules! for_every_engine {
    ($($name:ident),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(<crate::store::tests::InMemory as crate::store::tests::Fixture>::new()).await;
            })*
        }
        #[cfg(feature = "rocksdb")]
        mod in_rocksdb {
            $(#[tokio::test]
            async fn $name() {
                super::$name(<crate::store::tests::InRocks as crate::store::tests::Fixture>::new()).await;
            })*
        }
    };
}
use for_every_engine;

/// The faults of a test's store. Lets go of writes when it is dropped, so that a test that fails does not hang.
struct Control(Faults);

impl std::ops::Deref for Control {
    type Target = Faults;

    fn deref(&self) -> &Faults {
        &self.0
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.release();
    }
}

/// A store under faults, and how often it reported a failure.
fn open(engine: impl Engine) -> (Store, Control, Arc<AtomicUsize>) {
    open_with(engine, |_| ())
}

fn open_with(engine: impl Engine, change: impl FnOnce(&mut Options)) -> (Store, Control, Arc<AtomicUsize>) {
    let (faults, failures) = (Faults::new(), Arc::new(AtomicUsize::new(0)));
    let counter = failures.clone();
    let mut options = Options::new(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    change(&mut options);
    (Store::open(faults.around(engine), options).unwrap(), Control(faults), failures)
}

fn key(number: u64) -> Key {
    Key::new().u64(number)
}

fn put(table: Table, number: u64, value: &'static str) -> Batch {
    let mut batch = Batch::new();
    batch.put(table, key(number), value);
    batch
}

async fn get(view: View, table: Table, number: u64) -> Option<String> {
    view.get(table, &key(number)).await.unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap())
}

async fn numbers(view: View, table: Table, range: impl Into<KeyRange>, limit: Limit) -> Vec<u64> {
    view.scan(table, range, limit).await.unwrap().iter().map(|row| row.key.reader().u64().unwrap()).collect()
}
