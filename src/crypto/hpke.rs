//! HPKE (RFC 9180) in base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM — the HPKE of MLS ciphersuite
//! 0x0001. Written on aws-lc-rs because it opens a queue config in less than half the time of the ready-made crates and
//! takes its randomness from outside; held against the RFC's test vectors.
//!
//! Like RFC 9420's EncryptWithLabel, `info` is `struct { opaque label<V>; opaque context<V>; }`.

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{self, PrivateKey, UnparsedPublicKey, X25519},
};
use bytes::Bytes;

use super::{CryptoError, Rng, random_secret};
use crate::{
    base::Secret,
    wire::{
        Encode, Opaque,
        credential::{HpkeCiphertext, HpkePublicKey},
        label::HpkeLabel,
    },
};

const KEM_SUITE: &[u8] = b"KEM\x00\x20";
const HPKE_SUITE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x01";
const VERSION: &[u8] = b"HPKE-v1";

/// An HPKE private key (X25519).
pub struct HpkePrivateKey {
    secret: Secret,
    key: PrivateKey,
    public: [u8; 32],
}

impl HpkePrivateKey {
    /// A fresh key.
    ///
    /// # Errors
    /// As [`Self::from_secret`].
    pub fn generate(rng: &mut dyn Rng) -> Result<Self, CryptoError> {
        Self::from_secret(random_secret(rng))
    }

    /// The key of a stored secret (RFC 7748 section 5).
    ///
    /// # Errors
    /// [`CryptoError::Form`] if the library refuses the scalar, which it does for none of 32 bytes.
    pub fn from_secret(secret: Secret) -> Result<Self, CryptoError> {
        let key = PrivateKey::from_private_key(&X25519, secret.expose()).map_err(|_| CryptoError::Form)?;
        let public = key.compute_public_key().map_err(|_| CryptoError::Form)?;
        let public = public.as_ref().try_into().map_err(|_| CryptoError::Form)?;
        Ok(Self { secret, key, public })
    }

    /// The scalar, for storing.
    pub const fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The public half.
    pub fn public_key(&self) -> HpkePublicKey {
        self.public[..].into()
    }

    /// Decrypts what was sealed to this key for the same label, context and associated data.
    ///
    /// # Errors
    /// [`CryptoError::Invalid`] otherwise.
    pub fn open(
        &self,
        label: HpkeLabel,
        context: &[u8],
        aad: &[u8],
        sealed: &HpkeCiphertext,
    ) -> Result<Bytes, CryptoError> {
        let enc: [u8; 32] = sealed.kem_output.as_slice().try_into().map_err(|_| CryptoError::Form)?;
        let shared = diffie_hellman(&self.key, &enc, &enc, &self.public)?;
        let (key, nonce) = key_schedule(&shared, &info(label, context))?;
        let mut plaintext = sealed.ciphertext.as_slice().to_vec();
        let length = key.open_in_place(nonce, Aad::from(aad), &mut plaintext).map_err(|_| CryptoError::Invalid)?.len();
        plaintext.truncate(length);
        Ok(plaintext.into())
    }
}

/// Encrypts `plaintext` to `recipient` for the purpose `label`.
///
/// # Errors
/// [`CryptoError::Form`] if `recipient` is not a usable X25519 key (wrong length, low order).
pub fn seal(
    recipient: &HpkePublicKey,
    label: HpkeLabel,
    context: &[u8],
    aad: &[u8],
    plaintext: &[u8],
    rng: &mut dyn Rng,
) -> Result<HpkeCiphertext, CryptoError> {
    Ephemeral::draw(rng)?.seal(recipient, label, context, aad, plaintext)
}

/// The sender's key of one encryption, drawn ahead of it. It can be used once.
pub struct Ephemeral(HpkePrivateKey);

