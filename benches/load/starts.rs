//! Starting again with many queues, against starting with few.

use std::{array, time::Duration};

use bennu::{base::Domain, transport::Connection};

use crate::{
    Bench, CONTENT,
    fan_out::group_of,
    messages::send,
    micros,
    report::{Report, Target},
    server::{Home, Server},
    support::median,
};

/// Entries in each queue: its secret, the Welcome, and messages.
const ENTRIES: usize = 10;

/// Times that there is as much of everything.
const TIMES: usize = 100;

/// Starts of each, of which the median is shown.
const STARTS: usize = 9;

/// The rows of the table that are about starting.
pub async fn measure(bench: &Bench, report: &mut Report) {
    let few = if bench.quick { 100 } else { 1_000 };
    let (mut homes, mut after_kill) = (Vec::new(), Vec::new());
    for groups in [1, TIMES] {
        let filled = filled(groups, few).await;
        // It has to take in again what is in the log only.
        let server = filled.kill().await.start();
        after_kill.push(micros(server.start) / 1e3);
        homes.push(server.stop().await);
    }
    let homes: [Home; 2] = homes.try_into().unwrap_or_else(|_| unreachable!("there are two"));
    let [small, large] = starts(homes).await;
    let name = |times| format!("start with {} entries in {} queues", times * few * ENTRIES, times * few);
    let against = format!("{}: time, against {} in {few}", name(TIMES), few * ENTRIES);
    report.ratio(against, large, "ms", small, Target::AtMost(1.5));
    report.note(format!("{}, after SIGKILL", name(1)), after_kill[0], "ms");
    report.note(format!("{}, after SIGKILL", name(TIMES)), after_kill[1], "ms");
}

/// A homeserver with so many groups of so many members with a queue each.
async fn filled(groups: usize, members: usize) -> Server {
    let server = Server::start("bench.test");
    // One after the other: more at a time would be told that it is too much.
    for _ in 0..groups {
        fill(server.connect().await, server.connect().await, &server.domain, members).await;
    }
    assert!(server.queued() >= groups * members * ENTRIES);
    server
}

async fn fill(sends: Connection, queues: Connection, domain: &Domain, members: usize) {
    // Its creator, too, who is not sent its own messages.
    let mut group = group_of(members + 1, sends, &queues, domain, members).await;
    let mut message = group.prepare_of(CONTENT);
    for _ in 2..ENTRIES {
        send(&group, &mut message).await;
    }
}

/// How long each takes to start after it was stopped in order, in milliseconds. None runs while another starts.
async fn starts(mut homes: [Home; 2]) -> [f64; 2] {
    let mut times: [Vec<u128>; 2] = array::from_fn(|_| Vec::new());
    for _ in 0..STARTS {
        let mut stopped = Vec::new();
        for (home, times) in homes.into_iter().zip(&mut times) {
            let server = home.start();
            times.push(server.start.as_micros());
            stopped.push(server.stop().await);
        }
        homes = stopped.try_into().unwrap_or_else(|_| unreachable!("as many as there were"));
    }
    times.map(|times| Duration::from_micros(median(times) as u64).as_secs_f64() * 1e3)
}
