//! FinishRegistration: the second half of OPAQUE registration, and everything that makes a user, in one batch.

use super::{
    Authentication, invitations, publish_connection_packages::replace_packages, records,
    update_user_profile::check_profile,
};
use crate::{
    base::{ClientId, Refusal},
    crypto::{
        CryptoError,
        credential::{check_client_request, issue_client},
        opaque,
    },
    service::{Context, Outcome, QueueId, Verified, queue::Queue},
    store::{Batch, Table},
    wire::authentication::{FinishRegistration, Registered},
};

/// Certifies the client's key and stores user, client, profile, direct queue and connection packages. The same request
/// again returns the same credential, so that a lost reply does no harm.
///
/// # Errors
/// `already_exists` for a user id that is or was in use, `malformed` for an invalid record, `forbidden` for a request that the AS does
/// not certify (another domain, an unknown signer, a validity beyond the signer's) or a registration that the policy does
/// not admit.
pub async fn handle(
    service: &Authentication,
    context: &mut Context<'_>,
    sender: Verified<ClientId>,
    request: FinishRegistration,
) -> Result<Outcome<Registered>, Refusal> {
    let client = sender.get();
    let user = records::UserRecord { password: request.record.as_slice().to_vec() };
    if let Some(existing) = records::user(context, &client.user).await? {
        let credential = records::client(context, client).await?;
        let queue = Queue::load(QueueId::direct(client), context).await?;
        return match (credential, queue) {
            (Some(credential), Some(queue)) if existing == user && credential.request == request.request => {
                Ok(Outcome::unchanged(Registered { credential, incarnation: queue.incarnation() }))
            }
            _ => Err(Refusal::already_exists("the user id is taken")),
        };
    }
    if records::is_departed(context, &client.user).await? {
        return Err(Refusal::already_exists("the user id was that of a user who was deleted"));
    }
    check_profile(&request.profile)?;
    opaque::check_record(&user.password).map_err(|_| Refusal::malformed("the OPAQUE record is not valid"))?;
    let keyring = service.keyring();
    let signer = keyring.signer(&request.request.payload.signer, context.now)?;
    let (signer, signing_key) = signer.ok_or_else(|| refused(CryptoError::UnknownSigner))?;
    check_client_request(&request.request, signer, context.now).map_err(refused)?;
    if request.request.payload.predecessor.is_some() || request.request.predecessor_signature.is_some() {
        return Err(refused(CryptoError::Form));
    }
    let admission = invitations::admit(context, request.invitation.as_ref()).await?;

    let mut batch = Batch::new();
    let credential = issue_client(request.request, &signing_key);
    admission.use_up(&mut batch)?;
    records::insert(
        &mut batch,
        &user,
        &records::Client { credential: credential.clone(), earlier: Vec::new(), disabled: false },
    )?;
    batch.put(Table::AsUsers, records::profile_key(&client.user), request.profile.0);
    let key = &credential.request.payload.verifying_key;
    replace_packages(context, &mut batch, client, key, &request.packages)?;
    Queue::create(QueueId::direct(client), &request.queue_key, context, &mut batch)?;
    Ok(Outcome::write(batch, Registered { credential, incarnation: context.incarnation }))
}

/// Why the AS does not certify a request.
pub(super) fn refused(error: CryptoError) -> Refusal {
    match error {
        CryptoError::Subject => Refusal::forbidden("users register with the homeserver of their own domain"),
        CryptoError::UnknownSigner => Refusal::forbidden("the request names no signer of this homeserver"),
        CryptoError::Expired => Refusal::forbidden("the validity asked for is not now, or not within the signer's"),
        _ => Refusal::malformed("the credential request does not verify"),
    }
}
