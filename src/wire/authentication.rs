//! Methods of the Authentication Service (`wire-spec/authentication.tls`).

use super::{
    Opaque, Text,
    connection::{AliasPackage, ConnectionPackage, DirectMessage},
    credential::{
        AsCredential, AsIntermediateCredential, ClientCredential, ClientRequest, Fingerprint, HpkePublicKey,
        RootSuccession, SignaturePublicKey,
    },
    queue::Incarnation,
};
use crate::base::{AliasId, ClientId, UserId};

wire_selects! {
    /// Why a credential is not to be believed (after RFC 5280 section 5.3.1, `keyCompromise` and `certificateHold`).
    #[derive(Copy)]
    pub enum RevocationReason: u8 {
        /// It will never be believed again.
        Revoked = 1,
        /// Not now: its user is disabled, and may be enabled again.
        OnHold = 2,
    }
}

wire_structs! {
    /// Asks for the AS's credentials.
    pub struct GetCredentials {}

    /// What it takes to verify a user of this domain.
    pub struct Credentials {
        /// Root credentials, the preferred one first.
        pub roots: Vec<AsCredential>,
        /// Which root has vouched for which other: a client that knows one believes what follows from it.
        pub successions: Vec<RootSuccession>,
        /// Intermediate credentials, the preferred one first.
        pub intermediates: Vec<AsIntermediateCredential>,
        /// Credentials that are not to be believed.
        pub revoked: Vec<Revocation>,
        /// Privacy Pass issuer keys.
        pub issuer_keys: Vec<IssuerKey>,
        /// Of the homeserver's store: another one than before means that it was restored from a backup.
        pub incarnation: Incarnation,
    }

    /// A credential that is not to be believed, although it has not expired.
    pub struct Revocation {
        /// Fingerprint of the credential.
        pub credential: Fingerprint,
        /// Whether that is for good.
        pub reason: RevocationReason,
    }

    /// A Privacy Pass issuer key.
    pub struct IssuerKey {
        /// 0x0005.
        pub token_type: u16,
        /// The key.
        pub public_key: Opaque,
        /// Last second in which it issues tokens; before that, another takes its place.
        pub issues_until: u64,
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
        /// Invitation code, where the registration policy asks for one.
        pub invitation: Option<Opaque>,
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
        /// Invitation code, where the registration policy asks for one.
        pub invitation: Option<Opaque>,
    }

    /// A user is registered.
    pub struct Registered {
        /// The certified identity.
        pub credential: ClientCredential,
        /// Of the direct queue.
        pub incarnation: Incarnation,
    }

    /// Asks for a new client credential in place of the sender's.
    pub struct RenewCredential {
        /// The new identity key to certify, signed by the old one as well.
        pub request: ClientRequest,
        /// The sender's credentials up to the current one, oldest first, as far as it has them, at most 8: a homeserver that was restored
        /// from a backup may have one of the older ones only.
        pub history: Vec<ClientCredential>,
    }

    /// The credential is renewed.
    pub struct CredentialRenewed {
        /// The certified identity.
        pub credential: ClientCredential,
    }

    /// Starts an OPAQUE login of the sender's user (RFC 9807 section 6).
    pub struct Init2fa {
        /// KE1, 96 bytes.
        pub login: Opaque,
        /// RegistrationRequest of a new password, 32 bytes, if there is to be one.
        pub new_password: Option<Opaque>,
    }

    /// What the login goes on with.
    pub struct SecondFactorChallenge {
        /// Names the login: for one use, by the same sender, within a minute.
        pub session: [u8; 16],
        /// KE2, 320 bytes.
        pub login: Opaque,
        /// RegistrationResponse for the new password, 64 bytes.
        pub new_password: Option<Opaque>,
    }

    /// Proves the password.
    pub struct SecondFactor {
        /// From the challenge.
        pub session: [u8; 16],
        /// KE3, 64 bytes.
        pub login: Opaque,
    }

    /// Replaces the sender's password.
    pub struct ChangePassword {
        /// Proves the old password.
        pub factor: SecondFactor,
        /// RegistrationRecord of the new one, 192 bytes.
        pub record: Opaque,
    }

    /// Deletes the sender's user.
    pub struct DeleteUser {
        /// Proves the password.
        pub factor: SecondFactor,
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
        /// Opens secrets of the direct queue. Another than before starts the queue's ratchet anew.
        pub queue_key: HpkePublicKey,
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

    /// Registers an alias. Nothing in it names a user.
    pub struct RegisterAlias {
        /// The alias as its owner writes it.
        pub alias: Text,
        /// Proves the alias in later requests.
        pub key: SignaturePublicKey,
        /// Secrets of the alias's queue are sent to this key.
        pub queue_key: HpkePublicKey,
        /// First packages.
        pub packages: Vec<AliasPackage>,
    }

    /// The alias is registered.
    pub struct AliasRegistered {
        /// Of the alias's queue.
        pub incarnation: Incarnation,
    }

    /// Deletes the sending alias.
    pub struct DeleteAlias {}

    /// Replaces the sending alias's packages.
    pub struct PublishAliasPackages {
        /// Neither credential nor signature is with them.
        pub packages: Vec<AliasPackage>,
        /// Opens secrets of the alias's queue. Another than before starts the queue's ratchet anew.
        pub queue_key: HpkePublicKey,
    }

    /// Fetches one package of an alias.
    pub struct GetAliasPackage {
        /// Which.
        pub alias: AliasId,
    }

    /// A package of an alias.
    pub struct AliasPackageOf {
        /// Given out once, unless it is the last.
        pub package: AliasPackage,
    }

    /// Puts a message into an alias's queue.
    pub struct EnqueueAlias {
        /// Whose queue.
        pub alias: AliasId,
        /// The message.
        pub message: DirectMessage,
    }

    /// Asks for Privacy Pass tokens.
    pub struct IssueTokens {
        /// TokenRequest of batched tokens, type 0x0005.
        pub request: Opaque,
        /// Of a client of another homeserver, which this one does not know; its own clients send none.
        pub credential: Option<ClientCredential>,
    }

    /// Privacy Pass tokens, blinded.
    pub struct TokensIssued {
        /// TokenResponse of batched tokens.
        pub response: Opaque,
    }
}
