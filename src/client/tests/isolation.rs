//! Each role of a client speaks from a socket of its own.

use std::{
    collections::{HashMap, HashSet},
    net::{Ipv4Addr, SocketAddr},
};

use super::*;
use crate::{
    base::AliasId,
    crypto::alias::Alias,
    node::certificates,
    transport::{Endpoint, tls},
    wire::SenderId,
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
    seen: Mutex<HashMap<SocketAddr, HashSet<Role>>>,
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

    fn too_large(&self, method: u16, limit: usize) -> Bytes {
        self.inner.too_large(method, limit)
    }

    fn malformed(&self) -> Bytes {
        self.inner.malformed()
    }

    async fn exchange(&self, session: &Arc<Watched>, stream: u64, request: Bytes) -> Reply {
        let decoded = Request::from_bytes(request.clone()).unwrap();
        let sender = decoded.auth.first().map(|authentication| &authentication.sender);
        if let Some(role) = role(Method::from_code(decoded.method).unwrap(), sender) {
            self.seen.lock().unwrap().entry(session.remote).or_default().insert(role);
        }
        self.inner.exchange(&session.inner, stream, request).await
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn no_socket_carries_two_roles() {
    let server = Homeserver::start().await;
    let domain: Domain = "a.test".parse().unwrap();
    let pem = certificates::generate(&domain, std::time::SystemTime::now()).unwrap();
    let identity = tls::Identity::from_pem(pem.server_chain.as_bytes(), pem.server_key.as_bytes()).unwrap();
    let endpoint = Endpoint::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Settings::default()).unwrap();
    let recorder = Arc::new(Recorder { inner: server.handler.clone(), seen: Mutex::default() });
    tokio::spawn(endpoint.serve(identity, tls::roots(&[]).unwrap(), recorder.clone()).unwrap());
    let at = endpoint.local_addr().unwrap().to_string();
    let register = async |name: &str| {
        let home = tempfile::tempdir().unwrap();
        let options = RegisterOptions {
            domain: domain.clone(),
            at: Some(at.clone()),
            ca: Some(pem.authority.clone().into_bytes()),
            name: name.into(),
            password: PASSWORD.into(),
            invitation: None,
        };
        let client = Client::register(home.path(), options).await.unwrap();
        User { home, client, server: server.clone() }
    };
    let (alice, bob) = (register("Alice").await, register("Bob").await);
    for alias in ["bobby", "robert"] {
        bob.client.register_alias(alias).await.unwrap();
        let chat = alice.client.connect_alias(alias, &domain).await.unwrap();
        bob.client.sync().await.unwrap();
        let request = bob.client.requests().await.unwrap().remove(0);
        bob.client.accept(&request.id).await.unwrap();
        alice.client.sync().await.unwrap();
        alice.say(&chat, "hello").await;
        bob.say(&chat, "hi").await;
        assert_eq!(bob.hear().await, [said("Alice", "hello")]);
    }
    bob.client.delete_alias("robert").await.unwrap();

    let seen = recorder.seen.lock().unwrap().clone();
    for (remote, roles) in &seen {
        assert_eq!(roles.len(), 1, "{remote} {roles:?}");
    }
    let alias = |alias: &str| Role::Alias(Alias::parse(alias).unwrap().id(&domain));
    let ports = |role: &Role| seen.values().filter(|roles| roles.contains(role)).count();
    for role in [Role::Identity, Role::Pseudonym, Role::Delivery, Role::Anonymous] {
        assert_eq!(ports(&role), 2, "one of each client: {role:?}");
    }
    assert_eq!((ports(&alias("bobby")), ports(&alias("robert"))), (1, 1));
    endpoint.shutdown().await;
}
