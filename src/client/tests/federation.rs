//! Users of different homeservers: they find each other, talk to homeservers that are not theirs, and are kept from nothing by
//! one that is not there.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{tokens::Hands, *};
use crate::{base::Status, federation::Rule};

const MINUTE: u64 = 60_000;
const DAY: u64 = 86_400_000;

/// Homeservers whose clocks are set by hand.
pub async fn start_on<const N: usize>(
    world: &Arc<World>,
    clock: &Arc<Hands>,
    domains: [&str; N],
) -> [Arc<Homeserver>; N] {
    let mut servers = Vec::new();
    for domain in domains {
        servers.push(world.start(domain, QueueLimits::default(), Policy::default(), clock.clone()).await);
    }
    servers.try_into().unwrap_or_else(|_| unreachable!("there are as many as domains"))
}

/// A clock that is right at first.
pub fn hands() -> Arc<Hands> {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    Arc::new(Hands(AtomicU64::new(u64::try_from(now).unwrap())))
}

impl User {
    async fn tokens_of(&self, domain: &Domain) -> u32 {
        self.client.0.network.tokens().count(domain).await.unwrap()
    }

    /// Who wants to connect.
    async fn asked_by(&self) -> Vec<UserId> {
        self.client.sync().await.unwrap();
        self.client.requests().await.unwrap().into_iter().map(|request| request.from).collect()
    }

