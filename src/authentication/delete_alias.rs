//! DeleteAlias: everything of an alias goes, and anybody may register it again.

use super::alias_records::{self, Name};
use crate::{
    base::AliasId,
    service::{Context, Outcome, QueueChange, QueueId, Verified},
    store::Batch,
    wire::server::Done,
};

/// Deletes the sending alias; its queue goes as well.
pub fn handle(context: &Context<'_>, sender: &Verified<AliasId>) -> (Outcome<Done>, QueueId) {
    remove(context, sender.get())
}

/// The end of an alias, and the queue that goes with it.
pub fn remove(context: &Context<'_>, alias: &AliasId) -> (Outcome<Done>, QueueId) {
    let name = Name::of(context, alias);
    let mut batch = Batch::new();
    alias_records::remove(&mut batch, &name);
    let closed = vec![(name.queue(), QueueChange::Close)];
    (Outcome::write(batch, Done {}).changing(closed), name.queue())
}
