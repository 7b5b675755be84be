//! Groups over their life: members leave, are appointed, lose their state and come back.

use super::*;
use crate::client::resync::Reason;
use crate::{
    client::{
        mls::Provider,
        state::{chats, queues::Queue},
    },
    crypto::mls as protocol,
};
use openmls::prelude::OpenMlsProvider as _;

async fn group_of(server: &Arc<Homeserver>, names: &[&str]) -> (Vec<User>, GroupId) {
    let mut users = Vec::new();
    for name in names {
        users.push(server.register(name).await);
    }
    let (first, others) = users.split_first().unwrap();
    for other in others {
        befriend(first, other).await;
    }
    let group = first.client.create_group("Trip").await.unwrap();
    let ids: Vec<_> = others.iter().map(User::id).collect();
    first.client.invite(&group, &ids).await.unwrap();
    for other in others {
        other.client.sync().await.unwrap();
    }
    (users, group)
}

impl User {
    async fn names(&self, group: &GroupId) -> Vec<String> {
        self.client.members(group).await.unwrap().into_iter().map(|member| member.name).collect()
    }

    async fn admins(&self, group: &GroupId) -> Vec<String> {
        let members = self.client.members(group).await.unwrap();
        members.into_iter().filter(|member| member.admin).map(|member| member.name).collect()
    }

    pub(super) async fn epoch(&self, group: &GroupId) -> u64 {
        let group = group.clone();
        let database = &self.client.0.database;
        let load = move |connection: &rusqlite::Connection| mls::load(&Provider::new(connection), &group);
        database.run(load).await.unwrap().epoch().as_u64()
    }

    /// As after the loss of the device: the MLS state of a group is gone.
    async fn lose_state(&self, group: &GroupId) {
        let group = group.clone();
        let database = &self.client.0.database;
        database.run(move |connection| mls::delete(&Provider::new(connection), &group)).await.unwrap();
    }

    /// Everybody hears what one says, and is in the same epoch.
    pub(super) async fn agrees_with(&self, others: &[&Self], group: &GroupId, text: &str) {
        for user in std::iter::once(&self).chain(others) {
            user.client.sync().await.unwrap();
        }
        self.say(group, text).await;
        let me = self.client.whoami().1;
        for other in others {
            let heard = other.hear().await;
            assert_eq!(heard.last(), Some(&said(&me, text)), "{heard:?}");
            assert_eq!(other.epoch(group).await, self.epoch(group).await);
        }
    }
}

