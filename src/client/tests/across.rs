//! What people do together whose homeservers are different ones: everything that they do on one.

use std::sync::atomic::Ordering;

use super::{
    federation::{hands, start_on},
    tokens::Hands,
    *,
};
use crate::{
    base::limits::{SHARED_BODY_QUEUES, SHARED_BODY_SIZE},
    wire::{SenderId, method::call, queue::Dequeue},
};

/// In milliseconds.
const HOUR: u64 = 3_600_000;

struct People {
    world: Arc<World>,
    clock: Arc<Hands>,
    servers: [Arc<Homeserver>; 3],
    alice: User,
    bob: User,
    carol: User,
}

impl People {
    async fn meet() -> Self {
        let (world, clock) = (World::of_many(), hands());
        let servers = start_on(&world, &clock, ["a.test", "b.test", "c.test"]).await;
        Self::at(world, clock, servers).await
    }

    async fn at(world: Arc<World>, clock: Arc<Hands>, servers: [Arc<Homeserver>; 3]) -> Self {
        let (alice, bob) = (servers[0].register("Alice").await, servers[1].register("Bob").await);
        let carol = servers[2].register("Carol").await;
        Self { world, clock, servers, alice, bob, carol }
    }

    /// A group of Alice's, with all of them.
    async fn group(&self) -> GroupId {
        for other in [&self.bob, &self.carol] {
            befriend(&self.alice, other).await;
        }
        self.group_with(&[&self.bob, &self.carol]).await
    }

    /// A group of Alice's with contacts of hers.
    async fn group_with(&self, others: &[&User]) -> GroupId {
        let group = self.alice.client.create_group("Friends").await.unwrap();
        let ids: Vec<_> = others.iter().map(|user| user.id()).collect();
        self.alice.client.invite(&group, &ids).await.unwrap();
        self.delivered().await;
        for user in others {
            user.client.sync().await.unwrap();
            assert_eq!(user.state(&group).await, ChatState::Active);
        }
        self.sync().await;
        group
    }

    fn all(&self) -> [&User; 3] {
        [&self.alice, &self.bob, &self.carol]
    }

    /// Waits until no homeserver has anything for another.
    async fn delivered(&self) {
        for server in &self.servers {
            server.delivered().await;
        }
    }

    async fn sync(&self) {
        for _ in 0..2 {
            self.delivered().await;
            for user in self.all() {
                user.client.sync().await.unwrap();
            }
        }
    }

    /// Everybody says something, and everybody else hears it.
    async fn talk(&self, group: &GroupId) {
        for (speaker, name) in self.all().into_iter().zip(["Alice", "Bob", "Carol"]) {
            speaker.say(group, &format!("{name} is here")).await;
            self.delivered().await;
            for listener in self.all().into_iter().filter(|user| user.id() != speaker.id()) {
                let (heard, problems) = (listener.hear().await, listener.client.problems().await.unwrap());
                assert_eq!(heard, [said(name, &format!("{name} is here"))], "{problems:?}");
            }
        }
    }

    /// Somebody compares the own state of a group with the DS's.
    async fn compare(&self, user: &User, group: &GroupId) {
        let chore = state::outbox::Chore::Compare(group.clone());
        let add = move |connection: &rusqlite::Connection| state::outbox::add_chore(connection, &chore);
        user.client.0.database.run(add).await.unwrap();
        user.client.sync().await.unwrap();
    }

