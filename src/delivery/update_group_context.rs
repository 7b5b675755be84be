//! UpdateGroupContext: a commit that replaces the group context's extensions: who may change the group, and the group data.
//! All else in them stays as it must be in every group.

use super::{
    Services,
    commit::{Changing, Commit, member_commit},
    create_group::check_extensions,
    group::Group,
};
use crate::{
    base::Refusal,
    service::{Context, Outcome, Verified, proof::Leaf},
    wire::{
        Method,
        delivery::{CommitAccepted, UpdateGroupContext},
    },
};

/// Changes roles or group data.
///
/// # Errors
/// `forbidden` for a sender who is not an admin, or roles that may not be given; what a commit can be refused for.
pub async fn handle(
    services: Services<'_>,
    context: &mut Context<'_>,
    sender: Verified<Leaf>,
    group: Group,
    request: UpdateGroupContext,
) -> Result<Outcome<CommitAccepted>, Refusal> {
    let allowed = |changing: &Changing, commit: &Commit| {
        if !changing.group.is_admin(commit.signer) {
            return Err(Refusal::forbidden("only an admin may change the group"));
        }
        if !commit.own.only_extensions() {
            return Err(Refusal::malformed(
                "UpdateGroupContext takes a commit of one GroupContextExtensions proposal, and what is stored",
            ));
        }
        check_extensions(services.delivery, commit.staged.group_context()).map(drop)
    };
    let commit = (Method::DsUpdateGroupContext, request.commit);
    member_commit(services, context, sender, group, commit, None, allowed).await
}
