//! The store against a map: batches with preconditions, reads, writes that fail before or after they took effect, and a new
//! start after each that did.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bennu::store::{Batch, Fault, Faults, Key, KeyRange, Limit, MemoryEngine, Options, Store, Table};
use bytes::Bytes;

use super::input::Input;

type Model = BTreeMap<(usize, Key), Bytes>;

/// Few, so that operations meet.
const TABLES: [Table; 2] = [Table::QueueEntries, Table::Queues];
const KEYS: usize = 24;

struct World {
    engine: MemoryEngine,
    faults: Faults,
    failed: Arc<AtomicBool>,
    store: Store,
    model: Model,
}

/// Octets as operations on a store.
pub fn run(data: &[u8]) {
    super::block_on(async {
        let mut input = Input::new(data);
        let mut world = World::open(MemoryEngine::new(), Model::new());
        while !input.is_over() {
            match input.below(8) {
                0 => world.scan(&mut input).await,
                1 => world.look_up(&mut input).await,
                2 => world.start_again().await,
                3 => world.change(&mut input, Some(Fault::Before)).await,
                4 => world.change(&mut input, Some(Fault::After)).await,
                _ => world.change(&mut input, None).await,
            }
        }
        world.start_again().await;
    });
}

impl World {
    fn open(engine: MemoryEngine, model: Model) -> Self {
        let (faults, failed) = (Faults::new(), Arc::new(AtomicBool::new(false)));
        let told = failed.clone();
        let options = Options { inline: true, ..Options::new(move |_| told.store(true, Ordering::SeqCst)) };
        let store = Store::open(faults.around(engine.clone()), options).expect("an engine in memory opens");
        Self { engine, faults, failed, store, model }
    }

    /// Another process on what is there.
    async fn start_again(&mut self) {
        *self = Self::open(self.engine.clone(), std::mem::take(&mut self.model));
        self.check().await;
    }

    /// Everything is there, and nothing else.
    async fn check(&self) {
        for (at, table) in TABLES.into_iter().enumerate() {
            let rows = self.store.durable().scan(table, Key::new().., Limit::rows(usize::MAX)).await.expect("it reads");
            let found = rows.iter().map(|row| (&row.key, &row.value));
            let expected = self.model.iter().filter(|((of, _), _)| *of == at).map(|((_, key), value)| (key, value));
            assert!(found.eq(expected), "table {at}");
        }
    }

    async fn change(&mut self, input: &mut Input<'_>, fault: Option<Fault>) {
        let (mut batch, mut after, mut holds) = (Batch::new(), self.model.clone(), true);
        for _ in 0..=input.below(4) {
            let (at, name) = (input.below(2), key(input));
            let (table, place) = (TABLES[at], (at, name.clone()));
            match input.below(6) {
                0 => {
                    let to = key(input);
                    after.retain(|(of, row), _| *of != at || *row < name || *row >= to);
                    batch.delete_range(table, name, to);
                }
                1 => {
                    after.remove(&place);
                    batch.delete(table, name);
                }
                2 => {
                    // Preconditions are about what was before the batch.
                    holds &= !self.model.contains_key(&place);
                    batch.require_absent(table, name);
                }
                3 => {
                    let value = value(input);
                    holds &= self.model.get(&place) == Some(&value);
                    batch.require_value(table, name, value);
                }
                _ => {
                    let value = value(input);
                    after.insert(place, value.clone());
                    batch.put(table, name, value);
                }
            }
        }
        let writes = self.faults.writes();
        if let Some(fault) = fault {
            self.faults.fail_write(0, fault);
        }
        match self.store.submit(batch) {
            Err(_) => assert!(!holds, "refused, and its preconditions hold"),
            Ok(commit) => {
                assert!(holds, "taken, and its preconditions do not hold");
                match commit.await {
                    Ok(()) => {
                        // What writes nothing cannot fail.
                        let is_written = self.faults.writes() > writes;
                        assert!(fault.is_none() || !is_written, "a write that failed is acknowledged");
                        self.model = after;
                    }
                    Err(_) => {
                        assert!(fault.is_some() && self.failed.load(Ordering::SeqCst), "who has failed says so");
                        assert!(self.store.submit(Batch::new()).is_err(), "nothing is taken after a failure");
                        if fault == Some(Fault::After) {
                            self.model = after;
                        }
                    }
                }
            }
        }
        if fault.is_some() {
            self.start_again().await;
        }
        self.check().await;
    }

    async fn scan(&self, input: &mut Input<'_>) {
        let (at, from, to, most) = (input.below(2), key(input), key(input), 1 + input.below(KEYS));
        let range = KeyRange::from(from.clone()..to.clone());
        let rows = self.store.pending().scan(TABLES[at], range, Limit::rows(most)).await.expect("it reads");
        let inside = self.model.iter().filter(|((of, row), _)| *of == at && *row >= from && *row < to).take(most);
        assert!(rows.iter().map(|row| (&row.key, &row.value)).eq(inside.map(|((_, row), value)| (row, value))));
    }

    async fn look_up(&self, input: &mut Input<'_>) {
        let (at, name) = (input.below(2), key(input));
        let found = self.store.pending().get(TABLES[at], &name).await.expect("it reads");
        assert!(found.as_ref() == self.model.get(&(at, name)));
    }
}

fn key(input: &mut Input<'_>) -> Key {
    Key::new().u64(input.below(KEYS) as u64)
}

fn value(input: &mut Input<'_>) -> Bytes {
    Bytes::from(vec![input.octet() % 4])
}
