//! Tests of the transport over real QUIC on loopback and over memory, with one handler that echoes.

mod exchanges;
mod limits;
pub mod recording;
mod renewal;
mod security;
mod sequences;
mod shutdown;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use rustls::RootCertStore;
use tokio::sync::{Semaphore, mpsc};

use super::{
    Code, Connection, Context, Endpoint, Frames, Handler, MethodRules, PeerInfo, Reply, Route, Settings, StreamError,
    Streaming, codes, memory, tls,
};
use crate::base::SystemClock;

/// Answers with the request itself.
const ECHO: u16 = 1;
/// As [`ECHO`], once the test lets it.
const STALL: u16 = 2;
/// A version that is not taken.
const UNSUPPORTED: u16 = 0xfffe;
/// Echoes frames.
const STREAM: u16 = 3;
/// Ends with a code after the first frame.
const REPLACED: u16 = 4;
/// Answers with the peer's binding and domains.
const WHO: u16 = 5;
/// Refuses, although it could stream.
const REFUSE: u16 = 6;
/// Answers with [`LARGE_RESPONSE`] bytes.
const LARGE: u16 = 7;
/// Panics.
const PANIC: u16 = 8;

const MAX_REQUEST: usize = 64 << 10;
const LARGE_RESPONSE: usize = 8 << 20;
const MAX_RESPONSE: usize = 16 << 20;

struct Echo {
    /// Permits let stalled requests go on.
    release: Arc<Semaphore>,
    started: mpsc::UnboundedSender<u64>,
    active: AtomicUsize,
    /// How streaming exchanges ended, as the service saw it.
    ended: mpsc::UnboundedSender<Result<(), StreamError>>,
}

#[async_trait]
impl Handler for Echo {
    type Session = PeerInfo;

    fn rules(&self, method: u16) -> MethodRules {
        MethodRules { max_request: MAX_REQUEST, streaming: matches!(method, STREAM | REPLACED | REFUSE) }
    }

    fn open(&self, peer: PeerInfo) -> Arc<PeerInfo> {
        Arc::new(peer)
    }

    fn unsupported(&self, version: u16) -> Option<Bytes> {
        (version == UNSUPPORTED).then(|| "unsupported".into())
    }

    fn too_large(&self, method: u16, limit: usize) -> Bytes {
        format!("too large for {method}: {limit}").into()
    }

    fn backlog(&self) -> Duration {
        Duration::ZERO
    }

    fn overloaded(&self) -> Bytes {
        "overloaded".into()
    }

    fn malformed(&self) -> Bytes {
        "malformed".into()
    }

    async fn exchange(&self, session: &Arc<PeerInfo>, stream: u64, request: Bytes) -> Reply {
        match u16::from_be_bytes([request[2], request[3]]) {
            STALL => {
                self.active.fetch_add(1, Ordering::SeqCst);
                self.started.send(stream).unwrap();
                self.release.acquire().await.unwrap().forget();
                self.active.fetch_sub(1, Ordering::SeqCst);
                Reply::Once(request)
            }
            STREAM => Reply::Stream("yes".into(), Box::new(EchoFrames { only_one: false, ended: self.ended.clone() })),
            REPLACED => Reply::Stream("yes".into(), Box::new(EchoFrames { only_one: true, ended: self.ended.clone() })),
            WHO => {
                let mut answer = session.binding.to_vec();
                for domain in &session.domains {
                    answer.extend_from_slice(domain.as_str().as_bytes());
                    answer.push(b' ');
                }
                Reply::Once(answer.into())
            }
            REFUSE => Reply::Once("no".into()),
            PANIC => panic!("as the test wants"),
            LARGE => Reply::Once(vec![7; LARGE_RESPONSE].into()),
            _ => Reply::Once(request),
        }
    }
}

struct EchoFrames {
    only_one: bool,
    ended: mpsc::UnboundedSender<Result<(), StreamError>>,
}

#[async_trait]
impl Streaming for EchoFrames {
    async fn run(self: Box<Self>, frames: &mut dyn Frames) -> Code {
        let (end, code) = loop {
            match frames.next().await {
                Ok(Some(frame)) => frames.send(frame).await.unwrap(),
                Ok(None) => break (Ok(()), codes::DONE),
                Err(StreamError::ShuttingDown) => break (Err(StreamError::ShuttingDown), codes::SHUTTING_DOWN),
                Err(error) => break (Err(error), codes::MALFORMED),
            }
            if self.only_one {
                break (Ok(()), codes::REPLACED_BY_NEWER_LISTEN);
            }
        };
        let _ = self.ended.send(end);
        code
    }
}

/// An encoded "request" of a method.
fn request(method: u16, body: &[u8]) -> Bytes {
    [&1u16.to_be_bytes()[..], &method.to_be_bytes(), body].concat().into()
}

async fn call(connection: &Connection, request: Bytes) -> Result<Bytes, StreamError> {
    connection.open().await?.request(request, MAX_RESPONSE).await
}

