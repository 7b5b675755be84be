//! Bare quinn: a stream carries a request and an answer, and makes a frame go out on another one, whose reader acknowledges it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bennu::base::hex;
use quinn::{
    ClientConfig, Connection, Endpoint, RecvStream, SendStream, ServerConfig, TransportConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::sync::Mutex as AsyncMutex;

use crate::{Work, process::Process, run};

const ALPN: &[u8] = b"echo";

/// The first octets of a stream whose reader listens.
const LISTEN: u32 = u32::MAX;

/// Octets of each part of a message.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub request: usize,
    pub response: usize,
    /// To who listens; none if nobody does.
    pub frame: usize,
    pub acknowledgement: usize,
}

/// Where frames go, by the number of who listens.
type Listeners = Arc<Mutex<HashMap<u32, Arc<AsyncMutex<SendStream>>>>>;

/// Answers until it is killed.
pub async fn serve() {
    let issued = rcgen::generate_simple_self_signed(["echo.test".to_owned()]).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der());
    let certificate = issued.cert.der().clone();
    let mut tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .expect("the key is the certificate's");
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).expect("TLS 1.3")));
    let endpoint = Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0))).expect("a socket");
    println!("ready on {} {}", endpoint.local_addr().expect("bound"), hex::encode(&certificate));
    let listeners = Listeners::default();
    while let Some(incoming) = endpoint.accept().await {
        let listeners = listeners.clone();
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            while let Ok((sender, receiver)) = connection.accept_bi().await {
                tokio::spawn(exchange(sender, receiver, listeners.clone()));
            }
        });
    }
}

async fn exchange(mut sender: SendStream, mut receiver: RecvStream, listeners: Listeners) {
    let mut head = [0; 16];
    if receiver.read_exact(&mut head).await.is_err() {
        return;
    }
    let [kind, of, response, frame] = words(&head);
    if kind == LISTEN {
        let sender = Arc::new(AsyncMutex::new(sender));
        listeners.lock().expect("nothing panics").insert(of, sender);
        // Acknowledgements, until it ends.
        while let Ok(Some(_)) = receiver.read_chunk(usize::MAX, true).await {}
        return;
    }
    if receiver.read_to_end(16 << 20).await.is_err() {
        return;
    }
    let answered = async {
        sender.write_all(&vec![7; response as usize]).await.ok()?;
        sender.finish().ok()
    };
    answered.await;
    if frame > 0 {
        let listener = listeners.lock().expect("nothing panics").get(&of).cloned();
        if let Some(listener) = listener {
            let _ = listener.lock().await.write_all(&vec![7; frame as usize]).await;
        }
    }
}

fn words(octets: &[u8; 16]) -> [u32; 4] {
    [0, 4, 8, 12].map(|at| u32::from_be_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]))
}

fn head(words: [u32; 4]) -> [u8; 16] {
    let mut head = [0; 16];
    for (to, word) in head.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_be_bytes());
    }
    head
}

/// What bare QUIC needs for a message.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    /// Processor time of whoever answers.
    pub cpu: Duration,
    /// In a second.
    pub messages: f64,
    /// From when it is sent until answer and frame are there.
    pub median: Duration,
}

/// Bare QUIC with so many connections, each with one message under way at a time.
pub async fn measure(connections: usize, sizes: Sizes, time: Duration) -> Floor {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let process = Process::start(command.args(["floor", "echo"]));
    let certificate = hex::decode(process.ready.last().expect("it printed it")).expect("hexadecimal");
    let endpoint = client(CertificateDer::from(certificate));
    let mut pairs = Vec::new();
    for number in 0..connections {
        pairs.push(Pair::connect(&endpoint, process.address(), number as u32, sizes).await);
    }
    let warm = Instant::now() + time / 4;
    let pairs = run(pairs, warm).await.0;
    let (before, started) = (process.cpu(), Instant::now());
    let (_, mut times) = run(pairs, started + time).await;
    let (cpu, elapsed) = (process.cpu() - before, started.elapsed());
    times.sort_unstable();
    let count = times.len() as f64;
    Floor { cpu: cpu.div_f64(count), messages: count / elapsed.as_secs_f64(), median: times[times.len() / 2] }
}

/// Megabytes in a second that come on one connection, a long answer after the other.
pub async fn bulk(octets: usize) -> f64 {
    const ANSWER: usize = 8 << 20;
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let process = Process::start(command.args(["floor", "echo"]));
    let certificate = hex::decode(process.ready.last().expect("it printed it")).expect("hexadecimal");
    let endpoint = client(CertificateDer::from(certificate));
    let sizes = Sizes { request: 16, response: ANSWER, frame: 0, acknowledgement: 0 };
    let mut pair = Pair::connect(&endpoint, process.address(), 0, sizes).await;
    pair.once().await;
    let (started, answers) = (Instant::now(), octets.div_ceil(ANSWER));
    for _ in 0..answers {
        pair.once().await;
    }
    (answers * ANSWER) as f64 / started.elapsed().as_secs_f64() / 1e6
}

fn client(certificate: CertificateDer<'static>) -> Endpoint {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let mut tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("TLS 1.3")));
    config.transport_config(Arc::new(TransportConfig::default()));
    let mut endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a socket");
    endpoint.set_default_client_config(config);
    endpoint
}

/// Who sends, and who listens, over a connection each.
struct Pair {
    sends: Connection,
    listens: Option<(Connection, SendStream, RecvStream)>,
    number: u32,
    sizes: Sizes,
}

impl Pair {
    async fn connect(endpoint: &Endpoint, address: SocketAddr, number: u32, sizes: Sizes) -> Self {
        let connect = async || endpoint.connect(address, "echo.test").expect("a name").await.expect("it answers");
        let listens = if sizes.frame > 0 {
            let connection = connect().await;
            let (mut sender, receiver) = connection.open_bi().await.expect("a stream");
            sender.write_all(&head([LISTEN, number, 0, 0])).await.expect("it reads");
            Some((connection, sender, receiver))
        } else {
            None
        };
        Self { sends: connect().await, listens, number, sizes }
    }
}

#[async_trait]
impl Work for Pair {
    /// From when a message is sent until answer and frame are there.
    type Outcome = Duration;

    async fn once(&mut self) -> Duration {
        let started = Instant::now();
        let Sizes { request, response, frame, acknowledgement } = self.sizes;
        let mut octets = vec![7; request];
        octets[..16].copy_from_slice(&head([0, self.number, response as u32, frame as u32]));
        let (mut sender, mut receiver) = self.sends.open_bi().await.expect("a stream");
        let asks = async {
            sender.write_all(&octets).await.expect("it reads");
            sender.finish().expect("it is open");
            receiver.read_to_end(16 << 20).await.expect("it answers");
        };
        let hears = async {
            if let Some((_, sender, receiver)) = &mut self.listens {
                receiver.read_exact(&mut vec![0; frame]).await.expect("it sends");
                sender.write_all(&vec![7; acknowledgement]).await.expect("it reads");
            }
        };
        tokio::join!(asks, hears);
        started.elapsed()
    }
}
