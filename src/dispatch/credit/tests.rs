//! Tokens at the homeserver: issued against an allowance, redeemed once whatever happens, and what they buy.

mod foreign;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::*;
use crate::{
    authentication::issuers::{Issuer, MAX_ROTATED},
    base::{ClientId, Clock, Secret, Timestamp, UserId},
    crypto::{
        at_rest::StorageKey,
        credential::request_client,
        hpke::HpkePrivateKey,
        opaque::Registration,
        privacy_pass::{IssuerKey, Request as TokenRequest},
        proof::RequestContext,
        random, random_secret,
        signature::SigningKey,
        system_rng,
    },
    dispatch::{Entropy, Parts, Service, connection_limits},
    federation::Federation,
    service::{
        policy::{Policy, Tokens},
        queue::QueueLimits,
        work::Workers,
    },
    store::{MemoryEngine, Options, Store},
    transport::{Connection, Settings, memory::Host},
    wire::{
        Call, Decode, Encode, Request, Response, SenderId, VERSION,
        authentication::{
            FinishRegistration, GetConnectionPackage, GetCredentials, InitRegistration, IssueTokens, TokensIssued,
        },
        connection::{ConnectionPackage, ConnectionPackageTbs},
        credential::{CIPHERSUITE, Validity},
        delivery::RequestGroupId,
        label::SignatureLabel,
        method::{self, call},
        server::GetServerInfo,
    },
};

const DAY: u64 = 86_400_000;

/// A clock that is set by hand.
struct Hands(AtomicU64);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

struct World {
    engine: MemoryEngine,
    clock: Arc<Hands>,
    store: Store,
    dispatcher: Arc<Dispatcher>,
    host: Host<Service>,
}

async fn start(tokens: Tokens) -> World {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() / 86_400 * DAY;
    open(MemoryEngine::new(), Arc::new(Hands(AtomicU64::new(now))), tokens, Federation::none()).await
}

async fn open(engine: MemoryEngine, clock: Arc<Hands>, tokens: Tokens, federation: Federation) -> World {
    let store = Store::open(engine.clone(), Options::new(|error| panic!("{error}"))).unwrap();
    let entropy: Entropy = Arc::new(|| Box::new(system_rng()));
    let dispatcher = Dispatcher::start(Parts {
        domain: "a.test".parse().unwrap(),
        store: store.clone(),
        storage_key: StorageKey::new(Secret::new([7; 32])),
        incarnation: [1; 16],
        clock: clock.clone(),
        entropy,
        queue_limits: QueueLimits::default(),
        policy: Policy { tokens, ..Policy::default() }.into(),
        workers: Workers::inline(),
        max_wait: std::time::Duration::MAX,
        connection_limits: connection_limits(&Settings::default()),
        federation,
        outbox_limits: Default::default(),
        peer_settings: Default::default(),
    });
    let dispatcher = dispatcher.await.unwrap();
    let host = Host::new(Arc::new(Service(dispatcher.clone())), Settings::default());
    World { engine, clock, store, dispatcher, host }
}

impl World {
    /// The same homeserver after a stop.
    async fn restart(self, tokens: Tokens) -> Self {
        self.store.close().await.unwrap();
        open(self.engine, self.clock, tokens, Federation::none()).await
    }

    fn wait(&self, milliseconds: u64) {
        self.clock.0.fetch_add(milliseconds, Ordering::SeqCst);
    }

    fn issuer(&self, kind: Kind) -> Arc<Issuer> {
        self.dispatcher.authentication.issuers.issuing(kind, self.clock.now()).unwrap()
    }

    /// Tokens of the key that issues now.
    fn mint(&self, kind: Kind, count: usize) -> Vec<Token> {
        mint(&self.issuer(kind).key, "a.test", count)
    }

    async fn rows(&self, table: Table) -> usize {
        self.store.durable().scan(table, Key::new().., Limit::rows(1_000)).await.unwrap().len()
    }
}

fn mint(key: &IssuerKey, domain: &str, count: usize) -> Vec<Token> {
    let (request, state) = TokenRequest::new(key.public_key(), &domain.parse().unwrap(), count).unwrap();
    let request = crate::crypto::privacy_pass::TokenRequest::decode(&request).unwrap();
    state.finish(&key.issue(&request, random_secret(&mut system_rng())).unwrap()).unwrap()
}

