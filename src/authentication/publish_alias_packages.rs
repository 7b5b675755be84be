//! PublishAliasPackages: replaces the keys to which offers through an alias are encrypted.

use super::alias_records::{self, Name};
use crate::{
    base::{AliasId, Refusal},
    service::{Context, Outcome, QueueChange, Verified},
    store::Batch,
    wire::{authentication::PublishAliasPackages, server::Done},
};

/// Stores the packages in place of all earlier ones.
///
/// # Errors
/// `malformed` for none, too many, or one that is not valid today.
pub fn handle(
    context: &Context<'_>,
    sender: &Verified<AliasId>,
    request: PublishAliasPackages,
) -> Result<Outcome<Done>, Refusal> {
    let mut batch = Batch::new();
    let name = Name::of(context, sender.get());
    alias_records::replace_packages(context, &mut batch, &name, &request.packages)?;
    let restart = (name.queue(), QueueChange::Restart(request.queue_key));
    Ok(Outcome::write(batch, Done {}).changing(vec![restart]))
}
