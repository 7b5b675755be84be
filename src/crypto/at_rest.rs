//! The server's own secrets at rest (signing keys, OPAQUE setup, ratchet secrets): wrapped under a key that lies beside
//! the database, so that a copy of the database alone opens nothing.

use bytes::Bytes;

use super::{CryptoError, Rng, aead};
use crate::{base::Secret, wire::label::KeyLabel};

/// The key that wraps the server's secrets.
#[derive(Clone)]
pub struct StorageKey(Secret);

impl StorageKey {
    /// Takes over the key.
    pub const fn new(key: Secret) -> Self {
        Self(key)
    }

    /// A key for something else that must be the same at every start.
    pub fn derive(&self, label: KeyLabel) -> Secret {
        aead::derive(&self.0, &[], label)
    }

    /// Wraps `secret`, bound to the `place` it is stored at.
    pub fn wrap(&self, place: &[u8], secret: &[u8], rng: &mut dyn Rng) -> Vec<u8> {
        aead::seal(&self.0, KeyLabel::AtRest, place, secret, rng)
    }

    /// Unwraps what [`Self::wrap`] gave for the same place.
    ///
    /// # Errors
    /// [`CryptoError::Invalid`] if it was wrapped under another key, for another place, or changed.
    pub fn unwrap(&self, place: &[u8], wrapped: &[u8]) -> Result<Bytes, CryptoError> {
        aead::open(&self.0, KeyLabel::AtRest, place, wrapped)
    }
}
