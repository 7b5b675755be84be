//! What the transport calls: a [`Handler`] answers requests, and a [`Streaming`] goes on where the reply to a request is
//! a stream of frames. Neither sees a type of the QUIC library.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Code, Frames};
use crate::base::Domain;

/// Who is at the other end of a connection, as far as TLS tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Where the connection came from.
    pub remote: SocketAddr,
    /// The channel binding: 32 bytes that both ends of this connection, and nobody else, have.
    pub binding: [u8; 32],
    /// The home domains that the peer's certificate proved; none for an ordinary client.
    pub domains: Vec<Domain>,
}

/// How requests of a method are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodRules {
    /// Largest encoded request, and in a streaming exchange the largest frame from the caller.
    pub max_request: usize,
    /// Whether the exchange goes on in frames.
    pub streaming: bool,
}

/// The answer to a request.
pub enum Reply {
    /// One encoded response, and the exchange is over.
    Once(Bytes),
    /// An encoded response, then frames both ways. Only for streaming methods.
    Stream(Bytes, Box<dyn Streaming>),
}

/// What runs above the transport.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// What is kept per connection; dropped when the connection and its last exchange have ended.
    type Session: Send + Sync + 'static;

    /// How requests with this method code are read; an answer for unknown codes too.
    fn rules(&self, method: u16) -> MethodRules;

    /// A connection is established: the handshake, and with it the peer's proof of its domain, is complete.
    fn open(&self, peer: PeerInfo) -> Arc<Self::Session>;

    /// The encoded response to whatever is of this version of the protocol, if it is not taken. Nothing of it is read.
    fn unsupported(&self, version: u16) -> Option<Bytes>;

    /// The encoded response to a request that is larger than its method allows.
    fn too_large(&self, method: u16, limit: usize) -> Bytes;

    /// How long what is under way keeps a new request waiting.
    fn backlog(&self) -> Duration;

    /// The encoded response to a request that came when there was too much to do: it may come again after [`RETRY_AFTER`].
    ///
    /// [`RETRY_AFTER`]: super::RETRY_AFTER
    fn overloaded(&self) -> Bytes;

    /// The encoded response to a stream that ends before method or framing could be understood.
    fn malformed(&self) -> Bytes;

    /// Answers a request, which is complete but not yet decoded. `stream` is the id of its stream. The future is run to
    /// its end even if the peer goes away.
    async fn exchange(&self, session: &Arc<Self::Session>, stream: u64, request: Bytes) -> Reply;
}

/// The part of a streaming exchange after the response.
#[async_trait]
pub trait Streaming: Send {
    /// Runs to the end of the exchange. Returns the code that the stream is reset with; [`super::codes::DONE`] finishes it
    /// in order. Must always be ready to take [`Frames::next`], which is how it learns that the peer has gone or
    /// that the homeserver is shutting down, and must return soon after an error from it.
    async fn run(self: Box<Self>, frames: &mut dyn Frames) -> Code;
}
