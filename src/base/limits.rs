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
