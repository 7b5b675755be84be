//! What cannot be undercut: bare QUIC and bare RocksDB, each in a process of its own, doing what a message makes a homeserver do.

pub mod committer;
pub mod echo;
