//! What is due every hour: whatever nobody has used for too long goes.

use super::Dispatcher;
use crate::{
    base::Refusal,
    delivery::expire,
    service::{Outcome, damaged, store_failure},
    store::{Key, KeyRange, Limit, Table},
    wire::server::Done,
};

/// Rows looked at in one go.
const PAGE: usize = 1_000;

impl Dispatcher {
    /// Drops groups that have not been used for as long as the operator keeps them. Gives how many.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn expire_groups(&self) -> Result<u64, Refusal> {
        let (today, unused) = (self.parts.clock.now().day(), self.parts.policy.groups.unused_months);
        let (mut range, mut dropped) = (KeyRange::from(Key::new()..), 0);
        loop {
            let rows = self.parts.store.durable().scan(Table::DsMeta, range, Limit::rows(PAGE)).await;
            let rows = rows.map_err(store_failure)?;
            let Some(last) = rows.last() else { return Ok(dropped) };
            range = KeyRange::from(last.key.successor()..);
            for row in rows {
                if !expire::is_over(&row.value, today, unused)? {
                    continue;
                }
                let group: [u8; 16] = row.key.as_bytes().try_into().map_err(damaged)?;
                let mut scope = self.locked(("group", group)).await;
                let batch = expire::handle(&scope.context(), group).await?;
                dropped += u64::from(!batch.is_empty());
                scope.commit(Outcome::write(batch, Done {})).await?;
            }
        }
    }
}
