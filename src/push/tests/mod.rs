//! Pushing: when, how often, and what becomes of it. Time is virtual. What goes over the network is in `web_push`.

pub mod endpoint;
mod web_push;

use std::{
    collections::{HashSet, VecDeque},
    sync::atomic::AtomicBool,
};

use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::*;
use crate::{
    crypto::{push::seal_token, system_rng},
    wire::queuing::WebPushSubscription,
};

const KEY: Secret = Secret::new([9; 32]);

fn client(number: u8) -> QsClientId {
    QsClientId([number; 16])
}

/// A token that tells whose it is.
fn token(client: QsClientId) -> PushToken {
    let endpoint = client.0[..].into();
    PushToken::WebPush(WebPushSubscription { endpoint, public_key: [4; 65], auth: Secret::new([3; 16]) })
}

fn push(number: u8) -> service::Push {
    service::Push { client: client(number), token_key: KEY }
}

/// A push service that does as it is told, and clients that do.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Result<(), PushError>>>,
    /// Whose pushes get no answer.
    hangs: Mutex<HashSet<QsClientId>>,
    panics: AtomicBool,
    listening: Mutex<HashSet<QsClientId>>,
    /// Whose pushes were left to their listening.
    left: Mutex<Vec<QsClientId>>,
    forgotten: Mutex<Vec<QsClientId>>,
}

struct Recorder(Arc<Script>, mpsc::UnboundedSender<(QsClientId, Instant)>);

#[async_trait]
impl PushService for Recorder {
    async fn push(&self, token: &PushToken) -> Result<(), PushError> {
        let PushToken::WebPush(subscription) = token;
        let client = QsClientId(subscription.endpoint.as_slice().try_into().unwrap());
        self.1.send((client, Instant::now())).unwrap();
        assert!(!self.0.panics.swap(false, Ordering::SeqCst), "told to");
        if self.0.hangs.lock().unwrap().contains(&client) {
            Notify::new().notified().await;
        }
        self.0.answers.lock().unwrap().pop_front().unwrap_or(Ok(()))
    }
}

#[async_trait]
impl Recipients for Script {
    fn is_listening(&self, push: &service::Push) -> bool {
        let listens = self.listening.lock().unwrap().contains(&push.client);
        if listens {
            assert_eq!(push.token_key, KEY);
            self.left.lock().unwrap().push(push.client);
        }
        listens
    }

    async fn token(&self, client: QsClientId) -> Option<Vec<u8>> {
        Some(seal_token(&KEY, client, &token(client), &mut system_rng()))
    }

    async fn forget_token(&self, client: QsClientId, sealed: &[u8]) {
        assert!(crate::crypto::push::open_token(&KEY, client, sealed).is_ok());
        self.forgotten.lock().unwrap().push(client);
    }
}

struct World {
    pushes: Arc<Pushes>,
    script: Arc<Script>,
    pushed: mpsc::UnboundedReceiver<(QsClientId, Instant)>,
    running: JoinHandle<()>,
    start: Instant,
}

impl World {
    fn start(answers: &[Result<(), PushError>]) -> Self {
        let script = Arc::new(Script { answers: Mutex::new(answers.to_vec().into()), ..Script::default() });
        let (sender, pushed) = mpsc::unbounded_channel();
        let pushes = Arc::new(Pushes::new(Limits::with_interval(Duration::from_secs(10))));
        let (service, recipients) = (Arc::new(Recorder(script.clone(), sender)), script.clone());
        let running = tokio::spawn({
            let pushes = pushes.clone();
            async move { pushes.run(service, recipients).await }
        });
        Self { pushes, script, pushed, running, start: Instant::now() }
    }

    /// The next push: whose, and seconds after the start.
    async fn next(&mut self) -> (u8, u64) {
        let (client, at) = self.pushed.recv().await.unwrap();
        (client.0[0], at.duration_since(self.start).as_secs())
    }

