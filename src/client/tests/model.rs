//! Many clients at random: they talk, listen, come, go, connect, block each other, lose what they know or go back to an old
//! copy of it; several do so at once; the homeserver is stopped and killed among it, requests under way; and months pass. In
//! the end all members of a group agree on who they are, where they are, and in which order they heard what, and nothing is
//! lost that was acknowledged to its sender. `BENNU_SEED` replays a run; `BENNU_CLIENTS` and `BENNU_OPERATIONS` make it
//! longer.

use std::{
    collections::{HashMap, HashSet},
    time::SystemTime,
};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use tokio::task::{AbortHandle, JoinSet};

use super::{groups::Later, *};
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

/// What an act may be refused with: somebody else was first, or the one who asks may not.
const FAIR: [&str; 6] = ["forbidden", "invalid", "not_found", "already_exists", "untrusted", "rate_limited"];

/// Days that pass at most: clients' clocks must not be ahead of OpenMLS's own.
const DAYS: usize = 99;

struct Random(ChaCha8Rng);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.0.next_u64() % end as u64).unwrap()
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())].clone())
    }
}

/// What a client does.
#[derive(Clone, Debug)]
enum Act {
    Sync,
    Create(String),
    Send(GroupId, String),
    Invite(GroupId, UserId),
    Remove(GroupId, UserId),
    Leave(GroupId),
    Rename(GroupId, String),
    Appoint(GroupId, UserId),
    Dismiss(GroupId, UserId),
    Update(GroupId),
    Delete(GroupId),
    Connect(UserId),
    Accept,
    Decline,
    Block(UserId),
    Unblock(UserId),
}

/// A message of which its sender knows that it is in the queues of these users.
struct Sent {
    chat: GroupId,
    text: String,
    from: UserId,
    to: Vec<UserId>,
}

impl Act {
    const fn name(&self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Create(_) => "create",
            Self::Send(..) => "send",
            Self::Invite(..) => "invite",
            Self::Remove(..) => "remove",
            Self::Leave(_) => "leave",
            Self::Rename(..) => "rename",
            Self::Appoint(..) => "appoint",
            Self::Dismiss(..) => "dismiss",
            Self::Update(_) => "update",
            Self::Delete(_) => "delete",
            Self::Connect(_) => "connect",
            Self::Accept => "accept",
            Self::Decline => "decline",
            Self::Block(_) => "block",
            Self::Unblock(_) => "unblock",
        }
    }

    async fn carry_out(self, client: Client) -> Result<Option<Sent>, ClientError> {
        let done = match self {
            Self::Send(chat, text) => return send(&client, chat, text).await,
            Self::Sync => client.sync().await,
            Self::Create(name) => client.create_group(&name).await.map(drop),
            Self::Invite(group, user) => client.invite(&group, &[user]).await,
            Self::Remove(group, user) => client.remove(&group, &[user]).await,
            Self::Leave(group) => client.leave(&group).await,
            Self::Rename(group, name) => client.rename(&group, &name).await,
            Self::Appoint(group, user) => client.add_admins(&group, &[user]).await,
            Self::Dismiss(group, user) => client.remove_admins(&group, &[user]).await,
            Self::Update(group) => client.0.change(&group, Intent::Update).await,
            Self::Delete(group) => client.delete_group(&group).await,
            Self::Connect(user) => client.connect(&user).await.map(drop),
            Self::Accept | Self::Decline => match client.requests().await?.first() {
                Some(request) if matches!(self, Self::Accept) => client.accept(&request.id).await.map(drop),
                Some(request) => client.decline(&request.id).await,
                None => Ok(()),
            },
            Self::Block(user) => client.block(&user).await,
            Self::Unblock(user) => client.unblock(&user).await,
        };
        done.map(|()| None)
    }
}

async fn send(client: &Client, chat: GroupId, text: String) -> Result<Option<Sent>, ClientError> {
    let (from, members) = (client.whoami().0, async || {
        let members = client.members(&chat).await?;
        Ok::<_, ClientError>(members.into_iter().filter_map(|member| member.user).collect::<Vec<_>>())
    });
    // The epoch that it is sent in lies somewhere between.
    let before = members().await?;
    let receipt = client.send(&chat, Content::Text(text.as_str().into())).await?;
    let mut to = members().await?;
    to.retain(|user| *user != from && before.contains(user));
    Ok((receipt.unreached == 0).then_some(Sent { chat, text, from, to }))
}

