//! GetUserProfile: a user's sealed profile, which only its contacts can open.

use super::records;
use crate::{
    base::Refusal,
    service::{Context, Outcome},
    store::Table,
    wire::{
        Opaque,
        authentication::{GetUserProfile, SealedUserProfile},
    },
};

/// Reads the profile.
///
/// # Errors
/// `not_found` if there is no such user.
pub async fn handle(context: &mut Context<'_>, request: GetUserProfile) -> Result<Outcome<SealedUserProfile>, Refusal> {
    let here = request.user.domain == *context.domain;
    let row = if here { context.get(Table::AsUsers, &records::profile_key(&request.user)).await? } else { None };
    let profile = row.map(Opaque).ok_or_else(|| Refusal::not_found("there is no such user here"))?;
    Ok(Outcome::unchanged(SealedUserProfile { profile }))
}
