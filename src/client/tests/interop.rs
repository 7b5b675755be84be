//! A member whose MLS is not OpenMLS but mls-rs, set up by nothing but what `wire-spec/mls.md` says, with GREASE wherever
//! it may be. All that is not MLS is done by an SDK client beside it, whose state of the group nobody needs.

use mls_rs::{
    CipherSuite, ExtensionList, MlsMessage,
    client_builder::MlsConfig,
    crypto::{SignaturePublicKey as Public, SignatureSecretKey},
    error::IntoAnyError,
    extension::{
        ExtensionType,
        built_in::{ExternalSendersExt, RequiredCapabilitiesExt},
    },
    group::{ExportedTree, ReceivedMessage, proposal::ProposalType},
    identity::{Credential, CredentialType, CustomCredential, SigningIdentity, basic::BasicCredential},
    mls_rs_codec::MlsEncode as _,
    mls_rules::{CommitOptions, DefaultMlsRules, EncryptionOptions},
    time::MlsTime,
};
use mls_rs_core::identity::{IdentityProvider, MemberValidationContext};
use mls_rs_crypto_rustcrypto::RustCryptoProvider;
use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn, Verifiable as _};
use tls_codec::{DeserializeBytes as _, Serialize as _};

use super::*;
use crate::client::resync::Reason;
use crate::{
    base::Status,
    client::state::queues::{self, Queue},
    crypto::{
        aead,
        credential::seal_chain,
        hpke::HpkePrivateKey,
        random, random_secret,
        ratchet::{Ratchet, entry_aad},
        signature::SigningKey,
    },
    wire::{
        Encode, Opaque, SenderId,
        connection::WelcomeAttribution,
        content::ApplicationMessage,
        credential::{LeafChain, LeafCredential, Signature},
        delivery::{
            CommitAad, CommitBundle, CreateGroup, GetWelcomeInfo, GroupAccess, GroupInfoUpdate, MemberInfo,
            RequestGroupId, Roles, SendMessage, UpdateClient, WelcomeBundle,
        },
        envelope::{KeyPackageId, LeafId},
        label::{HpkeLabel, KeyLabel},
        method::call,
        mls::WelcomeMessage,
        padding::{MESSAGE_FLOOR, pad_value, unpad_value},
        queue::{Dequeue, EntryKind, FanOut, FanOutContent, QueueMessage},
        queuing::{AddPackage, PublishKeyPackages},
        registry::{GROUP_DATA_EXTENSION, LEAF_CREDENTIAL, QUEUE_CONFIG_EXTENSION, ROLES_EXTENSION},
    },
};

/// SelfRemove and last_resort, both as draft-ietf-mls-extensions numbers them.
const SELF_REMOVE: u16 = 0x000A;
const LAST_RESORT: u16 = 0x000A;

/// Of the values that RFC 9420 section 13.5 reserves.
const GREASE: u16 = 0xDADA;

/// An extension of somebody else's.
const UNKNOWN: u16 = 0xF0C0;

/// The credentials of `wire-spec/mls.md`.
#[derive(Clone)]
struct Identities;

#[derive(Debug, thiserror::Error)]
#[error("not a leaf credential for its key, nor the Delivery Service's")]
struct Unfit;

impl IntoAnyError for Unfit {}

fn leaf_credential(identity: &SigningIdentity) -> Result<LeafCredential, Unfit> {
    let custom = identity.credential.as_custom().ok_or(Unfit)?;
    let leaf = LeafCredential::from_slice(custom.data()).map_err(|_| Unfit)?;
    let fits = *custom.credential_type == LEAF_CREDENTIAL
        && leaf.verifying_key.as_slice() == identity.signature_key.as_bytes();
    if fits { Ok(leaf) } else { Err(Unfit) }
}

impl IdentityProvider for Identities {
    type Error = Unfit;

    fn validate_member(
        &self,
        identity: &SigningIdentity,
        _: Option<MlsTime>,
        _: MemberValidationContext<'_>,
    ) -> Result<(), Unfit> {
        leaf_credential(identity).map(drop)
    }

