//! A UDP socket that serves connections, opens them, or both. Socket and quinn runtime come from outside, so that a
//! whole federation can run on simulated ones. Handshakes and connections are bounded here; under load, peers first have
//! to prove that they own the address they send from.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use quinn::{AsyncUdpSocket, Incoming, Runtime};
use rustls::RootCertStore;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};

use super::{
    Closed, Code, Connection, DialError, Handler, PeerInfo, Settings, TlsError, codes, connection,
    context::Dialling,
    counts::{Counted, Counts},
    exchange::Shared,
    pipe::Link,
    tls::{self, Identity, PeerVerifier},
};
use crate::base::{Clock, Domain, SystemClock};

/// A UDP socket with QUIC on it. Clones are handles to the same.
#[derive(Clone)]
pub struct Endpoint {
    quic: quinn::Endpoint,
    settings: Settings,
    draining: Arc<watch::Sender<bool>>,
    /// Who checks connecting homeservers, once it serves.
    verifier: Arc<watch::Sender<Option<Arc<PeerVerifier>>>>,
    clock: Arc<dyn Clock>,
    /// One permit per accepted connection.
    connections: Arc<Semaphore>,
    counts: Arc<Counts>,
    /// Whether new connections are refused.
    closed: Arc<AtomicBool>,
}

impl Endpoint {
    /// On the operating system's socket and tokio's runtime.
    pub fn bind(address: SocketAddr, settings: Settings) -> io::Result<Self> {
        let runtime = Arc::new(quinn::TokioRuntime);
        let socket = std::net::UdpSocket::bind(address)?;
        // As much as the system allows: bursts that find no room are lost, and sent again.
        let socket = runtime.wrap_udp_socket(widen(socket))?;
        Self::new(socket, runtime, settings)
    }

    /// On a socket and a runtime from outside.
    pub fn new(socket: Arc<dyn AsyncUdpSocket>, runtime: Arc<dyn Runtime>, settings: Settings) -> io::Result<Self> {
        let quic = quinn::Endpoint::new_with_abstract_socket(settings.endpoint(), None, socket, runtime)?;
        Ok(Self::from_quic(quic, settings))
    }

    /// For dialling only, on a port of its own of every address family there is.
    pub(super) fn any_port(settings: Settings) -> io::Result<Self> {
        let unspecified = |v6| {
            if v6 { SocketAddr::from(([0u16; 8], 0)) } else { SocketAddr::from(([0u8; 4], 0)) }
        };
        let quic =
            quinn::Endpoint::client(unspecified(true)).or_else(|_| quinn::Endpoint::client(unspecified(false)))?;
        Ok(Self::from_quic(quic, settings))
    }

    fn from_quic(quic: quinn::Endpoint, settings: Settings) -> Self {
        let connections = Arc::new(Semaphore::new(settings.max_connections as usize));
        Self {
            quic,
            settings,
            draining: Arc::new(watch::Sender::new(false)),
            verifier: Arc::default(),
            clock: Arc::new(SystemClock),
            connections,
            counts: Arc::default(),
            closed: Arc::default(),
        }
    }

