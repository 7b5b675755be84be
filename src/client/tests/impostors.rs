//! Members whose leaf is of nobody: they are merged like all others, stay unheard, and are removed.

use super::*;
use crate::{
    base::{Domain, UserId},
    client::{
        renewal::renew_leaves,
        state::{chats, meta, queues::Queue},
    },
    crypto::{
        credential::{issue_client, issue_intermediate, issue_root, request_client, request_intermediate},
        signature::SigningKey,
    },
    wire::credential::{ClientCredential, Validity},
};

/// A credential in the name of `user`, with a key of whoever makes it.
fn forged(user: &UserId, valid: &Validity, key: &SigningKey) -> ClientCredential {
    let domain: Domain = user.domain.clone();
    let own = SigningKey::generate(&mut system_rng()).unwrap();
    let root = issue_root(domain.clone(), valid.clone(), &own);
    let intermediate = issue_intermediate(request_intermediate(domain, valid.clone(), &root, &own), &own);
    let client = crate::base::ClientId { user: user.clone(), client: [6; 16] };
    issue_client(request_client(client, valid.clone(), &intermediate, key, None), &own)
}

impl User {
    /// Renews its leaves with a credential that is not its own.
    async fn pose_with(&self, credential: ClientCredential) {
        let core = &self.client.0;
        let pose = move |connection: &rusqlite::Connection| {
            meta::put(connection, "credential", &credential)?;
            renew_leaves(connection)
        };
        core.database.run(pose).await.unwrap();
        core.reload_account().await.unwrap();
        core.do_chores().await.unwrap();
    }

    async fn quarantined(&self, chat: &GroupId) -> usize {
        self.client.members(chat).await.unwrap().into_iter().filter(|member| member.quarantined).count()
    }
}

async fn group_of(server: &Arc<Homeserver>) -> ([User; 3], GroupId) {
    let users = [server.register("Alice").await, server.register("Bob").await, server.register("Mallory").await];
    let [alice, bob, mallory] = &users;
    befriend(alice, bob).await;
    befriend(alice, mallory).await;
    let group = alice.client.create_group("Trip").await.unwrap();
    alice.client.invite(&group, &[bob.id(), mallory.id()]).await.unwrap();
    for user in [bob, mallory] {
        user.client.sync().await.unwrap();
    }
    (users, group)
}

/// The impostor's commit is merged, its messages are not shown, nobody sends while it is there, and an admin's client
/// removes it.
async fn is_found_out(users: &[User; 3], group: &GroupId) {
    let [alice, bob, mallory] = users;
    mallory.say(group, "trust me").await;
    // Bob is no admin: it can only wait.
    assert_eq!(bob.hear().await, []);
    assert_eq!(bob.quarantined(group).await, 1);
    let refused = bob.client.send(group, Content::Text("a secret".into())).await.unwrap_err();
    assert!(refused.to_string().contains("cannot be verified"), "{refused}");
    // Alice's client does it by itself.
    assert_eq!(alice.hear().await, []);
    alice.client.sync().await.unwrap();
    assert_eq!(alice.client.members(group).await.unwrap().len(), 2);
    // Not a whole synchronisation: that would have its credential renewed.
    mallory.client.0.drain(Queue::Client).await.unwrap();
    assert_eq!(mallory.state(group).await, ChatState::Removed);
    bob.client.sync().await.unwrap();
    assert_eq!(bob.quarantined(group).await, 0);
    alice.say(group, "we are among ourselves").await;
    assert_eq!(bob.hear().await, [said("Alice", "we are among ourselves")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_in_the_name_of_another_is_quarantined_and_removed() {
    let server = Homeserver::start().await;
    let (users, group) = group_of(&server).await;
    let account = users[2].client.0.account();
    let valid = &account.credential.request.payload.validity;
    users[2].pose_with(forged(&users[1].id(), valid, &account.keys.identity)).await;
    is_found_out(&users, &group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_another_users_credential_did_not_sign_is_quarantined_and_removed() {
    let server = Homeserver::start().await;
    let (users, group) = group_of(&server).await;
    // Alice's own credential, which everybody can verify, and which has not signed Mallory's leaf.
    users[2].pose_with(users[0].client.0.account().credential.clone()).await;
    is_found_out(&users, &group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_whose_user_was_on_hold_when_it_came_is_trusted_when_that_is_over() {
    let server = Homeserver::start().await;
    let ([alice, bob, mallory], group) = group_of(&server).await;
    let dispatcher = server.dispatcher();
    dispatcher.set_disabled(&mallory.id(), true).await.unwrap();
    let look = async |user: &User| user.client.0.fetch_authority(&user.id().domain).await.unwrap();
    look(&bob).await;
    let pose = mallory.client.0.account().credential.clone();
    // Only the leaf is new.
    mallory.pose_with(pose).await;
    mallory.say(&group, "nobody hears me").await;
    assert_eq!(bob.hear().await, []);
    assert_eq!(bob.quarantined(&group).await, 1);
    dispatcher.set_disabled(&mallory.id(), false).await.unwrap();
    look(&bob).await;
    assert_eq!(bob.quarantined(&group).await, 0);
    mallory.say(&group, "and now?").await;
    assert_eq!(bob.hear().await, [said("Mallory", "and now?")]);
    alice.client.sync().await.unwrap();
    assert_eq!(alice.client.members(&group).await.unwrap().len(), 3, "nobody was removed");
    let stored = bob.client.0.database.run(move |connection| chats::members(connection, &group)).await.unwrap();
    assert!(stored.iter().all(|member| member.claim.is_none()));
}
