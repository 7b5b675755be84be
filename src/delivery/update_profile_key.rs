//! UpdateProfileKey: the profile key of a member as joiners are given it. Those who are there learn of it by an application
//! message.

use super::{group::Group, waiting::Waiting};
use crate::{
    base::Refusal,
    service::{Context, Outcome, Verified, proof::Leaf},
    store::Batch,
    wire::{delivery::UpdateProfileKey, server::Done},
};

/// Longest sealed key in bytes: 32 with what sealing adds have room.
const MAX_SEALED: usize = 256;

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
    if request.sealed_profile_key.as_slice().len() > MAX_SEALED {
        return Err(Refusal::malformed("this is too long for a sealed profile key"));
    }
    let Leaf(leaf) = *sender.get();
    let mut waiting = Waiting::load(&group, context).await?;
    waiting.set_profile_key(leaf, &request.sealed_profile_key);
    group.touch(leaf, context.now.day());
    let mut batch = Batch::new();
    waiting.save(&mut group, context, &mut batch)?;
    group.save(context, &mut batch)?;
    Ok(Outcome::write(batch, Done {}))
}
