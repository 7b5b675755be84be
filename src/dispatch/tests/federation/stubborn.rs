//! Peers that are of no use, in all ways there are: each costs little, and none keeps the others waiting.

use super::*;
use crate::service::policy::Rates;

fn domain(name: &str) -> Domain {
    name.parse().unwrap()
}

/// A homeserver that is patient for a moment only, and one that behaves as it is told.
async fn with_peer(patience: Duration, manner: Manner) -> (Land, World, Arc<Peer>) {
    let land = Land::default();
    let a = World::of_land_with(&land, "a.test", |parts| parts.peer_settings.patience = patience).await;
    let peer = Peer::new();
    *peer.manner.lock().unwrap() = manner;
    land.host("c.test", peer.clone());
    a.learns("c.test").await;
    (land, a, peer)
}

impl World {
    /// Blocks a homeserver, or takes that back.
    fn block(&self, peer: &str, blocked: bool) {
        self.dispatcher.parts.federation.rules.set(domain(peer), blocked.then_some(Rule::Blocked));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_for_which_nothing_waits_any_more_is_left_alone() {
    let land = Land::default();
    let (a, b) = (World::of_land(&land, "a.test").await, World::of_land(&land, "b.test").await);
    let owner = b.create().await;
    let config = b.seal(&owner).await;
    a.learns("b.test").await;
    b.learns("a.test").await;
    land.cut_off("b.test");
    assert_eq!(a.number(&config, 1).await, 0);
    a.clock.pass(31);
    assert_eq!(a.delivered("b.test").await, 1, "it has expired");
    a.state_of("b.test", |state| *state == State::Idle).await;
    let dials = land.map().dials;
    land.mend("b.test");
    // And there is a worker again when there is something to do.
    assert_eq!(a.number(&config, 2).await, 0);
    assert_eq!(b.numbers(&owner, 1).await, [2]);
    assert_eq!(land.map().dials, dials + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_acknowledges_nothing_is_given_up_however_much_comes() {
    for manner in [Manner::Silent, Manner::Acknowledges] {
        let (_, a, _) = with_peer(Duration::from_millis(300), manner).await;
        let (config, given_up) = (
            config_at("c.test"),
            |state: &State| matches!(state, State::Failing { why, .. } if why.contains("acknowledges nothing")),
        );
        let failing = async {
            for number in 0.. {
                a.number(&config, number).await;
                if a.dispatcher.federation_peers().await.unwrap().iter().any(|peer| given_up(&peer.state)) {
                    return;
                }
            }
        };
        timeout(Duration::from_secs(60), failing).await.expect("it is given up");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_nothing_is_tried_less_and_less_often() {
    let (_, a, _) = with_peer(Duration::from_secs(60), Manner::Ends).await;
    assert_eq!(a.number(&config_at("c.test"), 1).await, 0);
    a.state_of("c.test", |state| matches!(state, State::Failing { failures: 4.., .. })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_peers_that_do_not_answer_keep_nobody_waiting() {
    const SILENT: usize = 1_000;
    let land = Land::default();
    let (a, b) = (World::of_land(&land, "a.test").await, World::of_land(&land, "b.test").await);
    let owner = b.create().await;
    let config = b.seal(&owner).await;
    a.learns("b.test").await;
    for number in 0..SILENT {
        let name = format!("silent{number}.test");
        a.knows(&name).await;
        land.map().silent.insert(domain(&name));
        assert_eq!(a.number(&config_at(&name), 1).await, 0);
    }
    assert_eq!(a.number(&config, 1).await, 0);
    assert_eq!(b.numbers(&owner, 1).await, [1]);
    let peers = a.dispatcher.federation_peers().await.unwrap();
    assert_eq!(peers.iter().filter(|peer| peer.state == State::Connecting).count(), SILENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_wait_for_no_more_peers_than_they_may() {
    let land = Land::default();
    let a = World::of_land_with(&land, "a.test", |parts| parts.peer_settings.max_peers = 2).await;
    for name in ["b.test", "c.test", "d.test"] {
        land.host(name, Peer::new());
        a.learns(name).await;
        land.cut_off(name);
    }
    assert_eq!(a.number(&config_at("b.test"), 1).await, 0);
    assert_eq!(a.number(&config_at("c.test"), 1).await, 0);
    assert_eq!(a.number(&config_at("d.test"), 1).await, 1, "it is not taken");
    assert_eq!(a.number(&config_at("c.test"), 2).await, 0);
    assert_eq!(a.dispatcher.federation_peers().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn blocking_ends_whatever_is_under_way_and_hurries_nobody_else() {
    let (land, a, _) = with_peer(Duration::from_secs(60), Manner::Silent).await;
    let config = config_at("c.test");
    // While it is being dialled.
    land.map().silent.insert(domain("c.test"));
    assert_eq!(a.number(&config, 1).await, 0);
    a.state_of("c.test", |state| *state == State::Connecting).await;
    a.block("c.test", true);
    a.state_of("c.test", |state| *state == State::Denied).await;
    land.map().silent.clear();
    a.block("c.test", false);
    // While it takes frames.
    a.state_of("c.test", |state| *state == State::Connected).await;
    a.block("c.test", true);
    a.state_of("c.test", |state| *state == State::Denied).await;
    drop(a);

    // While there is a pause, which decisions about others do not end.
    let (hour, land) = (Duration::from_secs(3_600), Land::default());
    let a = World::of_land_with(&land, "a.test", |parts| {
        (parts.peer_settings.first_pause, parts.peer_settings.longest_pause) = (hour, hour);
    })
    .await;
    land.host("c.test", Peer::new());
    a.learns("c.test").await;
    land.cut_off("c.test");
    assert_eq!(a.number(&config, 1).await, 0);
    a.state_of("c.test", |state| matches!(state, State::Failing { .. })).await;
    let dials = land.map().dials;
    a.block("d.test", true);
    a.block("c.test", true);
    a.state_of("c.test", |state| *state == State::Denied).await;
    a.block("e.test", true);
    assert_eq!(land.map().dials, dials);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_sends_too_much_is_taken_as_much_from_as_it_may_send() {
    let land = Land::default();
    let rates = Rates { messages_per_peer: 4, ..Rates::default() };
    let b = World::of_land_with(&land, "b.test", |parts| parts.policy.change(|policy| policy.rates = rates)).await;
    let peer = Peer::new();
    land.host("c.test", peer.clone());
    let owner = b.create().await;
    let (config, c) = (b.seal(&owner).await, domain("c.test"));
    let connection = land.connect("b.test", &["c.test"]);
    let (_, mut frames) = open_delivery(&connection, "c.test").await.unwrap();
    let mut messages = Vec::new();
    for number in 0..6 {
        messages.push(message(&b, "c.test", number, numbered(&c, number as u32), &config).await);
    }
    frames.send(peer.frame(messages)).await.unwrap();
    assert_eq!(b.numbers(&owner, 4).await, [0, 1, 2, 3]);
    // Another stream gets it no further.
    let (next, mut others) = open_delivery(&connection, "c.test").await.unwrap();
    assert_eq!(next, 4);
    others.send(peer.frame(vec![message(&b, "c.test", 9, numbered(&c, 9), &config).await])).await.unwrap();
    assert_eq!(b.found(&owner).await, [0, 1, 2, 3]);
    b.clock.pass(1);
    assert_eq!(acknowledged(&mut others).await, Ok(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_lets_questions_lie_does_not_keep_others_from_being_asked() {
    let land = Land::default();
    let a = World::of_land(&land, "a.test").await;
    land.host("c.test", Peer::new());
    land.map().silent.insert(domain("b.test"));
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let dispatcher = a.dispatcher.clone();
        asking.spawn(async move { dispatcher.learn(&domain("b.test")).await.unwrap_err().status });
    }
    // All but those few that wait for an answer.
    for _ in 0..196 {
        assert_eq!(asking.join_next().await.unwrap().unwrap(), Status::Overloaded);
    }
    a.learns("c.test").await;
    while let Some(refused) = asking.join_next().await {
        assert_eq!(refused.unwrap(), Status::RemoteUnreachable);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_keys_are_too_many_or_none_is_not_believed_and_those_before_stay() {
    let (_land, a, peer) = with_peer(Duration::from_secs(60), Manner::Acknowledges).await;
    let c = domain("c.test");
    let good = peer.keys.lock().unwrap().clone();
    let key = good.hpke_keys[0].clone();
    for hpke_keys in [Vec::new(), vec![key; 1_000]] {
        peer.keys.lock().unwrap().hpke_keys = hpke_keys;
        let refused = a.dispatcher.learn(&c).await.unwrap_err();
        assert_eq!(refused.status, Status::RemoteUnreachable);
        // Nor when they are asked for with a delivery.
        let given = peer.keys.lock().unwrap().clone();
        a.dispatcher.known.learn(&c, given, false, a.dispatcher.parts.clock.now()).await.unwrap();
        assert_eq!(*a.dispatcher.known.find(&c).await.unwrap().unwrap(), good);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_shows_again_and_again_that_it_is_there_is_tried_no_more_often_for_that() {
    let land = Land::default();
    let long = |parts: &mut Parts| parts.peer_settings.first_pause = Duration::from_secs(600);
    let a = World::of_land_with(&land, "a.test", long).await;
    let peer = Peer::new();
    *peer.manner.lock().unwrap() = Manner::Ends;
    land.host("c.test", peer.clone());
    a.learns("c.test").await;
    a.number(&config_at("c.test"), 0).await;
    let failing = |state: &State| matches!(state, State::Failing { .. });
    a.state_of("c.test", failing).await;
    let before = land.map().dials;
    for _ in 0..50 {
        open_delivery_to(&land.connect("a.test", &["c.test"]), "c.test", "a.test", [1; 16]).await.unwrap();
    }
    a.state_of("c.test", failing).await;
    assert_eq!(land.map().dials, before);
}

/// Delivers messages with these numbers, all of which are acknowledged.
async fn sends(land: &Land, b: &World, source: &str, peer: &Peer, config: &ClientQueueConfig, numbers: &[u32]) {
    let (next, mut frames) = open_delivery(&land.connect("b.test", &[source]), source).await.unwrap();
    let mut messages = Vec::new();
    for (sequence, number) in (next..).zip(numbers) {
        messages.push(message(b, source, sequence, numbered(&domain(source), *number), config).await);
    }
    frames.send(peer.frame(messages)).await.unwrap();
    assert_eq!(acknowledged(&mut frames).await, Ok(next + numbers.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_sends_too_much_to_a_queue_or_config_keeps_no_other_from_it() {
    for of_queue in [true, false] {
        let mut rates = Rates::default();
        *(if of_queue { &mut rates.peer_messages_per_queue } else { &mut rates.peer_messages_per_config }) = 2;
        let land = Land::default();
        let b = World::of_land_with(&land, "b.test", |parts| parts.policy.change(|policy| policy.rates = rates)).await;
        let (c, d) = (Peer::new(), Peer::new());
        land.host("c.test", c.clone());
        land.host("d.test", d.clone());
        let owner = b.create().await;
        let (config, another) = (b.seal(&owner).await, b.seal(&owner).await);
        sends(&land, &b, "c.test", &c, &config, &[1, 2, 3]).await;
        assert_eq!(b.found(&owner).await, [1, 2], "what is beyond is dropped");
        // Another config leads into the same queue.
        sends(&land, &b, "c.test", &c, &another, &[4]).await;
        let so_far: &[u32] = if of_queue { &[1, 2] } else { &[1, 2, 4] };
        assert_eq!(b.found(&owner).await, so_far);
        sends(&land, &b, "d.test", &d, &config, &[5, 6, 7]).await;
        assert_eq!(b.found(&owner).await, [so_far, &[5, 6]].concat(), "another one may send as much");
    }
}
