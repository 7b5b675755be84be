//! Federation: what a homeserver has to do with others (`wire-spec/federation.md`). Whom it deals with at all, what it
//! learns of them, and how it reaches them; messages for their users wait in an outbox until they have them.

pub mod authorities;
pub mod foreign;
pub mod rules;

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    base::Domain,
    transport::{Connection, DialError},
};

pub use authorities::Authorities;
pub use foreign::Foreign;
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
