//! A message of 1 KiB to many members of whom nobody listens: what it costs for each of them, by how many there are.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bennu::{
    base::{
        Domain,
        limits::{SHARED_BODY_QUEUES, SHARED_BODY_SIZE},
    },
    crypto::{
        random, random_secret,
        ratchet::{Ratchet, entry_aad},
        system_rng,
    },
    transport::Connection,
    wire::{
        Encode as _,
        queue::{EntryKind, FanOut, FanOutContent, QueueMessage, SharedBody},
    },
};
use tokio::sync::Mutex;

use crate::{
    Bench, CONTENT,
    floors::committer,
    messages::send,
    micros,
    process::own_cpu,
    record::Recorder,
    report::{Report, Target},
    server::Server,
    support::{Group, Queue},
};

/// Members added in one commit while a group is built.
pub const AT_ONCE: usize = 1_000;

/// Largest group whose writes are recorded: those of a larger one are more of the same.
const RECORDED: usize = 1_000;

/// Octets, and times, that something is encrypted to see how long that takes.
const SEALED: usize = 64 << 20;
const MOST_SEALED: usize = 20_000;

/// What the reference needs of its processors for a recipient in a group of 100, in microseconds.
const REFERENCE: f64 = 981.0;

/// A group of so many.
pub async fn group_of(
    members: usize,
    sends: Connection,
    queues: &Connection,
    domain: &Domain,
    at_once: usize,
) -> Group {
    let mut group = Group::create(sends).await;
    let mut there = 1;
    while there < members {
        let mut configs = Vec::new();
        for _ in 0..(members - there).min(at_once) {
            configs.push(Queue::create(queues, domain).await.config);
        }
        there += configs.len();
        group.add(&configs).await;
    }
    group.bind().await;
    group
}

/// Processor time of the server for a message, and how many were sent.
pub async fn cost(server: &Server, group: &mut Group, time: Duration) -> (f64, usize) {
    let mut message = group.prepare_of(CONTENT);
    send(group, &mut message).await;
    let (before, started, mut sent) = (server.cpu(), Instant::now(), 0);
    while started.elapsed() < time {
        send(group, &mut message).await;
        sent += 1;
    }
    (micros(server.cpu() - before) / sent as f64, sent)
}

/// What is written for a message in a group of so many.
async fn recorded(members: usize) -> committer::Recording {
    let recorder = Recorder::start().await;
    let queues = recorder.host.connect();
    let mut group = group_of(members, recorder.host.connect(), &queues, &recorder.domain, AT_ONCE).await;
    let message = group.prepare_of(CONTENT);
    let group = Mutex::new((group, message));
    let sends = || async {
        let (group, message) = &mut *group.lock().await;
        send(group, message).await;
    };
    recorder.record(3, sends).await
}

/// What it takes to encrypt a message for so many recipients, in microseconds: a step of the ratchet for each; a long one is
/// encrypted once, and each gets the key.
pub fn seal(group: &Group, content: FanOutContent, recipients: usize) -> f64 {
    let fan_out = FanOut { group: group.access.group.clone(), content };
    let message = QueueMessage::FanOut(fan_out).to_vec();
    if message.len() <= SHARED_BODY_SIZE || recipients <= SHARED_BODY_QUEUES {
        return step(&message) * recipients as f64;
    }
    let rng = &mut system_rng();
    let shared = SharedBody { id: random(rng), key: random_secret(rng), hash: random(rng) };
    step(&message) + step(&QueueMessage::Shared(shared).to_vec()) * recipients as f64
}

/// The ratchet's step, with the encryption of what somebody gets, in microseconds.
fn step(content: &[u8]) -> f64 {
    let mut ratchet = Ratchet::from_secret(random_secret(&mut system_rng()));
    let (rounds, before) = ((SEALED / content.len()).min(MOST_SEALED) as u64, own_cpu());
    for sequence in 0..rounds {
        black_box(ratchet.seal(&entry_aad([7; 16], sequence, EntryKind::Message), content));
    }
    micros(own_cpu() - before) / rounds as f64
}

/// The rows of the table that are about fan-out.
pub async fn measure(bench: &Bench, report: &mut Report) {
    let sizes: &[usize] = if bench.quick { &[10, 100] } else { &[10, 100, 1_000, 5_000] };
    let mut by_size = Vec::new();
    for members in sizes {
        let (recipients, time) = ((members - 1) as f64, bench.time(5));
        let server = Server::start("bench.test");
        let queues = server.connect().await;
        let mut group = group_of(*members, server.connect().await, &queues, &server.domain, AT_ONCE).await;
        let each = cost(&server, &mut group, time).await.0 / recipients;
        let message = group.prepare_of(CONTENT).message;
        let step = seal(&group, FanOutContent::Application(message), members - 1) / recipients;
        drop((group, queues));
        server.stop().await;
        let recording = recorded((*members).min(RECORDED)).await;
        let rocks = micros(committer::measure(&recording, 1, time / 2).cpu) / (*members.min(&RECORDED) - 1) as f64;
        let name = |what: &str| format!("fan-out to {members}: {what}");
        report.ratio(name("CPU for each"), each, "us", rocks + step, Target::AtMost(2.0));
        report.note("  bare RocksDB, CPU", rocks, "us");
        report.note("  ratchet and AEAD", step, "us");
        if *members == 100 {
            report.value(name("times less CPU than the reference"), REFERENCE / each, "x", Target::AtLeast(100.0));
        }
        by_size.push((*members, each));
    }
    let of = |wanted: usize| by_size.iter().find(|(members, _)| *members == wanted).map(|(_, each)| *each);
    if let (Some(hundred), Some(many)) = (of(100), of(5_000)) {
        report.ratio("fan-out to 5000: CPU for each, against 100", many, "us", hundred, Target::AtMost(1.3));
    }
    grown(bench, report).await;
}

/// A group that grew one member at a time against one that was built at once.
async fn grown(bench: &Bench, report: &mut Report) {
    let members = if bench.quick { 50 } else { 100 };
    let mut costs = Vec::new();
    for at_once in [1, members] {
        let server = Server::start("bench.test");
        let queues = server.connect().await;
        let mut group = group_of(members, server.connect().await, &queues, &server.domain, at_once).await;
        costs.push(cost(&server, &mut group, bench.time(5)).await.0);
        drop((group, queues));
        server.stop().await;
    }
    let name = format!("message in a group of {members}, grown one by one: CPU, against built at once");
    report.ratio(name, costs[0], "us", costs[1], Target::AtMost(1.1));
}
