//! What pushing needs: sealing a client's push token, and the key by which push services know a QS (`wire-spec/queuing.md`,
//! "Push").

use aws_lc_rs::{
    agreement::{ECDH_P256, PrivateKey},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};

use super::{CryptoError, Rng, aead, random_secret};
use crate::{
    base::{QsClientId, Secret},
    wire::{
        label::KeyLabel,
        padding::{PUSH_TOKEN_FLOOR, pad_value, unpad_value},
        queuing::{P256PublicKey, PushToken},
    },
};

/// Seals a client's push token.
pub fn seal_token(key: &Secret, client: QsClientId, token: &PushToken, rng: &mut dyn Rng) -> Vec<u8> {
    aead::seal(key, KeyLabel::PushToken, &client.0, &pad_value(token, PUSH_TOKEN_FLOOR), rng)
}

/// Opens what [`seal_token`] gave.
///
/// # Errors
/// [`CryptoError`] for another key or client, or if there is no token in it.
pub fn open_token(key: &Secret, client: QsClientId, sealed: &[u8]) -> Result<PushToken, CryptoError> {
    Ok(unpad_value(aead::open(key, KeyLabel::PushToken, &client.0, sealed)?, PUSH_TOKEN_FLOOR)?)
}

/// By which push services know a QS (RFC 8292): ECDSA on P-256 with SHA-256.
pub struct VapidKey {
    secret: Secret,
    public: P256PublicKey,
    pair: EcdsaKeyPair,
}

impl VapidKey {
    /// A fresh key.
    ///
    /// # Errors
    /// [`CryptoError::Form`] if the library makes none.
    pub fn generate(rng: &mut dyn Rng) -> Result<Self, CryptoError> {
        // Of 2^32 numbers of 32 bytes one is not below the order of the group.
        Self::from_secret(random_secret(rng)).or_else(|_| Self::from_secret(random_secret(rng)))
    }

    /// The key of a stored secret: a number below the order of the group, and not zero.
    ///
    /// # Errors
    /// [`CryptoError::Form`] if it is none.
    pub fn from_secret(secret: Secret) -> Result<Self, CryptoError> {
        let form = |_| CryptoError::Form;
        let private = PrivateKey::from_private_key(&ECDH_P256, secret.expose()).map_err(|_| CryptoError::Form)?;
        let point = private.compute_public_key().map_err(form)?;
        let public: P256PublicKey = point.as_ref().try_into().map_err(|_| CryptoError::Form)?;
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, secret.expose(), &public);
        Ok(Self { pair: pair.map_err(|_| CryptoError::Form)?, secret, public })
    }

    /// The secret, for storing.
    pub const fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The public half.
    pub const fn public_key(&self) -> &P256PublicKey {
        &self.public
    }

    /// Signs as ES256 (RFC 7518 section 3.4).
    ///
    /// # Errors
    /// [`CryptoError::Form`] if the library fails.
    pub fn sign(&self, content: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let signature = self.pair.sign(&SystemRandom::new(), content).map_err(|_| CryptoError::Form)?;
        Ok(signature.as_ref().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;
    use crate::{
        crypto::system_rng,
        wire::queuing::{MAX_PUSH_ENDPOINT, SEALED_PUSH_TOKEN, WebPushSubscription},
    };

    fn token(endpoint: usize) -> PushToken {
        let (endpoint, auth) = (vec![b'x'; endpoint].into(), Secret::new([3; 16]));
        PushToken::WebPush(WebPushSubscription { endpoint, public_key: [4; 65], auth })
    }

    #[test]
    fn sealed_tokens_all_have_one_length_and_open_for_their_client_alone() {
        let mut rng = system_rng();
        let (key, client) = (random_secret(&mut rng), QsClientId([1; 16]));
        for endpoint in [0, 1, MAX_PUSH_ENDPOINT] {
            let sealed = seal_token(&key, client, &token(endpoint), &mut rng);
            assert_eq!(sealed.len(), SEALED_PUSH_TOKEN);
            assert_eq!(open_token(&key, client, &sealed).unwrap(), token(endpoint));
            assert!(open_token(&key, QsClientId([2; 16]), &sealed).is_err());
            assert!(open_token(&random_secret(&mut rng), client, &sealed).is_err());
        }
        let none = aead::seal(&key, KeyLabel::PushToken, &client.0, &[0; PUSH_TOKEN_FLOOR], &mut rng);
        assert_eq!(open_token(&key, client, &none), Err(CryptoError::Form), "no token in it");
    }

    #[test]
    fn a_stored_key_is_the_same_key_and_its_signatures_verify() {
        let made = VapidKey::generate(&mut system_rng()).unwrap();
        let loaded = VapidKey::from_secret(made.secret().clone()).unwrap();
        assert_eq!(made.public_key(), loaded.public_key());
        let signature = loaded.sign(b"content").unwrap();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, made.public_key());
        assert!(public.verify(b"content", &signature).is_ok());
        assert!(public.verify(b"contenT", &signature).is_err());
        for none in [[0; 32], [0xff; 32]] {
            assert_eq!(VapidKey::from_secret(Secret::new(none)).err(), Some(CryptoError::Form));
        }
    }
}
