//! A client that comes back to a queue which has filled while it was away.

use std::{sync::Arc, time::Instant};

use bennu::store::{Change, Engine as _, Key, KeyRange, Limit, Operation, RocksEngine, RocksOptions, Table};
use tokio::task::JoinSet;

use crate::{
    Bench, CONTENT,
    floors::echo,
    messages::send,
    report::{Report, Target},
    server::Server,
    support::{Group, Queue},
};

/// Requests under way while the queue is filled.
const AT_ONCE: usize = 20;

/// Entries that are read at a time, by the floor as by a homeserver.
const PAGE: usize = 500;

/// Entries in a second that the reference gives out.
const REFERENCE: f64 = 94_000.0;

/// The rows of the table that are about a backlog.
pub async fn measure(bench: &Bench, report: &mut Report) {
    let entries = if bench.quick { 20_000 } else { 100_000 };
    let server = Server::start("bench.test");
    let listens = server.connect().await;
    let queue = Queue::create(&listens, &server.domain).await;
    let mut group = Group::create(server.connect().await).await;
    group.add(std::slice::from_ref(&queue.config)).await;
    group.bind().await;
    fill(group, entries).await;

    let mut listener = queue.listen(0).await;
    let (started, mut taken, mut octets) = (Instant::now(), 0, 0);
    // The Welcome as well.
    while taken < entries + 1 {
        let frame = listener.take().await;
        taken += frame.messages;
        octets += frame.octets;
    }
    let elapsed = started.elapsed().as_secs_f64();
    drop((listener, queue, listens));
    server.stop().await;

    let quic = echo::bulk(octets).await;
    let scan = scan(entries, octets / entries).await;
    let rate = octets as f64 / elapsed / 1e6;
    let name = |what: &str| format!("backlog of {entries}: {what}");
    report.ratio(name("drained"), rate, "MB/s", quic.min(scan), Target::AtLeast(0.5));
    report.note("  bare QUIC, one stream", quic, "MB/s");
    report.note("  bare scan", scan, "MB/s");
    let times = entries as f64 / elapsed / REFERENCE;
    report.value(name("times as many entries in a second as the reference"), times, "x", Target::AtLeast(5.0));
}

/// Sends so many messages to whoever is in the group.
async fn fill(mut group: Group, messages: usize) {
    let message = group.prepare_of(CONTENT);
    let (group, mut tasks) = (Arc::new(group), JoinSet::new());
    for _ in 0..AT_ONCE {
        let (group, mut message) = (group.clone(), message.clone());
        tasks.spawn(async move {
            for _ in 0..messages / AT_ONCE {
                send(&group, &mut message).await;
            }
        });
    }
    tasks.join_all().await;
}

/// Megabytes in a second that RocksDB reads of rows of such a length.
async fn scan(rows: usize, length: usize) -> f64 {
    let directory = tempfile::tempdir().expect("a directory");
    let settings = RocksOptions { create: true, ..RocksOptions::default() };
    let engine = RocksEngine::open(directory.path().join("data"), &settings).expect("a database");
    let filling: Vec<u8> = (0..length).map(|at| (at * 31 + at / 256) as u8).collect();
    let key = |row: usize| Key::new().bytes([7; 17]).u64(row as u64);
    for first in (0..rows).step_by(PAGE) {
        let put =
            |row| Operation { table: Table::QueueEntries, key: key(row), change: Change::Put(filling.clone().into()) };
        let page: Vec<_> = (first..first + PAGE).map(put).collect();
        engine.write(&page).expect("it is written");
    }
    let started = Instant::now();
    for first in (0..rows).step_by(PAGE) {
        let range = KeyRange::from(key(first)..key(first + PAGE));
        let page = engine.scan(Table::QueueEntries, range, Limit::rows(PAGE)).await.expect("it is read");
        assert_eq!(page.into_rows().len(), PAGE);
    }
    let elapsed = started.elapsed().as_secs_f64();
    engine.close().expect("it closes");
    (rows * length) as f64 / elapsed / 1e6
}
