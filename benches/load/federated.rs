//! A message of 1 KiB to a member who listens at another homeserver, against one who listens at the same.

use std::time::{Duration, Instant};

use crate::{
    Bench,
    messages::Pair,
    micros,
    report::{Report, Target},
    run,
    server::Server,
    support::median,
};

/// The rows of the table that are about two homeservers.
pub async fn measure(bench: &Bench, report: &mut Report) {
    let [here, there] = Server::start_both(["a.test", "b.test"]);
    for connections in [1, 16, 64] {
        if bench.quick && connections == 64 {
            continue;
        }
        let [local, federated] = [
            load([&here, &there], &here, connections, bench.time(5)).await,
            load([&here, &there], &there, connections, bench.time(5)).await,
        ];
        if connections == 1 {
            let name = |what: &str| format!("message elsewhere, one at a time: {what}");
            for (at, what) in ["sent to acknowledged", "sent to received"].into_iter().enumerate() {
                report.note(name(what), federated.latency(at), "us");
                report.note("  within one homeserver", local.latency(at), "us");
            }
            continue;
        }
        let name = |what: &str| format!("message elsewhere, {connections} connections: {what}");
        report.ratio(name("CPU of both, against one"), federated.cpu, "us", local.cpu, Target::AtMost(3.0));
        report.note(name("rate"), federated.rate, "/s");
        report.note("  within one homeserver", local.rate, "/s");
    }
    here.stop().await;
    there.stop().await;
}

/// What came of messages.
struct Load {
    /// Processor time of both homeservers for each, in microseconds.
    cpu: f64,
    /// In a second.
    rate: f64,
    /// When each was acknowledged, and when it had arrived.
    times: Vec<[Duration; 2]>,
}

impl Load {
    fn latency(&self, of: usize) -> f64 {
        median(self.times.iter().map(|times| times[of].as_micros()).collect()) as f64
    }
}

/// Messages that the first homeserver takes, to members who listen at `to`.
async fn load(servers: [&Server; 2], to: &Server, connections: usize, time: Duration) -> Load {
    let (from, mut pairs) = (servers[0], Vec::new());
    for _ in 0..connections {
        pairs.push(Pair::start(from.connect().await, to.connect().await, &to.domain).await);
    }
    let cpu = || servers.map(Server::cpu).iter().sum::<Duration>();
    let (pairs, _) = run(pairs, Instant::now() + time / 4).await;
    let (before, started) = (cpu(), Instant::now());
    let (_, times) = run(pairs, started + time).await;
    let (cpu, elapsed) = (micros(cpu() - before), started.elapsed().as_secs_f64());
    Load { cpu: cpu / times.len() as f64, rate: times.len() as f64 / elapsed, times }
}
