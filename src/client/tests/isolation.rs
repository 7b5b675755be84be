//! Each role of a client speaks from a socket of its own, with TLS sessions and address-validation tokens of its own, and
//! the order in which the roles speak is not always the same.

use std::{
    collections::{HashMap, HashSet},
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::*;
use crate::{
    base::{AliasId, GroupId},
    client::{
        connector::{Connector, Isolation, QuicConnector},
        error::Local,
    },
    crypto::{alias::Alias, sha256},
    node::certificates,
    transport::{
        Endpoint,
        tests::recording::{Mark, Recording},
        tls,
    },
    wire::{Decode, Encode, Response, SenderId, authentication::Credentials},
};

/// In which role a request was sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Role {
    Identity,
    Alias(AliasId),
    Pseudonym,
    Delivery,
    Anonymous,
}

/// Writes down who asks what from where.
struct Recorder {
    inner: Arc<Lossy>,
    seen: Mutex<HashMap<SocketAddr, Vec<(Role, Method)>>>,
    /// Whether each connection is shown a key of its own to obtain tokens under.
    divides: AtomicBool,
    /// Whose queues were fetched from, in that order.
    fetched: Mutex<Vec<Role>>,
}

struct Watched {
    remote: SocketAddr,
    inner: Arc<<Lossy as Handler>::Session>,
}

#[async_trait]
impl Handler for Recorder {
    type Session = Watched;

    fn rules(&self, method: u16) -> MethodRules {
        self.inner.rules(method)
    }

    fn open(&self, peer: PeerInfo) -> Arc<Watched> {
        Arc::new(Watched { remote: peer.remote, inner: self.inner.open(peer) })
    }

    fn unsupported(&self, version: u16) -> Option<Bytes> {
        self.inner.unsupported(version)
    }

    fn too_large(&self, method: u16, limit: usize) -> Bytes {
        self.inner.too_large(method, limit)
    }

    fn backlog(&self) -> Duration {
        self.inner.backlog()
    }

    fn overloaded(&self) -> Bytes {
        self.inner.overloaded()
    }

    fn malformed(&self) -> Bytes {
        self.inner.malformed()
    }

    async fn exchange(&self, session: &Arc<Watched>, stream: u64, request: Bytes) -> Reply {
        let decoded = Request::from_bytes(request.clone()).unwrap();
        let sender = decoded.auth.first().map(|authentication| &authentication.sender);
        let method = Method::from_code(decoded.method).unwrap();
        if let Some(role) = role(method, sender) {
            if matches!(method, Method::AsDequeue | Method::AsDequeueAlias | Method::QsDequeue) {
                self.fetched.lock().unwrap().push(role.clone());
            }
            self.seen.lock().unwrap().entry(session.remote).or_default().push((role, method));
        }
        let reply = self.inner.exchange(&session.inner, stream, request).await;
        match reply {
            Reply::Once(answer) if method == Method::AsGetCredentials && self.divides.load(Ordering::SeqCst) => {
                Reply::Once(divided(answer, session.remote))
            }
            reply => reply,
        }
    }
}

/// The answer with other keys to obtain tokens under: those of whoever asks from this address.
fn divided(answer: Bytes, remote: SocketAddr) -> Bytes {
    let mut response = Response::from_bytes(answer).unwrap();
    let mut credentials = Credentials::from_bytes(response.body.0).unwrap();
    for key in &mut credentials.issuer_keys {
        key.public_key = sha256(remote.to_string().as_bytes()).to_vec().into();
    }
    response.body = credentials.to_vec().into();
    response.to_vec().into()
}

