//! Registrations, and tokens from when they are issued until they are spent: against bare cryptography and bare QUIC.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bennu::{
    base::{ClientId, Clock as _, Domain, Secret, SystemClock, UserId, limits::MAX_RESPONSE},
    crypto::{
        credential::request_client,
        hpke::{self, HpkePrivateKey},
        opaque::{self, OpaqueServer, Registration},
        privacy_pass::{IssuerKey, Request as Batch, TokenRequest, challenge_digest},
        proof, random, random_secret,
        signature::{SigningKey, verify},
        system_rng,
    },
    transport::Connection,
    wire::{
        Authentication, Call, Decode as _, Encode as _, Opaque, Proof, Request, Response, SenderId, VERSION,
        authentication::{FinishRegistration, GetCredentials, InitRegistration, IssueTokens},
        connection::{ConnectionPackage, ConnectionPackageTbs},
        credential::{AsIntermediateCredential, CIPHERSUITE, Validity},
        envelope::Token,
        label::{HpkeLabel, SignatureLabel},
        method::call,
        queuing::GetAddPackages,
        server::Bind,
    },
};
use tokio::task::JoinSet;

use crate::{
    Bench,
    floors::echo,
    micros,
    process::own_cpu,
    report::{Report, Target},
    server::Server,
    support::ask,
};

/// Connections at work.
const CLIENTS: usize = 16;

/// Tokens in a request.
const TOKENS: usize = 100;

/// What the reference needs of its processors for a registration (without OPAQUE), in microseconds.
const REFERENCE: f64 = 870.0;

/// The rows of the table that are about accounts.
pub async fn measure(bench: &Bench, report: &mut Report) {
    registrations(bench, report).await;
    tokens(bench, report).await;
}

/// Somebody who has not registered yet, with everything that a registration needs but the password: of that any record will do.
struct Newcomer {
    client: ClientId,
    key: SigningKey,
    finish: FinishRegistration,
}

fn validity(within: &Validity) -> Validity {
    let now = SystemClock.now().seconds();
    Validity { not_before: (now - 60).max(within.not_before), not_after: (now + 90 * 86_400).min(within.not_after) }
}

impl Newcomer {
    fn new(domain: &Domain, signer: &AsIntermediateCredential, record: &Opaque, queue_key: &HpkePrivateKey) -> Self {
        let mut rng = system_rng();
        let user = UserId { uuid: random(&mut rng), domain: domain.clone() };
        let client = ClientId { user, client: random(&mut rng) };
        let key = SigningKey::generate(&mut rng).expect("a key");
        let validity = validity(&signer.request.payload.validity);
        let content = ConnectionPackageTbs {
            client: client.clone(),
            ciphersuite: CIPHERSUITE,
            encryption_key: queue_key.public_key(),
            validity: validity.clone(),
        };
        let signature = key.sign(SignatureLabel::ConnectionPackage, &content);
        let finish = FinishRegistration {
            request: request_client(client.clone(), validity, signer, &key, None),
            record: record.clone(),
            queue_key: queue_key.public_key(),
            packages: vec![ConnectionPackage { content, signature }],
            profile: vec![7; 300].into(),
            invitation: None,
        };
        Self { client, key, finish }
    }
}

/// A RegistrationRequest, and a record that is one.
fn password() -> (Opaque, Opaque) {
    let mut rng = system_rng();
    let user = UserId { uuid: random(&mut rng), domain: "bench.test".parse().expect("a domain") };
    let (registration, request) = Registration::start(user.clone(), "a password", &mut rng).expect("it is blinded");
    let response =
        OpaqueServer::generate(&mut rng).start_registration(&user, request.as_slice()).expect("it is answered");
    let record = registration.finish("a password", response.as_slice(), &mut rng).expect("a record");
    (request, record)
}

