//! RenewCredential: a new credential for a new key, before the old one expires. The old key has signed the new one, so
//! that contacts see the same identity.

use super::{Authentication, finish_registration::refused, records};
use crate::{
    base::{ClientId, Refusal},
    crypto::credential::{check_client_request, is_renewal_of, issue_client},
    service::{Context, Outcome, Verified, proof::unproven},
    store::Batch,
    wire::authentication::{CredentialRenewed, RenewCredential},
};

/// Certifies the new key and stores the credential in place of the old one. The same request again returns the same
/// credential, so that a lost reply does no harm.
///
/// # Errors
/// `malformed` if the old key has not signed for the new one, `forbidden` for a request that the AS does not certify,
/// `quota_exceeded` for a credential that was renewed too often.
pub async fn handle(
    service: &Authentication,
    context: &mut Context<'_>,
    sender: Verified<ClientId>,
    request: RenewCredential,
) -> Result<Outcome<CredentialRenewed>, Refusal> {
    let client = sender.get();
    let request = request.request;
    let old = records::find(context, client).await?.filter(|old| !old.disabled).ok_or_else(unproven)?;
    if old.credential.request == request {
        return Ok(Outcome::unchanged(CredentialRenewed { credential: old.credential }));
    }
    if !is_renewal_of(&request, &old.credential) {
        return Err(Refusal::malformed("the request is not signed by the key that it is to take the place of"));
    }
    let keyring = service.keyring();
    let signer = keyring.signer(&request.payload.signer, context.now)?;
    let (signer, key) = signer.ok_or_else(|| refused(crate::crypto::CryptoError::UnknownSigner))?;
    check_client_request(&request, signer, context.now).map_err(refused)?;
    let credential = issue_client(request, &key);
    let mut batch = Batch::new();
    records::put_client(&mut batch, &old.renewed(credential.clone(), context.now)?)?;
    Ok(Outcome::write(batch, CredentialRenewed { credential }))
}
