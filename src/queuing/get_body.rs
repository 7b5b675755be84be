//! GetBody: a body that several queues share, for whoever knows its random id.

use super::fan_out::{body_key, expires};
use crate::{
    base::Refusal,
    service::{Context, Outcome},
    store::Table,
    wire::{
        Opaque,
        queuing::{Body, GetBody},
    },
};

/// Reads the body.
///
/// # Errors
/// `not_found` if there is none, or its time is over.
pub async fn handle(context: &mut Context<'_>, request: GetBody) -> Result<Outcome<Body>, Refusal> {
    let not_found = || Refusal::not_found("there is no such body, or no longer");
    if expires(request.id) < context.now.day() {
        return Err(not_found());
    }
    let row = context.get(Table::QsBodies, &body_key(request.id)).await?;
    let ciphertext = row.map(Opaque).ok_or_else(not_found)?;
    Ok(Outcome::unchanged(Body { ciphertext }))
}
