//! The chain of credentials, from a home domain's root down to the pseudonymous leaf (`wire-spec/credentials.md`): made
//! here, verified here, and once verified a type of its own.

use std::collections::HashMap;

use super::{
    CryptoError, Rng, aead, random, random_secret, sha256,
    signature::{SigningKey, verify},
};
use crate::{
    base::{ClientId, Day, Domain, Secret, Timestamp},
    wire::{
        Decode, Encode,
        authentication::{Credentials, RevocationReason},
        credential::{
            AsCredential, AsCredentialPayload, AsIntermediateCredential, AsIntermediatePayload, AsIntermediateRequest,
            CIPHERSUITE, ClientCredential, ClientPayload, ClientRequest, DayValidity, Fingerprint, LeafChain,
            LeafCredential, LeafSignature, LeafTbs, RootSuccession, SignaturePublicKey, Validity,
        },
        label::{KeyLabel, SignatureLabel},
        padding::{MESSAGE_FLOOR, pad_value, unpad_value},
    },
};

/// The name of a credential: the hash of its encoding.
pub fn fingerprint(credential: &impl Encode) -> Fingerprint {
    sha256(&credential.to_vec())
}

impl Validity {
    /// Whether `now` lies within.
    pub const fn covers(&self, now: Timestamp) -> bool {
        self.not_before <= now.seconds() && now.seconds() <= self.not_after
    }

    /// Whether all of `other` lies within.
    pub const fn contains(&self, other: &Self) -> bool {
        self.not_before <= other.not_before && other.not_before <= other.not_after && other.not_after <= self.not_after
    }
}

impl DayValidity {
    /// Whether `day` lies within.
    pub const fn covers(&self, day: Day) -> bool {
        self.not_before <= day.0 && day.0 <= self.not_after
    }
}

/// Makes a self-signed root credential.
pub fn issue_root(domain: Domain, validity: Validity, key: &SigningKey) -> AsCredential {
    let payload =
        AsCredentialPayload { domain, ciphersuite: CIPHERSUITE, validity, verifying_key: key.verifying_key() };
    let signature = key.sign(SignatureLabel::AsCredential, &payload);
    AsCredential { payload, signature }
}

/// A root vouches for the one that comes after it.
pub fn issue_succession(old: &AsCredential, new: &AsCredential, old_key: &SigningKey) -> RootSuccession {
    let successor = fingerprint(new);
    let signature = old_key.sign(SignatureLabel::RootSuccession, &successor);
    RootSuccession { predecessor: fingerprint(old), successor, signature }
}

/// Asks for an intermediate credential for `key`.
pub fn request_intermediate(
    domain: Domain,
    validity: Validity,
    signer: &AsCredential,
    key: &SigningKey,
) -> AsIntermediateRequest {
    let payload = AsIntermediatePayload {
        domain,
        ciphersuite: CIPHERSUITE,
        validity,
        verifying_key: key.verifying_key(),
        signer: fingerprint(signer),
    };
    let self_signature = key.sign(SignatureLabel::AsIntermediateRequest, &payload);
    AsIntermediateRequest { payload, self_signature }
}

/// Signs an intermediate credential.
pub fn issue_intermediate(request: AsIntermediateRequest, root: &SigningKey) -> AsIntermediateCredential {
    let signature = root.sign(SignatureLabel::AsIntermediateCredential, &request);
    AsIntermediateCredential { request, signature }
}

/// Signs an intermediate credential where nothing but the root is known: only what asks for no more than `root` can give,
/// and only with the root's own key. The time is not looked at, because clocks kept apart are often wrong.
///
/// # Errors
/// What does not hold; [`CryptoError::UnknownSigner`] if `key` is not the root's, or the request names another root.
pub fn sign_intermediate(
    request: AsIntermediateRequest,
    root: &AsCredential,
    key: &SigningKey,
) -> Result<AsIntermediateCredential, CryptoError> {
    let AsCredential { payload, signature } = root;
    if payload.verifying_key != key.verifying_key() {
        return Err(CryptoError::UnknownSigner);
    }
    verify(&payload.verifying_key, SignatureLabel::AsCredential, payload, signature)?;
    let then = Timestamp(request.payload.validity.not_before.saturating_mul(1_000));
    let credential = issue_intermediate(request, key);
    check_intermediate(&credential, &[root], then)?;
    Ok(credential)
}

