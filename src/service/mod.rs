//! What the three services share: the shape of a handler (what it gets, what it returns), proven senders, and encrypted
//! queues. A handler does no I/O but awaiting reads of the view it was given; it never reads a clock, never draws
//! randomness of its own, never spawns. So the same code runs under QUIC, in memory and in a simulation.

pub mod keys;
pub mod policy;
pub mod proof;
pub mod queue;
pub mod work;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    base::{Domain, QsClientId, Refusal, Secret, Status, Timestamp},
    crypto::{Rng, aead::blocked_group, at_rest::StorageKey},
    store::{Batch, Key, StoreError, Table, View, record},
    wire::{
        credential::HpkePublicKey,
        federation::SealedForward,
        queue::Incarnation,
        queuing::{BlockedGroup, QueuingKeys},
    },
};

pub use proof::Verified;
pub use queue::QueueId;

/// What a handler is given besides the request.
pub struct Context<'a> {
    /// The home domain.
    pub domain: &'a Domain,
    /// The time.
    pub now: Timestamp,
    /// Everything submitted so far.
    pub view: View,
    /// Wraps secrets at rest.
    pub storage_key: &'a StorageKey,
    /// Of the store.
    pub incarnation: Incarnation,
    /// What the operator has decided.
    pub policy: &'a policy::Policy,
    /// Where heavy computations are done.
    pub workers: &'a work::Workers,
    /// What is known of other homeservers.
    pub others: &'a dyn Others,
    /// Randomness.
    pub rng: &'a mut (dyn Rng + Send + Sync),
}

/// What is known of other homeservers.
#[async_trait]
pub trait Others: Send + Sync {
    /// Checks that this homeserver deals with that of `domain`.
    ///
    /// # Errors
    /// `federation_denied` if not.
    fn check(&self, domain: &Domain) -> Result<(), Refusal>;

    /// The keys of the QS of `domain`, if they have been learnt.
    ///
    /// # Errors
    /// `internal` if the store fails.
    async fn keys(&self, domain: &Domain) -> Result<Option<Arc<QueuingKeys>>, Refusal>;

    /// For how many seconds, rounded up, the oldest of what waits to be delivered to that of `domain` has waited.
    ///
    /// # Errors
    /// `internal` if the store fails.
    async fn undelivered(&self, domain: &Domain) -> Result<Option<u64>, Refusal>;
}

impl Context<'_> {
    /// A stored row.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn get(&self, table: Table, key: &Key) -> Result<Option<Bytes>, Refusal> {
        self.view.get(table, key).await.map_err(store_failure)
    }

    /// A stored record of this version.
    ///
    /// # Errors
    /// `internal` if the store fails or the record is damaged.
    pub async fn record<T>(&self, table: Table, key: &Key, version: u8) -> Result<Option<T>, Refusal>
    where
        T: serde::de::DeserializeOwned,
    {
        let row = self.get(table, key).await?;
        row.map(|row| record::decode(version, &row)).transpose().map_err(damaged)
    }
}

/// What a handler decides: to be written as one batch, together with what goes into queues.
pub struct Outcome<R> {
    /// Rows to write.
    pub batch: Batch,
    /// Messages for queues, in order.
    pub appends: Vec<Append>,
    /// Messages for other homeservers, in order.
    pub forwards: Vec<Forwarded>,
    /// What happens to queues themselves, after the messages.
    pub changes: Vec<(QueueId, QueueChange)>,
    /// The reply.
    pub reply: Reply<R>,
}

/// The reply of a handler.
pub enum Reply<R> {
    /// Known already.
    Ready(R),
    /// Depends on how many queues took their message; may add rows to the batch (the first answer to an idempotency
    /// key). If it refuses, nothing is written.
    AfterAppends(Finish<R>),
}

/// Makes the reply when it is known what became of the appends.
pub type Finish<R> = Box<dyn FnOnce(Appended, &mut Batch) -> Result<R, Refusal> + Send>;