async fn registrations(bench: &Bench, report: &mut Report) {
    let server = Server::start("bench.test");
    let anybody = server.connect().await;
    let (credentials, _) = ask::<call::AsGetCredentials>(&anybody, None, &GetCredentials {}).await;
    let (request, record) = password();
    let signer = &credentials.intermediates[0];
    let queue_key = HpkePrivateKey::generate(&mut system_rng()).expect("a key");
    let before = server.cpu();
    let (mut tasks, until) = (JoinSet::new(), Instant::now() + bench.time(6));
    for _ in 0..CLIENTS {
        let (connection, signer, domain) = (server.connect().await, signer.clone(), server.domain.clone());
        let (request, record) = (request.clone(), record.clone());
        let queue_key = HpkePrivateKey::from_secret(Secret::new(*queue_key.secret().expose())).expect("a key");
        tasks.spawn(async move {
            let mut count = 0;
            while Instant::now() < until {
                let Newcomer { client, key, finish } = Newcomer::new(&domain, &signer, &record, &queue_key);
                let init = InitRegistration { user: client.user.clone(), request: request.clone(), invitation: None };
                ask::<call::AsInitRegistration>(&connection, None, &init).await;
                ask::<call::AsFinishRegistration>(&connection, Some((SenderId::AsClient(client), &key)), &finish).await;
                count += 1;
            }
            count
        });
    }
    let count: usize = tasks.join_all().await.into_iter().sum();
    let each = micros(server.cpu() - before) / count as f64;
    drop(anybody);
    server.stop().await;

    let bare = bare_registration(&request, &record, &queue_key);
    let sizes = echo::Sizes { request: 1_200, response: 800, frame: 0, acknowledgement: 0 };
    let quic = 2.0 * micros(echo::measure(CLIENTS, sizes, bench.time(2)).await.cpu);
    report.ratio("registration: CPU", each, "us", bare + quic, Target::AtMost(1.5));
    report.note("  bare cryptography", bare, "us");
    report.note("  bare QUIC, two exchanges, CPU", quic, "us");
    report.value("registration: times less CPU than the reference", REFERENCE / each, "x", Target::AtLeast(1.0));
}

/// Processor time of something that is done so often, in microseconds.
fn timed(rounds: u32, mut work: impl FnMut()) -> f64 {
    let before = own_cpu();
    for _ in 0..rounds {
        work();
    }
    micros(own_cpu() - before) / f64::from(rounds)
}

/// Both halves of OPAQUE, three signatures checked (of the sender, of the request, of a package), one made, and a secret for the
/// queue sealed.
fn bare_registration(request: &Opaque, record: &Opaque, queue_key: &HpkePrivateKey) -> f64 {
    let mut rng = system_rng();
    let (server, key) = (OpaqueServer::generate(&mut rng), SigningKey::generate(&mut rng).expect("a key"));
    let user = UserId { uuid: random(&mut rng), domain: "bench.test".parse().expect("a domain") };
    let content = [7_u8; 32];
    let (label, public) = (SignatureLabel::ClientRequest, key.verifying_key());
    let signature = key.sign(label, &content);
    let queue_key = queue_key.public_key();
    timed(300, || {
        black_box(server.start_registration(&user, request.as_slice())).expect("it is answered");
        black_box(opaque::check_record(record.as_slice())).expect("a record");
        for _ in 0..3 {
            black_box(verify(&public, label, &content, &signature)).expect("it verifies");
        }
        black_box(key.sign(label, &content));
        black_box(hpke::seal(&queue_key, HpkeLabel::QueueSecret, &[], &[], &content, &mut rng)).expect("it is sealed");
    })
}

/// A request whose sender's key is bound, or that has none.
async fn send<C: Call>(
    connection: &Connection,
    sender: Option<&SenderId>,
    token: Option<Token>,
    body: &C::Request,
) -> Response {
    let auth =
        sender.map(|sender| Authentication { sender: sender.clone(), proof: Proof::Bound }).into_iter().collect();
    let (method, body) = (C::METHOD as u16, body.to_vec().into());
    let request = Request { version: VERSION, method, auth, token, body }.to_vec();
    let exchange = connection.open().await.expect("a stream");
    Response::from_bytes(exchange.request(request.into(), MAX_RESPONSE).await.expect("an answer")).expect("a response")
}

