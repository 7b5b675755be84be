//! Code points in the registries of other standards, all from their private-use ranges, and this project's own small
//! ones (`wire-spec/registries.md`).

/// MLS credential type of [`LeafCredential`](super::credential::LeafCredential).
pub const LEAF_CREDENTIAL: u16 = 0xF0B1;

/// MLS group context extension with [`Roles`](super::delivery::Roles).
pub const ROLES_EXTENSION: u16 = 0xF0B2;

/// MLS group context extension with the sealed [`GroupData`](super::content::GroupData).
pub const GROUP_DATA_EXTENSION: u16 = 0xF0B3;

/// MLS KeyPackage extension with the owner's [`ClientQueueConfig`](super::queuing::ClientQueueConfig).
pub const QUEUE_CONFIG_EXTENSION: u16 = 0xF0B4;

/// Privacy Pass token type: batched tokens on Ristretto255.
pub const TOKEN_TYPE: u16 = 0x0005;
