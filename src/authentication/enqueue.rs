//! Enqueue: puts a message into a client's direct queue. Anybody may, which is why little fits in.

use super::records;
use crate::{
    base::Refusal,
    service::{Append, Class, Context, Outcome, QueueId, Reply},
    store::Batch,
    wire::{Encode, authentication::EnqueueDirect, connection::DirectMessage, queue::QueueMessage, server::Done},
};

/// Adds the message to the queue.
///
/// # Errors
/// `not_found` if there is no such client, `quota_exceeded` if its queue is full.
pub async fn handle(context: &mut Context<'_>, request: EnqueueDirect) -> Result<Outcome<Done>, Refusal> {
    if records::client(context, &request.client).await?.is_none() {
        return Err(Refusal::not_found("there is no such client here"));
    }
    let queue = QueueId::direct(&request.client);
    Ok(append(queue, request.message))
}

/// Adds a message to a queue that anybody may add to.
pub(super) fn append(queue: QueueId, message: DirectMessage) -> Outcome<Done> {
    let content = QueueMessage::Direct(message).to_vec().into();
    let reply = Reply::AfterAppends(Box::new(|appended, _| match appended.refused {
        0 => Ok(Done {}),
        _ => Err(Refusal::quota_exceeded("the queue is full")),
    }));
    let append = Append { queue, content, class: Class::Application, origin: None, push: None };
    Outcome { batch: Batch::new(), appends: vec![append], forwards: Vec::new(), changes: Vec::new(), reply }
}
