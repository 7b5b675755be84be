//! Coming back: a client whose MLS state of a group is lost, rolled back or not what the DS has takes its old leaf's place
//! by an external commit. The leaf keeps its key and its identity.

use std::{cmp::Ordering, sync::Arc, time::Duration};

use openmls::prelude::{
    GroupEpoch, LeafNodeParameters, MlsGroup, MlsMessageBodyIn, OpenMlsProvider as _, PublicMessageIn,
};
use rusqlite::Connection;
use tls_codec::Serialize as _;

use super::{
    account::Account,
    blocking,
    commit::{commit_bundle, member_info},
    core::Core,
    error::ClientError,
    event::Event,
    group, members,
    mls::{self, Provider},
    network::Sender,
    outgoing::lane_of,
    packages, restored,
    state::{
        chats::{self, Chat, ChatState},
        history::{self, EarlierLeaf},
        inbox,
        outbox::{self, Chore, Kind, New, Pending},
        queues::Queue,
    },
    trust::Trust,
};
use crate::{
    base::{Domain, GroupId, Secret, Status, Timestamp},
    crypto::{mls as protocol, random, signature::SigningKey, system_rng},
    wire::{
        Decode, Encode, Method, Opaque, SenderId,
        delivery::{CommitAad, ExternalCommitInfo, GetExternalCommitInfo, GroupAccess, Resync},
        envelope::LeafId,
        method::call,
        queuing::QueuingHpkeKey,
    },
};

/// How long what another homeserver has not delivered yet is waited for at most before this client comes back without it.
const ON_ITS_WAY: Duration = Duration::from_secs(86_400);

/// How much the clocks here and there may be set right by while something is on its way.
const CLOCKS: Duration = Duration::from_secs(30);

/// Why a client compares its state of a group with the DS's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its own is lost, or of no use: it comes back whatever the DS has.
    Lost,
    /// The DS has proposed its removal: the same, but what is on its way from another homeserver can still be read.
    Doomed,
    /// Something is missing, or late: it comes back if the DS has another state, and nothing is on its way.
    Missing,
}

/// What came of comparing.
enum Compared {
    /// There is nothing to do.
    Same,
    /// What has happened is on its way.
    Late,
    /// This client comes back.
    Back(Pending, Vec<Event>),
}

impl Core {
    /// Compares the own state of a group with the DS's, and comes back into the group where that is called for.
    pub async fn resync(self: &Arc<Self>, group: &GroupId, reason: Reason) -> Result<(), ClientError> {
        let lane = lane_of(group);
        let _turn = self.lane(&lane).await;
        if self.is_echo_late(group).await? {
            // Nothing else is sent before that comes.
            return self.come_back(group, reason).await;
        }
        // A request that waits has been made for the state that is there.
        self.send_lane(&lane, None).await?;
        self.drain(Queue::Client).await?;
        let extra = random::<16>(&mut system_rng()).to_vec();
        if self.prepare_resync(group, reason, extra.clone(), None).await?.is_some() {
            self.send_lane(&lane, Some(&extra)).await?;
        }
        Ok(())
    }

    /// Puts the external commit into the outbox, in place of the request `replaced`; none if the state is as the DS has it.
    /// The caller holds the lane.
    pub async fn prepare_resync(
        self: &Arc<Self>,
        group: &GroupId,
        reason: Reason,
        extra: Vec<u8>,
        replaced: Option<i64>,
    ) -> Result<Option<Pending>, ClientError> {
        let of = group.clone();
        let chat = self.database.run(move |connection| chats::find(connection, &of)).await?;
        let Some(chat) = chat.filter(|chat| chat.state.is_live()) else { return Ok(None) };
        let before = self.epoch(group).await?;
        let asked = self.trust.now();
        let (other, chat, info) = match self.external_commit_info(&chat, chat.leaf).await {
            Err(error) if is_unknown(&error) => match self.as_another_leaf(&chat).await? {
                Some((leaf, info)) => (Some(leaf), chat, info),
                None => return self.give_up(chat, reason).await.map(|()| None),
            },
            info => (None, chat, info?),
        };
        let queuing_key = self.queuing_key().await?;
        if reason != Reason::Lost {
            // Whatever led to the state that the DS has told of is in the queue, or on its way from another homeserver.
            self.drain(Queue::Client).await?;
        }
        let core = self.clone();
        let compared = self
            .database
            .run(move |connection| {
                if !outbox::replace(connection, replaced)? {
                    return Ok(Compared::Same);
                }
                let (account, trust) = (&*core.account(), &*core.trust);
                Build { connection, account, trust, chat, other, before, asked, info, queuing_key }.run(reason, extra)
            })
            .await?;
        match compared {
            Compared::Same => Ok(None),
            // An error only now: since when that is so has to be remembered.
            Compared::Late => Err(on_its_way(group)),
            Compared::Back(pending, events) => {
                self.publish(events).await;
                Ok(Some(pending))
            }
        }
    }