/// Processor time of the server for each of these tokens, which are spent on look-ups of nobody.
async fn redeem(server: &Server, wallet: Vec<Token>) -> f64 {
    let (count, mut parts) = (wallet.len(), Vec::new());
    for part in wallet.chunks(wallet.len().div_ceil(CLIENTS)) {
        parts.push((server.connect().await, part.to_vec()));
    }
    let (before, mut tasks) = (server.cpu(), JoinSet::new());
    for (connection, part) in parts {
        tasks.spawn(async move {
            for token in part {
                let nobody = GetAddPackages { friendship_token: random_secret(&mut system_rng()) };
                let refused = send::<call::QsGetAddPackages>(&connection, None, Some(token), &nobody).await;
                assert_eq!(refused.status, bennu::base::Status::NotFound as u16);
            }
        });
    }
    tasks.join_all().await;
    micros(server.cpu() - before) / count as f64
}

async fn tokens(bench: &Bench, report: &mut Report) {
    let server = Server::start_with_prices("bench.test");
    let connection = server.connect().await;
    let (credentials, _) = ask::<call::AsGetCredentials>(&connection, None, &GetCredentials {}).await;
    let (request, record) = password();
    let queue_key = HpkePrivateKey::generate(&mut system_rng()).expect("a key");
    let Newcomer { client, key, finish } =
        Newcomer::new(&server.domain, &credentials.intermediates[0], &record, &queue_key);
    let init = InitRegistration { user: client.user.clone(), request, invitation: None };
    ask::<call::AsInitRegistration>(&connection, None, &init).await;
    let sender = SenderId::AsClient(client);
    ask::<call::AsFinishRegistration>(&connection, Some((sender.clone(), &key)), &finish).await;
    let keys = vec![proof::bind(&key, connection.binding())];
    ask::<call::Bind>(&connection, None, &Bind { keys }).await;
    let issuer = credentials.issuer_keys.iter().find(|key| !key.foreign).expect("a key").public_key.clone();

    let mut wallet = Vec::new();
    for _ in 0..if bench.quick { 10 } else { 40 } {
        let (request, batch) = Batch::new(issuer.as_slice(), &server.domain, TOKENS).expect("a request");
        let request = IssueTokens { request: request.into(), credential: None };
        let (issued, _) = ask::<call::AsIssueTokens>(&connection, Some((sender.clone(), &key)), &request).await;
        wallet.extend(batch.finish(issued.response.as_slice()).expect("tokens"));
    }
    // The same request again is computed again, and counts once.
    let (bytes, _) = Batch::new(issuer.as_slice(), &server.domain, TOKENS).expect("a request");
    let again = IssueTokens { request: bytes.clone().into(), credential: None };
    let (before, until, mut count) = (server.cpu(), Instant::now() + bench.time(4), 0);
    while Instant::now() < until {
        let response = send::<call::AsIssueTokens>(&connection, Some(&sender), None, &again).await;
        response.into_result().expect("it is issued");
        count += TOKENS;
    }
    let issue = micros(server.cpu() - before) / count as f64;

    let sample = wallet[0].clone();
    let redeem = redeem(&server, wallet).await;
    let domain = server.domain.clone();
    drop(connection);
    server.stop().await;

    let ours = IssuerKey::from_seed(Secret::new([1; 32])).expect("a key");
    let (bytes, _) = Batch::new(ours.public_key(), &domain, TOKENS).expect("a request");
    let decoded = TokenRequest::decode(&bytes).expect("a request");
    let bare_issue = timed(20, || {
        black_box(ours.issue(&decoded, random_secret(&mut system_rng()))).expect("it is issued");
    }) / TOKENS as f64;
    let digest = challenge_digest(&domain).expect("a challenge");
    let sample = Token { token_key_id: *ours.id(), ..sample };
    let bare_redeem = timed(500, || {
        black_box(ours.verify(&sample, &digest));
    });
    let sizes = |request, response| echo::Sizes { request, response, frame: 0, acknowledgement: 0 };
    let time: Duration = bench.time(2);
    let quic_issue = micros(echo::measure(1, sizes(3_300, 3_300), time).await.cpu) / TOKENS as f64;
    let quic_redeem = micros(echo::measure(CLIENTS, sizes(210, 80), time).await.cpu);
    report.ratio("token issued, of 100: CPU", issue, "us", bare_issue + quic_issue, Target::AtMost(1.5));
    report.ratio("token redeemed: CPU", redeem, "us", bare_redeem + quic_redeem, Target::AtMost(1.5));
    report.note("  bare cryptography", bare_redeem, "us");
    report.note("  bare QUIC, CPU", quic_redeem, "us");
}