    /// Certificates are valid or not by this clock, in what is served and dialled from now on; else by the system's.
    #[must_use]
    pub fn on_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The address that the socket is bound to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.quic.local_addr()
    }

    /// Whether connections that others open are refused from now on. Those that are open stay.
    pub fn set_closed(&self, closed: bool) {
        self.closed.store(closed, Ordering::Relaxed);
    }

    /// What it has done as one that serves.
    pub fn counted(&self) -> Counted {
        let open = self.settings.max_connections as usize - self.connections.available_permits();
        self.counts.read(open as u64)
    }

    /// Whether no connection is open.
    pub fn is_idle(&self) -> bool {
        self.quic.open_connections() == 0
    }

    /// The limits and deadlines it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Accepts connections as `identity`, and has `handler` answer their requests. Connecting homeservers are checked
    /// against `roots`. The returned future runs until [`Self::shutdown`]; connections that it accepted run on in
    /// tasks of their own.
    ///
    /// # Errors
    /// [`TlsError`] if the key is not that of the certificate.
    pub fn serve<H: Handler>(
        &self,
        identity: Identity,
        roots: Arc<RootCertStore>,
        handler: Arc<H>,
    ) -> Result<impl Future<Output = ()> + Send + use<H>, TlsError> {
        self.renew(identity, roots)?;
        let acceptor = Acceptor {
            shared: Arc::new(Shared::new(
                handler,
                self.settings.clone(),
                self.draining.subscribe(),
                self.counts.clone(),
            )),
            verifier: self.verifier.subscribe(),
            connections: self.connections.clone(),
            handshakes: Arc::new(Semaphore::new(self.settings.max_handshakes as usize)),
            closed: self.closed.clone(),
        };
        Ok(acceptor.run(self.quic.clone()))
    }

    /// Of one that serves: from the next handshake on another identity is shown, and connecting homeservers are checked against other
    /// `roots`. Connections that are open stay. Sessions of before are not resumed: who comes again proves its domain again.
    ///
    /// # Errors
    /// [`TlsError`] if the key is not that of the certificate; then nothing has changed.
    pub fn renew(&self, identity: Identity, roots: Arc<RootCertStore>) -> Result<(), TlsError> {
        let verifier = Arc::new(PeerVerifier::new(roots, self.clock.clone()));
        let crypto = tls::server_config(identity, verifier.clone())?;
        let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(crypto).map_err(|e| TlsError(e.to_string()))?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config
            .transport_config(Arc::new(self.settings.accepting()))
            .max_incoming(self.settings.max_handshakes as usize)
            // Before a connection is accepted there is no more than the rest of a ClientHello.
            .incoming_buffer_size(32 << 10)
            .incoming_buffer_size_total(u64::from(self.settings.max_handshakes) * (32 << 10));
        // First: a handshake that is judged by the new one although it began before is only judged more strictly.
        self.verifier.send_replace(Some(verifier));
        self.quic.set_server_config(Some(config));
        Ok(())
    }

    /// Stops accepting connections and streams, lets exchanges in flight finish within the time set for it, closes
    /// every connection with [`codes::SHUTDOWN`], and returns when the peers know.
    pub async fn shutdown(&self) {
        self.draining.send_replace(true);
        // Each connection bounds its own end; the permits come back when all have ended.
        let _ = self.connections.acquire_many(self.settings.max_connections).await;
        self.end(codes::SHUTDOWN).await;
    }

    /// Closes every connection at once, and returns when the peers know.
    pub(super) async fn close(&self) {
        self.end(codes::DONE).await;
    }

    async fn end(&self, code: Code) {
        self.quic.close(code.into(), code.name().as_bytes());
        let _ = timeout(self.settings.shutdown_grace, self.quic.wait_idle()).await;
    }

    /// Opens a connection to whoever can show a certificate for `domain` at `address`, and is not oneself.
    pub(super) async fn dial(
        &self,
        Dialling { config, own }: Dialling,
        address: SocketAddr,
        domain: &Domain,
    ) -> Result<Connection, DialError> {
        let connecting = self
            .quic
            .connect_with(config, address, domain.as_str())
            .map_err(|error| DialError::Socket(error.to_string()))?;
        let connection = timeout(self.settings.handshake_deadline, connecting)
            .await
            .map_err(|_| DialError::Deadline)?
            .map_err(DialError::from)?;
        let failed = |error: &dyn std::fmt::Display| DialError::Handshake(Closed::Failed(error.to_string()));
        let shown = tls::peer_chain(&connection).map_err(|error| failed(&error))?;
        if own.is_some() && shown.first() == own.as_ref() {
            connection.close(codes::DONE.into(), codes::DONE.name().as_bytes());
            return Err(DialError::Own(domain.to_string()));
        }
        let binding = tls::binding(&connection).map_err(|error| failed(&error))?;
        Ok(Connection::new(Link::Quic(connection), binding, &self.settings))
    }
}

/// Receive and send buffer that a socket on which a homeserver listens asks for, in bytes.
pub const SOCKET_BUFFER: usize = 4 << 20;

