//! UpdateQueueInfo: where a member's messages go from now on.

use super::group::Group;
use crate::{
    base::Refusal,
    queuing::forward::admit,
    service::{Context, Outcome, Verified, proof::Leaf, proof::unproven},
    store::Batch,
    wire::{Encode, delivery::UpdateQueueInfo, server::Done},
};

/// Replaces the sender's queue config. A repeat does no harm.
///
/// # Errors
/// What [`admit`] refuses; `internal` if the head cannot be written.
pub async fn handle(
    context: &mut Context<'_>,
    sender: Verified<Leaf>,
    mut group: Group,
    request: UpdateQueueInfo,
) -> Result<Outcome<Done>, Refusal> {
    let Leaf(leaf) = *sender.get();
    admit(context, &request.queue_config).await?;
    let member = group.head.members.iter_mut().find(|member| member.leaf == leaf).ok_or_else(unproven)?;
    member.queue_config = request.queue_config.to_vec().into();
    member.gone = false;
    member.active_day = context.now.day().0;
    let mut batch = Batch::new();
    group.save(context, &mut batch)?;
    Ok(Outcome::write(batch, Done {}))
}
