//! Credentials that are not to be believed, although they have not expired: listed for everybody by GetCredentials until
//! they would have.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    base::{Refusal, Timestamp},
    service::{Context, damaged, store_failure},
    store::{Batch, Key, KeyRange, Limit, Table, record},
    wire::{
        authentication::{Revocation, RevocationReason},
        credential::Fingerprint,
    },
};

/// Most revocations at a time: what every client can be sent.
const MAX_REVOKED: usize = 100_000;

/// So many of them are left for what the operator does: whoever registers and leaves again and again cannot keep it from that.
const RESERVED: usize = 10_000;

/// Who revokes a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Whose it is.
    Owner,
    /// The operator.
    Operator,
}

/// Rows read in one go.
const PAGE: usize = 10_000;

const VERSION: u8 = 1;

/// The list.
pub struct Revocations(Mutex<BTreeMap<Fingerprint, Entry>>);

/// An entry of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// Last second in which the credential would be valid.
    until: u64,
    reason: RevocationReason,
}

/// Changes of the list, which take effect when they are durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    added: Vec<(Fingerprint, Entry)>,
    removed: Vec<Fingerprint>,
}

impl Revocations {
    /// The stored list.
    ///
    /// # Errors
    /// `internal` if it cannot be read.
    pub async fn load(context: &Context<'_>) -> Result<Self, Refusal> {
        let mut list = BTreeMap::new();
        let mut range = KeyRange::from(Key::new()..);
        loop {
            let rows = context.view.scan(Table::AsRevoked, range, Limit::rows(PAGE)).await.map_err(store_failure)?;
            let Some(last) = rows.last() else { return Ok(Self(Mutex::new(list))) };
            range = KeyRange::from(last.key.successor()..);
            for row in rows {
                let name = row.key.as_bytes().try_into().map_err(damaged)?;
                let (until, on_hold) = record::decode(VERSION, &row.value).map_err(damaged)?;
                let reason = if on_hold { RevocationReason::OnHold } else { RevocationReason::Revoked };
                list.insert(name, Entry { until, reason });
            }
        }
    }

    /// The list as GetCredentials gives it.
    pub fn list(&self) -> Vec<Revocation> {
        self.lock().iter().map(|(name, of)| Revocation { credential: *name, reason: of.reason }).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Whether a credential is on the list.
    pub fn contains(&self, name: &Fingerprint) -> bool {
        self.lock().contains_key(name)
    }

    /// Adds a revocation to the batch.
    ///
    /// # Errors
    /// `quota_exceeded` if the list is full.
    pub fn add(
        &self,
        (name, until): (Fingerprint, u64),
        reason: RevocationReason,
        by: By,
        batch: &mut Batch,
        changes: &mut Changes,
    ) -> Result<(), Refusal> {
        let room = if by == By::Operator { MAX_REVOKED } else { MAX_REVOKED - RESERVED };
        if self.count() + changes.added.len() >= room {
            return Err(Refusal::quota_exceeded("the list of revoked credentials is full"));
        }
        let row = record::encode(VERSION, &(until, reason == RevocationReason::OnHold)).map_err(damaged)?;
        batch.put(Table::AsRevoked, Key::new().bytes(name), row);
        changes.added.push((name, Entry { until, reason }));
        Ok(())
    }

    /// Adds the end of a revocation to the batch.
    pub fn lift(&self, name: Fingerprint, batch: &mut Batch, changes: &mut Changes) {
        batch.delete(Table::AsRevoked, Key::new().bytes(name));
        changes.removed.push(name);
    }

    /// Adds the end of those that would have expired by now to the batch.
    pub fn expire(&self, now: Timestamp, batch: &mut Batch) -> Changes {
        let expired = self.lock().iter().filter(|(_, of)| of.until < now.seconds()).map(|(name, _)| *name).collect();
        let changes = Changes { removed: expired, added: Vec::new() };
        changes.removed.iter().for_each(|name| _ = batch.delete(Table::AsRevoked, Key::new().bytes(name)));
        changes
    }

    /// Changes are durable: they take effect.
    pub fn apply(&self, changes: Changes) {
        let mut list = self.lock();
        for name in changes.removed {
            list.remove(&name);
        }
        list.extend(changes.added);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Fingerprint, Entry>> {
        // The map is whole between any two of its operations.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_leaves_again_and_again_keeps_no_operator_from_revoking() {
        let list = Revocations(Mutex::default());
        let add = |count: usize, by| {
            let (mut batch, mut changes) = (Batch::new(), Changes::default());
            for number in list.count()..list.count() + count {
                let mut name = [0; 32];
                name[..8].copy_from_slice(&number.to_be_bytes());
                list.add((name, 1), RevocationReason::Revoked, by, &mut batch, &mut changes)?;
            }
            list.apply(changes);
            Ok::<_, Refusal>(())
        };
        add(MAX_REVOKED - RESERVED, By::Owner).unwrap();
        let full = crate::base::Status::QuotaExceeded;
        assert_eq!(add(1, By::Owner).unwrap_err().status, full);
        add(RESERVED, By::Operator).unwrap();
        assert_eq!(add(1, By::Operator).unwrap_err().status, full);
        assert_eq!(list.count(), MAX_REVOKED);
    }
}
