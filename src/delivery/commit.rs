//! Commits: the way every handshake message takes, whatever its endpoint allows. Decode, check the epoch, validate with
//! OpenMLS as a member would, let the endpoint check what is its own, merge, verify the new GroupInfo, and send the
//! commit to everybody, its sender included. Nothing is stored before all of it has passed.

use openmls::{
    group::StagedCommit,
    prelude::{
        ConfirmationTag, ContentType, Extension, Extensions, KeyPackage, LeafNode, LeafNodeIndex, MlsMessageBodyIn,
        MlsMessageIn, OpenMlsSignaturePublicKey, ProcessedMessageContent, Proposal, ProtocolMessage, Sender,
        Verifiable as _,
        group_info::{GroupInfo, VerifiableGroupInfo},
    },
};
use tls_codec::DeserializeBytes as _;

use super::{
    Services,
    group::{Connection, Group, Member},
    idempotency::Answer,
    tree::{Change, Tree, forget_rows},
};
use crate::{
    base::{Day, Refusal},
    crypto::mls::{self, RustCrypto},
    queuing::fan_out::Delivery,
    service::{Class, Context, Outcome, Reply, Verified, damaged, proof::Leaf, proof::unproven},
    store::Batch,
    wire::{
        Decode, Method, Opaque,
        credential::{DayValidity, LeafCredential},
        delivery::{CommitAad, CommitAccepted, CommitBundle, GroupInfoUpdate, MemberInfo},
        queue::{FanOut, FanOutContent},
        queuing::ClientQueueConfig,
    },
};

/// A commit that OpenMLS has validated against the group's public state, and what it does in terms of the group.
pub struct Commit {
    staged: StagedCommit,
    confirmation_tag: ConfirmationTag,
    message: Opaque,
    group_info: GroupInfoUpdate,
    aad: CommitAad,
    /// Leaf of its sender: where it is, or will be.
    pub signer: u32,
    /// Whether its sender was a member before.
    pub by_member: bool,
    /// Who is added, in the order of the proposals.
    pub added: Vec<KeyPackage>,
    /// Which leaves are removed.
    pub removed: Vec<u32>,
    /// Whether there is any other proposal (beside the ExternalInit of an external commit).
    pub others: bool,
}

impl Commit {
    /// Whether it has an update path.
    pub fn has_path(&self) -> bool {
        self.staged.update_path_leaf_node().is_some()
    }

    /// Whether a friendship package comes with it.
    pub const fn has_friendship_package(&self) -> bool {
        self.aad.friendship_package.is_some()
    }

    /// Checks that the commit is by the member who has proven to send it.
    ///
    /// # Errors
    /// `forbidden` otherwise.
    pub fn check_sender(&self, leaf: u32) -> Result<(), Refusal> {
        if self.by_member && self.signer == leaf {
            return Ok(());
        }
        Err(Refusal::forbidden("the commit is by another member than the sender"))
    }
}

/// The whole way of a commit by a member that adds nobody: repeats, validation, the endpoint's own rule, the change.
///
/// # Errors
/// What a commit can be refused for, and what `allowed` refuses.
pub async fn member_commit(
    services: Services<'_>,
    context: &mut Context<'_>,
    sender: Verified<Leaf>,
    group: Group,
    (method, bundle): (Method, CommitBundle),
    queue_config: Option<ClientQueueConfig>,
    allowed: impl FnOnce(&Changing, &Commit) -> Result<(), Refusal> + Send,
) -> Result<Outcome<CommitAccepted>, Refusal> {
    let Leaf(leaf) = *sender.get();
    let identity = group.member(leaf).ok_or_else(unproven)?.identity;
    let answer = Answer::to(&group, method, &identity, &bundle.idempotency_key);
    if let Some(first) = answer.find(context).await? {
        return Ok(Outcome::unchanged(first));
    }
    let mut changing = Changing::load(group, context).await?;
    let commit = changing.validate(&bundle)?;
    commit.check_sender(leaf)?;
    allowed(&changing, &commit)?;
    let mut batch = Batch::new();
    let applied = changing.apply(commit, queue_config, context, &mut batch)?;
    applied.finish(services, context, changing, answer, batch, Vec::new()).await
}

