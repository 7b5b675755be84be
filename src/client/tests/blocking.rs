//! Blocking: what a blocked user can still do, and what others notice.

use super::*;
use crate::client::state::outbox;

async fn unblocked_chat_works(alice: &User, bob: &User, chat: &GroupId) {
    for _ in 0..2 {
        alice.client.sync().await.unwrap();
        bob.client.sync().await.unwrap();
    }
    alice.read().await;
    alice.say(chat, "hello again").await;
    assert_eq!(bob.hear().await, [said("Alice", "hello again")]);
    bob.say(chat, "at last").await;
    assert_eq!(alice.hear().await, [said("Bob", "at last")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_heard_of_a_blocked_user_who_is_not_told() {
    let server = Homeserver::start().await;
    let [alice, bob, carol] =
        [server.register("Alice").await, server.register("Bob").await, server.register("Carol").await];
    let chat = befriend(&bob, &alice).await;
    let with_carol = befriend(&alice, &carol).await;
    befriend(&bob, &carol).await;
    let group = carol.client.create_group("Trip").await.unwrap();
    carol.client.invite(&group, &[alice.id(), bob.id()]).await.unwrap();
    alice.client.sync().await.unwrap();
    bob.client.sync().await.unwrap();

    assert_eq!(alice.client.block(&alice.id()).await.unwrap_err().status(), "invalid");
    alice.client.block(&bob.id()).await.unwrap();
    alice.client.block(&bob.id()).await.unwrap();
    assert_eq!(alice.client.blocked().await.unwrap(), [bob.id()]);
    assert_eq!(alice.state(&chat).await, ChatState::Blocked);
    assert_eq!(alice.client.send(&chat, Content::Text("?".into())).await.unwrap_err().status(), "invalid");

    // He sees no difference: neither in the chat, nor in a group.
    bob.say(&chat, "are you angry?").await;
    bob.say(&group, "is she?").await;
    assert_eq!(carol.hear().await, [said("Bob", "is she?")]);
    assert_eq!(alice.hear().await, []);
    carol.say(&group, "leave her alone").await;
    alice.say(&group, "thank you").await;
    assert_eq!(alice.hear().await, [said("Carol", "leave her alone")], "the group goes on");
    assert_eq!(bob.hear().await, [said("Carol", "leave her alone"), said("Alice", "thank you")]);
    // He cannot add her, while others can: they have been given the new token.
    let trap = bob.client.create_group("Trap").await.unwrap();
    assert_eq!(bob.client.invite(&trap, &[alice.id()]).await.unwrap_err().status(), "not_found");
    let party = carol.client.create_group("Party").await.unwrap();
    carol.client.invite(&party, &[alice.id()]).await.unwrap();
    alice.client.sync().await.unwrap();
    assert_eq!(alice.state(&party).await, ChatState::Active);
    carol.say(&with_carol, "come!").await;
    assert_eq!(alice.hear().await, [said("Carol", "come!")], "the token is not shown as a message");
    alice.no_problems().await;

    assert_eq!(alice.client.unblock(&carol.id()).await.unwrap_err().status(), "not_found");
    alice.client.unblock(&bob.id()).await.unwrap();
    unblocked_chat_works(&alice, &bob, &chat).await;
    // He has the token again.
    bob.client.invite(&trap, &[alice.id()]).await.unwrap();
    alice.client.sync().await.unwrap();
    assert_eq!(alice.state(&trap).await, ChatState::Active);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_that_changed_while_it_was_blocked_is_caught_up_with() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = befriend(&bob, &alice).await;
    alice.client.block(&bob.id()).await.unwrap();
    // His leaf gets another key, in a commit that she does not see.
    bob.client.set_name("Robert").await.unwrap();
    alice.client.sync().await.unwrap();
    alice.client.unblock(&bob.id()).await.unwrap();
    for _ in 0..2 {
        alice.client.sync().await.unwrap();
        bob.client.sync().await.unwrap();
    }
    alice.say(&chat, "hello again").await;
    assert_eq!(bob.hear().await, [said("Alice", "hello again")]);
    bob.say(&chat, "at last").await;
    assert_eq!(alice.hear().await, [said("Robert", "at last")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_and_late_invitations_of_a_blocked_user_are_ignored() {
    let server = Homeserver::start().await;
    let (alice, bob, carol) =
        (server.register("Alice").await, server.register("Bob").await, server.register("Carol").await);
    // An offer that waits, and one that comes later.
    carol.client.connect(&alice.id()).await.unwrap();
    alice.client.sync().await.unwrap();
    assert_eq!(alice.client.requests().await.unwrap().len(), 1);
    alice.client.block(&carol.id()).await.unwrap();
    assert_eq!(alice.client.requests().await.unwrap(), []);
    let dave = server.register("Dave").await;
    alice.client.block(&dave.id()).await.unwrap();
    dave.client.connect(&alice.id()).await.unwrap();
    alice.client.sync().await.unwrap();
    assert_eq!(alice.client.requests().await.unwrap(), []);

    // A Welcome that was made before the block, and is fetched after it.
    befriend(&bob, &alice).await;
    let group = bob.client.create_group("Trap").await.unwrap();
    bob.client.invite(&group, &[alice.id()]).await.unwrap();
    alice.client.block(&bob.id()).await.unwrap();
    alice.client.sync().await.unwrap();
    assert!(alice.client.chats().await.unwrap().iter().all(|view| view.chat != group));
    bob.say(&group, "I can see you").await;
    assert_eq!(alice.hear().await, []);
    alice.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_was_interrupted_anywhere_is_completed() {
    for carried_out in [false, true] {
        for after in 0..12 {
            let server = Homeserver::start().await;
            let [alice, bob, carol] =
                [server.register("Alice").await, server.register("Bob").await, server.register("Carol").await];
            let chat = befriend(&bob, &alice).await;
            befriend(&carol, &alice).await;
            let user = bob.id();
            let block = move |client: Client| async move { _ = client.block(&user).await };
            let (alice, stopped) = alice.stopped(Hang { after, carried_out }, block).await;
            alice.client.sync().await.unwrap();
            assert!(alice.client.0.database.run(outbox::chores).await.unwrap().is_empty());
            bob.say(&chat, "hello?").await;
            assert_eq!(alice.hear().await, []);
            let trap = bob.client.create_group("Trap").await.unwrap();
            assert_eq!(bob.client.invite(&trap, &[alice.id()]).await.unwrap_err().status(), "not_found");
            let party = carol.client.create_group("Party").await.unwrap();
            carol.client.invite(&party, &[alice.id()]).await.unwrap();
            if !stopped {
                assert!(after > 2, "there is more than one request to interrupt");
                break;
            }
        }
    }
}