    fn validate_external_sender(
        &self,
        identity: &SigningIdentity,
        _: Option<MlsTime>,
        _: Option<&ExtensionList>,
    ) -> Result<(), Unfit> {
        let basic = identity.credential.as_basic().ok_or(Unfit)?;
        if basic.identifier == b"Delivery Service" { Ok(()) } else { Err(Unfit) }
    }

    fn identity(&self, identity: &SigningIdentity, _: &ExtensionList) -> Result<Vec<u8>, Unfit> {
        Ok(leaf_credential(identity)?.identity.to_vec())
    }

    fn valid_successor(
        &self,
        before: &SigningIdentity,
        after: &SigningIdentity,
        _: &ExtensionList,
    ) -> Result<bool, Unfit> {
        Ok(leaf_credential(before)?.identity == leaf_credential(after)?.identity)
    }

    fn supported_types(&self) -> Vec<CredentialType> {
        vec![CredentialType::new(GREASE), CredentialType::BASIC, CredentialType::new(LEAF_CREDENTIAL)]
    }
}

fn extension(kind: u16, content: Vec<u8>) -> mls_rs::Extension {
    mls_rs::Extension::new(ExtensionType::new(kind), content)
}

fn mls_client(key: &SigningKey, leaf: &LeafCredential) -> mls_rs::Client<impl MlsConfig + use<>> {
    let public = leaf.verifying_key.as_slice();
    let credential = CustomCredential::new(CredentialType::new(LEAF_CREDENTIAL), leaf.to_vec());
    let identity = SigningIdentity::new(Credential::Custom(credential), Public::from(public.to_vec()));
    let secret = SignatureSecretKey::from([key.seed().expose(), public].concat());
    let commits = CommitOptions::new()
        .with_path_required(true)
        .with_ratchet_tree_extension(false)
        .with_allow_external_commit(true);
    let plain = EncryptionOptions::new(false, mls_rs::client_builder::PaddingMode::None);
    let extensions = [GREASE, UNKNOWN, QUEUE_CONFIG_EXTENSION, GROUP_DATA_EXTENSION, LAST_RESORT, ROLES_EXTENSION];
    mls_rs::Client::builder()
        .crypto_provider(RustCryptoProvider::new())
        .identity_provider(Identities)
        .mls_rules(DefaultMlsRules::new().with_commit_options(commits).with_encryption_options(plain))
        .extension_types(extensions.map(ExtensionType::new))
        .custom_proposal_types([GREASE, SELF_REMOVE].map(ProposalType::new))
        .key_package_lifetime(Duration::from_secs(90 * 86_400))
        .signing_identity(identity, secret, CipherSuite::CURVE25519_AES128)
        .build()
}

/// A user with two implementations of MLS: the SDK's, and another.
struct Other<'a, C: MlsConfig> {
    user: &'a User,
    key: SigningKey,
    leaf: LeafCredential,
    chain: LeafChain,
    client: mls_rs::Client<C>,
}

/// A group that it is in.
struct Membership<C: MlsConfig> {
    access: GroupAccess,
    state: mls_rs::Group<C>,
    /// The commit that is under way, and the state after it.
    next: Option<(Opaque, mls_rs::Group<C>)>,
}

fn other(user: &User) -> Other<'_, impl MlsConfig> {
    let account = user.client.0.account();
    let (key, leaf, chain) = account.new_leaf(None, SystemClock.now().day(), &mut system_rng()).unwrap();
    let client = mls_client(&key, &leaf);
    Other { user, key, leaf, chain, client }
}

fn time() -> Option<MlsTime> {
    Some(MlsTime::from(SystemClock.now().seconds() - 3_600))
}

