//! Changing a group: every change is an intent, made into a commit for the epoch that the group is in, stored with the
//! state it leaves, and made again if another member's commit came first.

use std::{collections::HashMap, sync::Arc};

use openmls::{
    group::QueuedProposal,
    prelude::{
        CommitMessageBundle, Extension, Extensions, GroupContext, KeyPackage, LeafNodeIndex, LeafNodeParameters,
        MlsGroup, NewSignerBundle, OpenMlsProvider as _, Proposal, Sender as MlsSender,
    },
};
use rusqlite::Connection;

use super::{
    account::Account,
    connector::Isolation,
    core::{ATTEMPTS, Core},
    error::ClientError,
    group::seal_group_data,
    mls::{self, Provider},
    network::Sender,
    outgoing::lane_of,
    packages, receive,
    resync::Reason,
    state::{
        chats::{self, Chat, ChatState},
        contacts::{self, Contact},
        outbox::{self, Kind, New, Pending},
        queues::Queue,
    },
    trust::Trust,
};
use crate::{
    base::{GroupId, Secret, Status, UserId},
    crypto::{
        Rng, aead,
        credential::{open_chain, seal_chain},
        hpke, mls as protocol, random, sha256, system_rng,
    },
    wire::{
        Decode, Encode, Method, Opaque, Reader, Text,
        connection::{WelcomeAttribution, WelcomeAttributionTbs},
        credential::{LeafChain, SignaturePublicKey},
        delivery::{
            AddUsers, CommitAad, CommitBundle, DeleteGroup, GroupAccess, Joiner, MemberInfo, RemoveUsers, Roles,
            UpdateClient, UpdateGroupContext,
        },
        label::{HpkeLabel, KeyLabel, SignatureLabel},
        method::call,
        padding::{MESSAGE_FLOOR, pad_value},
        queuing::{GetAddPackages, QueuingHpkeKey},
        registry::{GROUP_DATA_EXTENSION, ROLES_EXTENSION},
    },
};

/// What a commit is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Add contacts.
    Invite(Vec<UserId>),
    /// Remove users.
    Remove(Vec<UserId>),
    /// Remove everybody and delete the group.
    Delete,
    /// Remove a leaf that has no business here.
    Expel(SignaturePublicKey),
    /// Give the own leaf a fresh key, credential and queue config.
    Renew,
    /// Commit stored proposals, and renew the own encryption key.
    Update,
    /// The same, if there are stored proposals.
    Settle,
    /// Change what the group is called.
    Rename(String),
    /// Make members admins, and others not.
    Appoint(Vec<UserId>, Vec<UserId>),
}

impl Intent {
    /// Its encoding behind a fresh nonce, which tells it from another like it.
    pub fn with_nonce(&self) -> Vec<u8> {
        let mut out = random::<16>(&mut system_rng()).to_vec();
        match self {
            Self::Invite(users) => {
                out.push(1);
                users.encode(&mut out);
            }
            Self::Remove(users) => {
                out.push(2);
                users.encode(&mut out);
            }
            Self::Delete => out.push(3),
            Self::Expel(key) => {
                out.push(4);
                key.encode(&mut out);
            }
            Self::Renew => out.push(5),
            Self::Update => out.push(6),
            Self::Settle => out.push(7),
            Self::Rename(name) => {
                out.push(8);
                Text(name.clone()).encode(&mut out);
            }
            Self::Appoint(on, off) => {
                out.push(9);
                on.encode(&mut out);
                off.encode(&mut out);
            }
        }
        out
    }

    /// What [`Self::with_nonce`] encoded.
    pub fn of(encoded: &[u8]) -> Result<Self, ClientError> {
        let mut reader = Reader::new(bytes::Bytes::copy_from_slice(encoded));
        reader.take(16)?;
        Ok(match u8::decode(&mut reader)? {
            1 => Self::Invite(Vec::decode(&mut reader)?),
            2 => Self::Remove(Vec::decode(&mut reader)?),
            3 => Self::Delete,
            4 => Self::Expel(SignaturePublicKey::decode(&mut reader)?),
            5 => Self::Renew,
            6 => Self::Update,
            7 => Self::Settle,
            8 => Self::Rename(Text::decode(&mut reader)?.0),
            9 => Self::Appoint(Vec::decode(&mut reader)?, Vec::decode(&mut reader)?),
            _ => return Err(ClientError::storage("an unknown intent")),
        })
    }
}

