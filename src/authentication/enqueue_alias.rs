//! EnqueueAlias: puts a message into an alias's queue. Anybody may, which is why little fits in.

use super::{
    alias_records::{self, Name},
    enqueue,
};
use crate::{
    base::Refusal,
    service::{Context, Outcome},
    wire::{authentication::EnqueueAlias, server::Done},
};

/// Adds the message to the queue.
///
/// # Errors
/// `not_found` if there is no such alias, `quota_exceeded` if its queue is full.
pub async fn handle(context: &Context<'_>, request: EnqueueAlias) -> Result<Outcome<Done>, Refusal> {
    let name = Name::of(context, &request.alias);
    if alias_records::alias(context, &name).await?.is_none() {
        return Err(Refusal::not_found("there is no such alias here"));
    }
    Ok(enqueue::append(name.queue(), request.message))
}
