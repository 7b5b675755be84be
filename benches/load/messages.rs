//! An application message of 1 KiB in a group of two: accepted, durable, and delivered to whoever listens.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use bennu::{
    base::{Domain, Refusal, limits::MAX_RESPONSE},
    crypto::{random, system_rng},
    transport::Connection,
    wire::{
        Decode, Encode, Response,
        delivery::{MessageSent, SendMessage},
        method::call,
        queue::Acknowledge,
    },
};
use tokio::sync::Mutex;

use crate::{
    Bench, CONTENT, Work,
    floors::{committer, echo},
    micros,
    record::Recorder,
    report::{Report, Target},
    run,
    server::Server,
    support::{Group, Listener, Queue, Taken},
};

/// What the reference needs of its processors for a message, in microseconds, by senders at a time.
const REFERENCE: [(usize, f64); 3] = [(16, 1_243.0), (64, 1_516.0), (256, 1_516.0)];

/// Messages whose writes are recorded.
const RECORDED: usize = 64;

/// A member that sends, and the other one's queue.
pub struct Pair {
    group: Group,
    message: SendMessage,
    listener: Listener,
}

impl Pair {
    /// Over connections of their own.
    pub async fn start(sends: Connection, listens: Connection, domain: &Domain) -> Self {
        let mut group = Group::create(sends).await;
        let queue = Queue::create(&listens, domain).await;
        group.add(std::slice::from_ref(&queue.config)).await;
        let mut listener = queue.listen(0).await;
        // The secret of the queue, and the Welcome.
        listener.reach(1).await;
        group.bind().await;
        Self { message: group.prepare_of(CONTENT), group, listener }
    }

    /// Octets of what is sent and got.
    async fn sizes(&mut self) -> echo::Sizes {
        let request = self.group.bound::<call::DsSendMessage>(&self.message).len();
        self.message.idempotency_key = random(&mut system_rng());
        let sent = self.group.bound::<call::DsSendMessage>(&self.message);
        let exchange = self.group.connection.open().await.expect("a stream");
        let response = exchange.request(sent, MAX_RESPONSE).await.expect("an answer").len();
        let Taken { messages, octets } = self.listener.take().await;
        assert_eq!(messages, 1);
        // With the length that each frame has in front of it.
        let acknowledgement = Acknowledge { next: 0 }.encoded_len() + 1;
        echo::Sizes { request, response, frame: octets + 2, acknowledgement }
    }
}

#[async_trait]
impl Work for Pair {
    /// When a message is acknowledged, and when it has arrived.
    type Outcome = [Duration; 2];

    async fn once(&mut self) -> Self::Outcome {
        let started = Instant::now();
        let sends = async {
            send(&self.group, &mut self.message).await;
            started.elapsed()
        };
        let hears = async {
            while self.listener.take().await.messages == 0 {}
            started.elapsed()
        };
        let (acknowledged, arrived) = tokio::join!(sends, hears);
        [acknowledged, arrived]
    }
}

/// Sends a message once more, as one of its own, by a member whose key is bound.
///
/// # Errors
/// What the homeserver refuses.
pub async fn attempt(group: &Group, message: &mut SendMessage) -> Result<(), Refusal> {
    message.idempotency_key = random(&mut system_rng());
    let request = group.bound::<call::DsSendMessage>(message);
    let exchange = group.connection.open().await.expect("a stream");
    let response = exchange.request(request, MAX_RESPONSE).await.expect("an answer");
    let body = Response::from_bytes(response).expect("a response").into_result()?;
    assert_eq!(MessageSent::from_bytes(body).expect("as it is specified").unreached, 0);
    Ok(())
}

/// The same where nothing is refused.
pub async fn send(group: &Group, message: &mut SendMessage) {
    attempt(group, message).await.expect("it is accepted");
}

/// Processor time of the server for a message of these pairs, in microseconds.
pub async fn cost(server: &Server, pairs: Vec<Pair>, time: Duration) -> (Vec<Pair>, f64) {
    let (pairs, _) = run(pairs, Instant::now() + time / 4).await;
    let before = server.cpu();
    let (pairs, times) = run(pairs, Instant::now() + time).await;
    (pairs, micros(server.cpu() - before) / times.len() as f64)
}

fn median(times: impl Iterator<Item = Duration>) -> f64 {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    micros(times[times.len() / 2])
}

/// What a message makes a homeserver write, the acknowledgement of whoever has got it included.
async fn recorded() -> committer::Recording {
    let recorder = Recorder::start().await;
    let connect = || recorder.host.connect();
    let pair = Pair::start(connect(), connect(), &recorder.domain).await;
    let pair = Mutex::new(pair);
    recorder.record(RECORDED, || async { _ = pair.lock().await.once().await }).await
}

/// The rows of the table that are about one message.
pub async fn measure(bench: &Bench, report: &mut Report) {
    let recording = recorded().await;
    let time = bench.time(6);
    for (connections, reference) in [(1, 1_435.0)].into_iter().chain(REFERENCE) {
        if bench.quick && connections == 256 {
            continue;
        }
        let server = Server::start("bench.test");
        let mut pairs = Vec::new();
        for _ in 0..connections {
            pairs.push(Pair::start(server.connect().await, server.connect().await, &server.domain).await);
        }
        let sizes = pairs[0].sizes().await;
        let (pairs, _) = run(pairs, Instant::now() + time / 4).await;
        let (before, started) = (server.cpu(), Instant::now());
        let (pairs, times) = run(pairs, started + time).await;
        let (cpu, elapsed) = (micros(server.cpu() - before), started.elapsed().as_secs_f64());
        drop(pairs);
        server.stop().await;

        let quic = echo::measure(connections, sizes, time / 2).await;
        let rocks = committer::measure(&recording, connections, time / 2);
        if connections == 1 {
            let floor = micros(quic.median) + micros(rocks.mean);
            let (acknowledged, arrived) = (times.iter().map(|[first, _]| *first), times.iter().map(|[_, last]| *last));
            report.note("message, one at a time: sent to acknowledged", median(acknowledged), "us");
            report.ratio("message, one at a time: sent to received", median(arrived), "us", floor, Target::AtMost(1.5));
            report.note("  bare QUIC, there and back", micros(quic.median), "us");
            report.note("  bare RocksDB, one synced write", micros(rocks.mean), "us");
            continue;
        }
        let each = cpu / times.len() as f64;
        let name = |what: &str| format!("message, {connections} connections: {what}");
        report.ratio(name("CPU"), each, "us", micros(quic.cpu) + micros(rocks.cpu), Target::AtMost(1.6));
        report.note("  bare QUIC, CPU", micros(quic.cpu), "us");
        report.note("  bare RocksDB, CPU", micros(rocks.cpu), "us");
        let target = if connections >= 64 { Target::AtLeast(40.0) } else { Target::AtLeast(1.0) };
        report.value(name("times less CPU than the reference"), reference / each, "x", target);
        let rate = times.len() as f64 / elapsed;
        report.ratio(name("rate"), rate, "/s", quic.messages.min(rocks.writes), Target::AtLeast(0.5));
    }
}
