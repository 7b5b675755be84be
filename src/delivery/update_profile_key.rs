//! UpdateProfileKey: the profile key of a member as joiners are given it. Those who are there learn of it by an application
//! message.

use super::{group::Group, member_infos::check_profile_key, waiting::Waiting};
use crate::{
    base::Refusal,
    service::{Context, Outcome, Verified, proof::Leaf},
    store::Batch,
    wire::{delivery::UpdateProfileKey, server::Done},
};

/// Replaces the sender's user-profile key. A repeat does no harm.
///
/// # Errors
/// `malformed` for what can be no sealed key, `internal` if the state cannot be read or written.
pub async fn handle(
    context: &mut Context<'_>,
    sender: Verified<Leaf>,
    mut group: Group,
    request: UpdateProfileKey,
) -> Result<Outcome<Done>, Refusal> {
    check_profile_key(&request.sealed_profile_key)?;
    let Leaf(leaf) = *sender.get();
    let mut waiting = Waiting::load(&group, context).await?;
    waiting.set_profile_key(leaf, &request.sealed_profile_key);
    group.touch(leaf, context.now.day());
    let mut batch = Batch::new();
    waiting.save(&mut group, context, &mut batch)?;
    group.save(context, &mut batch)?;
    Ok(Outcome::write(batch, Done {}))
}