fn role(method: Method, sender: Option<&SenderId>) -> Option<Role> {
    Some(match (sender, method) {
        (Some(SenderId::AsClient(_)), _) | (None, Method::AsInitRegistration) => Role::Identity,
        (Some(SenderId::AsAlias(alias)), _) => Role::Alias(*alias),
        (Some(SenderId::QsClient(_)), _) | (None, Method::QsCreateUser) => Role::Pseudonym,
        (Some(SenderId::DsLeaf(_) | SenderId::DsKeyPackage(_)), _) => Role::Delivery,
        (None, Method::DsExternalCommitInfo | Method::DsJoinConnectionGroup) => Role::Delivery,
        (None, Method::Bind | Method::ServerInfo) => return None,
        (None, _) => Role::Anonymous,
        (Some(other), _) => panic!("nobody sends as {other:?}"),
    })
}

/// A homeserver over QUIC that is watched.
struct Place {
    server: Arc<Homeserver>,
    domain: Domain,
    authority: Vec<u8>,
    endpoint: Endpoint,
    recorder: Arc<Recorder>,
}

fn certified(domain: &Domain) -> (tls::Identity, Vec<u8>) {
    let pem = certificates::generate(domain, std::time::SystemTime::now()).unwrap();
    let identity = tls::Identity::from_pem(pem.server_chain.as_bytes(), pem.server_key.as_bytes()).unwrap();
    (identity, pem.authority.into_bytes())
}

