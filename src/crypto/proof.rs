//! Proofs of a sender: signed requests and bound keys (`wire-spec/authentication.md`, "Proofs"). One file makes and
//! checks them, so that client and server cannot disagree.

use super::{CryptoError, sha256, signature, signature::SigningKey};
use crate::wire::{
    Authentication, Proof, SenderId, Token, VERSION,
    credential::SignaturePublicKey,
    envelope::{BindTbs, RequestTbs},
    label::SignatureLabel,
    server::BoundKey,
};

/// 32 bytes from the TLS exporter: the same on both ends of one connection, and on no other.
pub type ChannelBinding = [u8; 32];

/// What a request signature covers beside the sender.
pub struct RequestContext<'a> {
    /// Code of the method.
    pub method: u16,
    /// The token sent along.
    pub token: Option<&'a Token>,
    /// The encoded body.
    pub body: &'a [u8],
    /// Of the connection.
    pub binding: &'a ChannelBinding,
    /// The QUIC stream that carries the request.
    pub stream: u64,
}

impl RequestContext<'_> {
    fn tbs(&self, sender: &SenderId) -> RequestTbs {
        RequestTbs {
            version: VERSION,
            method: self.method,
            sender: sender.clone(),
            token: self.token.cloned(),
            body_hash: sha256(self.body),
            channel_binding: *self.binding,
            stream: self.stream,
        }
    }

    /// Proves `sender` by a signature over the request.
    pub fn sign(&self, sender: SenderId, key: &SigningKey) -> Authentication {
        let signature = key.sign(SignatureLabel::Request, &self.tbs(&sender));
        Authentication { sender, proof: Proof::Signature(signature) }
    }

    /// Checks a signature over the request by the sender's current key.
    ///
    /// # Errors
    /// [`CryptoError::Invalid`] if it does not cover exactly this request on this stream of this connection.
    pub fn verify(
        &self,
        sender: &SenderId,
        key: &SignaturePublicKey,
        signature: &crate::wire::credential::Signature,
    ) -> Result<(), CryptoError> {
        signature::verify(key, SignatureLabel::Request, &self.tbs(sender), signature)
    }
}

/// Proves possession of `key` for the rest of the connection.
pub fn bind(key: &SigningKey, binding: &ChannelBinding) -> BoundKey {
    let public = key.verifying_key();
    let signature = key.sign(SignatureLabel::Bind, &BindTbs { channel_binding: *binding, key: public.clone() });
    BoundKey { key: public, signature }
}

/// Checks a proof made by [`bind`].
///
/// # Errors
/// [`CryptoError::Invalid`] if it is not by that key for this connection.
pub fn verify_bind(bound: &BoundKey, binding: &ChannelBinding) -> Result<(), CryptoError> {
    let tbs = BindTbs { channel_binding: *binding, key: bound.key.clone() };
    signature::verify(&bound.key, SignatureLabel::Bind, &tbs, &bound.signature)
}
