//! RequestGroupId: a fresh random group id with a ticket that lets its holder create the group. Nothing is stored.

use super::Delivery;
use crate::{
    base::{GroupId, Refusal, Secret, Timestamp},
    crypto::{mac, random},
    service::{Context, Outcome},
    wire::{
        Encode,
        delivery::{GroupTicket, RequestGroupId},
        label::KeyLabel,
    },
};

/// Seconds that a ticket is valid.
const TICKET_LIFE: u64 = 3_600;

/// Draws an id and signs the ticket.
///
/// # Errors
/// None of its own.
pub async fn handle(
    service: &Delivery,
    context: &mut Context<'_>,
    _: RequestGroupId,
) -> Result<Outcome<GroupTicket>, Refusal> {
    let group = GroupId { uuid: random(context.rng), domain: context.domain.clone() };
    let expires = context.now.seconds() + TICKET_LIFE;
    let mac = ticket_mac(service, &group, expires);
    Ok(Outcome::unchanged(GroupTicket { group, expires, mac }))
}

/// Checks a ticket.
///
/// # Errors
/// `forbidden` if this DS did not make it, or its time is over.
pub(super) fn check(service: &Delivery, ticket: &GroupTicket, now: Timestamp) -> Result<(), Refusal> {
    // Both sides as secrets: compared in constant time.
    let ours = Secret::new(ticket_mac(service, &ticket.group, ticket.expires)) == Secret::new(ticket.mac);
    if !ours || ticket.expires < now.seconds() {
        return Err(Refusal::forbidden("the group id ticket is not valid, or no longer"));
    }
    Ok(())
}

/// Until when a deleted group's id must be remembered: no ticket for it is valid longer.
pub(super) const fn tombstone_until(now: Timestamp) -> u64 {
    now.seconds() + TICKET_LIFE
}

fn ticket_mac(service: &Delivery, group: &GroupId, expires: u64) -> [u8; 32] {
    let mut content = group.to_vec();
    expires.encode(&mut content);
    mac(&service.ticket_key, KeyLabel::GroupTicket, &content)
}
