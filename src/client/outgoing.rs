//! Sending: what is stored in the outbox goes out, one request of a lane after another, until each has its answer. A
//! request that lost the race for its epoch is made again for the next one.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use rusqlite::Connection;
use tokio::time::timeout;

use super::{
    account_changes, blocking,
    commit::{Intent, Materials},
    core::{ATTEMPTS, Core},
    error::{ClientError, Local, is_busy},
    leaving,
    mls::{self, Provider},
    network::jittered,
    resync::{self, Reason, on_its_way},
    state::{
        chats::{self, Chat, ChatKind, ChatState},
        contacts::{self, Contact},
        inbox,
        outbox::{self, Chore, Kind, Pending},
        queues::{self, Queue},
    },
    strangers::MOMENT,
};
use crate::{
    base::{AliasId, Domain, GroupId, Status},
    crypto::{random, system_rng},
    wire::{Decode, Encode, Method, content::ApplicationMessage},
};
use openmls::prelude::OpenMlsProvider as _;

/// Longest pause after a lost race.
const RACE_PAUSE: Duration = Duration::from_millis(200);

/// What became of a request.
pub enum Settled {
    /// It was carried out.
    Done(Bytes),
    /// Another member was first. The request stays in the outbox until another takes its place; until then the DS would
    /// refuse it again.
    Lost,
}

impl Core {
    /// Sends everything that waits. What waits for another homeserver that cannot be reached goes on waiting, and keeps
    /// nothing else from being sent.
    pub async fn flush(self: &Arc<Self>) -> Result<(), ClientError> {
        let mut silent = HashSet::new();
        for (lane, domain) in self.database.run(outbox::lanes).await? {
            if silent.contains(&domain) {
                continue;
            }
            let send = async {
                let _turn = self.lane(&lane).await;
                self.send_lane(&lane, None).await
            };
            match self.briefly(&domain, MOMENT, send).await {
                Err(error) if self.is_elsewhere(&error, &domain) => _ = silent.insert(domain),
                // Others at that homeserver are not.
                Err(ClientError::Late(_)) => {}
                outcome => _ = outcome?,
            }
        }
        Ok(())
    }

    /// Does something that nobody waits for, and gives it up for now if another homeserver takes too long. Whatever can be
    /// stopped by the end of the process can be stopped so.
    pub async fn briefly<T>(
        &self,
        domain: &Domain,
        limit: Duration,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        if domain == self.domain() {
            return work.await;
        }
        let late = |_| Err(ClientError::Unreachable(format!("{domain} takes too long")));
        timeout(limit, work).await.unwrap_or_else(late)
    }

    /// Whether what failed has to do with another homeserver alone, which cannot be reached or gives no tokens now.
    pub fn is_elsewhere(&self, error: &ClientError, domain: &Domain) -> bool {
        domain != self.domain() && matches!(error, ClientError::Unreachable(_) | ClientError::UsedUp(_))
    }