/// Asks, with a token or without; signed if there is a sender.
async fn ask<C: Call>(
    connection: &Connection,
    sender: Option<(&ClientId, &SigningKey)>,
    token: Option<&Token>,
    request: &C::Request,
) -> Result<C::Response, Refusal> {
    let exchange = connection.open().await.unwrap();
    let body = request.to_vec();
    let context = RequestContext {
        method: C::METHOD as u16,
        token,
        body: &body,
        binding: connection.binding(),
        stream: exchange.id(),
    };
    let auth = sender.map(|(client, key)| context.sign(SenderId::AsClient(client.clone()), key));
    let auth = auth.into_iter().collect();
    let token = token.cloned();
    let request = Request { version: VERSION, method: C::METHOD as u16, auth, token, body: body.into() };
    let response = exchange.request(request.to_vec().into(), 1 << 20).await.unwrap();
    Ok(C::Response::from_bytes(Response::from_bytes(response).unwrap().into_result()?).unwrap())
}

/// What a request that costs something and changes nothing is answered with: `not_found` if it was paid for.
async fn look_up(connection: &Connection, token: Option<&Token>) -> Status {
    let user = UserId { uuid: [1; 16], domain: "a.test".parse().unwrap() };
    ask::<call::AsGetConnectionPackage>(connection, None, token, &GetConnectionPackage { user })
        .await
        .err()
        .unwrap()
        .status
}

/// The same for one that only the homeserver's own users can pay for.
async fn group_id(connection: &Connection, token: Option<&Token>) -> Status {
    let answer = ask::<call::DsRequestGroupId>(connection, None, token, &RequestGroupId {}).await;
    answer.err().map_or(Status::Ok, |refusal| refusal.status)
}

async fn register(world: &World) -> (ClientId, SigningKey) {
    let connection = world.host.connect();
    let credentials = ask::<call::AsGetCredentials>(&connection, None, None, &GetCredentials {}).await.unwrap();
    let mut rng = system_rng();
    let user = UserId { uuid: random(&mut rng), domain: "a.test".parse().unwrap() };
    let client = ClientId { user: user.clone(), client: random(&mut rng) };
    let key = SigningKey::generate(&mut rng).unwrap();
    let (registration, request) = Registration::start(user.clone(), "password", &mut rng).unwrap();
    let init = InitRegistration { user, request, invitation: None };
    let answer = ask::<call::AsInitRegistration>(&connection, None, None, &init).await.unwrap();
    let record = registration.finish("password", answer.response.as_slice(), &mut rng).unwrap();
    let now = world.clock.now().seconds();
    let validity = Validity { not_before: now, not_after: now + 300 * 86_400 };
    let queue_key = HpkePrivateKey::generate(&mut rng).unwrap().public_key();
    let content = ConnectionPackageTbs {
        client: client.clone(),
        ciphersuite: CIPHERSUITE,
        encryption_key: queue_key.clone(),
        validity: validity.clone(),
    };
    let signature = key.sign(SignatureLabel::ConnectionPackage, &content);
    let finish = FinishRegistration {
        request: request_client(client.clone(), validity, &credentials.intermediates[0], &key, None),
        record,
        queue_key,
        packages: vec![ConnectionPackage { content, signature }],
        profile: vec![0; 64].into(),
        invitation: None,
    };
    ask::<call::AsFinishRegistration>(&connection, Some((&client, &key)), None, &finish).await.unwrap();
    (client, key)
}

async fn issue(connection: &Connection, who: &(ClientId, SigningKey), request: &[u8]) -> Result<TokensIssued, Refusal> {
    let request = IssueTokens { request: request.into(), credential: None };
    ask::<call::AsIssueTokens>(connection, Some((&who.0, &who.1)), None, &request).await
}

fn request_for(issuer: &Issuer, count: usize) -> (Vec<u8>, TokenRequest) {
    TokenRequest::new(issuer.key.public_key(), &"a.test".parse().unwrap(), count).unwrap()
}

