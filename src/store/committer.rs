//! The one way to the disk. Batches are checked, numbered and shown in the overlay under one lock; a thread takes all
//! that are waiting, settles them into one synced write, and wakes those that wait for them. A write that fails is the
//! end: nothing more is written and nobody is told of success.
//!
//! The first that waits calls the thread, but lets all tasks run before that can: what they submit shares the write.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, ready},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, sync::oneshot, task::yield_now};

use super::{
    Batch, Engine, EngineError, Meters, Operation, Options, StoreError,
    batch::{Requirement, settle},
    overlay::Overlay,
};

/// Rows forgotten from the overlay under one lock.
const FORGET_AT_ONCE: usize = 256;

/// The submission side and the thread behind it.
pub(super) struct Committer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    engine: Arc<dyn Engine>,
    options: Options,
    meters: Meters,
    state: Mutex<State>,
    work: Condvar,
}

struct State {
    phase: Phase,
    overlay: Overlay,
    /// Operations of waiting batches, in order of submission.
    waiting: Vec<Operation>,
    waiting_size: Size,
    /// Since when something waits.
    waiting_since: Option<Instant>,
    /// Since when something of what is being written has waited.
    writing_since: Option<Instant>,
    /// What is submitted and not durable, waiting or being written.
    outstanding: Size,
    /// Number of the last batch submitted.
    submitted: u64,
    /// Number of the last batch that is durable.
    durable: u64,
    /// Who waits for which batch.
    waiters: Vec<(u64, Waiter)>,
    /// Whether what waits is to be taken.
    called: bool,
    /// Whether the thread sleeps and must be woken.
    idle: bool,
    /// Whether the failure callback was called.
    failure_reported: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// What was submitted is still written.
    Closing,
    Failed,
}

#[derive(Clone, Copy, Default)]
struct Size {
    batches: usize,
    bytes: usize,
}

/// Batches on their way to the disk: all up to the number `last`.
struct Work {
    operations: Vec<Operation>,
    size: Size,
    last: u64,
}

impl Work {
    fn settle(self) -> Self {
        Self { operations: settle(self.operations), ..self }
    }
}

/// Who waits for a batch.
type Waiter = oneshot::Sender<Result<Others, StoreError>>;

/// Those whose batches became durable with that of the one who is told: they are told when this is dropped, by the one who was.
/// So the committer wakes one thread once, whose tasks wake each other, and is not put aside for each of them.
#[derive(Debug)]
struct Others(Vec<Waiter>);

impl Drop for Others {
    fn drop(&mut self) {
        for waiter in self.0.drain(..) {
            // Who no longer waits has given up on the reply, not on the batch.
            let _ = waiter.send(Ok(Self(Vec::new())));
        }
    }
}

/// Resolves when what it stands for is durable. Dropping it changes nothing about the batch.
#[must_use = "a reply may only leave once this has resolved"]
pub struct Commit(Inner);

enum Inner {
    Done(Result<(), StoreError>),
    /// Nobody has waited yet. Only who does is told, because it has to tell others.
    Submitted(Arc<Shared>, u64),
    Waiting(oneshot::Receiver<Result<Others, StoreError>>),
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Commit")
    }
}

impl Future for Commit {
    type Output = Result<(), StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.0 {
                Inner::Done(outcome) => return Poll::Ready(outcome.clone()),
                Inner::Submitted(shared, batch) => {
                    let waiting = shared.lock().wait(*batch);
                    self.0 = waiting;
                }
                Inner::Waiting(outcome) => {
                    let told = ready!(Pin::new(outcome).poll(context)).unwrap_or(Err(StoreError::Failed));
                    return Poll::Ready(told.map(drop));
                }
            }
        }
    }
}

impl Committer {
    pub fn start(engine: Arc<dyn Engine>, options: Options) -> Result<Self, StoreError> {
        let inline = options.inline;
        let state = State {
            phase: Phase::Open,
            overlay: Overlay::new(),
            waiting: Vec::new(),
            waiting_size: Size::default(),
            waiting_since: None,
            writing_since: None,
            outstanding: Size::default(),
            submitted: 0,
            durable: 0,
            waiters: Vec::new(),
            called: false,
            idle: false,
            failure_reported: false,
        };
        let shared = Arc::new(Shared {
            engine,
            options,
            meters: Meters::default(),
            state: Mutex::new(state),
            work: Condvar::new(),
        });
        let thread = if inline {
            None
        } else {
            let shared = shared.clone();
            let builder = thread::Builder::new().name("committer".into());
            Some(builder.spawn(move || shared.run()).map_err(|error| EngineError::Io(error.to_string()))?)
        };
        Ok(Self { shared, thread: Mutex::new(thread) })
    }

