//! What becomes of a client when the homeserver fails at the worst moment, once: answers that it has failed, whether or not the
//! request took effect. Nothing that is the client's may be lost by that, and what was to be done is done later.

use super::{groups::Later, *};
use crate::{
    client::{commit::Intent, network::Sender, state::chats},
    crypto::{hpke::HpkePrivateKey, signature::SigningKey},
    store::{Key, Limit, Table},
    wire::{
        method::call,
        queuing::{CreateQueuingUser, DeleteQueuingUser, QueuingClient},
    },
};

async fn renew(user: &User) {
    let renew = |connection: &rusqlite::Connection| record::renew_before(connection, u64::MAX);
    user.client.0.database.run(renew).await.unwrap();
}

/// Syncs; a failure of the homeserver may be told of.
async fn try_to_sync(user: &User) {
    if let Err(error) = user.client.sync().await {
        assert_eq!(error.status(), "internal");
    }
}

/// As by its owner's hand on another device: the client has no queue any more.
async fn delete_queue(user: &User) {
    let account = user.client.0.account();
    let sender = Sender::Signed(account.queuing_user(), &account.keys.queuing_user);
    let (network, domain) = (&user.client.0.network, user.id().domain);
    network.call::<call::QsDeleteUser>(&domain, Isolation::Pseudonym, sender, &DeleteQueuingUser {}).await.unwrap();
}

