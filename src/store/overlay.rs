//! Rows of batches that were submitted and are not durable yet. Handlers read through it, so that the next request on a
//! group or queue need not wait for the disk. A row that is found here is newer than what the engine has.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;

use super::{Change, Key, KeyRange, Operation, Table};

/// The pending rows of all tables.
pub(super) struct Overlay(Vec<Pending>);

/// The pending rows of one table. A row in `rows` is always newer than a range that covers it.
#[derive(Default)]
struct Pending {
    rows: BTreeMap<Key, Entry>,
    ranges: Vec<DeletedRange>,
}

/// What a row will be once the batch of this number is durable.
struct Entry {
    batch: u64,
    value: Option<Bytes>,
}

struct DeletedRange {
    batch: u64,
    from: Key,
    to: Key,
}

/// What the overlay knows of a range of keys.
pub(super) struct Slice {
    /// Pending rows in key order; `None` for deleted ones.
    pub rows: Vec<(Key, Option<Bytes>)>,
    /// Where the engine's rows count too, in order.
    pub gaps: Vec<KeyRange>,
}

impl Overlay {
    pub fn new() -> Self {
        Self(Table::ALL.iter().map(|_| Pending::default()).collect())
    }

    /// The pending state of a row (`Some(None)` if it is being deleted), or `None` if the engine has its current state.
    pub fn get(&self, table: Table, key: &[u8]) -> Option<Option<Bytes>> {
        let pending = &self.0[table.index()];
        match pending.rows.get(key) {
            Some(entry) => Some(entry.value.clone()),
            None => pending.ranges.iter().any(|range| range.contains(key)).then_some(None),
        }
    }

    /// What is pending in a range that is not empty, up to `live` rows that exist.
    pub fn slice(&self, table: Table, range: &KeyRange, live: usize) -> Slice {
        let pending = &self.0[table.index()];
        let mut slice = Slice { rows: Vec::new(), gaps: pending.gaps(range) };
        let mut found = 0;
        for (key, entry) in pending.rows.range::<[u8], _>(bounds(&range.from, range.to.as_ref())) {
            if found == live {
                break;
            }
            found += usize::from(entry.value.is_some());
            slice.rows.push((key.clone(), entry.value.clone()));
        }
        slice
    }

    /// Adds the operations of a batch.
    pub fn apply(&mut self, batch: u64, operations: &[Operation]) {
        for Operation { table, key, change } in operations {
            let pending = &mut self.0[table.index()];
            match change {
                Change::Put(value) => pending.set(batch, key, Some(value.clone())),
                Change::Delete => pending.set(batch, key, None),
                Change::DeleteTo(to) => pending.delete_range(batch, key, to),
            }
        }
    }

    /// Forgets the deleted ranges of batches that have become durable. Must come before [`Overlay::forget_rows`]: a
    /// range that outlived a newer row inside it would hide that row.
    pub fn forget_ranges(&mut self, durable: u64) {
        for pending in &mut self.0 {
            pending.ranges.retain(|range| range.batch > durable);
        }
    }

    /// Forgets those of the rows that batches wrote which have become durable.
    pub fn forget_rows(&mut self, durable: u64, operations: &[Operation]) {
        for operation in operations {
            let rows = &mut self.0[operation.table.index()].rows;
            if rows.get(&operation.key).is_some_and(|entry| entry.batch <= durable) {
                rows.remove(&operation.key);
            }
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|pending| pending.rows.is_empty() && pending.ranges.is_empty())
    }
}

impl Pending {
    fn set(&mut self, batch: u64, key: &Key, value: Option<Bytes>) {
        self.rows.insert(key.clone(), Entry { batch, value });
    }

    fn delete_range(&mut self, batch: u64, from: &Key, to: &Key) {
        let overtaken: Vec<Key> =
            self.rows.range::<[u8], _>(bounds(from, Some(to))).map(|(key, _)| key.clone()).collect();
        for key in overtaken {
            self.rows.remove(&key);
        }
        self.ranges.push(DeletedRange { batch, from: from.clone(), to: to.clone() });
    }

    /// What is left of `range` without the deleted ranges.
    fn gaps(&self, range: &KeyRange) -> Vec<KeyRange> {
        let mut deleted: Vec<_> = self.ranges.iter().map(|deleted| (&deleted.from, &deleted.to)).collect();
        deleted.sort_unstable();
        let mut gaps = Vec::new();
        let mut start = &range.from;
        for (from, to) in deleted {
            let gap =
                KeyRange { from: start.clone(), to: Some(range.to.as_ref().map_or(from, |end| end.min(from)).clone()) };
            if !gap.is_empty() {
                gaps.push(gap);
            }
            start = start.max(to);
        }
        let last = KeyRange { from: start.clone(), to: range.to.clone() };
        if !last.is_empty() {
            gaps.push(last);
        }
        gaps
    }
}

impl DeletedRange {
    fn contains(&self, key: &[u8]) -> bool {
        self.from.as_bytes() <= key && key < self.to.as_bytes()
    }
}

/// Bounds for a `BTreeMap`; the range must not be empty.
pub(super) fn bounds<'a>(from: &'a Key, to: Option<&'a Key>) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    (Bound::Included(from.as_bytes()), to.map_or(Bound::Unbounded, |to| Bound::Excluded(to.as_bytes())))
}
