//! Tokens for clients of other homeservers: who they are is asked at home, and all of one homeserver share an allowance.

use std::{
    collections::HashMap,
    sync::{Mutex, atomic::AtomicUsize},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::{
    base::Domain,
    crypto::credential::{fingerprint, issue_client, issue_intermediate, issue_root, request_intermediate},
    federation::{Dial, Mode, Rule, Rules},
    transport::{DialError, Handler, MethodRules, PeerInfo, Reply},
    wire::{
        authentication::{Credentials, Revocation, RevocationReason},
        credential::{AsCredential, AsIntermediateCredential, ClientCredential},
    },
};

/// How long a client is certified, in seconds.
const LONG: u64 = 30 * 86_400;

/// What the AS of another homeserver answers.
#[derive(Clone)]
enum Says {
    Credentials(Box<Credentials>),
    Garbage,
    Nothing,
}

/// The AS of another homeserver.
struct Elsewhere {
    domain: Domain,
    root: AsCredential,
    signer: AsIntermediateCredential,
    key: SigningKey,
    says: Mutex<Says>,
    asked: AtomicUsize,
}

impl Elsewhere {
    fn new(domain: &str, now: u64) -> Arc<Self> {
        let (domain, rng): (Domain, _) = (domain.parse().unwrap(), &mut system_rng());
        let validity = Validity { not_before: now - 1_000, not_after: now + 1_000 * 86_400 };
        let (root_key, key) = (SigningKey::generate(rng).unwrap(), SigningKey::generate(rng).unwrap());
        let root = issue_root(domain.clone(), validity.clone(), &root_key);
        let signer = issue_intermediate(request_intermediate(domain.clone(), validity, &root, &key), &root_key);
        let says = Says::Credentials(Box::new(credentials(&root, &signer, Vec::new())));
        Arc::new(Self { domain, root, signer, key, says: Mutex::new(says), asked: AtomicUsize::new(0) })
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// A client of it, certified for a time from now in seconds.
    fn client(&self, now: u64, life: u64) -> Client {
        let rng = &mut system_rng();
        let user = UserId { uuid: random(rng), domain: self.domain.clone() };
        let (id, key) = (ClientId { user, client: random(rng) }, SigningKey::generate(rng).unwrap());
        let validity = Validity { not_before: now, not_after: now + life };
        let request = request_client(id.clone(), validity, &self.signer, &key, None);
        Client { id, key, credential: Some(issue_client(request, &self.key)) }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn credentials(root: &AsCredential, signer: &AsIntermediateCredential, revoked: Vec<Revocation>) -> Credentials {
    Credentials {
        roots: vec![root.clone()],
        successions: Vec::new(),
        intermediates: vec![signer.clone()],
        revoked,
        issuer_keys: Vec::new(),
        incarnation: [1; 16],
    }
}

#[async_trait]
impl Handler for Elsewhere {
    type Session = ();

    fn rules(&self, _: u16) -> MethodRules {
        MethodRules { max_request: 1 << 10, streaming: false }
    }

    fn open(&self, peer: PeerInfo) -> Arc<()> {
        assert_eq!(peer.domains, ["a.test".parse().unwrap()], "it says who asks");
        Arc::new(())
    }

    fn unsupported(&self, _: u16) -> Option<Bytes> {
        None
    }

    fn too_large(&self, _: u16, _: usize) -> Bytes {
        Bytes::new()
    }

    fn backlog(&self) -> Duration {
        Duration::ZERO
    }

    fn overloaded(&self) -> Bytes {
        Bytes::new()
    }

    fn malformed(&self) -> Bytes {
        Bytes::new()
    }

    async fn exchange(&self, _: &Arc<()>, _: u64, request: Bytes) -> Reply {
        assert_eq!(Request::from_bytes(request).unwrap().method, Method::AsGetCredentials as u16);
        self.asked.fetch_add(1, Ordering::SeqCst);
        // Others may ask meanwhile.
        tokio::task::yield_now().await;
        let says = self.says.lock().unwrap().clone();
        match says {
            Says::Credentials(credentials) => {
                let response = Response { status: Status::Ok as u16, body: credentials.to_vec().into() };
                Reply::Once(response.to_vec().into())
            }
            Says::Garbage => Reply::Once(vec![0xff; 100].into()),
            Says::Nothing => std::future::pending().await,
        }
    }
}

#[derive(Default)]
struct Network(Mutex<HashMap<Domain, Arc<Elsewhere>>>);

#[async_trait]
impl Dial for Network {
    async fn dial(&self, domain: &Domain) -> Result<Connection, DialError> {
        let found = self.0.lock().unwrap().get(domain).cloned();
        let host = found.map(|found| Host::new(found, Settings::default()));
        let peer = PeerInfo {
            remote: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
            binding: random(&mut system_rng()),
            domains: vec!["a.test".parse().unwrap()],
        };
        host.map(|host| host.connect_as(peer)).ok_or_else(|| DialError::NoAddress(domain.to_string()))
    }
}

/// A client of another homeserver, and what it shows.
struct Client {
    id: ClientId,
    key: SigningKey,
    credential: Option<ClientCredential>,
}

struct Federated {
    world: World,
    network: Arc<Network>,
    rules: Arc<Rules>,
}

impl Federated {
    async fn start(tokens: Tokens) -> Self {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() / 86_400 * DAY;
        let (network, rules) = (Arc::new(Network::default()), Arc::new(Rules::new(Mode::Open)));
        let federation = Federation { dial: network.clone(), rules: rules.clone() };
        let clock = Arc::new(Hands(AtomicU64::new(now)));
        let world = open(MemoryEngine::new(), clock, tokens, federation).await;
        Self { world, network, rules }
    }

    fn now(&self) -> u64 {
        self.world.clock.now().seconds()
    }

    fn elsewhere(&self, domain: &str) -> Arc<Elsewhere> {
        let there = Elsewhere::new(domain, self.now());
        self.network.0.lock().unwrap().insert(there.domain.clone(), there.clone());
        there
    }

    /// Asks for tokens as a client shows itself.
    async fn ask(&self, client: &Client, request: &[u8]) -> Result<TokensIssued, Refusal> {
        let request = IssueTokens { request: request.into(), credential: client.credential.clone() };
        let connection = self.world.host.connect();
        super::ask::<call::AsIssueTokens>(&connection, Some((&client.id, &client.key)), None, &request).await
    }

    async fn status(&self, client: &Client, count: usize) -> Status {
        let request = request_for(&self.world.issuer(Kind::Foreign), count).0;
        self.ask(client, &request).await.err().map_or(Status::Ok, |refusal| refusal.status)
    }

    /// Uses up what the clients of a homeserver may have; how much it was.
    async fn use_up(&self, there: &Elsewhere) -> u32 {
        let mut used = 0;
        for count in [10, 1] {
            while self.status(&there.client(self.now(), 3_600), count).await == Status::Ok {
                used += u32::try_from(count).unwrap();
            }
        }
        used
    }
}

#[tokio::test]
async fn a_client_of_another_homeserver_gets_tokens_that_pay_for_all_but_groups() {
    let a = Federated::start(Tokens { foreign_allowance: 8, ..Tokens::default() }).await;
    let b = a.elsewhere("b.test");
    let client = b.client(a.now(), LONG);
    let issuer = a.world.issuer(Kind::Foreign);
    let (request, state) = request_for(&issuer, 5);
    let tokens = state.finish(a.ask(&client, &request).await.unwrap().response.as_slice()).unwrap();
    let connection = a.world.host.connect();
    assert_eq!(look_up(&connection, Some(&tokens[0])).await, Status::NotFound);
    assert_eq!(look_up(&connection, None).await, Status::NotFound, "there is credit left");
    assert_eq!(group_id(&connection, None).await, Status::TokenRequired);
    assert_eq!(group_id(&connection, Some(&tokens[1])).await, Status::TokenRequired);
    // The same request is the same tokens; what is more is counted, and refused when all is used.
    a.ask(&client, &request).await.unwrap();
    assert_eq!(a.status(&client, 4).await, Status::RateLimited);
    assert_eq!(a.status(&client, 3).await, Status::Ok);
    assert_eq!(a.status(&client, 1).await, Status::RateLimited);
    assert_eq!(b.asked(), 1, "the AS is asked once");
    // The key for the homeserver's own users issues to nobody else.
    let own = request_for(&a.world.issuer(Kind::Own), 1).0;
    let other = b.client(a.now(), LONG);
    assert_eq!(a.ask(&other, &own).await.unwrap_err().status, Status::NotFound);
    // What is kept says how many, and not to whom.
    assert_eq!((a.world.rows(Table::AsAllowances).await, a.world.rows(Table::AsForeignAllowances).await), (0, 1));
    let rows = a.world.store.durable().scan(Table::AsForeignAllowances, Key::new().., Limit::rows(9)).await.unwrap();
    let shown = [client.id.user.uuid, client.id.client];
    assert!(shown.iter().all(|id| !rows.iter().any(|row| row.key.as_bytes().windows(16).any(|part| part == id))));
}

#[tokio::test]
async fn whoever_is_not_certified_by_the_homeserver_it_names_gets_nothing() {
    let a = Federated::start(Tokens::default()).await;
    let (b, c) = (a.elsewhere("b.test"), a.elsewhere("c.test"));
    let good = b.client(a.now(), 3_600);
    let mut cases = Vec::new();
    // Without a credential, with another client's, and with the key of nobody.
    cases.push(Client { credential: None, ..b.client(a.now(), 3_600) });
    cases.push(Client { credential: good.credential.clone(), ..b.client(a.now(), 3_600) });
    cases.push(Client { key: SigningKey::generate(&mut system_rng()).unwrap(), ..b.client(a.now(), 3_600) });
    assert_eq!((a.status(&cases[0], 1).await, b.asked()), (Status::Unauthenticated, 0));
    // Certified by another homeserver's AS: as one of its own, and as one of the other's.
    let mut forged = c.client(a.now(), 3_600);
    forged.id.user.domain = b.domain.clone();
    cases.push(forged);
    let mut forged = b.client(a.now(), 3_600);
    let request = request_client(
        forged.id.clone(),
        Validity { not_before: a.now(), not_after: a.now() + 3_600 },
        &c.signer,
        &forged.key,
        None,
    );
    forged.credential = Some(issue_client(request, &c.key));
    cases.push(forged);
    // By nobody; not yet valid; changed.
    let mut forged = b.client(a.now(), 3_600);
    forged.credential.as_mut().unwrap().signature = c.client(a.now(), 3_600).credential.unwrap().signature;
    cases.push(forged);
    cases.push(b.client(a.now() + 60, 3_600));
    let mut forged = b.client(a.now(), 3_600);
    forged.credential.as_mut().unwrap().request.payload.validity.not_after += 1;
    cases.push(forged);
    for (at, case) in cases.iter().enumerate() {
        assert_eq!(a.status(case, 1).await, Status::Unauthenticated, "case {at}");
    }
    assert_eq!(a.world.rows(Table::AsDomainAllowances).await, 0, "nothing was counted");
    assert_eq!(a.status(&good, 1).await, Status::Ok);
    // An own client is known, and shows nothing.
    let (id, key) = register(&a.world).await;
    let own = Client { id, key, credential: good.credential.clone() };
    let request = request_for(&a.world.issuer(Kind::Own), 1).0;
    assert_eq!(a.ask(&own, &request).await.unwrap_err().status, Status::Malformed);
    a.ask(&Client { credential: None, ..own }, &request).await.unwrap();
}

#[tokio::test]
async fn a_credential_that_is_over_or_revoked_gets_nothing() {
    let a = Federated::start(Tokens::default()).await;
    let b = a.elsewhere("b.test");
    let (short, revoked, held) = (b.client(a.now(), 60), b.client(a.now(), LONG), b.client(a.now(), LONG));
    for client in [&short, &revoked, &held] {
        assert_eq!(a.status(client, 1).await, Status::Ok);
    }
    a.world.wait(61_000);
    assert_eq!(a.status(&short, 1).await, Status::Unauthenticated);
    let name = |of: &Client| fingerprint(of.credential.as_ref().unwrap());
    let list = vec![
        Revocation { credential: name(&revoked), reason: RevocationReason::Revoked },
        Revocation { credential: name(&held), reason: RevocationReason::OnHold },
    ];
    b.say(Says::Credentials(Box::new(credentials(&b.root, &b.signer, list))));
    assert_eq!(a.status(&revoked, 1).await, Status::Ok, "it is believed for an hour");
    a.world.wait(3_600_000);
    for client in [&revoked, &held] {
        assert_eq!(a.status(client, 1).await, Status::Unauthenticated);
    }
    assert_eq!((a.status(&b.client(a.now(), 60), 1).await, b.asked()), (Status::Ok, 2));
}

#[tokio::test]
async fn a_signer_that_is_new_is_asked_about_at_once_but_not_for_ever() {
    let a = Federated::start(Tokens::default()).await;
    let b = a.elsewhere("b.test");
    assert_eq!((a.status(&b.client(a.now(), 60), 1).await, b.asked()), (Status::Ok, 1));
    // Its keys are others now.
    let renewed = Elsewhere::new("b.test", a.now());
    b.say(Says::Credentials(Box::new(credentials(&renewed.root, &renewed.signer, Vec::new()))));
    assert_eq!((a.status(&renewed.client(a.now(), 60), 1).await, b.asked()), (Status::Unauthenticated, 1));
    a.world.wait(60_000);
    assert_eq!((a.status(&renewed.client(a.now(), 60), 1).await, b.asked()), (Status::Ok, 2));
    for _ in 0..5 {
        assert_eq!(a.status(&b.client(a.now(), 60), 1).await, Status::Unauthenticated);
    }
    assert_eq!(b.asked(), 2, "who shows what nobody knows does not have it asked");
}

#[tokio::test]
async fn clients_that_come_at_a_time_have_their_homeserver_asked_once() {
    let a = Arc::new(Federated::start(Tokens::default()).await);
    let b = a.elsewhere("b.test");
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (a, client) = (a.clone(), b.client(a.now(), 60));
        asking.spawn(async move { a.status(&client, 1).await });
    }
    assert_eq!(asking.join_all().await, [Status::Ok; 8]);
    assert_eq!(b.asked(), 1);
}

#[tokio::test]
async fn a_homeserver_that_gives_no_good_credentials_gets_nothing_and_is_left_alone() {
    let a = Federated::start(Tokens::default()).await;
    let client = |there: &Elsewhere| there.client(a.now(), LONG);
    // It is not there, it says nothing, garbage, or what is another's or contradicts itself.
    let nowhere = Elsewhere::new("nowhere.test", a.now());
    assert_eq!(a.status(&client(&nowhere), 1).await, Status::RemoteUnreachable);
    let other = a.elsewhere("other.test");
    let b = a.elsewhere("b.test");
    let mut mixed = credentials(&b.root, &b.signer, Vec::new());
    mixed.intermediates[0].signature = other.signer.signature.clone();
    let mut asked = 0;
    for says in [
        Says::Nothing,
        Says::Garbage,
        Says::Credentials(Box::new(credentials(&other.root, &other.signer, Vec::new()))),
        Says::Credentials(Box::new(credentials(&b.root, &other.signer, Vec::new()))),
        Says::Credentials(Box::new(mixed)),
    ] {
        b.say(says);
        asked += 1;
        // Nothing is written, and nobody waits for what never comes.
        tokio::time::pause();
        for _ in 0..3 {
            assert_eq!(a.status(&client(&b), 1).await, Status::RemoteUnreachable);
        }
        tokio::time::resume();
        assert_eq!(b.asked(), asked, "it is asked once a minute");
        a.world.wait(60_000);
    }
    assert_eq!(a.world.rows(Table::AsDomainAllowances).await, 0);
    b.say(Says::Credentials(Box::new(credentials(&b.root, &b.signer, Vec::new()))));
    assert_eq!(a.status(&client(&b), 1).await, Status::Ok);
    // Others are not concerned.
    assert_eq!(a.status(&client(&other), 1).await, Status::Ok);
}

#[tokio::test]
async fn a_homeserver_that_is_not_dealt_with_is_not_even_asked() {
    let a = Federated::start(Tokens::default()).await;
    let b = a.elsewhere("b.test");
    a.rules.set(b.domain.clone(), Some(Rule::Blocked));
    assert_eq!((a.status(&b.client(a.now(), 60), 1).await, b.asked()), (Status::FederationDenied, 0));
    a.rules.set(b.domain.clone(), None);
    let client = b.client(a.now(), 60);
    assert_eq!((a.status(&client, 1).await, b.asked()), (Status::Ok, 1));
    // Nor when it is known already.
    a.rules.set(b.domain.clone(), Some(Rule::Blocked));
    assert_eq!(a.status(&client, 1).await, Status::FederationDenied);
}

#[tokio::test]
async fn from_one_address_not_too_many_homeservers_are_asked() {
    let a = Federated::start(Tokens::default()).await;
    let b = a.elsewhere("b.test");
    assert_eq!(a.status(&b.client(a.now(), 60), 1).await, Status::Ok);
    let most = crate::service::policy::Rates::default().credential_lookups_per_address;
    let mut outcomes = Vec::new();
    for n in 0..most {
        let there = Elsewhere::new(&format!("n{n}.test"), a.now());
        outcomes.push(a.status(&there.client(a.now(), 60), 1).await);
    }
    assert_eq!(outcomes.pop(), Some(Status::RateLimited));
    assert!(outcomes.iter().all(|status| *status == Status::RemoteUnreachable));
    assert_eq!(a.status(&b.client(a.now(), 60), 1).await, Status::Ok, "what is known is not asked for");
}

#[tokio::test]
async fn the_allowance_of_a_homeserver_is_its_own_and_grows_while_it_is_used() {
    let tokens =
        Tokens { foreign_domain_allowance: 50, foreign_domain_max: 65, foreign_new_domains: 2, ..Tokens::default() };
    let a = Federated::start(tokens).await;
    let [b, c, d] = ["b.test", "c.test", "d.test"].map(|domain| a.elsewhere(domain));
    assert_eq!(a.use_up(&b).await, 50);
    let refused = a.ask(&b.client(a.now(), 60), &request_for(&a.world.issuer(Kind::Foreign), 1).0).await.unwrap_err();
    assert_eq!(refused.message, "0 of 50 tokens are left to clients of b.test in this period");
    assert_eq!(refused.retry_after, Some(std::time::Duration::from_millis(DAY)));
    assert_eq!(a.status(&c.client(a.now(), 60), 10).await, Status::Ok, "another's is not touched");
    assert_eq!(a.status(&d.client(a.now(), 60), 1).await, Status::RateLimited, "too many are new");
    // A fifth more for what was used, and nothing for what was not.
    a.world.wait(DAY);
    assert_eq!((a.use_up(&b).await, a.use_up(&c).await), (60, 50));
    assert_eq!(a.status(&d.client(a.now(), 60), 1).await, Status::Ok);
    a.world.wait(DAY);
    assert_eq!((a.use_up(&b).await, a.use_up(&c).await), (65, 60), "there is an end");
    // A pause takes nothing away, until all is forgotten, and there is room for others.
    a.world.wait(59 * DAY);
    a.world.dispatcher.maintain_tokens().await.unwrap();
    assert_eq!(a.use_up(&b).await, 65);
    assert_eq!(a.world.rows(Table::AsDomainAllowances).await, 4);
    a.world.wait(2 * DAY);
    a.world.dispatcher.maintain_tokens().await.unwrap();
    assert_eq!(a.world.rows(Table::AsDomainAllowances).await, 2, "one homeserver, and how many there are");
    assert_eq!(a.world.rows(Table::AsForeignAllowances).await, 0);
    assert_eq!((a.use_up(&c).await, a.use_up(&b).await), (50, 65));
}