impl Place {
    async fn start() -> Self {
        let server = Homeserver::start().await;
        let domain: Domain = "a.test".parse().unwrap();
        let (identity, authority) = certified(&domain);
        let endpoint = Endpoint::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Settings::default()).unwrap();
        let recorder = Arc::new(Recorder {
            inner: server.handler.clone(),
            seen: Mutex::default(),
            divides: AtomicBool::default(),
            fetched: Mutex::default(),
        });
        tokio::spawn(endpoint.serve(identity, tls::roots(&[]).unwrap(), recorder.clone()).unwrap());
        Self { server, domain, authority, endpoint, recorder }
    }

    async fn register(&self, name: &str) -> User {
        self.try_register(name).await.unwrap()
    }

    async fn try_register(&self, name: &str) -> Result<User, ClientError> {
        let home = tempfile::tempdir().unwrap();
        let options = RegisterOptions {
            domain: self.domain.clone(),
            at: Some(self.endpoint.local_addr().unwrap().to_string()),
            places: Vec::new(),
            ca: Some(self.authority.clone()),
            name: name.into(),
            password: PASSWORD.into(),
            invitation: None,
        };
        let client = Client::register(home.path(), options).await?;
        Ok(User { home, client, server: self.server.clone() })
    }

    fn alias(&self, alias: &str) -> Role {
        Role::Alias(Alias::parse(alias).unwrap().id(&self.domain))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_socket_carries_two_roles() {
    let place = Place::start().await;
    let (alice, bob) = (place.register("Alice").await, place.register("Bob").await);
    for alias in ["bobby", "robert"] {
        bob.client.register_alias(alias).await.unwrap();
        let chat = alice.client.connect_alias(alias, &place.domain).await.unwrap();
        bob.client.sync().await.unwrap();
        let request = bob.client.requests().await.unwrap().remove(0);
        bob.client.accept(&request.id).await.unwrap();
        alice.client.sync().await.unwrap();
        alice.say(&chat, "hello").await;
        bob.say(&chat, "hi").await;
        assert_eq!(bob.hear().await, [said("Alice", "hello")]);
    }
    bob.client.delete_alias("robert").await.unwrap();

    let seen = place.recorder.seen.lock().unwrap().clone();
    let (mut apart, mut of_roles) = (0, HashMap::<&Role, usize>::new());
    for (remote, requests) in &seen {
        let roles: HashSet<_> = requests.iter().map(|(role, _)| role).collect();
        assert_eq!(roles.len(), 1, "{remote} {requests:?}");
        // What is asked for a second time, of a homeserver that is not to know who asks, comes from a socket of its own.
        match requests[..] {
            [(Role::Anonymous, Method::AsGetCredentials)] => apart += 1,
            _ => *of_roles.entry(&requests[0].0).or_default() += 1,
        }
    }
    assert!(apart >= 2, "each client has obtained tokens");
    let ports = |role: &Role| of_roles.get(role).copied().unwrap_or(0);
    for role in [Role::Identity, Role::Pseudonym, Role::Delivery, Role::Anonymous] {
        assert_eq!(ports(&role), 2, "one of each client: {role:?}");
    }
    assert_eq!((ports(&place.alias("bobby")), ports(&place.alias("robert"))), (1, 1));
    place.endpoint.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_shows_a_connection_its_own_key_for_tokens_is_found_out() {
    let place = Place::start().await;
    place.recorder.divides.store(true, Ordering::SeqCst);
    match place.try_register("Alice").await.map(drop) {
        Err(ClientError::Local(Local::Untrusted, why)) => assert!(why.contains("the same key"), "{why}"),
        other => panic!("{other:?}"),
    }
    let seen = place.recorder.seen.lock().unwrap().clone();
    let asked = |method| seen.values().flatten().filter(|(_, asked)| *asked == method).count();
    assert_eq!(asked(Method::AsIssueTokens), 0, "nothing is asked for under such a key");
    place.recorder.divides.store(false, Ordering::SeqCst);
    place.register("Bob").await;
    place.endpoint.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_role_shows_a_ticket_or_a_token_that_another_was_given() {
    let domain: Domain = "a.test".parse().unwrap();
    let (identity, authority) = certified(&domain);
    let server = Recording::start(identity).unwrap();
    let at = server.local_addr().unwrap().to_string();
    let connector = QuicConnector::new(domain.clone(), Some(at), Some(&authority)).unwrap();
    let group = |uuid| GroupId { uuid: [uuid; 16], domain: domain.clone() };
    let roles = [
        Isolation::Identity,
        Isolation::Alias(AliasId([1; 32])),
        Isolation::Alias(AliasId([2; 32])),
        Isolation::Pseudonym,
        Isolation::Delivery,
        Isolation::RemoteDelivery(group(1)),
        Isolation::RemoteDelivery(group(2)),
        Isolation::Anonymous,
    ];
    let is_ticket = |mark: &Mark| matches!(mark, Mark::Ticket(_));
    let mut given: HashMap<&Isolation, HashSet<Mark>> = HashMap::new();
    for again in [false, true] {
        for role in &roles {
            let connection = connector.connect(&domain, role).await.unwrap();
            // An answer comes after whatever the server gives out, so that the client has it.
            let exchange = connection.open().await.unwrap();
            assert_eq!(exchange.request("hello".into(), 16).await.unwrap(), "hello");
            connection.close();
            let marks = server.marks();
            for kind in [true, false] {
                assert!(marks.issued.iter().any(|mark| is_ticket(mark) == kind), "{role:?} is given both kinds");
                let shown = marks.presented.iter().any(|mark| is_ticket(mark) == kind);
                assert_eq!(shown, again, "{role:?} shows both kinds when it comes again, and not before: {marks:?}");
            }
            let own = given.entry(role).or_default();
            assert!(marks.presented.is_subset(own), "{role:?} shows what it was given itself");
            own.extend(marks.issued);
        }
    }
    connector.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronisation_fetches_from_one_queue_after_the_other_in_no_fixed_order() {
    let place = Place::start().await;
    let bob = place.register("Bob").await;
    for alias in ["bobby", "robert"] {
        bob.client.register_alias(alias).await.unwrap();
    }
    let queues = HashSet::from([Role::Identity, Role::Pseudonym, place.alias("bobby"), place.alias("robert")]);
    let mut orders = HashSet::new();
    // That all are the same by chance happens once in 24^15 times.
    for _ in 0..16 {
        place.recorder.fetched.lock().unwrap().clear();
        bob.client.sync().await.unwrap();
        let mut order = place.recorder.fetched.lock().unwrap().clone();
        order.dedup();
        assert_eq!(order.len(), queues.len(), "no queue is come back to: {order:?}");
        assert_eq!(order.iter().cloned().collect::<HashSet<_>>(), queues);
        orders.insert(order);
    }
    assert!(orders.len() > 1, "{orders:?}");
    place.endpoint.shutdown().await;
}
