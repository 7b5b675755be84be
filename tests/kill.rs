//! Nothing that was acknowledged is lost, and nothing comes twice, however often the homeserver is killed: three people
//! talk in a group while it gets SIGKILL at random points and is started again.
#![cfg(feature = "cli")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bennu::{
    base::{GroupId, UserId},
    client::{Client, ClientError},
};
use support::{Server, below, connect, group, read, rng, text, user, within};
use tokio::{sync::watch, task::JoinSet};

const MESSAGES: u64 = 1_000;
const KILLS: usize = 10;

/// What one member sent: how many messages in each of its orders, and what it was told of them.
#[derive(Default)]
struct Sent {
    acknowledged: u64,
    /// Sends of which the caller was told that they wait here.
    delayed: u64,
    slowest: Duration,
}

/// Sends messages one after another; each is counted when it is acknowledged.
async fn send_all(client: Client, chat: GroupId, labels: Vec<String>, count: Arc<watch::Sender<u64>>) -> Sent {
    let mut sent = Sent::default();
    for label in labels {
        let started = Instant::now();
        match client.send(&chat, text(label.clone())).await {
            Ok(receipt) => {
                assert_eq!(receipt.unreached, 0);
                sent.acknowledged += 1;
                sent.slowest = sent.slowest.max(started.elapsed());
            }
            Err(ClientError::Unreachable(_)) => sent.delayed += 1,
            Err(error) => panic!("{label}: {error}"),
        }
        count.send_modify(|count| *count += 1);
    }
    sent
}

/// Listens, and gives every message of the chat in the order in which it came, when there are `expected`.
async fn receive_all(client: Client, chat: GroupId, expected: usize) -> Vec<(UserId, String)> {
    let mut events = client.events();
    let mut received = Vec::new();
    while received.len() < expected {
        events.next().await.expect("nobody else listens");
        let messages = read(&client).await;
        received.extend(messages.into_iter().filter(|(of, ..)| *of == chat).map(|(_, from, text)| (from, text)));
    }
    received
}

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
    let count = Arc::new(watch::Sender::new(0));
    let (mut senders, mut receivers) = (JoinSet::new(), JoinSet::new());
    let mut shares = BTreeMap::new();
    for (index, client) in clients.iter().enumerate() {
        let share = MESSAGES / 3 + u64::from((index as u64) < MESSAGES % 3);
        let labels: Vec<_> = (0..share).map(|number| format!("{number}")).collect();
        shares.insert(user(client), share);
        senders.spawn(send_all(client.clone(), chat.clone(), labels, count.clone()));
    }
    for client in &clients {
        let expected = (MESSAGES - shares[&user(client)]) as usize;
        let (client, chat) = (client.clone(), chat.clone());
        receivers.spawn(async move { (user(&client), receive_all(client, chat, expected).await) });
    }

    // Ten different points among the messages, where the other senders' requests are at any stage.
    let mut points = BTreeSet::new();
    while points.len() < KILLS {
        points.insert(1 + below(&mut rng, MESSAGES - 1));
    }
    let mut outages = Duration::ZERO;
    for &point in &points {
        within(point, count.subscribe().wait_for(|count| *count >= point)).await.unwrap();
        let down = Instant::now();
        server.kill().await;
        server.restart().await;
        outages += down.elapsed();
    }

    let (mut acknowledged, mut delayed, mut slowest) = (0, 0, Duration::ZERO);
    while let Some(sent) = within("the senders", senders.join_next()).await {
        let sent = sent.unwrap();
        acknowledged += sent.acknowledged;
        delayed += sent.delayed;
        slowest = slowest.max(sent.slowest);
    }
    // What was not acknowledged waits in its sender's state, and goes out with the next command.
    for client in &clients {
        within("sending what was left", client.sync()).await.unwrap();
    }
    let total = AtomicU64::new(0);
    while let Some(received) = within("the receivers", receivers.join_next()).await {
        let (receiver, received) = received.unwrap();
        for (sender, share) in shares.iter().filter(|(sender, _)| **sender != receiver) {
            let from_sender = received.iter().filter(|(from, _)| from == sender).map(|(_, text)| text.as_str());
            let expected = (0..*share).map(|number| number.to_string());
            assert!(from_sender.eq(expected), "from {sender} to {receiver}: once each and in order");
        }
        total.fetch_add(received.len() as u64, Ordering::Relaxed);
    }
    // Nothing more comes: what follows next is what is sent next.
    for client in &clients {
        assert!(support::fetch(client).await.is_empty());
        assert!(client.problems().await.unwrap().is_empty());
    }
    let received = total.into_inner();
    assert_eq!(received, 2 * MESSAGES);
    println!(
        "kill: {MESSAGES} messages sent, {acknowledged} acknowledged at once, {delayed} later; {received} received \
         (each by the two others), 0 lost, 0 twice; {} SIGKILLs; {:.1} s in all, {:.1} s of them without a homeserver; \
         slowest acknowledgement {:.1} s",
        points.len(),
        started.elapsed().as_secs_f64(),
        outages.as_secs_f64(),
        slowest.as_secs_f64(),
    );
}
