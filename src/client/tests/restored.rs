//! A homeserver that is destroyed and restored from a backup: nobody is stuck, nobody hears what is not meant for it, what is lost
//! is what came after the backup, and each client says so.

use super::*;
use crate::{
    base::UserId,
    client::{commit::Intent, state::chats::ChatState},
    crypto::credential::is_renewal_of,
    store::Limit,
};

/// The same people in the same group, on one homeserver or on several.
struct People {
    servers: Vec<Arc<Homeserver>>,
    alice: User,
    bob: User,
    carol: User,
    dave: User,
    group: GroupId,
    /// Alice's chats with Bob and with Carol.
    chats: [GroupId; 2],
}

impl People {
    async fn meet(servers: Vec<Arc<Homeserver>>) -> Self {
        let at = |number: usize| &servers[number % servers.len()];
        let (alice, bob) = (at(0).register("Alice").await, at(1).register("Bob").await);
        let (carol, dave) = (at(2).register("Carol").await, at(3).register("Dave").await);
        let chats = [befriend(&alice, &bob).await, befriend(&alice, &carol).await];
        let group = alice.client.create_group("Trip").await.unwrap();
        alice.client.invite(&group, &[bob.id(), carol.id()]).await.unwrap();
        let people = Self { servers, alice, bob, carol, dave, group, chats };
        people.settle().await;
        for user in people.all() {
            user.no_problems().await;
        }
        people
    }

    fn all(&self) -> [&User; 4] {
        [&self.alice, &self.bob, &self.carol, &self.dave]
    }

    /// Everybody syncs until nothing happens any more.
    async fn settle(&self) {
        for _ in 0..4 {
            delivered(&self.servers).await;
            for user in self.all() {
                user.client.sync().await.unwrap_or_else(|error| panic!("{}: {error}", user.id()));
            }
        }
    }

    /// Each says something in a chat, and all others hear it, and nothing else.
    async fn talk(&self, chat: &GroupId, members: &[&User]) {
        for user in members {
            user.read().await;
        }
        for speaker in members {
            let name = speaker.client.whoami().1;
            speaker.say(chat, &format!("{name} is here")).await;
            delivered(&self.servers).await;
            for listener in members.iter().filter(|user| user.id() != speaker.id()) {
                let heard = listener.hear().await;
                assert_eq!(heard, [said(&name, &format!("{name} is here"))], "{}", listener.client.whoami().1);
            }
        }
    }
}

async fn delivered(servers: &[Arc<Homeserver>]) {
    for server in servers {
        server.delivered().await;
    }
}

async fn members(user: &User, group: &GroupId) -> Vec<UserId> {
    let members = user.client.members(group).await.unwrap().into_iter();
    let mut members: Vec<_> = members.filter_map(|member| member.user).collect();
    members.sort();
    members
}

