//! What is kept per connection: the channel binding, the keys that were bound to it, and
//! credit. Dies with the connection.

use std::time::Instant;

use super::{credit::Credit, rates::Origin};
use crate::{
    base::{Domain, Refusal, limits::MAX_BIND_KEYS},
    crypto::proof::verify_bind,
    service::proof::BoundKeys,
    transport::PeerInfo,
    wire::server::{Bind, Done},
};

/// A connection's state.
pub struct Session {
    /// 32 bytes that both ends of this connection, and nobody else, have.
    pub binding: [u8; 32],
    /// Whom the peer's address stands for.
    pub origin: Origin,
    /// The home domains that the peer's certificate proved when the connection was made.
    pub domains: Vec<Domain>,
    /// When that was.
    pub opened: Instant,
    /// Keys whose possession was proven on this connection.
    pub bound: BoundKeys,
    /// What its tokens have bought and is left.
    pub credit: Credit,
}

impl Session {
    /// A new connection's.
    pub fn new(peer: PeerInfo) -> Self {
        Self {
            binding: peer.binding,
            origin: peer.remote.into(),
            domains: peer.domains,
            opened: Instant::now(),
            bound: BoundKeys::default(),
            credit: Credit::default(),
        }
    }

    /// The endpoint Bind: all keys of the request become bound, or none.
    ///
    /// # Errors
    /// `malformed` for too many keys, `unauthenticated` if a signature does not verify for this connection.
    pub fn bind(&self, request: Bind) -> Result<Done, Refusal> {
        if request.keys.len() > MAX_BIND_KEYS {
            return Err(Refusal::malformed("at most 16 keys can be bound at a time"));
        }
        for key in &request.keys {
            verify_bind(key, &self.binding)
                .map_err(|_| Refusal::unauthenticated("a signature does not prove its key for this connection"))?;
        }
        request.keys.into_iter().for_each(|bound| self.bound.insert(bound.key));
        Ok(Done {})
    }
}
