//! What a queue holds, and which part of it somebody is given who knows it by one of its incarnations.

use super::{HEAD_VERSION, Head, QueueId, TAIL_VERSION, Tail, read_entries};
use crate::{
    base::Refusal,
    service::{damaged, store_failure},
    store::{Table, View, record},
    wire::queue::{Incarnation, QueueEntries, QueueEntry},
};

/// The durable state of a queue, without its secrets and its entries.
pub struct Overview {
    head: Head,
    tail: Tail,
}

/// The entries of one life of the store, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Under which they were encrypted.
    pub incarnation: Incarnation,
    /// The oldest that is stored.
    pub first: u64,
    /// The number after the last of them.
    pub end: u64,
    /// Whether more are added to it.
    pub is_current: bool,
}

impl Overview {
    /// The state of a queue; none if there is no such queue.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn of(id: QueueId, durable: &View) -> Result<Option<Self>, Refusal> {
        let get = async |key| durable.get(Table::Queues, &key).await.map_err(store_failure);
        let (Some(head), Some(tail)) = (get(id.head_key()).await?, get(id.tail_key()).await?) else { return Ok(None) };
        let head = record::decode(HEAD_VERSION, &head).map_err(damaged)?;
        Ok(Some(Self { head, tail: record::decode(TAIL_VERSION, &tail).map_err(damaged)? }))
    }

    /// The life of the store in which entries are added.
    pub const fn incarnation(&self) -> Incarnation {
        self.head.incarnation
    }

    /// Whether there is no entry.
    pub const fn is_empty(&self) -> bool {
        self.head.next <= self.tail.first
    }

    /// Where somebody goes on who knows the queue by an incarnation and wants the entry `start` next: in the part of that
    /// incarnation until there is nothing more in it, then in the one after it; in the current one if that incarnation is not
    /// known.
    pub fn part(&self, known: Incarnation, start: u64) -> Part {
        let (first, mut begin, mut is_next) = (self.tail.first, 0, false);
        for era in &self.head.earlier {
            let is_known = era.incarnation == known;
            if (is_next || is_known && start < era.end) && first < era.end {
                let (incarnation, end) = (era.incarnation, era.end);
                return Part { incarnation, first: first.max(begin), end, is_current: false };
            }
            begin = era.end;
            is_next |= is_known;
        }
        let (incarnation, end) = (self.head.incarnation, self.head.next);
        Part { incarnation, first: first.max(begin), end, is_current: true }
    }
}

impl Part {
    /// The part without its entries.
    pub const fn header(self) -> QueueEntries {
        self.with(Vec::new())
    }

    const fn with(self, entries: Vec<QueueEntry>) -> QueueEntries {
        QueueEntries { incarnation: self.incarnation, first: self.first, head: self.end, entries }
    }
}

/// Reads what somebody is given who knows a queue by an incarnation: at most `max` entries from `start` on and
/// [`MAX_FRAME`](super::MAX_FRAME) bytes, all of them durable; none under another incarnation. `None` if there is no such queue.
///
/// # Errors
/// `internal` if the store fails.
pub async fn read(
    id: QueueId,
    known: Incarnation,
    start: u64,
    max: u32,
    durable: &View,
) -> Result<Option<QueueEntries>, Refusal> {
    let mut seen = None;
    loop {
        let Some(overview) = Overview::of(id, durable).await? else { return Ok(None) };
        let part = overview.part(known, start);
        if part.incarnation != known {
            return Ok(Some(part.header()));
        }
        if let Some(found) = read_entries(id, start.max(part.first)..part.end, max, durable).await? {
            return Ok(Some(part.with(found.entries)));
        }
        // What was there was acknowledged in between, in another exchange of the same client.
        if seen.replace(part.first) == Some(part.first) {
            return Err(damaged("a queue with a gap"));
        }
    }
}
