//! The queues' heads in memory, and who listens to which queue. Appends are resolved here: heads are opened in order
//! under their locks, entries encrypted, and the locks held until the batch is submitted.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{Mutex as AsyncMutex, MutexGuard, Notify};

use crate::{
    base::{Cache, Refusal},
    service::{
        Append, Appended, Context, QueueId,
        queue::{Queue, QueueLimits, read},
        store_failure,
    },
    store::{Batch, Store},
    wire::queue::{Dequeue, QueueEntries},
};

const SHARDS: usize = 64;

/// Heads kept per shard, at least.
const HEADS_PER_SHARD: usize = 2_048;

type Heads = Cache<QueueId, Queue>;

/// The queues of a node.
pub struct Queues {
    shards: Vec<AsyncMutex<Heads>>,
    limits: QueueLimits,
    listeners: Mutex<HashMap<QueueId, Arc<Listener>>>,
}

/// Somebody who listens to a queue.
#[derive(Default)]
pub struct Listener {
    wake: Notify,
    replaced: AtomicBool,
    ended: AtomicBool,
}

impl Listener {
    /// Resolves when there may be something new, at once if there has been since the last time.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Whether a newer one has taken the queue over.
    pub fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Acquire)
    }

    /// Whether its client may not listen any more.
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// Appends that were resolved into a batch which is not submitted yet.
pub struct Resolved<'a> {
    guards: BTreeMap<usize, MutexGuard<'a, Heads>>,
    changed: Vec<QueueId>,
    closed: Vec<QueueId>,
    /// What became of them.
    pub appended: Appended,
}

impl Resolved<'_> {
    /// The batch was submitted: lets the heads go. What is left to do is to wake these queues when it is durable.
    pub fn submitted(mut self) -> Vec<QueueId> {
        for id in std::mem::take(&mut self.closed) {
            self.forget(&id);
        }
        std::mem::take(&mut self.changed)
    }

    fn forget(&mut self, id: &QueueId) {
        if let Some(heads) = self.guards.get_mut(&shard(id)) {
            heads.remove(id);
        }
    }
}

impl Drop for Resolved<'_> {
    /// The batch was not submitted, whatever the reason: forgets the heads as they would have been.
    fn drop(&mut self) {
        for id in std::mem::take(&mut self.changed) {
            self.forget(&id);
        }
    }
}

impl Queues {
    /// No head in memory, nobody listening.
    pub fn new(limits: QueueLimits) -> Self {
        let shard = |_| AsyncMutex::new(Cache::new(HEADS_PER_SHARD));
        Self { shards: (0..SHARDS).map(shard).collect(), limits, listeners: Mutex::default() }
    }