/// A group with the tree that a commit is to change.
pub struct Changing {
    /// The group.
    pub group: Group,
    /// Its tree.
    pub tree: Tree,
}

impl Changing {
    /// Loads the tree of an opened group.
    ///
    /// # Errors
    /// `internal` if it cannot be read.
    pub async fn load(group: Group, context: &Context<'_>) -> Result<Self, Refusal> {
        let tree = Tree::load(&group, group.head.rows, context).await?;
        Ok(Self { group, tree })
    }

    /// Validates a commit as a member would (RFC 9420 section 12.4.2), as far as public state allows.
    ///
    /// # Errors
    /// `malformed` for no commit of this group, `wrong_epoch`, `invalid_mls_message`.
    pub fn validate(&self, bundle: &CommitBundle) -> Result<Commit, Refusal> {
        let message = decode_commit(bundle)?;
        if *message.group_id() != mls::group_id(&self.group.id) {
            return Err(Refusal::malformed("the commit is of another group"));
        }
        self.group.check_epoch(message.epoch().as_u64())?;
        let ProtocolMessage::PublicMessage(public) = &message else { return Err(not_a_commit()) };
        let confirmation_tag = public.confirmation_tag().cloned().ok_or_else(not_a_commit)?;

        let processed = self.tree.public.process_message(&RustCrypto::default(), message).map_err(|error| {
            tracing::debug!(%error, "a commit was refused");
            Refusal::invalid_mls("the commit is not valid (RFC 9420 section 12.4.2)")
        })?;
        let aad = CommitAad::from_slice(processed.aad())
            .map_err(|_| Refusal::invalid_mls("the commit's authenticated data is not a CommitAad"))?;
        let sender = processed.sender().clone();
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            return Err(not_a_commit());
        };
        let (signer, by_member) = match sender {
            Sender::Member(leaf) => (leaf.u32(), true),
            Sender::NewMemberCommit => {
                (self.tree.public.ext_commit_sender_index(&staged).map_err(damaged)?.u32(), false)
            }
            _ => return Err(not_a_commit()),
        };
        let mut commit = Commit {
            staged: *staged,
            confirmation_tag,
            message: bundle.commit.clone(),
            group_info: bundle.group_info.clone(),
            aad,
            signer,
            by_member,
            added: Vec::new(),
            removed: Vec::new(),
            others: false,
        };
        for proposal in commit.staged.queued_proposals() {
            match proposal.proposal() {
                Proposal::Add(add) => commit.added.push(add.key_package().clone()),
                Proposal::Remove(remove) => commit.removed.push(remove.removed().u32()),
                Proposal::ExternalInit(_) if !by_member => {}
                _ => commit.others = true,
            }
        }
        Ok(commit)
    }

    /// Applies a validated commit to the tree and the head: joiners with their queue configs, leavers, and the committer
    /// with its new leaf; and verifies the GroupInfo of the new epoch.
    ///
    /// # Errors
    /// `invalid_mls_message` if a leaf or the GroupInfo breaks a rule, `malformed` if the AAD does not fit the commit.
    pub fn apply(
        &mut self,
        commit: Commit,
        queue_config: Option<ClientQueueConfig>,
        context: &mut Context<'_>,
        batch: &mut Batch,
    ) -> Result<Applied, Refusal> {
        let today = context.now.day();
        let Commit { staged, confirmation_tag, message, group_info, aad, signer, by_member, added, removed, .. } =
            commit;
        let before = self.group.queue_configs(|_| false)?;
        let infos = self.infos(&aad, &staged, signer, by_member, added.len())?;
        let group_context = staged.group_context().clone();
        let epoch = group_context.epoch().as_u64();

        let placed: Vec<u32> = self.free_leaves(&removed, added.len())?;
        let mut member_infos: Vec<_> = removed.iter().map(|leaf| (*leaf, None)).collect();
        member_infos.extend(placed.iter().copied().zip(aad.added.into_iter().map(Some)));
        member_infos.extend(infos.map(|own| (signer, Some(own))));
        let change = Change { staged, infos: member_infos, group_info: group_info.clone(), signer };
        self.tree.merge(&mut self.group, change, context, batch)?;

        self.verify_group_info(group_context, confirmation_tag, &group_info, signer)?;
        self.group.head.epoch = epoch;
        self.leave(&removed);
        let mut joined = Vec::new();
        for (leaf, key_package) in placed.into_iter().zip(added) {
            joined.push(self.join(leaf, key_package, today)?);
        }
        self.renew(signer, by_member, queue_config, today)?;
        self.group.head.members.sort_by_key(|member| member.leaf);
        self.check_identities()?;

        let group = &mut self.group;
        let present: Vec<u32> = group.head.members.iter().map(|member| member.leaf).collect();
        group
            .head
            .joiners
            .retain(|joiner| joiner.leaf != signer && present.contains(&joiner.leaf) && joiner.expires >= today.0);
        let rows = group.head.rows;
        group.head.joiners.extend(joined.iter().map(|joined| super::group::Joiner {
            reference: joined.reference.as_slice().to_vec(),
            key: joined.key.clone(),
            leaf: joined.leaf,
            epoch,
            rows,
            expires: joined.expires.0,
        }));
        forget_rows(group, batch);
        Ok(Applied { epoch, message, recipients: before, joined })
    }

    /// Checks that the AAD fits the commit; gives what is now known of the committer, if that has changed.
    fn infos(
        &self,
        aad: &CommitAad,
        staged: &StagedCommit,
        signer: u32,
        by_member: bool,
        added: usize,
    ) -> Result<Option<MemberInfo>, Refusal> {
        if aad.added.len() != added {
            return Err(Refusal::malformed("the AAD needs one entry for each added member"));
        }
        if by_member && aad.friendship_package.is_some() {
            return Err(Refusal::malformed("only the joiner of a connection group sends a friendship package"));
        }
        // The chain is bound to the leaf's credential and key: new ones need a new chain, and nothing else may have one.
        let renewed = staged.update_path_leaf_node().is_some_and(|new| {
            let old = self.tree.public.leaf(LeafNodeIndex::new(signer)).filter(|_| by_member);
            old.is_none_or(|old| old.credential() != new.credential() || old.signature_key() != new.signature_key())
        });
        match (renewed, &aad.own) {
            (true, Some(own)) => Ok(Some(own.clone())),
            (false, None) => Ok(None),
            (true, None) => Err(Refusal::malformed("a new leaf credential needs its chain in the AAD")),
            (false, Some(_)) => {
                Err(Refusal::malformed("the AAD has a chain for a leaf credential that does not change"))
            }
        }
    }

    /// Where RFC 9420 section 7.7 puts added members: the leftmost blank leaves after the removals.
    fn free_leaves(&self, removed: &[u32], added: usize) -> Result<Vec<u32>, Refusal> {
        let taken = |leaf: u32| self.group.member(leaf).is_some() && !removed.contains(&leaf);
        Ok((0..u32::MAX).filter(|leaf| !taken(*leaf)).take(added).collect())
    }

    fn verify_group_info(
        &self,
        group_context: openmls::group::GroupContext,
        confirmation_tag: ConfirmationTag,
        update: &GroupInfoUpdate,
        signer: u32,
    ) -> Result<(), Refusal> {
        let refused = || Refusal::invalid_mls("the GroupInfo of the new epoch is not valid");
        let extensions =
            Extensions::tls_deserialize_exact_bytes(update.extensions.as_slice()).map_err(|_| refused())?;
        let kinds_fit = extensions.iter().all(|extension| matches!(extension, Extension::ExternalPub(_)));
        if !kinds_fit || extensions.iter().count() != 1 {
            return Err(Refusal::invalid_mls("the GroupInfo must have the external_pub extension and no other"));
        }
        let index = LeafNodeIndex::new(signer);
        let leaf = self.tree.public.leaf(index).ok_or_else(refused)?;
        let algorithm = self.tree.public.ciphersuite().signature_algorithm();
        let key = OpenMlsSignaturePublicKey::from_signature_key(leaf.signature_key().clone(), algorithm);
        let signature = update.signature.as_slice().to_vec().into();
        let info = VerifiableGroupInfo::new(group_context, extensions, confirmation_tag, index, signature);
        let verified: Result<GroupInfo, _> = info.verify(&RustCrypto::default(), &key);
        verified.map(drop).map_err(|_| refused())
    }

    fn leave(&mut self, removed: &[u32]) {
        self.group.head.members.retain(|member| !removed.contains(&member.leaf));
    }

    fn join(&mut self, leaf: u32, key_package: KeyPackage, today: Day) -> Result<Joined, Refusal> {
        let invalid = |_| Refusal::invalid_mls("an added KeyPackage breaks a rule of this protocol (wire-spec/mls.md)");
        let reference = key_package.hash_ref(&RustCrypto::default()).map_err(damaged)?.as_slice().to_vec();
        let expires = Day(u32::try_from(key_package.life_time().not_after() / 86_400).unwrap_or(u32::MAX));
        // The credential's leaf as it now stands in the tree must be the KeyPackage's.
        let placed = self.leaf_node(leaf)?.signature_key() == key_package.leaf_node().signature_key();
        if !placed {
            return Err(damaged("an added member is not where RFC 9420 puts it"));
        }
        let valid = mls::inspect_key_package(key_package).map_err(invalid)?;
        check_days(&valid.credential.validity, today)?;
        if self.group.head.admins.contains(&valid.credential.identity) {
            return Err(taken_identity());
        }
        let member = Member::new(leaf, &valid.credential, &valid.queue_config, today);
        let joined = Joined {
            leaf,
            key: member.key.clone(),
            reference: reference.into(),
            queue_config: valid.queue_config,
            expires,
        };
        self.group.head.members.push(member);
        Ok(joined)
    }

    /// Brings the committer's own entry up to date with its leaf.
    fn renew(
        &mut self,
        signer: u32,
        by_member: bool,
        queue_config: Option<ClientQueueConfig>,
        today: Day,
    ) -> Result<(), Refusal> {
        let credential = own_credential(self.leaf_node(signer)?)?;
        check_days(&credential.validity, today)?;
        let epoch = self.group.head.epoch;
        let listed = self.group.head.admins.clone();
        let members = &mut self.group.head.members;
        let missing = || Refusal::malformed("a joiner needs a queue config");
        let member = match members.iter_mut().find(|member| member.leaf == signer) {
            Some(member) => member,
            None if by_member => return Err(damaged("the committer has no entry")),
            None => {
                let config = queue_config.as_ref().ok_or_else(missing)?;
                if listed.contains(&credential.identity) {
                    return Err(taken_identity());
                }
                members.push(Member::new(signer, &credential, config, today));
                // Just pushed.
                members.last_mut().ok_or_else(missing)?
            }
        };
        if member.identity != credential.identity && listed.contains(&member.identity) {
            return Err(Refusal::forbidden("an admin's identity cannot change while it is listed"));
        }
        if member.identity != credential.identity && listed.contains(&credential.identity) {
            return Err(Refusal::forbidden("the identity of an admin cannot be taken over"));
        }
        member.identity = credential.identity;
        member.key = credential.verifying_key.as_slice().to_vec();
        member.active_day = today.0;
        member.active_epoch = Some(epoch);
        if let Some(config) = queue_config {
            member.queue_config = crate::wire::Encode::to_vec(&config);
        }
        Ok(())
    }

    /// No two members may share an identity.
    fn check_identities(&self) -> Result<(), Refusal> {
        let mut identities: Vec<_> = self.group.head.members.iter().map(|member| member.identity).collect();
        identities.sort_unstable();
        if identities.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Refusal::invalid_mls("two members would have the same identity"));
        }
        Ok(())
    }

    fn leaf_node(&self, leaf: u32) -> Result<&LeafNode, Refusal> {
        self.tree.public.leaf(LeafNodeIndex::new(leaf)).ok_or_else(|| damaged("a member without a leaf"))
    }
}