/// Checks an intermediate credential against the roots, and that it is valid now.
///
/// # Errors
/// What does not hold.
pub fn check_intermediate(
    credential: &AsIntermediateCredential,
    roots: &[&AsCredential],
    now: Timestamp,
) -> Result<(), CryptoError> {
    let AsIntermediateRequest { payload, self_signature } = &credential.request;
    let root = roots.iter().find(|root| fingerprint(**root) == payload.signer).ok_or(CryptoError::UnknownSigner)?;
    if payload.domain != root.payload.domain || payload.ciphersuite != CIPHERSUITE {
        return Err(CryptoError::Subject);
    }
    verify(&payload.verifying_key, SignatureLabel::AsIntermediateRequest, payload, self_signature)?;
    let label = SignatureLabel::AsIntermediateCredential;
    verify(&root.payload.verifying_key, label, &credential.request, &credential.signature)?;
    if !root.payload.validity.contains(&payload.validity) || !payload.validity.covers(now) {
        return Err(CryptoError::Expired);
    }
    Ok(())
}

/// Asks for a client credential for `key`. If it `renews` another, the key of that one signs as well.
pub fn request_client(
    client: ClientId,
    validity: Validity,
    signer: &AsIntermediateCredential,
    key: &SigningKey,
    renews: Option<(&ClientCredential, &SigningKey)>,
) -> ClientRequest {
    let payload = ClientPayload {
        client,
        ciphersuite: CIPHERSUITE,
        validity,
        verifying_key: key.verifying_key(),
        signer: fingerprint(signer),
        predecessor: renews.map(|(old, _)| fingerprint(old)),
    };
    let self_signature = key.sign(SignatureLabel::ClientRequest, &payload);
    let predecessor_signature = renews.map(|(_, key)| key.sign(SignatureLabel::ClientRenewal, &payload));
    ClientRequest { payload, self_signature, predecessor_signature }
}

/// Whether the holder of `old`'s key says that `new` takes its place: the identity is the same.
pub fn is_renewal_of(new: &ClientRequest, old: &ClientCredential) -> bool {
    let (before, after) = (&old.request.payload, &new.payload);
    let Some(signature) = &new.predecessor_signature else { return false };
    before.client == after.client
        && after.predecessor == Some(fingerprint(old))
        && verify(&before.verifying_key, SignatureLabel::ClientRenewal, after, signature).is_ok()
}

/// Checks what a client asks the AS to sign: its own signature, the ciphersuite, and that it is valid now and within
/// the signer's validity.
///
/// # Errors
/// What does not hold.
pub fn check_client_request(
    request: &ClientRequest,
    signer: &AsIntermediateCredential,
    now: Timestamp,
) -> Result<(), CryptoError> {
    let ClientRequest { payload, self_signature, .. } = request;
    if payload.ciphersuite != CIPHERSUITE {
        return Err(CryptoError::Form);
    }
    if payload.signer != fingerprint(signer) {
        return Err(CryptoError::UnknownSigner);
    }
    if payload.client.user.domain != signer.request.payload.domain {
        return Err(CryptoError::Subject);
    }
    if !signer.request.payload.validity.contains(&payload.validity) || !payload.validity.covers(now) {
        return Err(CryptoError::Expired);
    }
    verify(&payload.verifying_key, SignatureLabel::ClientRequest, payload, self_signature)
}

/// Signs a client credential; the request must have passed [`check_client_request`].
pub fn issue_client(request: ClientRequest, intermediate: &SigningKey) -> ClientCredential {
    let signature = intermediate.sign(SignatureLabel::ClientCredential, &request);
    ClientCredential { request, signature }
}

/// The verified credentials of one home domain: what users of that domain are verified against.
#[derive(Clone, Debug)]
pub struct Authority {
    domain: Domain,
    roots: Vec<Fingerprint>,
    intermediates: Vec<(Fingerprint, AsIntermediateCredential)>,
    revoked: HashMap<Fingerprint, RevocationReason>,
}

/// A client credential whose chain was verified up to its domain's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedClient(ClientCredential);

/// A leaf credential that was verified to be of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedLeaf {
    /// Who is behind the leaf.
    pub client: ClientId,
    /// The leaf's pseudonymous identity in its group.
    pub identity: [u8; 32],
}

