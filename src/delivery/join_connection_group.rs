//! JoinConnectionGroup: the external commit by which the one who was offered a connection accepts it. The EAR key is the
//! proof, and it works once: the first join closes the group for good.

use super::{
    Services,
    commit::{Changing, close_connection},
    group::{Connection, Group},
    idempotency::Answer,
};
use crate::{
    base::Refusal,
    queuing::forward::admit,
    service::{Context, Outcome},
    store::Batch,
    wire::{
        Method,
        delivery::{CommitAccepted, JoinConnectionGroup},
    },
};

/// Lets the sender join.
///
/// # Errors
/// `forbidden` if the group is no connection group or has had a second member; what a commit can be refused for.
pub async fn handle(
    services: Services<'_>,
    context: &mut Context<'_>,
    group: Group,
    request: JoinConnectionGroup,
) -> Result<Outcome<CommitAccepted>, Refusal> {
    // The joiner has no identity yet: its repeats are known by their key alone.
    let answer = Answer::to(&group, Method::DsJoinConnectionGroup, &[0; 32], &request.commit.idempotency_key);
    if let Some(first) = answer.find(context).await? {
        return Ok(Outcome::unchanged(first));
    }
    if group.head.connection != Connection::Open {
        return Err(Refusal::forbidden("the group is no connection group, or somebody has joined it"));
    }
    let mut changing = Changing::load(group, context).await?;
    let commit = changing.validate(&request.commit)?;
    if commit.by_member || !commit.own.are_none() {
        return Err(Refusal::malformed("JoinConnectionGroup takes an external commit without further proposals"));
    }
    if !commit.has_friendship_package() {
        return Err(Refusal::malformed("the joiner of a connection group sends its friendship package in the AAD"));
    }
    close_connection(&mut changing.group);
    admit(context, &request.queue_config).await?;
    let mut batch = Batch::new();
    let mut applied = changing.apply(commit, Some(request.queue_config.clone()), context, &mut batch)?;
    applied.also_to(&request.queue_config);
    applied.finish(services, context, changing, answer, batch, Vec::new()).await
}
