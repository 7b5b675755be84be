//! Reading: from the engine alone, or through the overlay of submitted batches. The overlay is always looked at first:
//! a batch leaves it only when the engine has it, so that no moment shows a row in neither.

use std::sync::Arc;

use bytes::Bytes;

use super::{Key, KeyRange, Limit, Page, Row, StoreError, Table, committer::Committer, overlay::Slice};

/// A way to read. Each read sees the rows as they are when it is made.
///
/// Rows of one pending scan may be from different moments between its start and end; who needs them consistent holds
/// the lock under which they are written. A durable scan is of one moment.
#[derive(Clone)]
pub struct View {
    committer: Arc<Committer>,
    overlay: bool,
}

impl View {
    pub(super) fn pending(committer: Arc<Committer>) -> Self {
        Self { committer, overlay: true }
    }

    pub(super) fn durable(committer: Arc<Committer>) -> Self {
        Self { committer, overlay: false }
    }

    /// The value of a row.
    pub async fn get(&self, table: Table, key: &Key) -> Result<Option<Bytes>, StoreError> {
        if self.overlay
            && let Some(row) = self.committer.with_overlay(|overlay| overlay.get(table, key.as_bytes()))
        {
            return Ok(row);
        }
        Ok(self.committer.engine().get(table, key.as_bytes()).await?)
    }

    /// The first rows of a range in key order, up to the limit.
    pub async fn scan(&self, table: Table, range: impl Into<KeyRange>, limit: Limit) -> Result<Vec<Row>, StoreError> {
        let range = range.into();
        if range.is_empty() {
            return Ok(Vec::new());
        }
        if !self.overlay {
            return Ok(self.committer.engine().scan(table, range, limit).await?.into_rows());
        }
        let slice = self.committer.with_overlay(|overlay| overlay.slice(table, &range, limit.rows));
        self.merge(table, slice, limit).await
    }

    /// Merges pending rows with the engine's.
    async fn merge(&self, table: Table, slice: Slice, limit: Limit) -> Result<Vec<Row>, StoreError> {
        let mut page = Page::new(limit);
        let mut pending = slice.rows.into_iter().peekable();
        for mut gap in slice.gaps {
            loop {
                if page.is_full() {
                    return Ok(page.into_rows());
                }
                // Pending rows may replace or delete as many of the engine's.
                let room = page.room();
                let room = Limit { rows: room.rows.saturating_add(pending.len()), ..room };
                let found = self.committer.engine().scan(table, gap.clone(), room).await?;
                let more = found.is_full();
                for Row { key, value } in found.into_rows() {
                    gap.from = key.successor();
                    while let Some((key, value)) = pending.next_if(|(earlier, _)| *earlier < key) {
                        push_live(&mut page, key, value);
                    }
                    match pending.next_if(|(same, _)| *same == key) {
                        Some((key, value)) => push_live(&mut page, key, value),
                        None => push_live(&mut page, key, Some(value)),
                    }
                }
                if !more {
                    break;
                }
            }
        }
        for (key, value) in pending {
            push_live(&mut page, key, value);
        }
        Ok(page.into_rows())
    }
}

/// Adds a row that exists, if there is room.
fn push_live(page: &mut Page, key: Key, value: Option<Bytes>) {
    if let Some(value) = value
        && !page.is_full()
    {
        page.push(key, value);
    }
}
