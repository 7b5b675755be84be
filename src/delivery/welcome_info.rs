//! WelcomeInfo: the tree and the chains of the epoch that a joiner was added in, however far the group has moved on.

use super::{group::Group, tree::Tree};
use crate::{
    base::Refusal,
    service::{Context, Outcome, Verified, proof::Joiner},
    wire::delivery::{GetWelcomeInfo, WelcomeInfo},
};

/// Reads the tree. Repeatable until the joiner's first commit or the expiry of its KeyPackage.
///
/// # Errors
/// `not_found` if the joiner was added in another epoch.
pub async fn handle(
    context: &mut Context<'_>,
    sender: Verified<Joiner>,
    group: Group,
    request: GetWelcomeInfo,
) -> Result<Outcome<WelcomeInfo>, Refusal> {
    let not_found = || Refusal::not_found("the sender was added in another epoch");
    let joiner = group.joiner(&sender.get().0, context.now.day()).ok_or_else(not_found)?;
    if joiner.epoch != request.epoch {
        return Err(not_found());
    }
    let tree = Tree::load(&group, joiner.rows, context).await?;
    Ok(Outcome::unchanged(WelcomeInfo { ratchet_tree: tree.ratchet_tree()?, members: tree.member_infos() }))
}
