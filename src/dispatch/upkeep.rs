//! What is due every hour: whatever nobody has used for too long goes.

use super::Dispatcher;
use crate::{
    base::{Day, QsClientId, QsUserId, Refusal},
    delivery::expire,
    queuing::{delete_client, records},
    service::{Outcome, QueueId, damaged, store_failure},
    store::{Batch, Key, KeyRange, Limit, Table},
    wire::server::Done,
};

/// Whoever changes the keys for queue configs holds this lock.
const CONFIG_KEYS: &str = "config keys";

/// Rows looked at in one go.
const PAGE: usize = 1_000;

impl Dispatcher {
    /// Deletes clients of the QS that have been silent for as long as the operator waits, with their queues; with their last
    /// client users go as well. One that listens is not silent. Gives how many clients went.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn expire_queues(&self) -> Result<u64, Refusal> {
        let oldest = self.parts.clock.now().day().minus(self.parts.policy.get().queues.inactive_days);
        let (mut range, mut dropped) = (KeyRange::from(Key::new()..), 0);
        loop {
            let rows = self.parts.store.durable().scan(Table::QsClients, range, Limit::rows(PAGE)).await;
            let rows = rows.map_err(store_failure)?;
            let Some(last) = rows.last() else { return Ok(dropped) };
            range = KeyRange::from(last.key.successor()..);
            for row in rows {
                if records::decode_client(&row.value)?.active < oldest.0 {
                    let client = QsClientId(row.key.as_bytes().try_into().map_err(damaged)?);
                    dropped += u64::from(self.expire_queue(client, oldest).await?);
                }
            }
        }
    }

    /// Deletes a client that has been silent since before `oldest`.
    async fn expire_queue(&self, client: QsClientId, oldest: Day) -> Result<bool, Refusal> {
        let mut scope = self.locked_client(client).await?;
        let Some(mut record) = records::client(&scope.context(), client).await? else { return Ok(false) };
        if record.active >= oldest.0 {
            return Ok(false);
        }
        let listens = self.queues.is_listened_to(QueueId::client(client));
        let outcome = if listens {
            let mut batch = Batch::new();
            record.touch(self.parts.clock.now().day());
            records::put_client(&mut batch, client, &record)?;
            Outcome::write(batch, Done {})
        } else {
            delete_client::remove(&scope.context(), client, QsUserId(record.user)).await?
        };
        scope.commit(outcome).await?;
        Ok(!listens)
    }

    /// The keys that queue configs are sealed to: a new one takes the place of one that is old.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn maintain_config_keys(&self) -> Result<(), Refusal> {
        let mut scope = self.locked(CONFIG_KEYS).await;
        let mut batch = Batch::new();
        let change = self.queuing.config_keys.maintain(&mut scope.context(), &mut batch)?;
        scope.commit(Outcome::write(batch, Done {})).await?;
        self.queuing.apply(change);
        Ok(())
    }

    /// A new key for queue configs takes over at once; those before it open what is sealed to them for another while.
    ///
    /// # Errors
    /// `quota_exceeded` if there are too many that do.
    pub async fn rotate_config_key(&self) -> Result<(), Refusal> {
        let mut scope = self.locked(CONFIG_KEYS).await;
        let mut batch = Batch::new();
        let change = self.queuing.config_keys.rotate(&mut scope.context(), &mut batch)?;
        scope.commit(Outcome::write(batch, Done {})).await?;
        self.queuing.apply(change);
        Ok(())
    }

    /// A new key signs what the QS says to other homeservers from now on.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn rotate_queuing_key(&self) -> Result<(), Refusal> {
        let mut scope = self.locked(CONFIG_KEYS).await;
        let mut batch = Batch::new();
        let key = self.queuing.rotate_signing_key(&mut scope.context(), &mut batch)?;
        scope.commit(Outcome::write(batch, Done {})).await?;
        self.queuing.signing_key.replace(key);
        Ok(())
    }

    /// Drops groups that have not been used for as long as the operator keeps them. Gives how many.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn expire_groups(&self) -> Result<u64, Refusal> {
        let (today, unused) = (self.parts.clock.now().day(), self.parts.policy.get().groups.unused_months);
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
