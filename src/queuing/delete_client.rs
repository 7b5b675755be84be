//! DeleteClient: a client goes, with its KeyPackages and its queue; with its last client a user goes as well. The same is
//! done for clients that have been silent for too long.

use super::records;
use crate::{
    base::{QsClientId, QsUserId, Refusal},
    service::{Context, Outcome, Verified, proof::QueuingSender},
    store::Batch,
    wire::{queuing::DeleteQueuingClient, server::Done},
};

/// Deletes a client: the sender, or one of the sender's.
///
/// # Errors
/// `not_found` for a client that is not the sender's.
pub async fn handle(
    context: &Context<'_>,
    sender: Verified<QueuingSender>,
    request: DeleteQueuingClient,
) -> Result<Outcome<Done>, Refusal> {
    let not_found = || Refusal::not_found("there is no such client of the sender");
    let record = records::client(context, request.client).await?.ok_or_else(not_found)?;
    let owns = match *sender.get() {
        QueuingSender::Client(client) => client == request.client,
        QueuingSender::User(user) => user.0 == record.user,
    };
    if !owns {
        return Err(not_found());
    }
    remove(context, request.client, QsUserId(record.user)).await
}

/// The end of a client of a user.
///
/// # Errors
/// `internal` if the store fails.
pub async fn remove(context: &Context<'_>, client: QsClientId, user: QsUserId) -> Result<Outcome<Done>, Refusal> {
    let mut record = records::proven_user(context, user).await?;
    let mut batch = Batch::new();
    let closed = vec![records::remove_client(&mut batch, client)];
    record.clients.retain(|other| *other != client.0);
    match record.clients.is_empty() {
        true => records::remove_user(&mut batch, user, &record),
        false => records::put_user(&mut batch, user, &record)?,
    }
    Ok(Outcome::write(batch, Done {}).changing(closed))
}
