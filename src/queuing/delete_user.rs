//! DeleteUser: a user goes, with all its clients and their queues.

use super::records;
use crate::{
    base::{QsClientId, QsUserId, Refusal},
    service::{Context, Outcome, Verified},
    store::Batch,
    wire::{queuing::DeleteQueuingUser, server::Done},
};

/// Deletes the records.
///
/// # Errors
/// `internal` if the store fails.
pub async fn handle(
    context: &Context<'_>,
    sender: Verified<QsUserId>,
    DeleteQueuingUser {}: DeleteQueuingUser,
) -> Result<Outcome<Done>, Refusal> {
    let user = records::proven_user(context, *sender.get()).await?;
    let mut batch = Batch::new();
    let closed = user.clients.iter().map(|client| records::remove_client(&mut batch, QsClientId(*client))).collect();
    records::remove_user(&mut batch, *sender.get(), &user);
    Ok(Outcome::write(batch, Done {}).changing(closed))
}