/// What a client was told while it had one and the same state, in its order.
type Heard = HashMap<GroupId, Vec<String>>;

struct Model {
    server: Arc<Homeserver>,
    clock: Arc<Later>,
    days: usize,
    users: Vec<Option<User>>,
    ids: Vec<UserId>,
    listening: HashMap<usize, AbortHandle>,
    /// Old copies of clients.
    copies: HashMap<usize, TempDir>,
    /// Does nothing until the end.
    asleep: Option<usize>,
    random: Random,
    heard: Vec<Vec<Heard>>,
    /// What was acknowledged to its sender.
    sent: Vec<Sent>,
    /// Who has missed, or may have, what was said in a chat.
    away: HashSet<(UserId, GroupId)>,
    /// Who has missed, or may have, something of everything.
    lost: HashSet<UserId>,
    /// Who has blocked whom at some time.
    deaf: HashSet<(UserId, UserId)>,
    said: usize,
    deleted: usize,
    /// How often what was done, and refused.
    tally: HashMap<(&'static str, &'static str), usize>,
}

impl Model {
    async fn start(seed: u64, clients: usize) -> Self {
        let clock = Arc::new(Later::default());
        let server = Homeserver::start_under(QueueLimits::default(), Policy::default(), clock.clone()).await;
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
        let mut random = Random(ChaCha8Rng::seed_from_u64(seed));
        let asleep = random.one_in(3).then(|| clients - 1);
        let ids = users.iter().map(User::id).collect();
        Self {
            server,
            clock,
            days: 0,
            users: users.into_iter().map(Some).collect(),
            ids,
            listening: HashMap::new(),
            copies: HashMap::new(),
            asleep,
            random,
            heard: (0..clients).map(|_| vec![Heard::new()]).collect(),
            sent: Vec::new(),
            away: HashSet::new(),
            lost: HashSet::new(),
            deaf: HashSet::new(),
            said: 0,
            deleted: 0,
            tally: HashMap::new(),
        }
    }

    fn user(&self, at: usize) -> &User {
        self.users[at].as_ref().unwrap()
    }

    fn take(&mut self, at: usize) -> User {
        if let Some(listening) = self.listening.remove(&at) {
            listening.abort();
        }
        self.users[at].take().unwrap()
    }

    fn count(&mut self, what: &'static str, status: &'static str) {
        *self.tally.entry((what, status)).or_default() += 1;
    }

    fn note(&mut self, what: &'static str, outcome: Result<Option<Sent>, ClientError>) {
        match outcome {
            Ok(sent) => {
                self.sent.extend(sent);
                self.count(what, "ok");
            }
            Err(error) => {
                assert!(FAIR.contains(&error.status()), "{what}: {error}");
                self.count(what, error.status());
            }
        }
    }

    /// What the client at this place is to do next.
    async fn act(&mut self, at: usize) -> Act {
        let kind = self.random.below(100);
        let everybody = self.ids.clone();
        match kind {
            0..20 => return Act::Sync,
            20..22 if self.groups().await.len() < 2 + self.users.len() / 2 + self.deleted => {
                return Act::Create(format!("group {}", self.said));
            }
            22..24 => return Act::Connect(self.random.pick(&everybody).unwrap()),
            24 => return Act::Decline,
            25..28 => return Act::Accept,
            28 => {
                let blocked = self.user(at).client.blocked().await.unwrap();
                return match self.random.pick(&blocked) {
                    Some(user) => Act::Unblock(user),
                    None => Act::Block(self.random.pick(&everybody).unwrap()),
                };
            }
            _ => {}
        }
        let client = self.user(at).client.clone();
        let of_kind = if (29..85).contains(&kind) { ChatKind::Group } else { ChatKind::Connection };
        let chats = client.chats().await.unwrap();
        let active = chats.into_iter().filter(|chat| chat.state == ChatState::Active && chat.kind == of_kind);
        let active: Vec<_> = active.map(|chat| chat.chat).collect();
        let Some(chat) = self.random.pick(&active) else { return Act::Sync };
        let members = client.members(&chat).await.unwrap();
        let members: Vec<UserId> = members.into_iter().filter_map(|member| member.user).collect();
        let Some(whom) = self.random.pick(&members) else { return Act::Sync };
        self.said += 1;
        match kind {
            29..41 => {
                let contacts = client.contacts().await.unwrap();
                Act::Invite(chat, self.random.pick(&contacts).map_or(whom, |contact| contact.user))
            }
            41..44 => Act::Remove(chat, whom),
            44..46 => Act::Leave(chat),
            46..48 => Act::Rename(chat, format!("name {}", self.said)),
            48..52 => Act::Appoint(chat, whom),
            52..54 => Act::Dismiss(chat, whom),
            54..61 => Act::Update(chat),
            61 if self.random.one_in(10) => Act::Delete(chat),
            _ => Act::Send(chat, format!("message {}", self.said)),
        }
    }

