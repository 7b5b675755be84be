//! Cryptography: labelled signatures, encryption at rest and under shared keys, HPKE, the queue ratchet, credentials,
//! OPAQUE, and what MLS needs around OpenMLS. Verified things are types of their own, so that what was not verified
//! cannot be used by mistake. Randomness is always an argument.

pub mod aead;
pub mod alias;
pub mod at_rest;
pub mod credential;
pub mod hpke;
pub mod mls;
pub mod opaque;
pub mod privacy_pass;
pub mod proof;
pub mod push;
pub mod ratchet;
pub mod signature;
#[cfg(all(test, feature = "client"))]
mod tests;

pub use rand_core::CryptoRngCore as Rng;

use chacha20::ChaCha20Rng;
use rand_core::{CryptoRng, RngCore};
use rand_core_10::SeedableRng as _;

use crate::base::Secret;

/// Why a cryptographic check failed. Says nothing of what was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// A signature, MAC or ciphertext does not verify.
    #[error("does not verify")]
    Invalid,
    /// A key, signature or ciphertext is not of the form its algorithm has.
    #[error("has the wrong form")]
    Form,
    /// Verified, but not valid now.
    #[error("is expired or not yet valid")]
    Expired,
    /// Verified, but revoked by its signer.
    #[error("is revoked")]
    Revoked,
    /// Verified, but its subject is disabled for the time being.
    #[error("is of a disabled user")]
    OnHold,
    /// The signer is revoked.
    #[error("is signed by a key that is revoked")]
    RevokedSigner,
    /// The signer is not known.
    #[error("is signed by an unknown key")]
    UnknownSigner,
    /// Verified, but of somebody or something else.
    #[error("is of another subject")]
    Subject,
}

impl From<crate::wire::DecodeError> for CryptoError {
    fn from(_: crate::wire::DecodeError) -> Self {
        Self::Form
    }
}

/// The operating system's generator.
pub fn system_rng() -> rand_core::OsRng {
    rand_core::OsRng
}

/// Randomness for one request: a generator of its own that the operating system seeds at the first draw. What a request draws
/// after that needs no system call, of which a message to many would make one for each recipient. Wiped when dropped.
#[derive(Default)]
pub struct RequestRng(Option<ChaCha20Rng>);

impl RngCore for RequestRng {
    fn next_u32(&mut self) -> u32 {
        rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand_core::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        let rng = self.0.get_or_insert_with(|| ChaCha20Rng::from_seed(*random_secret(&mut system_rng()).expose()));
        rand_core_10::Rng::fill_bytes(rng, bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for RequestRng {}

/// Random bytes that name something.
pub fn random<const N: usize>(rng: &mut dyn Rng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// Random bytes that must stay secret.
pub fn random_secret(rng: &mut dyn Rng) -> Secret {
    Secret::new(random(rng))
}

/// SHA-256.
pub fn sha256(data: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data).as_ref());
    hash
}

/// SHA-256 of what comes bit by bit.
pub struct Sha256(aws_lc_rs::digest::Context);

impl Sha256 {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256))
    }

    /// More comes.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// Of all that came.
    pub fn finish(self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.finish().as_ref());
        hash
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

/// HMAC-SHA-256 of `data` under a key derived for `label`.
pub fn mac(key: &Secret, label: crate::wire::label::KeyLabel, data: &[u8]) -> [u8; 32] {
    use aws_lc_rs::hmac;
    let derived = aead::derive::<32>(key, &[], label);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, derived.expose()), data);
    let mut out = [0; 32];
    out.copy_from_slice(tag.as_ref());
    out
}
