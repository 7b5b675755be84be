//! Privacy Pass: batched tokens on Ristretto255 (type 0x0005, draft-ietf-privacypass-batched-tokens; `wire-spec/tokens.md`).
//! The issuer evaluates blinded elements and proves with which key; the client checks that proof and unblinds. What was
//! issued and what is redeemed cannot be joined.

use privacypass::{TokenType, auth::authenticate::TokenChallenge};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore, SeedableRng},
};
use voprf_ng::{BlindedElement, Group, Ristretto255, VoprfServer};

use super::{CryptoError, sha256};
use crate::{
    base::{Domain, Secret},
    wire::{Decode, Encode, Reader, Token, registry::TOKEN_TYPE},
};

/// Most tokens in one request.
pub const MAX_BATCH: usize = 100;

/// What key derivation is bound to (RFC 9578 section 8.2.1 leaves it to the issuer).
const KEY_INFO: &[u8] = b"PrivacyPass";

/// A group element as it is encoded.
type Element = [u8; 32];

/// What every token of an issuer is for: the digest of the challenge with the domain as issuer and as origin, and no
/// redemption context.
///
/// # Errors
/// [`CryptoError::Form`] if the challenge has no encoding, which holds for no domain.
pub fn challenge_digest(domain: &Domain) -> Result<[u8; 32], CryptoError> {
    challenge(domain).digest().map_err(|_| CryptoError::Form)
}

fn challenge(domain: &Domain) -> TokenChallenge {
    TokenChallenge::new(TokenType::PrivateRistretto255, domain.as_str(), None, &[domain.as_str().to_owned()])
}

/// A request for tokens that has the right form. Its elements have not been looked at.
pub struct TokenRequest {
    truncated_key_id: u8,
    blinded: Vec<Element>,
}

impl TokenRequest {
    /// Decodes a request, all of it.
    ///
    /// # Errors
    /// [`CryptoError::Form`] if it is none of this type, or asks for none or for more than [`MAX_BATCH`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CryptoError> {
        let mut reader = Reader::new(bytes::Bytes::copy_from_slice(bytes));
        let token_type = u16::decode(&mut reader)?;
        let truncated_key_id = u8::decode(&mut reader)?;
        let blinded = Vec::<Element>::decode(&mut reader)?;
        reader.finish()?;
        if token_type != TOKEN_TYPE || blinded.is_empty() || blinded.len() > MAX_BATCH {
            return Err(CryptoError::Form);
        }
        Ok(Self { truncated_key_id, blinded })
    }

    /// How many tokens it asks for.
    pub const fn tokens(&self) -> usize {
        self.blinded.len()
    }

    /// The last byte of the id of the key that is to issue them.
    pub const fn truncated_key_id(&self) -> u8 {
        self.truncated_key_id
    }
}

/// A key that issues tokens and redeems them. It is made from, and stored as, 32 random bytes.
pub struct IssuerKey {
    seed: Secret,
    server: VoprfServer<Ristretto255>,
    public_key: [u8; 32],
    id: [u8; 32],
}

impl IssuerKey {
    /// The key of a seed.
    ///
    /// # Errors
    /// [`CryptoError::Form`] if no key follows from the seed, which holds for none that anybody will ever draw.
    pub fn from_seed(seed: Secret) -> Result<Self, CryptoError> {
        let server = VoprfServer::new_from_seed(seed.expose(), KEY_INFO).map_err(|_| CryptoError::Form)?;
        Ok(Self::new(seed, server))
    }

    fn new(seed: Secret, server: VoprfServer<Ristretto255>) -> Self {
        let public_key = Ristretto255::serialize_elem(server.get_public_key()).into();
        Self { seed, server, public_key, id: sha256(&public_key) }
    }

    /// What it is stored as.
    pub const fn seed(&self) -> &Secret {
        &self.seed
    }

    /// Its public half.
    pub const fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// SHA-256 of the public half.
    pub const fn id(&self) -> &[u8; 32] {
        &self.id
    }

    /// The last byte of its id, by which requests name it.
    pub const fn truncated_id(&self) -> u8 {
        self.id[31]
    }

    /// Issues: gives the TokenResponse. `randomness` makes the proof's nonce and must be used for nothing else.
    ///
    /// # Errors
    /// [`CryptoError::Form`] if an element is none, or is the identity.
    pub fn issue(&self, request: &TokenRequest, randomness: Secret) -> Result<Vec<u8>, CryptoError> {
        let element = |bytes: &Element| BlindedElement::<Ristretto255>::deserialize(bytes);
        let blinded: Vec<_> =
            request.blinded.iter().map(element).collect::<Result<_, _>>().map_err(|_| CryptoError::Form)?;
        let prepared: Vec<_> = self.server.batch_blind_evaluate_prepare(blinded.iter()).collect();
        let mut rng = Randomness(ChaCha20Rng::from_seed(*randomness.expose()));
        let evaluated = self
            .server
            .batch_blind_evaluate_finish(&mut rng, blinded.iter(), &prepared)
            .map_err(|_| CryptoError::Form)?;
        let elements: Vec<Element> = evaluated.messages.map(|element| element.serialize().into()).collect();
        let mut response = elements.to_vec();
        response.extend_from_slice(&evaluated.proof.serialize());
        Ok(response)
    }

