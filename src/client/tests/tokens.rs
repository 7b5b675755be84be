//! Clients that pay: tokens are obtained in batches, sent once each, and missed clearly when there are no more.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::{
    client::{network::Sender, state::tokens},
    service::policy,
    store::{Key, Limit, Table},
    wire::{Encode, Request, Response, Token, VERSION, authentication::GetConnectionPackage, method::call},
};

/// A clock that is set by hand.
pub(super) struct Hands(pub(super) AtomicU64);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

async fn start(tokens: policy::Tokens) -> Arc<Homeserver> {
    let policy = Policy { tokens, ..Policy::default() };
    Homeserver::start_under(QueueLimits::default(), policy, Arc::new(SystemClock)).await
}

impl Homeserver {
    async fn redeemed(&self) -> usize {
        let rows = self.store().pending().scan(Table::AsSpentTokens, Key::new().., Limit::rows(10_000)).await;
        rows.unwrap().len()
    }
}

/// A request that costs something, and whose answer is that there is no such user: each time another, because look-ups of
/// one user are counted.
async fn look_up(user: &User) -> Result<(), ClientError> {
    let request = GetConnectionPackage { user: UserId { uuid: crate::crypto::random(&mut system_rng()), ..user.id() } };
    let network = &user.client.0.network;
    let domain = user.id().domain;
    let answer =
        network.call::<call::AsGetConnectionPackage>(&domain, Isolation::Anonymous, Sender::Nobody, &request).await;
    match answer {
        Err(ClientError::Refused(refusal)) if refusal.status == crate::base::Status::NotFound => Ok(()),
        other => other.map(drop),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_a_client_gets_other_tokens_at_the_first_that_was_spent() {
    let server = start(policy::Tokens { credit_per_token: 1, ..policy::Tokens::default() }).await;
    let (alice, copy) = server.register("Alice").await.copied().await;
    let in_the_copy = alice.client.tokens().await.unwrap();
    for _ in 0..in_the_copy {
        look_up(&alice).await.unwrap();
    }
    let alice = alice.restored(copy).await;
    let before = server.redeemed().await;
    for n in 1..=3 {
        look_up(&alice).await.unwrap();
        assert_eq!(server.redeemed().await, before + n);
    }
    assert_eq!(alice.client.tokens().await.unwrap(), 50 - 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_obtained_in_batches_before_the_last_is_used() {
    let server = start(policy::Tokens { credit_per_token: 1, ..policy::Tokens::default() }).await;
    let alice = server.register("Alice").await;
    let at_registration = server.redeemed().await;
    assert!(at_registration >= 2, "the pseudonym and its packages were paid for");
    assert_eq!(alice.client.tokens().await.unwrap() as usize, 50 - at_registration);
    for n in 1..=120 {
        look_up(&alice).await.unwrap();
        assert!(alice.client.tokens().await.unwrap() > 0);
        assert_eq!(server.redeemed().await, at_registration + n);
    }
    let left = alice.client.tokens().await.unwrap() as usize;
    assert_eq!((left + at_registration + 120) % 50, 0);
    alice.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_the_same_time_share_a_token() {
    let server = start(policy::Tokens::default()).await;
    let alice = Arc::new(server.register("Alice").await);
    let before = alice.client.tokens().await.unwrap();
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let alice = alice.clone();
            tokio::spawn(async move { look_up(&alice).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(alice.client.tokens().await.unwrap(), before - 1);
    look_up(&alice).await.unwrap();
    assert_eq!(alice.client.tokens().await.unwrap(), before - 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_somebody_else_has_spent_is_replaced_by_another_and_so_are_those_beside_it() {
    let server = start(policy::Tokens::default()).await;
    let alice = server.register("Alice").await;
    let stored = alice.client.0.database.run(|connection| {
        let sql = "SELECT token FROM tokens ORDER BY not_after, nonce LIMIT 1";
        let token: Vec<u8> = connection.query_row(sql, [], |row| row.get(0))?;
        Ok::<_, ClientError>(Token::from_slice(&token)?)
    });
    let token = Some(stored.await.unwrap());
    let body = GetConnectionPackage { user: alice.id() }.to_vec().into();
    let method = Method::AsGetConnectionPackage as u16;
    let request = Request { version: VERSION, method, auth: Vec::new(), token, body };
    let exchange = server.host.connect().open().await.unwrap();
    let response = exchange.request(request.to_vec().into(), 1 << 20).await.unwrap();
    Response::from_bytes(response).unwrap().into_result().unwrap();
    look_up(&alice).await.unwrap();
    assert_eq!(alice.client.tokens().await.unwrap(), 50 - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_obtained_where_nothing_costs_anything() {
    let server = start(policy::Tokens { required: false, ..policy::Tokens::default() }).await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    befriend(&alice, &bob).await;
    assert_eq!(alice.client.tokens().await.unwrap(), 0);
    assert_eq!(server.redeemed().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_allowance_is_used_up_says_so_and_loses_nothing() {
    let tokens = policy::Tokens { credit_per_token: 1, allowance: 40, ..policy::Tokens::default() };
    let policy = Policy { tokens, ..Policy::default() };
    let day = SystemClock.now().day();
    let clock = Arc::new(Hands(AtomicU64::new(day.start().0 + 3_600_000)));
    let server = Homeserver::start_under(QueueLimits::default(), policy, clock.clone()).await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = befriend(&alice, &bob).await;
    let mut error = None;
    while error.is_none() {
        error = look_up(&alice).await.err();
    }
    let error = error.unwrap();
    assert_eq!(error.status(), "rate_limited");
    assert_eq!(error.to_string(), "the allowance of tokens is used up; try again in 23 h 0 min");
    assert_eq!(alice.client.tokens().await.unwrap(), 0);
    let started = tokio::time::Instant::now();
    let sent = alice.client.send(&chat, Content::Text("late".into())).await;
    assert!(matches!(sent, Err(ClientError::UsedUp(_))), "{sent:?}");
    assert!(started.elapsed() < patience().patience, "nobody waits for the next day");
    // What costs nothing goes on, and so does another process of the same client.
    bob.say(&chat, "hello").await;
    let alice = alice.reopen().await;
    assert!(matches!(alice.client.sync().await, Err(ClientError::UsedUp(_))));
    assert!(bob.hear().await.is_empty());
    clock.0.store(day.plus(1).start().0, Ordering::SeqCst);
    assert_eq!(alice.hear().await, [said("Bob", "hello")]);
    assert_eq!(bob.hear().await, [said("Alice", "late")]);
    alice.no_problems().await;
    bob.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_never_sent_twice_wherever_its_process_stops() {
    let server = start(policy::Tokens { credit_per_token: 1, ..policy::Tokens::default() }).await;
    let mut alice = server.register("Alice").await;
    let mut before = alice.client.tokens().await.unwrap();
    for carried_out in [false, true, false, true] {
        // The price list is asked for first, then the request with the token goes out.
        let hang = Hang { after: 1, carried_out };
        let user = UserId { uuid: [1; 16], ..alice.id() };
        let stopped;
        (alice, stopped) = alice
            .reopen()
            .await
            .stopped(hang, async move |client| {
                let _ = client.connect(&user).await;
            })
            .await;
        assert!(stopped);
        let left = alice.client.tokens().await.unwrap();
        assert_eq!(left, before - 1, "taken out before it was sent");
        before = left;
    }
    assert_eq!(server.redeemed().await, server.handler.tokens.lock().unwrap().0.len() - 2);
    look_up(&alice).await.unwrap();
    alice.no_problems().await;
}

#[tokio::test]
async fn tokens_that_nobody_redeems_any_more_are_not_used() {
    let home = tempfile::tempdir().unwrap();
    let database = Database::open(home.path()).await.unwrap();
    let token = |n: u8| Token {
        token_type: 5,
        nonce: [n; 32],
        challenge_digest: [0; 32],
        token_key_id: [0; 32],
        authenticator: [0; 64],
    };
    database
        .run(move |connection| {
            let (a, b): (Domain, Domain) = ("a.test".parse().unwrap(), "b.test".parse().unwrap());
            tokens::insert(connection, &a, &[token(1), token(2)], 100)?;
            tokens::insert(connection, &a, &[token(3)], 200)?;
            assert_eq!((tokens::count(connection, &a, 100)?, tokens::count(connection, &a, 101)?), (3, 1));
            assert_eq!(tokens::take(connection, &b, 100)?, (None, 0), "each homeserver has its own");
            assert_eq!(tokens::take(connection, &a, 100)?, (Some(token(1)), 2));
            assert_eq!(tokens::take(connection, &a, 101)?, (Some(token(3)), 0));
            assert_eq!(tokens::take(connection, &a, 101)?, (None, 0));
            Ok::<_, ClientError>(())
        })
        .await
        .unwrap();
}