    /// The DS knows this client by the key that a commit under way gives its leaf, which was accepted and has not come back; or by
    /// one that its leaf had before, because the DS was restored from a backup.
    async fn as_another_leaf(&self, chat: &Chat) -> Result<Option<(EarlierLeaf, ExternalCommitInfo)>, ClientError> {
        let of = chat.clone();
        let leaves = self.database.run(move |connection| {
            let mut leaves = history::earlier_leaves(connection, &of.group)?;
            if let Some(seed) = of.next_leaf {
                let known = chats::members(connection, &of.group)?;
                let own = known.into_iter().find(|member| member.leaf == of.leaf);
                leaves.splice(0..0, own.map(|own| EarlierLeaf { leaf: of.leaf, seed, identity: own.identity }));
            }
            Ok::<_, ClientError>(leaves)
        });
        for leaf in leaves.await? {
            let other = Chat { leaf_seed: leaf.seed.clone(), ..chat.clone() };
            match self.external_commit_info(&other, leaf.leaf).await {
                Err(error) if is_unknown(&error) => {}
                info => return Ok(Some((leaf, info?))),
            }
        }
        Ok(None)
    }

    /// The DS does not know this client as the member that it was. Unless the queue tells how that came about, or still may if
    /// the DS is another homeserver's, it was removed while it could not read that.
    async fn give_up(self: &Arc<Self>, chat: Chat, reason: Reason) -> Result<(), ClientError> {
        let before = self.epoch(&chat.group).await?;
        self.drain(Queue::Client).await?;
        let epoch = self.epoch(&chat.group).await?;
        if epoch != before {
            return Ok(());
        }
        // The DS does not say whether anything is on its way.
        let awaited = epoch.filter(|_| reason != Reason::Lost && chat.group.domain != *self.domain());
        let (group, now) = (chat.group.clone(), self.trust.now());
        let events = self.database.run(move |connection| {
            let group = &chat.group;
            let was_restored = restored::was_lately(connection, &group.domain, now)?;
            if let Some(epoch) = awaited.filter(|_| !was_restored)
                && has_waited(connection, (group, epoch), false, now, now)? < ON_ITS_WAY
            {
                return Ok(None);
            }
            removed(connection, group)?;
            let why = if was_restored { ", which was restored from a backup," } else { "" };
            let text =
                format!("the homeserver of {group}{why} does not have this client in it any more: the chat is over");
            inbox::problem(connection, &text, now)?;
            Ok::<_, ClientError>(Some(vec![Event::Problem(text), Event::Removed { chat: group.clone() }]))
        });
        self.publish(events.await?.ok_or_else(|| on_its_way(&group))?).await;
        Ok(())
    }

    /// The epoch of a group as it is here, unless its state is lost.
    async fn epoch(&self, group: &GroupId) -> Result<Option<GroupEpoch>, ClientError> {
        let group = group.clone();
        let find = move |connection: &Connection| mls::find(&Provider::new(connection), &group);
        Ok(self.database.run(find).await?.map(|state| state.epoch()))
    }

    /// Whether a Resync whose answer is not known was accepted: then the new leaf is a member.
    pub async fn has_resynced(&self, pending: &Pending) -> Result<bool, ClientError> {
        let group = GroupId::from_slice(&pending.lane)?;
        let found = self
            .database
            .run(move |connection| {
                let chat = chats::require(connection, &group)?;
                let leaf = mls::load(&Provider::new(connection), &group).map(|state| state.own_leaf_index().u32());
                Ok::<_, ClientError>((chat, leaf.ok()))
            })
            .await?;
        let (chat, Some(leaf)) = found else { return Ok(false) };
        match self.external_commit_info(&chat, leaf).await {
            Ok(_) => Ok(true),
            Err(error) if is_unknown(&error) => Ok(false),
            // It does not say.
            Err(ClientError::Refused(refusal)) => Err(ClientError::Unreachable(refusal.message.into_owned())),
            Err(error) => Err(error),
        }
    }

