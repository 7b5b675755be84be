//! Methods of the Queuing Service (`wire-spec/queuing.tls`).

use bytes::Bytes;

use super::{
    Decode as _, DecodeError, Opaque, Reader,
    credential::{HpkePublicKey, Signature, SignaturePublicKey},
    queue::Incarnation,
};
use crate::base::{Domain, QsClientId, QsUserId, Secret};

/// Names an HPKE key of a QS: the first eight bytes of the SHA-256 of the public key.
pub type HpkeKeyId = [u8; 8];

/// Names a group in a blocklist: derived from the client's blocklist key, which only queue configs carry.
pub type BlockedGroup = [u8; 32];

/// A point of P-256, uncompressed (SEC 1 section 2.3.3).
pub type P256PublicKey = [u8; 65];

/// Octets of a sealed [`PushToken`], whatever is in it: `1024` padded, and what sealing adds.
pub const SEALED_PUSH_TOKEN: usize = 1_056;

/// Most octets of the endpoint of a [`WebPushSubscription`].
pub const MAX_PUSH_ENDPOINT: usize = 512;

wire_structs! {
    /// Asks for the QS's keys.
    pub struct GetQueuingKeys {}

    /// The QS's keys.
    pub struct QueuingKeys {
        /// For sealing queue configs, the preferred one first.
        pub hpke_keys: Vec<QueuingHpkeKey>,
        /// Verifies what the QS signs.
        pub verifying_key: SignaturePublicKey,
        /// By which push services know this QS (RFC 8292); none if it does not push.
        pub push_key: Option<P256PublicKey>,
    }

    /// A key for sealing queue configs.
    pub struct QueuingHpkeKey {
        /// Its name.
        pub key_id: HpkeKeyId,
        /// The key.
        pub public_key: HpkePublicKey,
    }

    /// Creates a user record with its first client.
    pub struct CreateQueuingUser {
        /// Proves the user in later requests.
        pub auth_key: SignaturePublicKey,
        /// Whoever holds it may fetch this user's AddPackages.
        pub friendship_token: Secret,
        /// The first client.
        pub client: QueuingClient,
    }

    /// A client record as its owner gives it.
    pub struct QueuingClient {
        /// Proves the client, and signs its queue configs.
        pub auth_key: SignaturePublicKey,
        /// Secrets of its queue are sent to this key.
        pub queue_key: HpkePublicKey,
        /// A sealed [`PushToken`], under a key that travels in the queue configs.
        pub push_token: Option<Opaque>,
    }

    /// The pseudonyms of a new user and its client.
    pub struct QueuingUserCreated {
        /// The user.
        pub user: QsUserId,
        /// The client, also the name of its queue.
        pub client: QsClientId,
        /// Of the queue.
        pub incarnation: Incarnation,
    }

    /// Replaces what the sending user gave at creation.
    pub struct UpdateQueuingUser {
        /// Proves the user from now on.
        pub auth_key: SignaturePublicKey,
        /// The only token by which AddPackages are fetched from now on.
        pub friendship_token: Secret,
    }

    /// Asks for the sending user's record.
    pub struct GetQueuingUser {}

    /// A user record as its owner sees it.
    pub struct QueuingUserRecord {
        /// The user's clients.
        pub clients: Vec<QueuingClientRecord>,
    }

    /// A client record as its owner sees it.
    pub struct QueuingClientRecord {
        /// The client, also the name of its queue.
        pub client: QsClientId,
        /// Proves it.
        pub auth_key: SignaturePublicKey,
        /// The day of its last request, counted from the Unix epoch.
        pub active: u32,
        /// Whether there is a push token.
        pub push: bool,
        /// KeyPackages that can still be given out, last-resort ones not counted.
        pub key_packages: u32,
    }

    /// Deletes the sending user with all its clients.
    pub struct DeleteQueuingUser {}

    /// Adds a client to the sending user.
    pub struct CreateQueuingClient {
        /// The client.
        pub client: QueuingClient,
    }

    /// The pseudonym of a new client.
    pub struct QueuingClientCreated {
        /// The client, also the name of its queue.
        pub client: QsClientId,
        /// Of the queue.
        pub incarnation: Incarnation,
    }

    /// Replaces the sending client's record. Another queue key starts the queue's ratchet anew.
    pub struct UpdateQueuingClient {
        /// What takes its place.
        pub client: QueuingClient,
    }

    /// Deletes a client: the sender itself, or one of the sending user's.
    pub struct DeleteQueuingClient {
        /// Which.
        pub client: QsClientId,
    }

    /// Replaces the sending client's blocklist.
    pub struct UpdateBlocklist {
        /// Names of the groups whose messages are dropped: each once, in ascending order.
        pub blocked: Vec<BlockedGroup>,
    }

    /// Replaces the client's KeyPackages.
    pub struct PublishKeyPackages {
        /// At least one last-resort package among them.
        pub packages: Vec<AddPackage>,
    }

    /// What it takes to add a client to a group.
    pub struct AddPackage {
        /// A KeyPackage (RFC 9420 section 10).
        pub key_package: Opaque,
        /// A [`LeafChain`](super::credential::LeafChain) under the owner's friendship encryption key.
        pub sealed_chain: Opaque,
    }

    /// Fetches one AddPackage of each client of a user.
    pub struct GetAddPackages {
        /// The user's token.
        pub friendship_token: Secret,
    }

    /// One AddPackage of each client.
    pub struct AddPackages {
        /// In no particular order.
        pub packages: Vec<AddPackage>,
    }

    /// Fetches a shared body.
    pub struct GetBody {
        /// From the queue entry.
        pub id: [u8; 16],
    }

    /// A shared body.
    pub struct Body {
        /// A padded [`FanOut`](super::queue::FanOut) under the key in the queue entry.
        pub ciphertext: Opaque,
    }

    /// Where a member's messages go: given to a DS, which cannot read it.
    pub struct ClientQueueConfig {
        /// The member's home domain.
        pub domain: Domain,
        /// Of the key it is sealed to.
        pub key_id: HpkeKeyId,
        /// HPKE encapsulated key.
        pub kem_output: Opaque,
        /// A [`QueueConfig`] under HPKE.
        pub ciphertext: Opaque,
    }

    /// The inside of a [`ClientQueueConfig`].
    pub struct QueueConfig {
        /// What is signed.
        pub content: QueueConfigContent,
        /// By the QS client record key (label `QueueConfig`).
        pub signature: Signature,
    }

    /// What a queue config says.
    pub struct QueueConfigContent {
        /// Whose queue.
        pub client: QsClientId,
        /// Names groups in the client's blocklist.
        pub blocklist_key: Secret,
        /// Opens the push token.
        pub push_token_key: Option<Secret>,
        /// Random, so that no two configs are alike.
        pub salt: [u8; 16],
    }
}

wire_selects! {
    /// Where a client is woken when it does not listen.
    pub enum PushToken: u8 {
        /// Through Web Push (RFC 8030), which UnifiedPush speaks.
        WebPush(WebPushSubscription) = 1,
    }
}

wire_structs! {
    /// What a client is told when it subscribes at a push service.
    pub struct WebPushSubscription {
        /// The push resource (RFC 8030 section 5): an `https` URL in ASCII.
        pub endpoint: Opaque,
        /// Pushes are encrypted to this key (RFC 8291 section 2.1).
        pub public_key: P256PublicKey,
        /// And authenticated by this secret (RFC 8291 section 3.2).
        pub auth: Secret<16>,
    }
}

impl ClientQueueConfig {
    /// The home domain in an encoded config, of which no more is read.
    ///
    /// # Errors
    /// [`DecodeError`] if it does not begin with a domain.
    pub fn home_of(encoded: &Bytes) -> Result<Domain, DecodeError> {
        Domain::decode(&mut Reader::new(encoded.clone()))
    }
}