impl Authority {
    /// Verifies what GetCredentials of `domain` answered, over a connection that proved the domain. Where roots of the
    /// domain are `known` already, only they and those that they vouch for count. Credentials that are revoked or not
    /// valid now are left out.
    ///
    /// # Errors
    /// What does not verify; [`CryptoError::UnknownSigner`] if no usable chain is left.
    pub fn verify(
        domain: Domain,
        credentials: &Credentials,
        known: &[Fingerprint],
        now: Timestamp,
    ) -> Result<Self, CryptoError> {
        let revoked: HashMap<_, _> = credentials.revoked.iter().map(|of| (of.credential, of.reason)).collect();
        let mut listed = Vec::new();
        for root in &credentials.roots {
            let AsCredential { payload, signature } = root;
            if payload.domain != domain || payload.ciphersuite != CIPHERSUITE {
                return Err(CryptoError::Subject);
            }
            verify(&payload.verifying_key, SignatureLabel::AsCredential, payload, signature)?;
            let name = fingerprint(root);
            if !revoked.contains_key(&name) {
                listed.push((name, root));
            }
        }
        let believed = believed(&listed, &credentials.successions, known);
        let usable =
            |(name, root): &&(Fingerprint, &AsCredential)| believed.contains(name) && root.payload.validity.covers(now);
        let (roots, usable): (Vec<_>, Vec<_>) = listed.iter().filter(usable).copied().unzip();
        let mut intermediates = Vec::new();
        for credential in &credentials.intermediates {
            let name = fingerprint(credential);
            match check_intermediate(credential, &usable, now) {
                Ok(()) if !revoked.contains_key(&name) => intermediates.push((name, credential.clone())),
                // Of another root, over, or revoked.
                Ok(()) | Err(CryptoError::UnknownSigner | CryptoError::Expired) => {}
                Err(error) => return Err(error),
            }
        }
        if intermediates.is_empty() {
            return Err(CryptoError::UnknownSigner);
        }
        Ok(Self { domain, roots, intermediates, revoked })
    }

    /// Whether client credentials signed by this intermediate verify.
    pub fn has_signer(&self, name: &Fingerprint) -> bool {
        self.intermediates.iter().any(|(known, _)| known == name)
    }

    /// Why a credential is not to be believed, if it is on the domain's list.
    pub fn revocation(&self, name: &Fingerprint) -> Option<RevocationReason> {
        self.revoked.get(name).copied()
    }

    /// The domain.
    pub const fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Fingerprints of the root credentials, for pinning.
    pub fn roots(&self) -> &[Fingerprint] {
        &self.roots
    }

    /// The intermediate credential that signs new clients.
    pub fn preferred(&self) -> Option<&AsIntermediateCredential> {
        self.intermediates.first().map(|(_, credential)| credential)
    }

    /// Verifies a client credential.
    ///
    /// # Errors
    /// What does not hold.
    pub fn verify_client(&self, credential: &ClientCredential, now: Timestamp) -> Result<VerifiedClient, CryptoError> {
        let ClientPayload { client, ciphersuite, validity, verifying_key, signer, .. } = &credential.request.payload;
        if client.user.domain != self.domain || *ciphersuite != CIPHERSUITE {
            return Err(CryptoError::Subject);
        }
        let found = self.intermediates.iter().find(|(name, _)| name == signer);
        let signer = found.ok_or_else(|| match self.revocation(signer) {
            Some(_) => CryptoError::RevokedSigner,
            None => CryptoError::UnknownSigner,
        })?;
        let signer = &signer.1.request.payload;
        let request = &credential.request;
        verify(verifying_key, SignatureLabel::ClientRequest, &request.payload, &request.self_signature)?;
        verify(&signer.verifying_key, SignatureLabel::ClientCredential, request, &credential.signature)?;
        match self.revocation(&fingerprint(credential)) {
            Some(RevocationReason::Revoked) => return Err(CryptoError::Revoked),
            Some(RevocationReason::OnHold) => return Err(CryptoError::OnHold),
            None => {}
        }
        if !signer.validity.contains(validity) || !validity.covers(now) {
            return Err(CryptoError::Expired);
        }
        Ok(VerifiedClient(credential.clone()))
    }
}

/// The roots to believe: all of them if none is known, else the known ones and those that they vouch for, directly or by
/// others.
fn believed(
    listed: &[(Fingerprint, &AsCredential)],
    successions: &[RootSuccession],
    known: &[Fingerprint],
) -> Vec<Fingerprint> {
    if known.is_empty() {
        return listed.iter().map(|(name, _)| *name).collect();
    }
    let mut believed: Vec<_> = listed.iter().map(|(name, _)| *name).filter(|name| known.contains(name)).collect();
    let mut at = 0;
    while let Some(predecessor) = believed.get(at).copied() {
        at += 1;
        let Some((_, root)) = listed.iter().find(|(name, _)| *name == predecessor) else { continue };
        for succession in successions.iter().filter(|of| of.predecessor == predecessor) {
            let RootSuccession { successor, signature, .. } = succession;
            let key = &root.payload.verifying_key;
            let is_listed = listed.iter().any(|(name, _)| name == successor);
            if is_listed
                && !believed.contains(successor)
                && verify(key, SignatureLabel::RootSuccession, successor, signature).is_ok()
            {
                believed.push(*successor);
            }
        }
    }
    believed
}

