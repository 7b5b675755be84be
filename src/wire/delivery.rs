//! Methods of the Delivery Service (`wire-spec/delivery.tls`). MLS objects are opaque here.

use super::{
    Opaque,
    credential::{HpkeCiphertext, Signature, SignaturePublicKey},
    queuing::ClientQueueConfig,
};
use crate::base::{GroupId, Secret};

/// Names a request among a leaf's: a repeat gets the first answer and does nothing.
pub type IdempotencyKey = [u8; 16];

wire_structs! {
    /// Asks for the DS's key.
    pub struct GetDeliveryKeys {}

    /// The DS's key, which every group lists as MLS external sender.
    pub struct DeliveryKeys {
        /// Verifies what the DS proposes.
        pub verifying_key: SignaturePublicKey,
    }

    /// Asks for an unused group id.
    pub struct RequestGroupId {}

    /// An unused group id; nothing is stored for it.
    pub struct GroupTicket {
        /// The id.
        pub group: GroupId,
        /// Last second in which the group can be created.
        pub expires: u64,
        /// By the DS, over the two above.
        pub mac: [u8; 32],
    }

    /// Creates a group of one.
    pub struct CreateGroup {
        /// From RequestGroupId.
        pub ticket: GroupTicket,
        /// Opens the state from now on; the DS forgets it after each request.
        pub ear_key: Secret,
        /// Whether it is a connection group: one other may join with the EAR key.
        pub connection: bool,
        /// MLSMessage with the GroupInfo.
        pub group_info: Opaque,
        /// The ratchet tree (RFC 9420 section 12.4.3.3), `optional<Node> ratchet_tree<V>`.
        pub ratchet_tree: Opaque,
        /// Of the creator.
        pub member: MemberInfo,
        /// Of the creator.
        pub queue_config: ClientQueueConfig,
    }

    /// What members know of each other and the DS keeps for joiners, sealed under the group's credential key.
    pub struct MemberInfo {
        /// A sealed [`LeafChain`](super::credential::LeafChain).
        pub sealed_chain: Opaque,
        /// The sealed user-profile key.
        pub sealed_profile_key: Opaque,
    }

    /// A [`MemberInfo`] and whose it is.
    pub struct MemberOf {
        /// Leaf index.
        pub leaf: u32,
        /// What is known of it.
        pub info: MemberInfo,
    }

    /// The authenticated data of every commit.
    pub struct CommitAad {
        /// One per Add proposal, in their order.
        pub added: Vec<MemberInfo>,
        /// Of the committer, where its leaf credential is new.
        pub own: Option<MemberInfo>,
        /// A sealed [`FriendshipPackage`](super::connection::FriendshipPackage), from the joiner of a connection group.
        pub friendship_package: Option<Opaque>,
    }

    /// Opens a group's state.
    pub struct GroupAccess {
        /// Which group.
        pub group: GroupId,
        /// Its EAR key.
        pub ear_key: Secret,
    }

    /// Sends an application message to all other members.
    pub struct SendMessage {
        /// Where.
        pub access: GroupAccess,
        /// For repeats.
        pub idempotency_key: IdempotencyKey,
        /// MLSMessage with a PrivateMessage of the current epoch and empty AAD.
        pub message: Opaque,
        /// The first octets of the SHA-256 of the epoch's GroupContext (RFC 9420 section 8.1): two histories of a group have epochs of
        /// the same number.
        pub context_hash: [u8; 8],
        /// Whether to leave devices that are not listening asleep.
        pub no_push: bool,
    }

    /// A message is in the queues.
    pub struct MessageSent {
        /// How many recipients could not be reached (their queue is full or gone).
        pub unreached: u32,
    }

    /// A commit, and what the DS needs to go on from it.
    pub struct CommitBundle {
        /// Where.
        pub access: GroupAccess,
        /// For repeats.
        pub idempotency_key: IdempotencyKey,
        /// MLSMessage with a PublicMessage.
        pub commit: Opaque,
        /// Of the epoch that the commit starts.
        pub group_info: GroupInfoUpdate,
    }

    /// What the DS cannot know of the new GroupInfo.
    pub struct GroupInfoUpdate {
        /// GroupInfo extensions, `Extension extensions<V>` as RFC 9420 encodes them.
        pub extensions: Opaque,
        /// The committer's signature over the GroupInfo.
        pub signature: Signature,
    }

    /// A commit is in the queues of all members, its sender's included.
    pub struct CommitAccepted {
        /// The epoch it started.
        pub epoch: u64,
        /// How many recipients could not be reached.
        pub unreached: u32,
    }

    /// Adds members.
    pub struct AddUsers {
        /// Add proposals only, with one `added` each in the AAD, and all stored proposals.
        pub commit: CommitBundle,
        /// MLSMessage with the Welcome for all of them.
        pub welcome: Opaque,
        /// One per Add proposal, in their order.
        pub joiners: Vec<Joiner>,
    }

    /// What one joiner gets beside its part of the Welcome.
    pub struct Joiner {
        /// A sealed [`WelcomeAttribution`](super::connection::WelcomeAttribution).
        pub attribution: Opaque,
        /// The group's EAR key, to the init key of the joiner's KeyPackage.
        pub ear_key: HpkeCiphertext,
    }

    /// What a joiner finds in its queue.
    pub struct WelcomeBundle {
        /// MLSMessage with a Welcome that holds only its own EncryptedGroupSecrets.
        pub welcome: Opaque,
        /// Who added it, and the credential key.
        pub joiner: Joiner,
    }

    /// Removes members.
    pub struct RemoveUsers {
        /// Remove proposals only, and all stored proposals.
        pub commit: CommitBundle,
    }

    /// Renews the sender's keys.
    pub struct UpdateClient {
        /// An update path, and all stored proposals.
        pub commit: CommitBundle,
        /// The sender's new queue config, if it changes.
        pub queue_config: Option<ClientQueueConfig>,
    }

    /// Changes the roles or the group data.
    pub struct UpdateGroupContext {
        /// One GroupContextExtensions proposal, and all stored proposals.
        pub commit: CommitBundle,
    }

    /// Replaces the sender's user-profile key, as the DS keeps it for joiners.
    pub struct UpdateProfileKey {
        /// Where.
        pub access: GroupAccess,
        /// The sealed user-profile key.
        pub sealed_profile_key: Opaque,
    }

    /// Replaces the sender's queue config.
    pub struct UpdateQueueInfo {
        /// Where.
        pub access: GroupAccess,
        /// From now on.
        pub queue_config: ClientQueueConfig,
    }

    /// Takes a member back in that has lost its MLS state.
    pub struct Resync {
        /// An external commit that removes the sender's old leaf and covers all stored SelfRemoves; `own` in the AAD.
        pub commit: CommitBundle,
        /// The sender's.
        pub queue_config: ClientQueueConfig,
    }

    /// Leaves the group: with the next commit of any other member.
    pub struct SelfRemove {
        /// Where.
        pub access: GroupAccess,
        /// MLSMessage with the SelfRemove proposal in a PublicMessage of the current epoch.
        pub proposal: Opaque,
    }

    /// Joins a connection group with an external commit.
    pub struct JoinConnectionGroup {
        /// With `own` and `friendship_package` in the AAD.
        pub commit: CommitBundle,
        /// The joiner's.
        pub queue_config: ClientQueueConfig,
    }

    /// Removes everybody else and deletes the group.
    pub struct DeleteGroup {
        /// Removes everybody but the sender.
        pub commit: CommitBundle,
    }

    /// Fetches what a Welcome does not contain.
    pub struct GetWelcomeInfo {
        /// Where.
        pub access: GroupAccess,
        /// The epoch of the Welcome.
        pub epoch: u64,
    }

    /// What a Welcome does not contain.
    pub struct WelcomeInfo {
        /// The ratchet tree of the epoch.
        pub ratchet_tree: Opaque,
        /// What is known of the members of that epoch.
        pub members: Vec<MemberOf>,
    }

    /// Fetches what an external commit needs.
    pub struct GetExternalCommitInfo {
        /// Where.
        pub access: GroupAccess,
    }

    /// What an external commit needs.
    pub struct ExternalCommitInfo {
        /// MLSMessage with the current GroupInfo.
        pub group_info: Opaque,
        /// The current ratchet tree.
        pub ratchet_tree: Opaque,
        /// What is known of the members.
        pub members: Vec<MemberOf>,
        /// Stored SelfRemove proposals (MLSMessage), which the commit must cover.
        pub proposals: Vec<Opaque>,
        /// For how many seconds, rounded up, the oldest of what waits to be delivered to the homeserver of the member that asks
        /// has waited.
        pub undelivered: Option<u64>,
    }

    /// Content of the roles extension: who may change the group.
    pub struct Roles {
        /// Leaf-credential identities. If none of them is present, every member counts as one.
        pub admins: Vec<[u8; 32]>,
    }

    /// Detail of a `pending_proposals` refusal: what the commit has to cover.
    pub struct StoredProposals {
        /// MLSMessages, in the order in which they were stored.
        pub proposals: Vec<Opaque>,
    }

    /// Detail of a `wrong_epoch` refusal.
    pub struct CurrentEpoch {
        /// The group's epoch now.
        pub epoch: u64,
    }
}