    pub fn submit(&self, batch: Batch) -> Result<Commit, StoreError> {
        Shared::submit(&self.shared, batch)
    }

    pub fn barrier(&self) -> Commit {
        Shared::barrier(&self.shared, &self.shared.lock())
    }

    /// For how long the oldest of what is not durable has waited.
    pub fn backlog(&self) -> Duration {
        let state = self.shared.lock();
        state.writing_since.or(state.waiting_since).map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Reads what the overlay knows.
    pub fn with_overlay<T>(&self, read: impl FnOnce(&Overlay) -> T) -> T {
        read(&self.shared.lock().overlay)
    }

    pub fn engine(&self) -> &dyn Engine {
        &*self.shared.engine
    }

    pub fn meters(&self) -> &Meters {
        &self.shared.meters
    }

    /// Refuses further batches; those that were submitted are still written.
    pub fn close(&self) -> Commit {
        let mut state = self.shared.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Closing;
        }
        self.shared.work.notify_one();
        Shared::barrier(&self.shared, &state)
    }

    /// Waits for the thread, which must have been told to end.
    pub fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A failure callback may drop the last handle on the very thread that would be waited for.
        if let Some(thread) = thread.filter(|handle| handle.thread().id() != thread::current().id()) {
            // Its panic was already turned into a failure of the store.
            let _ = thread.join();
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        drop(self.close());
        self.join();
    }
}

