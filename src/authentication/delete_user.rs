//! DeleteUser: everything of a user goes, for whoever has the client's key and knows the password.

use super::{
    Authentication, records,
    revocations::{By, Changes},
};
use crate::{
    base::{ClientId, Refusal, UserId},
    service::{Context, QueueId, Verified},
    store::Batch,
    wire::authentication::{DeleteUser, RevocationReason::Revoked},
};

/// The end of a user: what is written, and what happens when it is durable.
pub struct Removal {
    /// Its rows go.
    pub batch: Batch,
    /// Its credentials are revoked.
    pub revoked: Changes,
    /// Its direct queues go as well.
    pub queues: Vec<QueueId>,
}

/// Deletes the sender's user.
///
/// # Errors
/// `unauthenticated` for a wrong password.
pub async fn handle(
    service: &Authentication,
    context: &mut Context<'_>,
    sender: Verified<ClientId>,
    request: DeleteUser,
) -> Result<Removal, Refusal> {
    let client = sender.get();
    service.logins.finish(client, &request.factor, context.now)?;
    remove(service, context, &client.user, By::Owner).await
}

/// Everything of a user goes; its credentials are revoked, so that contacts learn of it and nobody who has a key of it can
/// go on.
///
/// # Errors
/// `not_found` if there is no such user.
pub async fn remove(
    service: &Authentication,
    context: &Context<'_>,
    user: &UserId,
    by: By,
) -> Result<Removal, Refusal> {
    let (mut batch, mut revoked, mut queues) = (Batch::new(), Changes::default(), Vec::new());
    for client in records::clients(context, user).await? {
        for revocation in client.names() {
            // With a full list contacts learn of it when they next look the user up: nobody is kept from leaving.
            if let Err(refusal) = service.revocations.add(revocation, Revoked, by, &mut batch, &mut revoked) {
                tracing::warn!(reason = %refusal.message, "a deleted user is not listed as revoked");
            }
        }
        queues.push(QueueId::direct(&client.credential.request.payload.client));
    }
    records::remove(&mut batch, user);
    Ok(Removal { batch, revoked, queues })
}