impl<C: MlsConfig> Other<'_, C> {
    /// Publishes one KeyPackage, of last resort, in place of those of the SDK.
    async fn publish(&self, more: Vec<mls_rs::Extension>, in_leaf: Vec<mls_rs::Extension>) -> Result<(), ClientError> {
        let (core, mut rng) = (&self.user.client.0, system_rng());
        let account = core.account();
        let config = packages::queue_config(&account, &core.queuing_key().await?, &mut rng)?;
        let mut extensions = ExtensionList::from(more);
        extensions.set(extension(LAST_RESORT, Vec::new()));
        extensions.set(extension(QUEUE_CONFIG_EXTENSION, config.to_vec()));
        let package = self.client.generate_key_package_message(extensions, in_leaf.into(), time()).unwrap();
        let friendship = &account.keys.friendship.friendship_encryption_key;
        let package = AddPackage {
            // Behind version and wire format.
            key_package: package.to_bytes().unwrap()[4..].into(),
            sealed_chain: seal_chain(friendship, &self.leaf.verifying_key, &self.chain, &mut rng).into(),
        };
        let (isolation, sender, key) = core.queue_sender(Queue::Client).await?;
        let sender = network::Sender::Bound(sender, &key);
        let request = PublishKeyPackages { packages: vec![package] };
        core.network.call::<call::QsPublishKeyPackages>(core.domain(), isolation, sender, &request).await.map(drop)
    }

    /// Takes what is new in the client's queue, past the SDK.
    async fn dequeue(&self) -> Vec<FanOut> {
        let core = &self.user.client.0;
        let mut cursor = core.database.run(|connection| queues::load(connection, Queue::Client)).await.unwrap();
        let request = Dequeue { incarnation: cursor.incarnation, start: cursor.next, max: 100 };
        let (isolation, sender, key) = core.queue_sender(Queue::Client).await.unwrap();
        let sender = network::Sender::Bound(sender, &key);
        let entries = core.network.call::<call::QsDequeue>(core.domain(), isolation, sender, &request).await.unwrap();
        assert_eq!(entries.incarnation, cursor.incarnation);
        let mut found = Vec::new();
        for entry in entries.entries {
            let aad = entry_aad(cursor.incarnation, entry.sequence, entry.kind.clone());
            let keys = core.database.run(|connection| queues::keys(connection, Queue::Client)).await.unwrap();
            let (_, own) = &keys[0];
            let ratchet = cursor.ratchet.take();
            cursor.ratchet = Some(match (&entry.kind, ratchet) {
                (EntryKind::Secret, _) => Ratchet::accept(own, &aad, &entry.ciphertext).unwrap(),
                (EntryKind::KeyUpdate, Some(ratchet)) => ratchet.accept_update(own, &aad, &entry.ciphertext).unwrap(),
                (EntryKind::Message, Some(ratchet)) => {
                    let (next, content) = ratchet.open(&aad, &entry.ciphertext).unwrap();
                    let QueueMessage::FanOut(message) = QueueMessage::from_bytes(content).unwrap() else { panic!() };
                    found.push(message);
                    next
                }
                (kind, _) => panic!("{kind:?}"),
            });
            cursor.next = entry.sequence + 1;
        }
        core.database.run(move |connection| queues::store(connection, Queue::Client, &cursor)).await.unwrap();
        found
    }

    /// Joins by the Welcome that is in the queue.
    async fn join(&self) -> Membership<C> {
        let mut messages = self.dequeue().await;
        let FanOut { group, content: FanOutContent::Welcome(bundle) } = messages.remove(0) else { panic!() };
        assert!(messages.is_empty());
        let WelcomeBundle { welcome, joiner } = bundle;
        let reference = WelcomeMessage::from_slice(welcome.as_slice()).unwrap().secrets[0].new_member.clone();
        let welcome = MlsMessage::from_bytes(welcome.as_slice()).unwrap();
        let stored = self.client.key_package_store();
        let stored = mls_rs::KeyPackageStorage::get(&stored, reference.as_slice()).unwrap().unwrap();
        let init_key: [u8; 32] = stored.init_key.as_ref().try_into().unwrap();
        let ear_key = HpkePrivateKey::from_secret(Secret::new(init_key)).unwrap();
        let ear_key = ear_key.open(HpkeLabel::JoinerEarKey, reference.as_slice(), &[], &joiner.ear_key).unwrap();
        let ear_key = Secret::new(ear_key[..].try_into().unwrap());
        let attributed = &self.user.client.0.account().keys.friendship.welcome_attribution_key;
        let opened =
            aead::open(attributed, KeyLabel::WelcomeAttribution, reference.as_slice(), joiner.attribution.as_slice());
        let attribution: WelcomeAttribution = unpad_value(opened.unwrap(), MESSAGE_FLOOR).unwrap();
        assert_eq!(attribution.content.group, group);

        let access = GroupAccess { group: group.clone(), ear_key };
        let epoch = self.client.examine_welcome_message(&welcome).unwrap().group_context().epoch();
        let request = GetWelcomeInfo { access: access.clone(), epoch };
        let sender = SenderId::DsKeyPackage(KeyPackageId { group: group.clone(), reference });
        let sender = network::Sender::Bound(sender, &self.key);
        let core = &self.user.client.0;
        let info = core
            .network
            .call::<call::DsWelcomeInfo>(&group.domain, Isolation::Delivery, sender, &request)
            .await
            .unwrap();
        let tree = ExportedTree::from_bytes(info.ratchet_tree.as_slice()).unwrap();
        let (state, _) = self.client.join_group(Some(tree), &welcome, None).unwrap();
        assert_eq!(state.current_epoch(), epoch);
        Membership { access, state, next: None }
    }

    async fn call<T: crate::wire::Call>(
        &self,
        membership: &Membership<C>,
        request: &T::Request,
    ) -> Result<T::Response, ClientError> {
        let (core, group) = (&self.user.client.0, &membership.access.group);
        let leaf = membership.state.current_member_index();
        let sender = SenderId::DsLeaf(LeafId { group: group.clone(), leaf });
        let sender = network::Sender::Signed(sender, &self.key);
        core.network.call::<T>(&group.domain, Isolation::Delivery, sender, request).await
    }

    async fn say(&self, membership: &mut Membership<C>, text: &str) {
        let mut rng = system_rng();
        let content = Content::Text(text.into());
        let message = ApplicationMessage { id: random(&mut rng), sent: SystemClock.now().0, content };
        let padded = pad_value(&message, MESSAGE_FLOOR);
        let message = membership.state.encrypt_application_message(&padded, Vec::new()).unwrap();
        let message = message.to_bytes().unwrap().into();
        let access = membership.access.clone();
        let context = membership.state.context().mls_encode_to_vec().unwrap();
        let context_hash = *crate::crypto::sha256(&context).first_chunk().unwrap();
        let request = SendMessage { access, idempotency_key: random(&mut rng), message, context_hash, no_push: false };
        assert_eq!(self.call::<call::DsSendMessage>(membership, &request).await.unwrap().unreached, 0);
    }

    /// Takes in what is new; gives what others said.
    async fn hear(&self, membership: &mut Membership<C>) -> Vec<String> {
        let mut said = Vec::new();
        for FanOut { group, content } in self.dequeue().await {
            assert_eq!(group, membership.access.group);
            match content {
                FanOutContent::Application(message) => {
                    let message = MlsMessage::from_bytes(message.as_slice()).unwrap();
                    let received = membership.state.process_incoming_message(message).unwrap();
                    let ReceivedMessage::ApplicationMessage(received) = received else { panic!() };
                    let data = received.data().to_vec().into();
                    let message: ApplicationMessage = unpad_value(data, MESSAGE_FLOOR).unwrap();
                    let Content::Text(text) = message.content else { panic!() };
                    said.push(text.0);
                }
                FanOutContent::Commit(commit) => match membership.next.take() {
                    Some((own, next)) if own == commit => membership.state = next,
                    _ => {
                        let commit = MlsMessage::from_bytes(commit.as_slice()).unwrap();
                        let received = membership.state.process_incoming_message(commit).unwrap();
                        assert!(matches!(received, ReceivedMessage::Commit(_)));
                    }
                },
                other => panic!("{other:?}"),
            }
        }
        said
    }

    /// A commit that renews this member's path, and a GroupInfo with GREASE.
    async fn update(&self, membership: &mut Membership<C>) -> Result<u64, ClientError> {
        let aad = CommitAad { added: Vec::new(), own: None, friendship_package: None };
        let builder = membership.state.commit_builder().authenticated_data(aad.to_vec());
        let (output, secrets) = builder.build_detached().unwrap();
        let mut next = membership.state.clone();
        next.apply_detached_commit(secrets).unwrap();
        let grease = vec![extension(GREASE, vec![7; 100])].into();
        let info = next.group_info_message_allowing_ext_commit_with_extensions(false, grease).unwrap();
        let commit: Opaque = output.commit_message.to_bytes().unwrap().into();
        let bundle = CommitBundle {
            access: membership.access.clone(),
            idempotency_key: random(&mut system_rng()),
            commit: commit.clone(),
            group_info: group_info_update(&info),
        };
        membership.next = Some((commit, next));
        let request = UpdateClient { commit: bundle, queue_config: None };
        Ok(self.call::<call::DsUpdateClient>(membership, &request).await?.epoch)
    }
}

