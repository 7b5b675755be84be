//! Many clients at random: they talk, come, go, lose what they know, and the homeserver stops in between. In the end all
//! members of a group agree on who they are, where they are, and in which order they heard what. `BENNU_SEED` replays a
//! run; `BENNU_CLIENTS` and `BENNU_OPERATIONS` make it longer.

use std::{collections::HashMap, time::SystemTime};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

use super::*;
use crate::client::{
    commit::Intent,
    mls::Provider,
    state::outbox::{self, Chore},
};

/// Replies that get lost now and then.
const LOSSY: [Method; 9] = [
    Method::DsSendMessage,
    Method::DsAddUsers,
    Method::DsRemoveUsers,
    Method::DsUpdateClient,
    Method::DsUpdateGroupContext,
    Method::DsSelfRemove,
    Method::DsResync,
    Method::QsDequeue,
    Method::QsUpdateClient,
];

/// What an operation may be refused with: somebody else was first, or the one who asks may not.
const FAIR: [&str; 5] = ["forbidden", "invalid", "not_found", "already_exists", "untrusted"];

struct Random(ChaCha8Rng);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.0.next_u64() % end as u64).unwrap()
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

struct Model {
    server: Arc<Homeserver>,
    users: Vec<Option<User>>,
    groups: Vec<GroupId>,
    random: Random,
    /// What each client heard, in its order.
    heard: Vec<HashMap<GroupId, Vec<String>>>,
    said: usize,
    /// How often what was done, and refused.
    tally: HashMap<(&'static str, &'static str), usize>,
}

impl Model {
    async fn start(seed: u64, clients: usize) -> Self {
        let server = Homeserver::start().await;
        let mut users = Vec::new();
        for number in 0..clients {
            users.push(server.register(&format!("user {number}")).await);
        }
        for number in 1..clients {
            befriend(&users[0], &users[number]).await;
            if number / 2 > 0 {
                befriend(&users[number / 2], &users[number]).await;
            }
        }
        let heard = vec![HashMap::new(); clients];
        let random = Random(ChaCha8Rng::seed_from_u64(seed));
        let users = users.into_iter().map(Some).collect();
        Self { server, users, groups: Vec::new(), random, heard, said: 0, tally: HashMap::new() }
    }

    fn user(&self, at: usize) -> &User {
        self.users[at].as_ref().unwrap()
    }

    fn note(&mut self, what: &'static str, outcome: Result<impl Sized, ClientError>) -> bool {
        let status = match &outcome {
            Ok(_) => "ok",
            Err(error) => error.status(),
        };
        if let Err(error) = &outcome {
            assert!(FAIR.contains(&status), "{what}: {error}");
        }
        *self.tally.entry((what, status)).or_default() += 1;
        outcome.is_ok()
    }

    /// A group that a client is in.
    async fn group_of(&mut self, at: usize) -> Option<GroupId> {
        let chats = self.user(at).client.chats().await.unwrap();
        let active = |chat: &ChatView| chat.state == ChatState::Active && chat.kind == ChatKind::Group;
        let groups: Vec<_> = chats.into_iter().filter(active).map(|chat| chat.chat).collect();
        (!groups.is_empty()).then(|| self.random.pick(&groups))
    }

    async fn hear(&mut self, at: usize) -> bool {
        let outcome = self.user(at).client.sync().await;
        let done = self.note("sync", outcome);
        let unread = self.user(at).client.unread(100_000).await.unwrap();
        let numbers: Vec<_> = unread.iter().map(|message| message.id).collect();
        self.user(at).client.mark_read(&numbers).await.unwrap();
        for message in unread {
            if let Content::Text(text) = message.content {
                self.heard[at].entry(message.chat).or_default().push(text.0);
            }
        }
        done
    }

    async fn create(&mut self, at: usize) {
        let created = self.user(at).client.create_group(&format!("group {}", self.groups.len())).await;
        if let Ok(group) = &created {
            self.groups.push(group.clone());
        }
        self.note("create", created);
    }

