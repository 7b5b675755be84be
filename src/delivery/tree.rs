//! A group's tree: OpenMLS's public group with what members know of each other, kept as a checkpoint and what was
//! committed since. The same rows give the trees of past epochs to joiners that still need them, so that no full copy is
//! ever kept per joiner. Every row is encrypted under the EAR key for itself.

use std::{cell::RefCell, collections::BTreeMap};

use openmls::{
    group::{PublicGroup, QueuedProposal, StagedCommit},
    prelude::{Extensions, LeafNodeIndex, group_info::VerifiableGroupInfo},
};
use openmls_traits::{
    public_storage::PublicStorageProvider,
    storage::{CURRENT_VERSION, traits},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tls_codec::{DeserializeBytes as _, Serialize as _};

use super::group::{Group, Rows};
use crate::{
    base::{GroupId, Refusal, Secret, limits::MAX_RESPONSE},
    crypto::{aead, mls},
    service::{Context, damaged, store_failure},
    store::{Batch, Key, Limit, Table, record},
    wire::{
        Encode, Opaque,
        delivery::{GroupInfoUpdate, MemberInfo, MemberOf},
        label::KeyLabel,
        mls::{GROUP_INFO, MLS10},
        padding::{MESSAGE_FLOOR, pad, unpad},
    },
};

const ROW_VERSION: u8 = 1;

/// Most bytes of rows that are read to build one tree.
const MAX_TREE: usize = 256 << 20;

/// Octets that a [`MemberOf`] has beside its chain and its key: the leaf, and two lengths.
const INFO_OVERHEAD: usize = 12;

/// Deltas below this size are never worth a new checkpoint.
const MIN_DELTAS: u64 = 32 << 10;

#[derive(Serialize, Deserialize)]
enum Row {
    Checkpoint(Checkpoint),
    Delta(Delta),
}

#[derive(Serialize, Deserialize)]
struct Checkpoint {
    parts: Parts,
    infos: BTreeMap<u32, Info>,
    group_info: GroupInfo,
}

/// What one commit changed.
#[derive(Serialize, Deserialize)]
struct Delta {
    /// OpenMLS's staged commit.
    #[serde(with = "serde_bytes")]
    commit: Vec<u8>,
    /// What is known of members from now on; none for those who left.
    infos: Vec<(u32, Option<Info>)>,
    group_info: GroupInfo,
}

#[derive(Clone, Serialize, Deserialize)]
struct Info {
    #[serde(with = "serde_bytes")]
    chain: Vec<u8>,
    #[serde(with = "serde_bytes")]
    profile_key: Vec<u8>,
}

/// What the GroupInfo has beyond the public group.
#[derive(Clone, Serialize, Deserialize)]
struct GroupInfo {
    #[serde(with = "serde_bytes")]
    extensions: Vec<u8>,
    #[serde(with = "serde_bytes")]
    signature: Vec<u8>,
    signer: u32,
}

/// OpenMLS's own state of a public group, in its own serialisation.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Parts {
    tree: Part,
    context: Part,
    interim_transcript_hash: Part,
    confirmation_tag: Part,
    /// Stored proposals.
    proposals: Vec<Part>,
}

/// Bytes.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Part(#[serde(with = "serde_bytes")] pub Vec<u8>);

/// A group's tree in memory.
pub struct Tree {
    /// OpenMLS's view of the group.
    pub public: PublicGroup,
    infos: BTreeMap<u32, Info>,
    group_info: GroupInfo,
}

/// A commit that has been checked and is about to be merged.
pub struct Change {
    /// The commit.
    pub staged: StagedCommit,
    /// What is known of members from now on; none for those who leave.
    pub infos: Vec<(u32, Option<MemberInfo>)>,
    /// Of the new epoch.
    pub group_info: GroupInfoUpdate,
    /// Leaf of the committer.
    pub signer: u32,
}

