//! Three homeservers with people on each, who talk in groups while their homeservers are killed, cut off from each other,
//! started again in any order, and given other certificates and keys: everything that was acknowledged to a sender is in
//! the hands of everybody else, once, and in the order of the group's DS.
#![cfg(feature = "cli")]

mod support;

use std::{collections::BTreeMap, sync::Arc};

use bennu::{
    base::{GroupId, UserId},
    client::{Client, ClientError},
};
use support::{Cli, below, command, connect, fetch, group, land::Land, read, rng, text, user, within};
use tokio::{sync::watch, task::JoinSet};

const DOMAINS: [&str; 3] = ["a.test", "b.test", "c.test"];

/// Sends messages one after another; each is counted when it is acknowledged or waits in the client.
async fn send_all(client: Client, chat: GroupId, many: u64, count: Arc<watch::Sender<u64>>) {
    for number in 0..many {
        match client.send(&chat, text(number.to_string())).await {
            Ok(receipt) => assert_eq!(receipt.unreached, 0),
            Err(ClientError::Unreachable(_)) => {}
            Err(error) => panic!("{number}: {error}"),
        }
        count.send_modify(|count| *count += 1);
    }
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

impl Land {
    /// Runs a command of the operator of a homeserver.
    async fn admin(&self, at: usize, arguments: &[&str]) -> Vec<serde_json::Value> {
        let run =
            command().args(["admin", "--json", "--config"]).arg(self.servers[at].config()).args(arguments).output();
        let said = within(arguments, run).await.unwrap();
        assert!(said.status.success(), "{said:?}");
        let lines = String::from_utf8(said.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_three_homeservers_everything_arrives_once_and_in_order() {
    const EACH: u64 = 80;
    const TROUBLES: u64 = 14;
    let mut rng = rng("federation");
    let mut land = Land::start(&DOMAINS).await;
    let mut clients = Vec::new();
    for (at, domain) in DOMAINS.iter().enumerate() {
        clients.push(land.register(at, &format!("user of {domain}")).await);
    }
    connect(&clients[0], &clients[1]).await;
    connect(&clients[0], &clients[2]).await;
    connect(&clients[1], &clients[2]).await;
    let chat = group(&clients.iter().collect::<Vec<_>>()).await;

    let count = Arc::new(watch::Sender::new(0));
    let (mut senders, mut receivers) = (JoinSet::new(), JoinSet::new());
    for client in &clients {
        senders.spawn(send_all(client.clone(), chat.clone(), EACH, count.clone()));
        let (client, chat) = (client.clone(), chat.clone());
        receivers.spawn(async move { (user(&client), receive_all(client, chat, 2 * EACH as usize).await) });
    }
    let mut told = Vec::new();
    for trouble in 0..TROUBLES {
        let point = (trouble + 1) * 3 * EACH / (TROUBLES + 1);
        within(point, count.subscribe().wait_for(|count| *count >= point)).await.unwrap();
        let (at, other) = (below(&mut rng, 3) as usize, below(&mut rng, 3) as usize);
        let kind = below(&mut rng, 7);
        told.push((kind, at, other));
        match kind {
            0 | 1 => {
                land.servers[at].kill().await;
                land.servers[at].restart().await;
            }
            2 if at != other => {
                land.servers[at].kill().await;
                land.servers[other].kill().await;
                land.servers[other].restart().await;
                land.servers[at].restart().await;
            }
            3 => {
                land.servers[at].stop().await;
                land.servers[at].restart().await;
            }
            4 => land.ways[at].close(),
            5 => land.ways[at].lose_one_in(5),
            6 => {
                land.admin(at, &["keys", "rotate", "queue-configs"]).await;
                if at == other {
                    land.renew_certificate(at).await;
                }
            }
            _ => {}
        }
        if trouble % 2 == 1 {
            land.ways.iter().for_each(|way| way.heal());
        }
    }
    println!("federation: {told:?}");
    land.ways.iter().for_each(|way| way.heal());
    while let Some(sent) = within("the senders", senders.join_next()).await {
        sent.unwrap();
    }
    for client in &clients {
        // What was not acknowledged waits in its sender's state, and goes out with the next command.
        within("sending what was left", client.sync()).await.unwrap();
    }
    let mut orders: BTreeMap<UserId, Vec<(UserId, String)>> = BTreeMap::new();
    while let Some(received) = within("the receivers", receivers.join_next()).await {
        let (receiver, received) = received.unwrap();
        for sender in clients.iter().map(user).filter(|sender| *sender != receiver) {
            let from_sender = received.iter().filter(|(from, _)| *from == sender).map(|(_, text)| text.as_str());
            assert!(from_sender.eq((0..EACH).map(|number| number.to_string())), "from {sender} to {receiver}");
        }
        orders.insert(receiver, received);
    }
    // What two have both heard, from the third, and each from the other, is in one order: that of the DS.
    let order = |one: &UserId, other: &UserId| -> Vec<(UserId, String)> {
        let both = |(from, _): &&(UserId, String)| from != one && from != other;
        orders[one].iter().filter(both).cloned().collect()
    };
    let users: Vec<_> = clients.iter().map(user).collect();
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        assert_eq!(order(&users[one], &users[other]), order(&users[other], &users[one]));
    }
    for client in &clients {
        assert!(fetch(client).await.is_empty());
        assert_eq!(client.problems().await.unwrap(), Vec::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_take_users_of_other_homeservers_and_the_operator_decides_with_whom_to_deal() {
    let mut land = Land::start(&DOMAINS[..2]).await;
    let (alice, bob) = (land.cli(0, "Alice"), land.cli(1, "Bob"));
    let (alice_id, bob_id) = (alice.register().await, bob.register().await);
    assert!(alice_id.ends_with("@a.test") && bob_id.ends_with("@b.test"));
    let chat = alice.connect(&bob, &bob_id).await;
    alice.run(&["send", &chat, "over there"]).await.one();
    let heard = within("the message", async {
        loop {
            let said = bob.run(&["receive"]).await;
            if let [line] = said.all() {
                break line.clone();
            }
        }
    });
    assert_eq!(heard.await["text"], "over there");

    let peers = land.admin(0, &["federation", "peers"]).await;
    assert_eq!((peers.len(), &peers[0]["domain"], &peers[0]["waiting"]), (1, &"b.test".into(), &0.into()));
    let listed = land.admin(0, &["federation", "list"]).await;
    assert_eq!((listed.len(), &listed[0]["rule"]), (1, &"allowed".into()));
    land.admin(0, &["federation", "block", "b.test"]).await;
    let said = alice.run(&["send", &chat, "nobody hears this"]).await;
    assert_eq!(said.one()["unreached"], 1, "what is sent to a homeserver that is blocked reaches nobody");
    assert_eq!(bob.run(&["send", &chat, "nor this"]).await.failure(), "federation_denied");
    // Decisions outlive the process.
    land.servers[0].kill().await;
    land.servers[0].restart().await;
    let listed = land.admin(0, &["federation", "list"]).await;
    assert_eq!((listed.len(), &listed[1]["domain"], &listed[1]["rule"]), (2, &"b.test".into(), &"blocked".into()));
    land.admin(0, &["federation", "forget", "b.test"]).await;
    alice.run(&["send", &chat, "this again"]).await.one();
    let heard = within("the message", async {
        loop {
            let said = bob.run(&["receive"]).await;
            if let [line] = said.all() {
                break line.clone();
            }
        }
    });
    assert_eq!(heard.await["text"], "this again");
}

impl Land {
    /// A client on the command line.
    fn cli(&self, at: usize, name: &str) -> Cli {
        let places = self.servers.iter().map(|server| format!("{}={}", server.domain(), server.address()));
        self.servers[at].cli(name).of(self.servers[at].domain(), self.authorities(at), places.collect())
    }
}