pub(super) fn status(outcome: Result<impl Sized, ClientError>) -> &'static str {
    match outcome {
        Ok(_) => "ok",
        Err(error) => error.status(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_leaves_and_the_next_commit_of_anybody_carries_it_out() {
    let server = Homeserver::start().await;
    let (users, group) = group_of(&server, &["Alice", "Bob", "Carol"]).await;
    let [alice, bob, carol] = &users[..] else { panic!() };
    carol.client.leave(&group).await.unwrap();
    assert_eq!(carol.state(&group).await, ChatState::Left);
    assert_eq!(status(carol.client.send(&group, Content::Text("bye".into())).await), "invalid");
    assert_eq!(status(carol.client.leave(&group).await), "invalid", "once");
    // Bob is no admin, and does it all the same: to speak he has to.
    bob.client.0.drain(Queue::Client).await.unwrap();
    bob.say(&group, "did she leave?").await;
    assert_eq!(alice.hear().await.last(), Some(&said("Bob", "did she leave?")));
    for user in [alice, bob] {
        assert_eq!(user.names(&group).await, ["Alice", "Bob"]);
        user.no_problems().await;
    }
    carol.client.sync().await.unwrap();
    carol.no_problems().await;
    // She can be invited again.
    alice.client.invite(&group, &[carol.id()]).await.unwrap();
    carol.client.sync().await.unwrap();
    assert_eq!(carol.state(&group).await, ChatState::Active);
    carol.agrees_with(&[alice, bob], &group, "back again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_to_speak_for_a_leave_to_be_carried_out() {
    let server = Homeserver::start().await;
    let (users, group) = group_of(&server, &["Alice", "Bob", "Carol"]).await;
    let [alice, bob, carol] = &users[..] else { panic!() };
    server.lose(Method::DsSelfRemove, 1);
    carol.client.leave(&group).await.unwrap();
    assert!(server.lost_all());
    tokio::join!(async { alice.client.sync().await.unwrap() }, async { bob.client.sync().await.unwrap() });
    alice.agrees_with(&[bob], &group, "and then there were two").await;
    assert_eq!(bob.names(&group).await, ["Alice", "Bob"]);
    for user in [alice, bob, carol] {
        user.no_problems().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_admin_names_another_before_it_leaves_and_with_the_last_member_the_group_ends() {
    let server = Homeserver::start().await;
    let (users, group) = group_of(&server, &["Alice", "Bob", "Carol"]).await;
    let [alice, bob, carol] = &users[..] else { panic!() };
    assert_eq!(status(alice.client.leave(&group).await), "forbidden");
    alice.say(&group, "I have to stay").await;
    assert_eq!(bob.hear().await, [said("Alice", "I have to stay")]);

    assert_eq!(status(bob.client.rename(&group, "Mutiny").await), "forbidden");
    assert_eq!(status(bob.client.add_admins(&group, &[bob.id()]).await), "forbidden");
    assert_eq!(status(alice.client.remove_admins(&group, &[alice.id()]).await), "forbidden", "nobody would be one");
    // Who has only joined may not have seen the group at all.
    assert_eq!(status(alice.client.add_admins(&group, &[carol.id()]).await), "forbidden");
    bob.client.0.change(&group, commit::Intent::Update).await.unwrap();
    alice.client.add_admins(&group, &[bob.id()]).await.unwrap();
    alice.client.rename(&group, "Journey").await.unwrap();
    for user in [alice, bob, carol] {
        user.client.sync().await.unwrap();
        assert_eq!(user.admins(&group).await, ["Alice", "Bob"]);
        let chats = user.client.chats().await.unwrap();
        assert_eq!(chats.iter().find(|chat| chat.chat == group).unwrap().name, "Journey");
    }
    alice.client.leave(&group).await.unwrap();
    assert_eq!(status(bob.client.leave(&group).await), "forbidden", "her leaving counts");
    bob.client.remove(&group, &[carol.id()]).await.unwrap();
    carol.client.sync().await.unwrap();
    assert_eq!(carol.state(&group).await, ChatState::Removed);
    assert_eq!(bob.names(&group).await, ["Bob"]);
    bob.client.leave(&group).await.unwrap();
    assert_eq!(server.dispatcher_count(crate::store::Table::DsHeads).await, 2, "the connections");
    bob.client.sync().await.unwrap();
    bob.no_problems().await;
}

impl Homeserver {
    async fn dispatcher_count(&self, table: crate::store::Table) -> u64 {
        self.dispatcher().count(table).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_leave_at_once_the_group_ends_for_all() {
    let server = Homeserver::start().await;
    let (users, group) = group_of(&server, &["Alice", "Bob", "Carol"]).await;
    let [alice, bob, carol] = &users[..] else { panic!() };
    carol.client.leave(&group).await.unwrap();
    // Alice is the only admin, and the only one who stays but Bob.
    assert_eq!(status(alice.client.leave(&group).await), "forbidden");
    bob.client.leave(&group).await.unwrap();
    alice.client.leave(&group).await.unwrap();
    assert_eq!(server.dispatcher_count(crate::store::Table::DsHeads).await, 2, "the connections");
    for user in [alice, bob, carol] {
        user.client.sync().await.unwrap();
        assert_eq!(user.state(&group).await, ChatState::Left);
        user.no_problems().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_lost_its_state_comes_back_by_itself() {
    let server = Homeserver::start().await;
    let (users, group) = group_of(&server, &["Alice", "Bob", "Carol"]).await;
    let [alice, bob, carol] = &users[..] else { panic!() };
    for lost_reply in [false, true] {
        for (loser, others) in [(bob, [alice, carol]), (alice, [bob, carol])] {
            loser.lose_state(&group).await;
            if lost_reply {
                server.lose(Method::DsResync, 1);
            }
            loser.client.0.resync(&group, Reason::Missing).await.unwrap();
            if lost_reply {
                assert!(server.lost_all());
            }
            loser.agrees_with(&others, &group, "here I am again").await;
            others[1].agrees_with(&[loser, others[0]], &group, "welcome back").await;
            let members = loser.client.members(&group).await.unwrap();
            assert!(members.len() == 3 && members.iter().all(|member| !member.quarantined), "{members:?}");
            assert_eq!(loser.admins(&group).await, ["Alice"], "an admin is one as before");
        }
    }
    // Nothing to do where nothing is lost.
    let before = alice.epoch(&group).await;
    alice.client.0.resync(&group, Reason::Missing).await.unwrap();
    assert_eq!(alice.epoch(&group).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_rolled_back_notices_when_it_speaks_or_is_spoken_to() {
    let server = Homeserver::start().await;
    let (users, group) = group_of(&server, &["Alice", "Bob", "Carol"]).await;
    let [alice, bob, carol] = &users[..] else { panic!() };
    for speaks in [true, false] {
        // A commit is processed and then forgotten.
        let old = bob.snapshot(&group).await;
        carol.client.0.change(&group, commit::Intent::Update).await.unwrap();
        bob.client.sync().await.unwrap();
        bob.restore(&group, old).await;
        if speaks {
            bob.say(&group, "am I here?").await;
            assert_eq!(alice.hear().await, [said("Bob", "am I here?")]);
        } else {
            alice.say(&group, "are you there?").await;
            bob.client.sync().await.unwrap();
        }
        alice.agrees_with(&[bob, carol], &group, "all here").await;
        bob.agrees_with(&[alice, carol], &group, "so it seems").await;
        let problems = bob.client.problems().await.unwrap();
        assert!(problems.iter().any(|(_, text)| text.contains("rejoined")), "{problems:?}");
    }
}

impl User {
    /// The MLS state of a group, as a copy of the database would have it.
    async fn snapshot(&self, group: &GroupId) -> Vec<(Vec<u8>, Vec<u8>, Vec<u8>)> {
        let key = serde_json::to_vec(&protocol::group_id(group)).unwrap();
        let read = move |connection: &rusqlite::Connection| {
            let sql = "SELECT group_id, data_type, group_data FROM openmls_group_data WHERE group_id = ?";
            let mut statement = connection.prepare(sql)?;
            let text = |row: &rusqlite::Row<'_>, at| row.get::<_, rusqlite::types::Value>(at);
            let rows = statement.query_map([key], |row| {
                let bytes = |value| match value {
                    rusqlite::types::Value::Text(text) => text.into_bytes(),
                    rusqlite::types::Value::Blob(bytes) => bytes,
                    other => panic!("{other:?}"),
                };
                Ok((bytes(text(row, 0)?), bytes(text(row, 1)?), bytes(text(row, 2)?)))
            })?;
            Ok::<_, ClientError>(rows.collect::<Result<Vec<_>, _>>()?)
        };
        self.client.0.database.run(read).await.unwrap()
    }

    async fn restore(&self, group: &GroupId, rows: Vec<(Vec<u8>, Vec<u8>, Vec<u8>)>) {
        assert!(!rows.is_empty());
        let key = serde_json::to_vec(&protocol::group_id(group)).unwrap();
        let write = move |connection: &rusqlite::Connection| {
            connection.execute("DELETE FROM openmls_group_data WHERE group_id = ?", [key])?;
            for (group, kind, data) in rows {
                let sql = "INSERT INTO openmls_group_data (provider_version, group_id, data_type, group_data) VALUES (1, ?, ?, ?)";
                connection.execute(sql, (group, String::from_utf8(kind).unwrap(), data))?;
            }
            Ok::<_, ClientError>(())
        };
        self.client.0.database.run(write).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_renewed_before_the_ds_takes_a_member_for_lost_and_who_is_lost_is_removed() {
    let clock = Arc::new(Later::default());
    let server = Homeserver::start_under(QueueLimits::default(), Policy::default(), clock.clone()).await;
    let (users, group) = group_of(&server, &["Alice", "Bob", "Carol"]).await;
    let [alice, bob, carol] = &users[..] else { panic!() };
    // Two months in which Carol is away, and Alice and Bob look in once a month.
    let before = alice.epoch(&group).await;
    for _ in 0..3 {
        clock.pass(31);
        alice.client.sync().await.unwrap();
        bob.client.sync().await.unwrap();
    }
    alice.client.sync().await.unwrap();
    let after = alice.epoch(&group).await;
    assert!(after >= before + 6, "a commit each, each month: {before} {after}");
    alice.no_problems().await;
    bob.no_problems().await;
    // The DS has proposed to remove Carol, and somebody has carried it out.
    alice.client.sync().await.unwrap();
    bob.agrees_with(&[alice], &group, "where is Carol?").await;
    assert_eq!(bob.names(&group).await, ["Alice", "Bob"]);
    carol.client.sync().await.unwrap();
    assert_eq!(carol.state(&group).await, ChatState::Removed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_removal_is_proposed_comes_back_when_it_is_there_again() {
    let clock = Arc::new(Later::default());
    let server = Homeserver::start_under(QueueLimits::default(), Policy::default(), clock.clone()).await;
    let (users, group) = group_of(&server, &["Alice", "Bob", "Carol"]).await;
    let [alice, bob, carol] = &users[..] else { panic!() };
    clock.pass(91);
    // Only this one commit: what the DS proposes then waits.
    alice.client.0.change(&group, commit::Intent::Update).await.unwrap();
    carol.client.0.drain(Queue::Client).await.unwrap();
    carol.say(&group, "I am still here").await;
    bob.client.0.drain(Queue::Client).await.unwrap();
    carol.agrees_with(&[alice], &group, "really").await;
    let names = alice.names(&group).await;
    assert!(names.contains(&"Carol".to_owned()), "{names:?}");
}

/// A clock that begins some time ago, and that days can be added to. OpenMLS has a clock of its own, which must not be behind.
#[derive(Default)]
pub(super) struct Later(std::sync::atomic::AtomicU64);

impl Later {
    pub(super) fn pass(&self, days: u64) {
        self.0.fetch_add(days * 86_400_000, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Clock for Later {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now().0 - 100 * 86_400_000 + self.0.load(std::sync::atomic::Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_members_table_follows_the_tree() {
    let server = Homeserver::start().await;
    let (users, group) = group_of(&server, &["Alice", "Bob"]).await;
    users[1].lose_state(&group).await;
    users[1].client.0.resync(&group, Reason::Missing).await.unwrap();
    users[0].client.sync().await.unwrap();
    for user in &users {
        let of = group.clone();
        let same = move |connection: &rusqlite::Connection| {
            let provider = Provider::new(connection);
            let state = mls::load(&provider, &of)?;
            let _ = provider.storage();
            let tree: Vec<_> = state.members().map(|member| (member.index.u32(), member.signature_key)).collect();
            let known = chats::members(connection, &of)?;
            let table: Vec<_> = known.iter().map(|member| (member.leaf, member.key.as_slice().to_vec())).collect();
            Ok::<_, ClientError>(tree == table && chats::require(connection, &of)?.leaf == state.own_leaf_index().u32())
        };
        assert!(user.client.0.database.run(same).await.unwrap());
    }
}
