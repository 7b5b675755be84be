//! A token is redeemed once, however often the homeserver is killed while it is being redeemed, and by however many
//! connections; and what the command line says of tokens.
#![cfg(feature = "cli")]

mod support;

use std::time::{Duration, Instant};

use bennu::{
    base::{Domain, Status, UserId},
    client::{Connector, Isolation, QuicConnector},
    crypto::{privacy_pass, signature::SigningKey},
    transport::Connection,
    wire::{
        Encode, Method, Opaque, Request, Response, SenderId, Token, VERSION,
        authentication::{GetConnectionPackage, GetCredentials, IssueTokens},
        method::call,
    },
};
use support::{DOMAIN, Server, below, raw, rng, within};

const ROUNDS: usize = 20;

fn domain() -> Domain {
    DOMAIN.parse().unwrap()
}

async fn connect(server: &Server) -> Connection {
    let ca = std::fs::read(server.ca()).unwrap();
    let connector = QuicConnector::new(domain(), Some(server.address().to_string()), Some(&ca)).unwrap();
    within("a connection", connector.connect(&domain(), &Isolation::Anonymous)).await.unwrap()
}

async fn issue(connection: &Connection, sender: &SenderId, key: &SigningKey, count: usize) -> Vec<Token> {
    let credentials = raw::call::<call::AsGetCredentials>(connection, None, &GetCredentials {}).await.unwrap();
    let issuer = credentials.issuer_keys.iter().find(|key| !key.foreign).expect("a key issues");
    let (request, state) = privacy_pass::Request::new(issuer.public_key.as_slice(), &domain(), count).unwrap();
    let request = IssueTokens { request: request.into(), credential: None };
    let issued = raw::call::<call::AsIssueTokens>(connection, Some((sender.clone(), key)), &request).await.unwrap();
    state.finish(issued.response.as_slice()).unwrap()
}

/// What a request is answered with that costs something and finds nothing: `not_found` if the token has paid for it.
/// Nothing, if the connection breaks before there is an answer.
async fn redeem(connection: Connection, token: Token) -> Option<Status> {
    let user = UserId { uuid: [1; 16], domain: domain() };
    let body = Opaque(GetConnectionPackage { user }.to_vec().into());
    let method = Method::AsGetConnectionPackage as u16;
    let request = Request { version: VERSION, method, auth: Vec::new(), token: Some(token), body };
    let exchange = connection.open().await.ok()?;
    let response = exchange.request(request.to_vec().into(), 1 << 20).await.ok()?;
    let response: Response = bennu::wire::Decode::from_bytes(response).unwrap();
    Some(response.into_result().unwrap_err().status)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_redeemed_once_however_often_the_homeserver_is_killed() {
    let mut rng = rng("tokens");
    let mut server = Server::start().await;
    drop(server.register("Alice").await);
    let state = raw::State::of(&server.path("Alice"));
    let (sender, key) = (SenderId::AsClient(state.client()), state.identity());
    let tokens = issue(&connect(&server).await, &sender, &key, ROUNDS).await;
    let (mut before, mut after, mut unknown) = (0, 0, 0);
    for token in tokens {
        let connections = [connect(&server).await, connect(&server).await, connect(&server).await];
        let attempts = connections.clone().map(|connection| tokio::spawn(redeem(connection, token.clone())));
        // The kill comes at a random moment of the redemption, which takes less than timers can tell.
        let (started, moment) = (Instant::now(), Duration::from_micros(below(&mut rng, 4_000)));
        while started.elapsed() < moment {
            tokio::task::yield_now().await;
        }
        server.kill().await;
        server.restart().await;
        // What was answered has arrived while it started; the rest never will.
        connections.iter().for_each(Connection::close);
        let mut redeemed = 0;
        for attempt in attempts {
            match within("the end of an attempt", attempt).await.unwrap() {
                Some(Status::NotFound) => redeemed += 1,
                Some(Status::TokenSpent) | None => {}
                Some(other) => panic!("{other}"),
            }
        }
        before += redeemed;
        // The first may be the one that succeeds, if no answer has come before.
        for again in 0..3 {
            match redeem(connect(&server).await, token.clone()).await.expect("an answer") {
                Status::NotFound => {
                    assert_eq!((again, redeemed), (0, 0), "redeemed twice");
                    redeemed += 1;
                    after += 1;
                }
                status => assert_eq!(status, Status::TokenSpent),
            }
        }
        assert!(redeemed <= 1, "redeemed {redeemed} times");
        unknown += 1 - redeemed;
    }
    println!("tokens: {ROUNDS} SIGKILLs; {before} redeemed before, {after} after, {unknown} with nobody told; 0 twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_tells_how_many_tokens_are_left_and_when_there_are_more() {
    let server = Server::start_with("[tokens]\ncredit_per_token = 1\nallowance = 60\n").await;
    let (alice, bob) = (server.cli("Alice"), server.cli("Bob"));
    alice.register().await;
    let id = bob.register().await;
    let left = alice.run(&["tokens"]).await.one()["tokens"].as_u64().unwrap();
    assert!((40..50).contains(&left), "{left}");
    alice.connect(&bob, &id).await;
    assert!(alice.run(&["tokens"]).await.one()["tokens"].as_u64().unwrap() < left);
    let refused = loop {
        let said = alice.run(&["group", "create", "another"]).await;
        if !said.status.success() {
            break said;
        }
    };
    assert_eq!(refused.failure(), "rate_limited");
    assert!(refused.stderr.contains("the allowance of tokens is used up; try again in "), "{refused:?}");
    assert_eq!(alice.run(&["tokens"]).await.one()["tokens"], 0);
}