impl VerifiedClient {
    /// Who.
    pub const fn client(&self) -> &ClientId {
        &self.0.request.payload.client
    }

    /// The identity key.
    pub const fn verifying_key(&self) -> &SignaturePublicKey {
        &self.0.request.payload.verifying_key
    }

    /// The credential.
    pub const fn credential(&self) -> &ClientCredential {
        &self.0
    }

    /// Verifies that this client is behind `leaf`, on `today`.
    ///
    /// # Errors
    /// What does not hold.
    pub fn verify_leaf(
        &self,
        leaf: &LeafCredential,
        signature_encryption_key: &Secret,
        today: Day,
    ) -> Result<VerifiedLeaf, CryptoError> {
        let key = leaf.verifying_key.as_slice();
        let opened =
            aead::open(signature_encryption_key, KeyLabel::LeafSignature, key, leaf.sealed_signature.as_slice())?;
        let LeafSignature { signer, signature } = LeafSignature::from_bytes(opened)?;
        if signer != fingerprint(&self.0) {
            return Err(CryptoError::UnknownSigner);
        }
        verify(self.verifying_key(), SignatureLabel::LeafCredential, &leaf_tbs(leaf, signer), &signature)?;
        if !leaf.validity.covers(today) {
            return Err(CryptoError::Expired);
        }
        Ok(VerifiedLeaf { client: self.client().clone(), identity: leaf.identity })
    }
}

fn leaf_tbs(leaf: &LeafCredential, signer: Fingerprint) -> LeafTbs {
    LeafTbs {
        identity: leaf.identity,
        validity: leaf.validity.clone(),
        ciphersuite: leaf.ciphersuite,
        verifying_key: leaf.verifying_key.clone(),
        signer,
    }
}

/// Makes a pseudonymous credential for the leaf key `leaf_key`, signed by the client; beside it what members need to
/// see who is behind it. `identity` is fresh for a new member and kept when a member renews its leaf.
pub fn issue_leaf(
    client: &ClientCredential,
    client_key: &SigningKey,
    leaf_key: SignaturePublicKey,
    identity: Option<[u8; 32]>,
    validity: DayValidity,
    rng: &mut dyn Rng,
) -> (LeafCredential, LeafChain) {
    let signature_encryption_key = random_secret(rng);
    let mut leaf = LeafCredential {
        identity: identity.unwrap_or_else(|| random(rng)),
        validity,
        ciphersuite: CIPHERSUITE,
        verifying_key: leaf_key,
        sealed_signature: Vec::new().into(),
    };
    let signer = fingerprint(client);
    let signature = client_key.sign(SignatureLabel::LeafCredential, &leaf_tbs(&leaf, signer));
    let plaintext = LeafSignature { signer, signature }.to_vec();
    let key = leaf.verifying_key.as_slice();
    let sealed = aead::seal(&signature_encryption_key, KeyLabel::LeafSignature, key, &plaintext, rng);
    leaf.sealed_signature = sealed.into();
    (leaf, LeafChain { credential: client.clone(), signature_encryption_key })
}

/// Seals a chain under a credential key or friendship encryption key, bound to the leaf's signature key.
pub fn seal_chain(key: &Secret, leaf_key: &SignaturePublicKey, chain: &LeafChain, rng: &mut dyn Rng) -> Vec<u8> {
    aead::seal(key, KeyLabel::LeafChain, leaf_key.as_slice(), &pad_value(chain, MESSAGE_FLOOR), rng)
}

/// Opens what [`seal_chain`] gave for the same leaf.
///
/// # Errors
/// [`CryptoError`] if it was sealed under another key or for another leaf.
pub fn open_chain(key: &Secret, leaf_key: &SignaturePublicKey, sealed: &[u8]) -> Result<LeafChain, CryptoError> {
    let padded = aead::open(key, KeyLabel::LeafChain, leaf_key.as_slice(), sealed)?;
    Ok(unpad_value(padded, MESSAGE_FLOOR)?)
}

#[cfg(test)]
mod tests;
