//! Background jobs: what has expired is deleted, and every hour the write-ahead log, which shows what was written together,
//! is let go with all that queues' ratchets have left behind (design: what an adversary with the disk must not learn).

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use crate::{
    base::{Clock, Timestamp},
    dispatch::Dispatcher,
    store::{Batch, Key, KeyRange, Limit, Row, Store, StoreError, Table},
};

const PERIOD: Duration = Duration::from_secs(3_600);

/// Rows looked at in one go.
const PAGE: usize = 1_000;

/// Runs the jobs, now and every hour, until it is dropped.
pub async fn run(store: Store, clock: Arc<dyn Clock>, dispatcher: Arc<Dispatcher>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = sweep(&store, clock.now()).await {
            tracing::warn!(%error, "expired rows were not deleted");
        }
        if let Err(error) = dispatcher.maintain_tokens().await {
            tracing::warn!(%error, "issuer keys and allowances were not looked after");
        }
        if let Err(error) = dispatcher.maintain_credentials().await {
            tracing::warn!(%error, "credentials were not looked after");
        }
        if let Err(error) = dispatcher.maintain_config_keys().await {
            tracing::warn!(%error, "the keys for queue configs were not looked after");
        }
        match dispatcher.expire_queues().await {
            Ok(0) => {}
            Ok(dropped) => tracing::info!(dropped, "queues that nobody fetches from were dropped"),
            Err(error) => tracing::warn!(%error, "silent clients were not looked for"),
        }
        match dispatcher.expire_groups().await {
            Ok(0) => {}
            Ok(dropped) => tracing::info!(dropped, "groups that nobody used were dropped"),
            Err(error) => tracing::warn!(%error, "unused groups were not looked for"),
        }
        match dispatcher.forget_peers().await {
            Ok(0) => {}
            Ok(forgotten) => tracing::info!(forgotten, "homeservers that there was nothing to do with were forgotten"),
            Err(error) => tracing::warn!(%error, "silent homeservers were not looked for"),
        }
        // Secrets of ratchets that have moved on are in it, and in files of this table that are not compacted yet.
        if let Err(error) = store.purge(Table::Queues).await {
            tracing::warn!(%error, "the write-ahead log was not let go");
        }
    }
}

/// Deletes what has expired.
async fn sweep(store: &Store, now: Timestamp) -> Result<(), StoreError> {
    // Ids of shared bodies begin with the day they expire.
    let mut batch = Batch::new();
    batch.delete_range(Table::QsBodies, Key::new(), Key::new().u32(now.day().0));
    store.submit(batch)?.await?;
    // Answers begin with the day, tombstones are the second they expire.
    sweep_table(store, Table::DsIdempotency, |value| {
        leading(value).is_some_and(|day: [u8; 4]| u32::from_be_bytes(day) < now.day().0)
    })
    .await?;
    sweep_table(store, Table::DsTombstones, |value| {
        leading(value).is_some_and(|second: [u8; 8]| u64::from_be_bytes(second) < now.seconds())
    })
    .await
}

async fn sweep_table(store: &Store, table: Table, expired: impl Fn(&[u8]) -> bool) -> Result<(), StoreError> {
    let mut range = KeyRange::from(Key::new()..);
    loop {
        let rows = store.durable().scan(table, range.clone(), Limit::rows(PAGE)).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        range = KeyRange::from(last.key.successor()..);
        let mut batch = Batch::new();
        for Row { key, value } in rows {
            if expired(&value) {
                batch.delete(table, key);
            }
        }
        store.submit(batch)?.await?;
    }
}

fn leading<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    value.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryEngine, Options};

    #[tokio::test]
    async fn only_what_has_expired_is_deleted() {
        let store = Store::open(MemoryEngine::new(), Options::new(|_| {})).unwrap();
        let now = Timestamp(20_000 * 86_400_000);
        let mut batch = Batch::new();
        let key = |n: u32| Key::new().u32(n).u32(7);
        for day in [19_999, 20_000, 20_001u32] {
            batch.put(Table::QsBodies, key(day), vec![1]);
            batch.put(Table::DsIdempotency, key(day), day.to_be_bytes().to_vec());
            batch.put(Table::DsTombstones, key(day), (u64::from(day) * 86_400).to_be_bytes().to_vec());
        }
        store.submit(batch).unwrap().await.unwrap();
        sweep(&store, now).await.unwrap();
        for table in [Table::QsBodies, Table::DsIdempotency, Table::DsTombstones] {
            let rows = store.durable().scan(table, Key::new().., Limit::rows(10)).await.unwrap();
            let kept: Vec<_> = rows.into_iter().map(|row| row.key).collect();
            assert_eq!(kept, [key(20_000), key(20_001)], "{}", table.name());
        }
    }
}