impl Tree {
    /// The tree of a new group, as OpenMLS has validated it, added to the batch as the first checkpoint.
    ///
    /// # Errors
    /// `internal` if it cannot be encoded.
    pub fn create(
        group: &mut Group,
        recorder: &Recorder,
        creator: MemberInfo,
        group_info: GroupInfoUpdate,
        context: &mut Context<'_>,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        let checkpoint = Checkpoint {
            parts: recorder.take(),
            infos: BTreeMap::from([(0, creator.into())]),
            group_info: GroupInfo::new(group_info, 0),
        };
        let row = Row::Checkpoint(checkpoint);
        let bytes = put_row(group, 0, &row, context, batch)?;
        group.head.rows = Rows { checkpoint_bytes: bytes, ..Rows::default() };
        Ok(())
    }

    /// Reads the rows that give a tree.
    ///
    /// # Errors
    /// `internal` if they cannot be read.
    pub async fn load(group: &Group, rows: Rows, context: &Context<'_>) -> Result<Self, Refusal> {
        let range = row_key(&group.id, rows.checkpoint)..row_key(&group.id, rows.last.saturating_add(1));
        let limit = Limit::rows(usize::MAX).bytes(MAX_TREE);
        let found = context.view.scan(Table::DsLog, range, limit).await.map_err(store_failure)?;
        if found.len() as u64 != rows.last - rows.checkpoint + 1 {
            return Err(damaged("a group's log has a gap"));
        }
        let mut tree: Option<Self> = None;
        for (number, row) in (rows.checkpoint..).zip(found) {
            match (open_row(&group.ear_key, &group.id, number, &row.value)?, &mut tree) {
                (Row::Checkpoint(checkpoint), none @ None) => *none = Some(Self::restore(&group.id, checkpoint)?),
                (Row::Delta(delta), Some(tree)) => tree.replay(delta)?,
                _ => return Err(damaged("a group's log is out of order")),
            }
        }
        tree.ok_or_else(|| damaged("a group's log is empty"))
    }

    fn restore(group: &GroupId, checkpoint: Checkpoint) -> Result<Self, Refusal> {
        let Checkpoint { parts, infos, group_info } = checkpoint;
        let public = PublicGroup::load(&Recorder::holding(parts), &mls::group_id(group)).map_err(damaged)?;
        Ok(Self { public: public.ok_or_else(|| damaged("a checkpoint is incomplete"))?, infos, group_info })
    }

    fn replay(&mut self, delta: Delta) -> Result<(), Refusal> {
        let staged = postcard::from_bytes(&delta.commit).map_err(damaged)?;
        self.public.merge_commit(&Recorder::deaf(), staged).map_err(damaged)?;
        self.set_infos(delta.infos);
        self.group_info = delta.group_info;
        Ok(())
    }

    fn set_infos(&mut self, infos: Vec<(u32, Option<Info>)>) {
        for (leaf, info) in infos {
            match info {
                Some(info) => _ = self.infos.insert(leaf, info),
                None => _ = self.infos.remove(&leaf),
            }
        }
    }

    /// Merges a commit and adds a row for it to the batch: a delta, or a checkpoint once the deltas outgrow the last one.
    ///
    /// # Errors
    /// `internal` if OpenMLS cannot merge what it has staged.
    pub fn merge(
        &mut self,
        group: &mut Group,
        change: Change,
        context: &mut Context<'_>,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        let commit = postcard::to_stdvec(&change.staged).map_err(damaged)?;
        let infos: Vec<_> = change.infos.into_iter().map(|(leaf, info)| (leaf, info.map(Info::from))).collect();
        self.group_info = GroupInfo::new(change.group_info, change.signer);
        self.set_infos(infos.clone());

        let mut rows = group.head.rows;
        rows.last += 1;
        if rows.delta_bytes > rows.checkpoint_bytes.max(MIN_DELTAS) {
            let recorder = Recorder::listening();
            self.public.merge_commit(&recorder, change.staged).map_err(damaged)?;
            let parts = recorder.take();
            let row =
                Row::Checkpoint(Checkpoint { parts, infos: self.infos.clone(), group_info: self.group_info.clone() });
            let bytes = put_row(group, rows.last, &row, context, batch)?;
            rows = Rows { checkpoint: rows.last, last: rows.last, checkpoint_bytes: bytes, delta_bytes: 0 };
        } else {
            self.public.merge_commit(&Recorder::deaf(), change.staged).map_err(damaged)?;
            let row = Row::Delta(Delta { commit, infos, group_info: self.group_info.clone() });
            rows.delta_bytes += put_row(group, rows.last, &row, context, batch)?;
        }
        group.head.rows = rows;
        Ok(())
    }

    /// A stored proposal that commits may cover.
    ///
    /// # Errors
    /// `internal` if OpenMLS does not take it.
    pub fn add_proposal(&mut self, proposal: QueuedProposal) -> Result<(), Refusal> {
        self.public.add_proposal(&Recorder::deaf(), proposal).map_err(damaged)
    }

    /// A member has replaced its profile key.
    pub fn set_profile_key(&mut self, leaf: u32, key: Vec<u8>) {
        if let Some(info) = self.infos.get_mut(&leaf) {
            info.profile_key = key;
        }
    }

    /// What is known of a member.
    pub fn info(&self, leaf: u32) -> Option<MemberInfo> {
        self.infos.get(&leaf).map(MemberInfo::from)
    }

    /// The ratchet tree, as RFC 9420 encodes it.
    ///
    /// # Errors
    /// `internal` if it cannot be encoded.
    pub fn ratchet_tree(&self) -> Result<Opaque, Refusal> {
        self.public.export_ratchet_tree().tls_serialize_detached().map(Opaque::from).map_err(damaged)
    }

    /// Checks that what joiners are given of the group, with so many octets beside it, fits into a response. Looks closer only
    /// where the stored rows are so long that it may not.
    ///
    /// # Errors
    /// `quota_exceeded` if it does not fit.
    pub fn check_size(&self, rows: &Rows, room: usize) -> Result<(), Refusal> {
        if rows.checkpoint_bytes.saturating_add(rows.delta_bytes) <= MAX_RESPONSE as u64 / 2 {
            return Ok(());
        }
        let infos: usize =
            self.infos.values().map(|info| info.chain.len() + info.profile_key.len() + INFO_OVERHEAD).sum();
        if self.ratchet_tree()?.as_slice().len() + infos + room > MAX_RESPONSE {
            return Err(Refusal::quota_exceeded("the group is as large as it can be"));
        }
        Ok(())
    }

    /// What is known of the members.
    pub fn member_infos(&self) -> Vec<MemberOf> {
        self.infos.iter().map(|(leaf, known)| MemberOf { leaf: *leaf, info: known.into() }).collect()
    }

    /// The current GroupInfo as an MLSMessage.
    ///
    /// # Errors
    /// `internal` if it cannot be encoded.
    pub fn group_info(&self) -> Result<Opaque, Refusal> {
        let GroupInfo { extensions, signature, signer } = &self.group_info;
        let info = VerifiableGroupInfo::new(
            self.public.group_context().clone(),
            Extensions::tls_deserialize_exact_bytes(extensions).map_err(damaged)?,
            self.public.confirmation_tag().clone(),
            LeafNodeIndex::new(*signer),
            signature.clone().into(),
        );
        // struct { ProtocolVersion version = mls10; WireFormat wire_format = mls_group_info; GroupInfo group_info; }
        let mut message = Vec::new();
        MLS10.encode(&mut message);
        GROUP_INFO.encode(&mut message);
        info.tls_serialize(&mut message).map_err(damaged)?;
        Ok(message.into())
    }
}