impl Shared {
    /// A panic under the lock may have left the state half changed, so it counts as a failure, which the thread reports.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| {
            let mut state = poisoned.into_inner();
            state.phase = Phase::Failed;
            self.work.notify_one();
            state
        })
    }

    /// What was submitted so far.
    fn barrier(self: &Arc<Self>, state: &State) -> Commit {
        Commit(if state.submitted == state.durable {
            Inner::Done(Ok(()))
        } else {
            Inner::Submitted(self.clone(), state.submitted)
        })
    }

    fn submit(self: &Arc<Self>, batch: Batch) -> Result<Commit, StoreError> {
        let mut state = self.lock();
        state.admit(&batch, &self.options)?;
        for requirement in &batch.requirements {
            if !state.holds(&*self.engine, requirement)? {
                return Err(StoreError::Conflict);
            }
        }
        if batch.operations.is_empty() {
            return Ok(self.barrier(&state));
        }
        state.enqueue(batch);
        if !self.options.inline {
            let commit = self.barrier(&state);
            let first = state.waiting_size.batches == 1;
            drop(state);
            if first {
                Call(Arc::downgrade(self)).in_a_while();
            }
            return Ok(commit);
        }
        let work = state.take_work().settle();
        match self.write(&work) {
            Ok(()) => {
                state.overlay.forget_ranges(work.last);
                state.overlay.forget_rows(work.last, &work.operations);
                state.complete(&work);
                Ok(Commit(Inner::Done(Ok(()))))
            }
            Err(error) => {
                self.fail(state, &error);
                Ok(Commit(Inner::Done(Err(StoreError::Failed))))
            }
        }
    }

    /// The committer thread.
    fn run(&self) {
        let _guard = FailOnPanic(self);
        while self.wait_for_work() {
            let work = self.lock().take_work().settle();
            match self.write(&work) {
                Ok(()) => self.finish(&work),
                Err(error) => return self.fail(self.lock(), &error),
            }
        }
        let state = self.lock();
        if state.phase == Phase::Failed {
            self.fail(state, &panicked());
        }
    }

    fn write(&self, work: &Work) -> Result<(), EngineError> {
        let started = Instant::now();
        self.engine.write(&work.operations)?;
        self.meters.wrote(work.size.batches, work.size.bytes, started.elapsed());
        Ok(())
    }

    /// Waits for batches; whether there are any, or will be none any more.
    fn wait_for_work(&self) -> bool {
        let mut state = self.lock();
        loop {
            match state.phase {
                Phase::Failed => return false,
                Phase::Closing => return state.waiting_size.batches > 0,
                Phase::Open if state.called && state.waiting_size.batches > 0 => return true,
                Phase::Open => {
                    state.idle = true;
                    state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn finish(&self, work: &Work) {
        self.lock().overlay.forget_ranges(work.last);
        for operations in work.operations.chunks(FORGET_AT_ONCE) {
            self.lock().overlay.forget_rows(work.last, operations);
        }
        let mut woken = self.lock().complete(work);
        if let Some(waiter) = woken.pop() {
            // If nobody is there any more, the others are told here.
            let _ = waiter.send(Ok(Others(woken)));
        }
    }

    /// Ends all writing. The callback comes first: where it ends the process, nobody is told anything.
    fn fail(&self, mut state: MutexGuard<'_, State>, error: &EngineError) {
        state.phase = Phase::Failed;
        state.waiting.clear();
        let waiters = mem::take(&mut state.waiters);
        let first = !mem::replace(&mut state.failure_reported, true);
        drop(state);
        if first {
            (self.options.on_failure)(error);
        }
        for (_, waiter) in waiters {
            let _ = waiter.send(Err(StoreError::Failed));
        }
    }
}

impl State {
    /// A batch above the bounds is let in when it would be alone, else it could never be written.
    fn admit(&self, batch: &Batch, options: &Options) -> Result<(), StoreError> {
        match self.phase {
            Phase::Failed => return Err(StoreError::Failed),
            Phase::Closing => return Err(StoreError::Closed),
            Phase::Open => {}
        }
        let full = self.outstanding.batches >= options.max_outstanding_batches
            || self.outstanding.bytes.saturating_add(batch.size()) > options.max_outstanding_bytes;
        if full && self.outstanding.batches > 0 { Err(StoreError::Overloaded) } else { Ok(()) }
    }

    fn holds(&self, engine: &dyn Engine, requirement: &Requirement) -> Result<bool, EngineError> {
        let Requirement { table, key, state } = requirement;
        let row = match self.overlay.get(*table, key.as_bytes()) {
            Some(row) => row,
            None => engine.get_now(*table, key.as_bytes())?,
        };
        Ok(state.holds(row.as_ref()))
    }

    fn enqueue(&mut self, batch: Batch) {
        let size = Size { batches: 1, bytes: batch.size() };
        self.submitted += 1;
        self.overlay.apply(self.submitted, &batch.operations);
        self.waiting.extend(batch.operations);
        self.waiting_since.get_or_insert_with(Instant::now);
        self.waiting_size.add(size);
        self.outstanding.add(size);
    }

    fn take_work(&mut self) -> Work {
        (self.called, self.idle) = (false, false);
        self.writing_since = self.waiting_since.take();
        let (operations, size) = (mem::take(&mut self.waiting), mem::take(&mut self.waiting_size));
        Work { operations, size, last: self.submitted }
    }

    /// Counts the work as durable and hands over who waited for it.
    fn complete(&mut self, work: &Work) -> Vec<Waiter> {
        self.durable = work.last;
        self.writing_since = None;
        self.outstanding.subtract(work.size);
        self.waiters.extract_if(.., |(batch, _)| *batch <= work.last).map(|(_, waiter)| waiter).collect()
    }

    /// Waits for a batch that was submitted.
    fn wait(&mut self, batch: u64) -> Inner {
        if batch <= self.durable {
            return Inner::Done(Ok(()));
        }
        if self.phase == Phase::Failed {
            return Inner::Done(Err(StoreError::Failed));
        }
        let (waiter, outcome) = oneshot::channel();
        self.waiters.push((batch, waiter));
        Inner::Waiting(outcome)
    }
}

impl Size {
    fn add(&mut self, other: Size) {
        self.batches += other.batches;
        self.bytes += other.bytes;
    }

    fn subtract(&mut self, other: Size) {
        self.batches -= other.batches;
        self.bytes -= other.bytes;
    }
}

/// Calls the thread when it is dropped, which it is even where the runtime ends before. It does not keep the database open.
struct Call(Weak<Shared>);

impl Call {
    /// Calls once all tasks that are ready have run; outside of a runtime, at once.
    fn in_a_while(self) {
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                yield_now().await;
                drop(self);
            });
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Some(shared) = self.0.upgrade() else { return };
        let mut state = shared.lock();
        state.called = true;
        if mem::take(&mut state.idle) {
            shared.work.notify_one();
        }
    }
}

/// Turns a panic of the committer thread into a failure of the store, so that nobody waits for ever.
struct FailOnPanic<'a>(&'a Shared);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(self.0.lock(), &panicked());
        }
    }
}

fn panicked() -> EngineError {
    EngineError::Io("a thread panicked while it committed".into())
}
