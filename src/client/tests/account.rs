//! A user that changes: its name, its password, its key, and that it is there at all.

use super::*;
use crate::{
    base::Status,
    crypto::{credential::fingerprint, hpke::HpkePrivateKey},
    service::policy::{Policy, Rates},
    wire::{
        authentication::{FinishRegistration, InitRegistration, Revocation, RevocationReason},
        method::call,
        server::RegistrationPolicy,
    },
};

impl Homeserver {
    async fn try_register(self: &Arc<Self>, name: &str, invitation: Option<String>) -> Result<Client, ClientError> {
        let home = tempfile::tempdir().unwrap();
        let options = RegisterOptions {
            domain: "a.test".parse().unwrap(),
            at: None,
            places: Vec::new(),
            ca: None,
            name: name.into(),
            password: PASSWORD.into(),
            invitation,
        };
        Client::register_over(home.path(), options, self.connector(), patience()).await
    }
}

async fn start(policy: Policy) -> Arc<Homeserver> {
    Homeserver::start_under(QueueLimits::default(), policy, Arc::new(SystemClock)).await
}

fn status(outcome: Result<impl Sized, ClientError>) -> &'static str {
    match outcome {
        Ok(_) => "ok",
        Err(error) => error.status(),
    }
}

/// The names by which a user's contacts and the members of its groups know it.
async fn name_of(at: &User, chat: &GroupId, user: &UserId) -> String {
    at.client.sync().await.unwrap();
    let members = at.client.members(chat).await.unwrap();
    members.into_iter().find(|member| member.user.as_ref() == Some(user)).unwrap().name
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_name_reaches_contacts_and_groups() {
    let server = Homeserver::start().await;
    let (alice, bob, carol) =
        (server.register("Alice").await, server.register("Bob").await, server.register("Carol").await);
    let with_bob = befriend(&alice, &bob).await;
    befriend(&alice, &carol).await;
    let group = alice.client.create_group("Trip").await.unwrap();
    alice.client.invite(&group, &[bob.id(), carol.id()]).await.unwrap();
    for user in [&bob, &carol] {
        user.client.sync().await.unwrap();
        assert_eq!(name_of(user, &group, &alice.id()).await, "Alice");
    }
    // Bob is no admin, Alice is: both can.
    alice.client.set_name("Alicia").await.unwrap();
    bob.client.sync().await.unwrap();
    bob.client.set_name("Robert").await.unwrap();
    assert_eq!(alice.client.whoami().1, "Alicia");
    assert_eq!(name_of(&bob, &with_bob, &alice.id()).await, "Alicia");
    assert_eq!(name_of(&bob, &group, &alice.id()).await, "Alicia");
    assert_eq!(name_of(&carol, &group, &alice.id()).await, "Alicia");
    assert_eq!(name_of(&carol, &group, &bob.id()).await, "Robert", "known to each other by the group alone");
    assert_eq!(name_of(&alice, &with_bob, &bob.id()).await, "Robert");
    assert_eq!(status(alice.client.set_name(" ").await), "invalid");
    // The admin is one as before, and whoever connects later sees the new name.
    alice.client.remove(&group, &[carol.id()]).await.unwrap();
    let dave = server.register("Dave").await;
    befriend(&dave, &alice).await;
    assert_eq!(dave.client.contacts().await.unwrap()[0].name, "Alicia");
    let alice = alice.reopen().await;
    assert_eq!(alice.client.whoami().1, "Alicia");
    alice.say(&group, "still here").await;
    assert_eq!(bob.hear().await, [said("Alicia", "still here")]);
    bob.no_problems().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_changed_by_whoever_knows_it_and_deletion_needs_it() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = befriend(&alice, &bob).await;
    assert_eq!(status(alice.client.change_password("wrong", "new one").await), "unauthenticated");
    alice.client.change_password(PASSWORD, "new one").await.unwrap();
    assert_eq!(
        status(alice.client.change_password(PASSWORD, "another").await),
        "unauthenticated",
        "the old one is over"
    );
    assert_eq!(status(alice.client.delete_account(PASSWORD).await), "unauthenticated");
    alice.say(&chat, "nothing has changed").await;
    assert_eq!(bob.hear().await, [said("Alice", "nothing has changed")]);

    let (id, credential) = (alice.id(), alice.client.0.account().credential.clone());
    alice.client.delete_account("new one").await.unwrap();
    bob.client.sync().await.unwrap();
    assert_eq!(bob.state(&chat).await, ChatState::Deleted, "contacts are told");
    assert!(server.dispatcher().users(None).await.unwrap().iter().all(|entry| entry.user != id));
    let listed = Revocation { credential: fingerprint(&credential), reason: RevocationReason::Revoked };
    assert_eq!(server.dispatcher().revoked(), [listed]);
    assert_eq!(status(bob.client.connect(&id).await), "not_found");
    // Nobody is given the id again: contacts would take that one for Alice.
    let network = &bob.client.0.network;
    let init = InitRegistration { user: id.clone(), request: vec![1; 32].into(), invitation: None };
    let answer = network
        .call::<call::AsInitRegistration>(&id.domain, Isolation::Anonymous, network::Sender::Nobody, &init)
        .await;
    assert_eq!(status(answer), "already_exists");
    let account = alice.client.0.account();
    let finish = FinishRegistration {
        request: account.credential.request.clone(),
        record: vec![1; 192].into(),
        packages: vec![],
        queue_key: HpkePrivateKey::generate(&mut system_rng()).unwrap().public_key(),
        profile: vec![1; 300].into(),
        invitation: None,
    };
    let sender = network::Sender::Signed(account.identity(), &account.keys.identity);
    let answer = network.call::<call::AsFinishRegistration>(&id.domain, Isolation::Anonymous, sender, &finish).await;
    assert_eq!(status(answer), "already_exists");
    let User { home, client, .. } = alice;
    drop((client, account));
    assert_eq!(status(Client::open_over(home.path(), server.connector(), patience()).await), "not_registered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_to_a_deletion_does_no_harm() {
    let server = Homeserver::start().await;
    let alice = server.register("Alice").await;
    server.lose(Method::AsDeleteUser, 1);
    alice.client.delete_account(PASSWORD).await.unwrap();
    assert!(server.lost_all());
    assert!(server.dispatcher().users(None).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_tried_a_few_times_only() {
    let server =
        start(Policy { rates: Rates { logins_per_account: 2, ..Rates::default() }, ..Policy::default() }).await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    for _ in 0..2 {
        assert_eq!(status(alice.client.change_password("wrong", "new").await), "unauthenticated");
    }
    let quick = Options { patience: Duration::ZERO, ..patience() };
    let User { home, client, server } = alice;
    drop(client);
    let alice = Client::open_over(home.path(), server.connector(), quick).await.unwrap();
    assert_eq!(status(alice.change_password(PASSWORD, "new").await), "rate_limited", "even the right one");
    bob.client.change_password(PASSWORD, "new").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_credential_is_the_same_identity_to_contacts_and_groups() {
    let server = Homeserver::start().await;
    let (alice, bob, carol) =
        (server.register("Alice").await, server.register("Bob").await, server.register("Carol").await);
    befriend(&alice, &bob).await;
    befriend(&alice, &carol).await;
    let group = alice.client.create_group("Trip").await.unwrap();
    alice.client.invite(&group, &[bob.id()]).await.unwrap();
    bob.client.sync().await.unwrap();
    let old = alice.client.0.account().credential.clone();
    server.lose(Method::AsRenewCredential, 1);
    alice.client.0.renew_credential().await.unwrap();
    assert!(server.lost_all());
    let new = alice.client.0.account().credential.clone();
    assert_ne!(new, old);
    assert_eq!(new.request.payload.predecessor, Some(fingerprint(&old)));
    // The next synchronisation renews the leaves, and an invitation is signed by the new key.
    alice.client.sync().await.unwrap();
    carol.client.sync().await.unwrap();
    alice.client.invite(&group, &[carol.id()]).await.unwrap();
    carol.client.sync().await.unwrap();
    alice.say(&group, "it is me").await;
    assert_eq!(bob.hear().await, [said("Alice", "it is me")]);
    assert_eq!(carol.hear().await, [said("Alice", "it is me")]);
    for user in [&bob, &carol] {
        user.no_problems().await;
        let (database, id) = (&user.client.0.database, alice.id());
        let contact = database.run(move |connection| state::contacts::contact(connection, &id)).await.unwrap().unwrap();
        assert_eq!(contact.credential, new);
    }
    alice.no_problems().await;
    let alice = alice.reopen().await;
    alice.client.sync().await.unwrap();
    alice.client.0.renew_credential().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_renewal_is_completed_by_the_next_process() {
    let server = Homeserver::start().await;
    for carried_out in [false, true] {
        let alice = server.register("Alice").await;
        let old = alice.client.0.account().credential.clone();
        let (alice, stopped) = alice
            .stopped(Hang { after: 0, carried_out }, |client| async move {
                let _ = client.0.renew_credential().await;
            })
            .await;
        assert!(stopped);
        alice.client.sync().await.unwrap();
        assert_ne!(alice.client.0.account().credential, old, "carried out: {carried_out}");
        alice.no_problems().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_signer_is_revoked_renews_by_itself() {
    signer_revoked(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_root_is_revoked_renews_by_itself() {
    signer_revoked(true).await;
}

async fn signer_revoked(root: bool) {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = befriend(&alice, &bob).await;
    let dispatcher = server.dispatcher();
    let keyring = dispatcher.keyring();
    let old = fingerprint(keyring.intermediates().next().unwrap());
    server.rotate(root).await;
    // Nobody has noticed yet.
    alice.say(&chat, "rotated").await;
    if root {
        let first = fingerprint(&keyring.roots()[0].credential);
        for user in [&alice, &bob] {
            user.client.0.fetch_authority(&user.id().domain).await.unwrap();
        }
        assert_eq!(dispatcher.revoke_signer(first, false).await.unwrap_err().status, Status::Forbidden);
        dispatcher.revoke_signer(first, true).await.unwrap();
    } else {
        dispatcher.revoke_signer(old, false).await.unwrap();
    }
    bob.client.0.fetch_authority(&bob.id().domain).await.unwrap();
    let members = bob.client.members(&chat).await.unwrap();
    assert!(members.iter().all(|member| member.quarantined == (member.user != Some(bob.id()))), "{members:?}");
    // Alice's new credential comes before Bob has looked, Bob's after: Alice waits for it, and does not remove him.
    for user in [&alice, &bob] {
        let core = &user.client.0;
        user.client.sync().await.unwrap();
        assert_ne!(core.account().credential.request.payload.signer, old);
    }
    alice.client.sync().await.unwrap();
    bob.client.sync().await.unwrap();
    alice.say(&chat, "renewed").await;
    let heard = bob.hear().await;
    assert_eq!(heard.last(), Some(&said("Alice", "renewed")), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_user_is_out_at_once_until_it_is_enabled_and_a_deleted_one_is_removed() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let with_bob = befriend(&alice, &bob).await;
    let group = alice.client.create_group("Trip").await.unwrap();
    alice.client.invite(&group, &[bob.id()]).await.unwrap();
    bob.client.sync().await.unwrap();
    server.dispatcher().set_disabled(&bob.id(), true).await.unwrap();
    let refused = bob.client.set_name("Mallory").await.unwrap_err();
    assert!(refused.status() == "unauthenticated" && refused.to_string().contains("disabled"), "{refused}");
    assert_eq!(status(alice.client.connect(&bob.id()).await), "ok", "the chat that there is");

    let look = async || alice.client.0.fetch_authority(&alice.id().domain).await.unwrap();
    look().await;
    let quarantined = async |group| {
        let members = alice.client.members(group).await.unwrap();
        members.into_iter().filter(|member| member.quarantined).map(|member| member.user.unwrap()).collect::<Vec<_>>()
    };
    bob.say(&group, "unheard").await;
    assert_eq!(alice.hear().await, []);
    for chat in [&with_bob, &group] {
        assert_eq!(quarantined(chat).await, [bob.id()]);
        assert_eq!(status(alice.client.send(chat, Content::Text("who is there?".into())).await), "untrusted");
    }

    // On hold is not for good: nobody was removed, and everything is as it was.
    server.dispatcher().set_disabled(&bob.id(), false).await.unwrap();
    bob.client.sync().await.unwrap();
    assert!(server.dispatcher().revoked().is_empty());
    look().await;
    for chat in [&with_bob, &group] {
        assert_eq!(quarantined(chat).await, []);
        alice.say(chat, "welcome back").await;
        assert_eq!(bob.hear().await, [said("Alice", "welcome back")]);
        bob.say(chat, "thanks").await;
        assert_eq!(alice.hear().await, [said("Bob", "thanks")]);
    }
    let nobody: UserId = "00112233-4455-6677-8899-aabbccddeeff@a.test".parse().unwrap();
    assert_eq!(server.dispatcher().set_disabled(&nobody, true).await.unwrap_err().status, Status::NotFound);
    assert_eq!(server.dispatcher().delete_user_by_operator(&nobody).await.unwrap_err().status, Status::NotFound);
    server.dispatcher().delete_user_by_operator(&bob.id()).await.unwrap();
    assert_eq!(status(bob.client.sync().await), "unauthenticated");
    look().await;
    alice.client.sync().await.unwrap();
    let members = alice.client.members(&group).await.unwrap();
    assert_eq!(members.len(), 1, "{members:?}");
    assert_eq!(alice.state(&with_bob).await, ChatState::Deleted);
    assert_eq!(status(alice.client.connect(&bob.id()).await), "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_is_for_whom_the_policy_admits() {
    let closed = start(Policy { registration: RegistrationPolicy::Closed, ..Policy::default() }).await;
    assert_eq!(status(closed.try_register("Alice", None).await), "forbidden");

    let invited = start(Policy { registration: RegistrationPolicy::Invitation, ..Policy::default() }).await;
    let (dispatcher, now) = (invited.dispatcher().clone(), SystemClock.now());
    let week = now.after(Duration::from_secs(7 * 86_400));
    let (code, made) = dispatcher.create_invitation(2, week, "for the band".into()).await.unwrap();
    assert_eq!(dispatcher.invitations().await.unwrap(), std::slice::from_ref(&made));
    for (wrong, why) in [(None, "none"), (Some("AAAAA-BBBBB".to_owned()), "unknown"), (Some("x".repeat(500)), "long")] {
        assert_eq!(status(invited.try_register("Eve", wrong).await), "forbidden", "{why}");
    }
    let as_typed = code.to_lowercase().replace('-', " ");
    invited.try_register("Alice", Some(as_typed)).await.unwrap();
    assert_eq!(dispatcher.invitations().await.unwrap()[0].uses, 1);
    // The last use is one use, whoever comes at the same time.
    let both = tokio::join!(
        invited.try_register("Bob", Some(code.clone())),
        invited.try_register("Carol", Some(code.clone()))
    );
    assert_eq!(usize::from(both.0.is_ok()) + usize::from(both.1.is_ok()), 1);
    assert_eq!(status(invited.try_register("Dave", Some(code)).await), "forbidden", "used up");

    let (code, made) = dispatcher.create_invitation(1, week, String::new()).await.unwrap();
    dispatcher.revoke_invitation(&made.id).await.unwrap();
    assert_eq!(status(invited.try_register("Dave", Some(code)).await), "forbidden", "revoked");
    assert_eq!(dispatcher.revoke_invitation(&made.id).await.unwrap_err().status, Status::NotFound);
    let (code, _) = dispatcher.create_invitation(1, crate::base::Timestamp(1), String::new()).await.unwrap();
    assert_eq!(status(invited.try_register("Dave", Some(code)).await), "forbidden", "expired");
    dispatcher.maintain_credentials().await.unwrap();
    assert!(dispatcher.invitations().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_from_one_address_are_counted() {
    let rates = Rates { registrations_per_address: 2, ..Rates::default() };
    let server = start(Policy { rates, ..Policy::default() }).await;
    server.register("Alice").await;
    server.register("Bob").await;
    let home = tempfile::tempdir().unwrap();
    let options = RegisterOptions {
        domain: "a.test".parse().unwrap(),
        at: None,
        places: Vec::new(),
        ca: None,
        name: "Carol".into(),
        password: PASSWORD.into(),
        invitation: None,
    };
    let quick = Options { patience: Duration::ZERO, ..patience() };
    assert_eq!(status(Client::register_over(home.path(), options, server.connector(), quick).await), "rate_limited");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_from_a_revoked_client_is_refused() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    bob.client.connect(&alice.id()).await.unwrap();
    server.dispatcher().set_disabled(&bob.id(), true).await.unwrap();
    alice.client.0.fetch_authority(&alice.id().domain).await.unwrap();
    alice.client.sync().await.unwrap();
    assert!(alice.client.requests().await.unwrap().is_empty());
    let problems = alice.client.problems().await.unwrap();
    assert!(problems.len() == 1 && problems[0].1.contains("disabled"), "{problems:?}");
}