    async fn no_problems(&self) {
        for user in self.all() {
            user.no_problems().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contacts_on_two_homeservers_talk() {
    let people = People::meet().await;
    let (alice, bob) = (&people.alice, &people.bob);
    let chat = befriend(alice, bob).await;
    alice.say(&chat, "hello").await;
    people.delivered().await;
    assert_eq!(bob.hear().await, [said("Alice", "hello")]);
    bob.say(&chat, "hello yourself").await;
    people.delivered().await;
    assert_eq!(alice.hear().await, [said("Bob", "hello yourself")]);
    people.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_of_another_homeserver_becomes_a_contact() {
    let people = People::meet().await;
    let (alice, bob) = (&people.alice, &people.bob);
    bob.client.register_alias("bobby").await.unwrap();
    let chat = alice.client.connect_alias("bobby", &people.servers[1].domain).await.unwrap();
    bob.client.sync().await.unwrap();
    let request = bob.client.requests().await.unwrap().remove(0);
    bob.client.accept(&request.id).await.unwrap();
    alice.client.sync().await.unwrap();
    alice.say(&chat, "so it is you").await;
    people.delivered().await;
    assert_eq!(bob.hear().await, [said("Alice", "so it is you")]);
    people.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_three_homeservers_talks_and_changes() {
    let people = People::meet().await;
    let group = people.group().await;
    people.talk(&group).await;
    // A name that changes.
    people.bob.client.set_name("Robert").await.unwrap();
    people.sync().await;
    let members = people.carol.client.members(&group).await.unwrap();
    let name =
        |user: &User| members.iter().find(|member| member.user.as_ref() == Some(&user.id())).unwrap().name.clone();
    assert_eq!((name(&people.bob), name(&people.alice)), ("Robert".into(), "Alice".into()));
    // Somebody leaves, and the others go on.
    people.carol.client.leave(&group).await.unwrap();
    people.sync().await;
    assert_eq!(people.carol.state(&group).await, ChatState::Left);
    people.bob.say(&group, "she is gone").await;
    people.delivered().await;
    assert_eq!(people.alice.hear().await, [said("Robert", "she is gone")]);
    // Somebody is removed.
    people.alice.client.remove(&group, &[people.bob.id()]).await.unwrap();
    people.delivered().await;
    people.bob.client.sync().await.unwrap();
    assert_eq!(people.bob.state(&group).await, ChatState::Removed);
    people.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_another_homeserver_that_is_behind_comes_back() {
    let mut people = People::meet().await;
    let group = people.group().await;
    let (bob, copy) = people.bob.copied().await;
    people.bob = bob;
    people.alice.client.rename(&group, "Better friends").await.unwrap();
    people.delivered().await;
    people.bob.client.sync().await.unwrap();
    people.bob = people.bob.restored(copy).await;
    people.sync().await;
    people.sync().await;
    people.bob.read().await;
    people.talk(&group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_is_deleted_is_gone_from_groups_of_other_homeservers() {
    let people = People::meet().await;
    let group = people.group().await;
    people.carol.client.delete_account(PASSWORD).await.unwrap();
    for _ in 0..2 {
        people.delivered().await;
        people.alice.client.sync().await.unwrap();
        people.bob.client.sync().await.unwrap();
    }
    for user in [&people.alice, &people.bob] {
        let members = user.client.members(&group).await.unwrap();
        assert_eq!(members.len(), 2, "{members:?}");
    }
    people.alice.say(&group, "the two of us").await;
    people.delivered().await;
    assert_eq!(people.bob.hear().await, [said("Alice", "the two of us")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_of_another_homeserver_who_is_blocked_is_not_heard() {
    let people = People::meet().await;
    let (alice, bob) = (&people.alice, &people.bob);
    let chat = befriend(alice, bob).await;
    bob.client.block(&alice.id()).await.unwrap();
    alice.client.send(&chat, Content::Text("are you there?".into())).await.unwrap();
    people.delivered().await;
    assert!(bob.hear().await.is_empty());
    bob.client.unblock(&alice.id()).await.unwrap();
    alice.say(&chat, "and now?").await;
    people.delivered().await;
    assert_eq!(bob.hear().await, [said("Alice", "and now?")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_is_down_is_in_nobody_elses_way() {
    let people = People::meet().await;
    let group = people.group().await;
    let own = people.bob.server.register("Ben").await;
    let chat = befriend(&people.bob, &own).await;
    people.world.set_down(&people.servers[0].domain, true);
    // Bob's own homeserver, and Carol's, are there.
    own.say(&chat, "and here?").await;
    assert_eq!(people.bob.hear().await, [said("Ben", "and here?")]);
    befriend(&people.bob, &people.carol).await;
    people.world.set_down(&people.servers[0].domain, false);
    people.talk(&group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_another_homeserver_every_group_is_spoken_of_on_a_connection_of_its_own() {
    let people = People::meet().await;
    let (alice, bob) = (&people.alice, &people.bob);
    let chat = befriend(alice, bob).await;
    let group = alice.client.create_group("Friends").await.unwrap();
    alice.client.invite(&group, &[bob.id()]).await.unwrap();
    people.delivered().await;
    people.sync().await;
    // Only Bob does anything from here on, without a connection to begin with.
    people.world.dialled();
    for server in &people.servers {
        server.handler.disconnect();
    }
    bob.say(&chat, "to you").await;
    bob.say(&group, "to all of you").await;
    let home = &people.servers[0].domain;
    let mut roles: Vec<_> =
        people.world.dialled().into_iter().filter(|(to, _)| to == home).map(|(_, role)| role).collect();
    roles.retain(|role| !matches!(role, Isolation::Anonymous | Isolation::Identity));
    roles.sort_by_key(|role| *role == Isolation::RemoteDelivery(group.clone()));
    assert_eq!(roles, [Isolation::RemoteDelivery(chat), Isolation::RemoteDelivery(group)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_welcome_from_a_homeserver_that_is_down_waits_and_so_does_what_follows_it() {
    let people = People::meet().await;
    let (alice, bob) = (&people.alice, &people.bob);
    befriend(alice, bob).await;
    let ben = people.servers[1].register("Ben").await;
    let here = befriend(&ben, bob).await;
    let group = alice.client.create_group("Friends").await.unwrap();
    alice.client.invite(&group, &[bob.id()]).await.unwrap();
    let told: Vec<_> = (0..60).map(|number| format!("welcome {number}")).collect();
    for text in &told {
        alice.client.send(&group, Content::Text(text.as_str().into())).await.unwrap();
    }
    people.delivered().await;
    people.world.set_down(&people.servers[0].domain, true);
    ben.say(&here, "in between").await;
    assert_eq!(bob.hear().await, [said("Ben", "in between")]);
    assert!(bob.client.chats().await.unwrap().iter().all(|view| view.chat != group));
    people.world.set_down(&people.servers[0].domain, false);
    people.clock.0.fetch_add(3 * 60_000, Ordering::SeqCst);
    let heard: Vec<_> = told.iter().map(|text| said("Alice", text)).collect();
    assert_eq!(bob.hear().await, heard);
    assert_eq!(bob.state(&group).await, ChatState::Active);
    bob.say(&group, "thank you").await;
    assert_eq!(alice.hear().await, [said("Bob", "thank you")]);
    bob.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn homeservers_whose_clocks_are_hours_apart_deliver_all_that_waited_for_a_week() {
    let (world, clocks) = (World::of_many(), [hands(), hands(), hands()]);
    clocks[1].0.fetch_add(5 * HOUR, Ordering::SeqCst);
    clocks[2].0.fetch_sub(7 * HOUR, Ordering::SeqCst);
    let [a] = start_on(&world, &clocks[0], ["a.test"]).await;
    let [b] = start_on(&world, &clocks[1], ["b.test"]).await;
    let [c] = start_on(&world, &clocks[2], ["c.test"]).await;
    let people = People::at(world, clocks[0].clone(), [a, b, c]).await;
    let group = people.group().await;
    people.talk(&group).await;
    let b = people.servers[1].domain.clone();
    people.world.set_down(&b, true);
    for day in 0..7 {
        people.alice.say(&group, &format!("day {day}")).await;
        people.carol.say(&group, &format!("night {day}")).await;
        for clock in &clocks {
            clock.0.fetch_add(24 * HOUR, Ordering::SeqCst);
        }
        if day == 3 {
            people.alice.client.rename(&group, "Without Bob").await.unwrap();
        }
        people.carol.hear().await;
    }
    people.world.set_down(&b, false);
    people.delivered().await;
    let expected =
        (0..7).flat_map(|day| [said("Alice", &format!("day {day}")), said("Carol", &format!("night {day}"))]);
    assert_eq!(people.bob.hear().await, expected.collect::<Vec<_>>());
    people.alice.hear().await;
    people.talk(&group).await;
    people.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_still_on_its_way_from_another_homeserver_is_waited_for_and_nothing_is_lost() {
    let people = People::meet().await;
    let group = people.group().await;
    let (alice, bob) = (&people.alice, &people.bob);
    // Everybody reaches every homeserver, but Alice's reaches no other.
    people.world.set_mute(&people.servers[0].domain, true);
    alice.client.send(&group, Content::Text("before".into())).await.unwrap();
    alice.client.rename(&group, "Better friends").await.unwrap();
    alice.client.send(&group, Content::Text("after".into())).await.unwrap();
    // The group is in another epoch than Bob, who is not told why.
    let outcome = bob.client.send(&group, Content::Text("late".into())).await;
    assert!(matches!(outcome, Err(ClientError::Late(_))), "{outcome:?}");
    bob.client.sync().await.unwrap();
    bob.client.0.change(&group, Intent::Update).await.unwrap_err();
    people.world.set_mute(&people.servers[0].domain, false);
    people.delivered().await;
    assert_eq!(bob.hear().await, [said("Alice", "before"), said("Alice", "after")]);
    people.sync().await;
    assert_eq!(alice.hear().await, [said("Bob", "late")]);
    assert_eq!(bob.state(&group).await, ChatState::Active);
    people.carol.read().await;
    people.talk(&group).await;
    people.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unblocked_chat_of_another_homeserver_waits_for_what_is_on_its_way() {
    let people = People::meet().await;
    let (alice, bob) = (&people.alice, &people.bob);
    let chat = befriend(alice, bob).await;
    people.delivered().await;
    people.world.set_mute(&people.servers[0].domain, true);
    bob.client.block(&alice.id()).await.unwrap();
    alice.client.send(&chat, Content::Text("before".into())).await.unwrap();
    alice.client.0.change(&chat, Intent::Update).await.unwrap();
    alice.client.send(&chat, Content::Text("after".into())).await.unwrap();
    bob.client.unblock(&alice.id()).await.unwrap();
    bob.client.sync().await.unwrap();
    people.world.set_mute(&people.servers[0].domain, false);
    people.delivered().await;
    assert_eq!(bob.hear().await, [said("Alice", "before"), said("Alice", "after")]);
    people.sync().await;
    alice.read().await;
    bob.say(&chat, "here I am").await;
    assert_eq!(alice.hear().await, [said("Bob", "here I am")]);
    people.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_is_compared_when_all_is_delivered_or_after_a_day() {
    let people = People::meet().await;
    let group = people.group().await;
    let (alice, bob) = (&people.alice, &people.bob);
    let compare = async || people.compare(bob, &group).await;
    people.world.set_mute(&people.servers[0].domain, true);
    alice.client.send(&group, Content::Text("before".into())).await.unwrap();
    alice.client.rename(&group, "Better friends").await.unwrap();
    compare().await;
    people.clock.0.fetch_add(23 * HOUR, Ordering::SeqCst);
    compare().await;
    people.world.set_mute(&people.servers[0].domain, false);
    people.delivered().await;
    assert_eq!(bob.hear().await, [said("Alice", "before")]);
    people.sync().await;
    people.carol.read().await;
    people.no_problems().await;
    // A homeserver that never delivers is not waited for for ever.
    people.world.set_mute(&people.servers[0].domain, true);
    alice.client.rename(&group, "Friends").await.unwrap();
    compare().await;
    bob.no_problems().await;
    people.clock.0.fetch_add(25 * HOUR, Ordering::SeqCst);
    bob.client.sync().await.unwrap();
    let problems = bob.client.problems().await.unwrap();
    assert!(problems.iter().any(|(_, problem)| problem.contains("rejoined")), "{problems:?}");
    people.world.set_mute(&people.servers[0].domain, false);
    people.sync().await;
    people.talk(&group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_not_waited_for_once_nothing_has_waited_for_as_long() {
    let mut people = People::meet().await;
    let group = people.group().await;
    let other = people.group_with(&[&people.bob]).await;
    let (bob, copy) = people.bob.copied().await;
    people.bob = bob;
    people.alice.client.rename(&group, "Better friends").await.unwrap();
    people.delivered().await;
    people.bob.client.sync().await.unwrap();
    // He does not know what has happened, and his queue does not tell him any more.
    people.bob = people.bob.restored(copy).await;
    let home = &people.servers[0].domain;
    let (alice, bob) = (&people.alice, &people.bob);
    // Between the two homeservers there is always something on its way.
    people.world.set_mute(home, true);
    alice.client.send(&other, Content::Text("one".into())).await.unwrap();
    let late = bob.client.0.resync(&group, resync::Reason::Missing).await;
    assert!(matches!(late, Err(ClientError::Late(_))), "it may be what he misses: {late:?}");
    people.world.set_mute(home, false);
    people.delivered().await;
    people.clock.0.fetch_add(60_000, Ordering::SeqCst);
    people.world.set_mute(home, true);
    alice.client.send(&other, Content::Text("two".into())).await.unwrap();
    // Nothing waits for as long as he has missed it.
    bob.client.0.resync(&group, resync::Reason::Missing).await.unwrap();
    people.world.set_mute(home, false);
    people.sync().await;
    people.sync().await;
    bob.read().await;
    people.talk(&group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_removed_while_the_news_is_on_its_way_hears_what_was_said_before() {
    let people = People::meet().await;
    let group = people.group().await;
    let (alice, bob) = (&people.alice, &people.bob);
    people.world.set_mute(&people.servers[0].domain, true);
    alice.client.send(&group, Content::Text("before".into())).await.unwrap();
    alice.client.remove(&group, &[bob.id()]).await.unwrap();
    people.compare(bob, &group).await;
    assert_eq!(bob.state(&group).await, ChatState::Active, "the DS does not know him, and he does not know why");
    people.world.set_mute(&people.servers[0].domain, false);
    people.delivered().await;
    assert_eq!(bob.hear().await, [said("Alice", "before")]);
    assert_eq!(bob.state(&group).await, ChatState::Removed);
    people.no_problems().await;
    // Not for ever.
    let chat = people.group_with(&[bob]).await;
    people.world.set_mute(&people.servers[0].domain, true);
    alice.client.remove(&chat, &[bob.id()]).await.unwrap();
    people.compare(bob, &chat).await;
    people.clock.0.fetch_add(25 * HOUR, Ordering::SeqCst);
    people.compare(bob, &chat).await;
    assert_eq!(bob.state(&chat).await, ChatState::Removed);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_to_be_removed_comes_back_when_all_that_was_said_has_arrived() {
    let (world, clock) = (World::of_many(), hands());
    // OpenMLS has a clock of its own, which must not be behind.
    clock.0.fetch_sub(100 * 24 * HOUR, Ordering::SeqCst);
    let servers = start_on(&world, &clock, ["a.test", "b.test", "c.test"]).await;
    let people = People::at(world, clock, servers).await;
    let group = people.group().await;
    let other = people.group_with(&[&people.bob]).await;
    let (alice, bob) = (&people.alice, &people.bob);
    people.clock.0.fetch_add(91 * 24 * HOUR, Ordering::SeqCst);
    // Only this one commit: what the DS proposes then, to remove those who were silent for so long, waits.
    alice.client.0.change(&group, Intent::Update).await.unwrap();
    people.delivered().await;
    bob.client.0.drain(Queue::Client).await.unwrap();
    let home = &people.servers[0].domain;
    for text in ["one", "two"] {
        people.world.set_mute(home, true);
        alice.client.send(&other, Content::Text(text.into())).await.unwrap();
        let doomed = bob.client.0.change(&group, Intent::Update).await;
        assert!(matches!(doomed, Err(ClientError::Late(_))), "{doomed:?}");
        people.world.set_mute(home, false);
        people.delivered().await;
        people.clock.0.fetch_add(60_000, Ordering::SeqCst);
    }
    bob.say(&group, "I am still here").await;
    people.sync().await;
    assert!(alice.hear().await.contains(&said("Bob", "I am still here")));
    assert_eq!(bob.state(&group).await, ChatState::Active);
    assert_eq!(bob.hear().await, [said("Alice", "one"), said("Alice", "two")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_renewed_a_leaf_and_never_gets_the_commit_back_comes_back_with_the_new_key() {
    let people = People::meet().await;
    let group = people.group().await;
    let bob = &people.bob;
    people.world.set_mute(&people.servers[0].domain, true);
    let of = group.clone();
    bob.client.0.database.run(move |connection| state::chats::set_stale(connection, &of)).await.unwrap();
    let renew = tokio::time::timeout(Duration::from_secs(2), bob.client.0.change(&group, Intent::Renew)).await;
    renew.unwrap_err();
    people.world.set_mute(&people.servers[0].domain, false);
    people.delivered().await;
    // His queue is emptied by somebody who has his key and forgets what was in it.
    let core = &bob.client.0;
    let (sender, key) = (SenderId::QsClient(core.account().pseudonym), &core.account().keys.queuing_client);
    let mut look = Dequeue { incarnation: [0; 16], start: 0, max: 0 };
    for _ in 0..2 {
        let sender = network::Sender::Bound(sender.clone(), key);
        let found = core.network.call::<call::QsDequeue>(core.domain(), Isolation::Pseudonym, sender, &look).await;
        let found = found.unwrap();
        look = Dequeue { incarnation: found.incarnation, start: found.head, max: 0 };
    }
    people.sync().await;
    people.sync().await;
    assert_eq!(bob.state(&group).await, ChatState::Active);
    for user in people.all() {
        user.read().await;
    }
    people.talk(&group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_comes_back_late_from_another_homeserver_is_waited_for() {
    let people = People::meet().await;
    let group = people.group().await;
    let (alice, bob) = (&people.alice, &people.bob);
    people.world.set_mute(&people.servers[0].domain, true);
    let of = group.clone();
    bob.client.0.database.run(move |connection| state::chats::set_stale(connection, &of)).await.unwrap();
    // With another key, that his leaf has at the DS at once, and here when the commit comes back.
    let renew = tokio::time::timeout(Duration::from_secs(2), bob.client.0.change(&group, Intent::Renew)).await;
    renew.unwrap_err();
    for _ in 0..2 {
        let outcome = bob.client.send(&group, Content::Text("not now".into())).await;
        assert!(matches!(outcome, Err(ClientError::Late(_))), "{outcome:?}");
        let renew = bob.client.0.change(&group, Intent::Renew).await;
        assert!(matches!(renew, Err(ClientError::Late(_))), "{renew:?}");
        people.compare(bob, &group).await;
    }
    people.world.set_mute(&people.servers[0].domain, false);
    people.sync().await;
    alice.read().await;
    people.carol.read().await;
    people.talk(&group).await;
    people.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_stored_apart_waits_for_the_welcome_before_it() {
    let people = People::meet().await;
    let (alice, bob) = (&people.alice, &people.bob);
    let mut invited = vec![bob.id()];
    befriend(alice, bob).await;
    let mut others = Vec::new();
    for number in 0..SHARED_BODY_QUEUES {
        others.push(people.servers[1].register(&format!("Ben {number}")).await);
        befriend(alice, &others[number]).await;
        invited.push(others[number].id());
    }
    let group = alice.client.create_group("Friends").await.unwrap();
    alice.client.invite(&group, &invited).await.unwrap();
    let long = "long ".repeat(SHARED_BODY_SIZE);
    alice.client.send(&group, Content::Text(long.as_str().into())).await.unwrap();
    people.delivered().await;
    people.world.set_down(&people.servers[0].domain, true);
    assert_eq!(bob.hear().await, []);
    people.world.set_down(&people.servers[0].domain, false);
    people.clock.0.fetch_add(3 * 60_000, Ordering::SeqCst);
    assert_eq!(bob.hear().await, [said("Alice", &long)]);
    bob.no_problems().await;
}
