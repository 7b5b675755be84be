//! The format of the database, and how one of an earlier format becomes one of this: row by row, in batches that also say how
//! far they have come. So it can be interrupted anywhere, by a full disk too, and goes on where it was.
//!
//! What rows looked like is written down here once more, and never changes: the rest of the program knows the current form only.

use super::{
    Change, Engine, EngineError, Key, KeyRange, Limit, Operation, Read, Row, Table,
    record::{self, RecordError},
};

/// The format of the database as a whole: which tables there are, how keys are built, and which versions of records there may
/// be.
pub const FORMAT: u32 = 3;

/// The oldest format that is still understood.
#[cfg(feature = "rocksdb")]
pub const OLDEST: u32 = 2;

/// Row of [`Table::Meta`] that holds the format, as a big-endian number.
pub const FORMAT_KEY: &[u8] = b"format";

/// Row of [`Table::Meta`] that says how far a migration has come: its format, the place of a rewrite in it, and the last key.
const CURSOR_KEY: &[u8] = b"migration";

/// Rows of one batch, and of one scan, which must not need waiting.
const BATCH: usize = 2_000;
const SCAN: usize = 32;

/// After so many rows it is told how far it has come.
const NEWS: u64 = 500_000;

/// The rows of a table that change: what becomes of one, none if it stays as it is.
type Rewrite = (Table, fn(&Row) -> Result<Option<Vec<u8>>, RecordError>);

/// What changes from a format to the next.
fn rewrites(from: u32) -> Option<&'static [Rewrite]> {
    match from {
        2 => Some(&[(Table::Queues, from_2::queue), (Table::FedHeads, from_2::outbox)]),
        _ => None,
    }
}

/// Where a migration is.
#[derive(Debug, PartialEq, Eq)]
struct Cursor {
    from: u32,
    rewrite: usize,
    /// The last row that was looked at.
    last: Option<Vec<u8>>,
}

impl Cursor {
    fn encode(&self) -> Vec<u8> {
        let place = u8::try_from(self.rewrite).unwrap_or(u8::MAX);
        [&self.from.to_be_bytes()[..], &[place], self.last.as_deref().unwrap_or_default()].concat()
    }

    /// A cursor of another format is one of a migration that has ended.
    fn decode(row: Option<&[u8]>, from: u32) -> Self {
        let found = row.and_then(|row| Some((row.first_chunk::<4>()?, *row.get(4)?, row.get(5..)?)));
        match found {
            Some((of, place, last)) if u32::from_be_bytes(*of) == from => {
                Self { from, rewrite: place.into(), last: Some(last.to_vec()).filter(|last| !last.is_empty()) }
            }
            _ => Self { from, rewrite: 0, last: None },
        }
    }
}

/// Brings a database of a format that is still understood to the current one.
///
/// # Errors
/// [`EngineError`] if reading or writing fails, or a row is not what its format says. It can be tried again.
pub fn run(engine: &dyn Engine, mut format: u32) -> Result<(), EngineError> {
    while format < FORMAT {
        let rewrites = rewrites(format).ok_or_else(|| EngineError::Damaged(format!("nobody knows format {format}")))?;
        tracing::info!(from = format, to = format + 1, "the database is being brought to another format");
        let stored = engine.get_now(Table::Meta, CURSOR_KEY)?;
        let mut cursor = Cursor::decode(stored.as_deref(), format);
        let (mut rows, mut told) = (0, 0);
        while let Some((table, rewrite)) = rewrites.get(cursor.rewrite) {
            rows += step(engine, &mut cursor, *table, *rewrite)?;
            if rows >= told + NEWS {
                told = rows;
                tracing::info!(table = table.name(), rows, "the database is being brought to another format");
            }
        }
        format += 1;
        engine.write(&[put(FORMAT_KEY, format.to_be_bytes().to_vec()), delete(CURSOR_KEY)])?;
        tracing::info!(format, rows, "the database has another format");
    }
    Ok(())
}

/// Rewrites one batch of rows; how many it looked at.
fn step(
    engine: &dyn Engine,
    cursor: &mut Cursor,
    table: Table,
    rewrite: fn(&Row) -> Result<Option<Vec<u8>>, RecordError>,
) -> Result<u64, EngineError> {
    let (mut operations, mut seen) = (Vec::new(), 0);
    while seen < BATCH {
        let from = match &cursor.last {
            Some(last) => Key::new().bytes(last).successor(),
            None => Key::new(),
        };
        let Read::Ready(Some(page)) = engine.scan(table, KeyRange::from(from..), Limit::rows(SCAN)) else {
            return Err(EngineError::Io("a short scan has to be waited for".into()));
        };
        let rows = page?.into_rows();
        let Some(last) = rows.last() else {
            *cursor = Cursor { rewrite: cursor.rewrite + 1, last: None, ..*cursor };
            break;
        };
        cursor.last = Some(last.key.as_bytes().to_vec());
        seen += rows.len();
        for row in rows {
            let changed = rewrite(&row).map_err(|error| {
                EngineError::Damaged(format!("a row of table {} of format {}: {error}", table.name(), cursor.from))
            })?;
            if let Some(value) = changed {
                operations.push(Operation { table, key: row.key, change: Change::Put(value.into()) });
            }
        }
    }
    operations.push(put(CURSOR_KEY, cursor.encode()));
    engine.write(&operations)?;
    Ok(seen as u64)
}

fn put(key: &[u8], value: Vec<u8>) -> Operation {
    Operation { table: Table::Meta, key: Key::new().bytes(key), change: Change::Put(value.into()) }
}

fn delete(key: &[u8]) -> Operation {
    Operation { table: Table::Meta, key: Key::new().bytes(key), change: Change::Delete }
}

/// From format 2: heads of queues and of outboxes say of which earlier lives of the store they have something, which is none.
mod from_2 {
    use serde::Deserialize;

    use super::{RecordError, Row, record};

    /// An empty list, as the last field of a record.
    const NONE: u8 = 0;

    /// Of the rows of a queue, the one whose key ends with 0 is its head.
    pub fn queue(row: &Row) -> Result<Option<Vec<u8>>, RecordError> {
        if row.key.as_bytes().last() != Some(&0) {
            return Ok(None);
        }
        match record::version(&row.value)? {
            1 => Ok(Some(longer(2, &row.value))),
            found => Err(RecordError::Version { found, expected: 1 }),
        }
    }

    /// Version 1 of an outbox's head, of when numbers began at 0.
    #[derive(Deserialize)]
    struct Outbox1 {
        domain: String,
        first: u64,
        next: u64,
        added: u64,
        removed: u64,
        expired: u64,
    }

    pub fn outbox(row: &Row) -> Result<Option<Vec<u8>>, RecordError> {
        match record::version(&row.value)? {
            1 => {
                let Outbox1 { domain, first, next, added, removed, expired } = record::decode(1, &row.value)?;
                let delivered = first.saturating_sub(expired);
                record::encode(3, &(domain, first, next, added, removed, expired, delivered, NONE)).map(Some)
            }
            2 => Ok(Some(longer(3, &row.value))),
            found => Err(RecordError::Version { found, expected: 2 }),
        }
    }

    fn longer(version: u8, row: &[u8]) -> Vec<u8> {
        [&[version], row.get(1..).unwrap_or_default(), &[NONE]].concat()
    }
}

#[cfg(test)]
mod tests;
