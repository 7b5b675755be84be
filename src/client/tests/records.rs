//! What a client is to the QS, when things go wrong: a ratchet that is lost, a state that goes back in time, a homeserver that
//! does, a client that was away for too long.

use super::*;
use crate::{
    client::state::queues::{self, Queue},
    wire::{method::call, queue::Incarnation, queuing::GetQueuingUser},
};
use groups::Later;

impl User {
    /// What opens the entries of a queue is not what it should be.
    async fn lose_ratchet(&self, queue: Queue) {
        let spoil = move |connection: &rusqlite::Connection| {
            let mut cursor = queues::load(connection, queue)?;
            assert!(cursor.ratchet.is_some(), "it has been read from");
            cursor.ratchet = Some(crate::crypto::ratchet::Ratchet::from_secret(Secret::new([1; 32])));
            queues::store(connection, queue, &cursor)
        };
        self.client.0.database.run(spoil).await.unwrap();
    }

    pub(super) async fn problem(&self, part: &str) -> bool {
        self.client.problems().await.unwrap().iter().any(|(_, text)| text.contains(part))
    }

    async fn pseudonym(&self) -> crate::base::QsClientId {
        self.client.0.account().pseudonym
    }

    async fn sync(&self) {
        self.client.sync().await.unwrap();
    }
}

/// Two contacts, with a group of theirs.
async fn pair(server: &Arc<Homeserver>) -> (User, User, GroupId, GroupId) {
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = befriend(&alice, &bob).await;
    let group = alice.client.create_group("Trip").await.unwrap();
    alice.client.invite(&group, &[bob.id()]).await.unwrap();
    bob.sync().await;
    (alice, bob, chat, group)
}

