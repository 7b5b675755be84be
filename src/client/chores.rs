//! What received messages call for, done when there is time: groups that nobody wants are deleted, intruders removed,
//! used-up packages replaced.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{
    aliases, blocking,
    commit::Intent,
    core::Core,
    error::ClientError,
    network::jittered,
    packages, record, register,
    resync::Reason,
    state::{
        chats::{self, ChatState},
        contacts, inbox, keys,
        outbox::{self, Chore, Kind, New},
        queues::{self, Queue},
    },
};
use crate::{
    base::{GroupId, Timestamp},
    crypto::system_rng,
    wire::{Encode, Method, authentication::PublishConnectionPackages},
};

/// How long a member waits for others to commit what was proposed, for each member that there is,
const SETTLE_PER_MEMBER: Duration = Duration::from_millis(20);

/// and at most.
const MAX_SETTLE: Duration = Duration::from_secs(10);

/// How long a leaf and KeyPackages keep their keys, in milliseconds: less than any DS takes to miss a member.
const KEY_LIFE: u64 = 30 * 86_400_000;

/// How long a newcomer waits before it renews its leaf, for each member that there is, and no longer than it may wait
/// at all.
const FIRST_RENEWAL_PER_MEMBER: Duration = Duration::from_secs(60);

/// How long a chore may take that has to do with another homeserver.
const CHORE: Duration = Duration::from_secs(30);

/// How often chores are looked for before the rest waits for the next time.
const ROUNDS: u32 = 4;

/// How long an offer waits for an answer, in milliseconds.
const OFFER_LIFE: u64 = 30 * 86_400_000;

impl Core {
    /// Does what there is to do.
    pub async fn do_chores(self: &Arc<Self>) -> Result<(), ClientError> {
        let now = self.trust.now();
        let is_due = self.database.run(move |connection| {
            expire_offers(connection, now)?;
            renew_what_is_old(connection, now)?;
            record::is_due(connection, now.day())
        });
        if is_due.await? {
            self.queuing_key().await?;
        }
        // What is done may call for more.
        // Once each: what could not be done is done next time.
        let (mut seen, mut silent) = (Vec::new(), HashSet::new());
        for _ in 0..ROUNDS {
            let mut chores = self.database.run(outbox::chores).await?;
            chores.retain(|(_, chore)| !seen.contains(chore));
            chores.sort_by_key(|(_, chore)| rank(chore));
            if chores.is_empty() {
                break;
            }
            for (number, chore) in chores {
                let domain = chore.group().map_or_else(|| self.domain(), |group| &group.domain).clone();
                let is_restarting =
                    |connection: &rusqlite::Connection| queues::is_restarting(connection, Queue::Client);
                if silent.contains(&domain) || begins_epoch(&chore) && self.database.run(is_restarting).await? {
                    seen.push(chore);
                    continue;
                }
                let outcome = self.briefly(&domain, CHORE, Box::pin(self.do_chore(&chore))).await;
                match outcome {
                    // It is done when that homeserver can be reached again.
                    Err(error) if self.is_elsewhere(&error, &domain) => {
                        silent.insert(domain);
                        seen.push(chore);
                        continue;
                    }
                    // Others at that homeserver are not.
                    Err(ClientError::Late(_)) => {
                        seen.push(chore);
                        continue;
                    }
                    Err(error) if error.is_passing() => return Err(error),
                    Err(error) if error.is_busy() => {
                        seen.push(chore);
                        continue;
                    }
                    Err(error) => self.note(format!("{chore} has failed: {error}")).await?,
                    Ok(()) => {}
                }
                self.database.run(move |connection| outbox::finish_chore(connection, number)).await?;
                seen.push(chore);
            }
        }
        Ok(())
    }

    async fn do_chore(self: &Arc<Self>, chore: &Chore) -> Result<(), ClientError> {
        match chore {
            Chore::Delete(group) => self.change(group, Intent::Delete).await,
            Chore::Expel(group, key) => self.change(group, Intent::Expel(key.clone())).await,
            Chore::RenewLeaf(group) => self.change(group, Intent::Renew).await,
            Chore::Compare(group) => self.resync(group, Reason::Missing).await,
            Chore::Settle(group) => self.settle(group).await,
            Chore::Record => self.renew_record().await,
            Chore::QueueConfig(group) => self.seal_queue_config(group).await,
            Chore::Blocklist => self.send_blocklist().await,
            Chore::FriendshipToken => self.renew_token().await,
            Chore::GiveToken(chat) => self.give_token(chat).await,
            Chore::Refresh(group) => self.refresh(group).await,
            Chore::KeyPackages => {
                let (key, core, done) = (self.queuing_key().await?, self.clone(), chore.clone());
                let publish = move |connection: &rusqlite::Connection| {
                    let account = &core.account();
                    // With the packages in the outbox the chore is done: it must not make another batch.
                    outbox::remove_chore(connection, &done)?;
                    register::publish_key_packages(connection, account, &key, account.domain(), core.trust.now())
                };
                self.database.run(publish).await?;
                self.send_common().await
            }
            Chore::ConnectionPackages => {
                let (core, done) = (self.clone(), chore.clone());
                let publish = move |connection: &rusqlite::Connection| {
                    outbox::remove_chore(connection, &done)?;
                    publish_connection_packages(connection, &core)
                };
                self.database.run(publish).await?;
                self.send_common().await
            }
            Chore::AliasPackages(id) => {
                let (core, done, id) = (self.clone(), chore.clone(), *id);
                let publish = move |connection: &rusqlite::Connection| {
                    outbox::remove_chore(connection, &done)?;
                    aliases::publish_packages(connection, &core, id)
                };
                self.database.run(publish).await?;
                self.send_common().await
            }
        }
    }

