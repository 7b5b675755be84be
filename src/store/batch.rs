//! What a request wants written, all of it or nothing: puts and deletes in any number of tables, and what must be true
//! for it to happen. [`settle`] turns the operations of many batches into the fewest that leave the same rows, sorted.

use std::fmt;

use bytes::Bytes;

use super::{Key, Table};

/// Writes that happen together, and their preconditions.
///
/// Later operations of a batch act on what earlier ones left. Preconditions are about the moment before the batch, with
/// everything that was submitted earlier in effect.
#[derive(Default)]
pub struct Batch {
    pub(super) operations: Vec<Operation>,
    pub(super) requirements: Vec<Requirement>,
    size: usize,
}

/// One row, or one range of rows, that changes.
#[derive(Clone)]
pub struct Operation {
    /// Where.
    pub table: Table,
    /// Which row, or the first of a range.
    pub key: Key,
    /// How.
    pub change: Change,
}

/// How an [`Operation`] changes its rows. Never printed.
#[derive(Clone)]
pub enum Change {
    /// The row gets this value.
    Put(Bytes),
    /// The row goes.
    Delete,
    /// All rows from the key up to, but not including, this one go.
    DeleteTo(Key),
}

/// What must be true of a row for a batch to be written.
pub(super) struct Requirement {
    pub table: Table,
    pub key: Key,
    pub state: Required,
}

pub(super) enum Required {
    Absent,
    Present,
    Value(Bytes),
}

/// What an operation weighs beside its key and value.
const OVERHEAD: usize = 64;

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a row this value, whether it exists or not.
    pub fn put(&mut self, table: Table, key: Key, value: impl Into<Bytes>) -> &mut Self {
        self.push(table, key, Change::Put(value.into()))
    }

    /// Removes a row, if it exists.
    pub fn delete(&mut self, table: Table, key: Key) -> &mut Self {
        self.push(table, key, Change::Delete)
    }

    /// Removes all rows from `from` up to, but not including, `to`.
    ///
    /// For a handful of known keys [`Batch::delete`] is better: engines keep a range in mind on every read near it.
    pub fn delete_range(&mut self, table: Table, from: Key, to: Key) -> &mut Self {
        if from < to { self.push(table, from, Change::DeleteTo(to)) } else { self }
    }

    /// The batch conflicts if the row exists.
    pub fn require_absent(&mut self, table: Table, key: Key) -> &mut Self {
        self.require(table, key, Required::Absent)
    }

    /// The batch conflicts if the row does not exist.
    pub fn require_present(&mut self, table: Table, key: Key) -> &mut Self {
        self.require(table, key, Required::Present)
    }

    /// The batch conflicts if the row does not have exactly this value.
    pub fn require_value(&mut self, table: Table, key: Key, value: impl Into<Bytes>) -> &mut Self {
        self.require(table, key, Required::Value(value.into()))
    }

    /// Adds what another batch wants after what this one wants.
    pub fn merge(&mut self, other: Batch) -> &mut Self {
        self.operations.extend(other.operations);
        self.requirements.extend(other.requirements);
        self.size += other.size;
        self
    }

    /// Roughly the memory and log space it takes, in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether it neither writes nor requires anything.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty() && self.requirements.is_empty()
    }

    fn push(&mut self, table: Table, key: Key, change: Change) -> &mut Self {
        let payload = match &change {
            Change::Put(value) => value.len(),
            Change::Delete => 0,
            Change::DeleteTo(to) => to.as_bytes().len(),
        };
        self.size += OVERHEAD + key.as_bytes().len() + payload;
        self.operations.push(Operation { table, key, change });
        self
    }

    fn require(&mut self, table: Table, key: Key, state: Required) -> &mut Self {
        self.requirements.push(Requirement { table, key, state });
        self
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (operations, requirements) = (self.operations.len(), self.requirements.len());
        write!(f, "Batch({operations} operations, {requirements} requirements, {} bytes)", self.size)
    }
}

impl Required {
    pub fn holds(&self, row: Option<&Bytes>) -> bool {
        match (self, row) {
            (Self::Absent, row) => row.is_none(),
            (Self::Present, row) => row.is_some(),
            (Self::Value(wanted), row) => row == Some(wanted),
        }
    }
}

impl Operation {
    fn is_range(&self) -> bool {
        matches!(self.change, Change::DeleteTo(_))
    }

    fn covers(&self, other: &Operation) -> bool {
        match &self.change {
            Change::DeleteTo(to) => self.table == other.table && self.key <= other.key && other.key < *to,
            _ => false,
        }
    }

    /// Tables in their order; in each its ranges first, then its rows by key.
    fn position(&self) -> (Table, bool, &Key) {
        (self.table, !self.is_range(), &self.key)
    }
}

/// The same outcome with one operation per row, sorted by table and key, range deletes before the rows of their table.
///
/// Sorting makes the engine's work cheap and keeps the log from telling which rows one request wrote.
pub(super) fn settle(operations: Vec<Operation>) -> Vec<Operation> {
    let ranges: Vec<(usize, Operation)> =
        operations.iter().enumerate().filter(|(_, op)| op.is_range()).map(|(at, op)| (at, op.clone())).collect();
    let overtaken = |at: usize, op: &Operation| {
        !op.is_range() && ranges.iter().any(|(later, range)| *later > at && range.covers(op))
    };
    let mut settled: Vec<(usize, Operation)> =
        operations.into_iter().enumerate().filter(|(at, op)| !overtaken(*at, op)).collect();
    settled.sort_unstable_by(|(a_at, a), (b_at, b)| a.position().cmp(&b.position()).then(b_at.cmp(a_at)));
    // Of several operations on one row the newest comes first and stays.
    settled.dedup_by(|(_, older), (_, newer)| !newer.is_range() && older.position() == newer.position());
    settled.into_iter().map(|(_, op)| op).collect()
}
