//! A group of a thousand: it is built at once, talked in, joined and changed within the limits of the protocol.

use openmls::prelude::{Extensions, KeyPackage, OpenMlsProvider as _};
use openmls_rust_crypto::OpenMlsRustCrypto;
use tls_codec::Serialize as _;

use super::*;
use crate::{
    client::{
        commit::{Intent, commit_bundle},
        mls::Provider,
        state::{chats, chats::Chat},
    },
    crypto::{credential::issue_leaf, mls as protocol, random, signature::SigningKey},
    store::{Batch, Key, Limit, Table},
    wire::{
        Call, Encode, SenderId,
        credential::{DayValidity, HpkeCiphertext},
        delivery::{AddUsers, CommitAad, GetExternalCommitInfo, GroupAccess, Joiner, MemberInfo, SendMessage},
        envelope::LeafId,
        method::call,
        queuing::ClientQueueConfig,
        registry::QUEUE_CONFIG_EXTENSION,
    },
};

const MEMBERS: usize = 1_000;

/// A config for the queue of a user.
pub(super) async fn queue_config_of(user: &User) -> ClientQueueConfig {
    let core = &user.client.0;
    packages::queue_config(&core.account(), &core.queuing_key().await.unwrap(), &mut system_rng()).unwrap()
}

/// The KeyPackage of somebody whom nobody will ever hear of, with what a real one has.
pub(super) fn stranger_as(user: &User, queue_config: &ClientQueueConfig, identity: Option<[u8; 32]>) -> KeyPackage {
    let (provider, mut rng, today) = (OpenMlsRustCrypto::default(), system_rng(), SystemClock.now().day());
    let account = user.client.0.account();
    let key = SigningKey::generate(&mut rng).unwrap();
    let validity = DayValidity { not_before: today.minus(1).0, not_after: today.plus(30).0 };
    let client_key = &account.keys.identity;
    let (leaf, _) = issue_leaf(&account.credential, client_key, key.verifying_key(), identity, validity, &mut rng);
    let config = protocol::extension(QUEUE_CONFIG_EXTENSION, queue_config.to_vec());
    KeyPackage::builder()
        .key_package_lifetime(mls::lifetime(today))
        .key_package_extensions(Extensions::single(config).unwrap())
        .leaf_node_capabilities(protocol::capabilities())
        .build(protocol::CIPHERSUITE, &provider, &key, mls::credential_with_key(&leaf))
        .unwrap()
        .into_key_package()
}

async fn chat_of(user: &User, group: &GroupId) -> Chat {
    let group = group.clone();
    user.client.0.database.run(move |connection| chats::require(connection, &group)).await.unwrap()
}

/// A request that adds strangers, whose commit waits to be merged when it comes back.
pub(super) async fn adding(user: &User, group: &GroupId, strangers: Vec<KeyPackage>) -> AddUsers {
    let (chat, count) = (chat_of(user, group).await, strangers.len());
    let build = move |connection: &rusqlite::Connection| {
        let provider = Provider::new(connection);
        let mut state = mls::load(&provider, &chat.group)?;
        let info = || MemberInfo { sealed_chain: vec![7; 600].into(), sealed_profile_key: vec![7; 76].into() };
        let aad = CommitAad { added: strangers.iter().map(|_| info()).collect(), own: None, friendship_package: None };
        state.set_aad(aad.to_vec());
        let bundle = state
            .commit_builder()
            .propose_adds(strangers)
            .load_psks(provider.storage())
            .map_err(mls::failed)?
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(provider.rand(), provider.crypto(), &mls::signer(&chat)?, |_| true)
            .map_err(mls::failed)?
            .stage_commit(&provider)
            .map_err(mls::failed)?;
        let sealed = || HpkeCiphertext { kem_output: vec![7; 32].into(), ciphertext: vec![7; 48].into() };
        Ok::<_, ClientError>(AddUsers {
            commit: commit_bundle(&chat, &bundle, &mut system_rng())?,
            welcome: bundle.to_welcome_msg().unwrap().tls_serialize_detached().map_err(mls::failed)?.into(),
            joiners: (0..count).map(|_| Joiner { attribution: vec![7; 500].into(), ear_key: sealed() }).collect(),
        })
    };
    user.client.0.database.run(build).await.unwrap()
}

/// Sends a request as a member of the group.
async fn send<C: Call>(user: &User, chat: &Chat, request: &C::Request) -> C::Response {
    let key = SigningKey::from_seed(chat.leaf_seed.clone()).unwrap();
    let leaf = SenderId::DsLeaf(LeafId { group: chat.group.clone(), leaf: chat.leaf });
    let (network, domain) = (&user.client.0.network, &chat.group.domain);
    network.call::<C>(domain, Isolation::Delivery, network::Sender::Signed(leaf, &key), request).await.unwrap()
}

