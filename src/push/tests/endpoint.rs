//! A push service on this machine: HTTPS on a port of its own, with whatever answer a test wants.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustls::{RootCertStore, ServerConfig, crypto::aws_lc_rs};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;
use web_push_native::{Auth, p256};

use crate::{
    base::Secret,
    crypto::{random, system_rng},
    wire::queuing::{PushToken, WebPushSubscription},
};

/// What an endpoint does with a request.
#[derive(Clone)]
pub enum Answer {
    /// Sends these bytes, and lets the caller close.
    Bytes(Vec<u8>),
    /// Sends nothing.
    Nothing,
}

/// An answer with a status line, headers and no content.
pub fn status(line: &str) -> Answer {
    Answer::Bytes(format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n").into_bytes())
}

/// A request as it came.
pub struct Received {
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        let found: Vec<_> = self.headers.iter().filter(|(other, _)| other == name).collect();
        assert_eq!(found.len(), 1, "{name} in {:?}", self.headers);
        &found[0].1
    }
}

/// The push service.
pub struct Endpoint {
    address: SocketAddr,
    /// Who has signed its certificate.
    pub roots: Arc<RootCertStore>,
    /// Its certificate (PEM), which it has signed itself.
    pub certificate: String,
    pub received: mpsc::UnboundedReceiver<Received>,
    connections: Arc<AtomicUsize>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Endpoint {
    /// Answers the first requests with these answers, and all others with the last.
    pub async fn start(answers: Vec<Answer>) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, received) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let serving = tokio::spawn({
            let connections = connections.clone();
            async move {
                let mut tasks = tokio::task::JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let number = connections.fetch_add(1, Ordering::SeqCst);
                    let answer = answers[number.min(answers.len() - 1)].clone();
                    tasks.spawn(serve(acceptor.clone(), stream, answer, sender.clone()));
                }
            }
        });
        Self { address, roots: Arc::new(roots), certificate: made.cert.pem(), received, connections, serving }
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    pub fn origin(&self) -> String {
        self.url("")
    }

    /// Connections that came.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, answer: Answer, received: mpsc::UnboundedSender<Received>) {
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().split("\r\n").map(str::to_owned);
    let line = lines.next().unwrap();
    let header = |line: String| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let headers = lines.map(|line| header(line).unwrap()).collect();
    let mut request = Received { line, headers, body: Vec::new() };
    request.body.resize(request.header("content-length").parse().unwrap(), 0);
    stream.read_exact(&mut request.body).await.unwrap();
    let _ = received.send(request);
    if let Answer::Bytes(bytes) = answer {
        let _ = stream.write_all(&bytes).await;
    }
    // Until the caller closes.
    let _ = stream.read(&mut [0]).await;
}

/// A device that has subscribed somewhere.
pub struct Subscriber {
    pub key: p256::SecretKey,
    pub auth: [u8; 16],
}

impl Subscriber {
    pub fn new() -> Self {
        Self { key: p256::SecretKey::random(&mut system_rng()), auth: random(&mut system_rng()) }
    }

    pub fn token(&self, endpoint: &str) -> PushToken {
        use p256::elliptic_curve::sec1::ToEncodedPoint as _;
        let point = self.key.public_key().to_encoded_point(false);
        PushToken::WebPush(WebPushSubscription {
            endpoint: endpoint.as_bytes().into(),
            public_key: point.as_bytes().try_into().unwrap(),
            auth: Secret::new(self.auth),
        })
    }

    /// What is in a push.
    pub fn open(&self, body: &[u8]) -> Vec<u8> {
        web_push_native::decrypt(body.to_vec(), &self.key, &Auth::from(self.auth)).unwrap()
    }
}
