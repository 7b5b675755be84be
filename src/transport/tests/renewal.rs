//! Certificates that are replaced or expire while connections and sessions go on.

use std::sync::atomic::AtomicU64;

use super::*;
use crate::{
    base::{Clock, Timestamp},
    transport::{Closed, DialError},
};

/// A clock that a test sets.
struct SetClock(AtomicU64);

impl SetClock {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(SystemClock.now().0)))
    }

    fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// `a.test`, which takes certificates by a clock of its own, and `b.test`, which dials it.
struct Peers {
    clock: Arc<SetClock>,
    a: Endpoint,
    a_roots: Arc<RootCertStore>,
    a_identity: tls::Identity,
    b: Context,
}

fn two(b_roots: &Arc<RootCertStore>, b_identity: &tls::Identity) -> Peers {
    let (a_roots, a_identity) = certificates_for("a.test");
    let clock = SetClock::new();
    let a = Endpoint::bind(loopback(), Settings::default()).unwrap().on_clock(clock.clone());
    tokio::spawn(a.serve(a_identity.clone(), b_roots.clone(), steered().handler).unwrap());
    let b = Endpoint::bind(loopback(), Settings::default()).unwrap();
    let b = Context::on(b, a_roots.clone(), Some(b_identity.clone())).unwrap();
    Peers { clock, a, a_roots, a_identity, b }
}

impl Peers {
    /// A connection whose other end has answered, so that the session can be resumed.
    async fn connect(&self) -> (Connection, Vec<u8>) {
        let connection = self.dial().await.unwrap();
        let proven = call(&connection, request(WHO, b"")).await.unwrap()[32..].to_vec();
        (connection, proven)
    }

    async fn dial(&self) -> Result<Connection, DialError> {
        self.b.connect(&"a.test".parse().unwrap(), &Route::from(self.a.local_addr().unwrap())).await
    }

    /// How the other end ends a connection that it does not take.
    async fn refused(&self) -> Closed {
        match self.dial().await {
            Ok(connection) => connection.closed().await,
            Err(DialError::Handshake(closed)) => closed,
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_resumed_session_does_not_prove_a_domain_whose_certificate_has_expired() {
    let (roots, identity) = certificate(&["b.test"], SystemTime::now() + Duration::from_secs(3_600));
    let peers = two(&roots, &identity);
    assert_eq!(peers.connect().await.1, b"b.test ");
    peers.clock.pass(Duration::from_secs(7_200));
    // By this code, and not by an alert of TLS: the handshake was a resumed one, and complete.
    assert_eq!(peers.refused().await, Closed::Peer(codes::BAD_CERTIFICATE));

    // Without a session to resume, TLS itself refuses.
    peers.b.renew(peers.a_roots.clone(), Some(identity)).unwrap();
    assert!(matches!(peers.refused().await, Closed::Failed(_)));
}

#[tokio::test]
async fn a_session_of_before_is_of_no_use_when_its_authority_is_not_trusted_any_more() {
    let (roots, identity) = certificates_for("b.test");
    let peers = two(&roots, &identity);
    let (before, proven) = peers.connect().await;
    assert_eq!(proven, b"b.test ");
    let (others, _) = certificates_for("c.test");
    peers.a.renew(peers.a_identity.clone(), others).unwrap();
    assert!(matches!(peers.refused().await, Closed::Failed(_)));
    assert!(call(&before, request(ECHO, b"x")).await.is_ok(), "what is open stays");

    peers.a.renew(peers.a_identity.clone(), roots).unwrap();
    assert_eq!(peers.connect().await.1, b"b.test ");
}

#[tokio::test]
async fn the_next_handshake_sees_the_new_certificate_and_open_connections_live_on() {
    let (roots, identity) = certificates_for("b.test");
    let peers = two(&roots, &identity);
    let (before, _) = peers.connect().await;
    let (new_roots, new_identity) = certificates_for("a.test");
    peers.a.renew(new_identity, roots.clone()).unwrap();
    // Its session could be resumed if the server remembered it.
    assert!(matches!(peers.dial().await, Err(DialError::Certificate(_))));
    peers.b.renew(new_roots, Some(identity)).unwrap();
    assert_eq!(peers.connect().await.1, b"b.test ");
    assert!(call(&before, request(ECHO, b"x")).await.is_ok());
}

#[tokio::test]
async fn a_dialling_homeserver_shows_its_new_certificate_from_the_next_connection_on() {
    let (roots, identity) = certificate(&["b.test"], SystemTime::now() + YEAR);
    let peers = two(&roots, &identity);
    let (before, _) = peers.connect().await;
    let (new_roots, new_identity) = certificate(&["b.test", "c.test"], SystemTime::now() + YEAR);
    peers.a.renew(peers.a_identity.clone(), new_roots).unwrap();
    let handle = peers.b.clone();
    handle.renew(peers.a_roots.clone(), Some(new_identity)).unwrap();
    assert_eq!(peers.connect().await.1, b"b.test c.test ");
    assert!(call(&before, request(ECHO, b"x")).await.is_ok());
}

#[test]
fn a_key_that_is_not_of_the_certificate_is_no_identity() {
    let made = || crate::node::certificates::generate(&"a.test".parse().unwrap(), SystemTime::now()).unwrap();
    let (one, two) = (made(), made());
    let identity = |key: &str| tls::Identity::from_pem(one.server_chain.as_bytes(), key.as_bytes()).map(drop);
    assert_eq!(identity(&one.server_key), Ok(()));
    assert_eq!(identity(&two.server_key).unwrap_err().0, "the private key is not that of the certificate");
    let encrypted = one.server_key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    assert_eq!(identity(&encrypted).unwrap_err().0, "there is no private key in the file, or one under a password");
}

#[tokio::test]
async fn a_homeserver_is_known_by_every_domain_of_its_certificate_and_a_client_by_none() {
    let (roots, identity) = certificate(&["b.test", "*.d.test", "c.test"], SystemTime::now() + YEAR);
    let mut peers = two(&roots, &identity);
    assert_eq!(peers.connect().await.1, b"b.test c.test ");
    peers.b = Context::new(peers.a_roots.clone(), Settings::default()).unwrap();
    assert_eq!(peers.connect().await.1, b"");
}