/// What was fetched for a commit, to be used again if it loses the race.
#[derive(Default)]
pub struct Materials {
    joiners: HashMap<UserId, Vec<NewMember>>,
    queuing_key: Option<QueuingHpkeKey>,
}

/// A client about to be added.
#[derive(Clone)]
struct NewMember {
    key_package: KeyPackage,
    leaf_key: SignaturePublicKey,
    chain: LeafChain,
    profile_key: Secret,
    attribution_key: Secret,
}

impl Core {
    /// Carries out a change of a group.
    pub async fn change(self: &Arc<Self>, group: &GroupId, intent: Intent) -> Result<(), ClientError> {
        let (lane, extra, mut materials) = (lane_of(group), intent.with_nonce(), Materials::default());
        let _turn = self.lane(&lane).await;
        if self.prepare_commit(group, &intent, extra.clone(), &mut materials, None).await?.is_some() {
            self.send_lane(&lane, Some(&extra)).await?;
        }
        Ok(())
    }

    /// Puts a commit into the outbox, in place of the request `replaced`; none if there is nothing to do. The caller holds
    /// the lane.
    pub async fn prepare_commit(
        self: &Arc<Self>,
        group: &GroupId,
        intent: &Intent,
        extra: Vec<u8>,
        materials: &mut Materials,
        replaced: Option<i64>,
    ) -> Result<Option<Pending>, ClientError> {
        let of = group.clone();
        for _ in 0..ATTEMPTS {
            let of = of.clone();
            let is_under_way = move |connection: &Connection| {
                let waits = replaced.is_none() && outbox::has_commit(connection, &lane_of(&of))?;
                Ok::<_, ClientError>(waits || super::outgoing::has_pending_commit(connection, &of)?)
            };
            if !self.database.run(is_under_way).await? {
                break;
            }
            // One commit at a time: what is left of an earlier one goes first.
            if replaced.is_none() {
                Box::pin(self.send_lane(&lane_of(group), None)).await?;
            }
            self.drain(Queue::Client).await?;
        }
        self.check_echo(&of).await?;
        if let Some(reason) = self.must_come_back(&of).await? {
            Box::pin(self.come_back(&of, reason)).await?;
        }
        if let Intent::Invite(users) = intent {
            self.fetch_joiners(&of, users, materials).await?;
        }
        if *intent == Intent::Renew {
            materials.queuing_key = Some(self.queuing_key().await?);
        }
        let (core, intent, joiners) = (self.clone(), intent.clone(), materials.joiners.clone());
        let queuing_key = materials.queuing_key.clone();
        self.database
            .run(move |connection| {
                let build = Build { connection, account: &core.account(), trust: &core.trust, queuing_key };
                if !outbox::replace(connection, replaced)? {
                    return Ok(None);
                }
                build.run(&of, &intent, &joiners, extra)
            })
            .await
    }

    /// Whether this client can only come back from outside: its state is lost, or the DS has taken it for lost and proposed
    /// its removal.
    async fn must_come_back(&self, group: &GroupId) -> Result<Option<Reason>, ClientError> {
        let group = group.clone();
        self.database
            .run(move |connection| {
                let Some(state) = mls::find(&Provider::new(connection), &group)? else {
                    let chat = chats::find(connection, &group)?;
                    return Ok(chat.filter(|chat| chat.state == ChatState::Active).map(|_| Reason::Lost));
                };
                Ok(leaving(&state).contains(&state.own_leaf_index().u32()).then_some(Reason::Doomed))
            })
            .await
    }

