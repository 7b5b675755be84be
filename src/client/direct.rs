//! What comes through the direct queue and the queues of aliases: offers to connect, and notices that an own offer was declined.

use super::{
    aliases::refill_if_low,
    event::Event,
    queue::{Stop, Work},
    state::{
        blocked,
        chats::{self, ChatState},
        contacts::{self, Offer},
        keys::{self, ConnectionKey},
        outbox::{self, Chore},
    },
};
use crate::{
    base::AliasId,
    crypto::{hpke::HpkePrivateKey, signature::verify},
    wire::{
        Encode,
        connection::{ConnectionDecline, ConnectionOffer, ConnectionOfferTbs, DirectMessage, Recipient},
        label::{HpkeLabel, SignatureLabel},
        padding::{OFFER_FLOOR, unpad_value},
    },
};

/// Most offers that wait for an answer.
const MAX_REQUESTS: u32 = 500;

/// How long an offer can be accepted, in seconds.
const REQUEST_LIFE: u64 = 30 * 86_400;

/// Processes a message for one of this client's keys, that came through an alias or else to the user.
pub fn receive(work: &mut Work<'_>, message: &DirectMessage, through: Option<AliasId>) -> Result<(), Stop> {
    if let Some(key) = keys::connection_key(work.connection, &message.key_hash)? {
        return offer(work, message, &key, through);
    }
    match contacts::offer_by_reply(work.connection, &message.key_hash)? {
        Some(offer) if through.is_none() => decline(work, message, &offer),
        _ => Err(Stop::bad("it is for a key that is not here")),
    }
}

fn offer(
    work: &mut Work<'_>,
    message: &DirectMessage,
    key: &ConnectionKey,
    through: Option<AliasId>,
) -> Result<(), Stop> {
    if key.alias != through {
        return Err(Stop::bad("an offer through another queue than that of its package"));
    }
    let me = &work.account.client.user;
    let private = HpkePrivateKey::from_secret(key.secret.clone())?;
    let recipient = through.map_or_else(|| Recipient::User(me.clone()), Recipient::Alias);
    let opened = private.open(HpkeLabel::ConnectionOffer, &recipient.to_vec(), &[], &message.sealed)?;
    let ConnectionOffer { content, signature } = unpad_value(opened, OFFER_FLOOR)?;
    if contacts::knows_request(work.connection, &content.offer_id)? {
        // Sent again because the first answer got lost.
        return Ok(());
    }
    if key.used > 0 && !key.last {
        return Err(Stop::bad("an offer to a connection package that was used before"));
    }
    if key.not_after < work.trust.now().seconds() {
        return Err(Stop::bad("an offer to an expired connection package"));
    }
    if content.recipient != recipient || content.package_hash != key.package_hash {
        return Err(Stop::bad("an offer that was made to somebody else"));
    }
    // Nobody is asked about a key that is not even the sender's.
    verify(&content.credential.request.payload.verifying_key, SignatureLabel::ConnectionOffer, &content, &signature)?;
    let sender = work.trust.client(&content.credential)?;
    let from = sender.client().user.clone();
    if from == *me {
        return Err(Stop::bad("an offer from this user itself"));
    }
    keys::use_connection_key(work.connection, &message.key_hash)?;
    if blocked::contains(work.connection, &from)? {
        return Ok(());
    }
    let now = work.trust.now().seconds();
    refill_if_low(work.connection, through.as_ref(), now)?;
    if contacts::count_requests(work.connection)? >= MAX_REQUESTS {
        return Err(Stop::bad("an offer to connect while too many wait for an answer"));
    }
    let id = request_id(&content);
    let expires = key.not_after.min(now.saturating_add(REQUEST_LIFE));
    if contacts::insert_request(work.connection, &id, &content, now, expires)? {
        let name = tidy(&content.profile.name.0);
        contacts::put_name(work.connection, &from, &name, now)?;
        work.events.push(Event::Request { id, from, name });
    }
    Ok(())
}

/// Short enough to type.
fn request_id(offer: &ConnectionOfferTbs) -> String {
    offer.offer_id[..5].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A name that somebody else chose, fit to be shown.
pub fn tidy(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(80).collect()
}

fn decline(work: &mut Work<'_>, message: &DirectMessage, offer: &Offer) -> Result<(), Stop> {
    let private = HpkePrivateKey::from_secret(offer.reply_secret.clone())?;
    let opened = private.open(HpkeLabel::ConnectionDecline, &[], &[], &message.sealed)?;
    let ConnectionDecline { offer_id } = unpad_value(opened, OFFER_FLOOR)?;
    if offer_id != offer.offer_id {
        return Err(Stop::bad("a notice for another offer"));
    }
    let chat = chats::find(work.connection, &offer.chat)?;
    if chat.is_some_and(|chat| chat.state == ChatState::Waiting) {
        chats::set_state(work.connection, &offer.chat, ChatState::Declined)?;
        outbox::add_chore(work.connection, &Chore::Delete(offer.chat.clone()))?;
        let user = if let Recipient::User(user) = &offer.recipient { Some(user.clone()) } else { None };
        let chat = offer.chat.clone();
        work.events.push(Event::Declined { user, chat });
    }
    contacts::remove_offer(work.connection, &offer.chat)?;
    Ok(())
}