    /// Keeps in mind what an act makes a client miss, whether it is carried out or not.
    fn expect(&mut self, at: usize, act: &Act) {
        let who = self.ids[at].clone();
        match act {
            Act::Remove(group, whom) => _ = self.away.insert((whom.clone(), group.clone())),
            Act::Leave(group) => _ = self.away.insert((who, group.clone())),
            Act::Block(whom) => _ = self.deaf.insert((who, whom.clone())),
            Act::Delete(_) => self.deleted += 1,
            _ => {}
        }
    }

    /// All groups that there are or were.
    async fn groups(&self) -> Vec<GroupId> {
        let mut groups = Vec::new();
        for user in self.users.iter().flatten() {
            let chats = user.client.chats().await.unwrap();
            groups.extend(chats.into_iter().filter(|chat| chat.kind == ChatKind::Group).map(|chat| chat.chat));
        }
        groups.sort_by_key(|group| group.uuid);
        groups.dedup();
        groups
    }

    async fn read(&mut self, at: usize) {
        let client = self.user(at).client.clone();
        let unread = client.unread(100_000).await.unwrap();
        let numbers: Vec<_> = unread.iter().map(|message| message.id).collect();
        client.mark_read(&numbers).await.unwrap();
        let heard = self.heard[at].last_mut().unwrap();
        for message in unread {
            if let Content::Text(text) = message.content {
                heard.entry(message.chat).or_default().push(text.0);
            }
        }
    }

    async fn hear(&mut self, at: usize) {
        self.user(at).client.sync().await.unwrap_or_else(|error| panic!("{at}: {error}"));
        self.read(at).await;
    }

    /// Several clients at once; perhaps the homeserver is killed among it.
    async fn several(&mut self) {
        let (many, kill) = (1 + self.random.below(4), self.random.one_in(4));
        let mut places = HashSet::new();
        let mut acts = JoinSet::new();
        for _ in 0..many {
            let at = self.awake();
            if places.insert(at) {
                let act = self.act(at).await;
                self.expect(at, &act);
                let client = self.user(at).client.clone();
                acts.spawn(async move { (act.name(), act.carry_out(client).await) });
            }
        }
        if kill {
            let hang = Hang { after: self.random.below(12), carried_out: self.random.one_in(2) };
            *self.server.handler.hang.lock().unwrap() = Some(hang);
        }
        loop {
            tokio::select! {
                () = self.server.handler.hung.notified() => {
                    self.server.kill().await;
                    self.count("kill", "ok");
                }
                done = acts.join_next() => match done {
                    Some(done) => {
                        let (what, outcome) = done.unwrap();
                        self.note(what, outcome);
                    }
                    None => break,
                },
            }
        }
        // Whoever listens may run into it even now.
        if kill && self.server.handler.hang.lock().unwrap().take().is_none() {
            self.server.kill().await;
        }
        for at in places {
            self.read(at).await;
        }
    }

    fn awake(&mut self) -> usize {
        let awake = self.users.len() - usize::from(self.asleep.is_some());
        self.random.below(awake)
    }

