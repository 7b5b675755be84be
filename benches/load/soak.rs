//! Minutes at half of what the homeserver can carry, while queues fill and are drained: does it grow?

use std::time::{Duration, Instant};

use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval_at, sleep, sleep_until},
};

use crate::{
    Bench,
    messages::attempt,
    overload::{Crowd, Sender},
    report::{Report, Target},
    run,
    server::Server,
};

/// Groups, each with a connection that sends to it.
const GROUPS: usize = 64;

/// In each of them.
const MEMBERS: usize = 10;

/// Requests under way while it is measured how much can be carried.
const AT_ONCE: usize = 8;

/// Entries of a queue when it is drained. Half as many are there in the mean, because groups take turns.
const FULL: u64 = 1_000;

/// How often it is said how things go.
const MINUTE: Duration = Duration::from_secs(60);

/// A group whose queues fill and are drained.
struct Filling {
    crowd: Crowd,
    /// Messages until the queues are drained.
    left: u64,
    /// Numbers of the oldest entries of its queues.
    first: Vec<u64>,
    refused: usize,
}

impl Filling {
    /// The one with this number of so many.
    fn start(crowd: Crowd, number: usize) -> Self {
        let left = FULL * (number as u64 + 1) / GROUPS as u64;
        Self { left, first: vec![0; crowd.queues.len()], crowd, refused: 0 }
    }

    /// Sends at this pace from then on until a time.
    async fn go_on(mut self, pace: Duration, start: Instant, until: Instant) -> Self {
        let mut ticks = interval_at(start.into(), pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while Instant::now() < until {
            ticks.tick().await;
            if let Err(refusal) = attempt(&self.crowd.group, &mut self.crowd.message).await {
                self.refused += 1;
                // Reason: the homeserver has said for how long.
                sleep(refusal.retry_after.expect("it is too much for now only")).await;
                continue;
            }
            self.left -= 1;
            if self.left == 0 {
                self.drain().await;
                self.left = FULL;
            }
        }
        self
    }

    /// Takes everything out of its queues: octets.
    async fn drain(&mut self) -> usize {
        let mut octets = 0;
        for (queue, first) in self.crowd.queues.iter().zip(&mut self.first) {
            let head = queue.head().await;
            if head > *first {
                octets += queue.listen(*first).await.reach(head - 1).await.octets;
            }
            *first = head;
        }
        octets
    }
}

/// How many messages to such groups it can carry in a second.
async fn capacity(crowds: Vec<Crowd>, time: Duration) -> (Vec<Crowd>, f64) {
    let mut senders: Vec<_> = crowds.into_iter().enumerate().map(|(at, crowd)| Sender(at, crowd)).collect();
    let idle = senders.split_off(AT_ONCE);
    let started = Instant::now();
    let (senders, outcomes) = run(senders, started + time).await;
    let rate = outcomes.len() as f64 / started.elapsed().as_secs_f64();
    let crowds = senders.into_iter().chain(idle).map(|Sender(_, crowd)| crowd).collect();
    (crowds, rate)
}

/// The rows of a table of their own.
pub async fn measure(bench: &Bench, report: &mut Report) {
    let minutes = if bench.quick { 2 } else { 10 };
    let server = Server::start("bench.test");
    let mut crowds = Vec::new();
    for _ in 0..GROUPS {
        crowds.push(Crowd::start(&server, MEMBERS).await);
    }
    let (crowds, capacity) = capacity(crowds, Duration::from_secs(5)).await;
    println!(
        "{capacity:.0} messages to groups of {MEMBERS} can be carried in a second: {minutes} minutes at half of it"
    );
    let (started, pace) = (Instant::now(), Duration::from_secs_f64(2.0 * GROUPS as f64 / capacity));
    let mut tasks = JoinSet::new();
    for (number, crowd) in crowds.into_iter().enumerate() {
        // One after the other.
        let start = started + pace.mul_f64(number as f64 / GROUPS as f64);
        tasks.spawn(Filling::start(crowd, number).go_on(pace, start, started + MINUTE * minutes));
    }
    let mut memory = Vec::new();
    for minute in 1..=minutes {
        sleep_until((started + MINUTE * minute).into()).await;
        memory.push(server.memory() as f64 / f64::from(1 << 20));
        let (now, disk) = (memory[memory.len() - 1], server.disk() as f64 / 1e6);
        println!("  minute {minute}: {now:.0} MiB of memory, {disk:.0} MB of disk");
    }
    let mut filling = tasks.join_all().await;
    let disk = server.disk() as f64 / 1e6;
    let (mut live, refused) = (0, filling.iter().map(|filling| filling.refused).sum::<usize>());
    for filling in &mut filling {
        live += filling.drain().await;
    }
    drop(filling);
    server.stop().await;
    let name = |what: &str| format!("{minutes} minutes at half of the capacity: {what}");
    report.note(name("messages"), capacity / 2.0, "/s");
    report.note(name("told to come again"), refused as f64, "");
    report.ratio(name("memory, against after one"), memory[memory.len() - 1], "MiB", memory[0], Target::AtMost(1.1));
    report.ratio(name("disk, against live data"), disk, "MB", live as f64 / 1e6, Target::AtMost(3.0));
}
