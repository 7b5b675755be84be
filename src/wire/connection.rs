//! How two users connect, and what connected users give each other (`wire-spec/connections.tls`). The servers carry
//! these messages and cannot read them.

use super::{
    Opaque,
    content::UserProfile,
    credential::{ClientCredential, DayValidity, HpkeCiphertext, HpkePublicKey, Signature, Validity},
};
use crate::base::{AliasId, ClientId, GroupId, Secret, UserId};

wire_structs! {
    /// A key to send a connection offer to.
    pub struct ConnectionPackage {
        /// What is signed.
        pub content: ConnectionPackageTbs,
        /// By the client credential (label `ConnectionPackage`).
        pub signature: Signature,
    }

    /// What a connection package says.
    pub struct ConnectionPackageTbs {
        /// Whose.
        pub client: ClientId,
        /// Of the key below.
        pub ciphersuite: u16,
        /// Offers are encrypted to it.
        pub encryption_key: HpkePublicKey,
        /// When it may be used.
        pub validity: Validity,
    }

    /// A key to send a connection offer to an alias to. It says nothing of who is behind the alias.
    pub struct AliasPackage {
        /// Of the key below.
        pub ciphersuite: u16,
        /// Offers are encrypted to it.
        pub encryption_key: HpkePublicKey,
        /// When it may be used.
        pub validity: DayValidity,
    }

    /// A message in a direct queue: for the holder of one key.
    pub struct DirectMessage {
        /// SHA-256 of the public key that it is encrypted to.
        pub key_hash: [u8; 32],
        /// A padded [`ConnectionOffer`] or [`ConnectionDecline`], by the kind of key.
        pub sealed: HpkeCiphertext,
    }

    /// An offer to connect.
    pub struct ConnectionOffer {
        /// What is signed.
        pub content: ConnectionOfferTbs,
        /// By the credential inside (label `ConnectionOffer`).
        pub signature: Signature,
    }

    /// What an offer says.
    pub struct ConnectionOfferTbs {
        /// Who offers.
        pub credential: ClientCredential,
        /// To whom: nobody can forward it.
        pub recipient: Recipient,
        /// SHA-256 of the encoded connection or alias package used.
        pub package_hash: [u8; 32],
        /// Names the offer in a decline.
        pub offer_id: [u8; 16],
        /// A decline is encrypted to it.
        pub reply_key: HpkePublicKey,
        /// The connection group.
        pub group: GroupId,
        /// Opens the group's state on its DS.
        pub ear_key: Secret,
        /// Opens what only members know.
        pub credential_key: Secret,
        /// Who offers, for people.
        pub profile: UserProfile,
        /// What the recipient gets if it accepts.
        pub friendship: FriendshipPackage,
    }

    /// An offer is declined; says nothing else.
    pub struct ConnectionDecline {
        /// Which.
        pub offer_id: [u8; 16],
    }

    /// What connected users give each other.
    pub struct FriendshipPackage {
        /// Fetches AddPackages from the owner's QS.
        pub friendship_token: Secret,
        /// Opens the chains in AddPackages.
        pub friendship_encryption_key: Secret,
        /// Welcomes to the owner carry their attribution under it.
        pub welcome_attribution_key: Secret,
        /// Opens the owner's profile.
        pub user_profile_key: Secret,
    }

    /// Tells a joiner who added it, under the joiner's welcome attribution key.
    pub struct WelcomeAttribution {
        /// What is signed.
        pub content: WelcomeAttributionTbs,
        /// By the sender's client credential (label `WelcomeAttribution`).
        pub signature: Signature,
    }

    /// What a welcome attribution says.
    pub struct WelcomeAttributionTbs {
        /// Who adds.
        pub sender: ClientId,
        /// Opens what only members know.
        pub credential_key: Secret,
        /// To which group.
        pub group: GroupId,
        /// Whom: the KeyPackageRef used.
        pub key_package: Opaque,
        /// SHA-256 of the Welcome's encrypted group info.
        pub group_info_hash: [u8; 32],
    }
}

wire_selects! {
    /// To whom an offer is made.
    pub enum Recipient: u8 {
        /// A user.
        User(UserId) = 1,
        /// Whoever is behind an alias.
        Alias(AliasId) = 2,
    }
}