    async fn step(&mut self) {
        let at = self.awake();
        match self.random.below(100) {
            0 => {
                // With the next command the QS is given other keys, and the queue begins anew.
                let renew = |connection: &rusqlite::Connection| record::renew_before(connection, u64::MAX);
                self.user(at).client.0.database.run(renew).await.unwrap();
            }
            1..4 => {
                let user = self.take(at);
                self.users[at] = Some(user.reopen().await);
            }
            4..7 => {
                // The process of the client ends wherever it is.
                let act = self.act(at).await;
                self.expect(at, &act);
                let hang = Hang { after: self.random.below(8), carried_out: self.random.one_in(2) };
                let (user, _) =
                    self.take(at).stopped(hang, |client| async move { _ = act.carry_out(client).await }).await;
                self.users[at] = Some(user);
                self.count("stop", "ok");
            }
            7..9 => {
                let method = self.random.pick(&LOSSY).unwrap();
                self.server.lose(method, 1);
            }
            9 => self.server.restart().await,
            10..12 => {
                let mut events = self.user(at).client.events();
                let task = tokio::spawn(async move { while events.next().await.is_some() {} });
                self.listening.insert(at, task.abort_handle());
            }
            12 if self.random.one_in(3) => self.go_back(at).await,
            13 if self.random.one_in(2) => self.pass().await,
            14..16 => self.lose_state(at).await,
            _ => self.several().await,
        }
    }

    /// A client's state of one of its chats is lost.
    async fn lose_state(&mut self, at: usize) {
        let chats = self.user(at).client.chats().await.unwrap();
        let active = chats.into_iter().filter(|chat| chat.state == ChatState::Active).map(|chat| chat.chat);
        let Some(chat) = self.random.pick(&active.collect::<Vec<_>>()) else { return };
        self.away.insert((self.ids[at].clone(), chat.clone()));
        let lose = move |connection: &rusqlite::Connection| {
            mls::delete(&Provider::new(connection), &chat)?;
            outbox::add_chore(connection, &Chore::Compare(chat))
        };
        self.user(at).client.0.database.run(lose).await.unwrap();
        self.hear(at).await;
        self.count("lose", "ok");
    }

    /// A client is copied, or goes back to what it was when it was copied.
    async fn go_back(&mut self, at: usize) {
        self.hear(at).await;
        match self.copies.remove(&at) {
            Some(copy) => {
                let user = self.take(at);
                self.users[at] = Some(user.restored(copy).await);
                self.heard[at].push(Heard::new());
                self.lost.insert(self.ids[at].clone());
                self.hear(at).await;
                self.count("back", "ok");
            }
            None => {
                let (user, copy) = self.take(at).reopen().await.copied().await;
                self.users[at] = Some(user);
                self.copies.insert(at, copy);
            }
        }
    }

    /// Days pass, and the homeserver does what it does every day.
    async fn pass(&mut self) {
        let days = (1 + self.random.below(6)).min(DAYS - self.days);
        self.days += days;
        self.clock.pass(days as u64);
        let dispatcher = self.server.dispatcher();
        dispatcher.maintain_tokens().await.unwrap();
        dispatcher.expire_queues().await.unwrap();
        dispatcher.expire_groups().await.unwrap();
        self.count("days", "ok");
    }

    /// Everybody comes to rest: what waits is sent, heard and answered.
    async fn settle(&mut self) {
        *self.server.handler.lose.lock().unwrap() = None;
        self.lost.extend(self.asleep.take().map(|at| self.ids[at].clone()));
        for _ in 0..6 {
            for at in 0..self.users.len() {
                self.hear(at).await;
            }
        }
    }

    /// Whether a client may not know of a group that it is a member of: it went back to before it was added, or has blocked
    /// whoever added it.
    fn may_be_ghost(&self, user: &UserId) -> bool {
        self.lost.contains(user) || self.deaf.iter().any(|(who, _)| who == user)
    }

