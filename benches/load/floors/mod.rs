//! What cannot be undercut: bare QUIC and bare RocksDB, each in a process of its own, doing what a message makes a homeserver do;
//! and bare OpenMLS.

pub mod committer;
pub mod echo;
pub mod public_group;
