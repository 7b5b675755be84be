//! RemoveUsers: a commit of Remove proposals. Those who are removed get it too, so that they know.

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
        delivery::{CommitAccepted, RemoveUsers},
    },
};

/// Removes the members.
///
/// # Errors
/// `forbidden` for a sender who is not an admin; what a commit can be refused for.
pub async fn handle(
    services: Services<'_>,
    context: &mut Context<'_>,
    sender: Verified<Leaf>,
    group: Group,
    request: RemoveUsers,
) -> Result<Outcome<CommitAccepted>, Refusal> {
    let allowed = |changing: &Changing, commit: &Commit| {
        if !changing.group.is_admin(commit.signer) {
            return Err(Refusal::forbidden("only an admin may remove members"));
        }
        if !commit.own.only_removes() {
            return Err(Refusal::malformed("RemoveUsers takes a commit of Remove proposals, and what is stored"));
        }
        Ok(())
    };
    let commit = (Method::DsRemoveUsers, request.commit);
    member_commit(services, context, sender, group, commit, None, allowed).await
}
