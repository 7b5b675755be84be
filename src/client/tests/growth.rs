//! A group of a thousand: it is built at once, talked in, joined and changed within the limits of the protocol.

use openmls::prelude::{Extensions, KeyPackage, OpenMlsProvider as _};
use openmls_rust_crypto::OpenMlsRustCrypto;
use tls_codec::Serialize as _;

use super::*;
use crate::{
    base::Day,
    client::{commit::commit_bundle, mls::Provider, state::chats},
    crypto::{credential::issue_leaf, mls as protocol, random, signature::SigningKey},
    store::{Batch, Key, Limit, Table},
    wire::{
        Encode, SenderId,
        credential::{DayValidity, HpkeCiphertext},
        delivery::{AddUsers, CommitAad, GroupAccess, Joiner, MemberInfo, SendMessage},
        envelope::LeafId,
        method::call,
        queuing::ClientQueueConfig,
        registry::QUEUE_CONFIG_EXTENSION,
    },
};

const MEMBERS: usize = 1_000;

/// The KeyPackage of somebody whom nobody will ever hear of, with what a real one has.
fn stranger(user: &User, queue_config: &ClientQueueConfig, today: Day) -> KeyPackage {
    let (provider, mut rng) = (OpenMlsRustCrypto::default(), system_rng());
    let account = user.client.0.account();
    let key = SigningKey::generate(&mut rng).unwrap();
    let validity = DayValidity { not_before: today.minus(1).0, not_after: today.plus(30).0 };
    let (leaf, _) =
        issue_leaf(&account.credential, &account.keys.identity, key.verifying_key(), None, validity, &mut rng);
    let config = protocol::extension(QUEUE_CONFIG_EXTENSION, queue_config.to_vec());
    KeyPackage::builder()
        .key_package_lifetime(mls::lifetime(today))
        .key_package_extensions(Extensions::single(config).unwrap())
        .leaf_node_capabilities(protocol::capabilities())
        .build(protocol::CIPHERSUITE, &provider, &key, mls::credential_with_key(&leaf))
        .unwrap()
        .into_key_package()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_members_are_added_at_once_and_one_more_joins_them() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    befriend(&alice, &bob).await;
    let group = alice.client.create_group("Everybody").await.unwrap();
    let (core, today) = (&alice.client.0, SystemClock.now().day());
    // All of them have Bob's queue, which gets everything once.
    let bob_core = &bob.client.0;
    let queue_config =
        packages::queue_config(&bob_core.account(), &bob_core.queuing_key().await.unwrap(), &mut system_rng()).unwrap();
    let strangers: Vec<_> = (2..MEMBERS).map(|_| stranger(&alice, &queue_config, today)).collect();
    let count = strangers.len();

    let of = group.clone();
    let build = move |connection: &rusqlite::Connection| {
        let (chat, provider) = (chats::require(connection, &of)?, Provider::new(connection));
        let mut state = mls::load(&provider, &of)?;
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
        let request = AddUsers {
            commit: commit_bundle(&chat, &bundle, &mut system_rng())?,
            welcome: bundle.to_welcome_msg().unwrap().tls_serialize_detached().map_err(mls::failed)?.into(),
            joiners: (0..count).map(|_| Joiner { attribution: vec![7; 500].into(), ear_key: sealed() }).collect(),
        };
        Ok::<_, ClientError>((chat, request))
    };
    let (chat, request) = core.database.run(build).await.unwrap();
    assert!(request.encoded_len() < 8 << 20, "{}", request.encoded_len());
    let key = SigningKey::from_seed(chat.leaf_seed.clone()).unwrap();
    let leaf = || SenderId::DsLeaf(LeafId { group: group.clone(), leaf: 0 });
    let sender = || network::Sender::Signed(leaf(), &key);
    let (network, domain) = (&core.network, &group.domain);
    network.call::<call::DsAddUsers>(domain, Isolation::Delivery, sender(), &request).await.unwrap();
    core.drain(state::queues::Queue::Client).await.unwrap();
    let welcomes = server.store.durable().scan(Table::QueueEntries, Key::new().., Limit::rows(100_000)).await.unwrap();
    let queued: usize = welcomes.iter().map(|row| row.value.len()).sum();
    assert!(queued < MEMBERS * 4_096, "each joiner gets its own part of the Welcome: {queued} bytes");

    // Bob is invited into the crowd, and can read the tree.
    alice.client.invite(&group, &[bob.id()]).await.unwrap();
    bob.client.0.drain(state::queues::Queue::Client).await.unwrap();
    assert_eq!(bob.state(&group).await, ChatState::Active);
    assert_eq!(bob.client.members(&group).await.unwrap().len(), MEMBERS);

    // A message reads nothing of the tree: it works without.
    let rows =
        server.store.durable().scan(Table::DsLog, Key::new().bytes(group.uuid).prefix(), Limit::rows(1_000)).await;
    let (rows, mut batch) = (rows.unwrap(), Batch::new());
    assert!(!rows.is_empty());
    rows.into_iter().for_each(|row| _ = batch.delete(Table::DsLog, row.key));
    server.store.submit(batch).unwrap().await.unwrap();
    let of = group.clone();
    let encrypt = move |connection: &rusqlite::Connection| {
        let (chat, provider) = (chats::require(connection, &of)?, Provider::new(connection));
        let message = mls::load(&provider, &of)?.create_message(&provider, &mls::signer(&chat)?, &[7; 300]);
        message.map_err(mls::failed)?.to_bytes().map_err(mls::failed)
    };
    let message = core.database.run(encrypt).await.unwrap().into();
    let access = GroupAccess { group: group.clone(), ear_key: chat.ear_key.clone() };
    let send = SendMessage { access, idempotency_key: random(&mut system_rng()), message, no_push: false };
    let sent = network.call::<call::DsSendMessage>(domain, Isolation::Delivery, sender(), &send).await.unwrap();
    assert_eq!(sent.unreached, 0);
}