    async fn step(&mut self) {
        let at = self.random.below(self.users.len());
        let kind = self.random.below(100);
        match kind {
            0..2 if self.groups.len() < 2 + self.users.len() / 2 => return self.create(at).await,
            2..27 => {
                self.hear(at).await;
                return;
            }
            27 => {
                // With the next command the QS is given other keys, and the queue begins anew.
                let renew = |connection: &rusqlite::Connection| record::renew_before(connection, u64::MAX);
                self.user(at).client.0.database.run(renew).await.unwrap();
                return;
            }
            28..31 => {
                let user = self.users[at].take().unwrap();
                self.users[at] = Some(user.reopen().await);
                return;
            }
            31 => return self.server.restart().await,
            32..36 => {
                let method = self.random.pick(&LOSSY);
                return self.server.lose(method, 1);
            }
            _ => {}
        }
        let Some(group) = self.group_of(at).await else { return };
        let members = self.user(at).client.members(&group).await.unwrap();
        let who: Vec<UserId> = members.into_iter().filter_map(|member| member.user).collect();
        let whom = self.random.pick(&who);
        let client = self.user(at).client.clone();
        match kind {
            36..46 => {
                let contacts = client.contacts().await.unwrap();
                let contact = self.random.pick(&contacts).user;
                self.note("invite", client.invite(&group, &[contact]).await);
            }
            46..49 => _ = self.note("remove", client.remove(&group, &[whom]).await),
            49..52 => _ = self.note("leave", client.leave(&group).await),
            52..54 => {
                let name = format!("name {}", self.said);
                self.note("rename", client.rename(&group, &name).await);
            }
            54..58 => _ = self.note("appoint", client.add_admins(&group, &[whom]).await),
            58..60 => _ = self.note("dismiss", client.remove_admins(&group, &[whom]).await),
            60..65 => {
                // At once with another member: one of them loses the race for the epoch.
                let rival = self.random.below(self.users.len());
                let rival = self.user(rival).client.clone();
                let of = group.clone();
                let other = tokio::spawn(async move { rival.0.change(&of, Intent::Update).await });
                self.note("update", client.0.change(&group, Intent::Update).await);
                self.note("rival update", other.await.unwrap());
            }
            65..67 => {
                let lose = move |connection: &rusqlite::Connection| {
                    mls::delete(&Provider::new(connection), &group)?;
                    outbox::add_chore(connection, &Chore::Compare(group))
                };
                client.0.database.run(lose).await.unwrap();
                self.hear(at).await;
            }
            _ => {
                self.said += 1;
                let text = format!("message {}", self.said);
                let sent = client.send(&group, Content::Text(text.as_str().into())).await;
                self.note("send", sent);
            }
        }
    }

    /// Everybody comes to rest: what waits is sent, heard and answered.
    async fn settle(&mut self) {
        *self.server.handler.lose.lock().unwrap() = None;
        for _ in 0..6 {
            for at in 0..self.users.len() {
                assert!(self.hear(at).await);
            }
        }
    }

    /// All who are in a group agree, and those who are not are nobody's members.
    async fn check(&mut self) {
        for group in self.groups.clone() {
            let mut views = Vec::new();
            for at in 0..self.users.len() {
                let chats = self.user(at).client.chats().await.unwrap();
                let mine = chats.into_iter().find(|chat| chat.chat == group);
                let Some(chat) = mine.filter(|chat| chat.state == ChatState::Active) else { continue };
                let members = self.user(at).client.members(&group).await.unwrap();
                assert!(members.iter().all(|member| !member.quarantined), "{members:?}");
                let mut users: Vec<_> = members.iter().map(|member| (member.user.clone(), member.admin)).collect();
                users.sort_by_key(|(user, _)| user.as_ref().map(|user| user.uuid));
                let of = group.clone();
                let state = move |connection: &rusqlite::Connection| mls::load(&Provider::new(connection), &of);
                let state = self.user(at).client.0.database.run(state).await.unwrap();
                views.push((at, (state.epoch().as_u64(), chat.name, users)));
            }
            let Some((first, expected)) = views.first().cloned() else { continue };
            for (at, view) in &views {
                assert_eq!(*view, expected, "{at} and {first} in {group}");
            }
            let mut present: Vec<_> = views.iter().map(|(at, _)| Some(self.user(*at).id())).collect();
            present.sort_by_key(|user| user.as_ref().map(|user| user.uuid));
            assert_eq!(present, expected.2.iter().map(|(user, _)| user.clone()).collect::<Vec<_>>(), "{group}");
            // And they hear each other.
            let last = format!("the end of {group}");
            self.user(first).say(&group, &last).await;
            for (at, _) in &views[1..] {
                self.hear(*at).await;
                assert_eq!(self.heard[*at][&group].last(), Some(&last));
            }
            self.check_order(&group);
        }
    }

    /// What two clients have both heard they heard in one order, and nothing twice. What a client said itself it has not
    /// heard, so that its place is not known.
    fn check_order(&self, group: &GroupId) {
        let heard: Vec<_> = self.heard.iter().filter_map(|heard| heard.get(group)).collect();
        for one in &heard {
            let places: HashMap<_, _> = one.iter().enumerate().map(|(place, text)| (text, place)).collect();
            assert_eq!(places.len(), one.len(), "something was heard twice in {group}");
            for other in &heard {
                let common: Vec<_> = other.iter().filter_map(|text| places.get(text)).collect();
                assert!(common.is_sorted(), "{group}: {one:?} {other:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_the_members_of_a_group_agree_in_the_end() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |value| value.parse().unwrap());
    let seed = number("BENNU_SEED", SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into());
    let (clients, operations) = (number("BENNU_CLIENTS", 5), number("BENNU_OPERATIONS", 250));
    eprintln!("BENNU_SEED={seed} BENNU_CLIENTS={clients} BENNU_OPERATIONS={operations}");
    let mut model = Model::start(seed, usize::try_from(clients).unwrap()).await;
    model.create(0).await;
    for _ in 0..operations {
        model.step().await;
    }
    model.settle().await;
    model.check().await;
    let mut tally: Vec<_> = model.tally.iter().collect();
    tally.sort();
    eprintln!("{tally:?}");
}
