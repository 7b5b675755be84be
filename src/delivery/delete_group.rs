//! DeleteGroup: a commit that removes everybody else, sent to all, and then the group's state is gone.

use super::{Services, commit::Changing, group::Group};
use crate::{
    base::Refusal,
    service::{Context, Outcome, Verified, proof::Leaf},
    store::Batch,
    wire::delivery::{CommitAccepted, DeleteGroup},
};

/// Deletes the group.
///
/// # Errors
/// `forbidden` for a sender who is not an admin; what a commit can be refused for.
pub async fn handle(
    services: Services<'_>,
    context: &mut Context<'_>,
    sender: Verified<Leaf>,
    group: Group,
    request: DeleteGroup,
) -> Result<Outcome<CommitAccepted>, Refusal> {
    let Leaf(leaf) = *sender.get();
    let mut changing = Changing::load(group, context).await?;
    let commit = changing.validate(&request.commit)?;
    commit.check_sender(leaf)?;
    if !changing.group.is_admin(leaf) {
        return Err(Refusal::forbidden("only an admin may delete the group"));
    }
    let others = changing.group.head.members.iter().map(|member| member.leaf).filter(|member| *member != leaf);
    let all_removed = others.clone().all(|member| commit.removed.contains(&member));
    let only_removes = commit.own.only_removes() || commit.own.are_none();
    if !all_removed || commit.removed.len() != others.count() || !only_removes {
        return Err(Refusal::malformed("DeleteGroup takes a commit that removes everybody but its sender"));
    }
    // The rows of the new epoch are checked like any other's, and then not kept.
    let applied = changing.apply(commit, None, context, &mut Batch::new())?;
    applied.finish_group(services, context, changing.group).await
}
