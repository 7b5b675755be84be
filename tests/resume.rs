//! A client can stop anywhere and go on: replies that are lost after the homeserver did what it was asked for, and
//! processes that are killed at random points while they register, synchronise, send, receive and change groups.
#![cfg(feature = "cli")]

mod support;

use std::{collections::BTreeMap, time::Duration};

use bennu::{
    client::{ChatState, Client, Event},
    wire::Method,
};
use rand_chacha::ChaCha8Rng;
use support::{Server, below, connect, fetch, forwarder::Forwarder, raw::State, rng, text, until, user, within};

/// Has a client do something. The reply to its request to `method` is lost, and all that would come after it; `done` says
/// that it was carried out all the same. Then the client ends as if it had been killed, and starts again.
async fn lose_the_reply<T: std::fmt::Debug>(
    (server, forwarder): (&Server, &Forwarder),
    client: Client,
    method: Method,
    start: impl AsyncFnOnce(&Client) -> T,
    done: impl Future<Output = ()>,
) -> Client {
    let state = State::of(&server.path("Alice"));
    // A request is stored before it is sent, and the next one is not sent before it is answered.
    forwarder.lose_replies_once(move || state.outbox().first().is_some_and(|(first, _)| *first == method));
    let before = forwarder.lost();
    within(method, async {
        tokio::select! {
            answer = start(&client) => panic!("{answer:?} has arrived"),
            () = done => {}
        }
    })
    .await;
    assert!(forwarder.lost() > before, "what came back was lost");
    drop(client);
    forwarder.heal();
    let client = server.open("Alice").await;
    within("synchronising", client.sync()).await.unwrap();
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_carried_out_without_a_reply_is_not_carried_out_twice() {
    let server = Server::start().await;
    let forwarder = Forwarder::to(server.address()).await;
    let way = (&server, &forwarder);
    let alice = server.register_at("Alice", forwarder.address()).await;
    let (bob, carol) = (server.register("Bob").await, server.register("Carol").await);
    let (mut bob_events, mut carol_events) = (bob.events(), carol.events());
    let (alice_user, bob_user) = (user(&alice), user(&bob));
    let message = |event: &Event| matches!(event, Event::Message { .. }).then_some(());

    // An offer to connect.
    let mut request = None;
    let done = async {
        let id = until("the request", &mut bob_events, |event| match event {
            Event::Request { id, .. } => Some(id.clone()),
            _ => None,
        });
        request = Some(id.await);
    };
    let alice = lose_the_reply(way, alice, Method::AsEnqueue, async |it| it.connect(&bob_user).await, done).await;
    let chat = alice.connect(&bob_user).await.unwrap();
    within("synchronising", bob.sync()).await.unwrap();
    assert_eq!(bob.requests().await.unwrap().len(), 1, "one offer, however often it was sent");
    assert_eq!(bob.accept(&request.unwrap()).await.unwrap(), chat);
    within("synchronising", alice.sync()).await.unwrap();
    assert_eq!(alice.contacts().await.unwrap().len(), 1);

    // Accepting an offer.
    let with_carol = carol.connect(&alice_user).await.unwrap();
    within("synchronising", alice.sync()).await.unwrap();
    let request = alice.requests().await.unwrap()[0].id.clone();
    let done = until("the contact", &mut carol_events, |event| matches!(event, Event::Connected { .. }).then_some(()));
    let method = Method::DsJoinConnectionGroup;
    let alice = lose_the_reply(way, alice, method, async |it| it.accept(&request).await, done).await;
    assert_eq!(alice.contacts().await.unwrap().len(), 2);
    assert!(alice.requests().await.unwrap().is_empty());

    // A message. The first one binds the key, so that the next needs nothing but its own reply.
    alice.send(&with_carol, text("first")).await.unwrap();
    until("the first message", &mut carol_events, message).await;
    let done = until("the message", &mut carol_events, message);
    let method = Method::DsSendMessage;
    let alice = lose_the_reply(way, alice, method, async |it| it.send(&with_carol, text("once")).await, done).await;
    alice.send(&with_carol, text("and no more")).await.unwrap();
    assert_eq!(fetch(&carol).await, ["first", "once", "and no more"]);

    // Adding members.
    let group = alice.create_group("group").await.unwrap();
    alice.send(&group, text("nobody is here")).await.unwrap();
    let users = [bob_user.clone(), user(&carol)];
    let done = until("the Welcome", &mut bob_events, |event| matches!(event, Event::Joined { .. }).then_some(()));
    let method = Method::DsAddUsers;
    let alice = lose_the_reply(way, alice, method, async |it| it.invite(&group, &users).await, done).await;
    assert_eq!(alice.members(&group).await.unwrap().len(), 3);
    alice.send(&group, text("all here?")).await.unwrap();
    assert_eq!(fetch(&bob).await, ["all here?"]);

    // Removing one.
    let done = until("the end", &mut bob_events, |event| matches!(event, Event::Removed { .. }).then_some(()));
    let method = Method::DsRemoveUsers;
    let removed = [bob_user];
    let alice = lose_the_reply(way, alice, method, async |it| it.remove(&group, &removed).await, done).await;
    alice.send(&group, text("without Bob")).await.unwrap();
    assert_eq!(alice.members(&group).await.unwrap().len(), 2);
    assert_eq!(fetch(&carol).await, ["all here?", "without Bob"]);
    assert!(fetch(&bob).await.is_empty());

    // Deleting the group.
    let done = until("the end", &mut carol_events, |event| matches!(event, Event::Deleted { .. }).then_some(()));
    let method = Method::DsDeleteGroup;
    let alice = lose_the_reply(way, alice, method, async |it| it.delete_group(&group).await, done).await;
    let chats = alice.chats().await.unwrap();
    assert_eq!(chats.iter().find(|chat| chat.chat == group).map(|chat| chat.state), Some(ChatState::Deleted));
    for client in [&alice, &carol] {
        assert_eq!(client.problems().await.unwrap(), []);
    }
    // The repeated offer is noticed, and named.
    let problems = bob.problems().await.unwrap();
    assert!(problems.iter().all(|(_, what)| what.contains("offer")) && problems.len() <= 1, "{problems:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_way_back_only_delays() {
    let server = Server::start().await;
    let forwarder = Forwarder::to(server.address()).await;
    let alice = server.register_at("Alice", forwarder.address()).await;
    let bob = server.register("Bob").await;
    let chat = connect(&alice, &bob).await;
    let mut events = bob.events();
    let message = |event: &Event| matches!(event, Event::Message { .. }).then_some(());
    alice.send(&chat, text("0")).await.unwrap();
    until("the message", &mut events, message).await;
    for number in 1..5 {
        forwarder.lose_replies();
        let send = alice.send(&chat, text(number.to_string()));
        let hear = async {
            until("the message", &mut events, message).await;
            forwarder.heal();
        };
        let (sent, ()) = within("a message and its reply", async { tokio::join!(send, hear) }).await;
        assert_eq!(sent.unwrap().unreached, 0);
    }
    assert_eq!(fetch(&bob).await, ["0", "1", "2", "3", "4"]);
}

/// How long a process lives: up to about as long as its work takes.
fn life(rng: &mut ChaCha8Rng) -> Duration {
    Duration::from_millis(5 + below(rng, 250))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_is_killed_at_random_points_is_completed() {
    let mut rng = rng("registration");
    let server = Server::start().await;
    let bob = server.cli("Bob");
    bob.register().await;
    for name in ["Alice", "Anna", "Ada"] {
        let alice = server.cli(name);
        let registration = alice.registration();
        let registration: Vec<_> = registration.iter().map(String::as_str).collect();
        let mut kills = 0;
        while kills < 15 {
            match alice.run_or_kill(&registration, life(&mut rng) * 2).await {
                Err(_) => kills += 1,
                Ok(said) => {
                    assert!(said.status.success() || said.failure() == "already_registered", "{said:?}");
                    break;
                }
            }
        }
        let said = alice.run(&registration).await;
        assert!(said.status.success() || said.failure() == "already_registered", "{said:?}");
        let id = alice.run(&["whoami"]).await.one()["user_id"].as_str().unwrap().to_owned();
        let chat = bob.connect(&alice, &id).await;
        alice.run(&["send", &chat, name]).await.one();
        println!("registration: {name} is there after {kills} SIGKILLs");
    }
    assert_eq!(bob.run(&["receive"]).await.all().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_killed_at_random_points_loses_and_repeats_nothing() {
    const MESSAGES: usize = 40;
    let mut rng = rng("client");
    let server = Server::start().await;
    let (alice, bob) = (server.cli("Alice"), server.cli("Bob"));
    let carol = server.register("Carol").await;
    let (_, bob_id) = (alice.register().await, bob.register().await);
    alice.connect(&bob, &bob_id).await;
    let carol_id = user(&carol).to_string();
    alice.run(&["connect", &carol_id]).await.one();
    within("synchronising", carol.sync()).await.unwrap();
    carol.accept(&carol.requests().await.unwrap()[0].id).await.unwrap();
    let chat = alice.run(&["group", "create", "group"]).await.one()["chat"].as_str().unwrap().to_owned();
    alice.run(&["group", "invite", &chat, &bob_id]).await.one();
    let group = chat.parse().unwrap();

    // Alice sends and changes the group, Bob receives; both are killed all the time.
    let (mut kills, mut told, mut acknowledged) = (0, Vec::new(), Vec::new());
    for number in 0..MESSAGES {
        let label = number.to_string();
        match alice.run_or_kill(&["send", &chat, &label], life(&mut rng)).await {
            Ok(said) => {
                said.one();
                acknowledged.push(label);
            }
            Err(_) => kills += 1,
        }
        match number % 10 {
            3 => {
                kills += usize::from(
                    alice.run_or_kill(&["group", "invite", &chat, &carol_id], life(&mut rng)).await.is_err(),
                )
            }
            8 => {
                kills += usize::from(
                    alice.run_or_kill(&["group", "remove", &chat, &carol_id], life(&mut rng)).await.is_err(),
                )
            }
            _ => {}
        }
        if number % 2 == 0 {
            kills += usize::from(bob.run_or_kill(&["chats"], life(&mut rng)).await.is_err());
        } else {
            match bob.run_or_kill(&["receive"], life(&mut rng)).await {
                Ok(said) => told.push(said.all().to_vec()),
                Err(lines) => {
                    kills += 1;
                    told.push(lines);
                }
            }
        }
    }
    // Nobody is stuck, and everybody agrees on who is there.
    alice.run(&["group", "invite", &chat, &carol_id]).await.one();
    alice.run(&["send", &chat, "the end"]).await.one();
    told.push(bob.run(&["receive"]).await.all().to_vec());
    assert_eq!(fetch(&carol).await.last().map(String::as_str), Some("the end"));
    assert_eq!(carol.members(&group).await.unwrap().len(), 3);
    assert_eq!(bob.run(&["group", "members", &chat]).await.all().len(), 3);
    carol.send(&group, text("heard")).await.unwrap();
    bob.run(&["send", &chat, "heard"]).await.one();
    assert_eq!(alice.run(&["receive"]).await.all().len(), 2);

    // What a process had printed when it was killed it may print again, but nothing else comes twice.
    let mut heard: Vec<String> = Vec::new();
    for lines in &told {
        let texts: Vec<_> = lines.iter().map(|line| line["text"].as_str().unwrap().to_owned()).collect();
        let again = texts.iter().take_while(|text| heard.contains(text)).count();
        assert_eq!(heard[heard.len() - again..], texts[..again], "only the last lines are printed again");
        heard.extend_from_slice(&texts[again..]);
    }
    let order: BTreeMap<_, _> = heard.iter().enumerate().map(|(index, text)| (text.clone(), index)).collect();
    assert_eq!(order.len(), heard.len(), "each once: {heard:?}");
    assert_eq!(heard.last().map(String::as_str), Some("the end"));
    let numbers: Vec<u64> = heard[..heard.len() - 1].iter().map(|text| text.parse().unwrap()).collect();
    assert!(numbers.is_sorted(), "in order: {numbers:?}");
    for label in &acknowledged {
        assert!(order.contains_key(label), "{label} was acknowledged and is lost");
    }
    println!(
        "client: {kills} SIGKILLs; {} messages, {} acknowledged, {} heard",
        MESSAGES,
        acknowledged.len(),
        numbers.len()
    );
}