fn sorted<const N: usize>(users: [&User; N]) -> Vec<UserId> {
    let mut users: Vec<_> = users.iter().map(|user| user.id()).collect();
    users.sort();
    users
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_the_backup_goes_on_and_what_came_after_it_is_told_to_be_lost() {
    let people = People::meet(vec![Homeserver::start().await]).await;
    let People { servers, alice, bob, carol, dave, group, chats } = &people;
    let server = &servers[0];
    alice.say(group, "in the backup").await;
    let backup = server.backup();

    // After the backup: everything that can change.
    assert_eq!(bob.hear().await, [said("Alice", "in the backup")]);
    bob.say(group, "after the backup").await;
    alice.client.remove(group, &[carol.id()]).await.unwrap();
    let after = befriend(alice, dave).await;
    alice.client.invite(group, &[dave.id()]).await.unwrap();
    people.settle().await;
    bob.client.0.change(group, Intent::Renew).await.unwrap();
    let second = alice.client.create_group("Second").await.unwrap();
    alice.client.invite(&second, &[bob.id()]).await.unwrap();
    alice.client.set_name("Alicia").await.unwrap();
    let identity = bob.client.0.account().keys.identity.verifying_key();
    bob.client.0.renew_credential().await.unwrap();
    assert_ne!(bob.client.0.account().keys.identity.verifying_key(), identity);
    let erin = server.register("Erin").await;
    people.settle().await;
    assert_eq!(members(alice, group).await, sorted([alice, bob, dave]));
    for user in people.all() {
        user.read().await;
    }

    server.restore(&backup).await;
    people.settle().await;

    for user in people.all() {
        assert!(user.problem("restored from a backup").await, "{}", user.id());
    }
    // Carol was removed after the backup, of which the homeserver knows nothing: those who do remove her again.
    for user in [alice, bob] {
        assert_eq!(members(user, group).await, sorted([alice, bob]), "{}", user.id());
    }
    assert_eq!(carol.state(group).await, ChatState::Removed);
    people.talk(group, &[alice, bob]).await;
    people.talk(&chats[0], &[alice, bob]).await;
    people.talk(&chats[1], &[alice, carol]).await;
    // What was made after the backup is over, and can be made again.
    for (user, chat) in [(alice, &after), (dave, &after), (alice, &second), (bob, &second), (dave, group)] {
        assert_eq!(user.state(chat).await, ChatState::Removed, "{} in {chat}", user.id());
        assert!(user.problem("does not have this client in it any more").await, "{}", user.id());
    }
    // The AS has certified Bob's key once more, and nobody takes him for somebody else.
    assert!(!alice.problem("another identity key").await);
    let error = erin.client.sync().await.unwrap_err();
    assert!(error.is_unproven(), "{error}");
    let again = befriend(alice, dave).await;
    alice.client.invite(group, &[dave.id()]).await.unwrap();
    people.settle().await;
    people.talk(&again, &[alice, dave]).await;
    people.talk(group, &[alice, bob, dave]).await;
    // The name is told again.
    assert!(bob.client.members(group).await.unwrap().iter().any(|member| member.name == "Alicia"));
    let left = bob.client.0.database.run(crate::client::state::outbox::chores).await.unwrap();
    assert_eq!(left.len(), 0, "{}", left.len());
    // Of each client there is a full set of KeyPackages, all of them made since.
    let packages = server.store().durable().scan(Table::QsKeyPackages, Key::new().., Limit::rows(1_000)).await.unwrap();
    assert!(packages.len() >= 4 * 20, "{}", packages.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_another_homeserver_arrives_once_whether_or_not_it_had_arrived_before_the_restore() {
    let world = World::of_many();
    let servers = world.start_all(["a.test", "b.test", "c.test", "d.test"]).await;
    let people = People::meet(servers.to_vec()).await;
    let People { servers, alice, bob, carol, group, .. } = &people;
    let [a, b, c] = [&servers[0], &servers[1], &servers[2]];
    world.set_down(&b.domain, true);
    world.set_down(&c.domain, true);
    alice.say(group, "in the backup").await;
    let backup = a.backup();
    // One homeserver gets it before the disaster, and more; the other does not.
    world.set_down(&b.domain, false);
    a.delivered_to(&b.domain).await;
    alice.say(group, "after the backup").await;
    a.delivered_to(&b.domain).await;
    a.restore(&backup).await;
    world.set_down(&c.domain, false);
    people.settle().await;
    assert_eq!(bob.read().await, [said("Alice", "in the backup"), said("Alice", "after the backup")]);
    assert_eq!(carol.read().await, [said("Alice", "in the backup")]);
    people.talk(group, &[alice, bob, carol]).await;
    // What goes out now is of the new life, and arrives once too.
    assert!(!bob.problem("secret reuse").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_certified_anew_after_the_backup_proves_to_be_the_same_however_often_and_by_whom() {
    // Whether a root is rotated, or an intermediate, or nothing.
    for (renewals, rotated) in [(1, Some(false)), (1, Some(true)), (2, None), (3, Some(true))] {
        for many in [false, true] {
            println!("{renewals} renewals, root rotated: {rotated:?}, on several homeservers: {many}");
            let servers = if many {
                World::of_many().start_all(["a.test", "b.test", "c.test", "d.test"]).await.to_vec()
            } else {
                vec![Homeserver::start().await]
            };
            let people = People::meet(servers).await;
            let People { servers, alice, bob, carol, group, chats, .. } = &people;
            let server = &servers[1 % servers.len()];
            let backup = server.backup();
            if let Some(root) = rotated {
                server.rotate(root).await;
            }
            // So that nobody has to wait for a minute, as between two questions to a homeserver that is not one's own.
            for user in people.all() {
                user.client.0.fetch_authority(&server.domain).await.unwrap();
            }
            for _ in 0..renewals {
                bob.client.0.renew_credential().await.unwrap();
                people.settle().await;
            }
            people.talk(group, &[alice, bob, carol]).await;
            let before = bob.client.0.account().credential.clone();

            server.restore(&backup).await;
            people.settle().await;

            let after = bob.client.0.account().credential.clone();
            // Where the signer is still known the same key is certified once more, and else a fresh one that it has signed for.
            if rotated.is_none() {
                assert_eq!(after, before);
            } else {
                assert!(is_renewal_of(&after.request, &before));
            }
            for user in [alice, carol] {
                assert!(!user.problem("another identity key").await, "{}", user.id());
            }
            people.talk(group, &[alice, bob, carol]).await;
            people.talk(&chats[0], &[alice, bob]).await;
            assert_eq!(members(alice, group).await, sorted([alice, bob, carol]));
            // It goes on from there as always.
            bob.client.0.renew_credential().await.unwrap();
            people.settle().await;
            people.talk(group, &[alice, bob, carol]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_elsewhere_of_a_group_that_went_back_in_time_come_back_into_it() {
    for first in ["who has moved on", "who has not"] {
        println!("the first to speak after the restore is one {first}");
        let servers = World::of_many().start_all(["a.test", "b.test", "c.test", "d.test"]).await;
        let people = People::meet(servers.to_vec()).await;
        let People { servers, alice, bob, carol, dave, group, .. } = &people;
        let backup = servers[0].backup();
        // Bob goes on, and renews what proves him; Carol does not hear of it.
        bob.client.0.change(group, Intent::Renew).await.unwrap();
        delivered(servers).await;
        alice.client.sync().await.unwrap();
        bob.say(group, "after the backup").await;
        let second = alice.client.create_group("Second").await.unwrap();
        alice.client.invite(&second, &[bob.id()]).await.unwrap();
        delivered(servers).await;
        for user in [alice, bob] {
            user.client.sync().await.unwrap();
            user.read().await;
        }
        servers[0].restore(&backup).await;
        // The queues of the others are on homeservers that were not restored: a day later at the latest they learn of it.
        if first == "who has moved on" {
            bob.say(group, "can you hear me?").await;
        } else {
            carol.client.0.change(group, Intent::Update).await.unwrap();
            carol.say(group, "can you hear me?").await;
            // The DS is in an epoch of the same number as he is. He comes back, and then he is heard.
            assert_eq!(alice.epoch(group).await, bob.epoch(group).await);
            bob.say(group, "I was elsewhere").await;
            delivered(servers).await;
            assert_eq!(alice.hear().await.last(), Some(&said("Bob", "I was elsewhere")));
        }
        people.settle().await;
        for user in people.all() {
            user.client.0.fetch_authority(&"a.test".parse().unwrap()).await.unwrap();
        }
        people.settle().await;
        people.talk(group, &[alice, bob, carol]).await;
        for user in [alice, bob] {
            assert_eq!(user.state(&second).await, ChatState::Removed);
        }
        assert!(bob.problem("a.test was restored from a backup").await);
        assert_eq!(dave.client.chats().await.unwrap().len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_whose_homeserver_went_back_in_time_catch_up_with_groups_elsewhere() {
    let servers = World::of_many().start_all(["a.test", "b.test", "c.test", "d.test"]).await;
    let people = People::meet(servers.to_vec()).await;
    let People { servers, alice, bob, carol, group, chats, .. } = &people;
    alice.say(group, "in the backup").await;
    delivered(servers).await;
    let backup = servers[1].backup();
    bob.client.sync().await.unwrap();
    alice.client.rename(group, "Journey").await.unwrap();
    alice.say(group, "lost").await;
    delivered(servers).await;
    servers[1].restore(&backup).await;
    people.settle().await;
    assert_eq!(bob.read().await, [said("Alice", "in the backup")]);
    assert!(bob.problem("what came to the client queue after the backup").await);
    people.talk(group, &[alice, bob, carol]).await;
    people.talk(&chats[0], &[alice, bob]).await;
    let name = |chats: Vec<ChatView>| chats.into_iter().find(|view| view.chat == *group).unwrap().name;
    assert_eq!(name(bob.client.chats().await.unwrap()), "Journey");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_away_through_two_restores_gets_what_was_in_both_backups() {
    let people = People::meet(vec![Homeserver::start().await]).await;
    let People { servers, alice, bob, chats: [chat, _], .. } = &people;
    let server = &servers[0];
    alice.say(chat, "in the first backup").await;
    let backup = server.backup();
    alice.say(chat, "lost").await;
    server.restore(&backup).await;
    alice.client.sync().await.unwrap();
    alice.say(chat, "in the second backup").await;
    let backup = server.backup();
    alice.say(chat, "lost").await;
    server.restore(&backup).await;
    alice.client.sync().await.unwrap();
    alice.say(chat, "afterwards").await;
    let expected = ["in the first backup", "in the second backup", "afterwards"].map(|text| said("Alice", text));
    assert_eq!(bob.hear().await, expected);
    people.settle().await;
    people.talk(chat, &[alice, bob]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_listens_goes_on_listening_through_a_restore() {
    let people = People::meet(vec![Homeserver::start().await]).await;
    let People { servers, alice, bob, chats: [chat, _], .. } = &people;
    alice.say(chat, "in the backup").await;
    let backup = servers[0].backup();
    servers[0].restore(&backup).await;
    let mut events = bob.client.events();
    while !matches!(events.next().await, Some(Event::Message { .. })) {}
    assert_eq!(bob.read().await, [said("Alice", "in the backup")]);
    while events.next().await != Some(Event::Gap(Queue::Client)) {}
    alice.hear().await;
    alice.say(chat, "afterwards").await;
    while !matches!(events.next().await, Some(Event::Message { .. })) {}
    assert_eq!(bob.read().await, [said("Alice", "afterwards")]);
}