/// Deletes the rows that neither the current tree nor a joiner's needs.
pub fn forget_rows(group: &mut Group, batch: &mut Batch) {
    let needed =
        group.head.joiners.iter().map(|joiner| joiner.rows.checkpoint).fold(group.head.rows.checkpoint, u64::min);
    if needed > group.head.oldest_row {
        batch.delete_range(Table::DsLog, row_key(&group.id, group.head.oldest_row), row_key(&group.id, needed));
        group.head.oldest_row = needed;
    }
}

/// Number of the row of what waits for the next commit.
pub const WAITING_ROW: u64 = u64::MAX;

/// Where a row of a group's log is.
pub fn row_key(group: &GroupId, number: u64) -> Key {
    Key::new().bytes(group.uuid).u64(number)
}

fn row_aad(group: &GroupId, number: u64) -> [u8; 24] {
    let mut aad = [0; 24];
    aad[..16].copy_from_slice(&group.uuid);
    aad[16..].copy_from_slice(&number.to_be_bytes());
    aad
}

/// Adds a row to the batch; gives its size.
///
/// # Errors
/// `internal` if it cannot be encoded.
pub fn put_row(
    group: &Group,
    number: u64,
    row: &impl Serialize,
    context: &mut Context<'_>,
    batch: &mut Batch,
) -> Result<u64, Refusal> {
    let padded = pad(&record::encode(ROW_VERSION, row).map_err(damaged)?, MESSAGE_FLOOR);
    let aad = row_aad(&group.id, number);
    let sealed = aead::seal(&group.ear_key, KeyLabel::GroupLog, &aad, &padded, context.rng);
    let bytes = sealed.len() as u64;
    batch.put(Table::DsLog, row_key(&group.id, number), sealed);
    Ok(bytes)
}

