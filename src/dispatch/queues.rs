//! The queues' heads in memory, and who listens to which queue. Appends are resolved here: heads are opened in order
//! under their locks, entries encrypted, and the locks held until the batch is submitted.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{
    sync::{Mutex as AsyncMutex, MutexGuard, Notify},
    task::yield_now,
};

use crate::{
    base::{Cache, Refusal},
    service::{
        Append, Appended, Context, Push, QueueChange, QueueId,
        queue::{Overview, Part, Queue, QueueLimits, read},
        store_failure,
    },
    store::{Batch, Commit, Store},
    wire::queue::{Dequeue, Incarnation, QueueEntries},
};

const SHARDS: usize = 64;

/// After so many appends others have their turn: a message to thousands does not keep packets waiting.
const APPENDS_AT_A_TIME: usize = 64;

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
    /// Everything before this number is durable.
    head: AtomicU64,
    /// What would have been pushed if nobody had listened.
    push: Mutex<Option<Push>>,
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

    /// Everything before this number is durable, if it is not less than what is known otherwise.
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// There is more, up to this number.
    fn advance(&self, head: u64) {
        self.head.fetch_max(head, Ordering::AcqRel);
        self.wake.notify_one();
    }

    /// Whether its client may not listen any more, or there is no queue any more.
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn push(&self) -> std::sync::MutexGuard<'_, Option<Push>> {
        self.push.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Appends that were resolved into a batch which is not submitted yet.
pub struct Resolved<'a> {
    guards: BTreeMap<usize, MutexGuard<'a, Heads>>,
    changed: Vec<QueueId>,
    closed: Vec<QueueId>,
    /// Queues that have entries which they did not have, and the number after the last of them.
    heads: Vec<(QueueId, u64)>,
    pushes: Vec<Push>,
    /// What became of them.
    pub appended: Appended,
}

/// What is left to do when a batch is durable.
pub struct Changed {
    heads: Vec<(QueueId, u64)>,
    closed: Vec<QueueId>,
    pushes: Vec<Push>,
}

