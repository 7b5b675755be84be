//! What a homeserver writes for something: the same request handlers in this process, over an engine that remembers.

use std::{
    future::Future,
    sync::{Arc, Mutex},
};

use bennu::{
    base::{Domain, Secret, SystemClock},
    crypto::at_rest::StorageKey,
    dispatch::{Dispatcher, Parts, Service, connection_limits},
    federation::Federation,
    node::system_entropy,
    service::{
        policy::{Policy, Tokens},
        queue::QueueLimits,
        work::Workers,
    },
    store::{Engine, EngineError, KeyRange, Limit, MemoryEngine, Operation, Options, Page, Read, Store, Table},
    transport::{Settings, memory::Host},
};
use bytes::Bytes;

use crate::floors::committer::{Recording, Write};

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
        let store = Store::open(engine.clone(), Options::new(|error| panic!("{error}"))).expect("an engine in memory");
        let domain: Domain = "record.test".parse().expect("a domain");
        let dispatcher = Dispatcher::start(Parts {
            domain: domain.clone(),
            store: store.clone(),
            storage_key: StorageKey::new(Secret::new([7; 32])),
            incarnation: [1; 16],
            clock: Arc::new(SystemClock),
            entropy: system_entropy(),
            queue_limits: QueueLimits::default(),
            policy: Policy { tokens: Tokens { required: false, ..Tokens::default() }, ..Policy::default() },
            workers: Workers::for_this_machine(),
            connection_limits: connection_limits(&Settings::default()),
            federation: Federation::none(),
            outbox_limits: Default::default(),
            peer_settings: Default::default(),
        });
        let host = Host::new(Arc::new(Service(dispatcher.await.expect("it starts"))), Settings::default());
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