/// Opens a row.
///
/// # Errors
/// `internal` if it is damaged.
pub fn open_row<T: DeserializeOwned>(key: &Secret, group: &GroupId, number: u64, sealed: &[u8]) -> Result<T, Refusal> {
    let padded = aead::open(key, KeyLabel::GroupLog, &row_aad(group, number), sealed).map_err(damaged)?;
    let record = unpad(padded, MESSAGE_FLOOR).map_err(damaged)?;
    record::decode(ROW_VERSION, &record).map_err(damaged)
}

impl From<MemberInfo> for Info {
    fn from(info: MemberInfo) -> Self {
        let bytes = |opaque: Opaque| opaque.as_slice().to_vec();
        Self { chain: bytes(info.sealed_chain), profile_key: bytes(info.sealed_profile_key) }
    }
}

impl From<&Info> for MemberInfo {
    fn from(info: &Info) -> Self {
        Self { sealed_chain: info.chain[..].into(), sealed_profile_key: info.profile_key[..].into() }
    }
}

impl GroupInfo {
    fn new(update: GroupInfoUpdate, signer: u32) -> Self {
        let GroupInfoUpdate { extensions, signature } = update;
        Self { extensions: extensions.as_slice().to_vec(), signature: signature.as_slice().to_vec(), signer }
    }
}

/// Stands in for OpenMLS's storage: notes what OpenMLS writes, or lets it go where nobody will ask for it (writing
/// means serialising the whole tree).
pub struct Recorder {
    parts: RefCell<Parts>,
    listens: bool,
}

impl Recorder {
    /// Notes what is written.
    pub fn listening() -> Self {
        Self { parts: RefCell::default(), listens: true }
    }

    fn deaf() -> Self {
        Self { parts: RefCell::default(), listens: false }
    }

    fn holding(parts: Parts) -> Self {
        Self { parts: RefCell::new(parts), listens: false }
    }

    fn take(&self) -> Parts {
        self.parts.take()
    }

    fn note(&self, value: &impl Serialize, place: impl FnOnce(&mut Parts) -> &mut Part) -> Result<(), postcard::Error> {
        if self.listens {
            place(&mut self.parts.borrow_mut()).0 = postcard::to_stdvec(value)?;
        }
        Ok(())
    }

    fn recall<T: DeserializeOwned>(&self, place: impl FnOnce(&Parts) -> &Part) -> Result<Option<T>, postcard::Error> {
        let parts = self.parts.borrow();
        let Part(bytes) = place(&parts);
        if bytes.is_empty() { Ok(None) } else { postcard::from_bytes(bytes).map(Some) }
    }
}

impl PublicStorageProvider<CURRENT_VERSION> for Recorder {
    type PublicError = postcard::Error;

    fn write_tree<G, T>(&self, _: &G, tree: &T) -> Result<(), postcard::Error>
    where
        G: traits::GroupId<CURRENT_VERSION>,
        T: traits::TreeSync<CURRENT_VERSION>,
    {
        self.note(tree, |parts| &mut parts.tree)
    }

    fn write_interim_transcript_hash<G, H>(&self, _: &G, hash: &H) -> Result<(), postcard::Error>
    where
        G: traits::GroupId<CURRENT_VERSION>,
        H: traits::InterimTranscriptHash<CURRENT_VERSION>,
    {
        self.note(hash, |parts| &mut parts.interim_transcript_hash)
    }