/// A handler with what a test needs to steer it.
struct Steered {
    handler: Arc<Echo>,
    release: Arc<Semaphore>,
    started: mpsc::UnboundedReceiver<u64>,
    ended: mpsc::UnboundedReceiver<Result<(), StreamError>>,
}

fn steered() -> Steered {
    let release = Arc::new(Semaphore::new(0));
    let (started_sender, started) = mpsc::unbounded_channel();
    let (ended_sender, ended) = mpsc::unbounded_channel();
    let active = AtomicUsize::new(0);
    let handler = Echo { release: release.clone(), started: started_sender, active, ended: ended_sender };
    Steered { handler: Arc::new(handler), release, started, ended }
}

/// An authority's trust and an identity for `domain` under it.
pub fn certificates_for(domain: &str) -> (Arc<RootCertStore>, tls::Identity) {
    let made = crate::node::certificates::generate(&domain.parse().unwrap(), SystemTime::now()).unwrap();
    let roots = tls::roots(&tls::certificates(made.authority.as_bytes()).unwrap()).unwrap();
    let identity = tls::Identity::from_pem(made.server_chain.as_bytes(), made.server_key.as_bytes()).unwrap();
    (roots, identity)
}

const YEAR: Duration = Duration::from_secs(366 * 86_400);

/// An authority's trust and an identity under it, for several names and until a time.
fn certificate(names: &[&str], until: SystemTime) -> (Arc<RootCertStore>, tls::Identity) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut authority = CertificateParams::new(vec![]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut leaf = CertificateParams::new(names).unwrap();
    leaf.not_after = until.into();
    let leaf = leaf.signed_by(&key, &authority).unwrap();
    let roots = tls::roots(&tls::certificates(authority.pem().as_bytes()).unwrap()).unwrap();
    (roots, tls::Identity::from_pem(leaf.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap())
}

/// Who checks connecting homeservers.
fn peers(roots: Arc<RootCertStore>) -> Arc<tls::PeerVerifier> {
    Arc::new(tls::PeerVerifier::new(roots, Arc::new(SystemClock)))
}

fn loopback() -> std::net::SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// A homeserver for `a.test` on loopback that trusts `peers`.
struct Server {
    endpoint: Endpoint,
    roots: Arc<RootCertStore>,
    route: Route,
    steered: Steered,
}

/// A homeserver on loopback that shows `identity` and trusts `peers`. It echoes.
pub fn serving(identity: tls::Identity, peers: Arc<RootCertStore>) -> Endpoint {
    let endpoint = Endpoint::bind(loopback(), Settings::default()).unwrap();
    tokio::spawn(endpoint.serve(identity, peers, steered().handler).unwrap());
    endpoint
}

fn server(settings: Settings, peers: Option<Arc<RootCertStore>>) -> Server {
    let steered = steered();
    let (roots, identity) = certificates_for("a.test");
    let endpoint = Endpoint::bind(loopback(), settings).unwrap();
    let serve = endpoint.serve(identity, peers.unwrap_or(roots.clone()), steered.handler.clone()).unwrap();
    tokio::spawn(serve);
    let route = Route::from(endpoint.local_addr().unwrap());
    Server { endpoint, roots, route, steered }
}

impl Server {
    fn context(&self) -> Context {
        Context::new(self.roots.clone(), Settings::default()).unwrap()
    }

    async fn connect(&self) -> Connection {
        self.context().connect(&"a.test".parse().unwrap(), &self.route).await.unwrap()
    }
}

enum Host {
    Quic(Box<Endpoint>),
    Memory(memory::Host<Echo>),
}

impl Host {
    async fn shutdown(&self) {
        match self {
            Self::Quic(endpoint) => endpoint.shutdown().await,
            Self::Memory(host) => host.shutdown().await,
        }
    }
}

/// A connection with a handler at its end, over QUIC or memory.
struct Pair {
    connection: Connection,
    host: Host,
    steered: Steered,
}

async fn quic(settings: Settings) -> Pair {
    let server = server(settings, None);
    let connection = server.connect().await;
    Pair { connection, host: Host::Quic(Box::new(server.endpoint)), steered: server.steered }
}

async fn in_memory(settings: Settings) -> Pair {
    let steered = steered();
    let host = memory::Host::new(steered.handler.clone(), settings);
    Pair { connection: host.connect(), host: Host::Memory(host), steered }
}

/// Makes of each test two, one over QUIC and one over memory.
macro_rules! over_both {
    ($($(#[$meta:meta])* async fn $name:ident($pair:pat = $settings:expr) $body:block)*) => {
        $(async fn $name($pair: $crate::transport::tests::Pair) $body)*
        mod quic {
            #[allow(unused_imports)]
            use super::*;
            $(#[tokio::test] async fn $name() { super::$name(super::super::quic($settings).await).await })*
        }
        mod memory {
            #[allow(unused_imports)]
            use super::*;
            $(#[tokio::test] async fn $name() { super::$name(super::super::in_memory($settings).await).await })*
        }
    };
}
use over_both;
