//! More messages than the homeserver can carry: how many are accepted all the same, how long those take, what the others are told,
//! and whether everything that was acknowledged is there.

use std::{
    borrow::Borrow,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bennu::{
    base::{Refusal, Status},
    wire::delivery::SendMessage,
};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore as _, SeedableRng as _},
};
use tokio::{task::JoinSet, time::sleep_until};

use crate::{
    Bench, CONTENT, Work,
    messages::attempt,
    micros,
    report::{Report, Target},
    run,
    server::Server,
    support::{Group, Queue},
};

/// Groups, each with a connection that sends to it.
const GROUPS: usize = 32;

/// In each of them, as in the burst that the reference was measured with.
const MEMBERS: usize = 100;

/// Requests under way while it is measured how much can be carried: there is always something to do, and nobody waits long.
const AT_ONCE: usize = 8;

/// When messages come is random, and the same each time.
const SEED: u64 = 7;

/// A group, and what is sent to it.
pub struct Crowd {
    pub group: Group,
    pub message: SendMessage,
    pub queues: Vec<Queue>,
}

impl Crowd {
    /// Of so many, over a connection of its own.
    pub async fn start(server: &Server, members: usize) -> Self {
        let (sends, queues_of) = (server.connect().await, server.connect().await);
        let mut group = Group::create(sends).await;
        let mut queues = Vec::new();
        for _ in 1..members {
            queues.push(Queue::create(&queues_of, &server.domain).await);
        }
        let configs: Vec<_> = queues.iter().map(|queue| queue.config.clone()).collect();
        group.add(&configs).await;
        group.bind().await;
        Self { message: group.prepare_of(CONTENT), group, queues }
    }

    /// Sends its message once more, and how long that took if it is accepted.
    async fn send(&self) -> Result<Duration, Refusal> {
        let started = Instant::now();
        attempt(&self.group, &mut self.message.clone()).await.map(|()| started.elapsed())
    }

    /// How many copies of so many messages are in no queue.
    async fn lost(&self, messages: u64) -> u64 {
        let mut lost = 0;
        let mut heads = Vec::new();
        for queue in &self.queues {
            heads.push(queue.head().await);
        }
        // One is read to see what is in it, and the others have as much in them. The first message is the Welcome.
        let there = self.queues[0].listen(0).await.reach(heads[0] - 1).await.messages as u64 - 1;
        for head in &heads {
            lost += messages.saturating_sub(there + head - heads[0]);
        }
        lost
    }
}

/// Sends again and again to the group with this number.
pub struct Sender<C>(pub usize, pub C);

#[async_trait]
impl<C: Borrow<Crowd> + Send + Sync + 'static> Work for Sender<C> {
    type Outcome = (usize, Result<Duration, Refusal>);

    async fn once(&mut self) -> Self::Outcome {
        (self.0, self.1.borrow().send().await)
    }
}

/// What came of messages that were sent at a rate.
struct Offered {
    /// Accepted in a second.
    rate: f64,
    /// Of a hundred of those that were accepted, all but one took at most so many microseconds.
    p99: f64,
    /// Told that it is too much, and when to come again.
    overloaded: usize,
    /// Refused otherwise.
    otherwise: usize,
}

/// Sends so many in a second, whatever becomes of them, to one group after the other.
async fn offer(crowds: &[Arc<Crowd>], sent: &mut [u64], rate: f64, time: Duration) -> Offered {
    let (mut random, mut tasks) = (ChaCha8Rng::seed_from_u64(SEED), JoinSet::new());
    let started = Instant::now();
    let mut due = started;
    for at in (0..crowds.len()).cycle() {
        // The times between are distributed as those of many who know nothing of each other.
        let share = (f64::from(random.next_u32()) + 1.0) / f64::from(u32::MAX);
        due += Duration::from_secs_f64(-share.min(1.0).ln() / rate);
        if due > started + time {
            break;
        }
        sleep_until(due.into()).await;
        let crowd = crowds[at].clone();
        tasks.spawn(async move { (at, crowd.send().await) });
    }
    Offered::of(tasks.join_all().await, started, sent)
}

impl Offered {
    /// What came of messages since then, each with the number of its group; `sent` counts what was accepted.
    fn of(outcomes: Vec<(usize, Result<Duration, Refusal>)>, started: Instant, sent: &mut [u64]) -> Self {
        let seconds = started.elapsed().as_secs_f64();
        let (mut accepted, mut overloaded, mut otherwise) = (Vec::new(), 0, 0);
        for (at, outcome) in outcomes {
            match outcome {
                Ok(took) => {
                    accepted.push(took);
                    sent[at] += 1;
                }
                Err(refusal) if refusal.status == Status::Overloaded && refusal.retry_after.is_some() => {
                    overloaded += 1;
                }
                Err(_) => otherwise += 1,
            }
        }
        accepted.sort_unstable();
        let p99 = micros(accepted[accepted.len() * 99 / 100]);
        Self { rate: accepted.len() as f64 / seconds, p99, overloaded, otherwise }
    }
}

/// How many are carried in a second if it is always at work.
async fn capacity(crowds: &[Arc<Crowd>], sent: &mut [u64], time: Duration) -> f64 {
    let senders = crowds.iter().cloned().enumerate().take(AT_ONCE).map(|(at, crowd)| Sender(at, crowd)).collect();
    let started = Instant::now();
    let outcomes = run(senders, started + time).await.1;
    Offered::of(outcomes, started, sent).rate
}

/// The rows of the table that are about too many messages.
pub async fn measure(bench: &Bench, report: &mut Report) {
    let groups = if bench.quick { AT_ONCE } else { GROUPS };
    let server = Server::start("bench.test");
    let mut crowds = Vec::new();
    for _ in 0..groups {
        crowds.push(Arc::new(Crowd::start(&server, MEMBERS).await));
    }
    let (mut sent, time) = (vec![0; groups], bench.time(8));

    let first = capacity(&crowds, &mut sent, time).await;
    let half = offer(&crowds, &mut sent, first / 2.0, time).await;
    report.note("messages to groups of 100: capacity", first, "/s");
    report.note("  at half of it: p99 of accepted", half.p99, "us");
    report.note("  at half of it: refused", (half.overloaded + half.otherwise) as f64, "");
    for times in [2.0, 10.0] {
        // Again each time: the more there is on the disk, the more there is to compact.
        let capacity = capacity(&crowds, &mut sent, time / 2).await;
        let over = offer(&crowds, &mut sent, capacity * times, time).await;
        let name = |what: &str| format!("overload, {times} times the capacity: {what}");
        report.ratio(name("accepted"), over.rate, "/s", capacity, Target::AtLeast(0.9));
        report.ratio(name("p99 of accepted"), over.p99, "us", half.p99, Target::AtMost(5.0));
        report.note(name("told to come again"), over.overloaded as f64, "");
        report.value(name("refused otherwise"), over.otherwise as f64, "", Target::AtMost(0.0));
    }
    let mut lost = 0;
    for (crowd, sent) in crowds.iter().zip(&sent) {
        lost += crowd.lost(*sent).await;
    }
    report.value("overload: copies acknowledged and lost", lost as f64, "", Target::AtMost(0.0));
    drop(crowds);
    server.stop().await;
}
