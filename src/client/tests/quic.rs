//! The same over QUIC, with a socket per isolation context.

use std::net::{Ipv4Addr, SocketAddr};

use super::*;
use crate::{
    node::certificates,
    transport::{Endpoint, tls},
};

#[tokio::test(flavor = "multi_thread")]
async fn two_users_connect_and_talk_over_quic() {
    let server = Homeserver::start().await;
    let domain: Domain = "a.test".parse().unwrap();
    let pem = certificates::generate(&domain, std::time::SystemTime::now()).unwrap();
    let identity = tls::Identity::from_pem(pem.server_chain.as_bytes(), pem.server_key.as_bytes()).unwrap();
    let endpoint = Endpoint::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Settings::default()).unwrap();
    let serving = endpoint.serve(identity, tls::roots(&[]).unwrap(), server.handler.clone()).unwrap();
    tokio::spawn(serving);
    let at = endpoint.local_addr().unwrap().to_string();

    let register = async |name: &str| {
        let home = tempfile::tempdir().unwrap();
        let options = RegisterOptions {
            domain: domain.clone(),
            at: Some(at.clone()),
            places: Vec::new(),
            ca: Some(pem.authority.clone().into_bytes()),
            name: name.into(),
            password: PASSWORD.into(),
            invitation: None,
        };
        let client = Client::register(home.path(), options).await.unwrap();
        User { home, client, server: server.clone() }
    };
    let (alice, bob) = (register("Alice").await, register("Bob").await);
    let chat = befriend(&alice, &bob).await;
    let mut events = bob.client.events();
    alice.say(&chat, "hello").await;
    while !matches!(events.next().await.unwrap(), Event::Message { .. }) {}
    assert_eq!(bob.read().await, [said("Alice", "hello")]);
    drop(events);
    // Another process finds the homeserver by what the first one stored.
    let home = bob.home;
    drop(bob.client);
    let bob = Client::open(home.path()).await.unwrap();
    bob.send(&chat, Content::Text("hi".into())).await.unwrap();
    assert_eq!(alice.hear().await, [said("Bob", "hi")]);
    alice.no_problems().await;
    endpoint.shutdown().await;
}
