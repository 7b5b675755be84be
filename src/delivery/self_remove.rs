//! SelfRemove: a member leaves (draft-ietf-mls-extensions). Its proposal is stored and sent to everybody, and whoever next
//! commits has to carry it out. If nobody would be left to do that, the group ends.

use openmls::prelude::{Proposal, Sender};

use super::{
    Services,
    commit::Changing,
    ending::Telling,
    group::{Group, Leaving},
    request_group_id::tombstone_until,
    waiting::verify_proposal,
};
use crate::{
    base::Refusal,
    queuing::fan_out::Delivery,
    service::{Context, Outcome, Verified, proof::Leaf},
    store::Batch,
    wire::{delivery::SelfRemove, queue::FanOutContent, server::Done},
};

/// Stores the sender's proposal to remove itself. A repeat, or one by a member whose removal is proposed already, changes
/// nothing and succeeds.
///
/// # Errors
/// `malformed` for another proposal, `wrong_epoch`, `invalid_mls_message`, `forbidden` for the last admin of others.
pub async fn handle(
    services: Services<'_>,
    context: &mut Context<'_>,
    sender: Verified<Leaf>,
    group: Group,
    request: SelfRemove,
) -> Result<Outcome<Done>, Refusal> {
    let Leaf(leaf) = *sender.get();
    if group.head.leaving.iter().any(|leaving| leaving.leaf == leaf) {
        return Ok(Outcome::unchanged(Done {}));
    }
    let Changing { mut group, tree, mut waiting } = Changing::load(group, context).await?;
    let proposed = verify_proposal(&group, &tree.public, request.proposal)?;
    let by_sender = matches!(proposed.queued.sender(), Sender::Member(member) if member.u32() == leaf);
    if !by_sender || !matches!(proposed.queued.proposal(), Proposal::SelfRemove) || proposed.has_aad {
        return Err(Refusal::malformed("it is not a SelfRemove of the sender with empty authenticated data"));
    }
    let nobody_left = check_leaving(&group, leaf)?;

    let mut batch = Batch::new();
    let configs = group.queue_configs(|_| false);
    let mut telling = Telling { services, delivery: Delivery::default() };
    let message = proposed.message.clone();
    let content = if nobody_left { FanOutContent::GroupDeleted(message) } else { FanOutContent::Proposal(message) };
    telling.tell(&mut group, context, &mut batch, content, &configs).await?;
    if nobody_left {
        group.delete(tombstone_until(context.now), &mut batch);
    } else {
        waiting.add_proposal(&mut group, Leaving { leaf, by_itself: true }, &proposed)?;
        waiting.save(&mut group, context, &mut batch)?;
        group.save(context, &mut batch)?;
    }
    let Delivery { appends, forwards, .. } = telling.delivery;
    Ok(Outcome { appends, forwards, ..Outcome::write(batch, Done {}) })
}

/// Whether a member may leave, and whether nobody is left then who could carry it out.
fn check_leaving(group: &Group, leaf: u32) -> Result<bool, Refusal> {
    let staying = || group.head.members.iter().filter(|member| member.leaf != leaf && !group.is_leaving(member.leaf));
    if staying().next().is_none() {
        return Ok(true);
    }
    let listed = |identity: &[u8; 32]| group.head.admins.contains(identity);
    let is_listed = group.member(leaf).is_some_and(|member| listed(&member.identity));
    if is_listed && !staying().any(|member| listed(&member.identity)) {
        return Err(Refusal::forbidden("the last admin names another before it leaves"));
    }
    Ok(false)
}