fn group_info_update(info: &MlsMessage) -> GroupInfoUpdate {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(&info.to_bytes().unwrap()).unwrap();
    let MlsMessageBodyIn::GroupInfo(info) = message.extract() else { panic!() };
    GroupInfoUpdate {
        extensions: info.extensions().tls_serialize_detached().unwrap().into(),
        signature: Signature::from_slice(&info.signature().tls_serialize_detached().unwrap()).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_another_mls_joins_talks_commits_and_lets_others_join() {
    let server = Homeserver::start().await;
    let (alice, bob, carol) =
        (server.register("Alice").await, server.register("Bob").await, server.register("Carol").await);
    befriend(&alice, &bob).await;
    befriend(&alice, &carol).await;
    // What befriending has left in the queue; then the SDK gets nothing more.
    carol.client.sync().await.unwrap();
    let other = other(&carol);
    other.publish(vec![extension(UNKNOWN, vec![1])], vec![extension(UNKNOWN, vec![2, 3])]).await.unwrap();

    let group = alice.client.create_group("Trip").await.unwrap();
    alice.client.invite(&group, &[bob.id(), carol.id()]).await.unwrap();
    bob.client.sync().await.unwrap();
    let mut membership = other.join().await;

    // Both ways, before its first commit and after it.
    other.say(&mut membership, "hello from elsewhere").await;
    for user in [&alice, &bob] {
        assert_eq!(user.hear().await, [said("Carol", "hello from elsewhere")]);
    }
    alice.say(&group, "hello").await;
    assert_eq!(other.hear(&mut membership).await, ["hello"]);
    assert_eq!(bob.hear().await, [said("Alice", "hello")]);

    let epoch = membership.state.current_epoch();
    assert_eq!(other.update(&mut membership).await.unwrap(), epoch + 1);
    for user in [&alice, &bob] {
        assert_eq!(user.hear().await, []);
    }
    bob.say(&group, "after your commit").await;
    assert_eq!(other.hear(&mut membership).await, ["after your commit"]);
    assert_eq!(membership.state.current_epoch(), epoch + 1);
    other.say(&mut membership, "after mine").await;
    assert_eq!(alice.hear().await, [said("Bob", "after your commit"), said("Carol", "after mine")]);
    assert_eq!(bob.hear().await, [said("Carol", "after mine")]);

    // The GroupInfo that it has signed, GREASE included, takes somebody back in; and others commit as they like.
    let of = group.clone();
    let lose = move |connection: &rusqlite::Connection| mls::delete(&mls::Provider::new(connection), &of);
    bob.client.0.database.run(lose).await.unwrap();
    bob.client.0.resync(&group, Reason::Missing).await.unwrap();
    bob.say(&group, "back again").await;
    alice.client.sync().await.unwrap();
    alice.client.rename(&group, "Journey").await.unwrap();
    alice.say(&group, "a new name").await;
    assert_eq!(other.hear(&mut membership).await, ["back again", "a new name"]);
    other.say(&mut membership, "fine").await;
    assert_eq!(bob.hear().await, [said("Alice", "a new name"), said("Carol", "fine")]);
    alice.no_problems().await;
}

/// The extensions of a new group's context, with these as the required ones.
fn context(ds: &[u8], admin: [u8; 32], required: &[u16]) -> ExtensionList {
    let required = RequiredCapabilitiesExt {
        extensions: required.iter().copied().map(ExtensionType::new).collect(),
        proposals: vec![ProposalType::new(SELF_REMOVE)],
        credentials: vec![CredentialType::BASIC, CredentialType::new(LEAF_CREDENTIAL)],
    };
    let ds = SigningIdentity::new(
        Credential::Basic(BasicCredential::new(b"Delivery Service".to_vec())),
        Public::from(ds.to_vec()),
    );
    let mut extensions = ExtensionList::new();
    extensions.set(extension(GROUP_DATA_EXTENSION, vec![7; 300]));
    extensions.set(extension(ROLES_EXTENSION, Roles { admins: vec![admin] }.to_vec()));
    extensions.set_from(ExternalSendersExt::new(vec![ds])).unwrap();
    extensions.set_from(required).unwrap();
    extensions
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_another_mls_makes_is_taken_if_it_requires_what_it_must_in_whatever_order() {
    let server = Homeserver::start().await;
    let carol = server.register("Carol").await;
    let other = other(&carol);
    let core = &carol.client.0;
    let ds = core.delivery_key(core.domain()).await.unwrap();
    let create = async |required: &[u16]| {
        let request = RequestGroupId {};
        let ticket = core
            .network
            .call::<call::DsRequestGroupId>(core.domain(), Isolation::Anonymous, network::Sender::Nobody, &request)
            .await
            .unwrap();
        let group = ticket.group.clone();
        let extensions = context(ds.as_slice(), other.leaf.identity, required);
        let leaf = vec![extension(UNKNOWN, vec![1])].into();
        let state = other.client.create_group_with_id(group.to_vec(), extensions, leaf, time()).unwrap();
        let grease = vec![extension(GREASE, vec![7; 100])].into();
        let info = state.group_info_message_allowing_ext_commit_with_extensions(false, grease).unwrap();
        let mut rng = system_rng();
        let access = GroupAccess { group, ear_key: random_secret(&mut rng) };
        let request = CreateGroup {
            ticket,
            ear_key: access.ear_key.clone(),
            connection: false,
            group_info: info.to_bytes().unwrap().into(),
            ratchet_tree: state.export_tree().to_bytes().unwrap().into(),
            member: MemberInfo { sealed_chain: vec![7; 600].into(), sealed_profile_key: vec![7; 76].into() },
            queue_config: packages::queue_config(&core.account(), &core.queuing_key().await.unwrap(), &mut rng)
                .unwrap(),
        };
        let mut membership = Membership { access, state, next: None };
        let created = other.call::<call::DsCreateGroup>(&membership, &request).await;
        if created.is_ok() {
            assert_eq!(other.update(&mut membership).await.unwrap(), 1);
            assert_eq!(other.hear(&mut membership).await, [""; 0]);
            assert_eq!(membership.state.current_epoch(), 1);
        }
        created.map_err(|error| match error {
            ClientError::Refused(refusal) => refusal.status,
            error => panic!("{error}"),
        })
    };
    assert!(create(&[GROUP_DATA_EXTENSION, ROLES_EXTENSION]).await.is_ok());
    assert!(create(&[ROLES_EXTENSION, GROUP_DATA_EXTENSION]).await.is_ok());
    assert_eq!(create(&[ROLES_EXTENSION]).await.err(), Some(Status::InvalidMlsMessage));
    assert_eq!(create(&[ROLES_EXTENSION, GROUP_DATA_EXTENSION, UNKNOWN]).await.err(), Some(Status::InvalidMlsMessage));
}

/// What `wire-spec/mls.md` says under "GREASE" of OpenMLS 0.9.2: if this fails, say it no more.
#[tokio::test(flavor = "multi_thread")]
async fn grease_extensions_in_key_packages_are_refused_as_long_as_openmls_refuses_them() {
    let server = Homeserver::start().await;
    let carol = server.register("Carol").await;
    let other = other(&carol);
    let grease = || vec![extension(GREASE, vec![1])];
    for (more, in_leaf) in [(grease(), Vec::new()), (Vec::new(), grease())] {
        let refused = other.publish(more, in_leaf).await;
        let Err(ClientError::Refused(refusal)) = refused else { panic!("{refused:?}") };
        assert_eq!(refusal.status, Status::InvalidMlsMessage);
    }
    other.publish(Vec::new(), Vec::new()).await.unwrap();
}