#[cfg(feature = "server")]
fn widen(socket: std::net::UdpSocket) -> std::net::UdpSocket {
    use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
    // What the system does not allow it makes smaller by itself.
    let _ = set_socket_recv_buffer_size(&socket, SOCKET_BUFFER);
    let _ = set_socket_send_buffer_size(&socket, SOCKET_BUFFER);
    socket
}

#[cfg(not(feature = "server"))]
fn widen(socket: std::net::UdpSocket) -> std::net::UdpSocket {
    socket
}

/// Takes in connections for one handler.
struct Acceptor<H> {
    shared: Arc<Shared<H>>,
    verifier: watch::Receiver<Option<Arc<PeerVerifier>>>,
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    closed: Arc<AtomicBool>,
}

impl<H: Handler> Acceptor<H> {
    async fn run(self, quic: quinn::Endpoint) {
        while let Some(incoming) = quic.accept().await {
            if *self.shared.draining.borrow() || self.closed.load(Ordering::Relaxed) {
                incoming.refuse();
                self.shared.counts.refused.add();
            } else if let Some((incoming, permits)) = self.admit(incoming) {
                let (shared, verifier) = (self.shared.clone(), self.verifier.clone());
                tokio::spawn(accept(shared, verifier, incoming, permits));
            }
        }
    }

    /// Holds an attempt against the limits.
    fn admit(&self, incoming: Incoming) -> Option<(Incoming, Permits)> {
        let Ok(handshake) = self.handshakes.clone().try_acquire_owned() else {
            // The peer sends its first packet again.
            incoming.ignore();
            self.shared.counts.ignored.add();
            return None;
        };
        let settings = &self.shared.settings;
        let under_way = settings.max_handshakes as usize - self.handshakes.available_permits();
        if under_way > settings.retry_handshakes as usize && !incoming.remote_address_validated() {
            // Cannot fail: an address that is not validated may be asked to retry.
            let _ = incoming.retry();
            self.shared.counts.retried.add();
            return None;
        }
        let Ok(connection) = self.connections.clone().try_acquire_owned() else {
            incoming.refuse();
            self.shared.counts.refused.add();
            return None;
        };
        Some((incoming, Permits { handshake, connection }))
    }
}

struct Permits {
    handshake: OwnedSemaphorePermit,
    connection: OwnedSemaphorePermit,
}

/// Completes a handshake and serves the connection to its end.
async fn accept<H: Handler>(
    shared: Arc<Shared<H>>,
    verifier: watch::Receiver<Option<Arc<PeerVerifier>>>,
    incoming: Incoming,
    permits: Permits,
) {
    let Permits { handshake, connection: _connection } = permits;
    let Ok(connecting) = incoming.accept() else { return shared.counts.failed.add() };
    let Ok(Ok(connection)) = timeout(shared.settings.handshake_deadline, connecting).await else {
        return shared.counts.failed.add();
    };
    drop(handshake);
    let remote = connection.remote_address();
    // The current one, which may be another than the handshake began with.
    let verifier = verifier.borrow().clone();
    let (domains, binding) = match (proven_domains(verifier.as_deref(), &connection), tls::binding(&connection)) {
        (Ok(domains), Ok(binding)) => (domains, binding),
        _ => {
            shared.counts.failed.add();
            return connection.close(codes::BAD_CERTIFICATE.into(), codes::BAD_CERTIFICATE.name().as_bytes());
        }
    };
    shared.counts.accepted.add();
    let session = shared.handler.open(PeerInfo { remote, binding, domains });
    connection::serve(shared, session, Link::Quic(connection)).await;
}

/// The domains that the peer's certificate proves now. A resumed session brings the certificate of the first, which TLS does
/// not check again: it may have expired since.
fn proven_domains(
    verifier: Option<&PeerVerifier>,
    connection: &quinn::Connection,
) -> Result<Vec<Domain>, rustls::Error> {
    let chain = tls::peer_chain(connection)?;
    match (chain.split_first(), verifier) {
        (Some((leaf, intermediates)), Some(verifier)) => verifier.domains_now(leaf, intermediates),
        (Some(_), None) => Err(rustls::Error::General("nobody is trusted yet".into())),
        (None, _) => Ok(Vec::new()),
    }
}
