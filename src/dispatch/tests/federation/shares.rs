//! What is remembered of other homeservers, and how much of what is there for all one of them can take.

use super::*;

async fn rows(world: &World) -> [usize; 3] {
    let store = &world.dispatcher.parts.store;
    let count = async |table| store.pending().scan(table, Key::new().., Limit::rows(10)).await.unwrap().len();
    [count(Table::FedPeers).await, count(Table::FedHeads).await, count(Table::FedInbox).await]
}

#[tokio::test(flavor = "multi_thread")]
async fn homeservers_that_were_silent_for_a_year_are_forgotten_and_go_on_when_they_speak_again() {
    for (a_forgets, b_forgets) in [(true, false), (false, true), (true, true)] {
        let land = Land::default();
        let (a, b) = (World::of_land(&land, "a.test").await, World::of_land(&land, "b.test").await);
        let owner = b.create().await;
        let config = b.seal(&owner).await;
        a.learns("b.test").await;
        for number in 0..3 {
            assert_eq!(a.number(&config, number).await, 0);
        }
        assert_eq!(b.numbers(&owner, 3).await, [0, 1, 2]);
        a.delivered("b.test").await;
        assert_eq!((rows(&a).await, rows(&b).await), ([1, 1, 0], [1, 0, 1]));
        for world in [&a, &b] {
            world.clock.pass(399);
            assert_eq!(world.dispatcher.forget_peers().await.unwrap(), 0);
            world.clock.pass(1);
        }
        for (world, forgets) in [(&a, a_forgets), (&b, b_forgets)] {
            if forgets {
                assert_eq!(world.dispatcher.forget_peers().await.unwrap(), 1);
                assert_eq!(rows(world).await, [0; 3]);
                assert_eq!(world.dispatcher.forget_peers().await.unwrap(), 0);
            }
        }
        // In the queue of before the keys have changed.
        let owner = b.create().await;
        let config = b.seal(&owner).await;
        if a_forgets {
            assert_eq!(a.number(&config, 9).await, 1, "its keys have to be learnt first");
            a.learns("b.test").await;
        }
        for number in 3..6 {
            assert_eq!(a.number(&config, number).await, 0);
        }
        assert_eq!(b.numbers(&owner, 3).await, [3, 4, 5], "{a_forgets} {b_forgets}");
        a.delivered("b.test").await;
        a.state_of("b.test", |state| *state == State::Connected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_something_waits_for_or_that_is_dealt_with_is_not_forgotten() {
    let land = Land::default();
    let (a, b) = (World::of_land(&land, "a.test").await, World::of_land(&land, "b.test").await);
    let owner = b.create().await;
    let config = b.seal(&owner).await;
    a.learns("b.test").await;
    assert_eq!(a.number(&config, 1).await, 0);
    assert_eq!(b.numbers(&owner, 1).await, [1]);
    // Every time they begin anew they see that the other is there.
    let (mut a, mut b) = (a, b);
    for _ in 0..3 {
        a.clock.pass(200);
        b.clock.pass(200);
        (a, b) = (a.again(&land).await, b.again(&land).await);
        a.learns("b.test").await;
        b.learns("a.test").await;
        assert_eq!(a.dispatcher.forget_peers().await.unwrap() + b.dispatcher.forget_peers().await.unwrap(), 0);
    }
    a.knows("c.test").await;
    land.cut_off("c.test");
    a.clock.pass(500);
    b.clock.pass(500);
    a.learns("b.test").await;
    assert_eq!(a.number(&config_at("c.test"), 1).await, 0);
    assert_eq!(a.dispatcher.forget_peers().await.unwrap(), 0, "something waits for c.test until it is dropped");
    assert_eq!(rows(&a).await[0], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_a_domain_is_not_all_homeservers_that_something_may_wait_for() {
    let land = Land::default();
    let a = World::of_land_with(&land, "a.test", |parts| parts.peer_settings.max_peers_of_one = 2).await;
    let names = ["x.evil.test", "y.evil.test", "evil.test", "other.test"];
    for name in names {
        land.host(name, Peer::new());
        a.knows(name).await;
        land.cut_off(name);
    }
    let send = async |name| a.number(&config_at(name), 1).await;
    assert_eq!((send("x.evil.test").await, send("y.evil.test").await, send("evil.test").await), (0, 0, 1));
    let third: Domain = "evil.test".parse().unwrap();
    assert_eq!(a.dispatcher.learn(&third).await.unwrap_err().status, Status::Overloaded);
    assert_eq!(
        (send("other.test").await, send("x.evil.test").await),
        (0, 0),
        "others, and those that are there, go on"
    );
    a.dispatcher.set_federation_rule(third.clone(), Some(Rule::Allowed)).await.unwrap();
    assert_eq!(send("evil.test").await, 0, "the operator wants it");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_a_domain_does_not_keep_others_from_being_asked() {
    let land = Land::default();
    let a = World::of_land(&land, "a.test").await;
    land.host("c.test", Peer::new());
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..100 {
        let name: Domain = format!("n{number}.evil.test").parse().unwrap();
        land.map().silent.insert(name.clone());
        let dispatcher = a.dispatcher.clone();
        asking.spawn(async move { dispatcher.learn(&name).await.unwrap_err().status });
    }
    for _ in 0..96 {
        assert_eq!(asking.join_next().await.unwrap().unwrap(), Status::Overloaded);
    }
    a.learns("c.test").await;
    while let Some(refused) = asking.join_next().await {
        assert_eq!(refused.unwrap(), Status::RemoteUnreachable);
    }
}
