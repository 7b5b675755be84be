//! Leaving a group: a SelfRemove, which the DS has the next commit of anybody else carry out. For this client the group is
//! over as soon as the DS has it.

use std::sync::Arc;

use openmls::prelude::{MlsGroup, OpenMlsProvider as _, Proposal, Sender};
use rusqlite::Connection;

use super::{
    core::Core,
    error::ClientError,
    mls::{self, Provider},
    outgoing::lane_of,
    state::{
        chats::{self, ChatState},
        outbox::{self, Kind, New, Pending},
        queues::Queue,
    },
};
use crate::{
    base::GroupId,
    crypto::{random, system_rng},
    wire::{
        Encode, Method,
        delivery::{GroupAccess, SelfRemove},
    },
};

impl Core {
    /// Leaves a group.
    pub async fn leave(self: &Arc<Self>, group: &GroupId) -> Result<(), ClientError> {
        let lane = lane_of(group);
        let _turn = self.lane(&lane).await;
        self.send_lane(&lane, None).await?;
        self.drain(Queue::Client).await?;
        let extra = random::<16>(&mut system_rng()).to_vec();
        if self.prepare_leave(group, extra.clone(), None).await? {
            self.send_lane(&lane, Some(&extra)).await?;
        }
        Ok(())
    }

    /// Puts the SelfRemove into the outbox, in place of the request `replaced`; `false` if this client is no member any more.
    /// The caller holds the lane.
    pub async fn prepare_leave(
        self: &Arc<Self>,
        group: &GroupId,
        extra: Vec<u8>,
        replaced: Option<i64>,
    ) -> Result<bool, ClientError> {
        let group = group.clone();
        self.database
            .run(move |connection| {
                if !outbox::replace(connection, replaced)? {
                    return Ok(false);
                }
                let chat = chats::require(connection, &group)?;
                if !chat.state.is_live() {
                    return Ok(false);
                }
                let provider = Provider::new(connection);
                let mut state = mls::load(&provider, &group)?;
                let proposal =
                    state.leave_group_via_self_remove(&provider, &mls::signer(&chat)?).map_err(mls::failed)?;
                let request = SelfRemove {
                    access: GroupAccess { group: group.clone(), ear_key: chat.ear_key.clone() },
                    proposal: proposal.to_bytes().map_err(mls::failed)?.into(),
                };
                let new = New {
                    domain: group.domain.clone(),
                    group: Some(group),
                    kind: Kind::Leave,
                    method: Method::DsSelfRemove,
                    body: request.to_vec(),
                    extra,
                };
                outbox::insert(connection, new)?;
                Ok(true)
            })
            .await
    }

    /// Whether this client is no member of a group any more, although it cannot tell from the answer.
    pub async fn has_left(self: &Arc<Self>, pending: &Pending) -> Result<bool, ClientError> {
        use crate::wire::Decode;
        self.drain(Queue::Client).await?;
        let group = GroupId::from_slice(&pending.lane)?;
        self.database.run(move |connection| Ok(!chats::require(connection, &group)?.state.is_live())).await
    }
}

/// The DS has the SelfRemove.
pub fn left(connection: &Connection, group: &GroupId) -> Result<(), ClientError> {
    mls::delete(&Provider::new(connection), group)?;
    chats::put_members(connection, group, &[])?;
    chats::set_state(connection, group, ChatState::Left)
}

/// The DS does not take the SelfRemove: this client stays, and can commit again.
pub fn stay(connection: &Connection, group: &GroupId) -> Result<(), ClientError> {
    let provider = Provider::new(connection);
    let Some(mut state) = mls::find(&provider, group)? else { return Ok(()) };
    match own_self_remove(&state) {
        Some(reference) => state.remove_pending_proposal(provider.storage(), &reference).map_err(mls::failed),
        None => Ok(()),
    }
}

fn own_self_remove(state: &MlsGroup) -> Option<openmls::prelude::hash_ref::ProposalRef> {
    let own = Sender::Member(state.own_leaf_index());
    let mut proposals = state.pending_proposals();
    let found = proposals.find(|of| *of.sender() == own && matches!(of.proposal(), Proposal::SelfRemove));
    found.map(|of| of.proposal_reference_ref().clone())
}
