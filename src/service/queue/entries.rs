//! Entries of queues: as they are stored, and as they are read.

use std::ops::Range;

use super::{MAX_FRAME, QueueId};
use crate::{
    base::{Refusal, limits::MAX_DEQUEUE},
    service::{damaged, store_failure},
    store::{Limit, Table, View},
    wire::{
        Decode, Encode, Opaque, Reader,
        queue::{EntryKind, QueueEntry},
    },
};

/// Entries that are read one by one: a range costs as much as these, and passes over what was deleted before them.
const FEW: usize = 4;

/// Some entries of a queue.
pub struct Found {
    /// In order.
    pub entries: Vec<QueueEntry>,
    /// Bytes of all entries ever added, up to and with the last of these.
    pub bytes: u64,
}

/// The entries with these numbers, as many as fit, all of them durable; none if there is a gap.
///
/// # Errors
/// `internal` if the store fails.
pub async fn read_entries(
    id: QueueId,
    numbers: Range<u64>,
    max: u32,
    durable: &View,
) -> Result<Option<Found>, Refusal> {
    let rows = numbers.end.saturating_sub(numbers.start).min(max.min(MAX_DEQUEUE).into()) as usize;
    let mut found = Found { entries: Vec::with_capacity(rows), bytes: 0 };
    let mut entry = |sequence, row: &bytes::Bytes| {
        let StoredEntry { bytes, kind, ciphertext } = StoredEntry::decode(row)?;
        found.entries.push(QueueEntry { sequence, kind, ciphertext });
        found.bytes = bytes;
        Ok(())
    };
    if rows <= FEW {
        for sequence in numbers.take(rows) {
            let row = durable.get(Table::QueueEntries, &id.entry_key(sequence)).await.map_err(store_failure)?;
            let Some(row) = row else { return Ok(None) };
            entry(sequence, &row)?;
        }
        return Ok(Some(found));
    }
    let (range, limit) = (id.entry_key(numbers.start)..id.entry_key(numbers.end), Limit::rows(rows).bytes(MAX_FRAME));
    let page = durable.scan(Table::QueueEntries, range, limit).await.map_err(store_failure)?;
    for (sequence, row) in (numbers.start..).zip(page) {
        // Of the key only the number is not known.
        if !row.key.as_bytes().ends_with(&sequence.to_be_bytes()) {
            return Ok(None);
        }
        entry(sequence, &row.value)?;
    }
    Ok(Some(found))
}

/// An entry as stored.
pub(super) struct StoredEntry {
    /// Bytes of all entries up to and with this one, by which deleting knows how much it freed.
    pub bytes: u64,
    /// What the ciphertext is.
    pub kind: EntryKind,
    /// As on the wire.
    pub ciphertext: Opaque,
}

impl StoredEntry {
    const VERSION: u8 = 1;

    pub fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(10 + self.ciphertext.as_slice().len());
        row.push(Self::VERSION);
        self.bytes.encode(&mut row);
        self.kind.encode(&mut row);
        row.extend_from_slice(self.ciphertext.as_slice());
        row
    }

    pub fn decode(row: &bytes::Bytes) -> Result<Self, Refusal> {
        let mut reader = Reader::new(row.clone());
        if u8::decode(&mut reader).map_err(damaged)? != Self::VERSION {
            return Err(damaged("a queue entry of an unknown version"));
        }
        let bytes = u64::decode(&mut reader).map_err(damaged)?;
        let kind = EntryKind::decode(&mut reader).map_err(damaged)?;
        let ciphertext = Opaque(reader.take(reader.remaining()).map_err(damaged)?);
        Ok(Self { bytes, kind, ciphertext })
    }
}
