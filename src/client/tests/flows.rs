//! What users do, from registration to deleting a group.

use super::*;
use crate::base::Status;

#[tokio::test(flavor = "multi_thread")]
async fn two_users_connect_and_talk() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    assert_eq!(alice.client.whoami().1, "Alice");

    let chat = alice.client.connect(&bob.id()).await.unwrap();
    assert_eq!(alice.state(&chat).await, ChatState::Waiting);
    assert!(alice.client.send(&chat, Content::Text("early".into())).await.is_err());
    assert_eq!(alice.client.connect(&bob.id()).await.unwrap(), chat, "asking again makes no second offer");
    bob.client.sync().await.unwrap();
    bob.no_problems().await;
    let requests = bob.client.requests().await.unwrap();
    assert_eq!(requests.len(), 1);
    assert_eq!((&requests[0].from, requests[0].name.as_str()), (&alice.id(), "Alice"));
    assert_eq!(bob.client.accept(&requests[0].id).await.unwrap(), chat);
    assert!(bob.client.requests().await.unwrap().is_empty());
    alice.client.sync().await.unwrap();
    alice.no_problems().await;
    bob.client.sync().await.unwrap();
    bob.no_problems().await;
    let contacts = alice.client.contacts().await.unwrap();
    assert_eq!((contacts[0].user.clone(), contacts[0].name.as_str()), (bob.id(), "Bob"));
    assert_eq!(bob.client.contacts().await.unwrap()[0].user, alice.id());

    alice.say(&chat, "hello").await;
    bob.say(&chat, "hi").await;
    alice.say(&chat, "how are you?").await;
    assert_eq!(bob.hear().await, [said("Alice", "hello"), said("Alice", "how are you?")]);
    assert_eq!(alice.hear().await, [said("Bob", "hi")]);
    assert!(alice.hear().await.is_empty());

    let (alice, bob) = (alice.reopen().await, bob.reopen().await);
    let long = "x".repeat(100_000);
    alice.say(&chat, &long).await;
    assert_eq!(bob.hear().await, [said("Alice", &long)]);
    alice.no_problems().await;
    bob.no_problems().await;

    assert_eq!(alice.client.connect(&alice.id()).await.unwrap_err().status(), "invalid");
    let nobody = "00112233-4455-6677-8899-aabbccddeeff@a.test".parse().unwrap();
    let refused = alice.client.connect(&nobody).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused(refusal) if refusal.status == Status::NotFound));
    assert_eq!(alice.client.accept("nothing").await.unwrap_err().status(), "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declined_offer_is_announced_and_leaves_nothing() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = alice.client.connect(&bob.id()).await.unwrap();
    bob.client.sync().await.unwrap();
    let request = bob.client.requests().await.unwrap().remove(0);
    bob.client.decline(&request.id).await.unwrap();
    assert!(bob.client.requests().await.unwrap().is_empty());
    assert_eq!(bob.client.accept(&request.id).await.unwrap_err().status(), "not_found");
    alice.client.sync().await.unwrap();
    alice.client.sync().await.unwrap();
    assert_eq!(alice.state(&chat).await, ChatState::Declined);
    assert!(alice.client.contacts().await.unwrap().is_empty());
    alice.no_problems().await;
    bob.no_problems().await;
    // They may think better of it.
    let again = befriend(&bob, &alice).await;
    alice.say(&again, "hello after all").await;
    assert_eq!(bob.hear().await, [said("Alice", "hello after all")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_grows_shrinks_and_ends() {
    let server = Homeserver::start().await;
    let alice = server.register("Alice").await;
    let (bob, carol) = (server.register("Bob").await, server.register("Carol").await);
    befriend(&alice, &bob).await;
    befriend(&carol, &alice).await;
    let group = alice.client.create_group("Lunch").await.unwrap();
    assert_eq!(alice.state(&group).await, ChatState::Active);
    alice.say(&group, "to nobody").await;
    alice.client.invite(&group, &[bob.id()]).await.unwrap();
    alice.say(&group, "welcome, Bob").await;
    // Bob has not looked yet: the group moves on without him.
    alice.client.invite(&group, &[carol.id(), bob.id()]).await.unwrap();
    alice.say(&group, "welcome, Carol").await;

    assert_eq!(carol.hear().await, [said("Alice", "welcome, Carol")]);
    carol.say(&group, "thanks").await;
    assert_eq!(
        bob.hear().await,
        [said("Alice", "welcome, Bob"), said("Alice", "welcome, Carol"), said("Carol", "thanks")]
    );
    assert_eq!(alice.hear().await, [said("Carol", "thanks")]);
    let chats = bob.client.chats().await.unwrap();
    let view = chats.iter().find(|view| view.chat == group).unwrap();
    assert_eq!((view.name.as_str(), view.members.len(), view.kind), ("Lunch", 3, ChatKind::Group));
    let members = carol.client.members(&group).await.unwrap();
    let names: Vec<_> = members.iter().map(|member| (member.name.as_str(), member.admin, member.quarantined)).collect();
    assert_eq!(names, [("Alice", true, false), ("Bob", false, false), ("Carol", false, false)]);

    assert!(carol.client.remove(&group, &[bob.id()]).await.is_err(), "Carol is no admin");
    bob.say(&group, "still here").await;
    alice.client.remove(&group, &[bob.id()]).await.unwrap();
    alice.say(&group, "without Bob").await;
    bob.client.sync().await.unwrap();
    assert!(bob.hear().await.is_empty());
    assert_eq!(bob.state(&group).await, ChatState::Removed);
    assert_eq!(bob.client.send(&group, Content::Text("?".into())).await.unwrap_err().status(), "invalid");
    assert_eq!(carol.hear().await, [said("Bob", "still here"), said("Alice", "without Bob")]);
    assert_eq!(alice.client.invite(&group, &[nobody()]).await.unwrap_err().status(), "not_found");
    assert_eq!(alice.client.remove(&group, &[bob.id()]).await.unwrap_err().status(), "not_found");

    // And back again.
    alice.client.invite(&group, &[bob.id()]).await.unwrap();
    alice.say(&group, "Bob is back").await;
    assert_eq!(bob.hear().await, [said("Alice", "Bob is back")]);

    alice.client.delete_group(&group).await.unwrap();
    assert_eq!(alice.state(&group).await, ChatState::Deleted);
    for user in [&bob, &carol] {
        user.client.sync().await.unwrap();
        assert_eq!(user.state(&group).await, ChatState::Deleted);
    }
    alice.hear().await;
    for user in [&alice, &bob, &carol] {
        user.no_problems().await;
    }
}

fn nobody() -> UserId {
    "00112233-4455-6677-8899-aabbccddeeff@a.test".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_commits_all_come_about_and_everybody_agrees() {
    let server = Homeserver::start().await;
    let alice = server.register("Alice").await;
    let mut others = Vec::new();
    for name in ["Bob", "Carol", "Dave"] {
        let other = server.register(name).await;
        befriend(&alice, &other).await;
        others.push(other);
    }
    let group = alice.client.create_group("Race").await.unwrap();
    alice.client.invite(&group, &[others[0].id(), others[1].id()]).await.unwrap();
    for other in &others[..2] {
        other.client.sync().await.unwrap();
    }
    // Three members commit at once, several times.
    for _ in 0..3 {
        let (a, b, c) = tokio::join!(
            alice.client.0.change(&group, Intent::Update),
            others[0].client.0.change(&group, Intent::Update),
            others[1].client.0.change(&group, Intent::Update),
        );
        a.unwrap();
        b.unwrap();
        c.unwrap();
    }
    let talk = async {
        for n in 0..5 {
            others[0].say(&group, &n.to_string()).await;
        }
    };
    let dave = [others[2].id()];
    let (invited, updated, ()) =
        tokio::join!(alice.client.invite(&group, &dave), others[1].client.0.change(&group, Intent::Update), talk);
    invited.unwrap();
    updated.unwrap();
    let expected: Vec<_> = (0..5).map(|n| said("Bob", &n.to_string())).collect();
    assert_eq!(alice.hear().await, expected);
    assert_eq!(others[1].hear().await, expected);
    others[2].client.sync().await.unwrap();
    others[2].say(&group, "here").await;
    for user in [&alice, &others[0], &others[1]] {
        assert_eq!(user.hear().await, [said("Dave", "here")]);
        user.no_problems().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_what_happens_through_broken_connections() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let mut events = bob.client.events();
    let mut listening = 0;
    while listening < 2 {
        listening += u32::from(matches!(events.next().await.unwrap(), Event::Listening(_)));
    }
    let chat = alice.client.connect(&bob.id()).await.unwrap();
    let Some(Event::Request { id, from, name }) = events.next().await else { panic!() };
    assert_eq!((from, name.as_str()), (alice.id(), "Alice"));
    bob.client.accept(&id).await.unwrap();
    alice.client.sync().await.unwrap();
    alice.say(&chat, "hello").await;
    assert_eq!(events.next().await, Some(Event::Message { chat: chat.clone(), from: alice.id() }));
    assert_eq!(bob.read().await, [said("Alice", "hello")]);

    // The connections break: listening goes on.
    for connection in server.handler.connections.lock().unwrap().drain(..) {
        connection.close();
    }
    alice.say(&chat, "again").await;
    loop {
        match events.next().await.unwrap() {
            Event::Message { .. } => break,
            Event::Interrupted(_) | Event::Listening(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bob.read().await, [said("Alice", "again")]);

    // Within a process the later call takes over.
    let mut newer = bob.client.events();
    while events.next().await.is_some() {}
    while !matches!(newer.next().await.unwrap(), Event::Listening(Queue::Client)) {}
    alice.say(&chat, "to the newer").await;
    while !matches!(newer.next().await.unwrap(), Event::Message { .. }) {}
    assert_eq!(bob.read().await, [said("Alice", "to the newer")]);
    bob.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_on_one_queue_the_newer_listens() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = befriend(&alice, &bob).await;
    bob.client.sync().await.unwrap();
    let (older, copy) = bob.copied().await;
    let mut events = older.client.events();
    let mut listening = 0;
    while listening < 2 {
        listening += u32::from(matches!(events.next().await.unwrap(), Event::Listening(_)));
    }
    let newer = Client::open_over(copy.path(), server.connector(), patience()).await.unwrap();
    let mut newer_events = newer.events();
    let mut replaced = 0;
    while replaced < 2 {
        replaced += u32::from(matches!(events.next().await.unwrap(), Event::Replaced(_)));
    }
    alice.say(&chat, "to the newer").await;
    while !matches!(newer_events.next().await.unwrap(), Event::Message { .. }) {}
    assert_eq!(newer.unread(10).await.unwrap().len(), 1);
    assert!(older.client.unread(10).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_a_home_notices_what_it_missed_and_goes_on() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = befriend(&alice, &bob).await;
    bob.client.sync().await.unwrap();
    let (bob, copy) = bob.copied().await;
    alice.say(&chat, "one").await;
    alice.say(&chat, "two").await;
    assert_eq!(bob.hear().await.len(), 2);
    bob.client.sync().await.unwrap();
    alice.say(&chat, "three").await;
    let bob = bob.restored(copy).await;
    assert_eq!(bob.hear().await, [said("Alice", "three")]);
    let problems = bob.client.problems().await.unwrap();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].1.ends_with("of the client queue are missing"), "{problems:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_message_to_many_is_stored_once_and_read_by_all() {
    use crate::store::{Key, Limit, Table};
    let server = Homeserver::start().await;
    let alice = server.register("Alice").await;
    let mut others = Vec::new();
    for name in ["Bob", "Carol", "Dave", "Erin", "Frank"] {
        let other = server.register(name).await;
        befriend(&alice, &other).await;
        others.push(other);
    }
    let group = alice.client.create_group("Many").await.unwrap();
    let ids: Vec<_> = others.iter().map(User::id).collect();
    alice.client.invite(&group, &ids).await.unwrap();
    let bodies = async || {
        let durable = server.store().durable();
        durable.scan(Table::QsBodies, Key::new().., Limit::rows(100)).await.unwrap().len()
    };
    let before = bodies().await;
    alice.say(&group, "short").await;
    assert_eq!(bodies().await, before, "a short message goes into every queue");
    let long = "x".repeat(20_000);
    alice.say(&group, &long).await;
    assert_eq!(bodies().await, before + 1, "a long one is stored once");
    for other in &others {
        assert_eq!(other.hear().await, [said("Alice", "short"), said("Alice", &long)]);
        other.no_problems().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_read_through_key_updates_and_tell_when_they_were_full() {
    let limits = QueueLimits { update_entries: 5, entries: 60, ..QueueLimits::default() };
    let server = Homeserver::start_with(limits).await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = befriend(&alice, &bob).await;
    let mut expected = Vec::new();
    let mut unreached = 0;
    for n in 0..80 {
        let receipt = alice.client.send(&chat, Content::Text(n.to_string().as_str().into())).await.unwrap();
        match receipt.unreached {
            0 => expected.push(said("Alice", &n.to_string())),
            refused => unreached += refused,
        }
    }
    assert!(unreached > 0, "the queue took more than it may");
    // What does not fit any more is handshake messages only.
    bob.client.sync().await.unwrap();
    assert_eq!(bob.read().await, expected);
    alice.say(&chat, "there is room again").await;
    assert_eq!(bob.hear().await, [said("Alice", "there is room again")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_full_queue_is_counted_gets_commits_all_the_same_and_comes_back_when_not_even_those_fit() {
    let limits = QueueLimits { entries: 40, handshake_percent: 50, ..QueueLimits::default() };
    let server = Homeserver::start_with(limits).await;
    let [alice, bob, carol] =
        [server.register("Alice").await, server.register("Bob").await, server.register("Carol").await];
    befriend(&alice, &bob).await;
    befriend(&alice, &carol).await;
    let group = alice.client.create_group("Trip").await.unwrap();
    alice.client.invite(&group, &[bob.id(), carol.id()]).await.unwrap();
    for user in [&bob, &carol] {
        user.client.sync().await.unwrap();
    }
    for (name, commits) in [("Journey", 0), ("Voyage", 25)] {
        let mut reached = 0;
        loop {
            let receipt = alice.client.send(&group, Content::Text("hello".into())).await.unwrap();
            assert_eq!(carol.hear().await, [said("Alice", "hello")]);
            if receipt.unreached > 0 {
                assert_eq!(receipt.unreached, 1, "Bob alone");
                break;
            }
            reached += 1;
            assert!(reached < 50, "the queue took more than it may");
        }
        alice.client.rename(&group, name).await.unwrap();
        for _ in 0..commits {
            alice.client.0.change(&group, commit::Intent::Update).await.unwrap();
            carol.client.sync().await.unwrap();
        }
        bob.client.sync().await.unwrap();
        assert_eq!(bob.read().await.len(), reached);
        let chats = bob.client.chats().await.unwrap();
        assert_eq!(chats.iter().find(|chat| chat.chat == group).unwrap().name, name);
        let rejoined = bob.client.problems().await.unwrap().iter().any(|(_, text)| text.contains("rejoined"));
        assert_eq!(rejoined, commits > 0);
        for user in [&alice, &carol] {
            user.client.sync().await.unwrap();
        }
        bob.say(&group, "there is room again").await;
        for user in [&alice, &carol] {
            assert_eq!(user.hear().await, [said("Bob", "there is room again")]);
        }
    }
}

/// Sends a request that needs no proof, paid for with a user's token.
async fn ask<C: crate::wire::Call>(payer: &User, request: &C::Request) -> C::Response {
    use crate::wire::{Decode, Encode, Request, Response, VERSION};
    let network = &payer.client.0.network;
    let token = Some(network.tokens().take(network, payer.client.0.domain()).await.unwrap());
    let body = request.to_vec().into();
    let request = Request { version: VERSION, method: C::METHOD as u16, auth: vec![], token, body };
    let exchange = payer.server.host.connect().open().await.unwrap();
    let response = exchange.request(request.to_vec().into(), 1 << 20).await.unwrap();
    C::Response::from_bytes(Response::from_bytes(response).unwrap().into_result().unwrap()).unwrap()
}

/// Whoever enqueues an offer chooses the domain in it: without even a signature that does not make the client dial there.
#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_is_not_signed_is_skipped_without_dialling_whom_it_names() {
    use arbitrary::{Arbitrary, Unstructured};

    use crate::{
        crypto::{hpke, sha256},
        wire::{
            Encode,
            authentication::{EnqueueDirect, GetConnectionPackage},
            connection::{ConnectionOffer, DirectMessage, Recipient},
            label::HpkeLabel,
            method::call,
            padding::{OFFER_FLOOR, pad_value},
        },
    };
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let package = ask::<call::AsGetConnectionPackage>(&bob, &GetConnectionPackage { user: alice.id() }).await.package;

    let mut offer = ConnectionOffer::arbitrary(&mut Unstructured::new(&[7; 4096])).unwrap();
    offer.content.credential.request.payload.client.user.domain = "stranger.test".parse().unwrap();
    offer.content.recipient = Recipient::User(alice.id());
    offer.content.package_hash = sha256(&package.to_vec());
    let key = &package.content.encryption_key;
    let padded = pad_value(&offer, OFFER_FLOOR);
    let sealed =
        hpke::seal(key, HpkeLabel::ConnectionOffer, &offer.content.recipient.to_vec(), &[], &padded, &mut system_rng())
            .unwrap();
    let message = DirectMessage { key_hash: sha256(key.as_slice()), sealed };
    ask::<call::AsEnqueue>(&bob, &EnqueueDirect { client: package.content.client, message }).await;

    // The connector of these tests panics when it is asked for another domain than its own.
    let chat = befriend(&bob, &alice).await;
    bob.say(&chat, "hello").await;
    assert_eq!(alice.hear().await, [said("Bob", "hello")]);
    assert!(alice.client.requests().await.unwrap().is_empty());
    let problems = alice.client.problems().await.unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].1.contains("something in it does not verify"), "{problems:?}");
}
