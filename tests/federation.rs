//! Three homeservers with people on each, who talk in groups while their homeservers are killed, cut off from each other,
//! started again in any order, and given other certificates and keys: everything that was acknowledged to a sender is in
//! the hands of everybody else, once, and in the order of the group's DS.
#![cfg(feature = "cli")]

mod support;

use bennu::client::ClientError;
use support::{Cli, below, connect, group, land::Land, rng, talk::Talk, within};
use tokio::task::JoinSet;

const DOMAINS: [&str; 3] = ["a.test", "b.test", "c.test"];

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

    let talk = Talk::start(&clients, &chat, &[EACH; 3]);
    let (mut told, mut renames) = (Vec::new(), JoinSet::new());
    for trouble in 0..TROUBLES {
        let point = (trouble + 1) * 3 * EACH / (TROUBLES + 1);
        talk.reach(point).await;
        let (at, other) = (below(&mut rng, 3) as usize, below(&mut rng, 3) as usize);
        let kind = below(&mut rng, 7);
        told.push((kind, at, other));
        // Epochs change while messages flow.
        let (admin, of) = (clients[0].clone(), chat.clone());
        renames.spawn(async move { admin.rename(&of, &format!("after {trouble}")).await });
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
                land.admin(at, &["keys", "rotate", "deliveries"]).await;
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
    while let Some(renamed) = within("a change of the group", renames.join_next()).await {
        match renamed.unwrap() {
            Ok(()) | Err(ClientError::Unreachable(_) | ClientError::Late(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    talk.end().await;
    within("the last change", clients[0].rename(&chat, "the end")).await.unwrap();
    for client in &clients {
        let agrees = async {
            loop {
                client.sync().await.unwrap();
                let chats = client.chats().await.unwrap();
                if chats.iter().any(|view| view.chat == chat && view.name == "the end") {
                    return;
                }
            }
        };
        within("everybody to agree", agrees).await;
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
    assert_eq!((listed.len(), &listed[0]["rule"], &listed[0]["policy"]), (1, &"allowed".into(), &"open".into()));
    let stats = land.admin(0, &["stats"]).await;
    for key in ["peers_waited_for", "peer_messages_waiting", "peer_messages_dropped"] {
        assert_eq!(stats[0][key], 0, "{key}");
    }
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
