//! An engine in memory, for tests, fuzzing and simulations. What is written is there for every handle on it, so that a
//! store can be opened on it again; with [`super::Faulty`] around it, its owner can crash.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{Change, Engine, EngineError, Key, KeyRange, Limit, Operation, Page, Read, Table, overlay::bounds};

/// A database in memory. Clones are handles on the same one.
#[derive(Clone)]
pub struct MemoryEngine(Arc<Mutex<Tables>>);

type Tables = Vec<BTreeMap<Key, Bytes>>;

impl Default for MemoryEngine {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether the same rows are in both.
impl PartialEq for MemoryEngine {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || *self.lock() == *other.lock()
    }
}

impl MemoryEngine {
    /// An empty database.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Table::ALL.iter().map(|_| BTreeMap::new()).collect())))
    }

    /// A database of its own that holds what this one holds now.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        Self(Arc::new(Mutex::new(self.lock().clone())))
    }

    /// Goes back to what another database holds now, as when that is its backup.
    pub fn go_back_to(&self, other: &Self) {
        let tables = other.lock().clone();
        *self.lock() = tables;
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        // A poisoned lock means a panic elsewhere, which is what has to be reported; maps stay usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for MemoryEngine {
    fn get_now(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.lock()[table.index()].get(key).cloned())
    }

    fn scan(&self, table: Table, range: KeyRange, limit: Limit) -> Read<'_, Page> {
        let mut page = Page::new(limit);
        if !range.is_empty() {
            let tables = self.lock();
            for (key, value) in tables[table.index()].range::<[u8], _>(bounds(&range.from, range.to.as_ref())) {
                if page.is_full() {
                    break;
                }
                page.push(key.clone(), value.clone());
            }
        }
        Read::ready(Ok(page))
    }

    fn write(&self, operations: &[Operation]) -> Result<(), EngineError> {
        let mut tables = self.lock();
        for Operation { table, key, change } in operations {
            let rows = &mut tables[table.index()];
            match change {
                Change::Put(value) => drop(rows.insert(key.clone(), value.clone())),
                Change::Delete => drop(rows.remove(key)),
                Change::DeleteTo(to) => rows.retain(|row, _| row < key || row >= to),
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn purge(&self, _: Table) -> Result<(), EngineError> {
        Ok(())
    }

    fn close(&self) -> Result<(), EngineError> {
        Ok(())
    }
}