    /// Carries out what others have proposed, unless another member does so within a random time: the more there are, the
    /// longer it is.
    async fn settle(self: &Arc<Self>, group: &GroupId) -> Result<(), ClientError> {
        let of = group.clone();
        let members = self.database.run(move |connection| chats::members(connection, &of)).await?.len();
        let longest = SETTLE_PER_MEMBER.saturating_mul(u32::try_from(members).unwrap_or(u32::MAX)).min(MAX_SETTLE);
        tokio::time::sleep(jittered(longest)).await;
        self.drain(Queue::Client).await?;
        let of = group.clone();
        let chat = self.database.run(move |connection| chats::find(connection, &of)).await?;
        match chat.filter(|chat| chat.state.is_live()) {
            Some(_) => self.change(group, Intent::Settle).await,
            None => Ok(()),
        }
    }

    /// Begins a new epoch, if this client is still a member.
    async fn refresh(self: &Arc<Self>, group: &GroupId) -> Result<(), ClientError> {
        let of = group.clone();
        let chat = self.database.run(move |connection| chats::find(connection, &of)).await?;
        match chat.filter(|chat| chat.state == ChatState::Active) {
            Some(_) => {
                self.be_reachable(group).await?;
                self.change(group, Intent::Update).await
            }
            None => Ok(()),
        }
    }

    /// Tells the DS of a group where messages go, if that is to be done: a commit comes back to nobody who has another queue.
    async fn be_reachable(self: &Arc<Self>, group: &GroupId) -> Result<(), ClientError> {
        let chore = Chore::QueueConfig(group.clone());
        let is_due = self.database.run(move |connection| outbox::has_chore(connection, &chore)).await?;
        if is_due { self.seal_queue_config(group).await } else { Ok(()) }
    }

    /// Notes what could not be done.
    pub async fn note(&self, text: String) -> Result<(), ClientError> {
        let now = self.trust.now();
        self.database.run(move |connection| inbox::problem(connection, &text, now)).await
    }

    async fn send_common(self: &Arc<Self>) -> Result<(), ClientError> {
        let _turn = self.lane(&[]).await;
        self.send_lane(&[], None).await.map(drop)
    }
}

/// Which chores come first. A commit has to come back: first whatever keeps this client from its queue, then what it does not
/// get back from there.
const fn rank(chore: &Chore) -> u8 {
    match chore {
        Chore::QueueConfig(_) => 0,
        Chore::Compare(_) => 1,
        _ if begins_epoch(chore) => 3,
        _ => 2,
    }
}

/// Whether a chore needs a commit that comes back.
const fn begins_epoch(chore: &Chore) -> bool {
    matches!(chore, Chore::Refresh(_) | Chore::GiveToken(_) | Chore::RenewLeaf(_))
}

fn publish_connection_packages(connection: &rusqlite::Connection, core: &Core) -> Result<(), ClientError> {
    let (account, now) = (core.account(), core.trust.now());
    // Those published earlier are replaced; offers to them may still be on their way.
    keys::retire_connection_keys(connection, None)?;
    let made =
        packages::connection_packages(connection, &account.client, &account.keys.identity, now, &mut system_rng())?;
    let queue_key = queues::current_key(connection, Queue::Direct)?;
    let new = New {
        group: None,
        kind: Kind::Simple,
        method: Method::AsPublishConnectionPackages,
        domain: account.domain().clone(),
        body: PublishConnectionPackages { packages: made, queue_key }.to_vec(),
        extra: Vec::new(),
    };
    outbox::insert(connection, new).map(drop)
}

/// Keys are replaced while they are good, and every group gets a sign of life before its DS takes this client for lost.
fn renew_what_is_old(connection: &rusqlite::Connection, now: Timestamp) -> Result<(), ClientError> {
    for chat in chats::renewed_before(connection, now.0.saturating_sub(KEY_LIFE))? {
        chats::set_stale(connection, &chat)?;
        outbox::add_chore(connection, &Chore::RenewLeaf(chat))?;
    }
    if register::key_packages_made(connection)?.0 < now.0.saturating_sub(KEY_LIFE) {
        outbox::add_chore(connection, &Chore::KeyPackages)?;
    }
    blocking::resume_token(connection)?;
    aliases::refill_if_low(connection, None, now.seconds().saturating_add(packages::RENEWAL))?;
    record::renew_before(connection, now.0.saturating_sub(KEY_LIFE))
}

/// When a leaf that joins one of so many members counts as renewed: its keys are replaced soon, because others had them before
/// it was in the group, and because only who has made a commit can become an admin; but not by all newcomers at once.
pub fn renewed_at_joining(now: Timestamp, members: usize) -> u64 {
    let longest = FIRST_RENEWAL_PER_MEMBER.saturating_mul(u32::try_from(members).unwrap_or(u32::MAX));
    let delay = u64::try_from(jittered(longest).as_millis()).unwrap_or(u64::MAX);
    now.0.saturating_sub(KEY_LIFE).saturating_add(delay.min(KEY_LIFE))
}

/// An offer that nobody answers is over after a month, on both sides.
fn expire_offers(connection: &rusqlite::Connection, now: Timestamp) -> Result<(), ClientError> {
    contacts::expire_requests(connection, now.seconds())?;
    for chat in contacts::unanswered_offers(connection, now.0.saturating_sub(OFFER_LIFE))? {
        contacts::remove_offer(connection, &chat)?;
        if chats::find(connection, &chat)?.is_some_and(|chat| chat.state == ChatState::Waiting) {
            chats::set_state(connection, &chat, ChatState::Declined)?;
            outbox::add_chore(connection, &Chore::Delete(chat))?;
        }
    }
    Ok(())
}
