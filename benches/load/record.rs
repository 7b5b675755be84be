//! What a homeserver writes for something: the same request handlers in this process, over an engine that remembers.

use std::{
    future::Future,
    sync::{Arc, Mutex},
};

use bennu::{
    base::Domain,
    dispatch::Service,
    store::{Engine, EngineError, KeyRange, Limit, MemoryEngine, Operation, Page, Read, Store, Table},
    transport::memory::Host,
};
use bytes::Bytes;

use crate::{
    floors::committer::{Recording, Write},
    support::homeserver,
};

/// The in-memory engine, and what was written to it.
#[derive(Clone)]
struct Remembering {
    engine: MemoryEngine,
    written: Arc<Mutex<Vec<Vec<Write>>>>,
}

impl Engine for Remembering {
    fn get_now(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get_now(table, key)
    }

    fn scan(&self, table: Table, range: KeyRange, limit: Limit) -> Read<'_, Page> {
        self.engine.scan(table, range, limit)
    }

    fn write(&self, operations: &[Operation]) -> Result<(), EngineError> {
        self.written.lock().expect("nothing panics").push(operations.iter().map(Write::like).collect());
        self.engine.write(operations)
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.engine.flush()
    }

    fn purge(&self, table: Table) -> Result<(), EngineError> {
        self.engine.purge(table)
    }

    fn close(&self) -> Result<(), EngineError> {
        self.engine.close()
    }
}

/// A homeserver in this process.
pub struct Recorder {
    pub host: Host<Service>,
    pub domain: Domain,
    engine: Remembering,
    store: Store,
}

impl Recorder {
    /// A new one.
    pub async fn start() -> Self {
        let engine = Remembering { engine: MemoryEngine::new(), written: Arc::default() };
        let domain: Domain = "record.test".parse().expect("a domain");
        let (host, store) = homeserver(domain.clone(), engine.clone()).await;
        Self { host, domain, engine, store }
    }

    /// What is written, in one piece, each time that something is done so many times.
    pub async fn record<W: Future<Output = ()>>(&self, times: usize, mut work: impl FnMut() -> W) -> Recording {
        let mut recording = Vec::new();
        for _ in 0..times {
            self.store.barrier().await.expect("it is written");
            self.engine.written.lock().expect("nothing panics").clear();
            work().await;
            self.store.barrier().await.expect("it is written");
            let written = std::mem::take(&mut *self.engine.written.lock().expect("nothing panics"));
            recording.push(written.into_iter().flatten().collect());
        }
        Recording(recording)
    }
}
