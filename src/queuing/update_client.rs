//! UpdateClient: other keys and another push token in place of a client's. Another queue key starts the ratchet of its queue
//! anew, which is how a client that has lost its ratchet can read its queue again.

use super::records;
use crate::{
    base::{QsClientId, Refusal},
    service::{Context, Outcome, QueueChange, QueueId, Verified},
    store::Batch,
    wire::{queuing::UpdateQueuingClient, server::Done},
};

/// Replaces them.
///
/// # Errors
/// `malformed` for keys that are none, `quota_exceeded` if the authentication key was replaced too often lately, or for a
/// queue that is full.
pub async fn handle(
    context: &Context<'_>,
    sender: Verified<QsClientId>,
    request: UpdateQueuingClient,
) -> Result<Outcome<Done>, Refusal> {
    let id = *sender.get();
    let mut record = records::proven_client(context, id).await?;
    record.replace(&request.client, context.now.day())?;
    record.touch(context.now.day());
    let mut batch = Batch::new();
    records::put_client(&mut batch, id, &record)?;
    let restart = (QueueId::client(id), QueueChange::Restart(request.client.queue_key));
    Ok(Outcome::write(batch, Done {}).changing(vec![restart]))
}
