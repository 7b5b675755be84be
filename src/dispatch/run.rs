//! The one way in which requests change anything: lock, read, decide, submit as one batch, unlock, wait until it is
//! durable, wake or push who is concerned, reply.

use std::{hash::Hash, sync::Arc};

use tokio::sync::{MutexGuard, SemaphorePermit};

use super::{Dispatcher, context};
use crate::{
    base::Refusal,
    crypto::Rng,
    service::{Appended, Context, Outcome, QueueChange, QueueId, Reply, policy::Policy, store_failure},
    wire::Encode,
};

/// Most bytes that one request may store.
const MAX_STORED: usize = 64 << 20;

/// A request under way, with the locks of what it changes, and its turn if it needs one.
pub struct Scope<'a> {
    dispatcher: &'a Dispatcher,
    guards: Vec<MutexGuard<'a, ()>>,
    turn: Option<SemaphorePermit<'a>>,
    /// As it was when the request began to be carried out.
    policy: Arc<Policy>,
    rng: Box<dyn Rng + Send + Sync>,
}

impl Dispatcher {
    /// For a request that changes nothing that another could change at the same time.
    pub(super) fn unlocked(&self) -> Scope<'_> {
        let (policy, rng) = (self.parts.policy.get(), (self.parts.entropy)());
        Scope { dispatcher: self, guards: Vec::new(), turn: None, policy, rng }
    }

    /// For a request that reads and changes what `key` names.
    pub(super) async fn locked(&self, key: impl Hash) -> Scope<'_> {
        Scope { guards: self.locks.lock(&[self.locks.name(key)]).await, ..self.unlocked() }
    }

    /// The same for a request that may compute for long, which waits for its turn.
    ///
    /// # Errors
    /// `overloaded` if there is more to do than this machine can.
    pub(super) async fn locked_in_turn(&self, key: impl Hash) -> Result<Scope<'_>, Refusal> {
        let turn = Some(self.turns.take().await?);
        Ok(Scope { turn, ..self.locked(key).await })
    }

    /// For a request that reads and changes what both keys name.
    pub(super) async fn locked_both(&self, one: impl Hash, other: impl Hash) -> Scope<'_> {
        self.locked_all(&[self.locks.name(one), self.locks.name(other)]).await
    }

    /// For a request that reads and changes all that has these names.
    pub(super) async fn locked_all(&self, names: &[usize]) -> Scope<'_> {
        Scope { guards: self.locks.lock(names).await, ..self.unlocked() }
    }
}

impl Scope<'_> {
    /// What the handler is given.
    pub fn context(&mut self) -> Context<'_> {
        context(&self.dispatcher.parts, &self.policy, self.dispatcher, self.rng.as_mut())
    }

    /// Writes what the handler decided; gives the encoded reply once it is durable. Whoever listens to a queue that is closed
    /// is told.
    ///
    /// # Errors
    /// What the store, a queue or the reply refuses; then nothing is written.
    pub async fn commit<R: Encode>(mut self, outcome: Outcome<R>) -> Result<Vec<u8>, Refusal> {
        let dispatcher = self.dispatcher;
        let Outcome { mut batch, appends, forwards, changes, reply } = outcome;
        let closes = |(id, change): &(QueueId, QueueChange)| matches!(change, QueueChange::Close).then_some(*id);
        let closed: Vec<_> = changes.iter().filter_map(closes).collect();
        let resolved = dispatcher.queues.resolve(appends, changes, &mut self.context(), &mut batch).await?;
        let (outbox, not_taken) = dispatcher.forward(forwards, &mut batch).await?;
        let reply = match reply {
            Reply::Ready(reply) => Ok(reply),
            Reply::AfterAppends(finish) => {
                finish(Appended { refused: resolved.appended.refused + not_taken }, &mut batch)
            }
        };
        let submitted = reply.and_then(|reply| {
            if batch.size() > MAX_STORED {
                return Err(Refusal::quota_exceeded("one request may store at most 64 MiB"));
            }
            // A reply that only reads may rest on what others have submitted.
            let store = &dispatcher.parts.store;
            let commit = if batch.is_empty() { store.barrier() } else { store.submit(batch).map_err(store_failure)? };
            Ok((reply, commit))
        });
        let (reply, commit) = submitted?;
        let (changed, fed) = (resolved.submitted(), outbox.submitted());
        self.guards.clear();
        self.turn = None;
        commit.await.map_err(store_failure)?;
        dispatcher.peers.wake(fed);
        closed.into_iter().for_each(|queue| dispatcher.queuing.forget(queue));
        let unheard = dispatcher.queues.wake(changed);
        dispatcher.pushes.want(unheard);
        Ok(reply.to_vec())
    }
}
