//! RenewCredential: a new credential for a new key, before the old one expires. The old key has signed the new one, so
//! that contacts see the same identity. A homeserver that was restored from a backup learns what it has forgotten.

use super::{Authentication, finish_registration::refused, records};
use crate::{
    base::{ClientId, Refusal, limits::MAX_RENEWED_CREDENTIALS},
    crypto::credential::{check_client_request, fingerprint, is_renewal_of, issue_client},
    service::{Context, Outcome, Verified, proof::unproven},
    store::Batch,
    wire::{
        authentication::{CredentialRenewed, RenewCredential},
        credential::ClientCredential,
    },
};

/// What of the sender's history comes after the credential that is stored: this homeserver has granted it before it was
/// restored from a backup, and has forgotten it. Each is signed for by the key of the one before.
///
/// # Errors
/// `malformed` if the history is longer than it may be, `unauthenticated` if one is not signed for.
pub fn forgotten<'a>(
    stored: &ClientCredential,
    history: &'a [ClientCredential],
) -> Result<&'a [ClientCredential], Refusal> {
    if history.len() > MAX_RENEWED_CREDENTIALS {
        return Err(Refusal::malformed("the history has more than 8 credentials"));
    }
    let name = fingerprint(stored);
    let renews_stored = |of: &ClientCredential| of.request.payload.predecessor == Some(name);
    let from = history.iter().position(renews_stored).unwrap_or(history.len());
    let (mut before, forgotten) = (stored, &history[from..]);
    for next in forgotten {
        if !is_renewal_of(&next.request, before) {
            return Err(unproven());
        }
        before = next;
    }
    Ok(forgotten)
}

/// Certifies the new key and stores the credential in place of the old one. The same request again returns the same
/// credential, so that a lost reply does no harm; so does one that was forgotten.
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
    let RenewCredential { request, history } = request;
    let old = records::find(context, client).await?.filter(|old| !old.disabled).ok_or_else(unproven)?;
    if old.credential.request == request {
        return Ok(Outcome::unchanged(CredentialRenewed { credential: old.credential }));
    }
    let forgotten = forgotten(&old.credential, &history)?;
    let was_granted = forgotten.last().is_some_and(|last| last.request == request);
    if !was_granted && !is_renewal_of(&request, forgotten.last().unwrap_or(&old.credential)) {
        return Err(Refusal::malformed("the request is not signed by the key that it is to take the place of"));
    }
    let keyring = service.keyring();
    let signer = keyring.signer(&request.payload.signer, context.now)?;
    let (signer, key) = signer.ok_or_else(|| refused(crate::crypto::CryptoError::UnknownSigner))?;
    check_client_request(&request, signer, context.now).map_err(refused)?;
    let credential = issue_client(request, &key);
    let mut batch = Batch::new();
    records::put_client(&mut batch, &old.renewed(credential.clone(), forgotten, context.now)?)?;
    Ok(Outcome::write(batch, CredentialRenewed { credential }))
}
