//! Isolation contexts: each has its own UDP socket, its own TLS sessions and its own QUIC address-validation tokens, so
//! that nothing below the requests lets a homeserver link two of them.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use quinn::TokenMemoryCache;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use tokio::{task::JoinSet, time::sleep};

use super::{
    Connection, DialError, Endpoint, Route, Settings, TlsError,
    tls::{self, Identity},
};
use crate::base::Domain;

/// Servers, and tokens for each, that a context remembers.
const TOKEN_SERVERS: u32 = 64;
const TOKENS_PER_SERVER: usize = 2;

/// So long an address may take before the next one is tried beside it (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(300);

/// A place to open connections from, which shares nothing with any other. Clones are handles to the same.
#[derive(Clone)]
pub struct Context {
    endpoint: Endpoint,
    tokens: Arc<TokenMemoryCache>,
    dialling: Arc<RwLock<Dialling>>,
}

/// With what a connection is dialled.
#[derive(Clone)]
pub(super) struct Dialling {
    pub(super) config: quinn::ClientConfig,
    /// The certificate that is shown, if one is: who shows the same is oneself.
    pub(super) own: Option<CertificateDer<'static>>,
}

impl Context {
    /// A client's context, on a socket of its own.
    ///
    /// # Errors
    /// [`DialError::Socket`] if there is none to be had.
    pub fn new(roots: Arc<RootCertStore>, settings: Settings) -> Result<Self, DialError> {
        let endpoint = Endpoint::any_port(settings).map_err(|error| DialError::Socket(error.to_string()))?;
        Self::on(endpoint, roots, None).map_err(|error| DialError::Socket(error.to_string()))
    }

    /// A context on an endpoint from outside, which no other context may have. A homeserver dials from its own and shows
    /// its `identity`.
    ///
    /// # Errors
    /// [`TlsError`] if the key is not that of the certificate.
    pub fn on(endpoint: Endpoint, roots: Arc<RootCertStore>, identity: Option<Identity>) -> Result<Self, TlsError> {
        let tokens = Arc::new(TokenMemoryCache::new(TOKEN_SERVERS, TOKENS_PER_SERVER));
        let dialling = Dialling::new(&endpoint, &tokens, roots, identity)?;
        Ok(Self { endpoint, tokens, dialling: Arc::new(RwLock::new(dialling)) })
    }

    /// From now on another identity is shown and other authorities are trusted. Connections that are open stay; TLS sessions
    /// are not resumed, because they would bring the identity of before.
    ///
    /// # Errors
    /// [`TlsError`] if the key is not that of the certificate; then nothing has changed.
    pub fn renew(&self, roots: Arc<RootCertStore>, identity: Option<Identity>) -> Result<(), TlsError> {
        let dialling = Dialling::new(&self.endpoint, &self.tokens, roots, identity)?;
        *self.dialling.write().unwrap_or_else(PoisonError::into_inner) = dialling;
        Ok(())
    }

    /// The address of the context's socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Connects to the homeserver of `domain` at the first address of `route` where it answers. The next address is tried
    /// when one has failed, or beside it when it takes `STAGGER` (RFC 8305 section 5). Whatever the route, the
    /// certificate must be for `domain`, and not the one that is shown here.
    ///
    /// # Errors
    /// [`DialError::Own`] or [`DialError::Certificate`] if that was so at any address, else why the last one failed.
    pub async fn connect(&self, domain: &Domain, route: &Route) -> Result<Connection, DialError> {
        let dialling = self.dialling.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut untried = route.addresses.iter().copied();
        let mut attempts = JoinSet::new();
        let mut failure = DialError::NoAddress(domain.to_string());
        loop {
            if let Some(address) = untried.next() {
                let (endpoint, dialling, domain) = (self.endpoint.clone(), dialling.clone(), domain.clone());
                attempts.spawn(async move { endpoint.dial(dialling, address, &domain).await });
            }
            let ended = tokio::select! {
                ended = attempts.join_next() => ended,
                () = sleep(STAGGER), if untried.len() > 0 => continue,
            };
            match ended {
                None => return Err(failure),
                Some(Ok(Ok(connection))) => return Ok(connection),
                Some(Ok(Err(error))) if !failure.is_about_identity() => failure = error,
                // Told already what is worth more; and nothing in a task panics, nor is it aborted before this returns.
                Some(Ok(Err(_)) | Err(_)) => {}
            }
        }
    }

    /// Whether no connection of its endpoint is open.
    pub fn is_idle(&self) -> bool {
        self.endpoint.is_idle()
    }

    /// Closes all connections of the endpoint, those that it accepted included, and returns when their peers know.
    pub async fn close(&self) {
        self.endpoint.close().await;
    }
}

impl Dialling {
    fn new(
        endpoint: &Endpoint,
        tokens: &Arc<TokenMemoryCache>,
        roots: Arc<RootCertStore>,
        identity: Option<Identity>,
    ) -> Result<Self, TlsError> {
        let own = identity.as_ref().and_then(Identity::leaf).cloned();
        let mut crypto = tls::client_config(roots, identity)?;
        crypto.time_provider = Arc::new(tls::Time(endpoint.clock().clone()));
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(crypto).map_err(|e| TlsError(e.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(endpoint.settings().dialling())).token_store(tokens.clone());
        Ok(Self { config, own })
    }
}
