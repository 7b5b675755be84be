//! Resync: the external commit by which a member that has lost its MLS state, or fallen too far behind, comes back in
//! place of its old leaf. It proves itself with that leaf's key.

use super::{Services, commit::Changing, group::Group, idempotency::Answer};
use crate::{
    base::Refusal,
    queuing::forward::admit,
    service::{Context, Outcome, Verified, proof::Leaf, proof::unproven},
    store::Batch,
    wire::{
        Method,
        delivery::{CommitAccepted, Resync},
    },
};

/// Takes the sender back in.
///
/// # Errors
/// `forbidden` if it has proposed to leave, or would come back as somebody else; `malformed` for another commit; what a
/// commit can be refused for.
pub async fn handle(
    services: Services<'_>,
    context: &mut Context<'_>,
    sender: Verified<Leaf>,
    group: Group,
    request: Resync,
) -> Result<Outcome<CommitAccepted>, Refusal> {
    let Leaf(leaf) = *sender.get();
    let identity = group.member(leaf).ok_or_else(unproven)?.identity;
    let answer = Answer::to(&group, Method::DsResync, &identity, &request.commit.idempotency_key);
    if let Some(first) = answer.find(context).await? {
        return Ok(Outcome::unchanged(first));
    }
    if group.is_leaving(leaf) {
        return Err(Refusal::forbidden("the sender has proposed to leave"));
    }
    let mut changing = Changing::load(group, context).await?;
    let mut commit = changing.validate(&request.commit)?;
    if commit.by_member || !commit.own.only_removes() || commit.own.removed != [leaf] {
        return Err(Refusal::malformed("Resync takes an external commit that removes the sender's old leaf"));
    }
    if commit.has_friendship_package() {
        return Err(Refusal::malformed("only the joiner of a connection group sends a friendship package"));
    }
    commit.returning = Some(identity);
    admit(context, &request.queue_config).await?;
    let mut batch = Batch::new();
    let mut applied = changing.apply(commit, Some(request.queue_config.clone()), context, &mut batch)?;
    // Its queue may be another one now.
    applied.also_to(&request.queue_config);
    applied.finish(services, context, changing, answer, batch, Vec::new()).await
}