    async fn decline_all(&self) {
        for request in self.client.requests().await.unwrap() {
            self.client.decline(&request.id).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_another_homeserver_is_found_by_its_id_and_by_an_alias() {
    let world = World::of_many();
    let [a, b] = world.start_all(["a.test", "b.test"]).await;
    let (alice, bob) = (a.register("Alice").await, b.register("Bob").await);
    bob.client.register_alias("bobby").await.unwrap();
    world.dialled();
    for by_alias in [false, true] {
        let chat = if by_alias {
            alice.client.connect_alias("Bobby", &b.domain).await.unwrap()
        } else {
            alice.client.connect(&bob.id()).await.unwrap()
        };
        assert_eq!(chat.domain, a.domain, "a chat is where its founder is");
        assert_eq!(bob.asked_by().await, [alice.id()]);
        assert_eq!(bob.client.requests().await.unwrap()[0].name, "Alice");
        bob.decline_all().await;
        alice.client.sync().await.unwrap();
        assert_eq!(alice.state(&chat).await, ChatState::Declined);
    }
    // As whom each has spoken to the other's homeserver: to get tokens as the user, and else as nobody.
    let dialled: HashSet<_> = world.dialled().into_iter().collect();
    let elsewhere: HashSet<_> = dialled.into_iter().filter(|(_, role)| matches!(role, Isolation::Identity)).collect();
    assert_eq!(
        elsewhere,
        HashSet::from([(a.domain.clone(), Isolation::Identity), (b.domain.clone(), Isolation::Identity)])
    );
    let missing = UserId { uuid: [1; 16], domain: b.domain.clone() };
    assert_eq!(alice.client.connect(&missing).await.unwrap_err().status(), Status::NotFound.name());
    for user in [&alice, &bob] {
        user.no_problems().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_another_homeserver_are_few_and_kept_apart_from_the_own_ones() {
    let world = World::of_many();
    let [a, b] = world.start_all(["a.test", "b.test"]).await;
    let (alice, bob) = (a.register("Alice").await, b.register("Bob").await);
    let own = alice.tokens_of(&a.domain).await;
    assert_eq!(alice.tokens_of(&b.domain).await, 0);
    alice.client.connect(&bob.id()).await.unwrap();
    assert_eq!(alice.tokens_of(&b.domain).await, 9, "one of ten was used");
    assert!(alice.tokens_of(&a.domain).await <= own);
    assert_eq!(alice.client.tokens().await.unwrap(), alice.tokens_of(&a.domain).await);
    // Another process finds them.
    let alice = alice.reopen().await;
    assert_eq!(alice.tokens_of(&b.domain).await, 9);
    assert_eq!(bob.asked_by().await, [alice.id()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_is_not_dealt_with_gives_no_tokens_and_says_so() {
    let world = World::of_many();
    let [a, b] = world.start_all(["a.test", "b.test"]).await;
    let (alice, bob) = (a.register("Alice").await, b.register("Bob").await);
    world.rules(&b.domain).set(a.domain.clone(), Some(Rule::Blocked));
    assert_eq!(alice.client.connect(&bob.id()).await.unwrap_err().status(), Status::FederationDenied.name());
    world.rules(&b.domain).set(a.domain.clone(), None);
    alice.client.connect(&bob.id()).await.unwrap();
    assert_eq!(bob.asked_by().await, [alice.id()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_allowlist_nobody_connects_with_others_until_they_are_on_it() {
    let world = World::of_many();
    let (home, other): (Domain, Domain) = ("a.test".parse().unwrap(), "b.test".parse().unwrap());
    world.deals_with_named_ones_only(&home);
    let [a, b] = world.start_all(["a.test", "b.test"]).await;
    let (alice, bob) = (a.register("Alice").await, b.register("Bob").await);
    // From outside: nothing is issued to clients of the other.
    assert_eq!(bob.client.connect(&alice.id()).await.unwrap_err().status(), Status::FederationDenied.name());
    // From inside: the other homeserver takes the offer, and its user is not taken into the group.
    let chat = alice.client.connect(&bob.id()).await.unwrap();
    bob.client.sync().await.unwrap();
    let request = bob.client.requests().await.unwrap().remove(0);
    assert_eq!(bob.client.accept(&request.id).await.unwrap_err().status(), Status::FederationDenied.name());
    assert_eq!(bob.client.requests().await.unwrap().len(), 1, "it is not lost");
    // The operator thinks again.
    world.rules(&home).set(other, Some(Rule::Allowed));
    assert_eq!(bob.client.accept(&request.id).await.unwrap(), chat);
    alice.client.sync().await.unwrap();
    bob.say(&chat, "so we may").await;
    assert_eq!(alice.hear().await, [said("Bob", "so we may")]);
    alice.no_problems().await;
    bob.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_from_a_homeserver_that_is_down_waits_until_it_can_be_asked() {
    let (world, clock) = (World::of_many(), hands());
    let [a, b] = start_on(&world, &clock, ["a.test", "b.test"]).await;
    let (alice, bob, carol) = (a.register("Alice").await, b.register("Bob").await, b.register("Carol").await);
    bob.client.register_alias("bobby").await.unwrap();
    alice.client.connect(&bob.id()).await.unwrap();
    alice.client.connect_alias("bobby", &b.domain).await.unwrap();
    world.set_down(&a.domain, true);
    carol.client.connect(&bob.id()).await.unwrap();
    assert_eq!(bob.asked_by().await, [carol.id()], "others are not in its way");
    bob.decline_all().await;
    assert!(bob.asked_by().await.is_empty());
    world.set_down(&a.domain, false);
    world.dialled();
    // It is not asked again at once, but in a while; nothing is lost when the client stops.
    assert!(bob.asked_by().await.is_empty());
    assert!(world.dialled().iter().all(|(to, _)| *to == b.domain));
    clock.0.fetch_add(3 * MINUTE, Ordering::SeqCst);
    let bob = bob.reopen().await;
    assert_eq!(bob.asked_by().await, [alice.id(), alice.id()]);
    assert_eq!(bob.client.problems().await.unwrap(), Vec::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_from_a_homeserver_that_stays_away_is_dropped_after_a_month() {
    let (world, clock) = (World::of_many(), hands());
    // OpenMLS has a clock of its own, which must not be behind.
    clock.0.fetch_sub(40 * DAY, Ordering::SeqCst);
    let [a, b] = start_on(&world, &clock, ["a.test", "b.test"]).await;
    let (alice, bob) = (a.register("Alice").await, b.register("Bob").await);
    alice.client.connect(&bob.id()).await.unwrap();
    world.set_down(&a.domain, true);
    assert!(bob.asked_by().await.is_empty());
    clock.0.fetch_add(31 * DAY, Ordering::SeqCst);
    assert!(bob.asked_by().await.is_empty());
    let problems = bob.client.problems().await.unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].1.contains("could not be asked for a month"), "{problems:?}");
    world.set_down(&a.domain, false);
    clock.0.fetch_add(DAY, Ordering::SeqCst);
    assert!(bob.asked_by().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_whose_homeserver_has_never_heard_of_its_sender_is_refused() {
    let (world, clock) = (World::of_many(), hands());
    let [a, b] = start_on(&world, &clock, ["a.test", "b.test"]).await;
    let (alice, bob) = (a.register("Alice").await, b.register("Bob").await);
    alice.client.connect(&bob.id()).await.unwrap();
    // Another one has taken the place, with keys of its own.
    a.handler.disconnect();
    let [other] = start_on(&world, &clock, ["a.test"]).await;
    assert!(bob.asked_by().await.is_empty());
    let problems = bob.client.problems().await.unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].1.contains("the credentials of a.test cannot be had"), "{problems:?}");
    // Its own users are believed.
    clock.0.fetch_add(2 * MINUTE, Ordering::SeqCst);
    let amy = other.register("Amy").await;
    amy.client.connect(&bob.id()).await.unwrap();
    assert_eq!(bob.asked_by().await, [amy.id()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_of_another_homeserver_are_pinned() {
    let (world, clock) = (World::of_many(), hands());
    let [a, b] = start_on(&world, &clock, ["a.test", "b.test"]).await;
    let (alice, bob) = (a.register("Alice").await, b.register("Bob").await);
    alice.client.connect(&bob.id()).await.unwrap();
    assert_eq!(bob.asked_by().await, [alice.id()]);
    a.handler.disconnect();
    let [other] = start_on(&world, &clock, ["a.test"]).await;
    clock.0.fetch_add(2 * MINUTE, Ordering::SeqCst);
    let mallory = other.register("Alice").await;
    mallory.client.connect(&bob.id()).await.unwrap();
    assert_eq!(bob.asked_by().await, [alice.id()]);
    clock.0.fetch_add(8 * DAY, Ordering::SeqCst);
    assert_eq!(bob.asked_by().await, [alice.id()]);
    let error = bob.client.connect(&mallory.id()).await.unwrap_err();
    assert!(error.to_string().contains("no root credential of the domain follows"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_to_be_sent_to_a_homeserver_that_is_down_keeps_nothing_else_waiting() {
    let world = World::of_many();
    let [a, b] = world.start_all(["a.test", "b.test"]).await;
    let (alice, amy, bob) = (a.register("Alice").await, a.register("Amy").await, b.register("Bob").await);
    let chat = bob.client.connect(&alice.id()).await.unwrap();
    assert_eq!(alice.asked_by().await, [bob.id()]);
    world.set_down(&b.domain, true);
    let request = alice.client.requests().await.unwrap().remove(0).id;
    let declined = tokio::time::timeout(Duration::from_millis(300), alice.client.decline(&request)).await;
    assert!(declined.is_err(), "it is being tried");
    let here = befriend(&alice, &amy).await;
    alice.say(&here, "he cannot be told yet").await;
    assert_eq!(amy.hear().await, [said("Alice", "he cannot be told yet")]);
    let alice = alice.reopen().await;
    alice.client.set_name("Alicia").await.unwrap();
    world.set_down(&b.domain, false);
    alice.client.sync().await.unwrap();
    bob.client.sync().await.unwrap();
    assert_eq!(bob.state(&chat).await, ChatState::Declined);
    alice.no_problems().await;
}