/// Somebody whom a commit has added.
pub struct Joined {
    leaf: u32,
    key: Vec<u8>,
    expires: Day,
    /// Its KeyPackageRef.
    pub reference: Opaque,
    /// Where its messages go.
    pub queue_config: ClientQueueConfig,
}

/// A commit that has been merged in memory.
pub struct Applied {
    epoch: u64,
    message: Opaque,
    recipients: Vec<ClientQueueConfig>,
    /// Who was added, in the order of the proposals.
    pub joined: Vec<Joined>,
}

impl Applied {
    /// Adds a recipient that was no member before: the joiner by external commit, who gets its own commit back.
    pub fn also_to(&mut self, config: ClientQueueConfig) {
        self.recipients.push(config);
    }

    /// Sends the commit to everybody who was a member before it, its sender and those it removes included, and `more` to
    /// one each; writes the new state. All in one batch.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn finish(
        self,
        services: Services<'_>,
        context: &mut Context<'_>,
        mut changing: Changing,
        answer: Answer,
        mut batch: Batch,
        more: Vec<(ClientQueueConfig, FanOutContent)>,
    ) -> Result<Outcome<CommitAccepted>, Refusal> {
        changing.group.save(context, &mut batch)?;
        let mut messages = vec![(self.recipients, FanOutContent::Commit(self.message))];
        messages.extend(more.into_iter().map(|(one, content)| (vec![one], content)));
        let ending = Ending { epoch: self.epoch, messages, answer: Some(answer), batch };
        ending.send(services, context, &changing.group).await
    }

    /// Sends the commit as the end of the group and deletes the group's state: all in one batch.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn finish_group(
        self,
        services: Services<'_>,
        context: &mut Context<'_>,
        group: &Group,
    ) -> Result<Outcome<CommitAccepted>, Refusal> {
        let mut batch = Batch::new();
        group.delete(super::request_group_id::tombstone_until(context.now), &mut batch);
        let messages = vec![(self.recipients, FanOutContent::GroupDeleted(self.message))];
        // Without the group nobody could prove to have sent the request that is repeated.
        let ending = Ending { epoch: self.epoch, messages, answer: None, batch };
        ending.send(services, context, group).await
    }
}