/// Both hear each other, in both chats.
async fn talk(alice: &User, bob: &User, chats: [&GroupId; 2]) {
    for (from, to, name) in [(alice, bob, "Alice"), (bob, alice, "Bob")] {
        for chat in chats {
            from.say(chat, "can you hear me?").await;
        }
        let heard = to.hear().await;
        println!("{name}: {:?}", to.client.problems().await.unwrap());
        assert_eq!(heard, [said(name, "can you hear me?"), said(name, "can you hear me?")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_ratchet_is_started_anew_and_commits_that_were_missed_are_made_up_for() {
    let server = Homeserver::start().await;
    let (alice, bob, chat, group) = pair(&server).await;
    bob.lose_ratchet(Queue::Client).await;
    alice.say(&chat, "lost").await;
    alice.client.rename(&group, "Journey").await.unwrap();
    let mut events = bob.client.events();
    while events.next().await != Some(Event::Listening(Queue::Client)) {}
    while events.next().await != Some(Event::Gap(Queue::Client)) {}
    drop(events);
    bob.sync().await;
    assert!(bob.problem("the queue is started anew").await);
    let name = |chats: Vec<ChatView>| chats.into_iter().find(|view| view.chat == group).unwrap().name;
    assert_eq!(name(bob.client.chats().await.unwrap()), "Journey");
    assert_eq!(bob.read().await, [], "what was in the queue cannot be read");
    talk(&alice, &bob, [&chat, &group]).await;
    // It is over with the new secret: nothing is left of what was to be done.
    let left = bob.client.0.database.run(|connection| queues::keys(connection, Queue::Client)).await.unwrap();
    assert_eq!(left.len(), 1);
    assert!(!bob.client.0.database.run(|connection| queues::is_restarting(connection, Queue::Client)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn direct_queues_and_those_of_aliases_are_started_anew_too() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let alias = bob.client.register_alias("robert").await.unwrap();
    bob.sync().await;
    let id = crate::crypto::alias::Alias::parse(&alias).unwrap().id(&bob.id().domain);
    for queue in [Queue::Direct, Queue::Alias(id)] {
        bob.lose_ratchet(queue).await;
        let offer = async |who: &User| match queue {
            Queue::Alias(_) => who.client.connect_alias("robert", &bob.id().domain).await.unwrap(),
            _ => who.client.connect(&bob.id()).await.unwrap(),
        };
        offer(&server.register("Lost").await).await;
        bob.sync().await;
        assert_eq!(bob.client.requests().await.unwrap(), []);
        offer(&alice).await;
        bob.sync().await;
        let request = bob.client.requests().await.unwrap().pop().expect("an offer that can be read");
        assert_eq!(request.from, alice.id());
        bob.client.decline(&request.id).await.unwrap();
        alice.sync().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_back_to_an_old_copy_of_its_state_comes_back_to_its_queue_and_its_groups() {
    for (renewed, missed) in [(false, 1), (true, 1), (false, 1_100)] {
        let server = Homeserver::start().await;
        let (alice, bob, chat, group) = pair(&server).await;
        let carol = server.register("Carol").await;
        befriend(&bob, &carol).await;
        let (bob, copy) = bob.copied().await;
        // After the copy: messages in such a number that key updates are among them, commits, and another key of the record.
        for number in 0..missed {
            alice.say(&chat, &number.to_string()).await;
        }
        alice.client.rename(&group, "Journey").await.unwrap();
        assert_eq!(bob.hear().await.len(), missed);
        if renewed {
            let renew = |connection: &rusqlite::Connection| record::renew_before(connection, u64::MAX);
            bob.client.0.database.run(renew).await.unwrap();
        }
        bob.sync().await;
        bob.say(&group, "before").await;
        assert_eq!(alice.hear().await, [said("Bob", "before")]);
        let pseudonym = bob.pseudonym().await;

        let bob = bob.restored(copy).await;
        bob.sync().await;
        assert_eq!(bob.pseudonym().await == pseudonym, !renewed, "a key that is lost proves nothing");
        alice.sync().await;
        bob.sync().await;
        bob.read().await;
        alice.read().await;
        talk(&alice, &bob, [&chat, &group]).await;
        // Whoever adds it finds KeyPackages whose keys it has.
        let other = carol.client.create_group("Other").await.unwrap();
        carol.client.invite(&other, &[bob.id()]).await.unwrap();
        bob.sync().await;
        assert_eq!(bob.state(&other).await, ChatState::Active);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_back_after_its_queue_was_deleted_gets_a_new_one() {
    let clock = Arc::new(Later::default());
    let server = Homeserver::start_under(QueueLimits::default(), Policy::default(), clock.clone()).await;
    let (alice, bob, chat, group) = pair(&server).await;
    bob.client.set_push(Some(push::subscription("https://push.test/bob"))).await.unwrap();
    clock.pass(46);
    alice.sync().await;
    clock.pass(46);
    assert_eq!(server.dispatcher().expire_queues().await.unwrap(), 1);
    let receipt = alice.client.send(&chat, Content::Text("are you there?".into())).await.unwrap();
    assert_eq!(receipt.unreached, 1);
    let before = bob.pseudonym().await;
    bob.sync().await;
    assert_ne!(bob.pseudonym().await, before);
    assert!(bob.problem("does not have this client's queue any more").await);
    let account = bob.client.0.account();
    let sender = network::Sender::Signed(account.queuing_user(), &account.keys.queuing_user);
    let (network, domain) = (&bob.client.0.network, bob.id().domain);
    let asked =
        network.call::<call::QsGetUser>(&domain, Isolation::Pseudonym, sender, &GetQueuingUser {}).await.unwrap();
    assert_eq!(asked.clients.iter().map(|of| (of.client, of.push)).collect::<Vec<_>>(), [(account.pseudonym, true)]);
    // Nobody has changed the groups meanwhile: it is a member as before.
    alice.sync().await;
    bob.sync().await;
    talk(&alice, &bob, [&chat, &group]).await;
    let new = alice.client.create_group("New").await.unwrap();
    alice.client.invite(&new, &[bob.id()]).await.unwrap();
    bob.sync().await;
    alice.say(&new, "hello").await;
    assert_eq!(bob.hear().await, [said("Alice", "hello")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_back_after_its_groups_have_given_it_up_learns_that_and_can_connect_again() {
    let clock = Arc::new(Later::default());
    let server = Homeserver::start_under(QueueLimits::default(), Policy::default(), clock.clone()).await;
    let (alice, bob, chat, group) = pair(&server).await;
    for _ in 0..2 {
        clock.pass(46);
        alice.sync().await;
    }
    assert_eq!(server.dispatcher().expire_queues().await.unwrap(), 1);
    server.dispatcher().maintain_tokens().await.unwrap();
    alice.sync().await;
    assert_eq!((alice.state(&chat).await, alice.state(&group).await), (ChatState::Deleted, ChatState::Active));
    bob.sync().await;
    for chat in [&chat, &group] {
        assert_eq!(bob.state(chat).await, ChatState::Removed);
    }
    let chat = befriend(&bob, &alice).await;
    alice.client.invite(&group, &[bob.id()]).await.unwrap();
    bob.sync().await;
    talk(&alice, &bob, [&chat, &group]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn record_keys_and_the_keys_for_queue_configs_are_replaced_and_everybody_stays_reachable() {
    let clock = Arc::new(Later::default());
    let server = Homeserver::start_under(QueueLimits::default(), Policy::default(), clock.clone()).await;
    let (alice, bob, chat, group) = pair(&server).await;
    let key = |user: &User| user.client.0.account().keys.queuing_client.verifying_key();
    let sealed_to = async |user: &User| user.client.0.queuing_key().await.unwrap().key_id;
    for _ in 0..3 {
        let (record, config) = (key(&bob), sealed_to(&bob).await);
        server.dispatcher().rotate_config_key().await.unwrap();
        clock.pass(31);
        // Before it has heard of anything, and after that.
        alice.say(&chat, "one").await;
        alice.say(&group, "two").await;
        assert_eq!(bob.hear().await, [said("Alice", "one"), said("Alice", "two")]);
        assert_ne!(key(&bob), record);
        assert_ne!(sealed_to(&bob).await, config);
        alice.sync().await;
        bob.sync().await;
        talk(&alice, &bob, [&chat, &group]).await;
    }
    alice.no_problems().await;
    bob.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_key_whose_replacement_was_not_answered_is_in_use_all_the_same() {
    let server = Homeserver::start().await;
    let (alice, bob, chat, group) = pair(&server).await;
    let renew = |connection: &rusqlite::Connection| record::renew_before(connection, u64::MAX);
    bob.client.0.database.run(renew).await.unwrap();
    let hang = Hang { after: 0, carried_out: true };
    let before = bob.client.0.account().keys.queuing_client.verifying_key();
    let (bob, stopped) = bob.stopped(hang, |client| async move { _ = client.0.renew_record().await }).await;
    assert!(stopped);
    assert_eq!(bob.client.0.account().keys.queuing_client.verifying_key(), before);
    bob.sync().await;
    assert_ne!(bob.client.0.account().keys.queuing_client.verifying_key(), before);
    talk(&alice, &bob, [&chat, &group]).await;
    bob.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_of_a_homeserver_that_was_restored_go_on_under_another_incarnation_and_lose_nothing_that_was_in_them() {
    let server = Homeserver::start().await;
    let (alice, bob, chat, group) = pair(&server).await;
    alice.say(&chat, "in the queue when it happens").await;
    server.restart_as([1; 16]).await;
    for user in [&alice, &bob] {
        user.sync().await;
        assert!(user.problem("restored from a backup: what came to the client queue").await);
        assert!(user.problem("restored from a backup: what came to the direct queue").await);
        user.sync().await;
    }
    // It was in the backup.
    assert_eq!(bob.read().await, [said("Alice", "in the queue when it happens")]);
    talk(&alice, &bob, [&chat, &group]).await;
    let carol = server.register("Carol").await;
    befriend(&carol, &bob).await;
    let incarnation: Incarnation =
        bob.client.0.database.run(|connection| queues::load(connection, Queue::Client)).await.unwrap().incarnation;
    assert_eq!(incarnation, [1; 16]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_says_nothing_with_keys_that_the_client_has_used_since() {
    let server = Homeserver::start().await;
    let (alice, bob, chat, group) = pair(&server).await;
    let (bob, copy) = bob.copied().await;
    // Nothing of this comes back to whoever has sent it.
    for n in 0..3 {
        bob.say(&group, &format!("before, {n}")).await;
        bob.say(&chat, &format!("before, {n}")).await;
    }
    assert_eq!(alice.hear().await.len(), 6);
    let bob = bob.restored(copy).await;
    bob.say(&group, "afterwards").await;
    bob.say(&chat, "afterwards").await;
    assert_eq!(alice.hear().await, [said("Bob", "afterwards"), said("Bob", "afterwards")]);
    assert_eq!(alice.client.problems().await.unwrap(), []);
    alice.say(&group, "welcome back").await;
    assert_eq!(bob.hear().await, [said("Alice", "welcome back")]);
}
