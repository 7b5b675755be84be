//! Waking clients that do not listen (`wire-spec/queuing.md`, "Push"): who is to be pushed, at most how often, and what
//! becomes of pushes that fail. How one push is sent is behind [`PushService`]: [`web_push`] is the first.

pub mod web_push;
mod worker;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::{
    base::{QsClientId, Secret},
    service,
    wire::queuing::PushToken,
};

pub use web_push::WebPush;

/// Why a push was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// There is nobody behind the token any more, for good.
    Gone,
    /// Not now; not before so much time has passed, if the push service says so.
    RetryLater(Option<Duration>),
    /// The push service does not take it, or the token is not usable.
    Rejected,
}

/// Sends single pushes. A push service of another kind is one more implementation, and one more kind of [`PushToken`].
#[async_trait]
pub trait PushService: Send + Sync {
    /// Wakes the device behind a token. Returns within a bounded time.
    ///
    /// # Errors
    /// [`PushError`] says what to do about it.
    async fn push(&self, token: &PushToken) -> Result<(), PushError>;
}

/// What is known of those who are pushed.
#[async_trait]
pub trait Recipients: Send + Sync {
    /// Whether a client listens to its queue now: then the push is left to that, and asked for again if it ends too early.
    fn is_listening(&self, push: &service::Push) -> bool;

    /// The sealed push token of a client, if it has one and something in its queue.
    async fn token(&self, client: QsClientId) -> Option<Vec<u8>>;

    /// The token is good for nothing: it is removed, if the client still has it.
    async fn forget_token(&self, client: QsClientId, sealed: &[u8]);
}

/// How often and how long it is tried.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From one push of a client to the next, at least.
    pub min_interval: Duration,
    /// Until a push that failed is tried again; doubled each time.
    pub first_retry: Duration,
    /// The longest that anything is waited for.
    pub longest_retry: Duration,
    /// How often a push is tried, in all.
    pub attempts: u32,
    /// Clients that wait for a push, have one under way, or had one within the shortest interval.
    pub clients: usize,
    /// Pushes under way.
    pub in_flight: usize,
}

impl Limits {
    /// The bounds that suit a homeserver, with this interval from one push of a client to the next.
    pub const fn with_interval(min_interval: Duration) -> Self {
        Self {
            min_interval,
            first_retry: Duration::from_secs(30),
            longest_retry: Duration::from_secs(3_600),
            attempts: 5,
            clients: 16_384,
            in_flight: 256,
        }
    }
}

/// What became of pushes, since the start.
#[derive(Debug, Default)]
pub struct Counts {
    sent: AtomicU64,
    failed: AtomicU64,
    gone: AtomicU64,
    dropped: AtomicU64,
}

impl Counts {
    /// Taken by a push service.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Given up.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// For tokens that led to nobody.
    pub fn gone(&self) -> u64 {
        self.gone.load(Ordering::Relaxed)
    }

    /// Not tried, because too many clients were waiting.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Who is to be pushed. In memory only: what waits when the homeserver stops is not made up for.
pub struct Pushes {
    shared: Arc<Shared>,
    /// Until somebody runs it.
    worker: Mutex<Option<mpsc::Receiver<QsClientId>>>,
}

struct Shared {
    limits: Limits,
    turns: Mutex<HashMap<QsClientId, Turn>>,
    begin: mpsc::Sender<QsClientId>,
    counts: Counts,
}

/// A client whose push waits or is under way.
struct Turn {
    /// Opens its token.
    token_key: Secret,
    /// Whether it is to be pushed, once more if one is under way.
    wanted: bool,
}

impl Pushes {
    /// Nobody is to be pushed.
    pub fn new(limits: Limits) -> Self {
        let (begin, worker) = mpsc::channel(limits.clients);
        let shared = Shared { limits, turns: Mutex::default(), begin, counts: Counts::default() };
        Self { shared: Arc::new(shared), worker: Mutex::new(Some(worker)) }
    }

    /// These clients are to be pushed, as soon as they may be. For one whose push waits already it is the same push. If too
    /// many wait they are left alone: a push is only a hint.
    pub fn want(&self, pushes: impl IntoIterator<Item = service::Push>) {
        let mut pushes = pushes.into_iter().peekable();
        if pushes.peek().is_none() {
            return;
        }
        let mut turns = self.shared.turns();
        for service::Push { client, token_key } in pushes {
            if let Some(turn) = turns.get_mut(&client) {
                *turn = Turn { token_key, wanted: true };
            } else if turns.len() < self.shared.limits.clients && self.shared.begin.try_send(client).is_ok() {
                turns.insert(client, Turn { token_key, wanted: true });
            } else {
                count(&self.shared.counts.dropped);
            }
        }
    }

    /// How many clients have a turn.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.shared.turns().len()
    }

    /// What became of them.
    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// Pushes whoever is to be pushed, until it is dropped. Can be called once.
    pub async fn run(&self, service: Arc<dyn PushService>, recipients: Arc<dyn Recipients>) {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(beginning) = worker {
            worker::run(self.shared.clone(), beginning, service, recipients).await;
        }
    }
}

impl Shared {
    fn turns(&self) -> MutexGuard<'_, HashMap<QsClientId, Turn>> {
        // The map is whole between any two of its operations.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
