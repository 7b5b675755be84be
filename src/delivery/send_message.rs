//! SendMessage: an application message to all other members. Reads the head and nothing else of the group.

use super::{Services, group::Group, idempotency::Answer};
use crate::{
    base::Refusal,
    queuing::fan_out,
    service::{Class, Context, Outcome, Reply, Verified, proof::Leaf, proof::unproven},
    store::Batch,
    wire::{
        Decode, Encode, Opaque, Reader,
        delivery::{MessageSent, SendMessage},
        queue::{FanOut, FanOutContent},
    },
};

/// MLSMessage: mls10, mls_private_message (RFC 9420 section 6).
const PRIVATE_MESSAGE: [u8; 4] = [0, 1, 0, 2];

/// ContentType application (RFC 9420 section 6).
const APPLICATION: u8 = 1;

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
    let answer = Answer::to(&group, &identity, &request.idempotency_key);
    if let Some(first) = answer.find(context).await? {
        return Ok(Outcome::unchanged(first));
    }
    group.check_epoch(epoch_of(&group, &request.message)?)?;

    let mut batch = Batch::new();
    if group.is_stale(context.now) {
        group.save(context, &mut batch)?;
    }
    let configs = group.queue_configs(|member| member == leaf)?;
    let message = FanOut { group: group.id.clone(), content: FanOutContent::Application(request.message) };
    let mut delivery = fan_out::Delivery::default();
    delivery.add(services.queuing, context, &mut batch, message, &configs, Class::Application).await?;
    let answer = answer.prepare(context);
    let fan_out::Delivery { appends, unreachable } = delivery;
    let reply = Reply::AfterAppends(Box::new(move |appended, batch| {
        let sent = MessageSent { unreached: unreachable + appended.refused };
        answer.store(&sent, batch);
        Ok(sent)
    }));
    Ok(Outcome { batch, appends, reply })
}

/// The epoch of a PrivateMessage with an application message of this group. Its content is not looked at.
fn epoch_of(group: &Group, message: &Opaque) -> Result<u64, Refusal> {
    let mut reader = Reader::new(message.0.clone());
    let mut parse = || {
        let header: [u8; 4] = reader.array()?;
        let id = Opaque::decode(&mut reader)?;
        let epoch = u64::decode(&mut reader)?;
        let content_type = u8::decode(&mut reader)?;
        let aad = Opaque::decode(&mut reader)?;
        let _encrypted_sender_data = Opaque::decode(&mut reader)?;
        let _ciphertext = Opaque::decode(&mut reader)?;
        Ok::<_, crate::wire::DecodeError>((header, id, epoch, content_type, aad))
    };
    let parsed = parse();
    match (parsed, reader.finish()) {
        (Ok((PRIVATE_MESSAGE, id, epoch, APPLICATION, aad)), Ok(()))
            if id.as_slice() == group.id.to_vec() && aad.as_slice().is_empty() =>
        {
            Ok(epoch)
        }
        _ => Err(Refusal::malformed("the message is no application message of this group with empty AAD")),
    }
}
