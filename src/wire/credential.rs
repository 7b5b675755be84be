//! Credentials, from the AS's own down to the pseudonymous one in an MLS leaf, and the keys and signatures they are made
//! of (`wire-spec/credentials.tls`). Verification is in `crypto::credential`.

use super::Opaque;
use crate::base::{ClientId, Domain, Secret};

/// The one ciphersuite so far: MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519 (RFC 9420 section 17.1).
pub const CIPHERSUITE: u16 = 0x0001;

wire_opaques! {
    /// A signature verification key, in the encoding of the ciphersuite (Ed25519: 32 bytes).
    pub struct SignaturePublicKey;
    /// A signature (Ed25519: 64 bytes).
    pub struct Signature;
    /// An HPKE public key (X25519: 32 bytes).
    pub struct HpkePublicKey;
}

/// SHA-256 of an encoded credential.
pub type Fingerprint = [u8; 32];

wire_structs! {
    /// A period of validity in seconds since the Unix epoch, both ends included.
    pub struct Validity {
        /// First second.
        pub not_before: u64,
        /// Last second.
        pub not_after: u64,
    }

    /// A period of validity in UTC days, both ends included: coarse, so that it does not mark a batch.
    pub struct DayValidity {
        /// First day since the Unix epoch.
        pub not_before: u32,
        /// Last day.
        pub not_after: u32,
    }

    /// An HPKE ciphertext (RFC 9180, RFC 9420 section 5.1.3).
    pub struct HpkeCiphertext {
        /// The encapsulated key.
        pub kem_output: Opaque,
        /// The AEAD ciphertext.
        pub ciphertext: Opaque,
    }

    /// What an AS says of its root key.
    pub struct AsCredentialPayload {
        /// The home domain.
        pub domain: Domain,
        /// Of the key below.
        pub ciphersuite: u16,
        /// When it may be used.
        pub validity: Validity,
        /// The root key.
        pub verifying_key: SignaturePublicKey,
    }

    /// The root of trust of a home domain, self-signed (label `AsCredential`).
    pub struct AsCredential {
        /// What is signed.
        pub payload: AsCredentialPayload,
        /// By the key in the payload.
        pub signature: Signature,
    }

    /// A root vouches for another one (label `RootSuccession` over the successor's fingerprint).
    pub struct RootSuccession {
        /// The [`AsCredential`] that vouches.
        pub predecessor: Fingerprint,
        /// The [`AsCredential`] that it vouches for.
        pub successor: Fingerprint,
        /// By the predecessor's key.
        pub signature: Signature,
    }

    /// What an AS says of the key that signs client credentials.
    pub struct AsIntermediatePayload {
        /// The home domain.
        pub domain: Domain,
        /// Of the key below.
        pub ciphersuite: u16,
        /// When it may be used; within the signer's.
        pub validity: Validity,
        /// The intermediate key.
        pub verifying_key: SignaturePublicKey,
        /// Of the [`AsCredential`] that signs.
        pub signer: Fingerprint,
    }

    /// A request to sign an intermediate key (label `AsIntermediateRequest`).
    pub struct AsIntermediateRequest {
        /// What is asked for.
        pub payload: AsIntermediatePayload,
        /// By the key in the payload.
        pub self_signature: Signature,
    }

    /// A signed intermediate key (label `AsIntermediateCredential` over the request).
    pub struct AsIntermediateCredential {
        /// What is signed.
        pub request: AsIntermediateRequest,
        /// By the AS credential.
        pub signature: Signature,
    }

    /// What an AS says of a client's key.
    pub struct ClientPayload {
        /// Whose key.
        pub client: ClientId,
        /// Of the key below.
        pub ciphersuite: u16,
        /// When it may be used; within the signer's.
        pub validity: Validity,
        /// The client's identity key.
        pub verifying_key: SignaturePublicKey,
        /// Of the [`AsIntermediateCredential`] that signs.
        pub signer: Fingerprint,
        /// Of the [`ClientCredential`] that this one renews, if it renews one.
        pub predecessor: Option<Fingerprint>,
    }

    /// A client's certificate signing request (label `ClientRequest`).
    pub struct ClientRequest {
        /// What is asked for.
        pub payload: ClientPayload,
        /// By the key in the payload.
        pub self_signature: Signature,
        /// By the key of the predecessor, if there is one (label `ClientRenewal` over the payload): whoever knows that
        /// credential sees that the identity is the same.
        pub predecessor_signature: Option<Signature>,
    }

    /// A client's identity (label `ClientCredential` over the request).
    pub struct ClientCredential {
        /// What is signed.
        pub request: ClientRequest,
        /// By the intermediate credential.
        pub signature: Signature,
    }

    /// The pseudonymous credential of one leaf or KeyPackage: content of an MLS credential of type
    /// [`LEAF_CREDENTIAL`](super::registry::LEAF_CREDENTIAL).
    pub struct LeafCredential {
        /// Random; names the member within the group, for roles and resync.
        pub identity: [u8; 32],
        /// When it may be used.
        pub validity: DayValidity,
        /// Of the key below.
        pub ciphersuite: u16,
        /// Equal to the MLS leaf's signature key.
        pub verifying_key: SignaturePublicKey,
        /// A [`LeafSignature`] under the leaf's signature encryption key.
        pub sealed_signature: Opaque,
    }

    /// What the client credential signs of a leaf (label `LeafCredential`).
    pub struct LeafTbs {
        /// As in the leaf credential.
        pub identity: [u8; 32],
        /// As in the leaf credential.
        pub validity: DayValidity,
        /// As in the leaf credential.
        pub ciphersuite: u16,
        /// As in the leaf credential.
        pub verifying_key: SignaturePublicKey,
        /// Of the client credential that signs.
        pub signer: Fingerprint,
    }

    /// The secret part of a leaf credential: who is behind it.
    pub struct LeafSignature {
        /// Of the client credential that signs.
        pub signer: Fingerprint,
        /// Over [`LeafTbs`].
        pub signature: Signature,
    }

    /// What members know of a leaf and the DS does not: travels sealed under the group's credential key (or, in an
    /// AddPackage, the owner's friendship encryption key), bound to the leaf's signature key.
    pub struct LeafChain {
        /// Who is behind the leaf.
        pub credential: ClientCredential,
        /// Opens the leaf's `sealed_signature`.
        pub signature_encryption_key: Secret,
    }
}