    /// Fetches a KeyPackage of every client of users who are contacts and not members yet.
    async fn fetch_joiners(
        self: &Arc<Self>,
        group: &GroupId,
        users: &[UserId],
        materials: &mut Materials,
    ) -> Result<(), ClientError> {
        for user in users {
            let (of, who) = (group.clone(), user.clone());
            let (contact, is_member) = self
                .database
                .run(move |connection| {
                    let members = chats::members(connection, &of)?;
                    let is_member = members.iter().any(|member| member.is(&who));
                    Ok::<_, ClientError>((contacts::contact(connection, &who)?, is_member))
                })
                .await?;
            let contact = contact.ok_or_else(|| ClientError::not_found(format!("{user} is not a contact")))?;
            if !is_member && !materials.joiners.contains_key(user) {
                let joiners = self.fetch_current_packages(user, contact).await?;
                materials.joiners.insert(user.clone(), joiners);
            }
        }
        Ok(())
    }

    /// Fetches a KeyPackage of every client of a contact, which may have replaced its friendship token.
    async fn fetch_current_packages(
        self: &Arc<Self>,
        user: &UserId,
        contact: Contact,
    ) -> Result<Vec<NewMember>, ClientError> {
        match self.fetch_add_packages(user, &contact).await {
            Err(error) if error.status() == Status::NotFound.name() => {
                self.drain(Queue::Client).await?;
                let who = user.clone();
                let again = self.database.run(move |connection| contacts::contact(connection, &who)).await?;
                let old = &contact.friendship.friendship_token;
                match again.filter(|again| again.friendship.friendship_token != *old) {
                    Some(again) => self.fetch_add_packages(user, &again).await,
                    None => Err(error),
                }
            }
            outcome => outcome,
        }
    }

    async fn fetch_add_packages(&self, user: &UserId, contact: &Contact) -> Result<Vec<NewMember>, ClientError> {
        let friendship = &contact.friendship;
        let request = GetAddPackages { friendship_token: friendship.friendship_token.clone() };
        let domain = &user.domain;
        let answer =
            self.network.call::<call::QsGetAddPackages>(domain, Isolation::Anonymous, Sender::Nobody, &request).await?;
        let mut joiners = Vec::new();
        for package in answer.packages {
            let valid = protocol::validate_key_package(package.key_package.as_slice())?;
            let leaf_key = valid.credential.verifying_key.clone();
            let key = &friendship.friendship_encryption_key;
            let chain = open_chain(key, &leaf_key, package.sealed_chain.as_slice())?;
            let client = self.verify_client(&chain.credential).await?;
            let today = self.trust.now().day();
            let leaf = client.verify_leaf(&valid.credential, &chain.signature_encryption_key, today)?;
            if leaf.client.user != *user || valid.queue_config.domain != *domain {
                return Err(ClientError::untrusted(format!("the homeserver gave a package that is not of {user}")));
            }
            joiners.push(NewMember {
                key_package: valid.key_package,
                leaf_key,
                chain,
                profile_key: friendship.user_profile_key.clone(),
                attribution_key: friendship.welcome_attribution_key.clone(),
            });
        }
        if joiners.is_empty() {
            return Err(ClientError::not_found(format!("{user} has no client that can be added")));
        }
        Ok(joiners)
    }
}

/// Builds a commit in one transaction.
struct Build<'a> {
    connection: &'a Connection,
    account: &'a Account,
    trust: &'a Trust,
    queuing_key: Option<QueuingHpkeKey>,
}

/// What goes into a commit.
#[derive(Default)]
struct Plan {
    adds: Vec<NewMember>,
    removes: Vec<u32>,
    update: bool,
    extensions: Option<Extensions<GroupContext>>,
}