/// What became of the appends and forwards of an outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// How many queues are not reached because they, or what waits for their homeserver, are full or gone.
    pub refused: u32,
}

/// A message for another homeserver.
pub struct Forwarded {
    /// Which.
    pub domain: Domain,
    /// What it is given.
    pub payload: SealedForward,
    /// How much may wait for it already.
    pub class: Class,
    /// For how many queues it is.
    pub recipients: u32,
}

/// A change of a queue itself.
pub enum QueueChange {
    /// The ratchet starts anew, with a secret for the owner of this key, if it is another than before.
    Restart(HpkePublicKey),
    /// Messages of these groups are dropped, and no others; in ascending order.
    Block(Vec<BlockedGroup>),
    /// It ends.
    Close,
}

/// A message for a queue.
pub struct Append {
    /// Which queue.
    pub queue: QueueId,
    /// An encoded [`QueueMessage`](crate::wire::queue::QueueMessage).
    pub content: Bytes,
    /// How full the queue may be.
    pub class: Class,
    /// Where it comes from, for a queue that may have a blocklist.
    pub origin: Option<Origin>,
    /// Who is pushed when it is in the queue and nobody listens.
    pub push: Option<Push>,
}

/// A client that wants to be pushed when it does not listen.
#[derive(Clone)]
pub struct Push {
    /// Which.
    pub client: QsClientId,
    /// Opens its push token. It is never stored.
    pub token_key: Secret,
}

/// Where a message comes from, so that a queue can tell whether its owner has blocked that.
#[derive(Clone)]
pub struct Origin {
    /// The blocklist key of the queue's owner, from its queue config.
    pub blocklist_key: Secret,
    /// The encoded group id.
    pub group: Bytes,
}

impl Origin {
    /// The name of the group in the owner's blocklist.
    pub fn name(&self) -> BlockedGroup {
        blocked_group(&self.blocklist_key, &self.group)
    }
}

/// How important a message is to the state of its recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Refused when the first limit of a queue is reached.
    Application,
    /// Refused when the second is.
    Handshake,
}

impl<R> Outcome<R> {
    /// Changes nothing.
    pub fn unchanged(reply: R) -> Self {
        Self::write(Batch::new(), reply)
    }

    /// Writes rows.
    pub fn write(batch: Batch, reply: R) -> Self {
        Self { batch, appends: Vec::new(), forwards: Vec::new(), changes: Vec::new(), reply: Reply::Ready(reply) }
    }

    /// With changes of queues.
    #[must_use]
    pub fn changing(mut self, changes: Vec<(QueueId, QueueChange)>) -> Self {
        self.changes = changes;
        self
    }
}

/// A failed read or write as a refusal. The cause goes to the log here, once, and not to the peer.
pub fn store_failure(error: StoreError) -> Refusal {
    match error {
        StoreError::Overloaded => {
            Refusal::overloaded("too much is waiting to be written").with_retry_after(std::time::Duration::from_secs(1))
        }
        StoreError::Closed => Refusal::overloaded("the server is shutting down"),
        error => {
            tracing::error!(%error, "the store failed");
            Refusal::internal("the store failed")
        }
    }
}

/// A record that does not decode as a refusal.
pub fn damaged(error: impl std::fmt::Display) -> Refusal {
    tracing::error!(%error, "a stored record is damaged");
    Refusal::internal("a stored record is damaged")
}

/// Knows no other homeserver.
pub struct NoOthers;

#[async_trait]
impl Others for NoOthers {
    fn check(&self, _domain: &Domain) -> Result<(), Refusal> {
        Err(Refusal::new(Status::FederationDenied, "this homeserver deals with no other"))
    }

    async fn keys(&self, _domain: &Domain) -> Result<Option<Arc<QueuingKeys>>, Refusal> {
        Ok(None)
    }

    async fn undelivered(&self, _domain: &Domain) -> Result<Option<u64>, Refusal> {
        Ok(None)
    }
}
