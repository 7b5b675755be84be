//! How full queues are: counted over all of them, so that no figure is about one.

use super::{HEAD_VERSION, Head, TAIL_VERSION, Tail};
use crate::{
    base::Refusal,
    service::{damaged, store_failure},
    store::{Key, KeyRange, Limit, Table, View, record},
};

/// How full queues are, all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depths {
    /// Entries in all of them.
    pub entries: u64,
    /// Queues in each class.
    counts: [u64; DEPTHS.len()],
}

/// The classes of queues: the least number of entries, and a name.
const DEPTHS: [(u64, &str); 6] =
    [(0, "0"), (1, "1-9"), (10, "10-99"), (100, "100-999"), (1_000, "1000-9999"), (10_000, "10000+")];

impl Depths {
    fn add(&mut self, entries: u64) {
        self.entries += entries;
        self.counts[DEPTHS.partition_point(|(least, _)| *least <= entries) - 1] += 1;
    }

    /// How many queues there are in each class.
    pub fn classes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        DEPTHS.into_iter().map(|(_, name)| name).zip(self.counts)
    }
}

/// Looks at all queues, and counts.
///
/// # Errors
/// `internal` if the store fails.
pub async fn depths(view: &View) -> Result<Depths, Refusal> {
    let (mut range, mut depths, mut head) = (KeyRange::from(Key::new()..), Depths::default(), None);
    loop {
        let rows = view.scan(Table::Queues, range, Limit::rows(1_000)).await.map_err(store_failure)?;
        let Some(last) = rows.last() else { return Ok(depths) };
        range = KeyRange::from(last.key.successor()..);
        for row in rows {
            // Of each queue the head comes first, then the tail.
            match row.key.as_bytes().split_last() {
                Some((0, queue)) => {
                    head = Some((
                        Key::new().bytes(queue),
                        record::decode::<Head>(HEAD_VERSION, &row.value).map_err(damaged)?.next,
                    ));
                }
                Some((1, queue)) => {
                    let tail = record::decode::<Tail>(TAIL_VERSION, &row.value).map_err(damaged)?;
                    let next = head.take().filter(|(of, _)| of.as_bytes() == queue).map(|(_, next)| next);
                    depths.add(next.unwrap_or(tail.first).saturating_sub(tail.first));
                }
                _ => {}
            }
        }
    }
}
