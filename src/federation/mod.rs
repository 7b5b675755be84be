//! Federation: what a homeserver has to do with others (`wire-spec/federation.md`). Whom it deals with at all, what it
//! learns of them, and how it reaches them; messages for their users wait in an outbox until they have them.

pub mod authorities;
pub mod foreign;
pub mod known;
pub mod outbox;
pub mod peers;
pub mod rules;
mod shares;
mod window;

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    base::{Domain, limits::MAX_RESPONSE},
    transport::{Connection, DialError},
    wire::{Authentication, Call, Decode, Encode, Request, Response, VERSION},
};

pub use authorities::Authorities;
pub use foreign::Foreign;
pub use known::Known;
pub use outbox::Outbox;
pub use peers::Peers;
pub use rules::{Mode, Rule, Rules};

/// Reaches other homeservers, and shows them which one this is: over QUIC, or over whatever a test wants.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// A new connection to the homeserver of `domain`, which has proven that it is.
    ///
    /// # Errors
    /// [`DialError`] says why there is none.
    async fn dial(&self, domain: &Domain) -> Result<Connection, DialError>;
}

/// The ways of a homeserver to others.
#[derive(Clone)]
pub struct Federation {
    /// How others are reached.
    pub dial: Arc<dyn Dial>,
    /// With whom it deals.
    pub rules: Arc<Rules>,
}

impl Federation {
    /// Of a homeserver that deals with no other.
    pub fn none() -> Self {
        Self { dial: Arc::new(Nobody), rules: Arc::new(Rules::new(Mode::Allowlist)) }
    }
}

/// Reaches nobody.
struct Nobody;

#[async_trait]
impl Dial for Nobody {
    async fn dial(&self, domain: &Domain) -> Result<Connection, DialError> {
        Err(DialError::NoAddress(domain.to_string()))
    }
}

/// Asks a homeserver something that needs no proof; why there is no answer that can be used.
async fn ask<C: Call>(connection: &Connection, question: &C::Request) -> Result<C::Response, String> {
    let exchange = connection.open().await.map_err(|error| error.to_string())?;
    let answer = exchange.request(request::<C>(Vec::new(), question), MAX_RESPONSE).await;
    accepted(answer.map_err(|error| error.to_string())?)
}

fn request<C: Call>(auth: Vec<Authentication>, request: &C::Request) -> bytes::Bytes {
    let body = request.to_vec().into();
    Request { version: VERSION, method: C::METHOD as u16, auth, token: None, body }.to_vec().into()
}

fn accepted<T: Decode>(answer: bytes::Bytes) -> Result<T, String> {
    let response = Response::from_bytes(answer).map_err(|error| error.to_string())?;
    let body = response.into_result().map_err(|refusal| refusal.to_string())?;
    T::from_bytes(body).map_err(|error| error.to_string())
}
