//! SendMessage: an application message to all other members. Reads the head and nothing else of the group.

use super::{Services, ending::Telling, group::Group, idempotency::Answer};
use crate::{
    base::Refusal,
    queuing::fan_out,
    service::{Context, Outcome, Reply, Verified, proof::Leaf, proof::unproven},
    store::Batch,
    wire::{
        Decode, Encode, Method, Opaque,
        delivery::{MessageSent, SendMessage},
        mls::{APPLICATION, MLS10, PRIVATE_MESSAGE, PrivateMessage},
        queue::FanOutContent,
    },
};

/// Sends the message to the queues of all members but the sender.
///
/// # Errors
/// `malformed` if it is no application message of this group with empty AAD, `wrong_epoch`.
pub async fn handle(
    services: Services<'_>,
    context: &mut Context<'_>,
    sender: Verified<Leaf>,
    mut group: Group,
    request: SendMessage,
) -> Result<Outcome<MessageSent>, Refusal> {
    let Leaf(leaf) = *sender.get();
    let identity = group.member(leaf).ok_or_else(unproven)?.identity;
    let answer = Answer::to(&group, Method::DsSendMessage, &identity, &request.idempotency_key);
    if let Some(first) = answer.find(context).await? {
        return Ok(Outcome::unchanged(first));
    }
    group.check_epoch(epoch_of(&group, &request.message)?)?;
    group.check_context(request.context_hash)?;

    let mut batch = Batch::new();
    let configs = group.queue_configs(|member| member == leaf);
    let delivery = fan_out::Delivery { no_push: request.no_push, ..Default::default() };
    let mut telling = Telling { services, delivery };
    let message = FanOutContent::Application(request.message);
    let news = telling.tell(&mut group, context, &mut batch, message, &configs).await?;
    let touched = group.touch(leaf, context.now.day());
    if news || touched || group.is_stale(context.now) {
        group.save(context, &mut batch)?;
    }
    let answer = answer.prepare(context);
    let fan_out::Delivery { appends, forwards, unreachable, .. } = telling.delivery;
    let reply = Reply::AfterAppends(Box::new(move |appended, batch| {
        let sent = MessageSent { unreached: unreachable + appended.refused };
        answer.store(&sent, batch);
        Ok(sent)
    }));
    Ok(Outcome { batch, appends, forwards, changes: Vec::new(), reply })
}

/// The epoch of a PrivateMessage with an application message of this group. Its content is not looked at.
fn epoch_of(group: &Group, message: &Opaque) -> Result<u64, Refusal> {
    let malformed = || Refusal::malformed("the message is no application message of this group with empty AAD");
    let message = PrivateMessage::from_bytes(message.0.clone()).map_err(|_| malformed())?;
    let fits = (message.version, message.wire_format, message.content_type) == (MLS10, PRIVATE_MESSAGE, APPLICATION)
        && message.group_id.as_slice() == group.id.to_vec()
        && message.authenticated_data.as_slice().is_empty();
    if fits { Ok(message.epoch) } else { Err(malformed()) }
}