/// A message of a member, whatever the members are.
async fn message(user: &User, chat: &Chat) -> SendMessage {
    let chat = chat.clone();
    let encrypt = move |connection: &rusqlite::Connection| {
        let provider = Provider::new(connection);
        let mut state = mls::load(&provider, &chat.group)?;
        let context_hash = crate::crypto::mls::context_hash(state.public_group().group_context())?;
        let message = state.create_message(&provider, &mls::signer(&chat)?, &[7; 300]);
        let message = message.map_err(mls::failed)?.to_bytes().map_err(mls::failed)?.into();
        let access = GroupAccess { group: chat.group, ear_key: chat.ear_key };
        Ok::<_, ClientError>(SendMessage {
            access,
            idempotency_key: random(&mut system_rng()),
            message,
            context_hash,
            no_push: false,
        })
    };
    user.client.0.database.run(encrypt).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_members_are_added_at_once_and_one_more_joins_them() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    befriend(&alice, &bob).await;
    let group = alice.client.create_group("Everybody").await.unwrap();
    let core = &alice.client.0;
    // All of them have Bob's queue, which gets everything once.
    let queue_config = queue_config_of(&bob).await;
    let strangers = (2..MEMBERS).map(|_| stranger_as(&alice, &queue_config, None)).collect();
    let (chat, request) = (chat_of(&alice, &group).await, adding(&alice, &group, strangers).await);
    assert!(request.encoded_len() < 8 << 20, "{}", request.encoded_len());
    send::<call::DsAddUsers>(&alice, &chat, &request).await;
    core.drain(state::queues::Queue::Client).await.unwrap();
    let welcomes =
        server.store().durable().scan(Table::QueueEntries, Key::new().., Limit::rows(100_000)).await.unwrap();
    let queued: usize = welcomes.iter().map(|row| row.value.len()).sum();
    assert!(queued < MEMBERS * 4_096, "each joiner gets its own part of the Welcome: {queued} bytes");

    // Bob is invited into the crowd, and can read the tree.
    alice.client.invite(&group, &[bob.id()]).await.unwrap();
    bob.client.0.drain(state::queues::Queue::Client).await.unwrap();
    assert_eq!(bob.state(&group).await, ChatState::Active);
    assert_eq!(bob.client.members(&group).await.unwrap().len(), MEMBERS);

    // A message reads nothing of the tree: it works without.
    let rows =
        server.store().durable().scan(Table::DsLog, Key::new().bytes(group.uuid).prefix(), Limit::rows(1_000)).await;
    let (rows, mut batch) = (rows.unwrap(), Batch::new());
    assert!(!rows.is_empty());
    rows.into_iter().for_each(|row| _ = batch.delete(Table::DsLog, row.key));
    server.store().submit(batch).unwrap().await.unwrap();
    let sent = send::<call::DsSendMessage>(&alice, &chat, &message(&alice, &chat).await).await;
    assert_eq!(sent.unreached, 0);
}

/// The tree as the DS has it is the one that these members have.
async fn same_tree(users: &[&User], group: &GroupId, members: usize) {
    let chat = chat_of(users[0], group).await;
    let access = GroupAccess { group: group.clone(), ear_key: chat.ear_key.clone() };
    let info = send::<call::DsExternalCommitInfo>(users[0], &chat, &GetExternalCommitInfo { access }).await;
    assert_eq!(info.members.len(), members);
    for user in users {
        let of = group.clone();
        let tree = move |connection: &rusqlite::Connection| {
            let state = mls::load(&Provider::new(connection), &of)?;
            assert_eq!(state.members().count(), members);
            state.export_ratchet_tree().tls_serialize_detached().map_err(mls::failed)
        };
        assert!(user.client.0.database.run(tree).await.unwrap() == info.ratchet_tree.as_slice(), "{members} members");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_every_size_are_talked_in_and_changed_and_the_ds_has_the_tree_of_its_members() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    befriend(&alice, &bob).await;
    let queue_config = queue_config_of(&bob).await;
    let users = [&alice, &bob];
    let drain = async || {
        for user in users {
            user.client.0.drain(state::queues::Queue::Client).await.unwrap();
        }
    };
    for size in [2, 3, 5, 17, 64, 257] {
        let group = alice.client.create_group("Everybody").await.unwrap();
        alice.client.invite(&group, &[bob.id()]).await.unwrap();
        drain().await;
        let (chat, bobs) = (chat_of(&alice, &group).await, chat_of(&bob, &group).await);
        let add = async |count: usize| {
            let strangers: Vec<_> = (0..count).map(|_| stranger_as(&alice, &queue_config, None)).collect();
            let last = strangers.last().unwrap().leaf_node().signature_key().as_slice().into();
            let request = adding(&alice, &group, strangers).await;
            send::<call::DsAddUsers>(&alice, &chat, &request).await;
            drain().await;
            last
        };
        // Each step is seen by both, and leaves the tree that the DS has.
        let talk = async || {
            for (user, chat) in [(&alice, &chat), (&bob, &bobs)] {
                let sent = send::<call::DsSendMessage>(user, chat, &message(user, chat).await).await;
                assert_eq!(sent.unreached, 0);
            }
        };
        let mut last = None;
        if size > 2 {
            last = Some(add(size - 2).await);
        }
        same_tree(&users, &group, size).await;
        talk().await;
        for user in users {
            user.client.0.change(&group, Intent::Update).await.unwrap();
            drain().await;
            same_tree(&users, &group, size).await;
        }
        if let Some(last) = last.clone() {
            alice.client.0.change(&group, Intent::Expel(last)).await.unwrap();
            drain().await;
            same_tree(&users, &group, size - 1).await;
            add(2).await;
            same_tree(&users, &group, size + 1).await;
        }
        talk().await;
        bob.client.0.change(&group, Intent::Update).await.unwrap();
        drain().await;
        same_tree(&users, &group, if last.is_some() { size + 1 } else { size }).await;
    }
}
