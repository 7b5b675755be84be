//! DeleteUser: everything of a user goes, for whoever has the client's key and knows the password.

use super::{Authentication, records, revocations::Changes};
use crate::{
    base::{ClientId, Refusal, UserId},
    service::{Context, Outcome, Verified},
    store::Batch,
    wire::{authentication::DeleteUser, server::Done},
};

/// Deletes the sender's user.
///
/// # Errors
/// `unauthenticated` for a wrong password.
pub async fn handle(
    service: &Authentication,
    context: &mut Context<'_>,
    sender: Verified<ClientId>,
    request: DeleteUser,
) -> Result<(Outcome<Done>, Changes), Refusal> {
    let client = sender.get();
    service.logins.finish(client, &request.factor, context.now)?;
    let (batch, changes) = remove(service, context, &client.user).await?;
    Ok((Outcome::write(batch, Done {}), changes))
}

/// Everything of a user goes but the direct queues of its clients, which are the caller's; its credentials are revoked,
/// so that contacts learn of it and nobody who has a key of it can go on.
///
/// # Errors
/// `not_found` if there is no such user.
pub async fn remove(
    service: &Authentication,
    context: &Context<'_>,
    user: &UserId,
) -> Result<(Batch, Changes), Refusal> {
    let (mut batch, mut changes) = (Batch::new(), Changes::default());
    for client in records::clients(context, user).await? {
        let until = client.credential.request.payload.validity.not_after;
        let name = crate::crypto::credential::fingerprint(&client.credential);
        service.revocations.add(name, until, &mut batch, &mut changes)?;
    }
    records::remove(&mut batch, user);
    Ok((batch, changes))
}
