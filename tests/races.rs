//! Things that happen at the same time: commits of three members for one epoch, of which one wins while the others are
//! made again; messages in between; two clients that listen to one queue, of which the newer wins.
#![cfg(feature = "cli")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use bennu::{
    base::{GroupId, UserId},
    client::{Client, ClientError, Event, Isolation, Queue, QuicConnector},
    transport::{StreamError, codes},
    wire::{
        Decode as _, Encode as _, Method, SenderId,
        queue::{Acknowledge, Listen, QueueEntries},
    },
};
use support::{
    DOMAIN, Server, below, connect, fetch, group,
    raw::{State, stream},
    read, rng, text, until, user, within,
};

/// Who is in a group, as a client sees it.
async fn members(client: &Client, chat: &GroupId) -> BTreeSet<UserId> {
    let members = client.members(chat).await.unwrap();
    assert!(members.iter().all(|member| !member.quarantined));
    members.into_iter().map(|member| member.user.unwrap()).collect()
}

/// The leaf keys in a group that a client's state has.
fn leaf_key(server: &Server, name: &str, chat: &GroupId) -> Vec<u8> {
    State::of(&server.path(name)).chat(chat).key.verifying_key().as_slice().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_commits_at_the_same_time_one_wins_an_epoch_and_all_members_converge() {
    const ROUNDS: u64 = 6;
    let mut rng = rng("races");
    let server = Server::start().await;
    let names = ["Alice", "Bob", "Carol", "Dora"];
    let mut clients = Vec::new();
    for name in names {
        clients.push(server.register(name).await);
    }
    let [alice, bob, carol, dora] = &clients[..] else { unreachable!() };
    for other in [bob, carol, dora] {
        connect(alice, other).await;
    }
    let chat = group(&[alice, bob, carol]).await;
    let epoch = |name: &str| State::of(&server.path(name)).epoch(&chat);
    assert_eq!([epoch("Alice"), epoch("Bob"), epoch("Carol")], [1; 3]);

    // Nobody has seen anybody else's commit when the three make theirs; and each sends messages all the while.
    let (mut commits, mut expected) = (1, BTreeMap::<UserId, Vec<String>>::new());
    for round in 0..ROUNDS {
        let before = ["Bob", "Carol"].map(|name| leaf_key(&server, name, &chat));
        State::of(&server.path("Bob")).want_new_leaf(&chat);
        State::of(&server.path("Carol")).want_new_leaf(&chat);
        let invited = round % 2 == 0;
        let change = async {
            let dora = [user(dora)];
            let changed = if invited { alice.invite(&chat, &dora).await } else { alice.remove(&chat, &dora).await };
            changed.unwrap();
            alice.sync().await
        };
        let say = async |client: &Client, count: u64| {
            for number in 0..count {
                client.send(&chat, text(format!("{round}.{number}"))).await.unwrap();
            }
        };
        let counts = [below(&mut rng, 4), below(&mut rng, 4), below(&mut rng, 4)];
        let ((changed, bob_done, carol_done), ()) = within("three commits", async {
            tokio::join!(async { tokio::join!(change, bob.sync(), carol.sync()) }, async {
                tokio::join!(say(alice, counts[0]), say(bob, counts[1]), say(carol, counts[2]));
            })
        })
        .await;
        assert!(changed.is_ok() && bob_done.is_ok() && carol_done.is_ok(), "{changed:?} {bob_done:?} {carol_done:?}");
        commits += 3;
        for (client, count) in [alice, bob, carol].into_iter().zip(counts) {
            expected.entry(user(client)).or_default().extend((0..count).map(|number| format!("{round}.{number}")));
        }

        for client in [alice, bob, carol] {
            within("synchronising", client.sync()).await.unwrap();
            assert_eq!(client.problems().await.unwrap(), []);
        }
        // One commit an epoch: as many epochs as commits.
        assert_eq!([epoch("Alice"), epoch("Bob"), epoch("Carol")], [commits; 3], "round {round}");
        let after = ["Bob", "Carol"].map(|name| leaf_key(&server, name, &chat));
        assert!(before.iter().zip(&after).all(|(before, after)| before != after), "both have new keys");
        let mut all = BTreeSet::from([alice, bob, carol].map(user));
        if invited {
            all.insert(user(dora));
            within("synchronising", dora.sync()).await.unwrap();
            assert_eq!(epoch("Dora"), commits);
        }
        for client in [alice, bob, carol].into_iter().chain(invited.then_some(dora)) {
            assert_eq!(members(client, &chat).await, all, "round {round}");
        }
    }

    // Everything that was said arrived once and in order, whatever epoch it was said in.
    for client in [alice, bob, carol] {
        let received = read(client).await;
        for (sender, said) in expected.iter().filter(|(sender, _)| **sender != user(client)) {
            let heard: Vec<_> = received.iter().filter(|(_, from, _)| from == sender).map(|(.., text)| text).collect();
            assert_eq!(heard, said.iter().collect::<Vec<_>>(), "from {sender} to {}", user(client));
        }
    }
    for client in [alice, bob, carol] {
        client.send(&chat, text("the end")).await.unwrap();
    }
    for client in [alice, bob, carol] {
        assert_eq!(fetch(client).await, ["the end"; 2]);
    }
    let lost = server.read_log().matches("wrong_epoch").count();
    assert!(lost > 0, "there were races");
    println!(
        "races: {ROUNDS} rounds, {commits} commits, as many epochs; {lost} requests came too late and were made again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_admins_change_the_group_and_a_refused_change_leaves_no_trace() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let dora = server.register("Dora").await;
    connect(&alice, &bob).await;
    connect(&bob, &dora).await;
    let chat = group(&[&alice, &bob]).await;
    let dora_user = [user(&dora)];
    let alice_user = [user(&alice)];
    let (invited, removed, deleted, sent) = within("changes", async {
        tokio::join!(
            bob.invite(&chat, &dora_user),
            bob.remove(&chat, &alice_user),
            bob.delete_group(&chat),
            alice.send(&chat, text("still here")),
        )
    })
    .await;
    for refused in [invited, removed, deleted] {
        let Err(error @ ClientError::Refused(_)) = refused else { panic!("{refused:?}") };
        assert_eq!(error.status(), "forbidden");
    }
    sent.unwrap();
    assert_eq!(fetch(&bob).await, ["still here"]);
    bob.send(&chat, text("me too")).await.unwrap();
    assert_eq!(fetch(&alice).await, ["me too"]);
    assert!(fetch(&dora).await.is_empty());
    assert_eq!(["Alice", "Bob"].map(|name| State::of(&server.path(name)).epoch(&chat)), [1; 2]);
    assert_eq!(dora.chats().await.unwrap().len(), 1, "the chat with Bob");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newer_of_two_that_listen_to_one_queue_wins() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = connect(&alice, &bob).await;
    bob.sync().await.unwrap();
    drop(bob);
    // Two processes with the state of one client.
    support::copy(&server.path("Bob"), &server.path("Bob's other device"));
    let (first, second) = (server.open("Bob").await, server.open("Bob's other device").await);

    let mut first_events = first.events();
    let mut missing = BTreeSet::from(["direct", "client"]);
    until("listening", &mut first_events, |event| {
        if let Event::Listening(queue) = event {
            missing.remove(queue.name());
        }
        missing.is_empty().then_some(())
    })
    .await;
    let mut second_events = second.events();
    let mut replaced = Vec::new();
    until("both replaced", &mut first_events, |event| {
        if let Event::Replaced(queue) = event {
            replaced.push(*queue);
        }
        (replaced.len() == 2).then_some(())
    })
    .await;
    assert!(replaced.contains(&Queue::Direct) && replaced.contains(&Queue::Client));
    alice.send(&chat, text("to the second")).await.unwrap();
    until("a message", &mut second_events, |event| matches!(event, Event::Message { .. }).then_some(())).await;
    let texts: Vec<_> = read(&second).await.into_iter().map(|(.., text)| text).collect();
    assert_eq!(texts, ["to the second"]);
    assert!(read(&first).await.is_empty(), "the one that was replaced gets nothing more");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_listen_ends_with_its_code_and_the_newer_gets_what_comes() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = connect(&alice, &bob).await;
    bob.sync().await.unwrap();
    let state = State::of(&server.path("Bob"));
    let (key, sender) = (state.queuing_client(), SenderId::QsClient(state.pseudonym()));
    let (incarnation, start) = state.cursor("client");
    let domain = DOMAIN.parse().unwrap();
    let ca = std::fs::read(server.ca()).unwrap();
    let connector = QuicConnector::new(domain, Some(server.address().to_string()), Some(&ca)).unwrap();
    let dial = async || {
        use bennu::client::Connector as _;
        connector.connect(&DOMAIN.parse().unwrap(), &Isolation::Pseudonym).await.unwrap()
    };
    let (one, other) = (dial().await, dial().await);
    let body = Listen { incarnation, start }.to_vec();
    let (_, mut older) = stream(&one, Method::QsListen, sender.clone(), &key, &body).await;
    alice.send(&chat, text("1")).await.unwrap();
    let frame = within("an entry", older.next()).await.unwrap().unwrap();
    assert_eq!(QueueEntries::from_bytes(frame).unwrap().entries[0].sequence, start);

    // Not acknowledged by the older, so the newer gets it again.
    let (_, mut newer) = stream(&other, Method::QsListen, sender.clone(), &key, &body).await;
    let ended = within("the end of the older", older.next()).await;
    assert_eq!(ended.err(), Some(StreamError::Reset(codes::REPLACED_BY_NEWER_LISTEN)));
    let frame = within("an entry", newer.next()).await.unwrap().unwrap();
    assert_eq!(QueueEntries::from_bytes(frame).unwrap().entries[0].sequence, start);
    newer.send(Acknowledge { next: start + 1 }.to_vec().into()).await.unwrap();
    alice.send(&chat, text("2")).await.unwrap();
    let frame = within("an entry", newer.next()).await.unwrap().unwrap();
    assert_eq!(QueueEntries::from_bytes(frame).unwrap().entries[0].sequence, start + 1);

    // The same on one connection; and the connection of the older lives on.
    let body = Listen { incarnation, start: start + 1 }.to_vec();
    let (_, mut newest) = stream(&one, Method::QsListen, sender, &key, &body).await;
    let ended = within("the end of the newer", newer.next()).await;
    assert_eq!(ended.err(), Some(StreamError::Reset(codes::REPLACED_BY_NEWER_LISTEN)));
    let frame = within("an entry", newest.next()).await.unwrap().unwrap();
    let entries = QueueEntries::from_bytes(frame).unwrap();
    assert_eq!((entries.first, entries.entries[0].sequence), (start + 1, start + 1), "what was acknowledged is gone");
}