    /// All who are in a group agree, and those who are not are nobody's members.
    async fn check(&mut self) {
        for group in self.groups().await {
            let mut views = Vec::new();
            for at in 0..self.users.len() {
                let chats = self.user(at).client.chats().await.unwrap();
                let mine = chats.into_iter().find(|chat| chat.chat == group);
                let Some(chat) = mine.filter(|chat| chat.state == ChatState::Active) else { continue };
                let members = self.user(at).client.members(&group).await.unwrap();
                assert!(members.iter().all(|member| !member.quarantined), "{members:?}");
                let mut users: Vec<_> =
                    members.iter().map(|member| (member.user.clone().unwrap(), member.admin)).collect();
                users.sort_by_key(|(user, _)| user.uuid);
                let of = group.clone();
                let state = move |connection: &rusqlite::Connection| mls::load(&Provider::new(connection), &of);
                let state = self.user(at).client.0.database.run(state).await.unwrap();
                views.push((at, (state.epoch().as_u64(), chat.name, users)));
            }
            let Some((first, expected)) = views.first().cloned() else { continue };
            for (at, view) in &views {
                assert_eq!(*view, expected, "{at} and {first} in {group}");
            }
            let present: HashSet<_> = views.iter().map(|(at, _)| self.ids[*at].clone()).collect();
            let expected: HashSet<_> = expected.2.into_iter().map(|(user, _)| user).collect();
            assert!(present.is_subset(&expected), "{group}: {present:?} {expected:?}");
            let ghosts: Vec<_> = expected.difference(&present).collect();
            assert!(ghosts.iter().all(|user| self.may_be_ghost(user)), "{group}: {ghosts:?}");
            // And they hear each other.
            let last = format!("the end of {group}");
            let receipt = self.user(first).client.send(&group, Content::Text(last.as_str().into())).await.unwrap();
            assert!(receipt.unreached as usize <= ghosts.len(), "{group}: {receipt:?}");
            for (at, _) in &views[1..] {
                self.hear(*at).await;
                if !self.deaf.contains(&(self.ids[*at].clone(), self.ids[first].clone())) {
                    assert_eq!(self.heard[*at].last().unwrap()[&group].last(), Some(&last), "{at} in {group}");
                }
            }
        }
        self.check_order();
        self.check_sent().await;
    }

    /// What two clients have both heard they heard in one order, and nothing twice. What a client said itself it has not
    /// heard, so that its place is not known.
    fn check_order(&self) {
        let mut all: HashMap<&GroupId, Vec<&Vec<String>>> = HashMap::new();
        for (chat, heard) in self.heard.iter().flatten().flatten() {
            all.entry(chat).or_default().push(heard);
        }
        for (chat, heard) in all {
            for one in &heard {
                let places: HashMap<_, _> = one.iter().enumerate().map(|(place, text)| (text, place)).collect();
                assert_eq!(places.len(), one.len(), "something was heard twice in {chat}");
                for other in &heard {
                    let common: Vec<_> = other.iter().filter_map(|text| places.get(text)).collect();
                    assert!(common.is_sorted(), "{chat}: {one:?} {other:?}");
                }
            }
        }
    }

    /// Whoever was in a chat all the time has heard what its sender was told is delivered.
    async fn check_sent(&mut self) {
        let mut checked = 0;
        for at in 0..self.users.len() {
            let chats = self.user(at).client.chats().await.unwrap();
            let active = chats.into_iter().filter(|chat| chat.state == ChatState::Active).map(|chat| chat.chat);
            let (active, who): (HashSet<GroupId>, _) = (active.collect(), self.ids[at].clone());
            for Sent { chat, text, from, to } in &self.sent {
                let missed = self.away.contains(&(who.clone(), chat.clone()))
                    || self.lost.contains(&who)
                    || self.deaf.contains(&(who.clone(), from.clone()))
                    || !active.contains(chat);
                if to.contains(&who) && !missed {
                    let heard = self.heard[at].iter().flat_map(|heard| heard.get(chat)).flatten();
                    let by = self.ids.iter().position(|id| id == from);
                    let problems = self.user(at).client.problems().await.unwrap();
                    assert!(
                        heard.into_iter().any(|heard| heard == text),
                        "{at} has not heard {text:?} by {by:?} in {chat}: {problems:?}"
                    );
                    checked += 1;
                }
            }
        }
        self.tally.insert(("acknowledged and heard", "ok"), checked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_the_members_of_a_group_agree_in_the_end() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |value| value.parse().unwrap());
    let seed = number("BENNU_SEED", SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into());
    let (clients, operations) = (number("BENNU_CLIENTS", 5), number("BENNU_OPERATIONS", 250));
    eprintln!("BENNU_SEED={seed} BENNU_CLIENTS={clients} BENNU_OPERATIONS={operations}");
    let mut model = Model::start(seed, usize::try_from(clients).unwrap()).await;
    let created = model.user(0).client.create_group("the first").await;
    model.note("create", created.map(|_| None));
    for _ in 0..operations {
        model.step().await;
    }
    model.settle().await;
    model.check().await;
    let mut tally: Vec<_> = model.tally.iter().collect();
    tally.sort();
    eprintln!("{tally:?}");
}
