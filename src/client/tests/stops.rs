//! Replies that get lost, and processes that stop anywhere: nothing is lost, nothing comes twice.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_does_no_harm_whatever_it_answers() {
    let server = Homeserver::start().await;
    server.lose(Method::AsFinishRegistration, 1);
    let alice = server.register("Alice").await;
    assert!(server.lost_all());
    server.lose(Method::QsPublishKeyPackages, 1);
    let bob = server.register("Bob").await;
    server.lose(Method::DsCreateGroup, 1);
    let chat = alice.client.connect(&bob.id()).await.unwrap();
    assert!(server.lost_all());
    server.lose(Method::AsDequeue, 1);
    bob.client.sync().await.unwrap();
    assert!(server.lost_all());
    let request = bob.client.requests().await.unwrap().remove(0);
    server.lose(Method::DsJoinConnectionGroup, 1);
    bob.client.accept(&request.id).await.unwrap();
    assert!(server.lost_all());
    server.lose(Method::QsDequeue, 2);
    alice.client.sync().await.unwrap();
    assert!(server.lost_all());
    server.lose(Method::DsSendMessage, 2);
    alice.say(&chat, "once").await;
    assert!(server.lost_all());
    assert_eq!(bob.hear().await, [said("Alice", "once")]);

    let group = alice.client.create_group("Group").await.unwrap();
    server.lose(Method::DsAddUsers, 1);
    alice.client.invite(&group, &[bob.id()]).await.unwrap();
    assert!(server.lost_all());
    server.lose(Method::DsWelcomeInfo, 1);
    bob.client.sync().await.unwrap();
    assert!(server.lost_all());
    bob.say(&group, "in").await;
    server.lose(Method::DsRemoveUsers, 1);
    alice.client.remove(&group, &[bob.id()]).await.unwrap();
    assert!(server.lost_all());
    assert_eq!(alice.hear().await, [said("Bob", "in")]);
    server.lose(Method::DsDeleteGroup, 1);
    alice.client.delete_group(&group).await.unwrap();
    assert!(server.lost_all());
    assert_eq!(alice.state(&group).await, ChatState::Deleted);
    bob.client.sync().await.unwrap();
    alice.no_problems().await;
    bob.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_stopped_goes_on() {
    let server = Homeserver::start().await;
    let home = tempfile::tempdir().unwrap();
    let options = RegisterOptions {
        domain: "a.test".parse().unwrap(),
        at: None,
        places: Vec::new(),
        ca: None,
        name: "Alice".into(),
        password: PASSWORD.into(),
        invitation: None,
    };
    // The process stops while one method after the other is on its way.
    for method in [Method::AsInitRegistration, Method::AsFinishRegistration, Method::QsCreateUser] {
        server.lose(method, usize::MAX);
        let impatient = Options { patience: Duration::from_millis(300), ..Options::default() };
        let outcome = Client::register_over(home.path(), options.clone(), server.connector(), impatient).await;
        assert!(matches!(outcome, Err(ClientError::Unreachable(_))), "{method:?}");
    }
    *server.handler.lose.lock().unwrap() = None;
    let client = Client::open_over(home.path(), server.connector(), patience()).await.unwrap();
    let id = client.whoami().0;
    let busy =
        tokio::time::timeout(Duration::from_secs(1), Client::open_over(home.path(), server.connector(), patience()));
    assert!(busy.await.is_err(), "the home is in use, and that is waited for");
    drop(client);
    let again = Client::register_over(home.path(), options, server.connector(), patience()).await;
    assert_eq!(again.err().unwrap().status(), "already_registered");
    let bob = server.register("Bob").await;
    assert!(bob.client.connect(&id).await.is_ok());
}