impl Ephemeral {
    /// Draws it.
    ///
    /// # Errors
    /// As [`HpkePrivateKey::from_secret`].
    pub fn draw(rng: &mut dyn Rng) -> Result<Self, CryptoError> {
        HpkePrivateKey::generate(rng).map(Self)
    }

    /// [`seal`] with randomness drawn before.
    ///
    /// # Errors
    /// As [`seal`].
    pub fn seal(
        self,
        recipient: &HpkePublicKey,
        label: HpkeLabel,
        context: &[u8],
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<HpkeCiphertext, CryptoError> {
        seal_with(self.0, recipient, &info(label, context), aad, plaintext)
    }
}

fn seal_with(
    ephemeral: HpkePrivateKey,
    recipient: &HpkePublicKey,
    info: &[u8],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<HpkeCiphertext, CryptoError> {
    let recipient: [u8; 32] = recipient.as_slice().try_into().map_err(|_| CryptoError::Form)?;
    let shared = diffie_hellman(&ephemeral.key, &recipient, &ephemeral.public, &recipient)?;
    let (key, nonce) = key_schedule(&shared, info)?;
    let mut ciphertext = Vec::with_capacity(plaintext.len() + AES_128_GCM.tag_len());
    ciphertext.extend_from_slice(plaintext);
    key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut ciphertext).map_err(|_| CryptoError::Form)?;
    Ok(HpkeCiphertext { kem_output: ephemeral.public[..].into(), ciphertext: ciphertext.into() })
}

/// Whether something can be sealed to a key: it is no point of low order, with which every secret would be zero (RFC 7748
/// section 6.1). Any secret tells, as all of them are multiples of eight.
pub fn is_usable(key: &HpkePublicKey) -> bool {
    let peer = UnparsedPublicKey::new(&X25519, key.as_slice());
    let private = PrivateKey::from_private_key(&X25519, &[1; 32]);
    private.is_ok_and(|private| agreement::agree(&private, peer, (), |_| Ok(())).is_ok())
}

fn info(label: HpkeLabel, context: &[u8]) -> Vec<u8> {
    let mut info = Opaque::from(label.as_str().as_bytes()).to_vec();
    Opaque::from(context).encode(&mut info);
    info
}

/// RFC 9180 section 4.1, Encap and Decap: the shared secret.
fn diffie_hellman(
    private: &PrivateKey,
    peer: &[u8; 32],
    enc: &[u8; 32],
    recipient: &[u8; 32],
) -> Result<Secret, CryptoError> {
    // Refuses the all-zero result of a low-order point.
    let dh = agreement::agree(private, UnparsedPublicKey::new(&X25519, peer), CryptoError::Form, |dh| {
        <[u8; 32]>::try_from(dh).map(Secret::new).map_err(|_| CryptoError::Form)
    })?;
    let eae_prk = labeled_extract(&[], KEM_SUITE, b"eae_prk", dh.expose());
    Ok(labeled_expand(&eae_prk, KEM_SUITE, b"shared_secret", &[enc, recipient]))
}

/// RFC 9180 section 5.1, KeySchedule in base mode: the AEAD key and the nonce of the first (here: only) message.
fn key_schedule(shared: &Secret, info: &[u8]) -> Result<(LessSafeKey, Nonce), CryptoError> {
    let psk_id_hash = labeled_extract(&[], HPKE_SUITE, b"psk_id_hash", &[]);
    let info_hash = labeled_extract(&[], HPKE_SUITE, b"info_hash", info);
    let context: [&[u8]; 3] = [&[0], &psk_id_hash.0, &info_hash.0];
    let secret = labeled_extract(shared.expose(), HPKE_SUITE, b"secret", &[]);
    let key: Secret<16> = labeled_expand(&secret, HPKE_SUITE, b"key", &context);
    let nonce: Secret<12> = labeled_expand(&secret, HPKE_SUITE, b"base_nonce", &context);
    let key = UnboundKey::new(&AES_128_GCM, key.expose()).map_err(|_| CryptoError::Form)?;
    Ok((LessSafeKey::new(key), Nonce::assume_unique_for_key(*nonce.expose())))
}

/// A pseudorandom key: what HKDF-Extract gives.
struct Prk([u8; 32]);

impl Drop for Prk {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

fn labeled_extract(salt: &[u8], suite: &[u8], label: &[u8], ikm: &[u8]) -> Prk {
    use aws_lc_rs::hmac;
    let zeros = [0; 32];
    let key = hmac::Key::new(hmac::HMAC_SHA256, if salt.is_empty() { &zeros } else { salt });
    let mut context = hmac::Context::with_key(&key);
    for part in [VERSION, suite, label, ikm] {
        context.update(part);
    }
    let mut prk = [0; 32];
    prk.copy_from_slice(context.sign().as_ref());
    Prk(prk)
}

fn labeled_expand<const N: usize>(prk: &Prk, suite: &[u8], label: &[u8], info: &[&[u8]]) -> Secret<N> {
    use aws_lc_rs::hmac;
    const { assert!(N <= 32, "one block of HKDF-Expand is all that this HPKE needs") };
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &prk.0));
    context.update(&(N as u16).to_be_bytes());
    for part in [VERSION, suite, label] {
        context.update(part);
    }
    for part in info {
        context.update(part);
    }
    context.update(&[1]);
    let mut out = [0; N];
    out.copy_from_slice(&context.sign().as_ref()[..N]);
    Secret::new(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::system_rng;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    fn key(text: &str) -> HpkePrivateKey {
        HpkePrivateKey::from_secret(Secret::new(hex(text).try_into().unwrap())).unwrap()
    }

    #[test]
    fn rfc_9180_appendix_a_1_1() {
        let ephemeral = key("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736");
        let recipient = key("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8");
        let enc = hex("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431");
        assert_eq!(ephemeral.public[..], enc);
        assert_eq!(recipient.public[..], hex("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d"));
        let info = hex("4f6465206f6e2061204772656369616e2055726e");
        let plaintext = hex("4265617574792069732074727574682c20747275746820626561757479");
        let sealed = seal_with(ephemeral, &recipient.public_key(), &info, &hex("436f756e742d30"), &plaintext).unwrap();
        assert_eq!(sealed.kem_output.as_slice(), enc);
        assert_eq!(
            sealed.ciphertext.as_slice(),
            hex("f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a")
        );
    }

    #[test]
    fn only_the_recipient_opens_and_only_for_the_same_purpose() {
        let mut rng = system_rng();
        let recipient = HpkePrivateKey::generate(&mut rng).unwrap();
        let public = recipient.public_key();
        let sealed = seal(&public, HpkeLabel::QueueSecret, b"context", b"aad", b"text", &mut rng).unwrap();
        assert_eq!(recipient.open(HpkeLabel::QueueSecret, b"context", b"aad", &sealed).unwrap(), &b"text"[..]);
        assert!(recipient.open(HpkeLabel::QueueConfig, b"context", b"aad", &sealed).is_err());
        assert!(recipient.open(HpkeLabel::QueueSecret, b"contexT", b"aad", &sealed).is_err());
        assert!(recipient.open(HpkeLabel::QueueSecret, b"context", b"aaD", &sealed).is_err());
        let other = HpkePrivateKey::generate(&mut rng).unwrap();
        assert!(other.open(HpkeLabel::QueueSecret, b"context", b"aad", &sealed).is_err());
    }

    #[test]
    fn low_order_points_are_refused() {
        let mut rng = system_rng();
        for point in [[0; 32], {
            let mut one = [0; 32];
            one[0] = 1;
            one
        }] {
            let sealed = seal(&point[..].into(), HpkeLabel::QueueSecret, b"", b"", b"text", &mut rng);
            assert_eq!(sealed, Err(CryptoError::Form));
        }
    }
}
