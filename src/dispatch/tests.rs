//! The pipeline against a store that fails: what is not on disk is never acknowledged.

mod authentication;
pub(crate) mod federation;
mod push;
pub(crate) mod queuing;
mod refusals;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;

use super::*;
use crate::{
    base::{Refusal, Secret, SystemClock},
    crypto::{proof::RequestContext, random_secret, signature::SigningKey, system_rng},
    service::policy::Tokens,
    store::{Fault, Faults, MemoryEngine, Options},
    transport::{Connection, Settings, memory},
    wire::{
        Call, Decode, Request, SenderId, VERSION,
        method::call,
        queuing::{CreateQueuingUser, GetAddPackages, QueuingClient},
    },
};

/// A homeserver of which nothing is special.
fn parts(store: Store) -> Parts {
    Parts {
        domain: "a.test".parse().unwrap(),
        store,
        storage_key: StorageKey::new(Secret::new([7; 32])),
        incarnation: [1; 16],
        clock: Arc::new(SystemClock),
        entropy: Arc::new(|| Box::new(system_rng())),
        queue_limits: QueueLimits::default(),
        policy: Policy { tokens: Tokens { required: false, ..Tokens::default() }, ..Policy::default() }.into(),
        workers: Workers::for_this_machine(),
        max_wait: std::time::Duration::MAX,
        connection_limits: connection_limits(&Settings::default()),
        federation: Federation::none(),
        outbox_limits: Default::default(),
        peer_settings: Default::default(),
    }
}

async fn start(engine: impl crate::store::Engine, failed: Arc<AtomicBool>) -> Connection {
    let store = Store::open(engine, Options::new(move |_| failed.store(true, Ordering::SeqCst))).unwrap();
    let dispatcher = Dispatcher::start(parts(store));
    memory::connect(Arc::new(Service(dispatcher.await.unwrap())))
}

async fn ask<C: Call>(connection: &Connection, request: &C::Request) -> Result<C::Response, Refusal> {
    ask_by::<C>(connection, None, request).await
}

/// Asks as somebody, who signs that.
async fn ask_by<C: Call>(
    connection: &Connection,
    by: Option<(SenderId, &SigningKey)>,
    request: &C::Request,
) -> Result<C::Response, Refusal> {
    let (exchange, body) = (connection.open().await.unwrap(), request.to_vec());
    let (method, binding) = (C::METHOD as u16, connection.binding());
    let context = RequestContext { method, token: None, body: &body, binding, stream: exchange.id() };
    let auth = by.map(|(sender, key)| context.sign(sender, key)).into_iter().collect();
    let request = Request { version: VERSION, method, auth, token: None, body: body.into() };
    let response: Bytes = exchange.request(request.to_vec().into(), 1 << 20).await.unwrap();
    let body = Response::from_bytes(response).unwrap().into_result()?;
    Ok(C::Response::from_bytes(body).unwrap())
}

fn create_user(token: &Secret) -> CreateQueuingUser {
    let mut rng = system_rng();
    let key = SigningKey::generate(&mut rng).unwrap().verifying_key();
    let queue_key = crate::crypto::hpke::HpkePrivateKey::generate(&mut rng).unwrap().public_key();
    CreateQueuingUser {
        auth_key: key.clone(),
        friendship_token: token.clone(),
        client: QueuingClient { auth_key: key, queue_key, push_token: None },
    }
}

async fn a_failing_write_is_not_acknowledged(fault: Fault) {
    let engine = MemoryEngine::new();
    let (faults, failed) = (Faults::new(), Arc::new(AtomicBool::new(false)));
    let connection = start(faults.around(engine.clone()), failed.clone()).await;
    let first = create_user(&random_secret(&mut system_rng()));
    ask::<call::QsCreateUser>(&connection, &first).await.unwrap();
    assert!(!failed.load(Ordering::SeqCst));

    faults.fail_write(0, fault);
    let second = create_user(&random_secret(&mut system_rng()));
    let refused = ask::<call::QsCreateUser>(&connection, &second).await.unwrap_err();
    assert_eq!(refused.status, Status::Internal);
    assert!(failed.load(Ordering::SeqCst), "the node is told to stop");
    // From here on nothing is acknowledged, not even what would only be read.
    for request in [&first, &second] {
        let token = GetAddPackages { friendship_token: request.friendship_token.clone() };
        assert_ne!(ask::<call::QsGetAddPackages>(&connection, &token).await.unwrap_err().status, Status::Ok);
        assert!(ask::<call::QsCreateUser>(&connection, request).await.is_err());
    }

    // After a restart the acknowledged user is there, and the other one may be: it was not promised.
    let restarted = start(engine, Arc::new(AtomicBool::new(false))).await;
    let other = CreateQueuingUser { auth_key: second.auth_key, ..first };
    let again = ask::<call::QsCreateUser>(&restarted, &other).await.unwrap_err();
    assert_eq!(again.status, Status::AlreadyExists, "what was acknowledged is on disk");
}

