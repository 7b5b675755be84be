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
        ca: None,
        name: "Alice".into(),
        password: PASSWORD.into(),
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

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_at_any_step_loses_and_repeats_nothing() {
    let server = Homeserver::start().await;
    let (alice, mut bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = befriend(&alice, &bob).await;
    let group = alice.client.create_group("Group").await.unwrap();
    alice.client.invite(&group, &[bob.id()]).await.unwrap();
    let mut expected = Vec::new();
    for n in 0..40 {
        let to = if n % 2 == 0 { &chat } else { &group };
        alice.say(to, &n.to_string()).await;
        expected.push(said("Alice", &n.to_string()));
        if n % 10 == 5 {
            alice.client.0.change(&group, Intent::Update).await.unwrap();
        }
    }
    // Bob's process is stopped after ever more steps, in the middle of whatever it does.
    let mut heard = Vec::new();
    for step in 0..60u64 {
        let client = bob.client.clone();
        let sync = tokio::spawn(async move { client.sync().await });
        tokio::time::sleep(Duration::from_millis(step)).await;
        sync.abort();
        let _ = sync.await;
        bob = bob.reopen().await;
        heard.extend(bob.read().await);
    }
    heard.extend(bob.hear().await);
    assert_eq!(heard, expected);

    // And while it sends.
    for n in 0..30u64 {
        let (client, to) = (bob.client.clone(), group.clone());
        let send = tokio::spawn(async move { client.send(&to, Content::Text(format!("{n}").as_str().into())).await });
        tokio::time::sleep(Duration::from_millis(n / 2)).await;
        send.abort();
        let _ = send.await;
        bob = bob.reopen().await;
        bob.client.sync().await.unwrap();
    }
    let heard: Vec<u64> = alice.hear().await.into_iter().map(|(_, text)| text.parse().unwrap()).collect();
    assert!(heard.windows(2).all(|pair| pair[0] < pair[1]), "in order, none twice: {heard:?}");
    assert!(heard.len() > 5, "{heard:?}");
    alice.no_problems().await;
    bob.no_problems().await;
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
