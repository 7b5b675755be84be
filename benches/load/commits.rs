//! A commit in a group of whom nobody listens: the committer renews its keys, adds somebody, removes somebody.

use std::{
    array,
    time::{Duration, Instant},
};

use bennu::{
    base::Domain,
    transport::Connection,
    wire::{
        delivery::{CommitBundle, RemoveUsers, UpdateClient},
        method::call,
        queue::FanOutContent,
        queuing::ClientQueueConfig,
    },
};
use tokio::sync::Mutex;

use crate::{
    Bench,
    fan_out::{AT_ONCE, group_of, seal},
    floors::{
        committer::{self, Recording},
        public_group::Stored,
    },
    micros,
    record::Recorder,
    report::{Report, Target},
    server::Server,
    support::{Group, Queue, median},
};

/// How long the reference takes to add a member, in microseconds, by members that there are.
const REFERENCE: [(usize, f64); 3] = [(10, 10_000.0), (100, 55_000.0), (1_000, 794_000.0)];

/// Members of all groups together, so that a round takes longer than what processor time is counted in.
const MEMBERS: usize = 1_000;

/// Commits of each kind whose writes are recorded.
const RECORDED: usize = 3;

#[derive(Clone, Copy)]
enum Kind {
    Update,
    Add,
    Remove,
}

impl Kind {
    /// In an order that leaves a group with the members that it had.
    const ALL: [Self; 3] = [Self::Update, Self::Add, Self::Remove];

    const fn name(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Add => "add",
            Self::Remove => "remove",
        }
    }
}

/// A group, and where the messages go of whoever is added to it and removed again.
struct Changing {
    group: Group,
    newcomer: ClientQueueConfig,
}

impl Changing {
    /// With so many members.
    async fn start(members: usize, sends: Connection, queues: &Connection, domain: &Domain) -> Self {
        let group = group_of(members, sends, queues, domain, AT_ONCE).await;
        let newcomer = Queue::create(queues, domain).await.config;
        let mut changing = Self { group, newcomer };
        for kind in Kind::ALL {
            changing.commit(kind).await;
        }
        changing
    }

    /// Makes a commit, and waits until it is accepted; for how long.
    async fn commit(&mut self, kind: Kind) -> (CommitBundle, Duration) {
        let group = &mut self.group;
        let (commit, (accepted, time)) = match kind {
            Kind::Update => {
                let (commit, _) = group.commit(Vec::new(), Vec::new(), true);
                let request = UpdateClient { commit, queue_config: None };
                let answer = timed(group.ask_bound::<call::DsUpdateClient>(&request)).await;
                (request.commit, answer)
            }
            Kind::Add => {
                let request = group.adding(std::slice::from_ref(&self.newcomer));
                let answer = timed(group.ask_bound::<call::DsAddUsers>(&request)).await;
                (request.commit, answer)
            }
            Kind::Remove => {
                let last = group.state.members().map(|member| member.index.u32()).max().expect("there are members");
                let (commit, _) = group.commit(Vec::new(), vec![last], false);
                let request = RemoveUsers { commit };
                let answer = timed(group.ask_bound::<call::DsRemoveUsers>(&request)).await;
                (request.commit, answer)
            }
        };
        assert_eq!(accepted.unreached, 0);
        group.merge();
        (commit, time)
    }
}

async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let started = Instant::now();
    (work.await, started.elapsed())
}

/// What came of commits of one kind.
#[derive(Default)]
struct Made {
    /// Processor time of the server for all of them.
    cpu: Duration,
    /// How long each took, in microseconds.
    times: Vec<u128>,
}

/// Groups at work one after the other, and the commits of the first of them.
async fn run(server: &Server, groups: &mut [Changing], time: Duration) -> ([Made; 3], Vec<(Kind, CommitBundle)>) {
    let (mut made, mut of_first, until) = (<[Made; 3]>::default(), Vec::new(), Instant::now() + time);
    while Instant::now() < until {
        for kind in Kind::ALL {
            let (before, made) = (server.cpu(), &mut made[kind as usize]);
            for (at, changing) in groups.iter_mut().enumerate() {
                let (commit, time) = changing.commit(kind).await;
                made.times.push(time.as_micros());
                if at == 0 {
                    of_first.push((kind, commit));
                }
            }
            made.cpu += server.cpu() - before;
        }
    }
    (made, of_first)
}

/// What is written for commits of each kind in a group of so many.
async fn recorded(members: usize) -> [Recording; 3] {
    let recorder = Recorder::start().await;
    let (sends, queues) = (recorder.host.connect(), recorder.host.connect());
    let changing = Mutex::new(Changing::start(members, sends, &queues, &recorder.domain).await);
    let mut recordings = [(); 3].map(|()| Recording(Vec::new()));
    for _ in 0..RECORDED {
        for kind in Kind::ALL {
            let once = recorder.record(1, || async { _ = changing.lock().await.commit(kind).await }).await;
            recordings[kind as usize].0.extend(once.0);
        }
    }
    recordings
}

/// Microseconds that bare OpenMLS needs for a commit of each kind, if it takes these in their order.
fn bare(stored: &Stored, commits: &[(Kind, CommitBundle)]) -> [f64; 3] {
    let mut sums = [(0.0, 0); 3];
    for (kind, commit) in commits {
        let (sum, count) = &mut sums[*kind as usize];
        *sum += micros(stored.commit(commit));
        *count += 1;
    }
    sums.map(|(sum, count)| sum / f64::from(count))
}

/// The rows of the table that are about commits.
pub async fn measure(bench: &Bench, report: &mut Report) {
    for (members, reference) in REFERENCE {
        if bench.quick && members == 1_000 {
            continue;
        }
        let server = Server::start("bench.test");
        let (queues, mut groups) = (server.connect().await, Vec::new());
        for _ in 0..(MEMBERS / members).min(32) {
            groups.push(Changing::start(members, server.connect().await, &queues, &server.domain).await);
        }
        let stored = Stored::of(&groups[0].group);
        let (made, commits) = run(&server, &mut groups, bench.time(8)).await;
        let openmls = bare(&stored, &commits);
        let sealed: [f64; 3] = array::from_fn(|at| {
            let last = commits.iter().rfind(|(kind, _)| *kind as usize == at).expect("there is one of each");
            // Who is added, and who is removed, is told as well.
            let recipients = if matches!(last.0, Kind::Update) { members } else { members + 1 };
            seal(&groups[0].group, FanOutContent::Commit(last.1.commit.clone()), recipients)
        });
        drop((groups, queues));
        server.stop().await;
        let recordings = recorded(members).await;
        for kind in Kind::ALL {
            let (at, name) = (kind as usize, |what: &str| format!("{} in a group of {members}: {what}", kind.name()));
            let Made { cpu, times } = &made[at];
            let each = micros(*cpu) / times.len() as f64;
            let rocks = micros(committer::measure(&recordings[at], 1, bench.time(2)).cpu);
            report.ratio(name("CPU"), each, "us", openmls[at] + rocks + sealed[at], Target::AtMost(1.3));
            report.note("  bare OpenMLS", openmls[at], "us");
            report.note("  bare RocksDB, CPU", rocks, "us");
            report.note("  ratchet and AEAD, for all", sealed[at], "us");
            if matches!(kind, Kind::Add) {
                let latency = median(times.clone()) as f64;
                report.note(name("sent to accepted"), latency, "us");
                let faster = name("times faster than the reference");
                report.value(faster, reference / latency, "x", Target::AtLeast(1.0));
            }
        }
    }
}
