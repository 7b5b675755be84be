//! Limits that are part of the protocol: both sides know them (`wire-spec/registries.md`, "Limits"). Limits that an
//! operator chooses are settings of the node.

/// Default UDP port of a homeserver.
pub const DEFAULT_PORT: u16 = 9420;

/// Largest request of a method that says nothing else.
pub const MAX_REQUEST: usize = 1 << 20;

/// Largest response and largest frame of a streaming exchange.
pub const MAX_RESPONSE: usize = 16 << 20;

/// Most public keys one connection can have bound at a time; the least recently used goes first.
pub const MAX_BOUND_KEYS: usize = 256;

/// Most entries one dequeue or listen frame carries.
pub const MAX_DEQUEUE: u32 = 500;

/// Messages longer than this that go to more than [`SHARED_BODY_QUEUES`] queues are stored once.
pub const SHARED_BODY_SIZE: usize = 4 << 10;

/// See [`SHARED_BODY_SIZE`].
pub const SHARED_BODY_QUEUES: usize = 3;

/// Largest `extensions` of a GroupInfo, in bytes as encoded: a key, and room for what a client of another kind puts in.
pub const MAX_GROUP_INFO_EXTENSIONS: usize = 4 << 10;

/// Most keys in one Bind.
pub const MAX_BIND_KEYS: usize = 16;

/// Most connection packages, or packages of an alias, that are published at a time.
pub const MAX_CONNECTION_PACKAGES: usize = 100;

/// Longest sealed user profile, in octets.
pub const MAX_PROFILE: usize = 32 << 10;

/// Most credentials of a client that were renewed and are still valid.
pub const MAX_RENEWED_CREDENTIALS: usize = 8;

/// Most clients of a user of the QS.
pub const MAX_QUEUING_CLIENTS: usize = 10;

/// Most keys of a client of the QS that were replaced and still verify queue configs.
pub const MAX_REPLACED_KEYS: usize = 16;

/// Most groups that a client of the QS can block.
pub const MAX_BLOCKED_GROUPS: usize = 1_000;

/// Most KeyPackages of a client.
pub const MAX_KEY_PACKAGES: usize = 200;

/// Longest lifetime of a KeyPackage, in days.
pub const MAX_KEY_PACKAGE_DAYS: u32 = 180;

/// Longest sealed chain of a member, in octets: what is in it takes about a quarter.
pub const MAX_SEALED_CHAIN: usize = 4 << 10;

/// Longest sealed user-profile key, in octets: 32 with what sealing adds have room.
pub const MAX_SEALED_PROFILE_KEY: usize = 256;

/// Longest sealed friendship package, in octets.
pub const MAX_FRIENDSHIP_PACKAGE: usize = 4 << 10;
