//! Symmetric encryption under long-lived keys: every use derives a key and nonce of its own from a random salt, so that
//! no number of uses repeats a nonce (`wire-spec/cryptography.md`, "Sealing").
//!
//! `sealed = salt[16] || AES-256-GCM(key, nonce, aad, plaintext)`, with
//! `key || nonce = HKDF-Expand(HKDF-Extract(salt, long-lived key), label, 32 + 12)`.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use bytes::Bytes;
use hkdf::Hkdf;
use sha2_11::Sha256;

use super::{CryptoError, Rng, random};
use crate::{base::Secret, wire::label::KeyLabel};

const SALT: usize = 16;
const KEY: usize = 32;
const NONCE: usize = 12;
const TAG: usize = 16;

/// How much longer a sealed value is than its plaintext.
pub const OVERHEAD: usize = SALT + TAG;

/// HKDF-SHA-256: `N` bytes from `key` and `salt` for `label`.
pub fn derive<const N: usize>(key: &Secret, salt: &[u8], label: KeyLabel) -> Secret<N> {
    Extracted::from(key, salt).expand(label)
}

/// What HKDF extracts: from one secret, values for several labels.
pub(super) struct Extracted(Hkdf<Sha256>);

impl Extracted {
    /// HKDF-Extract.
    pub(super) fn from(key: &Secret, salt: &[u8]) -> Self {
        Self(Hkdf::new(Some(salt), key.expose()))
    }

    /// HKDF-Expand.
    pub(super) fn expand<const N: usize>(&self, label: KeyLabel) -> Secret<N> {
        const { assert!(N <= 255 * 32, "HKDF-SHA-256 gives at most 255 blocks") };
        let mut out = [0; N];
        // The only error is a length above 255 blocks, excluded above.
        let filled = self.0.expand(label.as_str().as_bytes(), &mut out);
        debug_assert!(filled.is_ok());
        Secret::new(out)
    }
}

/// The name of a group in the blocklist of whoever has this key (`wire-spec/queuing.md`, "Blocklist").
pub fn blocked_group(blocklist_key: &Secret, group: &[u8]) -> [u8; 32] {
    *derive::<32>(blocklist_key, group, KeyLabel::Blocklist).expose()
}

fn keyed(material: &Secret<{ KEY + NONCE }>) -> Result<(LessSafeKey, Nonce), CryptoError> {
    let (key, nonce) = material.expose().split_at(KEY);
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| CryptoError::Form)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| CryptoError::Form)?;
    Ok((LessSafeKey::new(key), nonce))
}

/// Encrypts `plaintext` under a key and nonce derived from `key` for this use alone.
pub fn seal(key: &Secret, label: KeyLabel, aad: &[u8], plaintext: &[u8], rng: &mut dyn Rng) -> Vec<u8> {
    seal_salted(key, label, aad, plaintext, Salt::draw(rng))
}

/// The randomness of one use, drawn ahead of it. It can be used once.
pub struct Salt([u8; SALT]);

impl Salt {
    /// Draws it.
    pub fn draw(rng: &mut dyn Rng) -> Self {
        Self(random(rng))
    }
}

/// [`seal`] with randomness drawn before.
pub fn seal_salted(key: &Secret, label: KeyLabel, aad: &[u8], plaintext: &[u8], salt: Salt) -> Vec<u8> {
    let Salt(salt) = salt;
    let mut sealed = Vec::with_capacity(plaintext.len() + OVERHEAD);
    sealed.extend_from_slice(&salt);
    sealed.extend_from_slice(plaintext);
    let material = derive(key, &salt, label);
    let tag = keyed(&material).and_then(|(key, nonce)| {
        let body = &mut sealed[SALT..];
        key.seal_in_place_separate_tag(nonce, Aad::from(aad), body).map_err(|_| CryptoError::Form)
    });
    match tag {
        Ok(tag) => sealed.extend_from_slice(tag.as_ref()),
        // Only a plaintext of more than 64 GiB gets here: no tag, so that it opens nowhere.
        Err(_) => sealed.clear(),
    }
    sealed
}

/// Decrypts what [`seal`] gave.
///
/// # Errors
/// [`CryptoError::Invalid`] for another key, label or associated data, or a changed ciphertext.
pub fn open(key: &Secret, label: KeyLabel, aad: &[u8], sealed: &[u8]) -> Result<Bytes, CryptoError> {
    let (salt, body) = sealed.split_at_checked(SALT).ok_or(CryptoError::Form)?;
    let (key, nonce) = keyed(&derive(key, salt, label))?;
    let mut plaintext = body.to_vec();
    let length = key.open_in_place(nonce, Aad::from(aad), &mut plaintext).map_err(|_| CryptoError::Invalid)?.len();
    plaintext.truncate(length);
    Ok(plaintext.into())
}

/// AES-256-GCM in place under a key and nonce that are used once and then forgotten: the queue ratchet's entries.
pub(super) fn seal_once(material: &Secret<{ KEY + NONCE }>, aad: &[u8], mut plaintext: Vec<u8>) -> Vec<u8> {
    let sealed = keyed(material).and_then(|(key, nonce)| {
        key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut plaintext).map_err(|_| CryptoError::Form)
    });
    if sealed.is_err() {
        // As in `seal`.
        plaintext.clear();
    }
    plaintext
}

/// The inverse of [`seal_once`].
pub(super) fn open_once(
    material: &Secret<{ KEY + NONCE }>,
    aad: &[u8],
    ciphertext: &[u8],
) -> Result<Bytes, CryptoError> {
    let (key, nonce) = keyed(material)?;
    let mut plaintext = ciphertext.to_vec();
    let length = key.open_in_place(nonce, Aad::from(aad), &mut plaintext).map_err(|_| CryptoError::Invalid)?.len();
    plaintext.truncate(length);
    Ok(plaintext.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{random_secret, system_rng};

    #[test]
    fn only_the_same_key_label_and_context_open() {
        let mut rng = system_rng();
        let key = random_secret(&mut rng);
        let sealed = seal(&key, KeyLabel::GroupHead, b"context", b"plaintext", &mut rng);
        assert_eq!(sealed.len(), 9 + OVERHEAD);
        assert_eq!(open(&key, KeyLabel::GroupHead, b"context", &sealed).unwrap(), &b"plaintext"[..]);
        assert!(open(&key, KeyLabel::GroupLog, b"context", &sealed).is_err());
        assert!(open(&key, KeyLabel::GroupHead, b"contexT", &sealed).is_err());
        assert!(open(&random_secret(&mut rng), KeyLabel::GroupHead, b"context", &sealed).is_err());
        for cut in 0..sealed.len() {
            assert!(open(&key, KeyLabel::GroupHead, b"context", &sealed[..cut]).is_err());
        }
        assert_ne!(sealed, seal(&key, KeyLabel::GroupHead, b"context", b"plaintext", &mut rng));
    }
}