/// Every place at which a request may be cut: `n` requests go through, and the next is or is not carried out.
fn places(n: usize) -> impl Iterator<Item = Hang> {
    (0..n).flat_map(|after| [false, true].map(|carried_out| Hang { after, carried_out }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_while_it_syncs_loses_and_repeats_nothing() {
    let server = Homeserver::start().await;
    let (alice, mut bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = befriend(&alice, &bob).await;
    let group = alice.client.create_group("Group").await.unwrap();
    alice.client.invite(&group, &[bob.id()]).await.unwrap();
    let (mut heard, mut expected, mut stops) = (Vec::new(), Vec::new(), 0);
    for (round, hang) in places(6).enumerate() {
        for to in [&chat, &group] {
            let text = format!("{round} to {to}");
            alice.say(to, &text).await;
            expected.push(said("Alice", &text));
        }
        alice.client.0.change(&group, Intent::Update).await.unwrap();
        let body = "x".repeat(5_000 + round);
        alice.say(&group, &body).await;
        expected.push(said("Alice", &body));
        let other = alice.client.create_group("Another").await.unwrap();
        alice.client.invite(&other, &[bob.id()]).await.unwrap();
        alice.say(&other, "welcome").await;
        expected.push(said("Alice", "welcome"));
        let stopped;
        (bob, stopped) = bob.stopped(hang, |client| async move { client.sync().await.unwrap() }).await;
        stops += usize::from(stopped);
        heard.extend(bob.read().await);
    }
    heard.extend(bob.hear().await);
    assert_eq!(heard, expected);
    assert!(stops > 6, "{stops}");
    alice.no_problems().await;
    bob.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_while_it_sends_has_sent_in_the_end() {
    let server = Homeserver::start().await;
    let (alice, mut bob) = (server.register("Alice").await, server.register("Bob").await);
    befriend(&alice, &bob).await;
    let group = alice.client.create_group("Group").await.unwrap();
    alice.client.invite(&group, &[bob.id()]).await.unwrap();
    bob.client.sync().await.unwrap();
    let mut expected = Vec::new();
    for (round, hang) in places(4).chain(places(4)).enumerate() {
        let (to, text) = (group.clone(), round.to_string());
        expected.push(said("Bob", &text));
        // Bob does not know of this commit when he encrypts.
        alice.client.0.change(&group, Intent::Update).await.unwrap();
        let send = |client: Client| async move {
            client.send(&to, Content::Text(text.as_str().into())).await.unwrap();
        };
        (bob, _) = bob.stopped(hang, send).await;
        bob.client.sync().await.unwrap();
    }
    assert_eq!(alice.hear().await, expected);
    alice.no_problems().await;
    bob.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_while_it_changes_a_group_can_go_on() {
    let server = Homeserver::start().await;
    let (mut alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    befriend(&alice, &bob).await;
    for hang in places(6) {
        let who = [bob.id()];
        let name = format!("{} {}", hang.after, hang.carried_out);
        let change = |client: Client| async move {
            let group = client.create_group(&name).await.unwrap();
            client.invite(&group, &who).await.unwrap();
            client.remove(&group, &who).await.unwrap();
        };
        (alice, _) = alice.stopped(hang, change).await;
        alice.client.sync().await.unwrap();
    }
    let chats = alice.client.chats().await.unwrap();
    for chat in chats.iter().filter(|chat| chat.kind == ChatKind::Group) {
        assert_eq!(chat.state, ChatState::Active);
        alice.client.invite(&chat.chat, &[bob.id()]).await.unwrap();
        alice.say(&chat.chat, &chat.name).await;
        assert_eq!(bob.hear().await, [said("Alice", &chat.name)]);
        bob.say(&chat.chat, "yes").await;
        assert_eq!(alice.hear().await, [said("Bob", "yes")]);
    }
    alice.no_problems().await;
    bob.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_stop_while_they_connect_are_connected_in_the_end() {
    let server = Homeserver::start().await;
    let mut alice = server.register("Alice").await;
    for hang in places(7) {
        let mut other = server.register("Other").await;
        let (who, place) = (other.id(), format!("{} {}", hang.after, hang.carried_out));
        let connect = |client: Client| async move { client.connect(&who).await.map(drop).unwrap() };
        (alice, _) = alice.stopped(hang, connect).await;
        let chat = alice.client.connect(&other.id()).await.unwrap();
        other.client.sync().await.unwrap();
        let requests = other.client.requests().await.unwrap();
        assert_eq!(requests.len(), 1, "{place}");
        let id = requests[0].id.clone();
        let accept = |client: Client| async move { client.accept(&id).await.map(drop).unwrap() };
        (other, _) = other.stopped(hang, accept).await;
        for request in other.client.requests().await.unwrap() {
            assert_eq!(other.client.accept(&request.id).await.unwrap(), chat, "{place}");
        }
        other.say(&chat, "connected").await;
        assert_eq!(alice.hear().await, [said("Other", "connected")], "{place}");
        alice.say(&chat, "indeed").await;
        assert_eq!(other.hear().await, [said("Alice", "indeed")], "{place}");
        other.no_problems().await;
    }
    alice.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn used_up_packages_are_replaced_and_a_last_resort_leaf_is_renewed() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    befriend(&alice, &bob).await;
    // More groups than Bob has KeyPackages, while he is away.
    let mut groups = Vec::new();
    for n in 0..packages::KEY_PACKAGES + 3 {
        let group = alice.client.create_group(&format!("Group {n}")).await.unwrap();
        alice.client.invite(&group, &[bob.id()]).await.unwrap();
        groups.push(group);
    }
    bob.client.sync().await.unwrap();
    bob.client.sync().await.unwrap();
    alice.client.sync().await.unwrap();
    for group in &groups {
        bob.say(group, "here").await;
    }
    assert_eq!(alice.hear().await.len(), groups.len());
    let unused = bob.client.0.database.run(keys::unused_package_keys).await.unwrap();
    assert_eq!(unused, packages::KEY_PACKAGES);
    let stale = bob.client.0.database.run(state::chats::all_chats).await.unwrap();
    assert!(stale.iter().all(|chat| !chat.stale_leaf && chat.next_leaf.is_none()));
    // More offers than Bob has connection packages.
    for n in 0..packages::CONNECTION_PACKAGES + 2 {
        let other = server.register(&format!("User {n}")).await;
        other.client.connect(&bob.id()).await.unwrap();
    }
    bob.client.sync().await.unwrap();
    assert_eq!(bob.client.requests().await.unwrap().len() as u32, packages::CONNECTION_PACKAGES + 2);
    alice.no_problems().await;
    bob.no_problems().await;
}