    fn write_context<G, C>(&self, _: &G, context: &C) -> Result<(), postcard::Error>
    where
        G: traits::GroupId<CURRENT_VERSION>,
        C: traits::GroupContext<CURRENT_VERSION>,
    {
        self.note(context, |parts| &mut parts.context)
    }

    fn write_confirmation_tag<G, C>(&self, _: &G, tag: &C) -> Result<(), postcard::Error>
    where
        G: traits::GroupId<CURRENT_VERSION>,
        C: traits::ConfirmationTag<CURRENT_VERSION>,
    {
        self.note(tag, |parts| &mut parts.confirmation_tag)
    }

    fn queue_proposal<G, R, Q>(&self, _: &G, reference: &R, proposal: &Q) -> Result<(), postcard::Error>
    where
        G: traits::GroupId<CURRENT_VERSION>,
        R: traits::ProposalRef<CURRENT_VERSION>,
        Q: traits::QueuedProposal<CURRENT_VERSION>,
    {
        let part = Part(postcard::to_stdvec(&(reference, proposal))?);
        self.parts.borrow_mut().proposals.push(part);
        Ok(())
    }

    fn queued_proposals<G, R, Q>(&self, _: &G) -> Result<Vec<(R, Q)>, postcard::Error>
    where
        G: traits::GroupId<CURRENT_VERSION>,
        R: traits::ProposalRef<CURRENT_VERSION>,
        Q: traits::QueuedProposal<CURRENT_VERSION>,
    {
        self.parts.borrow().proposals.iter().map(|part| postcard::from_bytes(&part.0)).collect()
    }

    fn tree<G, T>(&self, _: &G) -> Result<Option<T>, postcard::Error>
    where
        G: traits::GroupId<CURRENT_VERSION>,
        T: traits::TreeSync<CURRENT_VERSION>,
    {
        self.recall(|parts| &parts.tree)
    }

    fn group_context<G, C>(&self, _: &G) -> Result<Option<C>, postcard::Error>
    where
        G: traits::GroupId<CURRENT_VERSION>,
        C: traits::GroupContext<CURRENT_VERSION>,
    {
        self.recall(|parts| &parts.context)
    }

    fn interim_transcript_hash<G, H>(&self, _: &G) -> Result<Option<H>, postcard::Error>
    where
        G: traits::GroupId<CURRENT_VERSION>,
        H: traits::InterimTranscriptHash<CURRENT_VERSION>,
    {
        self.recall(|parts| &parts.interim_transcript_hash)
    }

    fn confirmation_tag<G, C>(&self, _: &G) -> Result<Option<C>, postcard::Error>
    where
        G: traits::GroupId<CURRENT_VERSION>,
        C: traits::ConfirmationTag<CURRENT_VERSION>,
    {
        self.recall(|parts| &parts.confirmation_tag)
    }

    fn delete_tree<G: traits::GroupId<CURRENT_VERSION>>(&self, _: &G) -> Result<(), postcard::Error> {
        Ok(())
    }

    fn delete_confirmation_tag<G: traits::GroupId<CURRENT_VERSION>>(&self, _: &G) -> Result<(), postcard::Error> {
        Ok(())
    }

    fn delete_context<G: traits::GroupId<CURRENT_VERSION>>(&self, _: &G) -> Result<(), postcard::Error> {
        Ok(())
    }

    fn delete_interim_transcript_hash<G: traits::GroupId<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<(), postcard::Error> {
        Ok(())
    }

    fn remove_proposal<G, R>(&self, _: &G, reference: &R) -> Result<(), postcard::Error>
    where
        G: traits::GroupId<CURRENT_VERSION>,
        R: traits::ProposalRef<CURRENT_VERSION>,
    {
        let reference = postcard::to_stdvec(reference)?;
        self.parts.borrow_mut().proposals.retain(|part| !part.0.starts_with(&reference));
        Ok(())
    }

    fn clear_proposal_queue<G, R>(&self, _: &G) -> Result<(), postcard::Error>
    where
        G: traits::GroupId<CURRENT_VERSION>,
        R: traits::ProposalRef<CURRENT_VERSION>,
    {
        self.parts.borrow_mut().proposals.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