/// What is left to do when a commit has been merged: tell everybody.
struct Ending {
    epoch: u64,
    messages: Vec<(Vec<ClientQueueConfig>, FanOutContent)>,
    answer: Option<Answer>,
    batch: Batch,
}

impl Ending {
    async fn send(
        self,
        services: Services<'_>,
        context: &mut Context<'_>,
        group: &Group,
    ) -> Result<Outcome<CommitAccepted>, Refusal> {
        let Self { epoch, messages, answer, mut batch } = self;
        let mut delivery = Delivery::default();
        for (configs, content) in messages {
            let message = FanOut { group: group.id.clone(), content };
            delivery.add(services.queuing, context, &mut batch, message, &configs, Class::Handshake).await?;
        }
        let answer = answer.map(|answer| answer.prepare(context));
        let Delivery { appends, unreachable } = delivery;
        let reply = Reply::AfterAppends(Box::new(move |appended, batch| {
            let accepted = CommitAccepted { epoch, unreached: unreachable + appended.refused };
            if let Some(answer) = answer {
                answer.store(&accepted, batch);
            }
            Ok(accepted)
        }));
        Ok(Outcome { batch, appends, reply })
    }
}

fn decode_commit(bundle: &CommitBundle) -> Result<ProtocolMessage, Refusal> {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bundle.commit.as_slice()).map_err(|_| not_a_commit())?;
    match message.extract() {
        MlsMessageBodyIn::PublicMessage(public) if public.content_type() == ContentType::Commit => Ok(public.into()),
        _ => Err(not_a_commit()),
    }
}

fn taken_identity() -> Refusal {
    Refusal::forbidden("a newcomer may not have the identity of an admin")
}

fn not_a_commit() -> Refusal {
    Refusal::malformed("the message is not a commit in a PublicMessage")
}

fn own_credential(leaf: &LeafNode) -> Result<LeafCredential, Refusal> {
    mls::leaf_credential(leaf)
        .map_err(|_| Refusal::invalid_mls("the leaf's credential is not a leaf credential for its key"))
}

fn check_days(validity: &DayValidity, today: Day) -> Result<(), Refusal> {
    if validity.covers(today) {
        return Ok(());
    }
    Err(Refusal::invalid_mls("a leaf credential is not valid today"))
}

/// Marks a connection group as joined.
pub fn close_connection(group: &mut Group) {
    if group.head.connection == Connection::Open {
        group.head.connection = Connection::Closed;
    }
}
