//! What waits for a group's next commit: proposals that it has to cover, and profile keys that members have replaced since
//! the last one. They are one row beside the log, and the head says whether it is there.

use std::collections::BTreeMap;

use openmls::{
    group::QueuedProposal,
    prelude::{
        ContentType, ExternalProposal, LeafNodeIndex, MlsMessageBodyIn, MlsMessageIn, ProcessedMessageContent,
        ProtocolMessage, PublicGroup,
    },
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use serde::{Deserialize, Serialize};
use tls_codec::DeserializeBytes as _;

use super::{
    Delivery,
    group::{Group, Leaving},
    tree::{Part, Tree, WAITING_ROW, open_row, put_row, row_key},
};
use crate::{
    base::Refusal,
    crypto::mls::{self, RustCrypto},
    service::{Context, damaged},
    store::{Batch, Table},
    wire::{Opaque, delivery::MemberInfo},
};

/// Most removals that the DS proposes for one epoch; more wait for the next.
const MAX_PROPOSED: usize = 32;

/// The row.
#[derive(Default, Serialize, Deserialize)]
pub struct Waiting {
    /// In the order in which they were stored, as the head lists them.
    proposals: Vec<Stored>,
    /// By leaf.
    profile_keys: BTreeMap<u32, Part>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    /// The MLSMessage.
    message: Part,
    /// As OpenMLS has verified it, in its own serialisation.
    queued: Part,
}

impl Waiting {
    /// Reads the row, if there is one.
    ///
    /// # Errors
    /// `internal` if it cannot be read.
    pub async fn load(group: &Group, context: &Context<'_>) -> Result<Self, Refusal> {
        if !group.head.waiting {
            return Ok(Self::default());
        }
        let row = context.get(Table::DsLog, &row_key(&group.id, WAITING_ROW)).await?;
        let row = row.ok_or_else(|| damaged("what waits for a commit is missing"))?;
        open_row(&group.ear_key, &group.id, WAITING_ROW, &row)
    }

    /// Lets the tree know of it.
    ///
    /// # Errors
    /// `internal` if OpenMLS does not take back what it gave.
    pub fn enter(&self, tree: &mut Tree) -> Result<(), Refusal> {
        for stored in &self.proposals {
            tree.add_proposal(postcard::from_bytes(&stored.queued.0).map_err(damaged)?)?;
        }
        for (leaf, key) in &self.profile_keys {
            tree.set_profile_key(*leaf, key.0.clone());
        }
        Ok(())
    }

    /// The stored proposals by those leaves that `wanted` names, as MLSMessages.
    pub fn messages(&self, wanted: impl Fn(usize) -> bool) -> Vec<Opaque> {
        let wanted = self.proposals.iter().enumerate().filter(|(at, _)| wanted(*at));
        wanted.map(|(_, stored)| stored.message.0[..].into()).collect()
    }

    /// What is known now of the members who have replaced their profile keys.
    pub fn infos(&self, tree: &Tree) -> Vec<(u32, Option<MemberInfo>)> {
        self.profile_keys.keys().map(|leaf| (*leaf, tree.info(*leaf))).collect()
    }

    /// Stores a proposal.
    ///
    /// # Errors
    /// `internal` if it cannot be encoded.
    pub fn add_proposal(&mut self, group: &mut Group, leaving: Leaving, proposal: &Proposed) -> Result<(), Refusal> {
        group.head.leaving.push(leaving);
        let message = Part(proposal.message.as_slice().to_vec());
        self.proposals.push(Stored { message, queued: Part(postcard::to_stdvec(&proposal.queued).map_err(damaged)?) });
        Ok(())
    }

    /// Replaces a member's profile key.
    pub fn set_profile_key(&mut self, leaf: u32, key: &Opaque) {
        self.profile_keys.insert(leaf, Part(key.as_slice().to_vec()));
    }

    /// Adds the row to the batch, or its end if nothing waits; the head has to be saved afterwards.
    ///
    /// # Errors
    /// `internal` if it cannot be encoded.
    pub fn save(&self, group: &mut Group, context: &mut Context<'_>, batch: &mut Batch) -> Result<(), Refusal> {
        let waits = !self.proposals.is_empty() || !self.profile_keys.is_empty();
        if waits {
            put_row(group, WAITING_ROW, self, context, batch)?;
        } else if group.head.waiting {
            batch.delete(Table::DsLog, row_key(&group.id, WAITING_ROW));
        }
        group.head.waiting = waits;
        Ok(())
    }
}

/// A proposal that was verified against the group's tree.
pub struct Proposed {
    /// The MLSMessage.
    pub message: Opaque,
    /// As OpenMLS has verified it.
    pub queued: QueuedProposal,
    /// Whether it has authenticated data.
    pub has_aad: bool,
}

/// Verifies a proposal by itself.
///
/// # Errors
/// `malformed` for no proposal of this group in a PublicMessage, `wrong_epoch`, `invalid_mls_message`.
pub fn verify_proposal(group: &Group, public: &PublicGroup, message: Opaque) -> Result<Proposed, Refusal> {
    let malformed = || Refusal::malformed("the message is not a proposal of this group in a PublicMessage");
    let decoded = MlsMessageIn::tls_deserialize_exact_bytes(message.as_slice()).map_err(|_| malformed())?;
    let decoded: ProtocolMessage = match decoded.extract() {
        MlsMessageBodyIn::PublicMessage(public) if public.content_type() == ContentType::Proposal => public.into(),
        _ => return Err(malformed()),
    };
    if *decoded.group_id() != mls::group_id(&group.id) {
        return Err(malformed());
    }
    group.check_epoch(decoded.epoch().as_u64())?;
    let processed = public.process_message(&RustCrypto::default(), decoded).map_err(|error| {
        tracing::debug!(%error, "a proposal was refused");
        Refusal::invalid_mls("the proposal is not valid (RFC 9420 section 12.1)")
    })?;
    let has_aad = !processed.aad().is_empty();
    match processed.into_content() {
        ProcessedMessageContent::ProposalMessage(queued) => Ok(Proposed { message, queued: *queued, has_aad }),
        _ => Err(malformed()),
    }
}

impl Delivery {
    /// Proposes, for a new epoch, to remove members that have been away for too long and those whose queue is gone. Never the
    /// one who has just made the epoch: it could not commit its own removal. Gives what was stored.
    ///
    /// # Errors
    /// `internal` if OpenMLS cannot make a proposal.
    pub fn propose_removals(
        &self,
        group: &mut Group,
        tree: &Tree,
        waiting: &mut Waiting,
        committer: u32,
        context: &Context<'_>,
    ) -> Result<Vec<Opaque>, Refusal> {
        let (today, away) = (context.now.day(), context.policy.groups.inactive_days);
        let overdue = |active: u32| today.0.saturating_sub(active) > away;
        let members = group.head.members.iter().filter(|member| member.leaf != committer);
        let leaves: Vec<u32> = members
            .filter(|member| member.gone || overdue(member.active_day))
            .map(|member| member.leaf)
            .take(MAX_PROPOSED)
            .collect();
        let mut messages = Vec::new();
        for leaf in leaves {
            let proposal = ExternalProposal::new_remove::<OpenMlsRustCrypto>(
                LeafNodeIndex::new(leaf),
                mls::group_id(&group.id),
                tree.public.group_context().epoch(),
                &self.signing_key,
                mls::delivery_service_index(),
            );
            let message: Opaque = proposal.map_err(damaged)?.to_bytes().map_err(damaged)?.into();
            let proposed = verify_proposal(group, &tree.public, message)?;
            waiting.add_proposal(group, Leaving { leaf, by_itself: false }, &proposed)?;
            messages.push(proposed.message);
        }
        Ok(messages)
    }
}