    async fn external_commit_info(&self, chat: &Chat, leaf: u32) -> Result<ExternalCommitInfo, ClientError> {
        let group = &chat.group;
        let access = GroupAccess { group: group.clone(), ear_key: chat.ear_key.clone() };
        let key = SigningKey::from_seed(chat.leaf_seed.clone())?;
        let sender = Sender::Bound(SenderId::DsLeaf(LeafId { group: group.clone(), leaf }), &key);
        let (isolation, request) = (self.delivery(group), GetExternalCommitInfo { access });
        self.network.call::<call::DsExternalCommitInfo>(&group.domain, isolation, sender, &request).await
    }
}

/// Whether the DS does not know a member, or its group.
fn is_unknown(error: &ClientError) -> bool {
    let statuses = [Status::Unauthenticated, Status::NotFound];
    matches!(error, ClientError::Refused(refusal) if statuses.contains(&refusal.status))
}

/// The Resync was accepted.
pub fn accepted(connection: &Connection, group: &GroupId) -> Result<(), ClientError> {
    let leaf = mls::load(&Provider::new(connection), group)?.own_leaf_index().u32();
    chats::set_leaf(connection, group, leaf)
}

/// This client is no member any more.
pub fn removed(connection: &Connection, group: &GroupId) -> Result<(), ClientError> {
    mls::delete(&Provider::new(connection), group)?;
    chats::put_members(connection, group, &[])?;
    chats::set_state(connection, group, ChatState::Removed)
}

struct Build<'a> {
    connection: &'a Connection,
    account: &'a Account,
    trust: &'a Trust,
    chat: Chat,
    /// What the DS takes its leaf for, if that is not what is known here.
    other: Option<EarlierLeaf>,
    /// The epoch that this client was in before it asked for the DS's state.
    before: Option<GroupEpoch>,
    /// When it did.
    asked: Timestamp,
    info: ExternalCommitInfo,
    queuing_key: QueuingHpkeKey,
}

impl Build<'_> {
    fn run(self, reason: Reason, extra: Vec<u8>) -> Result<Compared, ClientError> {
        let (mut rng, provider) = (system_rng(), Provider::new(self.connection));
        let info = mls::group_info(self.info.group_info.as_slice())?;
        if *info.group_id() != protocol::group_id(&self.chat.group) {
            return Err(ClientError::untrusted("the DS gave another group than was asked for"));
        }
        let current = mls::load(&provider, &self.chat.group).ok();
        // Every commit of another leaves another tree. The group may have gone on since the DS was asked, but not before.
        let tree = |state: &MlsGroup| state.export_ratchet_tree().tls_serialize_detached().ok();
        let epoch = current.as_ref().map(MlsGroup::epoch);
        let same = current.is_some_and(|state| match state.epoch().cmp(&info.epoch()) {
            Ordering::Less => false,
            Ordering::Equal => tree(&state).as_deref() == Some(self.info.ratchet_tree.as_slice()),
            Ordering::Greater => self.before.is_some_and(|before| before <= info.epoch()),
        });
        if same && reason == Reason::Missing {
            return chats::set_level(self.connection, &self.chat.group).map(|()| Compared::Same);
        }
        let now = self.trust.now();
        if let (Some(epoch), Some(oldest)) = (epoch.filter(|_| reason != Reason::Lost), self.info.undelivered) {
            let (of, is_doomed) = ((&self.chat.group, epoch), reason == Reason::Doomed);
            let waited = has_waited(self.connection, of, is_doomed, self.asked, now)?;
            // What it misses was sent before it knew, and all of that has arrived once nothing has waited for longer than it has.
            // If it is to be removed, what was sent since counts as well.
            let may_come = is_doomed || waited <= Duration::from_secs(oldest).saturating_add(CLOCKS);
            if may_come && waited < ON_ITS_WAY {
                return Ok(Compared::Late);
            }
        }
        if !same {
            let text = format!("the state of {} is not what its members have: rejoined", self.chat.group);
            inbox::problem(self.connection, &text, now)?;
        }
        let (identity, seed) = self.own_leaf()?;
        let key = SigningKey::from_seed(seed.clone())?;
        let (leaf, chain) = self.account.leaf_for(&key, Some(identity), now.day(), &mut rng);
        let profile_key = &self.account.keys.friendship.user_profile_key;
        let own = member_info(&self.chat, &leaf.verifying_key, &chain, profile_key, &mut rng);
        let aad = CommitAad { added: Vec::new(), own: Some(own), friendship_package: None };

        if let Some(other) = &self.other {
            chats::renew_leaf(self.connection, &self.chat.group, &seed, now.0)?;
            chats::set_leaf(self.connection, &self.chat.group, other.leaf)?;
        }
        mls::delete(&provider, &self.chat.group)?;
        let parameters = LeafNodeParameters::builder().with_capabilities(protocol::capabilities()).build();
        let (joined, bundle) = MlsGroup::external_commit_builder()
            .with_ratchet_tree(mls::ratchet_tree(self.info.ratchet_tree.as_slice())?)
            .with_proposals(self.info.proposals.iter().map(public_message).collect::<Result<_, _>>()?)
            .with_config(mls::join_config())
            .with_aad(aad.to_vec())
            // KeyPackages of members who never committed may have expired since they were added.
            .skip_lifetime_validation()
            .build_group(&provider, info, mls::credential_with_key(&leaf))
            .map_err(mls::failed)?
            .leaf_node_parameters(parameters)
            .load_psks(provider.storage())
            .map_err(mls::failed)?
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(provider.rand(), provider.crypto(), &key, |_| true)
            .map_err(mls::failed)?
            .finalize(&provider)
            .map_err(mls::failed)?;
        let infos = self.info.members.iter().map(|of| (of.leaf, of.info.clone())).collect();
        let mut events =
            members::rebuild(self.connection, (self.account, self.trust), &self.chat, &joined, &leaf, infos)?;
        events.extend(group::rename(self.connection, &self.chat, &joined)?);
        let request = Resync {
            commit: commit_bundle(&self.chat, &bundle, &mut rng)?,
            queue_config: packages::queue_config(self.account, &self.queuing_key, &mut rng)?,
        };
        let new = New {
            domain: self.chat.group.domain.clone(),
            group: Some(self.chat.group),
            kind: Kind::Resync,
            method: Method::DsResync,
            body: request.to_vec(),
            extra,
        };
        Ok(Compared::Back(outbox::insert(self.connection, new)?, events))
    }
}

