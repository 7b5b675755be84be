//! Methods of the Authentication Service (`wire-spec/authentication.tls`).

use super::{
    Opaque,
    connection::{ConnectionPackage, DirectMessage},
    credential::{AsCredential, AsIntermediateCredential, ClientCredential, ClientRequest, Fingerprint, HpkePublicKey},
    queue::Incarnation,
};
use crate::base::{ClientId, UserId};

wire_structs! {
    /// Asks for the AS's credentials.
    pub struct GetCredentials {}

    /// What it takes to verify a user of this domain.
    pub struct Credentials {
        /// Root credentials, the preferred one first.
        pub roots: Vec<AsCredential>,
        /// Intermediate credentials, the preferred one first.
        pub intermediates: Vec<AsIntermediateCredential>,
        /// Fingerprints of credentials that are not to be believed.
        pub revoked: Vec<Fingerprint>,
        /// Privacy Pass issuer keys.
        pub issuer_keys: Vec<IssuerKey>,
    }

    /// A Privacy Pass issuer key.
    pub struct IssuerKey {
        /// 0x0005.
        pub token_type: u16,
        /// The key.
        pub public_key: Opaque,
        /// Last second in which its tokens are redeemed.
        pub not_after: u64,
        /// Whether it issues to clients of other homeservers (else to this one's own).
        pub foreign: bool,
    }

    /// OPAQUE registration, first half (RFC 9807 section 5.1).
    pub struct InitRegistration {
        /// Who wants to register; random uuid of the client's choice.
        pub user: UserId,
        /// RegistrationRequest, 32 bytes.
        pub request: Opaque,
    }

    /// OPAQUE registration, the server's part.
    pub struct InitRegistrationResponse {
        /// RegistrationResponse, 64 bytes.
        pub response: Opaque,
    }

    /// OPAQUE registration, second half, and all that makes a user: at once or not at all.
    pub struct FinishRegistration {
        /// The identity key to certify.
        pub request: ClientRequest,
        /// RegistrationRecord, 192 bytes.
        pub record: Opaque,
        /// Secrets of the direct queue are sent to this key.
        pub queue_key: HpkePublicKey,
        /// First connection packages, signed by the key in the request.
        pub packages: Vec<ConnectionPackage>,
        /// The first profile.
        pub profile: Opaque,
    }

    /// A user is registered.
    pub struct Registered {
        /// The certified identity.
        pub credential: ClientCredential,
        /// Of the direct queue.
        pub incarnation: Incarnation,
    }

    /// Replaces the sender's user profile.
    pub struct UpdateUserProfile {
        /// A padded [`UserProfile`](super::content::UserProfile) under the profile key.
        pub profile: Opaque,
    }

    /// Fetches a user's profile.
    pub struct GetUserProfile {
        /// Whose.
        pub user: UserId,
    }

    /// A user's profile.
    pub struct SealedUserProfile {
        /// A padded [`UserProfile`](super::content::UserProfile) under the profile key.
        pub profile: Opaque,
    }

    /// Replaces the sender's connection packages.
    pub struct PublishConnectionPackages {
        /// Signed by the sender's client credential.
        pub packages: Vec<ConnectionPackage>,
    }

    /// Fetches one connection package of a user.
    pub struct GetConnectionPackage {
        /// Whose.
        pub user: UserId,
    }

    /// A connection package and who signed it.
    pub struct ConnectionPackageOf {
        /// The package; given out once, unless it is the last.
        pub package: ConnectionPackage,
        /// Its signer.
        pub credential: ClientCredential,
    }

    /// Puts a message into a client's direct queue.
    pub struct EnqueueDirect {
        /// Whose queue.
        pub client: ClientId,
        /// The message.
        pub message: DirectMessage,
    }
}
