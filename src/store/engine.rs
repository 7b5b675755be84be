//! The seam to the database: point reads, range scans and atomic durable writes over the tables of the catalogue, and
//! nothing else. No type of a database crosses it. Everything above works on this trait alone.

use std::{
    fmt,
    future::Future,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;

use super::{Key, KeyRange, Operation, Table};

/// A database.
///
/// **A shared engine** (several nodes on one distributed database) has no local truth, so `get_now` cannot serve it.
/// Such an engine would take the preconditions along with the operations and check them inside its own transaction; the
/// conflict then arrives through the [`super::Commit`] instead of from `submit`, which callers handle alike because both
/// carry a [`super::StoreError`]. Reads are futures already: its `get` and `scan` return [`Read::Pending`].
pub trait Engine: Send + Sync + 'static {
    /// The value of a row, at once: used for preconditions while submission is locked.
    fn get_now(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The value of a row.
    fn get(&self, table: Table, key: &[u8]) -> Read<'_, Option<Bytes>> {
        Read::ready(self.get_now(table, key))
    }

    /// The first rows of a range in key order, as of one moment. The page is full unless the range has no further rows.
    fn scan(&self, table: Table, range: KeyRange, limit: Limit) -> Read<'_, Page>;

    /// Carries out all operations in their order, or none. On `Ok` they survive a crash of process and machine. After an
    /// error nothing is known about them, and the engine is not written to again.
    fn write(&self, operations: &[Operation]) -> Result<(), EngineError>;

    /// Moves what the write-ahead log holds into sorted tables and drops the log, so that it no longer tells which rows
    /// were written together. May take long.
    fn flush(&self) -> Result<(), EngineError>;

    /// Makes a directory with the files of the database as of one moment, on the same file system as it: files that never change
    /// are shared, so that this is quick and takes little room, until they are gone from the database. It can be opened as a
    /// database. May take as long as a flush.
    fn snapshot(&self, _into: &Path) -> Result<(), EngineError> {
        Err(EngineError::Io("this engine has no files".into()))
    }

    /// Flushes, and rewrites the files of a table, so that what was overwritten or deleted in it before is in none of them.
    /// May take long.
    fn purge(&self, table: Table) -> Result<(), EngineError>;

    /// What it says of itself. Quick, and nothing that depends on single rows.
    fn figures(&self) -> Vec<Figure> {
        Vec::new()
    }

    /// Ends background work, so that dropping the engine is quick. Reads stay possible.
    fn close(&self) -> Result<(), EngineError>;
}

/// What went wrong inside an engine. Holds no keys and no values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Stored data does not pass its checksums.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// Reading or writing failed.
    #[error("the database failed: {0}")]
    Io(String),
}

/// Something that an engine says of itself, for people who watch it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// What it is, in the words of metrics.
    pub name: &'static str,
    /// Of which table, if it is of one.
    pub table: Option<Table>,
    /// How much.
    pub value: u64,
}

/// How much a scan returns at most. It stops with the row that reaches either bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Number of rows.
    pub rows: usize,
    /// Sum of the lengths of keys and values.
    pub bytes: usize,
}

impl Limit {
    /// Bounds a scan by rows, and by [`Limit::DEFAULT_BYTES`].
    pub const fn rows(rows: usize) -> Self {
        Self { rows, bytes: Self::DEFAULT_BYTES }
    }

    /// Bounds it by bytes as well.
    #[must_use]
    pub const fn bytes(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    /// The bound on bytes where none is given.
    pub const DEFAULT_BYTES: usize = 16 << 20;
}

/// A row. Printed by length only.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: Key,
    /// Its value.
    pub value: Bytes,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Row({} + {} bytes)", self.key.as_bytes().len(), self.value.len())
    }
}

/// The rows of a scan, collected up to its limit.
#[derive(Debug)]
pub struct Page {
    rows: Vec<Row>,
    bytes: usize,
    limit: Limit,
}

impl Page {
    /// An empty page.
    pub const fn new(limit: Limit) -> Self {
        Self { rows: Vec::new(), bytes: 0, limit }
    }

    /// Adds a row.
    pub fn push(&mut self, key: Key, value: Bytes) {
        self.bytes += key.as_bytes().len() + value.len();
        self.rows.push(Row { key, value });
    }

    /// Whether the limit is reached, so that there may be more rows than these.
    pub const fn is_full(&self) -> bool {
        self.rows.len() >= self.limit.rows || self.bytes >= self.limit.bytes
    }

    /// What may still be added.
    pub const fn room(&self) -> Limit {
        Limit {
            rows: self.limit.rows.saturating_sub(self.rows.len()),
            bytes: self.limit.bytes.saturating_sub(self.bytes),
        }
    }

    /// The rows.
    pub fn into_rows(self) -> Vec<Row> {
        self.rows
    }
}

/// A read from an engine: a local engine's is ready at once and costs no allocation, a remote engine's is awaited.
pub enum Read<'a, T> {
    /// The outcome; `None` once it was taken.
    Ready(Option<Result<T, EngineError>>),
    /// The outcome will come.
    Pending(Pin<Box<dyn Future<Output = Result<T, EngineError>> + Send + 'a>>),
}

impl<T> Read<'_, T> {
    /// A read that needs no waiting.
    pub const fn ready(outcome: Result<T, EngineError>) -> Self {
        Self::Ready(Some(outcome))
    }
}

impl<T: Unpin> Future for Read<'_, T> {
    type Output = Result<T, EngineError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Ready(outcome) => outcome.take().map_or(Poll::Pending, Poll::Ready),
            Self::Pending(future) => future.as_mut().poll(context),
        }
    }
}