    /// Turns appends into rows of the batch, and deletes the queues that are closed.
    ///
    /// # Errors
    /// `internal` if a head cannot be read or written.
    pub async fn resolve(
        &self,
        mut appends: Vec<Append>,
        closed: Vec<QueueId>,
        context: &mut Context<'_>,
        batch: &mut Batch,
    ) -> Result<Resolved<'_>, Refusal> {
        let mut shards: Vec<_> =
            appends.iter().map(|append| shard(&append.queue)).chain(closed.iter().map(shard)).collect();
        shards.sort_unstable();
        shards.dedup();
        let mut guards = BTreeMap::new();
        for shard in shards {
            // In ascending order, everywhere: no two requests wait for each other.
            guards.insert(shard, self.shards[shard].lock().await);
        }
        closed.iter().for_each(|id| Queue::delete(*id, batch));
        let changed = closed.clone();
        let mut resolved = Resolved { guards, changed, closed, appended: Appended::default() };
        appends.sort_by_key(|append| append.queue);
        for append in appends {
            let Some(heads) = resolved.guards.get_mut(&shard(&append.queue)) else { continue };
            let queue = match open(heads, append.queue, context).await {
                Ok(Some(queue)) => queue,
                Ok(None) => {
                    resolved.appended.refused += 1;
                    continue;
                }
                Err(refusal) => return Err(refusal),
            };
            let appended = queue.append(&append.content, append.class, &self.limits, context, batch);
            resolved.changed.push(append.queue);
            match appended {
                Ok(true) => {}
                Ok(false) => resolved.appended.refused += 1,
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(resolved)
    }

    /// The endpoints Dequeue: deletes what is before the start, durably, and reads on from there.
    ///
    /// # Errors
    /// `not_found` if there is no such queue, `malformed` for a start beyond its head.
    pub async fn dequeue(
        &self,
        id: QueueId,
        request: &Dequeue,
        store: &Store,
        context: &Context<'_>,
    ) -> Result<QueueEntries, Refusal> {
        let overview = self.overview(id, store).await?;
        if overview.incarnation != request.incarnation {
            return Ok(overview);
        }
        self.acknowledge(id, request.start, store, context).await?;
        let found = read(id, request.start, request.max, &store.durable()).await?;
        found.ok_or_else(no_queue)
    }

    /// What a queue holds, without entries.
    ///
    /// # Errors
    /// `not_found` if there is no such queue.
    pub async fn overview(&self, id: QueueId, store: &Store) -> Result<QueueEntries, Refusal> {
        read(id, 0, 0, &store.durable()).await?.ok_or_else(no_queue)
    }

    /// Deletes everything before `next`, durably.
    ///
    /// # Errors
    /// `not_found` if there is no such queue, `malformed` beyond its head.
    pub async fn acknowledge(
        &self,
        id: QueueId,
        next: u64,
        store: &Store,
        context: &Context<'_>,
    ) -> Result<(), Refusal> {
        let mut heads = self.shards[shard(&id)].lock().await;
        let mut batch = Batch::new();
        let queue = open(&mut heads, id, context).await?.ok_or_else(no_queue)?;
        queue.acknowledge(next, &context.view, &mut batch).await?;
        if batch.is_empty() {
            return Ok(());
        }
        let submitted = store.submit(batch).map_err(store_failure);
        if submitted.is_err() {
            heads.remove(&id);
        }
        drop(heads);
        submitted?.await.map_err(store_failure)
    }

    /// Takes a queue over: whoever listened to it before is told to stop.
    pub fn listen(&self, id: QueueId) -> Arc<Listener> {
        let listener = Arc::new(Listener::default());
        if let Some(older) = self.listeners().insert(id, listener.clone()) {
            older.replaced.store(true, Ordering::Release);
            older.wake.notify_one();
        }
        listener
    }

    /// Ends a listening, unless a newer one has taken the queue over.
    pub fn unlisten(&self, id: QueueId, listener: &Arc<Listener>) {
        let mut listeners = self.listeners();
        if listeners.get(&id).is_some_and(|current| Arc::ptr_eq(current, listener)) {
            listeners.remove(&id);
        }
    }

    /// Ends whatever listens to a queue: its client may not any more.
    pub fn end_listening(&self, id: QueueId) {
        if let Some(listener) = self.listeners().remove(&id) {
            listener.ended.store(true, Ordering::Release);
            listener.wake.notify_one();
        }
    }

    /// Wakes those who listen to these queues, and nobody else.
    pub fn wake(&self, changed: &[QueueId]) {
        if changed.is_empty() {
            return;
        }
        let listeners = self.listeners();
        for listener in changed.iter().filter_map(|id| listeners.get(id)) {
            listener.wake.notify_one();
        }
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, HashMap<QueueId, Arc<Listener>>> {
        // The map is whole between any two of its operations. Its size is bounded by the connections' streams.
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn open<'a>(heads: &'a mut Heads, id: QueueId, context: &Context<'_>) -> Result<Option<&'a mut Queue>, Refusal> {
    if heads.get(&id).is_none() {
        match Queue::load(id, context).await? {
            Some(queue) => heads.insert(id, queue),
            None => return Ok(None),
        }
    }
    Ok(heads.get(&id))
}

fn shard(id: &QueueId) -> usize {
    id.spread() as usize % SHARDS
}

fn no_queue() -> Refusal {
    Refusal::not_found("there is no such queue")
}
