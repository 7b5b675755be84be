//! The store against a `BTreeMap`: random batches, some held back from the disk and some racing it, must read as if the
//! map had been changed.

use std::{collections::BTreeMap, time::SystemTime};

use bytes::Bytes;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

use super::{super::*, Fixture, for_every_engine, open};

for_every_engine!(reads_agree_with_a_model);

/// Few keys and tables, so that operations meet.
const KEYS: u64 = 40;
const TABLES: [Table; 2] = [Table::QueueEntries, Table::Queues];
const STEPS: usize = 600;

type Model = BTreeMap<(Table, Key), Bytes>;

struct Random(ChaCha8Rng);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0.next_u64() % end
    }

    fn key(&mut self) -> Key {
        Key::new().u64(self.below(KEYS))
    }

    fn range(&mut self) -> (Key, Key) {
        (self.key(), self.key())
    }

    fn table(&mut self) -> Table {
        TABLES[self.below(2) as usize]
    }
}

async fn reads_agree_with_a_model<F: Fixture>(fixture: F) {
    let seed = match std::env::var("BENNU_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into(),
    };
    eprintln!("BENNU_SEED={seed}");
    let mut random = Random(ChaCha8Rng::seed_from_u64(seed));
    let (store, faults, _) = open(fixture.engine());
    let mut model = Model::new();
    for step in 0..STEPS {
        match random.below(10) {
            0 => faults.hold(),
            1 => {
                faults.release();
                store.barrier().await.unwrap();
                assert!(store.0.with_overlay(|overlay| overlay.is_empty()), "step {step}");
                check(&store.durable(), &model, &mut random, step).await;
            }
            2 => faults.release(),
            _ => drop(store.submit(change(&mut model, &mut random)).unwrap()),
        }
        check(&store.pending(), &model, &mut random, step).await;
    }
    faults.release();
    store.close().await.unwrap();
    drop(store);
    let (store, _, _) = open(fixture.engine());
    check(&store.durable(), &model, &mut random, STEPS).await;
    for table in TABLES {
        let rows = store.durable().scan(table, Key::new().., Limit::rows(usize::MAX)).await.unwrap();
        assert!(rows == expected(&model, table, &(Key::new()..).into(), usize::MAX));
    }
}

/// A random batch, also applied to the model.
fn change(model: &mut Model, random: &mut Random) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..=random.below(5) {
        let table = random.table();
        match random.below(8) {
            0 => {
                let (from, to) = random.range();
                model.retain(|(other, key), _| *other != table || *key < from || *key >= to);
                batch.delete_range(table, from, to);
            }
            1 | 2 => {
                let key = random.key();
                model.remove(&(table, key.clone()));
                batch.delete(table, key);
            }
            _ => {
                let (key, value) = (random.key(), Bytes::from(random.0.next_u32().to_be_bytes().to_vec()));
                model.insert((table, key.clone()), value.clone());
                batch.put(table, key, value);
            }
        }
    }
    batch
}

/// A random scan and a random look-up.
async fn check(view: &View, model: &Model, random: &mut Random, step: usize) {
    let (table, (from, to)) = (random.table(), random.range());
    let range = if random.below(4) == 0 { KeyRange::from(from..) } else { KeyRange::from(from..to) };
    let limit = 1 + random.below(KEYS) as usize;
    let rows = view.scan(table, range.clone(), Limit::rows(limit)).await.unwrap();
    assert!(rows == expected(model, table, &range, limit), "scan at step {step}");
    let key = random.key();
    let value = view.get(table, &key).await.unwrap();
    assert!(value.as_ref() == model.get(&(table, key)), "look-up at step {step}");
}

fn expected(model: &Model, table: Table, range: &KeyRange, limit: usize) -> Vec<Row> {
    let rows = model.iter().filter(|((other, key), _)| *other == table && range.contains(key.as_bytes()));
    rows.take(limit).map(|((_, key), value)| Row { key: key.clone(), value: value.clone() }).collect()
}