impl Resolved<'_> {
    /// The batch was submitted: lets the heads go. What is left to do is to wake who is concerned when it is durable.
    pub fn submitted(mut self) -> Changed {
        let closed = std::mem::take(&mut self.closed);
        closed.iter().for_each(|id| self.forget(id));
        self.changed.clear();
        Changed { heads: std::mem::take(&mut self.heads), closed, pushes: std::mem::take(&mut self.pushes) }
    }

    /// The head of a queue whose shard is locked, to be changed.
    async fn open(
        &mut self,
        id: QueueId,
        context: &mut Context<'_>,
        batch: &mut Batch,
    ) -> Result<Option<&mut Queue>, Refusal> {
        let Some(heads) = self.guards.get_mut(&shard(&id)) else { return Ok(None) };
        self.changed.push(id);
        open(heads, id, context, batch).await
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

    /// Turns appends, and then changes of queues themselves, into rows of the batch.
    ///
    /// # Errors
    /// `not_found` for a change of a queue that does not exist, what else refuses it; `internal` if a head cannot be read or
    /// written.
    pub async fn resolve(
        &self,
        mut appends: Vec<Append>,
        changes: Vec<(QueueId, QueueChange)>,
        context: &mut Context<'_>,
        batch: &mut Batch,
    ) -> Result<Resolved<'_>, Refusal> {
        let queues = appends.iter().map(|append| &append.queue).chain(changes.iter().map(|(id, _)| id));
        let mut shards: Vec<_> = queues.map(shard).collect();
        shards.sort_unstable();
        shards.dedup();
        let mut guards = BTreeMap::new();
        for shard in shards {
            // In ascending order, everywhere: no two requests wait for each other.
            guards.insert(shard, self.shards[shard].lock().await);
        }
        let mut resolved = Resolved {
            guards,
            changed: Vec::new(),
            closed: Vec::new(),
            heads: Vec::new(),
            pushes: Vec::new(),
            appended: Appended::default(),
        };
        appends.sort_by_key(|append| append.queue);
        for (at, append) in appends.into_iter().enumerate() {
            if at % APPENDS_AT_A_TIME == APPENDS_AT_A_TIME - 1 {
                yield_now().await;
            }
            let accepted = match resolved.open(append.queue, context, batch).await? {
                // Whoever sends does not learn what others have blocked.
                Some(queue) if queue.blocks(append.origin.as_ref()) => true,
                Some(queue) => {
                    let accepted = queue.append(&append.content, append.class, &self.limits, context, batch)?;
                    let head = queue.next();
                    resolved.heads.push((append.queue, head));
                    resolved.pushes.extend(append.push.filter(|_| accepted));
                    accepted
                }
                None => false,
            };
            resolved.appended.refused += u32::from(!accepted);
        }
        for (id, change) in changes {
            if let QueueChange::Close = change {
                Queue::delete(id, batch);
                resolved.changed.push(id);
                resolved.closed.push(id);
                continue;
            }
            let queue = resolved.open(id, context, batch).await?.ok_or_else(no_queue)?;
            match change {
                QueueChange::Restart(key) => queue.restart(&key, &self.limits, context, batch)?,
                QueueChange::Block(blocked) => queue.block(blocked, batch)?,
                QueueChange::Close => {}
            }
            let head = queue.next();
            resolved.heads.push((id, head));
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
        context: &mut Context<'_>,
    ) -> Result<QueueEntries, Refusal> {
        let part = self.part(id, request.incarnation, request.start, store, context).await?;
        if part.incarnation != request.incarnation {
            return Ok(part.header());
        }
        durable(self.acknowledge(id, request.start, None, store, context).await?).await?;
        let found = read(id, request.incarnation, request.start, request.max, &store.durable()).await?;
        found.ok_or_else(no_queue)
    }

    /// The part of a queue in which somebody goes on who knows it by an incarnation ([`Overview::part`]). One that was last used
    /// before the store was restored begins anew.
    ///
    /// # Errors
    /// `not_found` if there is no such queue.
    pub async fn part(
        &self,
        id: QueueId,
        known: Incarnation,
        start: u64,
        store: &Store,
        context: &mut Context<'_>,
    ) -> Result<Part, Refusal> {
        let overview = async || Overview::of(id, &store.durable()).await?.ok_or_else(no_queue);
        let mut found = overview().await?;
        if found.incarnation() != context.incarnation {
            // Nothing is before the first entry.
            durable(self.acknowledge(id, 0, None, store, context).await?).await?;
            found = overview().await?;
        }
        Ok(found.part(known, start))
    }

    /// Deletes everything before `next`, of which `bytes` is known as [`Queue::acknowledge`] has it: durably when what this
    /// gives has resolved, if there was something to delete.
    ///
    /// # Errors
    /// `not_found` if there is no such queue, `malformed` beyond its head.
    pub async fn acknowledge(
        &self,
        id: QueueId,
        next: u64,
        bytes: Option<u64>,
        store: &Store,
        context: &mut Context<'_>,
    ) -> Result<Option<Commit>, Refusal> {
        let mut heads = self.shards[shard(&id)].lock().await;
        let mut batch = Batch::new();
        let queue = open(&mut heads, id, context, &mut batch).await?.ok_or_else(no_queue)?;
        let acknowledged = queue.acknowledge(next, bytes, &context.view, &mut batch).await;
        if batch.is_empty() {
            return acknowledged.map(|()| None);
        }
        let submitted = acknowledged.and_then(|()| store.submit(batch).map_err(store_failure));
        if submitted.is_err() {
            heads.remove(&id);
        }
        submitted.map(Some)
    }

    /// Takes a queue over: whoever listened to it before is told to stop.
    pub fn listen(&self, id: QueueId) -> Arc<Listener> {
        let listener = Arc::new(Listener::default());
        if let Some(older) = self.listeners().insert(id, listener.clone()) {
            *listener.push() = older.push().take();
            older.replaced.store(true, Ordering::Release);
            older.wake.notify_one();
        }
        listener
    }

    /// Ends a listening, unless a newer one has taken the queue over. Whoever listened may have been out of reach for a while:
    /// gives who is to be pushed if it has left something in its queue.
    pub fn unlisten(&self, id: QueueId, listener: &Arc<Listener>) -> Option<Push> {
        let mut listeners = self.listeners();
        if !listeners.get(&id).is_some_and(|current| Arc::ptr_eq(current, listener)) {
            return None;
        }
        listeners.remove(&id);
        listener.push().take()
    }

    /// Whether somebody listens to a queue now.
    pub fn is_listened_to(&self, id: QueueId) -> bool {
        self.listeners().contains_key(&id)
    }

    /// Ends whatever listens to a queue: its client may not any more.
    pub fn end_listening(&self, id: QueueId) {
        end(&mut self.listeners(), id);
    }

    /// Wakes those who listen to the queues that have changed, and nobody else. Gives who does not listen and is to be pushed.
    pub fn wake(&self, Changed { heads, closed, mut pushes }: Changed) -> Vec<Push> {
        if heads.is_empty() && closed.is_empty() {
            return pushes;
        }
        let mut listeners = self.listeners();
        pushes.retain(|push| !leave_to(&listeners, push));
        for (id, head) in heads {
            if let Some(listener) = listeners.get(&id) {
                listener.advance(head);
            }
        }
        for id in closed {
            end(&mut listeners, id);
        }
        pushes
    }

    /// Leaves a push to whoever listens to the client's queue; whether somebody does.
    pub fn leave_to_listener(&self, push: &Push) -> bool {
        leave_to(&self.listeners(), push)
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, HashMap<QueueId, Arc<Listener>>> {
        // The map is whole between any two of its operations. Its size is bounded by the connections' streams.
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends whatever listens to a queue.
fn end(listeners: &mut HashMap<QueueId, Arc<Listener>>, id: QueueId) {
    if let Some(listener) = listeners.remove(&id) {
        listener.ended.store(true, Ordering::Release);
        listener.wake.notify_one();
    }
}

/// The client takes in what it listens to: it is pushed only if that ends too early.
fn leave_to(listeners: &HashMap<QueueId, Arc<Listener>>, push: &Push) -> bool {
    let listener = listeners.get(&QueueId::client(push.client));
    if let Some(listener) = listener {
        *listener.push() = Some(push.clone());
    }
    listener.is_some()
}

/// The head of a queue, which may have to begin anew in this life of the store: then the batch has rows.
async fn open<'a>(
    heads: &'a mut Heads,
    id: QueueId,
    context: &mut Context<'_>,
    batch: &mut Batch,
) -> Result<Option<&'a mut Queue>, Refusal> {
    if heads.get(&id).is_none() {
        let Some(mut queue) = Queue::load(id, context).await? else { return Ok(None) };
        queue.revive(context, batch)?;
        heads.insert(id, queue);
    }
    Ok(heads.get(&id))
}

/// Waits until what was submitted, if anything was, is durable.
///
/// # Errors
/// `internal` if it cannot be written.
pub async fn durable(commit: Option<Commit>) -> Result<(), Refusal> {
    match commit {
        Some(commit) => commit.await.map_err(store_failure),
        None => Ok(()),
    }
}

fn shard(id: &QueueId) -> usize {
    id.spread() as usize % SHARDS
}

fn no_queue() -> Refusal {
    Refusal::not_found("there is no such queue")
}
