//! A server that writes down what clients could be recognised by before they say anything: the TLS session tickets and
//! the address-validation tokens that it gives out, and those that it is shown.

use std::{
    collections::HashSet,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use quinn_proto::crypto::{AeadKey, CryptoError, HandshakeTokenKey};
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions};

use super::super::{Settings, TlsError, tls};

/// What a server can tell clients by. No two are alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// A TLS session ticket.
    Ticket(Vec<u8>),
    /// An address-validation token, by its nonce.
    Token(Vec<u8>),
}

/// What a server has given out and was shown.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    /// Given to clients.
    pub issued: HashSet<Mark>,
    /// Shown by clients, whether or not the server takes it.
    pub presented: HashSet<Mark>,
}

#[derive(Debug, Default)]
struct Book(Mutex<Marks>);

impl Book {
    fn issued(&self, mark: Mark) {
        self.0.lock().unwrap().issued.insert(mark);
    }

    fn presented(&self, mark: Mark) {
        self.0.lock().unwrap().presented.insert(mark);
    }
}

#[derive(Debug)]
struct Sessions {
    book: Arc<Book>,
    inner: Arc<ServerSessionMemoryCache>,
}

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.book.issued(Mark::Ticket(key.clone()));
        self.inner.put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.book.presented(Mark::Ticket(key.to_vec()));
        self.inner.get(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.book.presented(Mark::Ticket(key.to_vec()));
        self.inner.take(key)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// Seals and opens tokens; a nonce is all that a token has in the clear.
struct TokenKey {
    book: Arc<Book>,
    inner: aws_lc_rs::hkdf::Prk,
}

struct OneTokenKey {
    book: Arc<Book>,
    nonce: Vec<u8>,
    inner: Box<dyn AeadKey>,
}

impl HandshakeTokenKey for TokenKey {
    fn aead_from_hkdf(&self, nonce: &[u8]) -> Box<dyn AeadKey> {
        let inner = HandshakeTokenKey::aead_from_hkdf(&self.inner, nonce);
        Box::new(OneTokenKey { book: self.book.clone(), nonce: nonce.to_vec(), inner })
    }
}

impl AeadKey for OneTokenKey {
    fn seal(&self, data: &mut Vec<u8>, additional: &[u8]) -> Result<(), CryptoError> {
        self.book.issued(Mark::Token(self.nonce.clone()));
        self.inner.seal(data, additional)
    }

    fn open<'a>(&self, data: &'a mut [u8], additional: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        self.book.presented(Mark::Token(self.nonce.clone()));
        self.inner.open(data, additional)
    }
}

/// A server on loopback, configured as a homeserver's endpoint is, that answers every request with the same.
pub struct Recording {
    quic: quinn::Endpoint,
    book: Arc<Book>,
}

impl Recording {
    /// Starts.
    pub fn start(identity: tls::Identity) -> Result<Self, TlsError> {
        let book = Arc::new(Book::default());
        let mut crypto = tls::server_config(identity, super::peers(tls::roots(&[])?))?;
        crypto.session_storage = Arc::new(Sessions { book: book.clone(), inner: ServerSessionMemoryCache::new(1_024) });
        let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(crypto).unwrap();
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let key = aws_lc_rs::hkdf::Salt::new(aws_lc_rs::hkdf::HKDF_SHA256, &[]).extract(&[7; 64]);
        config
            .transport_config(Arc::new(Settings::default().accepting()))
            .token_key(Arc::new(TokenKey { book: book.clone(), inner: key }));
        let quic = quinn::Endpoint::server(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        tokio::spawn(accept(quic.clone()));
        Ok(Self { quic, book })
    }

    /// Where it is.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.quic.local_addr()
    }

    /// What there was since this was asked last.
    pub fn marks(&self) -> Marks {
        std::mem::take(&mut *self.book.0.lock().unwrap())
    }
}

async fn accept(quic: quinn::Endpoint) {
    while let Some(incoming) = quic.accept().await {
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            while let Ok((mut sender, mut receiver)) = connection.accept_bi().await {
                let request = receiver.read_to_end(1_024).await.unwrap();
                sender.write_all(&request).await.unwrap();
                sender.finish().unwrap();
            }
        });
    }
}