#[tokio::test]
async fn a_write_that_fails_before_it_takes_effect_is_not_acknowledged() {
    a_failing_write_is_not_acknowledged(Fault::Before).await;
}

#[tokio::test]
async fn a_write_that_fails_after_it_took_effect_is_not_acknowledged() {
    a_failing_write_is_not_acknowledged(Fault::After).await;
}

#[tokio::test]
async fn a_reply_waits_until_its_write_is_durable() {
    let faults = Faults::new();
    let connection = start(faults.around(MemoryEngine::new()), Arc::default()).await;
    faults.hold();
    let request = create_user(&random_secret(&mut system_rng()));
    let mut reply = Box::pin(ask::<call::QsCreateUser>(&connection, &request));
    tokio::select! {
        biased;
        reply = &mut reply => panic!("acknowledged before it was durable: {reply:?}"),
        () = faults.wait_until_held() => {}
    }
    faults.release();
    reply.await.unwrap();
}

#[tokio::test]
async fn another_version_is_told_so_whatever_follows() {
    let connection = start(MemoryEngine::new(), Arc::default()).await;
    for (method, length) in [(Method::ServerInfo, 0), (Method::ServerInfo, 3_000), (Method::QsListen, 9)] {
        let exchange = connection.open().await.unwrap();
        let request = [&[0, 2][..], &(method as u16).to_be_bytes(), &vec![0xff; length]].concat();
        let response = Response::from_bytes(exchange.request(request.into(), 1 << 20).await.unwrap()).unwrap();
        assert_eq!(response.status, Status::UnsupportedVersion as u16, "{method:?}, {length} octets");
    }
}

/// OPAQUE is computed apart, a few at a time: while that is as busy as can be, everything else is answered.
#[tokio::test]
async fn a_burst_of_registrations_keeps_no_other_request_waiting() {
    use crate::{
        base::UserId,
        wire::{
            authentication::{GetCredentials, InitRegistration},
            server::GetServerInfo,
        },
    };
    let store = Store::open(MemoryEngine::new(), Options::new(|_| {})).unwrap();
    let workers = Workers::new(1);
    let mut policy = Policy::default();
    policy.rates.registrations_per_address = 1_000_000;
    let dispatcher = Dispatcher::start(Parts { policy: policy.into(), workers: workers.clone(), ..parts(store) });
    let host = memory::Host::new(Arc::new(Service(dispatcher.await.unwrap())), Settings::default());
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let (started, starts) = tokio::sync::oneshot::channel();
    let busy = tokio::spawn(async move {
        let block = move || {
            let _ = started.send(());
            blocked.recv().is_ok()
        };
        workers.run(block).await
    });
    starts.await.unwrap();

    // Twice as many as find a place in the line, each on a connection of its own.
    let mut registrations = tokio::task::JoinSet::new();
    for n in 0..600u32 {
        let connection = host.connect();
        let mut uuid = [0; 16];
        uuid[..4].copy_from_slice(&n.to_be_bytes());
        // The base point of ristretto255 (RFC 9496 appendix A.1).
        let element = crate::base::hex::decode("e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76");
        let user = UserId { uuid, domain: "a.test".parse().unwrap() };
        let request = InitRegistration { user, request: element.unwrap().into(), invitation: None };
        registrations.spawn(async move { ask::<call::AsInitRegistration>(&connection, &request).await });
    }
    // Those that find no place are told at once.
    let refused = registrations.join_next().await.unwrap().unwrap().unwrap_err();
    assert_eq!(refused.status, crate::base::Status::Overloaded);
    assert!(refused.retry_after.is_some());
    let other = host.connect();
    for _ in 0..100 {
        ask::<call::ServerInfo>(&other, &GetServerInfo {}).await.unwrap();
        ask::<call::AsGetCredentials>(&other, &GetCredentials {}).await.unwrap();
    }
    release.send(()).unwrap();
    assert_eq!(busy.await.unwrap(), Ok(true));
    let (mut done, mut refused) = (0, 1);
    while let Some(outcome) = registrations.join_next().await {
        match outcome.unwrap() {
            Ok(_) => done += 1,
            Err(refusal) => {
                assert_eq!(refusal.status, crate::base::Status::Overloaded);
                refused += 1;
            }
        }
    }
    assert!(done > 100 && refused > 100, "{done} done, {refused} refused");
}
