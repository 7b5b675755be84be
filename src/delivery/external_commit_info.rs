//! ExternalCommitInfo: what it takes to join by external commit. For a connection group that is still open the EAR key is
//! the proof; for any other group only members are told.

use super::{
    commit::Changing,
    group::{Connection, Group},
};
use crate::{
    base::Refusal,
    service::{Context, Outcome, Verified, proof::Leaf},
    wire::delivery::ExternalCommitInfo,
};

/// Reads the GroupInfo, the tree, the chains and the stored SelfRemoves, and how far the member's homeserver has got what was sent.
///
/// # Errors
/// `forbidden` if no member asks, and the group is no open connection group.
pub async fn handle(
    context: &mut Context<'_>,
    sender: Option<Verified<Leaf>>,
    group: Group,
) -> Result<Outcome<ExternalCommitInfo>, Refusal> {
    if sender.is_none() && group.head.connection != Connection::Open {
        return Err(Refusal::forbidden("only members are told; the group is no open connection group"));
    }
    let home = sender.map(|sender| group.home_of(sender.get().0)).transpose()?.flatten();
    let undelivered = match home.filter(|home| home != context.domain) {
        Some(home) => context.others.undelivered(&home).await?,
        None => None,
    };
    let Changing { group, tree, waiting } = Changing::load(group, context).await?;
    Ok(Outcome::unchanged(ExternalCommitInfo {
        group_info: tree.group_info()?,
        ratchet_tree: tree.ratchet_tree()?,
        members: tree.member_infos(),
        proposals: waiting.messages(|at| group.head.leaving.get(at).is_some_and(|leaving| leaving.by_itself)),
        undelivered,
    }))
}
