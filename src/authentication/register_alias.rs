//! RegisterAlias: a name by which its owner can be found, known to the AS by a key of its own and by nothing else.

use super::alias_records::{self, AliasRecord, Name};
use crate::{
    base::{AliasId, Refusal},
    service::{Context, Outcome, Verified, queue::Queue},
    store::Batch,
    wire::authentication::{AliasRegistered, RegisterAlias},
};

/// Stores the alias, its packages and its queue, all at once. The same request again is answered the same.
///
/// # Errors
/// `already_exists` for an alias in use, `malformed` for packages or keys that are not usable.
pub async fn handle(
    context: &mut Context<'_>,
    sender: Verified<AliasId>,
    request: RegisterAlias,
) -> Result<Outcome<AliasRegistered>, Refusal> {
    let name = Name::of(context, sender.get());
    let record = AliasRecord::new(context, &request);
    if let Some(existing) = alias_records::alias(context, &name).await? {
        return match Queue::load(name.queue(), context).await? {
            Some(queue) if existing.request == record.request => {
                Ok(Outcome::unchanged(AliasRegistered { incarnation: queue.incarnation() }))
            }
            _ => Err(Refusal::already_exists("the alias is taken")),
        };
    }
    let mut batch = Batch::new();
    alias_records::insert(&mut batch, &name, &record)?;
    alias_records::replace_packages(context, &mut batch, &name, &request.packages)?;
    Queue::create(name.queue(), &request.queue_key, context, &mut batch)?;
    Ok(Outcome::write(batch, AliasRegistered { incarnation: context.incarnation }))
}