#[tokio::test]
async fn a_token_buys_credit_on_the_connection_that_redeems_it() {
    let world = start(Tokens { credit_per_token: 3, ..Tokens::default() }).await;
    let [one, other] = [world.host.connect(), world.host.connect()];
    let tokens = world.mint(Kind::Own, 2);
    assert_eq!(look_up(&one, None).await, Status::TokenRequired);
    assert_eq!(look_up(&one, Some(&tokens[0])).await, Status::NotFound);
    assert_eq!(look_up(&other, None).await, Status::TokenRequired, "credit is one connection's");
    assert_eq!(group_id(&one, None).await, Status::Ok);
    assert_eq!(look_up(&one, None).await, Status::NotFound);
    assert_eq!(look_up(&one, None).await, Status::TokenRequired);
    // A token on a request that costs nothing is left alone.
    ask::<call::ServerInfo>(&one, None, Some(&tokens[1]), &GetServerInfo {}).await.unwrap();
    assert_eq!(world.rows(Table::AsSpentTokens).await, 1);
    assert_eq!(look_up(&other, Some(&tokens[1])).await, Status::NotFound);
}

#[tokio::test]
async fn tokens_are_left_alone_where_they_are_not_required() {
    let tokens = Tokens { required: false, ..Tokens::default() };
    let world = start(tokens.clone()).await;
    let token = world.mint(Kind::Own, 1).remove(0);
    let connection = world.host.connect();
    for _ in 0..2 {
        assert_eq!(look_up(&connection, Some(&token)).await, Status::NotFound);
    }
    assert_eq!(world.rows(Table::AsSpentTokens).await, 0);
    let world = world.restart(Tokens { required: true, ..tokens }).await;
    assert_eq!(look_up(&world.host.connect(), Some(&token)).await, Status::NotFound);
}

