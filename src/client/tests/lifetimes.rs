//! How groups end that nobody deletes, and that an id is used once.

use super::{
    groups::{Later, status},
    hostile::Hostile,
    *,
};
use crate::{
    base::Status,
    client::commit::Intent,
    service::policy::Groups,
    store::{Key, Limit, Table},
    wire::{delivery::CreateGroup, method::call},
};

/// A group, and the request that has created it.
async fn create(alice: &User) -> (GroupId, CreateGroup) {
    let create = |client: Client| async move { _ = client.create_group("Trip").await };
    let request = CreateGroup::from_slice(&alice.given_up_at(Method::DsCreateGroup, create).await).unwrap();
    alice.client.0.flush().await.unwrap();
    (request.ticket.group.clone(), request)
}

/// How many rows there are of a group.
async fn rows_of(server: &Homeserver, group: &GroupId) -> [usize; 3] {
    let count = async |table| {
        let rows = Key::new().bytes(group.uuid).prefix();
        server.store().durable().scan(table, rows, Limit::rows(1_000)).await.unwrap().len()
    };
    [count(Table::DsHeads).await, count(Table::DsMeta).await, count(Table::DsLog).await]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_a_deleted_group_is_used_no_more() {
    let clock = Arc::new(Later::default());
    let server = Homeserver::start_under(QueueLimits::default(), Policy::default(), clock.clone()).await;
    let alice = server.register("Alice").await;
    let (group, request) = create(&alice).await;
    let by = Hostile::of(&alice, &group).await;
    by.send::<call::DsCreateGroup>(&request).await.expect("a repeat by the same leaf");
    alice.client.0.change(&group, Intent::Delete).await.unwrap();
    assert_eq!(rows_of(&server, &group).await, [0; 3]);
    // Its ticket is still valid, and remembered to be used.
    let refused = by.send::<call::DsCreateGroup>(&request).await.unwrap_err();
    assert_eq!(refused.status, Status::AlreadyExists);
    clock.pass(1);
    let refused = by.send::<call::DsCreateGroup>(&request).await.unwrap_err();
    assert_eq!(refused.status, Status::Forbidden, "its ticket is over");
    assert_eq!(rows_of(&server, &group).await, [0; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_nobody_has_used_for_too_long_is_dropped_and_one_in_use_is_not() {
    let clock = Arc::new(Later::default());
    let policy = Policy { groups: Groups { unused_months: 2, ..Groups::default() }, ..Policy::default() };
    let server = Homeserver::start_under(QueueLimits::default(), policy, clock.clone()).await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = befriend(&alice, &bob).await;
    let (group, request) = create(&alice).await;
    let by = Hostile::of(&alice, &group).await;
    assert_eq!(server.dispatcher().expire_groups().await.unwrap(), 0);
    // 40 days are at most two months more, 53 as well, and 93 are at least three.
    clock.pass(40);
    assert_eq!(server.dispatcher().expire_groups().await.unwrap(), 0);
    alice.say(&chat, "do we still talk?").await;
    bob.say(&chat, "we do").await;
    clock.pass(53);
    assert_eq!(server.dispatcher().expire_groups().await.unwrap(), 1);
    assert_eq!(rows_of(&server, &group).await, [0; 3]);
    assert_eq!(server.dispatcher().expire_groups().await.unwrap(), 0);
    assert_eq!(rows_of(&server, &chat).await[..2], [1, 1]);
    let refused = by.send::<call::DsCreateGroup>(&request).await.unwrap_err();
    assert_eq!(refused.status, Status::Forbidden, "no ticket lasts that long");
    // Its members are told when they want something of it.
    assert_eq!(status(alice.client.send(&group, Content::Text("anybody?".into())).await), "not_found");
    alice.client.sync().await.unwrap();
    assert_eq!(alice.state(&group).await, ChatState::Removed);
    alice.say(&chat, "here we are").await;
    assert_eq!(bob.hear().await, [said("Alice", "do we still talk?"), said("Alice", "here we are")]);
}
