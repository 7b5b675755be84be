//! UpdateUserProfile: replaces the sender's sealed profile.

use super::records;
use crate::{
    base::{ClientId, Refusal},
    service::{Context, Outcome, Verified},
    store::{Batch, Table},
    wire::{authentication::UpdateUserProfile, server::Done},
};

/// Stores the profile.
///
/// # Errors
/// None of its own.
pub async fn handle(
    _context: &mut Context<'_>,
    sender: Verified<ClientId>,
    request: UpdateUserProfile,
) -> Result<Outcome<Done>, Refusal> {
    let mut batch = Batch::new();
    batch.put(Table::AsUsers, records::profile_key(&sender.get().user), request.profile.0);
    Ok(Outcome::write(batch, Done {}))
}
