//! Isolation contexts: each has its own UDP socket, its own TLS sessions and its own QUIC address-validation tokens, so
//! that nothing below the requests lets a homeserver link two of them.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use quinn::TokenMemoryCache;
use rustls::RootCertStore;
use tokio::{task::JoinSet, time::sleep};

use super::{
    Connection, DialError, Endpoint, Route, Settings, TlsError,
    tls::{self, Identity},
};
use crate::base::Domain;

/// Servers, and tokens for each, that a context remembers.
const TOKEN_SERVERS: u32 = 64;
const TOKENS_PER_SERVER: usize = 2;

/// So long an address may take before the next one is tried beside it.
const STAGGER: Duration = Duration::from_millis(300);

/// A place to open connections from, which shares nothing with any other. Clones are handles to the same.
#[derive(Clone)]
pub struct Context {
    endpoint: Endpoint,
    config: quinn::ClientConfig,
}

impl Context {
    /// A client's context, on a socket of its own.
    pub fn new(roots: Arc<RootCertStore>, settings: Settings) -> Result<Self, DialError> {
        let endpoint = Endpoint::any_port(settings).map_err(|error| DialError::Socket(error.to_string()))?;
        Self::on(endpoint, roots, None).map_err(|error| DialError::Socket(error.to_string()))
    }

    /// A context on an endpoint from outside, which no other context may have. A homeserver dials from its own and shows
    /// its `identity`.
    pub fn on(endpoint: Endpoint, roots: Arc<RootCertStore>, identity: Option<Identity>) -> Result<Self, TlsError> {
        let crypto = tls::client_config(roots, identity)?;
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(crypto).map_err(|e| TlsError(e.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config
            .transport_config(Arc::new(endpoint.settings().dialling()))
            .token_store(Arc::new(TokenMemoryCache::new(TOKEN_SERVERS, TOKENS_PER_SERVER)));
        Ok(Self { endpoint, config })
    }

    /// The address of the context's socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Connects to the homeserver of `domain` at the first address of `route` where it answers. Whatever the route, the
    /// certificate must be for `domain`.
    pub async fn connect(&self, domain: &Domain, route: &Route) -> Result<Connection, DialError> {
        let mut attempts = JoinSet::new();
        for (address, delay) in
            route.addresses.iter().copied().zip(std::iter::successors(Some(Duration::ZERO), |d| Some(*d + STAGGER)))
        {
            let (endpoint, config, domain) = (self.endpoint.clone(), self.config.clone(), domain.clone());
            attempts.spawn(async move {
                sleep(delay).await;
                endpoint.dial(config, address, &domain).await
            });
        }
        let mut failure = DialError::NoAddress(domain.to_string());
        while let Some(attempt) = attempts.join_next().await {
            match attempt {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => failure = error,
                // Nothing in the task panics, and nobody aborts it before this returns.
                Err(_) => {}
            }
        }
        Err(failure)
    }

    /// Closes all connections of the endpoint, those that it accepted included, and returns when their peers know.
    pub async fn close(&self) {
        self.endpoint.close().await;
    }
}