    /// Nothing more happens, however long one waits.
    async fn is_silent(&mut self) -> bool {
        timeout(Duration::from_secs(86_400), self.pushed.recv()).await.is_err() && self.pushes.waiting() == 0
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_a_push_waits_is_the_same_push_and_there_is_one_in_ten_seconds() {
    let mut world = World::start(&[]);
    world.pushes.want([push(1), push(2)]);
    assert_eq!([world.next().await, world.next().await], [(1, 0), (2, 0)]);
    for _ in 0..100 {
        world.pushes.want([push(1)]);
    }
    assert_eq!(world.next().await, (1, 10));
    assert!(world.is_silent().await);
    world.pushes.want([push(1)]);
    assert_eq!(world.next().await.0, 1, "after a pause at once");
    assert_eq!(world.pushes.counts().sent(), 4);
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_as_long_as_the_push_service_asks_and_at_most_an_hour() {
    let later = |seconds: Option<u64>| Err(PushError::RetryLater(seconds.map(Duration::from_secs)));
    let mut world = World::start(&[later(None), later(Some(1)), later(Some(100_000)), later(Some(500)), Ok(())]);
    world.pushes.want([push(1)]);
    // After the first and the second failure its own pace is slower than what is asked for.
    for at in [0, 30, 90, 3_690, 4_190] {
        assert_eq!(world.next().await, (1, at));
    }
    assert!(world.is_silent().await);
    assert_eq!((world.pushes.counts().sent(), world.pushes.counts().failed()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_push_that_keeps_failing_is_given_up_and_the_next_one_is_not() {
    let mut world = World::start(&[Err(PushError::RetryLater(None)); 5]);
    world.pushes.want([push(1)]);
    for at in [0, 30, 90, 210, 450] {
        assert_eq!(world.next().await, (1, at));
    }
    assert!(world.is_silent().await);
    assert_eq!((world.pushes.counts().sent(), world.pushes.counts().failed()), (0, 1));
    world.pushes.want([push(1)]);
    assert_eq!(world.next().await.0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_push_that_is_rejected_is_not_repeated_and_the_token_stays() {
    let mut world = World::start(&[Err(PushError::Rejected)]);
    world.pushes.want([push(1)]);
    assert_eq!(world.next().await, (1, 0));
    assert!(world.is_silent().await);
    assert_eq!(world.pushes.counts().failed(), 1);
    assert!(world.script.forgotten.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_leads_nowhere_is_forgotten() {
    let mut world = World::start(&[Err(PushError::Gone)]);
    world.pushes.want([push(1)]);
    assert_eq!(world.next().await, (1, 0));
    assert!(world.is_silent().await);
    assert_eq!(*world.script.forgotten.lock().unwrap(), [client(1)]);
    assert_eq!(world.pushes.counts().gone(), 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_listens_in_the_meantime_is_not_pushed() {
    let mut world = World::start(&[Ok(()), Err(PushError::RetryLater(None))]);
    world.pushes.want([push(1)]);
    assert_eq!(world.next().await, (1, 0));
    world.pushes.want([push(1), push(2)]);
    assert_eq!(world.next().await, (2, 0));
    // One waits for its next turn, the other to be tried again.
    *world.script.listening.lock().unwrap() = HashSet::from([client(1), client(2)]);
    assert!(world.is_silent().await);
    assert_eq!(*world.script.left.lock().unwrap(), [client(1), client(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_push_service_that_does_not_answer_or_fails_keeps_no_other_waiting() {
    let mut world = World::start(&[]);
    world.script.hangs.lock().unwrap().insert(client(1));
    world.pushes.want([push(1)]);
    assert_eq!(world.next().await, (1, 0));
    world.script.panics.store(true, Ordering::SeqCst);
    world.pushes.want([push(2)]);
    assert_eq!(world.next().await, (2, 0));
    world.pushes.want([push(3)]);
    assert_eq!(world.next().await, (3, 0));
    // The turn of the one whose task has panicked is over.
    assert!(timeout(Duration::from_secs(60), world.pushed.recv()).await.is_err());
    world.pushes.want([push(2)]);
    assert_eq!(world.next().await, (2, 60));
    assert_eq!(world.pushes.waiting(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_does_not_open_the_token_pushes_nobody() {
    let mut world = World::start(&[]);
    world.pushes.want([service::Push { client: client(1), token_key: Secret::new([8; 32]) }]);
    assert!(world.is_silent().await);
    assert_eq!(world.pushes.counts().sent(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_waits_ends_with_the_homeserver() {
    let mut world = World::start(&[]);
    world.pushes.want([push(1)]);
    assert_eq!(world.next().await, (1, 0));
    world.pushes.want([push(1)]);
    world.running.abort();
    assert!((&mut world.running).await.unwrap_err().is_cancelled());
    assert_eq!(world.pushed.recv().await, None, "nobody is left who could push");
}

#[tokio::test]
async fn there_is_a_bound_on_how_many_wait() {
    let limits = Limits { clients: 2, ..Limits::with_interval(Duration::from_secs(10)) };
    let pushes = Pushes::new(limits);
    pushes.want([push(1), push(2), push(3), push(1), push(4)]);
    assert_eq!((pushes.waiting(), pushes.counts().dropped()), (2, 2));
}
