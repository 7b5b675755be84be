//! Nothing that was acknowledged is lost, and nothing comes twice, however often the homeserver is killed: three people
//! talk in a group while it gets SIGKILL at random points and is started again.
#![cfg(feature = "cli")]

mod support;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use support::{
    Server, below, connect, group, rng,
    talk::{Sent, Talk},
};

const MESSAGES: u64 = 1_000;
const KILLS: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_arrive_once_and_in_order_while_the_homeserver_is_killed_ten_times() {
    let mut rng = rng("kill");
    let mut server = Server::start().await;
    let clients = [server.register("Alice").await, server.register("Bob").await, server.register("Carol").await];
    let [alice, bob, carol] = &clients;
    connect(alice, bob).await;
    connect(alice, carol).await;
    let chat = group(&[alice, bob, carol]).await;

    let started = Instant::now();
    let shares: Vec<_> = (0..3).map(|index| MESSAGES / 3 + u64::from(index < MESSAGES % 3)).collect();
    let talk = Talk::start(&clients, &chat, &shares);

    // Ten different points among the messages, where the other senders' requests are at any stage.
    let mut points = BTreeSet::new();
    while points.len() < KILLS {
        points.insert(1 + below(&mut rng, MESSAGES - 1));
    }
    let mut outages = Duration::ZERO;
    for &point in &points {
        talk.reach(point).await;
        let down = Instant::now();
        server.kill().await;
        server.restart().await;
        outages += down.elapsed();
    }

    let Sent { acknowledged, delayed, slowest } = talk.end().await;
    assert_eq!(acknowledged + delayed, MESSAGES);
    println!(
        "kill: {MESSAGES} messages sent, {acknowledged} acknowledged at once, {delayed} later; all received \
         by the two others, 0 lost, 0 twice; {} SIGKILLs; {:.1} s in all, {:.1} s of them without a homeserver; \
         slowest acknowledgement {:.1} s",
        points.len(),
        started.elapsed().as_secs_f64(),
        outages.as_secs_f64(),
        slowest.as_secs_f64(),
    );
}

/// Its jobs begin with a look at the whole database, on threads that end later than the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_is_stopped_as_soon_as_it_is_ready_ends_in_order() {
    let mut server = Server::start().await;
    for _ in 0..12 {
        server.stop().await;
        server.restart().await;
    }
    server.stop().await;
}