async fn cannot_be_invited_by(alice: &User, bob: &User) {
    let trap = bob.client.create_group("Trap").await.unwrap();
    let refused = bob.client.invite(&trap, &[alice.id()]).await.unwrap_err();
    assert_eq!(refused.status(), "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_renewed_while_the_homeserver_failed_is_kept_with_its_queue() {
    for lost_first in [false, true] {
        let server = Homeserver::start().await;
        let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
        let chat = befriend(&alice, &bob).await;
        renew(&bob).await;
        let before = bob.client.0.account().pseudonym;
        let bob = if lost_first {
            let hang = Hang { after: 0, carried_out: true };
            let (bob, stopped) = bob.stopped(hang, |client| async move { _ = client.0.renew_record().await }).await;
            assert!(stopped);
            // The repeat with the old key is refused as it should be, and the one with the new key by mistake.
            server.fail(Method::QsUpdateClient, 1, false);
            bob
        } else {
            server.fail(Method::QsUpdateClient, 0, true);
            bob
        };
        try_to_sync(&bob).await;
        alice.say(&chat, "important").await;
        try_to_sync(&bob).await;
        assert_eq!(bob.hear().await, [said("Alice", "important")]);
        assert_eq!(bob.client.0.account().pseudonym, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_queue_any_more_is_removed_by_the_next_commit() {
    let server = Homeserver::start().await;
    let [alice, bob, carol] =
        [server.register("Alice").await, server.register("Bob").await, server.register("Carol").await];
    befriend(&alice, &bob).await;
    befriend(&alice, &carol).await;
    let group = alice.client.create_group("Trip").await.unwrap();
    alice.client.invite(&group, &[bob.id(), carol.id()]).await.unwrap();
    bob.client.sync().await.unwrap();
    carol.client.sync().await.unwrap();
    alice.say(&group, "all here?").await;
    delete_queue(&bob).await;
    assert_eq!(alice.client.send(&group, Content::Text("still?".into())).await.unwrap().unreached, 1);
    for _ in 0..2 {
        alice.client.0.change(&group, Intent::Update).await.unwrap();
        alice.client.sync().await.unwrap();
        carol.client.sync().await.unwrap();
    }
    assert_eq!(alice.client.members(&group).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_from_a_new_queue_is_done_although_it_failed_once() {
    for method in [Method::DsUpdateQueueInfo, Method::QsPublishKeyPackages] {
        let server = Homeserver::start().await;
        let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
        let chat = befriend(&alice, &bob).await;
        let group = alice.client.create_group("Trip").await.unwrap();
        alice.client.invite(&group, &[bob.id()]).await.unwrap();
        bob.client.sync().await.unwrap();
        alice.client.sync().await.unwrap();
        delete_queue(&bob).await;
        server.fail(method, 0, false);
        for _ in 0..3 {
            try_to_sync(&bob).await;
        }
        assert!(server.has_failed());
        for of in [&chat, &group] {
            alice.say(of, "hello").await;
        }
        assert_eq!(bob.hear().await.len(), 2);
        let new = alice.client.create_group("New").await.unwrap();
        alice.client.invite(&new, &[bob.id()]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_holds_although_a_part_of_it_failed_once() {
    for method in [Method::QsUpdateUser, Method::QsUpdateBlocklist] {
        let server = Homeserver::start().await;
        let [alice, bob, carol] =
            [server.register("Alice").await, server.register("Bob").await, server.register("Carol").await];
        let chat = befriend(&bob, &alice).await;
        befriend(&carol, &alice).await;
        server.fail(method, 0, false);
        _ = alice.client.block(&bob.id()).await;
        assert!(server.has_failed());
        try_to_sync(&alice).await;
        alice.client.block(&carol.id()).await.unwrap();
        alice.client.sync().await.unwrap();
        cannot_be_invited_by(&alice, &bob).await;
        let entries = async || {
            server.store().barrier().await.unwrap();
            let rows = server.store().durable().scan(Table::QueueEntries, Key::new().., Limit::rows(1_000)).await;
            rows.unwrap().len()
        };
        let before = entries().await;
        bob.say(&chat, "hello?").await;
        assert_eq!(entries().await, before, "dropped where it would enter the queue");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_under_way_does_not_outlast_a_block() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = befriend(&bob, &alice).await;
    *server.handler.hang.lock().unwrap() = Some(Hang { after: 0, carried_out: false });
    let (client, of) = (alice.client.clone(), chat.clone());
    let task = tokio::spawn(async move { client.0.change(&of, Intent::Update).await });
    server.handler.hung.notified().await;
    task.abort();
    _ = task.await;
    alice.client.block(&bob.id()).await.unwrap();
    alice.client.unblock(&bob.id()).await.unwrap();
    for user in [&alice, &bob, &alice] {
        user.client.sync().await.unwrap();
    }
    alice.say(&chat, "again").await;
    assert_eq!(bob.hear().await, [said("Alice", "again")]);
}

/// How an offer stands that was made before its recipient is blocked.
#[derive(Clone, Copy, Debug)]
enum Offered {
    Waiting,
    Starting,
    ThroughAnAlias,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_made_before_a_block_is_worth_nothing_after_it() {
    for how in [Offered::Waiting, Offered::Starting, Offered::ThroughAnAlias] {
        let server = Homeserver::start().await;
        let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
        bob.client.register_alias("robert").await.unwrap();
        bob.client.sync().await.unwrap();
        let chat = match how {
            Offered::ThroughAnAlias => alice.client.connect_alias("robert", &bob.id().domain).await.unwrap(),
            _ => alice.client.connect(&bob.id()).await.unwrap(),
        };
        if let Offered::Starting = how {
            // As if the answer to the creation of the group had not come.
            let starting =
                move |connection: &rusqlite::Connection| chats::set_state(connection, &chat, ChatState::Starting);
            alice.client.0.database.run(starting).await.unwrap();
        }
        alice.client.block(&bob.id()).await.unwrap();
        bob.client.sync().await.unwrap();
        let request = bob.client.requests().await.unwrap().remove(0);
        // Where it is known for whom it was, the group is gone.
        _ = bob.client.accept(&request.id).await;
        for _ in 0..2 {
            alice.client.sync().await.unwrap();
            bob.client.sync().await.unwrap();
        }
        assert_eq!(alice.client.contacts().await.unwrap(), [], "{how:?}");
        if !bob.client.contacts().await.unwrap().is_empty() {
            cannot_be_invited_by(&alice, &bob).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_accepts_an_offer_after_the_token_was_replaced_is_given_the_new_one() {
    let server = Homeserver::start().await;
    let [alice, bob, dave] =
        [server.register("Alice").await, server.register("Bob").await, server.register("Dave").await];
    befriend(&bob, &alice).await;
    alice.client.connect(&dave.id()).await.unwrap();
    alice.client.block(&bob.id()).await.unwrap();
    dave.client.sync().await.unwrap();
    let request = dave.client.requests().await.unwrap().remove(0);
    dave.client.accept(&request.id).await.unwrap();
    for _ in 0..2 {
        alice.client.sync().await.unwrap();
        dave.client.sync().await.unwrap();
    }
    let party = dave.client.create_group("Party").await.unwrap();
    dave.client.invite(&party, &[alice.id()]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_friendship_token_that_somebody_took_meanwhile_keeps_nobody_from_coming_back() {
    let clock = Arc::new(Later::default());
    let server = Homeserver::start_under(QueueLimits::default(), Policy::default(), clock.clone()).await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = befriend(&alice, &bob).await;
    clock.pass(46);
    alice.client.sync().await.unwrap();
    clock.pass(46);
    assert_eq!(server.dispatcher().expire_queues().await.unwrap(), 1);
    let key = SigningKey::generate(&mut system_rng()).unwrap();
    let queue_key = HpkePrivateKey::generate(&mut system_rng()).unwrap().public_key();
    let request = CreateQueuingUser {
        auth_key: key.verifying_key(),
        friendship_token: bob.client.0.account().keys.friendship.friendship_token.clone(),
        client: QueuingClient { auth_key: key.verifying_key(), queue_key, push_token: None },
    };
    let (network, domain) = (&alice.client.0.network, alice.id().domain);
    network.call::<call::QsCreateUser>(&domain, Isolation::Anonymous, Sender::Nobody, &request).await.unwrap();
    for user in [&bob, &alice, &bob] {
        user.client.sync().await.unwrap();
    }
    alice.say(&chat, "welcome back").await;
    assert_eq!(bob.hear().await, [said("Alice", "welcome back")]);
    let group = alice.client.create_group("Trip").await.unwrap();
    alice.client.invite(&group, &[bob.id()]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_removed_and_added_again_while_a_message_was_on_its_way_is_told_so() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    befriend(&alice, &bob).await;
    let group = alice.client.create_group("Trip").await.unwrap();
    alice.client.invite(&group, &[bob.id()]).await.unwrap();
    bob.client.sync().await.unwrap();
    *server.handler.hang_at.lock().unwrap() = Some(Method::DsSendMessage);
    *server.handler.hang.lock().unwrap() = Some(Hang { after: 0, carried_out: false });
    let sending = tokio::spawn({
        let (client, group) = (bob.client.clone(), group.clone());
        async move { client.send(&group, Content::Text("on its way".into())).await }
    });
    server.handler.hung.notified().await;
    alice.client.remove(&group, &[bob.id()]).await.unwrap();
    alice.client.invite(&group, &[bob.id()]).await.unwrap();
    // As one that listens does meanwhile: when the answer comes it is a member again, by another leaf.
    bob.client.0.drain(Queue::Client).await.unwrap();
    server.kill().await;
    let error = sending.await.unwrap().unwrap_err();
    assert_eq!(error.status(), "invalid", "{error}");
    assert!(error.to_string().contains("removed from this chat and added again"), "{error}");
    bob.say(&group, "again").await;
    assert_eq!(alice.hear().await, [said("Bob", "again")]);
}
