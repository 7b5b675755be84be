//! UpdateUserProfile: replaces the sender's sealed profile.

use super::records;
use crate::{
    base::{ClientId, Refusal, Status, limits::MAX_PROFILE},
    service::{Context, Outcome, Verified},
    store::{Batch, Table},
    wire::{Opaque, authentication::UpdateUserProfile, server::Done},
};

/// Stores the profile.
///
/// # Errors
/// `too_large` for a profile of more than [`MAX_PROFILE`] bytes.
pub async fn handle(
    _context: &mut Context<'_>,
    sender: Verified<ClientId>,
    request: UpdateUserProfile,
) -> Result<Outcome<Done>, Refusal> {
    check_profile(&request.profile)?;
    let mut batch = Batch::new();
    batch.put(Table::AsUsers, records::profile_key(&sender.get().user), request.profile.0);
    Ok(Outcome::write(batch, Done {}))
}

/// Checks the size of a profile.
///
/// # Errors
/// `too_large`.
pub(super) fn check_profile(profile: &Opaque) -> Result<(), Refusal> {
    if profile.as_slice().len() <= MAX_PROFILE {
        return Ok(());
    }
    Err(Refusal::new(Status::TooLarge, "a sealed profile has at most 32 KiB"))
}
