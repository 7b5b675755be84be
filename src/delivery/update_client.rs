//! UpdateClient: a commit with an update path and no proposals of its own, by which a member renews its
//! keys and carries out what others have proposed.

use super::{
    Services,
    commit::{Changing, Commit, member_commit},
    group::Group,
};
use crate::{
    base::Refusal,
    service::{Context, Outcome, Verified, proof::Leaf},
    wire::{
        Method,
        delivery::{CommitAccepted, UpdateClient},
    },
};

/// Renews the sender's leaf, and its queue config if one is given.
///
/// # Errors
/// What a commit can be refused for.
pub async fn handle(
    services: Services<'_>,
    context: &mut Context<'_>,
    sender: Verified<Leaf>,
    group: Group,
    request: UpdateClient,
) -> Result<Outcome<CommitAccepted>, Refusal> {
    let allowed = |_: &Changing, commit: &Commit| {
        if !commit.has_path() || !commit.own.are_none() {
            return Err(Refusal::malformed(
                "UpdateClient takes a commit with an update path and no proposals but those that are stored",
            ));
        }
        Ok(())
    };
    let commit = (Method::DsUpdateClient, request.commit);
    member_commit(services, context, sender, group, commit, request.queue_config, allowed).await
}
