//! The wire protocol: TLS presentation language (RFC 8446 section 3, RFC 9420 section 2.1), the table of methods, and
//! the messages of each service. `wire-spec/` is the same for people; the two are held together by tests.
//!
//! Decoding is strict and total: it never panics, never allocates more than the received bytes justify, accepts one
//! encoding of each value only, and leaves nothing unread.

#[macro_use]
mod codec;
#[macro_use]
pub mod every;

pub mod authentication;
pub mod connection;
pub mod content;
pub mod credential;
pub mod delivery;
pub mod envelope;
pub mod federation;
pub mod label;
pub mod method;
pub mod mls;
pub mod padding;
pub mod queue;
pub mod queuing;
pub mod registry;
pub mod server;

#[cfg(test)]
pub(crate) mod tests;

pub use codec::{Decode, DecodeError, Encode, Length, MAX_VECTOR, Opaque, Reader, Text, decode_varint, encode_varint};
pub use envelope::{Authentication, ErrorDetail, Proof, Request, Response, SenderId, Token, VERSION};
pub use method::{Call, Method};