#[tokio::test]
async fn a_token_is_redeemed_once_one_after_the_other_and_after_a_restart() {
    let world = start(Tokens::default()).await;
    let tokens = world.mint(Kind::Own, 2);
    assert_eq!(look_up(&world.host.connect(), Some(&tokens[0])).await, Status::NotFound);
    assert_eq!(look_up(&world.host.connect(), Some(&tokens[0])).await, Status::TokenSpent);
    let world = world.restart(Tokens::default()).await;
    let connection = world.host.connect();
    assert_eq!(look_up(&connection, Some(&tokens[0])).await, Status::TokenSpent);
    assert_eq!(look_up(&connection, None).await, Status::TokenRequired, "nothing was bought by it");
    assert_eq!(look_up(&connection, Some(&tokens[1])).await, Status::NotFound, "the key is the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_redeemed_once_on_two_connections_at_a_time() {
    let world = start(Tokens { credit_per_token: 1, ..Tokens::default() }).await;
    let connections = [world.host.connect(), world.host.connect()];
    for token in world.mint(Kind::Own, 50) {
        let [one, other] = &connections;
        let mut outcomes = <[Status; 2]>::from(tokio::join!(look_up(one, Some(&token)), look_up(other, Some(&token))));
        outcomes.sort();
        assert_eq!(outcomes, [Status::NotFound, Status::TokenSpent]);
        for connection in &connections {
            assert_eq!(look_up(connection, None).await, Status::TokenRequired);
        }
    }
}

#[tokio::test]
async fn what_is_no_token_of_this_homeserver_buys_nothing() {
    let world = start(Tokens::default()).await;
    let good = world.mint(Kind::Own, 1).remove(0);
    let unknown = mint(&IssuerKey::from_seed(Secret::new([9; 32])).unwrap(), "a.test", 1).remove(0);
    let elsewhere = mint(&world.issuer(Kind::Own).key, "b.test", 1).remove(0);
    let mut bad = vec![
        unknown,
        elsewhere,
        Token { token_type: 1, ..good.clone() },
        Token { token_key_id: *world.issuer(Kind::Foreign).key.id(), ..good.clone() },
    ];
    for bit in (0..512).step_by(37) {
        let mut changed = good.clone();
        changed.authenticator[bit / 8] ^= 1 << (bit % 8);
        bad.push(changed);
    }
    let connection = world.host.connect();
    for token in &bad {
        assert_eq!(look_up(&connection, Some(token)).await, Status::Unauthenticated);
    }
    assert_eq!(look_up(&connection, None).await, Status::TokenRequired);
    assert_eq!(world.rows(Table::AsSpentTokens).await, 0);
    assert_eq!(look_up(&connection, Some(&good)).await, Status::NotFound);
}

#[tokio::test]
async fn foreign_tokens_make_no_groups_and_are_used_up_first() {
    let world = start(Tokens { credit_per_token: 2, ..Tokens::default() }).await;
    let (own, foreign) = (world.mint(Kind::Own, 1).remove(0), world.mint(Kind::Foreign, 1).remove(0));
    let connection = world.host.connect();
    assert_eq!(group_id(&connection, Some(&foreign)).await, Status::TokenRequired);
    // The token was redeemed all the same, and what it bought is good for other things.
    assert_eq!(look_up(&connection, Some(&own)).await, Status::NotFound);
    assert_eq!(look_up(&connection, None).await, Status::NotFound);
    assert_eq!(group_id(&connection, None).await, Status::Ok);
    assert_eq!(group_id(&connection, None).await, Status::Ok);
    assert_eq!(look_up(&connection, None).await, Status::TokenRequired);
}

#[tokio::test]
async fn prices_are_what_the_operator_says() {
    let prices = vec![(Method::AsGetConnectionPackage, 3), (Method::DsRequestGroupId, 0)];
    let world = start(Tokens { credit_per_token: 4, prices, ..Tokens::default() }).await;
    let tokens = world.mint(Kind::Own, 2);
    let connection = world.host.connect();
    assert_eq!(group_id(&connection, Some(&tokens[0])).await, Status::Ok, "free");
    assert_eq!(world.rows(Table::AsSpentTokens).await, 0);
    assert_eq!(look_up(&connection, Some(&tokens[0])).await, Status::NotFound);
    assert_eq!(look_up(&connection, None).await, Status::TokenRequired, "1 of 3 is left");
    assert_eq!(look_up(&connection, Some(&tokens[1])).await, Status::NotFound);
    let info = ask::<call::ServerInfo>(&connection, None, None, &GetServerInfo {}).await.unwrap().token_policy;
    let price = |method| info.prices.iter().find(|price| price.method == method as u16).map(|price| price.credit);
    assert_eq!(price(Method::AsGetConnectionPackage), Some(3));
    assert_eq!(price(Method::DsRequestGroupId), None);
    assert_eq!(price(Method::DsSendMessage), Some(1));
}

/// Bytes that no method takes are refused before anything is charged, and exempt methods are never refused for want of
/// credit; what is charged is refused for that before its handler sees it (`tests/authorisation.rs` proves each sender).
#[tokio::test]
async fn methods_without_a_sender_are_charged_as_the_table_says() {
    let world = start(Tokens::default()).await;
    for method in Method::ALL.iter().filter(|method| !method::is_streaming(**method as u16)) {
        let connection = world.host.connect();
        let exchange = connection.open().await.unwrap();
        let request = Request {
            version: VERSION,
            method: *method as u16,
            auth: Vec::new(),
            token: None,
            body: vec![0xff; 3].into(),
        };
        let response = exchange.request(request.to_vec().into(), 1 << 20).await.unwrap();
        let refusal = Response::from_bytes(response).unwrap().into_result().unwrap_err();
        assert_ne!(refusal.status, Status::TokenRequired, "{method:?}");
    }
}

#[tokio::test]
async fn tokens_are_issued_against_an_allowance_that_comes_back() {
    let world = start(Tokens { allowance: 10, ..Tokens::default() }).await;
    let who = register(&world).await;
    let connection = world.host.connect();
    let issuer = world.issuer(Kind::Own);
    world.wait(DAY / 4);
    let (first, state) = request_for(&issuer, 6);
    let tokens = state.finish(issue(&connection, &who, &first).await.unwrap().response.as_slice()).unwrap();
    assert_eq!(look_up(&connection, Some(&tokens[0])).await, Status::NotFound);
    // More than is left.
    let (second, _) = request_for(&issuer, 5);
    let refused = issue(&connection, &who, &second).await.err().unwrap();
    assert_eq!(refused.status, Status::RateLimited);
    assert_eq!(refused.message, "4 of 10 tokens are left in this period");
    assert_eq!(refused.retry_after, Some(std::time::Duration::from_millis(3 * DAY / 4)));
    let (third, _) = request_for(&issuer, 4);
    issue(&connection, &who, &third).await.unwrap();
    let one = request_for(&issuer, 1).0;
    assert_eq!(issue(&connection, &who, &one).await.err().unwrap().status, Status::RateLimited);
    // Another client has its own.
    let other = register(&world).await;
    issue(&connection, &other, &one).await.unwrap();
    world.wait(3 * DAY / 4 - 1);
    assert_eq!(issue(&connection, &who, &one).await.err().unwrap().status, Status::RateLimited);
    world.wait(1);
    let (all, _) = request_for(&issuer, 10);
    issue(&connection, &who, &all).await.unwrap();
    // What was issued in earlier periods is forgotten, and only that.
    assert_eq!(world.rows(Table::AsAllowances).await, 2);
    world.dispatcher.maintain_tokens().await.unwrap();
    assert_eq!(world.rows(Table::AsAllowances).await, 1);
    assert_eq!(issue(&connection, &who, &one).await.err().unwrap().status, Status::RateLimited);
}

#[tokio::test]
async fn a_request_whose_answer_was_lost_is_answered_again_and_counted_once() {
    let world = start(Tokens { allowance: 5, ..Tokens::default() }).await;
    let who = register(&world).await;
    let connection = world.host.connect();
    let issuer = world.issuer(Kind::Own);
    let (request, state) = request_for(&issuer, 5);
    let first = issue(&connection, &who, &request).await.unwrap();
    // Also when another key has taken over in between.
    world.dispatcher.rotate_issuer(Kind::Own).await.unwrap();
    let again = issue(&connection, &who, &request).await.unwrap();
    let elements = |issued: &TokensIssued| issued.response.as_slice()[..162].to_vec();
    assert_eq!(elements(&first), elements(&again), "the same tokens");
    assert_eq!(state.finish(again.response.as_slice()).unwrap().len(), 5);
    let newest = world.issuer(Kind::Own);
    assert_eq!(issue(&connection, &who, &request_for(&newest, 1).0).await.err().unwrap().status, Status::RateLimited);
    assert!(issue(&connection, &who, &request).await.is_ok(), "a refused request is not remembered");
}

#[tokio::test]
async fn two_requests_at_a_time_do_not_get_more_than_the_allowance() {
    let world = start(Tokens { allowance: 5, ..Tokens::default() }).await;
    let who = register(&world).await;
    let issuer = world.issuer(Kind::Own);
    let [one, other] = [world.host.connect(), world.host.connect()];
    let requests = [request_for(&issuer, 3).0, request_for(&issuer, 3).0];
    let outcomes = tokio::join!(issue(&one, &who, &requests[0]), issue(&other, &who, &requests[1]));
    assert!(outcomes.0.is_ok() != outcomes.1.is_ok());
}

#[tokio::test]
async fn what_is_no_request_for_tokens_is_refused_and_not_counted() {
    let world = start(Tokens { allowance: 3, ..Tokens::default() }).await;
    let who = register(&world).await;
    let connection = world.host.connect();
    let (issuer, foreign) = (world.issuer(Kind::Own), world.issuer(Kind::Foreign));
    let (good, _) = request_for(&issuer, 3);
    let mut no_element = good.clone();
    no_element[5..37].fill(0xff);
    for (request, status) in [
        (&good[..good.len() - 1], Status::Malformed),
        (&no_element[..], Status::Malformed),
        (&request_for(&foreign, 1).0[..], Status::NotFound),
    ] {
        assert_eq!(issue(&connection, &who, request).await.err().unwrap().status, status);
    }
    let stranger = (who.0.clone(), SigningKey::generate(&mut system_rng()).unwrap());
    assert_eq!(issue(&connection, &stranger, &good).await.err().unwrap().status, Status::Unauthenticated);
    let mut elsewhere = who.0.clone();
    elsewhere.user.domain = "b.test".parse().unwrap();
    let elsewhere = (elsewhere, stranger.1);
    assert_eq!(issue(&connection, &elsewhere, &good).await.err().unwrap().status, Status::FederationDenied);
    assert_eq!(world.rows(Table::AsAllowances).await, 0);
    issue(&connection, &who, &good).await.unwrap();
}

#[tokio::test]
async fn keys_follow_each_other_and_the_tokens_of_a_dropped_one_are_forgotten() {
    let policy = Tokens::default();
    let world = start(policy.clone()).await;
    let (first, old) = (world.issuer(Kind::Own), world.mint(Kind::Own, 3));
    assert_eq!(look_up(&world.host.connect(), Some(&old[0])).await, Status::NotFound);
    // Nothing is due.
    world.dispatcher.maintain_tokens().await.unwrap();
    assert_eq!(world.issuer(Kind::Own).number, first.number);
    // A day before the key stops to issue, the next one takes over; both redeem.
    world.wait(29 * DAY + 1_000);
    world.dispatcher.maintain_tokens().await.unwrap();
    let second = world.issuer(Kind::Own);
    assert!(second.number > first.number && second.key.truncated_id() != first.key.truncated_id());
    let credentials = ask::<call::AsGetCredentials>(&world.host.connect(), None, None, &GetCredentials {}).await;
    let keys = credentials.unwrap().issuer_keys;
    assert_eq!(keys.iter().filter(|key| key.foreign).count(), 2);
    let now = world.clock.now().seconds();
    let own: Vec<_> = keys.iter().filter(|key| !key.foreign).collect();
    assert_eq!(own[0].public_key.as_slice(), second.key.public_key());
    assert_eq!((own[0].issues_until, own[0].not_after), (now + 30 * 86_400, now + 60 * 86_400));
    assert_eq!((own[1].issues_until, own[1].not_after), (now, first.not_after));
    assert_eq!(look_up(&world.host.connect(), Some(&old[1])).await, Status::NotFound);
    let new = world.mint(Kind::Own, 2);
    assert_eq!(look_up(&world.host.connect(), Some(&new[0])).await, Status::NotFound);
    assert_eq!(world.rows(Table::AsSpentTokens).await, 3);
    // All of it is there after a restart.
    let world = world.restart(policy.clone()).await;
    assert_eq!(world.issuer(Kind::Own).number, second.number);
    // The first key's time is over at once, whether or not the job has run.
    world.clock.0.store((first.not_after + 1) * 1_000, Ordering::SeqCst);
    assert_eq!(look_up(&world.host.connect(), Some(&old[2])).await, Status::Unauthenticated);
    world.dispatcher.maintain_tokens().await.unwrap();
    assert_eq!(world.rows(Table::AsSpentTokens).await, 1, "the second key's");
    assert_eq!(look_up(&world.host.connect(), Some(&old[0])).await, Status::Unauthenticated);
    assert_eq!(look_up(&world.host.connect(), Some(&new[0])).await, Status::TokenSpent);
    assert_eq!(look_up(&world.host.connect(), Some(&new[1])).await, Status::NotFound);
    // Even after years without the job, a start makes a key that issues.
    world.wait(1_000 * DAY);
    let world = world.restart(policy).await;
    let token = world.mint(Kind::Own, 1).remove(0);
    assert_eq!(look_up(&world.host.connect(), Some(&token)).await, Status::NotFound);
    assert_eq!(world.rows(Table::AsSpentTokens).await, 1);
}

#[tokio::test]
async fn an_operator_replaces_keys_but_not_without_end() {
    let world = start(Tokens::default()).await;
    let old = world.mint(Kind::Own, 1).remove(0);
    let foreign = world.issuer(Kind::Foreign).number;
    let mut numbers = vec![world.issuer(Kind::Own).number];
    for _ in 1..MAX_ROTATED {
        numbers.push(world.dispatcher.rotate_issuer(Kind::Own).await.unwrap());
    }
    assert!(numbers.is_sorted_by(|a, b| a < b));
    let refused = world.dispatcher.rotate_issuer(Kind::Own).await.unwrap_err();
    assert_eq!(refused.status, Status::QuotaExceeded);
    assert_eq!(world.issuer(Kind::Foreign).number, foreign, "the other kind is left alone");
    assert_eq!(look_up(&world.host.connect(), Some(&old)).await, Status::NotFound);
    let mut ids: Vec<_> =
        world.dispatcher.authentication.issuers.public().iter().map(|key| key.public_key.clone()).collect();
    ids.sort_by(|a, b| a.as_slice().cmp(b.as_slice()));
    ids.dedup();
    assert_eq!(ids.len(), MAX_ROTATED + 1);
}

#[test]
fn credit_has_a_limit() {
    let credit = Credit::default();
    credit.add(Kind::Own, u32::MAX);
    credit.add(Kind::Own, u32::MAX);
    credit.add(Kind::Foreign, 5);
    assert!(credit.charge(Method::DsCreateGroup, MAX_CREDIT + 1).is_err());
    assert!(credit.charge(Method::DsSendMessage, MAX_CREDIT + 5).is_ok());
    assert!(credit.charge(Method::DsSendMessage, 1).is_err());
}
