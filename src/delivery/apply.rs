//! Applying a validated commit: the tree and the head of the new epoch, with every rule that leaves, identities and roles
//! have to keep, and the GroupInfo that lets others join.

use openmls::{
    group::StagedCommit,
    prelude::{
        ConfirmationTag, Extensions, KeyPackage, LeafNode, LeafNodeIndex, OpenMlsSignaturePublicKey, Verifiable as _,
        group_info::{GroupInfo, VerifiableGroupInfo},
    },
};
use tls_codec::DeserializeBytes as _;

use super::{
    commit::{Changing, Commit},
    create_group,
    ending::Applied,
    group::{Joiner, Member},
    member_infos,
    tree::{Change, forget_rows},
    waiting::Waiting,
};
use crate::{
    base::{Day, Refusal},
    crypto::mls::{self, RustCrypto},
    service::{Context, damaged},
    store::Batch,
    wire::{
        Opaque,
        credential::{DayValidity, LeafCredential},
        delivery::{CommitAad, GroupInfoUpdate, MemberInfo},
        queuing::ClientQueueConfig,
    },
};

/// Octets that a response about a group has beside the tree and what is known of its members: the GroupInfo, proposals.
const ROOM: usize = 128 << 10;

/// The same where members are added: what the tree still grows by when they renew their leaves.
const ROOM_TO_GROW: usize = 2 << 20;

impl Changing {
    /// Applies a validated commit to the tree and the head: joiners with their queue configs, leavers, and the committer
    /// with its new leaf; and verifies the GroupInfo of the new epoch.
    ///
    /// # Errors
    /// `invalid_mls_message` if a leaf or the GroupInfo breaks a rule, `malformed` if the AAD does not fit the commit,
    /// `quota_exceeded` if the group would be larger than joiners can be told.
    pub fn apply(
        &mut self,
        commit: Commit,
        queue_config: Option<ClientQueueConfig>,
        context: &mut Context<'_>,
        batch: &mut Batch,
    ) -> Result<Applied, Refusal> {
        let today = context.now.day();
        let Commit { staged, confirmation_tag, message, group_info, aad, signer, by_member, removed, returning, own } =
            commit;
        let added = own.added;
        let before = self.group.queue_configs(|_| false);
        let infos = self.infos(&aad, &staged, signer, by_member, added.len())?;
        let group_context = staged.group_context().clone();
        let epoch = group_context.epoch().as_u64();

        let taken = |leaf| self.group.member(leaf).is_some() && !removed.contains(&leaf);
        let placed = free_leaves(taken, added.len());
        let mut member_infos = self.waiting.infos(&self.tree);
        member_infos.extend(removed.iter().map(|leaf| (*leaf, None)));
        member_infos.extend(placed.iter().copied().zip(aad.added.into_iter().map(Some)));
        member_infos.extend(infos.map(|own| (signer, Some(own))));
        let change = Change { staged, infos: member_infos, group_info: group_info.clone(), signer };
        self.tree.merge(&mut self.group, change, context, batch)?;
        let grows = !placed.is_empty() || !by_member;
        self.tree.check_size(&self.group.head.rows, if grows { ROOM_TO_GROW } else { ROOM })?;

        self.group.head.context_hash = mls::context_hash(&group_context).map_err(damaged)?;
        self.verify_group_info(group_context, confirmation_tag, &group_info, signer)?;
        self.group.head.epoch = epoch;
        self.waiting = Waiting::default();
        self.group.head.leaving.clear();
        self.leave(&removed);
        let mut joined = Vec::new();
        for (leaf, key_package) in placed.into_iter().zip(added) {
            joined.push(self.join(leaf, key_package, today)?);
        }
        self.renew((signer, by_member), returning, queue_config, today)?;
        self.group.head.members.sort_by_key(|member| member.leaf);
        self.check_identities()?;
        if own.extensions {
            self.change_roles()?;
        }

        let group = &mut self.group;
        let present: Vec<u32> = group.head.members.iter().map(|member| member.leaf).collect();
        group
            .head
            .joiners
            .retain(|joiner| joiner.leaf != signer && present.contains(&joiner.leaf) && joiner.expires >= today.0);
        let rows = group.head.rows;
        group.head.joiners.extend(joined.iter().map(|joined| Joiner {
            reference: joined.reference.as_slice().to_vec(),
            key: joined.key.clone(),
            leaf: joined.leaf,
            epoch,
            rows,
            expires: joined.expires.0,
        }));
        forget_rows(group, batch);
        Ok(Applied { epoch, signer, message, recipients: before, joined })
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
        member_infos::check_all(aad)?;
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
        mls::check_group_info_extensions(&extensions)
            .map_err(|_| Refusal::invalid_mls(create_group::GROUP_INFO_EXTENSIONS))?;
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
        (signer, by_member): (u32, bool),
        returning: Option<[u8; 32]>,
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
                match returning {
                    Some(identity) if identity != credential.identity => {
                        return Err(Refusal::forbidden("a member that resynchronises keeps its identity"));
                    }
                    None if listed.contains(&credential.identity) => return Err(taken_identity()),
                    _ => {}
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
        member.gone &= queue_config.is_none();
        if let Some(config) = queue_config {
            member.queue_config = crate::wire::Encode::to_vec(&config).into();
        }
        Ok(())
    }

    /// The roles of the new epoch: whoever is newly listed is present and has made a commit of its own, and if there was an
    /// admin who can act, there is one.
    fn change_roles(&mut self) -> Result<(), Refusal> {
        let roles = mls::roles(self.tree.public.group_context().extensions().iter())
            .map_err(|_| Refusal::invalid_mls("the roles extension is missing or does not decode"))?;
        let head = &mut self.group.head;
        let settled = |identity: &[u8; 32]| {
            head.members.iter().any(|member| member.identity == *identity && member.active_epoch.is_some())
        };
        if !roles.admins.iter().all(|identity| head.admins.contains(identity) || settled(identity)) {
            return Err(Refusal::forbidden(
                "an admin must be a member who has made a commit of its own; a newcomer's client makes one soon",
            ));
        }
        let acts = |admins: &[[u8; 32]]| head.members.iter().any(|member| admins.contains(&member.identity));
        if acts(&head.admins) && !acts(&roles.admins) {
            return Err(Refusal::forbidden("a group that has an admin must keep one"));
        }
        head.admins = roles.admins;
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

/// Where RFC 9420 section 7.7 puts added members: the leftmost blank leaves after the removals.
pub(super) fn free_leaves(taken: impl Fn(u32) -> bool, added: usize) -> Vec<u32> {
    (0..u32::MAX).filter(|leaf| !taken(*leaf)).take(added).collect()
}

fn taken_identity() -> Refusal {
    Refusal::forbidden("a newcomer may not have the identity of an admin")
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
