//! Clients that listen and hear nothing: what each costs, and what a message to somebody else costs because of them.

use bennu::transport::Connection;

use crate::{
    Bench,
    messages::{Pair, cost},
    report::{Report, Target},
    server::Server,
    support::{Listener, Queue},
};

/// Connections that are opened at a time.
const AT_ONCE: usize = 16;

/// The rows of the table that are about idle listeners.
pub async fn measure(bench: &Bench, report: &mut Report) {
    let listeners = if bench.quick { 1_000 } else { 10_000 };
    let server = Server::start("bench.test");
    let mut pairs = Vec::new();
    for _ in 0..AT_ONCE {
        pairs.push(Pair::start(server.connect().await, server.connect().await, &server.domain).await);
    }
    let (pairs, alone) = cost(&server, pairs, bench.time(4)).await;
    let before = server.memory();
    let mut idle = Vec::new();
    for _ in 0..listeners {
        idle.push(listen(&server).await);
    }
    let each = (server.memory() - before) as f64 / listeners as f64 / 1024.0;
    let (_, beside) = cost(&server, pairs, bench.time(4)).await;
    drop(idle);
    server.stop().await;
    report.value(format!("{listeners} idle listeners: memory of each"), each, "KiB", Target::AtMost(32.0));
    let name = format!("message beside {listeners} idle listeners: CPU, against none");
    report.ratio(name, beside, "us", alone, Target::AtMost(1.1));
}

async fn listen(server: &Server) -> (Connection, Listener) {
    let connection = server.connect().await;
    let queue = Queue::create(&connection, &server.domain).await;
    let mut listener = queue.listen(0).await;
    // The secret of the queue, which is acknowledged.
    listener.reach(0).await;
    (connection, listener)
}
