//! Ed25519 signatures with a label each, as RFC 9420 section 5.1.2 has them (`wire-spec/cryptography.md`, "Signatures"):
//! signed is `struct { opaque label<V>; opaque content<V>; }` with the label's full text.

use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use openmls_traits::{
    signatures::{Signer, SignerError},
    types::SignatureScheme,
};

use super::{CryptoError, Rng, random_secret};
use crate::{
    base::Secret,
    wire::{
        Encode,
        credential::{Signature, SignaturePublicKey},
        encode_varint,
        label::SignatureLabel,
    },
};

/// A signing key. It is made from, and stored as, its 32-byte seed (RFC 8032 section 5.1.5).
pub struct SigningKey {
    seed: Secret,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// A fresh key.
    ///
    /// # Errors
    /// [`CryptoError::Form`] if the library refuses the seed, which it does for no seed of 32 bytes.
    pub fn generate(rng: &mut dyn Rng) -> Result<Self, CryptoError> {
        Self::from_seed(random_secret(rng))
    }

    /// The key of a stored seed.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn from_seed(seed: Secret) -> Result<Self, CryptoError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose()).map_err(|_| CryptoError::Form)?;
        Ok(Self { seed, pair })
    }

    /// The seed, for storing.
    pub const fn seed(&self) -> &Secret {
        &self.seed
    }

    /// The public half.
    pub fn verifying_key(&self) -> SignaturePublicKey {
        self.pair.public_key().as_ref().into()
    }

    /// Signs `content` for the purpose `label`.
    pub fn sign(&self, label: SignatureLabel, content: &impl Encode) -> Signature {
        self.pair.sign(&signed_content(label, content)).as_ref().into()
    }
}

/// A signing key that another can take the place of while it is in use. Clones are handles to the same.
#[derive(Clone)]
pub struct CurrentKey(Arc<RwLock<Arc<SigningKey>>>);

impl CurrentKey {
    /// With the key that is the current one at first.
    pub fn new(key: SigningKey) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(key))))
    }

    /// The current key.
    pub fn get(&self) -> Arc<SigningKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another key is the current one from now on.
    pub fn replace(&self, key: SigningKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
    }
}

/// For OpenMLS, which signs what RFC 9420 labels.
impl Signer for SigningKey {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.pair.sign(payload).as_ref().to_vec())
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// Checks a signature over `content` for the purpose `label`.
///
/// # Errors
/// [`CryptoError::Invalid`] if it is not a signature of that content for that purpose by that key.
pub fn verify(
    key: &SignaturePublicKey,
    label: SignatureLabel,
    content: &impl Encode,
    signature: &Signature,
) -> Result<(), CryptoError> {
    UnparsedPublicKey::new(&ED25519, key.as_slice())
        .verify(&signed_content(label, content), signature.as_slice())
        .map_err(|_| CryptoError::Invalid)
}

fn signed_content(label: SignatureLabel, content: &impl Encode) -> Vec<u8> {
    let label = label.as_str().as_bytes();
    let length = content.encoded_len();
    let mut out = Vec::with_capacity(label.len() + length + 8);
    encode_varint(label.len(), &mut out);
    out.extend_from_slice(label);
    encode_varint(length, &mut out);
    content.encode(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::system_rng;

    #[test]
    fn a_signature_holds_for_its_key_label_and_content_only() {
        let key = SigningKey::generate(&mut system_rng()).unwrap();
        let signature = key.sign(SignatureLabel::Bind, &5u32);
        let public = key.verifying_key();
        assert_eq!(verify(&public, SignatureLabel::Bind, &5u32, &signature), Ok(()));
        assert!(verify(&public, SignatureLabel::Request, &5u32, &signature).is_err());
        assert!(verify(&public, SignatureLabel::Bind, &6u32, &signature).is_err());
        let other = SigningKey::generate(&mut system_rng()).unwrap().verifying_key();
        assert!(verify(&other, SignatureLabel::Bind, &5u32, &signature).is_err());
        assert!(verify(&SignaturePublicKey::from(&[][..]), SignatureLabel::Bind, &5u32, &signature).is_err());
        let restored = SigningKey::from_seed(key.seed().clone()).unwrap();
        assert_eq!(restored.verifying_key(), public);
    }
}