impl Build<'_> {
    fn run(
        &self,
        group: &GroupId,
        intent: &Intent,
        joiners: &HashMap<UserId, Vec<NewMember>>,
        extra: Vec<u8>,
    ) -> Result<Option<Pending>, ClientError> {
        let chat = chats::require(self.connection, group)?;
        let may_change = chat.state.is_live() || (chat.state == ChatState::Declined && *intent == Intent::Delete);
        if !may_change {
            chats::require_active(self.connection, group)?;
        }
        let provider = Provider::new(self.connection);
        let mut state = mls::load(&provider, group)?;
        let Some(mut plan) = self.plan(&chat, &state, intent, joiners)? else { return Ok(None) };
        // Whose removal is stored already is removed by that.
        let stored = leaving(&state);
        plan.removes.retain(|leaf| !stored.contains(leaf));
        let mut rng = system_rng();
        let (method, body) = match intent {
            Intent::Renew => self.renew(&chat, &provider, &mut state, &mut rng)?,
            _ => self.commit(&chat, intent, &plan, &provider, &mut state, &mut rng)?,
        };
        let domain = group.domain.clone();
        let new = New { group: Some(group.clone()), kind: Kind::Commit, method, domain, body, extra };
        outbox::insert(self.connection, new).map(Some)
    }

    /// What is to be done now; nothing if the group is as wanted already.
    fn plan(
        &self,
        chat: &Chat,
        state: &MlsGroup,
        intent: &Intent,
        joiners: &HashMap<UserId, Vec<NewMember>>,
    ) -> Result<Option<Plan>, ClientError> {
        let members = chats::members(self.connection, &chat.group)?;
        let is_member = |user: &UserId| members.iter().any(|member| member.is(user));
        let leaves = |wanted: &dyn Fn(&chats::Member) -> bool| -> Vec<u32> {
            members
                .iter()
                .filter(|member| member.leaf != chat.leaf && wanted(member))
                .map(|member| member.leaf)
                .collect()
        };
        let plan = match intent {
            Intent::Invite(users) => {
                let adds = users.iter().filter(|user| !is_member(user)).filter_map(|user| joiners.get(user));
                let plan = Plan { adds: adds.flatten().cloned().collect(), ..Plan::default() };
                return Ok((!plan.adds.is_empty()).then_some(plan));
            }
            Intent::Remove(users) => {
                if users.contains(&self.account.client.user) {
                    return Err(ClientError::invalid("you cannot remove yourself"));
                }
                Plan { removes: leaves(&|member| users.iter().any(|user| member.is(user))), ..Plan::default() }
            }
            Intent::Expel(key) => Plan { removes: leaves(&|member| member.key == *key), ..Plan::default() },
            Intent::Delete => return Ok(Some(Plan { removes: leaves(&|_| true), update: true, ..Plan::default() })),
            Intent::Renew if !chat.stale_leaf => return Ok(None),
            Intent::Settle if !state.has_pending_proposals() => return Ok(None),
            Intent::Renew | Intent::Update | Intent::Settle => {
                return Ok(Some(Plan { update: true, ..Plan::default() }));
            }
            Intent::Rename(name) => {
                let data = seal_group_data(chat, name, &mut system_rng());
                return self.extensions(state, GROUP_DATA_EXTENSION, data);
            }
            Intent::Appoint(on, off) => {
                let admins = appointed(state, &members, on, off)?;
                return self.extensions(state, ROLES_EXTENSION, Roles { admins }.to_vec());
            }
        };
        Ok((!plan.removes.is_empty()).then_some(plan))
    }

    fn commit(
        &self,
        chat: &Chat,
        intent: &Intent,
        plan: &Plan,
        provider: &Provider<'_>,
        state: &mut MlsGroup,
        rng: &mut dyn Rng,
    ) -> Result<(Method, Vec<u8>), ClientError> {
        let added = plan.adds.iter().map(|new| member_info(chat, &new.leaf_key, &new.chain, &new.profile_key, rng));
        let aad = CommitAad { added: added.collect(), own: None, friendship_package: None };
        state.set_aad(aad.to_vec());
        let mut builder = state.commit_builder().force_self_update(plan.update);
        if let Some(extensions) = &plan.extensions {
            builder = builder.propose_group_context_extensions(extensions.clone()).map_err(mls::failed)?;
        }
        let bundle = builder
            .propose_adds(plan.adds.iter().map(|new| new.key_package.clone()))
            .propose_removals(plan.removes.iter().copied().map(LeafNodeIndex::new))
            .load_psks(provider.storage())
            .map_err(mls::failed)?
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(provider.rand(), provider.crypto(), &mls::signer(chat)?, |_| true)
            .map_err(mls::failed)?
            .stage_commit(provider)
            .map_err(mls::failed)?;
        let commit = commit_bundle(chat, &bundle, rng)?;
        Ok(match intent {
            Intent::Invite(_) => {
                let welcome = bundle.to_welcome_msg().ok_or_else(|| mls::failed("no Welcome for new members"))?;
                let welcome: Opaque = welcome.to_bytes().map_err(mls::failed)?.into();
                let joiners = plan.adds.iter().map(|new| self.joiner(chat, new, welcome.as_slice(), provider, rng));
                let joiners = joiners.collect::<Result<_, _>>()?;
                (Method::DsAddUsers, AddUsers { commit, welcome, joiners }.to_vec())
            }
            // All that were to be removed are, by what is stored.
            Intent::Remove(_) | Intent::Expel(_) if plan.removes.is_empty() => {
                (Method::DsUpdateClient, UpdateClient { commit, queue_config: None }.to_vec())
            }
            Intent::Remove(_) | Intent::Expel(_) => (Method::DsRemoveUsers, RemoveUsers { commit }.to_vec()),
            Intent::Rename(_) | Intent::Appoint(..) => {
                (Method::DsUpdateGroupContext, UpdateGroupContext { commit }.to_vec())
            }
            Intent::Delete => (Method::DsDeleteGroup, DeleteGroup { commit }.to_vec()),
            Intent::Renew | Intent::Update | Intent::Settle => {
                (Method::DsUpdateClient, UpdateClient { commit, queue_config: None }.to_vec())
            }
        })
    }

    /// A change of one extension of the group context; none if it is as wanted.
    fn extensions(&self, state: &MlsGroup, kind: u16, content: Vec<u8>) -> Result<Option<Plan>, ClientError> {
        let wanted = protocol::extension(kind, content);
        if state.extensions().iter().any(|extension| *extension == wanted) {
            return Ok(None);
        }
        let replace = |extension: &Extension| match extension {
            Extension::Unknown(code, _) if *code == kind => wanted.clone(),
            other => other.clone(),
        };
        let extensions = Extensions::from_vec(state.extensions().iter().map(replace).collect()).map_err(mls::failed)?;
        Ok(Some(Plan { extensions: Some(extensions), ..Plan::default() }))
    }

    /// Tells a joiner who adds it, and gives it the group's EAR key.
    fn joiner(
        &self,
        chat: &Chat,
        new: &NewMember,
        welcome: &[u8],
        provider: &Provider<'_>,
        rng: &mut dyn Rng,
    ) -> Result<Joiner, ClientError> {
        let reference = new.key_package.hash_ref(provider.crypto()).map_err(mls::failed)?;
        let content = WelcomeAttributionTbs {
            sender: self.account.client.clone(),
            credential_key: chat.credential_key.clone(),
            group: chat.group.clone(),
            key_package: reference.as_slice().into(),
            group_info_hash: sha256(mls::encrypted_group_info(welcome)?.as_slice()),
        };
        let signature = self.account.keys.identity.sign(SignatureLabel::WelcomeAttribution, &content);
        let padded = pad_value(&WelcomeAttribution { content, signature }, MESSAGE_FLOOR);
        let label = KeyLabel::WelcomeAttribution;
        let attribution = aead::seal(&new.attribution_key, label, reference.as_slice(), &padded, rng);
        let init_key = new.key_package.hpke_init_key().as_slice().into();
        let ear_key = chat.ear_key.expose();
        let ear_key = hpke::seal(&init_key, HpkeLabel::JoinerEarKey, reference.as_slice(), &[], ear_key, rng)?;
        Ok(Joiner { attribution: attribution.into(), ear_key })
    }

    /// A commit that gives this client's leaf a fresh key, credential and queue config.
    fn renew(
        &self,
        chat: &Chat,
        provider: &Provider<'_>,
        state: &mut MlsGroup,
        rng: &mut dyn Rng,
    ) -> Result<(Method, Vec<u8>), ClientError> {
        let queuing_key = self.queuing_key.as_ref().ok_or_else(|| ClientError::invalid("the QS has no key"))?;
        let own = chats::members(self.connection, &chat.group)?.into_iter().find(|member| member.leaf == chat.leaf);
        let keeps = chats::keeps_identity(self.connection, &chat.group)?;
        let identity = own.filter(|_| keeps).map(|own| own.identity);
        let (key, leaf, chain) = self.account.new_leaf(identity, self.trust.now().day(), rng)?;
        let profile_key = &self.account.keys.friendship.user_profile_key;
        let own = member_info(chat, &leaf.verifying_key, &chain, profile_key, rng);
        let aad = CommitAad { added: Vec::new(), own: Some(own), friendship_package: None };
        state.set_aad(aad.to_vec());
        let credential_with_key = mls::credential_with_key(&leaf);
        let parameters = LeafNodeParameters::builder().with_capabilities(protocol::capabilities()).build();
        let bundle = state
            .commit_builder()
            .leaf_node_parameters(parameters)
            .force_self_update(true)
            .load_psks(provider.storage())
            .map_err(mls::failed)?
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build_with_new_signer(
                provider.rand(),
                provider.crypto(),
                &mls::signer(chat)?,
                NewSignerBundle { signer: &key, credential_with_key },
                |_| true,
            )
            .map_err(mls::failed)?
            .stage_commit(provider)
            .map_err(mls::failed)?;
        chats::set_next_leaf(self.connection, &chat.group, Some(key.seed()))?;
        let commit = commit_bundle(chat, &bundle, rng)?;
        let queue_config = Some(packages::queue_config(self.account, queuing_key, rng)?);
        Ok((Method::DsUpdateClient, UpdateClient { commit, queue_config }.to_vec()))
    }
}