impl Build<'_> {
    /// The identity that the own leaf has at the DS, and the seed of its signature key.
    fn own_leaf(&self) -> Result<([u8; 32], Secret), ClientError> {
        if let Some(EarlierLeaf { identity, seed, .. }) = &self.other {
            return Ok((*identity, seed.clone()));
        }
        let known = chats::members(self.connection, &self.chat.group)?;
        let own = known.iter().find(|member| member.leaf == self.chat.leaf);
        let own = own.ok_or_else(|| ClientError::storage("the own leaf is not known"))?;
        Ok((own.identity, self.chat.leaf_seed.clone()))
    }
}

/// For how long this client had waited, when it `asked` the DS, for what is on its way to it in this epoch.
fn has_waited(
    connection: &Connection,
    (group, epoch): (&GroupId, GroupEpoch),
    is_doomed: bool,
    asked: Timestamp,
    now: Timestamp,
) -> Result<Duration, ClientError> {
    let since = chats::behind_since(connection, group, epoch.as_u64(), is_doomed, now)?;
    Ok(Duration::from_millis(asked.0.saturating_sub(since.0)))
}

/// A group has gone on, and what happened in it will come.
pub fn on_its_way(group: &GroupId) -> ClientError {
    ClientError::Late(format!("what has happened in {group} is still on its way from {}", group.domain))
}

fn public_message(message: &Opaque) -> Result<PublicMessageIn, ClientError> {
    match mls::message(message.as_slice())?.extract() {
        MlsMessageBodyIn::PublicMessage(message) => Ok(message),
        _ => Err(ClientError::untrusted("a stored proposal that is no PublicMessage")),
    }
}

/// This client's state is an old copy: what its groups, or those of one homeserver only, have seen of its keys is used no
/// more, and what the QS has been told since is told again as it is here.
pub fn went_back(connection: &Connection, only: Option<&Domain>) -> Result<(), ClientError> {
    outbox::refresh_all(connection, only)?;
    if only.is_none() {
        outbox::add_chore(connection, &Chore::Blocklist)?;
        blocking::renew_token(connection)?;
    }
    Ok(())
}