    /// The output of the VOPRF.
    #[cfg(test)]
    pub(super) fn evaluate(&self, input: &[u8]) -> [u8; 64] {
        self.server.evaluate(input).unwrap().into()
    }

    /// Whether a token was issued under this key for this challenge. Says nothing of whether it was redeemed before.
    pub fn verify(&self, token: &Token, challenge_digest: &[u8; 32]) -> bool {
        let named = token.token_type == TOKEN_TYPE
            && token.token_key_id == self.id
            && token.challenge_digest == *challenge_digest;
        if !named {
            return false;
        }
        let encoded = token.to_vec();
        // The input of the VOPRF is the token without its authenticator.
        let input = &encoded[..encoded.len() - token.authenticator.len()];
        let Ok(output) = self.server.evaluate(input) else { return false };
        // Both sides as secrets: compared in constant time.
        Secret::<64>::new(output.into()) == Secret::new(token.authenticator)
    }
}

/// A generator as `voprf-ng` wants it.
struct Randomness(ChaCha20Rng);

impl rand_core_10::TryRng for Randomness {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(self.0.next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill_bytes(bytes);
        Ok(())
    }
}

impl rand_core_10::TryCryptoRng for Randomness {}

#[cfg(feature = "client")]
pub use client::Request;

#[cfg(feature = "client")]
mod client {
    use privacypass::{
        Deserialize as _, Serialize as _,
        amortized_tokens::{AmortizedBatchTokenRequest, AmortizedBatchTokenResponse, TokenState},
        common::private::deserialize_public_key,
    };

    use super::*;

    /// Octets of the proof in a response.
    const PROOF: usize = 64;

    /// A client that waits for tokens.
    pub struct Request {
        pub(super) state: TokenState<Ristretto255>,
        pub(super) tokens: usize,
    }

    impl Request {
        /// Asks the issuer of `domain` with this public key for so many tokens: the encoded TokenRequest, and what its
        /// answer is unblinded with. The nonces and blinds are the operating system's.
        ///
        /// # Errors
        /// [`CryptoError::Form`] if the key is none, or for no tokens or more than [`MAX_BATCH`].
        pub fn new(public_key: &[u8], domain: &Domain, tokens: usize) -> Result<(Vec<u8>, Self), CryptoError> {
            let key = deserialize_public_key::<Ristretto255>(public_key).map_err(|_| CryptoError::Form)?;
            let count = u16::try_from(tokens).map_err(|_| CryptoError::Form)?;
            if tokens == 0 || tokens > MAX_BATCH {
                return Err(CryptoError::Form);
            }
            let (request, state) = AmortizedBatchTokenRequest::<Ristretto255>::new(key, &challenge(domain), count)
                .map_err(|_| CryptoError::Form)?;
            let request = request.tls_serialize_detached().map_err(|_| CryptoError::Form)?;
            Ok((request, Self { state, tokens }))
        }

        /// The same with nonces and blinds that are given.
        #[cfg(test)]
        pub(in crate::crypto) fn with(
            public_key: &[u8],
            domain: &Domain,
            nonces: &[[u8; 32]],
            blinds: &[[u8; 32]],
        ) -> Result<(Vec<u8>, Self), CryptoError> {
            let key = deserialize_public_key::<Ristretto255>(public_key).map_err(|_| CryptoError::Form)?;
            let scalar = |blind: &[u8; 32]| Ristretto255::deserialize_scalar(blind).map_err(|_| CryptoError::Form);
            let blinds = blinds.iter().map(scalar).collect::<Result<_, _>>()?;
            let (challenge, tokens) = (challenge(domain), nonces.len());
            let made = AmortizedBatchTokenRequest::<Ristretto255>::issue_token_request_with_params(
                key,
                &challenge,
                nonces.to_vec(),
                blinds,
            );
            let (request, state) = made.map_err(|_| CryptoError::Form)?;
            let request = request.tls_serialize_detached().map_err(|_| CryptoError::Form)?;
            Ok((request, Self { state, tokens }))
        }

        /// The tokens in an answer, whose proof is checked.
        ///
        /// # Errors
        /// [`CryptoError::Form`] if the answer is none to this request, [`CryptoError::Invalid`] if it was not made with
        /// the issuer's key.
        pub fn finish(self, response: &[u8]) -> Result<Vec<Token>, CryptoError> {
            let mut reader = Reader::new(bytes::Bytes::copy_from_slice(response));
            let elements = Vec::<Element>::decode(&mut reader)?;
            reader.take(PROOF)?;
            reader.finish()?;
            if elements.len() != self.tokens {
                return Err(CryptoError::Form);
            }
            let response = AmortizedBatchTokenResponse::<Ristretto255>::tls_deserialize(&mut &response[..])
                .map_err(|_| CryptoError::Form)?;
            let tokens = response.issue_tokens(&self.state).map_err(|_| CryptoError::Invalid)?;
            let token = |token: privacypass::amortized_tokens::AmortizedToken<Ristretto255>| {
                let encoded = token.tls_serialize_detached().map_err(|_| CryptoError::Form)?;
                Ok(Token::from_slice(&encoded)?)
            };
            tokens.into_iter().map(token).collect()
        }
    }
}

#[cfg(all(test, feature = "client"))]
mod tests;