/// Leaves whose removal is proposed.
fn leaving(state: &MlsGroup) -> Vec<u32> {
    let leaf = |queued: &QueuedProposal| match (queued.proposal(), queued.sender()) {
        (Proposal::SelfRemove, MlsSender::Member(leaf)) => Some(leaf.u32()),
        (Proposal::Remove(remove), _) => Some(remove.removed().u32()),
        _ => None,
    };
    state.pending_proposals().filter_map(leaf).collect()
}

/// The identities of the admins when some members are made admins, and others not.
fn appointed(
    state: &MlsGroup,
    members: &[chats::Member],
    on: &[UserId],
    off: &[UserId],
) -> Result<Vec<[u8; 32]>, ClientError> {
    let identities = |users: &[UserId]| -> Vec<_> {
        let wanted = |member: &&chats::Member| users.iter().any(|user| member.is(user));
        members.iter().filter(wanted).map(|member| member.identity).collect()
    };
    let (on, off) = (identities(on), identities(off));
    let mut admins = protocol::roles(state.extensions().iter())?.admins;
    // Whoever is gone is an admin no more.
    admins.retain(|admin| members.iter().any(|member| member.identity == *admin) && !off.contains(admin));
    for identity in on {
        if !admins.contains(&identity) {
            admins.push(identity);
        }
    }
    Ok(admins)
}

/// What members are told of a leaf, under the group's credential key.
pub fn member_info(
    chat: &Chat,
    leaf_key: &SignaturePublicKey,
    chain: &LeafChain,
    profile_key: &Secret,
    rng: &mut dyn Rng,
) -> MemberInfo {
    MemberInfo {
        sealed_chain: seal_chain(&chat.credential_key, leaf_key, chain, rng).into(),
        sealed_profile_key: receive::seal_profile_key(&chat.credential_key, leaf_key, profile_key, rng).into(),
    }
}

/// A commit as the DS wants it.
pub fn commit_bundle(
    chat: &Chat,
    bundle: &CommitMessageBundle,
    rng: &mut dyn Rng,
) -> Result<CommitBundle, ClientError> {
    let info = bundle.group_info().ok_or_else(|| mls::failed("no GroupInfo with the commit"))?;
    Ok(CommitBundle {
        access: GroupAccess { group: chat.group.clone(), ear_key: chat.ear_key.clone() },
        idempotency_key: random(rng),
        commit: bundle.commit().to_bytes().map_err(mls::failed)?.into(),
        group_info: mls::group_info_update(info)?,
    })
}
