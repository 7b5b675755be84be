//! Bennu: a QUIC-native, federated homeserver for end-to-end encrypted messaging.
//!
//! Without features the crate is the wire codec alone ([`base`] and [`wire`]). `server` adds the three services over any
//! store engine, `rocksdb` the durable engine, `client` the SDK, `cli` the program, `otlp` traces. `CONTRIBUTING` in the README
//! describes the rooms and the way of a request through them; `tests/tidy.rs` holds the layers.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod base;
pub mod wire;

#[cfg(feature = "net")]
pub mod crypto;
#[cfg(feature = "net")]
pub mod transport;

#[cfg(feature = "server")]
pub mod authentication;
#[cfg(feature = "server")]
pub mod delivery;
#[cfg(feature = "server")]
pub mod dispatch;
#[cfg(feature = "server")]
pub mod federation;
#[cfg(feature = "server")]
pub mod node;
#[cfg(feature = "server")]
pub mod push;
#[cfg(feature = "server")]
pub mod queuing;
#[cfg(feature = "server")]
pub mod service;
#[cfg(feature = "server")]
pub mod store;

#[cfg(feature = "client")]
pub mod client;

#[cfg(feature = "cli")]
pub mod cli;
