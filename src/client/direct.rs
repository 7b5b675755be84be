//! What comes through the direct queue: offers to connect, and notices that an own offer was declined.

use super::{
    event::Event,
    packages::LOW_CONNECTION_PACKAGES,
    queue::{Stop, Work},
    state::{
        chats::{self, ChatState},
        contacts::{self, Offer},
        keys::{self, ConnectionKey},
        outbox::{self, Chore},
    },
};
use crate::{
    crypto::{hpke::HpkePrivateKey, signature::verify},
    wire::{
        Encode,
        connection::{ConnectionDecline, ConnectionOffer, ConnectionOfferTbs, DirectMessage, Recipient},
        label::{HpkeLabel, SignatureLabel},
        padding::{OFFER_FLOOR, unpad_value},
    },
};

/// Processes a message for one of this client's keys.
pub fn receive(work: &mut Work<'_>, message: &DirectMessage) -> Result<(), Stop> {
    if let Some(key) = keys::connection_key(work.connection, &message.key_hash)? {
        return offer(work, message, &key);
    }
    match contacts::offer_by_reply(work.connection, &message.key_hash)? {
        Some(offer) => decline(work, message, &offer),
        None => Err(Stop::bad("it is for a key that is not here")),
    }
}

fn offer(work: &mut Work<'_>, message: &DirectMessage, key: &ConnectionKey) -> Result<(), Stop> {
    let me = &work.account.client.user;
    let private = HpkePrivateKey::from_secret(key.secret.clone())?;
    let recipient = Recipient::User(me.clone());
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
    let sender = work.trust.client(&content.credential)?;
    verify(sender.verifying_key(), SignatureLabel::ConnectionOffer, &content, &signature)?;
    let from = sender.client().user.clone();
    if from == *me {
        return Err(Stop::bad("an offer from this user itself"));
    }
    keys::use_connection_key(work.connection, &message.key_hash)?;
    let now = work.trust.now().seconds();
    if keys::unused_connection_keys(work.connection, now)? < LOW_CONNECTION_PACKAGES {
        outbox::add_chore(work.connection, &Chore::ConnectionPackages)?;
    }
    let id = request_id(&content);
    if contacts::insert_request(work.connection, &id, &content, now)? {
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
        let (user, chat) = (offer.recipient.clone(), offer.chat.clone());
        work.events.push(Event::Declined { user, chat });
    }
    contacts::remove_offer(work.connection, &offer.chat)?;
    Ok(())
}
