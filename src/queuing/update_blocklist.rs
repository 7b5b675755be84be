//! UpdateBlocklist: of which groups a client wants to hear nothing. What they send is dropped where it would enter the queue,
//! and nobody is told.

use crate::{
    base::{QsClientId, Refusal, limits::MAX_BLOCKED_GROUPS},
    service::{Outcome, QueueChange, QueueId, Verified},
    wire::{queuing::UpdateBlocklist, server::Done},
};

/// Replaces the blocklist.
///
/// # Errors
/// `malformed` for one that is not in ascending order, `quota_exceeded` for too many groups.
pub fn handle(sender: &Verified<QsClientId>, request: UpdateBlocklist) -> Result<Outcome<Done>, Refusal> {
    if request.blocked.len() > MAX_BLOCKED_GROUPS {
        return Err(Refusal::quota_exceeded("at most 1,000 groups can be blocked"));
    }
    if !request.blocked.is_sorted_by(|one, next| one < next) {
        return Err(Refusal::malformed("the blocked groups are not in ascending order"));
    }
    let change = (QueueId::client(*sender.get()), QueueChange::Block(request.blocked));
    Ok(Outcome::unchanged(Done {}).changing(vec![change]))
}
