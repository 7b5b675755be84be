//! The little of RFC 9420's framing that a Delivery Service must see: whose part of a Welcome is whose, and of which
//! group and epoch an application message is. Decoding a request never looks into MLS objects; its service does.

use super::{Opaque, credential::HpkeCiphertext};

/// ProtocolVersion mls10.
pub const MLS10: u16 = 1;

/// WireFormat mls_private_message.
pub const PRIVATE_MESSAGE: u16 = 2;

/// WireFormat mls_welcome.
pub const WELCOME: u16 = 3;

/// WireFormat mls_group_info.
pub const GROUP_INFO: u16 = 4;

/// ContentType application.
pub const APPLICATION: u8 = 1;

wire_structs! {
    /// MLSMessage with a Welcome (RFC 9420 sections 6 and 12.4.3.1).
    pub struct WelcomeMessage {
        /// [`MLS10`].
        pub version: u16,
        /// [`WELCOME`].
        pub wire_format: u16,
        /// CipherSuite.
        pub cipher_suite: u16,
        /// One per joiner.
        pub secrets: Vec<EncryptedGroupSecrets>,
        /// Under a key that only joiners can derive.
        pub encrypted_group_info: Opaque,
    }

    /// A joiner's part of a Welcome (RFC 9420 section 12.4.3.1).
    pub struct EncryptedGroupSecrets {
        /// KeyPackageRef.
        pub new_member: Opaque,
        /// To the KeyPackage's init key.
        pub encrypted_group_secrets: HpkeCiphertext,
    }

    /// MLSMessage with a PrivateMessage (RFC 9420 sections 6 and 6.3).
    pub struct PrivateMessage {
        /// [`MLS10`].
        pub version: u16,
        /// [`PRIVATE_MESSAGE`].
        pub wire_format: u16,
        /// The MLS group id.
        pub group_id: Opaque,
        /// The epoch.
        pub epoch: u64,
        /// ContentType.
        pub content_type: u8,
        /// Not encrypted.
        pub authenticated_data: Opaque,
        /// Opaque to the DS.
        pub encrypted_sender_data: Opaque,
        /// Opaque to the DS.
        pub ciphertext: Opaque,
    }
}
