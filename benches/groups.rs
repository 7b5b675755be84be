//! What a group costs its homeserver by its size, in microseconds from the whole request to the whole answer: a message, a commit
//! with an update path, adding one member, removing one, and what whoever comes back from outside is given. Each member has a
//! queue of its own; storage is the in-memory engine (`cargo bench --bench groups`).

use std::{sync::Arc, time::Instant};

use bennu::{
    base::{Clock as _, Day, Domain, Secret, SystemClock, limits::MAX_RESPONSE},
    crypto::{
        at_rest::StorageKey,
        hpke::{self, HpkePrivateKey},
        mls as protocol,
        proof::RequestContext,
        random, random_secret,
        signature::SigningKey,
        system_rng,
    },
    dispatch::{Dispatcher, Parts, Service, connection_limits},
    federation::Federation,
    node::system_entropy,
    service::{
        policy::{Policy, Tokens},
        queue::QueueLimits,
        work::Workers,
    },
    store::{MemoryEngine, Options, Store},
    transport::{Connection, Settings, memory::Host},
    wire::{
        Call, Decode, Encode, Request, Response, SenderId, VERSION,
        credential::{CIPHERSUITE, DayValidity, HpkeCiphertext, LeafCredential, Signature},
        delivery::{
            AddUsers, CommitAad, CommitBundle, CreateGroup, GetDeliveryKeys, GetExternalCommitInfo, GroupAccess,
            GroupInfoUpdate, Joiner, MemberInfo, RemoveUsers, RequestGroupId, Roles, SendMessage, UpdateClient,
        },
        envelope::LeafId,
        label::{HpkeLabel, SignatureLabel},
        method::call,
        padding::{MESSAGE_FLOOR, pad_value},
        queuing::{
            ClientQueueConfig, CreateQueuingUser, GetQueuingKeys, QueueConfig, QueueConfigContent, QueuingClient,
            QueuingHpkeKey,
        },
        registry::{GROUP_DATA_EXTENSION, QUEUE_CONFIG_EXTENSION, ROLES_EXTENSION},
    },
};
use openmls::prelude::{
    CommitMessageBundle, CredentialWithKey, Extension, Extensions, KeyPackage, LeafNodeIndex, Lifetime,
    MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, MlsGroup, OpenMlsProvider as _,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use tls_codec::Serialize as _;

/// Members of the groups that are measured.
const SIZES: [usize; 4] = [10, 100, 1_000, 5_000];

/// Members added in one commit while a group is built.
const AT_ONCE: usize = 1_000;

/// Requests of each kind, of which the median is shown.
const ROUNDS: usize = 9;

/// A group, and the member that changes it.
struct Group {
    connection: Connection,
    queuing_key: QueuingHpkeKey,
    provider: OpenMlsRustCrypto,
    key: SigningKey,
    access: GroupAccess,
    state: MlsGroup,
    today: Day,
}

/// The answer to a request, and how long it took.
async fn ask<C: Call>(
    connection: &Connection,
    sender: Option<(SenderId, &SigningKey)>,
    request: &C::Request,
) -> (C::Response, u128) {
    let (exchange, body) = (connection.open().await.unwrap(), request.to_vec());
    let (binding, stream) = (connection.binding(), exchange.id());
    let context = RequestContext { method: C::METHOD as u16, token: None, body: &body, binding, stream };
    let auth = sender.map(|(sender, key)| context.sign(sender, key)).into_iter().collect();
    let request = Request { version: VERSION, method: C::METHOD as u16, auth, token: None, body: body.into() };
    let (bytes, started) = (request.to_vec().into(), Instant::now());
    let response = exchange.request(bytes, MAX_RESPONSE).await.unwrap();
    let time = started.elapsed().as_micros();
    (C::Response::from_bytes(Response::from_bytes(response).unwrap().into_result().unwrap()).unwrap(), time)
}

fn domain() -> Domain {
    "bench.test".parse().unwrap()
}

/// A homeserver of which nothing is special but that it takes no tokens.
async fn homeserver() -> Host<Service> {
    let store = Store::open(MemoryEngine::new(), Options::new(|error| panic!("{error}"))).unwrap();
    let tokens = Tokens { required: false, ..Tokens::default() };
    let dispatcher = Dispatcher::start(Parts {
        domain: domain(),
        store,
        storage_key: StorageKey::new(Secret::new([7; 32])),
        incarnation: [1; 16],
        clock: Arc::new(SystemClock),
        entropy: system_entropy(),
        queue_limits: QueueLimits::default(),
        policy: Policy { tokens, ..Policy::default() },
        workers: Workers::for_this_machine(),
        connection_limits: connection_limits(&Settings::default()),
        federation: Federation::none(),
        outbox_limits: Default::default(),
        peer_settings: Default::default(),
    });
    Host::new(Arc::new(Service(dispatcher.await.unwrap())), Settings::default())
}

/// A leaf of somebody who is not looked at any closer.
fn leaf(key: &SigningKey, today: Day) -> (LeafCredential, CredentialWithKey) {
    let leaf = LeafCredential {
        identity: random(&mut system_rng()),
        validity: DayValidity { not_before: today.minus(1).0, not_after: today.plus(30).0 },
        ciphersuite: CIPHERSUITE,
        verifying_key: key.verifying_key(),
        sealed_signature: vec![7; 160].into(),
    };
    let with_key = CredentialWithKey {
        credential: protocol::credential(&leaf),
        signature_key: key.verifying_key().as_slice().into(),
    };
    (leaf, with_key)
}

fn lifetime(today: Day) -> Lifetime {
    Lifetime::init(today.minus(1).start().seconds(), today.plus(90).start().seconds())
}

fn info() -> MemberInfo {
    MemberInfo { sealed_chain: vec![7; 600].into(), sealed_profile_key: vec![7; 76].into() }
}

/// A queue of somebody, as a DS is told of it.
async fn queue(connection: &Connection, to: &QueuingHpkeKey) -> ClientQueueConfig {
    let mut rng = system_rng();
    let (key, queue_key) = (SigningKey::generate(&mut rng).unwrap(), HpkePrivateKey::generate(&mut rng).unwrap());
    let auth_key = key.verifying_key();
    let client = QueuingClient { auth_key: auth_key.clone(), queue_key: queue_key.public_key(), push_token: None };
    let create = CreateQueuingUser { auth_key, friendship_token: random_secret(&mut rng), client };
    let (created, _) = ask::<call::QsCreateUser>(connection, None, &create).await;
    let (blocklist_key, salt) = (random_secret(&mut rng), random(&mut rng));
    let content = QueueConfigContent { client: created.client, blocklist_key, push_token_key: None, salt };
    let signature = key.sign(SignatureLabel::QueueConfig, &content);
    let padded = pad_value(&QueueConfig { content, signature }, MESSAGE_FLOOR);
    let aad = domain().to_vec();
    let sealed = hpke::seal(&to.public_key, HpkeLabel::QueueConfig, &[], &aad, &padded, &mut rng).unwrap();
    let (kem_output, ciphertext) = (sealed.kem_output, sealed.ciphertext);
    ClientQueueConfig { domain: domain(), key_id: to.key_id, kem_output, ciphertext }
}

impl Group {
    async fn create(connection: Connection) -> Self {
        let mut rng = system_rng();
        let (provider, today) = (OpenMlsRustCrypto::default(), SystemClock.now().day());
        let (queuing, _) = ask::<call::QsGetKeys>(&connection, None, &GetQueuingKeys {}).await;
        let (delivery, _) = ask::<call::DsGetKeys>(&connection, None, &GetDeliveryKeys {}).await;
        let (ticket, _) = ask::<call::DsRequestGroupId>(&connection, None, &RequestGroupId {}).await;
        let key = SigningKey::generate(&mut rng).unwrap();
        let (credential, with_key) = leaf(&key, today);
        let roles = Roles { admins: vec![credential.identity] };
        let extensions = Extensions::from_vec(vec![
            Extension::RequiredCapabilities(protocol::required_capabilities()),
            Extension::ExternalSenders(vec![protocol::external_sender(&delivery.verifying_key)]),
            protocol::extension(ROLES_EXTENSION, roles.to_vec()),
            protocol::extension(GROUP_DATA_EXTENSION, vec![7; 284]),
        ]);
        let access = GroupAccess { group: ticket.group.clone(), ear_key: random_secret(&mut rng) };
        let state = MlsGroup::builder()
            .with_group_id(protocol::group_id(&access.group))
            .ciphersuite(protocol::CIPHERSUITE)
            .with_wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .use_ratchet_tree_extension(false)
            .lifetime(lifetime(today))
            .with_capabilities(protocol::capabilities())
            .with_group_context_extensions(extensions.unwrap())
            .build(&provider, &key, with_key)
            .unwrap();
        let group_info = state.export_group_info(provider.crypto(), &key, false).unwrap();
        let queuing_key = queuing.hpke_keys[0].clone();
        let request = CreateGroup {
            ticket,
            ear_key: access.ear_key.clone(),
            connection: false,
            group_info: group_info.to_bytes().unwrap().into(),
            ratchet_tree: state.export_ratchet_tree().tls_serialize_detached().unwrap().into(),
            member: info(),
            queue_config: queue(&connection, &queuing_key).await,
        };
        let group = Self { connection, queuing_key, provider, key, access, state, today };
        group.ask::<call::DsCreateGroup>(&request).await;
        group
    }

    async fn ask<C: Call>(&self, request: &C::Request) -> (C::Response, u128) {
        let sender = SenderId::DsLeaf(LeafId { group: self.access.group.clone(), leaf: 0 });
        ask::<C>(&self.connection, Some((sender, &self.key)), request).await
    }

    /// The KeyPackage of somebody new.
    async fn stranger(&self) -> KeyPackage {
        let (provider, key) = (OpenMlsRustCrypto::default(), SigningKey::generate(&mut system_rng()).unwrap());
        let config = queue(&self.connection, &self.queuing_key).await;
        KeyPackage::builder()
            .key_package_lifetime(lifetime(self.today))
            .key_package_extensions(
                Extensions::single(protocol::extension(QUEUE_CONFIG_EXTENSION, config.to_vec())).unwrap(),
            )
            .leaf_node_capabilities(protocol::capabilities())
            .build(protocol::CIPHERSUITE, &provider, &key, leaf(&key, self.today).1)
            .unwrap()
            .into_key_package()
    }

    fn commit(
        &mut self,
        adds: Vec<KeyPackage>,
        removes: Vec<u32>,
        update: bool,
    ) -> (CommitBundle, CommitMessageBundle) {
        let aad = CommitAad { added: adds.iter().map(|_| info()).collect(), own: None, friendship_package: None };
        self.state.set_aad(aad.to_vec());
        let bundle = self
            .state
            .commit_builder()
            .force_self_update(update)
            .propose_adds(adds)
            .propose_removals(removes.into_iter().map(LeafNodeIndex::new))
            .load_psks(self.provider.storage())
            .unwrap()
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(self.provider.rand(), self.provider.crypto(), &self.key, |_| true)
            .unwrap()
            .stage_commit(&self.provider)
            .unwrap();
        let group_info = bundle.group_info().unwrap();
        let signature = group_info.signature().tls_serialize_detached().unwrap();
        let commit = CommitBundle {
            access: self.access.clone(),
            idempotency_key: random(&mut system_rng()),
            commit: bundle.commit().to_bytes().unwrap().into(),
            group_info: GroupInfoUpdate {
                extensions: group_info.extensions().tls_serialize_detached().unwrap().into(),
                signature: Signature::from_slice(&signature).unwrap(),
            },
        };
        (commit, bundle)
    }

    fn merge(&mut self) {
        self.state.merge_pending_commit(&self.provider).unwrap();
    }

    async fn add(&mut self, count: usize) -> u128 {
        let mut adds = Vec::with_capacity(count);
        for _ in 0..count {
            adds.push(self.stranger().await);
        }
        let (commit, bundle) = self.commit(adds, Vec::new(), false);
        let ear_key = || HpkeCiphertext { kem_output: vec![7; 32].into(), ciphertext: vec![7; 48].into() };
        let request = AddUsers {
            commit,
            welcome: bundle.to_welcome_msg().unwrap().tls_serialize_detached().unwrap().into(),
            joiners: (0..count).map(|_| Joiner { attribution: vec![7; 500].into(), ear_key: ear_key() }).collect(),
        };
        let (accepted, time) = self.ask::<call::DsAddUsers>(&request).await;
        assert_eq!(accepted.unreached, 0);
        self.merge();
        time
    }

    async fn remove(&mut self) -> u128 {
        let last = self.state.members().map(|member| member.index.u32()).max().unwrap();
        let (commit, _) = self.commit(Vec::new(), vec![last], false);
        let (_, time) = self.ask::<call::DsRemoveUsers>(&RemoveUsers { commit }).await;
        self.merge();
        time
    }

    async fn update(&mut self) -> u128 {
        let (commit, _) = self.commit(Vec::new(), Vec::new(), true);
        let (_, time) = self.ask::<call::DsUpdateClient>(&UpdateClient { commit, queue_config: None }).await;
        self.merge();
        time
    }

    async fn message(&mut self) -> u128 {
        let message = self.state.create_message(&self.provider, &self.key, &[7; 256]).unwrap();
        let (access, idempotency_key) = (self.access.clone(), random(&mut system_rng()));
        let request =
            SendMessage { access, idempotency_key, message: message.to_bytes().unwrap().into(), no_push: false };
        let (sent, time) = self.ask::<call::DsSendMessage>(&request).await;
        assert_eq!(sent.unreached, 0);
        time
    }

    async fn info(&self) -> u128 {
        let access = self.access.clone();
        self.ask::<call::DsExternalCommitInfo>(&GetExternalCommitInfo { access }).await.1
    }
}

fn median(mut times: Vec<u128>) -> u128 {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::main]
async fn main() {
    println!("members   message    update       add    remove      info   (us, medians of {ROUNDS})");
    for size in SIZES {
        let host = homeserver().await;
        let mut group = Group::create(host.connect()).await;
        while group.state.members().count() < size {
            let missing = size - group.state.members().count();
            group.add(missing.min(AT_ONCE)).await;
        }
        // The first update path is the only one to everybody on their own.
        group.update().await;
        let mut times: [Vec<u128>; 5] = Default::default();
        for _ in 0..ROUNDS {
            times[0].push(group.message().await);
            times[1].push(group.update().await);
            times[2].push(group.add(1).await);
            times[3].push(group.remove().await);
            times[4].push(group.info().await);
        }
        let [message, update, add, remove, info] = times.map(median);
        println!("{size:>7} {message:>9} {update:>9} {add:>9} {remove:>9} {info:>9}");
    }
}