    /// Sends what waits in a lane, which the caller holds. Returns the answer to the request that has `mine` beside it;
    /// what became of the others is noted.
    pub async fn send_lane(self: &Arc<Self>, lane: &[u8], mine: Option<&[u8]>) -> Result<Option<Bytes>, ClientError> {
        let mut materials = Materials::default();
        let (mut answer, mut failure, mut lost) = (None, None, 0);
        while let Some(pending) = self.next_in(lane).await? {
            if let Some(group) = outbox::group_of(lane) {
                self.check_echo(&group).await?;
            }
            let is_mine = mine == Some(&pending.extra[..]);
            let outcome = match Box::pin(self.deliver(&pending)).await {
                Ok(Settled::Lost) if lost >= ATTEMPTS => {
                    Err(ClientError::invalid("other members were first too many times; try again"))
                }
                Ok(Settled::Lost) => {
                    lost += 1;
                    tokio::time::sleep(jittered(RACE_PAUSE)).await;
                    Box::pin(self.make_again(&pending, &mut materials)).await
                }
                Ok(Settled::Done(bytes)) => {
                    lost = 0;
                    Ok(Some(bytes))
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(None) => {}
                Ok(Some(bytes)) if is_mine => answer = Some(bytes),
                Ok(Some(_)) => {}
                Err(error) if error.is_passing() => {
                    return Err(error);
                }
                Err(error) => {
                    let text = format!("{} could not be carried out: {error}", pending.words());
                    let (now, number) = (self.trust.now(), pending.number);
                    self.database
                        .run(move |connection| {
                            // What lost its race and cannot be made again is still there.
                            outbox::remove(connection, number)?;
                            if is_mine { Ok(()) } else { inbox::problem(connection, &text, now) }
                        })
                        .await?;
                    if is_mine {
                        failure = Some(error);
                    }
                }
            }
        }
        failure.map_or(Ok(answer), Err)
    }

    async fn next_in(&self, lane: &[u8]) -> Result<Option<Pending>, ClientError> {
        let lane = lane.to_vec();
        self.database.run(move |connection| outbox::next(connection, &lane)).await
    }

    /// Sends one request and records what became of it.
    pub async fn deliver(self: &Arc<Self>, pending: &Pending) -> Result<Settled, ClientError> {
        let (proven_by, outcome) = match self.proving_chat(pending).await {
            Ok(chat) => (chat.clone(), self.transmit(pending, chat).await),
            Err(error) => (None, Err(error)),
        };
        let row = pending.clone();
        match outcome {
            Ok(answer) => {
                let now = self.trust.now().0;
                self.database.run(move |connection| done(connection, &row, now / 1000)).await?;
                if pending.method == Method::AsUpdateUserProfile {
                    self.reload_account().await?;
                }
                if pending.kind == Kind::Commit {
                    self.await_echo(&pending.lane).await?;
                }
                Ok(Settled::Done(answer))
            }
            Err(ClientError::Refused(refusal)) if is_race(pending, refusal.status) => {
                self.database.run(move |connection| lose(connection, &row)).await?;
                Ok(Settled::Lost)
            }
            Err(error @ (ClientError::Refused(_) | ClientError::Local(Local::NotFound, _))) => {
                if self.was_done(pending, &error).await? {
                    return Ok(Settled::Done(Bytes::new()));
                }
                let status = if let ClientError::Refused(refusal) = &error { Some(refusal.status) } else { None };
                self.database.run(move |connection| undo(connection, &row, status)).await?;
                Err(self.explained(pending, proven_by, error).await)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a refused request was carried out before, and its answer got lost with the proof of its sender.
    async fn was_done(self: &Arc<Self>, pending: &Pending, error: &ClientError) -> Result<bool, ClientError> {
        let unknown = error.status() == Status::Unauthenticated.name() || error.status() == Status::NotFound.name();
        let done = match pending.kind {
            Kind::Leave => unknown && self.has_left(pending).await?,
            Kind::Resync => unknown && self.has_resynced(pending).await?,
            _ => return self.was_deleted(pending).await,
        };
        if done {
            let (row, now) = (pending.clone(), self.trust.now().seconds());
            self.database.run(move |connection| self::done(connection, &row, now)).await?;
        }
        Ok(done)
    }

    /// Why the DS does not believe that this client is a member, if the reason is on its way.
    async fn explained(
        self: &Arc<Self>,
        pending: &Pending,
        proven_by: Option<Chat>,
        error: ClientError,
    ) -> ClientError {
        if error.status() == Status::NotFound.name()
            && matches!(pending.kind, Kind::Message | Kind::Commit | Kind::Leave)
        {
            // The DS may have dropped a group that was not used for too long, which it tells nobody.
            let lane = pending.lane.clone();
            let compare = move |connection: &Connection| {
                outbox::add_chore(connection, &Chore::Compare(GroupId::from_slice(&lane)?))
            };
            return self.database.run(compare).await.err().unwrap_or(error);
        }
        if error.status() != Status::Unauthenticated.name() || outbox::group_of(&pending.lane).is_none() {
            return error;
        }
        let now = async || {
            let lane = pending.lane.clone();
            let find = move |connection: &Connection| {
                let chat = chats::require_active(connection, &GroupId::from_slice(&lane)?)?;
                let epoch = mls::find(&Provider::new(connection), &chat.group)?.map(|state| state.epoch());
                Ok((chat, epoch))
            };
            self.database.run(find).await
        };
        let before = now().await.map(|(_, epoch)| epoch);
        if self.drain(Queue::Client).await.is_err() {
            return error;
        }
        let is_same = |chat: &Chat| {
            proven_by.is_none_or(|proven| (proven.leaf, proven.leaf_seed) == (chat.leaf, chat.leaf_seed.clone()))
        };
        match (before, now().await) {
            (_, Err(reason)) => reason,
            // While the request was under way, or only now; and the package it was added by may be the same as the last time.
            (Ok(before), Ok((chat, epoch))) if !is_same(&chat) || before != epoch => {
                ClientError::invalid("you were removed from this chat and added again: try again")
            }
            _ => error,
        }
    }

    /// Whether a group that the DS does not know any more is gone because it accepted this request, and said so to nobody.
    async fn was_deleted(self: &Arc<Self>, pending: &Pending) -> Result<bool, ClientError> {
        if pending.kind != Kind::Commit || Intent::of(&pending.extra)? != Intent::Delete {
            return Ok(false);
        }
        self.drain(Queue::Client).await?;
        let (group, number) = (GroupId::from_slice(&pending.lane)?, pending.number);
        self.database
            .run(move |connection| {
                let gone = mls::load(&Provider::new(connection), &group).is_err();
                if gone {
                    outbox::remove(connection, number)?;
                }
                Ok(gone)
            })
            .await
    }

    /// The own commit comes back through the queue, and is merged then.
    async fn await_echo(self: &Arc<Self>, lane: &[u8]) -> Result<(), ClientError> {
        let group = GroupId::from_slice(lane)?;
        let mut retries = super::network::Retries::new(Duration::from_secs(30));
        loop {
            self.drain(Queue::Client).await?;
            let of = group.clone();
            let is_over = move |connection: &Connection| {
                // A queue that is started anew is compared with then.
                Ok::<_, ClientError>(
                    !has_pending_commit(connection, &of)? || queues::is_restarting(connection, Queue::Client)?,
                )
            };
            if self.database.run(is_over).await? {
                return Ok(());
            }
            if !retries.pause(None).await {
                return Err(ClientError::Unreachable("the accepted commit has not come back yet".into()));
            }
        }
    }

    /// Makes a request that lost the race again, for the epoch that the group is in now. `Some` if nothing is left to
    /// do.
    async fn make_again(
        self: &Arc<Self>,
        pending: &Pending,
        materials: &mut Materials,
    ) -> Result<Option<Bytes>, ClientError> {
        let group = GroupId::from_slice(&pending.lane)?;
        if matches!(pending.kind, Kind::Message | Kind::Commit | Kind::Leave) {
            self.catch_up(&group).await?;
        } else {
            self.drain(Queue::Client).await?;
        }
        match pending.kind {
            Kind::Leave => {
                let made = self.prepare_leave(&group, pending.extra.clone(), Some(pending.number)).await?;
                Ok(if made { None } else { Some(Bytes::new()) })
            }
            Kind::Resync => {
                let made =
                    self.prepare_resync(&group, Reason::Lost, pending.extra.clone(), Some(pending.number)).await?;
                Ok(if made.is_some() { None } else { Some(Bytes::new()) })
            }
            Kind::Message => {
                let message = ApplicationMessage::from_slice(&pending.extra)?;
                self.prepare_message(&group, message, Some(pending.number)).await?;
                Ok(None)
            }
            Kind::Commit => {
                let intent = Intent::of(&pending.extra)?;
                let (extra, replaced) = (pending.extra.clone(), Some(pending.number));
                let made = self.prepare_commit(&group, &intent, extra, materials, replaced).await?;
                Ok(if made.is_some() { None } else { Some(Bytes::new()) })
            }
            _ => Err(ClientError::invalid("the group changed meanwhile")),
        }
    }
}

impl Core {
    /// Takes in what others did. If that was nothing, the state is another than the DS's, and this client comes back; unless
    /// what they did may be on its way from another homeserver, as long as that takes.
    async fn catch_up(self: &Arc<Self>, group: &GroupId) -> Result<(), ClientError> {
        let now_at = async || {
            let of = group.clone();
            let point = move |connection: &Connection| {
                let state = mls::load(&Provider::new(connection), &of).ok();
                Ok::<_, ClientError>(state.map(|state| (state.epoch(), state.pending_proposals().count())))
            };
            self.database.run(point).await
        };
        let before = now_at().await?;
        self.drain(Queue::Client).await?;
        if before.is_some() && now_at().await? == before {
            Box::pin(self.come_back(group, Reason::Missing)).await?;
        }
        Ok(())
    }

    /// A commit of this client that the DS has accepted comes back through the queue, from another homeserver perhaps late.
    /// What it has changed here is not in effect before, and nothing else is sent: it would be refused, or proven with a key
    /// that the leaf has no more.
    pub async fn check_echo(self: &Arc<Self>, group: &GroupId) -> Result<(), ClientError> {
        if self.is_echo_late(group).await? { Err(on_its_way(group)) } else { Ok(()) }
    }

    /// Whether such a commit has not come back yet.
    pub async fn is_echo_late(self: &Arc<Self>, group: &GroupId) -> Result<bool, ClientError> {
        if group.domain == *self.domain() {
            return Ok(false);
        }
        let missing = async || {
            let of = group.clone();
            self.database.run(move |connection| is_echo_missing(connection, &of)).await
        };
        if !missing().await? {
            return Ok(false);
        }
        self.drain(Queue::Client).await?;
        missing().await
    }

    /// Sends a Resync ahead of what else waits in the lane, which the caller holds.
    pub async fn come_back(self: &Arc<Self>, group: &GroupId, mut reason: Reason) -> Result<(), ClientError> {
        let mut replaced = None;
        for _ in 0..ATTEMPTS {
            let extra = random::<16>(&mut system_rng()).to_vec();
            let Some(pending) = self.prepare_resync(group, reason, extra, replaced).await? else { return Ok(()) };
            match Box::pin(self.deliver(&pending)).await? {
                Settled::Done(_) => return self.drain(Queue::Client).await,
                // What it was made for is there no more.
                Settled::Lost => (replaced, reason) = (Some(pending.number), Reason::Lost),
            }
        }
        Err(ClientError::invalid("the group changes too fast; try again"))
    }
}

/// Whether somebody else was first, or this client itself, in a time that it does not remember.
fn is_race(pending: &Pending, status: Status) -> bool {
    match pending.kind {
        Kind::Message if status == Status::TokenSpent => true,
        Kind::Message | Kind::Commit | Kind::Leave | Kind::Resync => {
            matches!(status, Status::WrongEpoch | Status::PendingProposals)
        }
        _ => false,
    }
}

/// Whether a commit of this client was accepted and has not come back, and still may.
fn is_echo_missing(connection: &Connection, group: &GroupId) -> Result<bool, ClientError> {
    Ok(has_pending_commit(connection, group)?
        && !outbox::has_commit(connection, &lane_of(group))?
        && !queues::is_restarting(connection, Queue::Client)?)
}

/// Whether a commit of this client is under way.
pub fn has_pending_commit(connection: &Connection, group: &GroupId) -> Result<bool, ClientError> {
    let has_state =
        chats::find(connection, group)?.is_some_and(|chat| chat.state.is_live() || chat.state == ChatState::Declined);
    if !has_state {
        return Ok(false);
    }
    Ok(mls::find(&Provider::new(connection), group)?.is_some_and(|group| group.pending_commit().is_some()))
}

/// A request was carried out.
fn done(connection: &Connection, pending: &Pending, now: u64) -> Result<(), ClientError> {
    if !outbox::remove(connection, pending.number)? {
        return Ok(());
    }
    match pending.kind {
        Kind::Create => {
            let chat = chats::require(connection, &GroupId::from_slice(&pending.lane)?)?;
            let state = if chat.kind == ChatKind::Connection { ChatState::Waiting } else { ChatState::Active };
            if chat.state == ChatState::Starting { chats::set_state(connection, &chat.group, state) } else { Ok(()) }
        }
        Kind::Join => {
            let group = GroupId::from_slice(&pending.lane)?;
            let id = std::str::from_utf8(&pending.extra).map_err(ClientError::storage)?;
            let Some(offer) = contacts::request(connection, id)? else { return Ok(()) };
            chats::set_state(connection, &group, ChatState::Active)?;
            contacts::answer_request(connection, &offer.offer_id)?;
            let user = &offer.credential.request.payload.client.user;
            contacts::put_name(connection, user, &super::direct::tidy(&offer.profile.name.0), now)?;
            let contact = Contact::new(offer.credential, offer.friendship, group);
            contacts::insert_contact(connection, &contact)?;
            blocking::connected(connection, &contact.chat)
        }
        Kind::Simple if is_new_name(pending) => account_changes::profile_uploaded(connection),
        Kind::Leave => leaving::left(connection, &GroupId::from_slice(&pending.lane)?),
        Kind::Resync => {
            let group = GroupId::from_slice(&pending.lane)?;
            resync::accepted(connection, &group)?;
            outbox::remove_chore(connection, &Chore::Refresh(group))
        }
        Kind::Commit => outbox::remove_chore(connection, &Chore::Refresh(GroupId::from_slice(&pending.lane)?)),
        Kind::Message | Kind::Simple => Ok(()),
    }
}

/// A request lost the race for its epoch.
fn lose(connection: &Connection, pending: &Pending) -> Result<(), ClientError> {
    match pending.kind {
        Kind::Commit => forget_commit(connection, &GroupId::from_slice(&pending.lane)?),
        Kind::Leave => leaving::stay(connection, &GroupId::from_slice(&pending.lane)?),
        _ => Ok(()),
    }
}

/// The commit of this client that is under way will not come about.
pub fn forget_commit(connection: &Connection, group: &GroupId) -> Result<(), ClientError> {
    chats::set_next_leaf(connection, group, None)?;
    let provider = Provider::new(connection);
    match mls::find(&provider, group)? {
        Some(mut group) => Ok(group.clear_pending_commit(provider.storage())?),
        None => Ok(()),
    }
}

/// Packages were not published. With them a queue that cannot be read may have been to begin anew: its next entry asks for that
/// again.
fn publication_refused(connection: &Connection, queue: Queue, chore: &Chore, is_busy: bool) -> Result<(), ClientError> {
    queues::set_restarting(connection, queue, false)?;
    if is_busy { outbox::add_chore(connection, chore) } else { Ok(()) }
}

/// A request was refused, and what was prepared for it goes.
fn undo(connection: &Connection, pending: &Pending, refused: Option<Status>) -> Result<(), ClientError> {
    if !outbox::remove(connection, pending.number)? {
        return Ok(());
    }
    let provider = Provider::new(connection);
    let is_busy = refused.is_some_and(is_busy);
    match pending.kind {
        Kind::Simple if matches!(pending.method, Method::AsEnqueue | Method::AsEnqueueAlias) => {
            // The offer that a connection group was made for; a notice leaves nothing behind.
            let Some(group) = outbox::group_of(&pending.lane) else { return Ok(()) };
            contacts::remove_offer(connection, &group)?;
            chats::set_state(connection, &group, ChatState::Declined)?;
            outbox::add_chore(connection, &Chore::Delete(group))
        }
        Kind::Simple if is_new_name(pending) => account_changes::profile_refused(connection),
        Kind::Simple if pending.method == Method::QsPublishKeyPackages && is_busy => {
            outbox::add_chore(connection, &Chore::KeyPackages)
        }
        Kind::Simple if pending.method == Method::AsPublishConnectionPackages => {
            publication_refused(connection, Queue::Direct, &Chore::ConnectionPackages, is_busy)
        }
        Kind::Simple if pending.method == Method::AsPublishAliasPackages => {
            let alias = AliasId(pending.extra[..].try_into().map_err(ClientError::storage)?);
            publication_refused(connection, Queue::Alias(alias), &Chore::AliasPackages(alias), is_busy)
        }
        Kind::Simple if pending.method == Method::DsUpdateQueueInfo && is_busy => {
            outbox::add_chore(connection, &Chore::QueueConfig(GroupId::from_slice(&pending.lane)?))
        }
        Kind::Message | Kind::Simple => Ok(()),
        Kind::Commit => forget_commit(connection, &GroupId::from_slice(&pending.lane)?),
        Kind::Leave => leaving::stay(connection, &GroupId::from_slice(&pending.lane)?),
        Kind::Resync => {
            // The state that it would have led to is nobody else's.
            let group = GroupId::from_slice(&pending.lane)?;
            if matches!(refused, Some(Status::Unauthenticated | Status::NotFound)) {
                return resync::removed(connection, &group);
            }
            mls::delete(&provider, &group)?;
            outbox::add_chore(connection, &Chore::Compare(group))
        }
        Kind::Create => {
            let group = GroupId::from_slice(&pending.lane)?;
            mls::delete(&provider, &group)?;
            contacts::remove_offer(connection, &group)?;
            chats::remove(connection, &group)?;
            outbox::clear(connection, &pending.lane)
        }
        Kind::Join => {
            let group = GroupId::from_slice(&pending.lane)?;
            mls::delete(&provider, &group)?;
            chats::remove(connection, &group)?;
            let gone = matches!(refused, Some(Status::NotFound | Status::Forbidden));
            let id = std::str::from_utf8(&pending.extra).map_err(ClientError::storage)?;
            match contacts::request(connection, id)? {
                Some(offer) if gone => contacts::answer_request(connection, &offer.offer_id),
                _ => Ok(()),
            }
        }
    }
}

/// The lane of a group.
pub fn lane_of(group: &GroupId) -> Vec<u8> {
    group.to_vec()
}

/// Whether a request changes the display name; one without that beside it only tells the homeserver what it was.
fn is_new_name(pending: &Pending) -> bool {
    pending.method == Method::AsUpdateUserProfile && !pending.extra.is_empty()
}
